// Runs the page's scripts in Node, without a browser: what they ask for and with which headers, as JSON.
import { readFileSync } from "node:fs";
import path from "node:path";
import vm from "node:vm";

const [script, token] = process.argv.slice(2);

// A file's module with all it imports, each once for a tab.
async function load(context, file) {
  const loaded = new Map();
  const one = (file) => {
    if (!loaded.has(file)) loaded.set(file, new vm.SourceTextModule(readFileSync(file, "utf8"), { context, identifier: file }));
    return loaded.get(file);
  };
  const module = one(file);
  await module.link((name, from) => one(path.resolve(path.dirname(from.identifier), name)));
  return module;
}

// An element, a list of them, or whatever else of a browser the script touches and this is not about.
const anything = () => {
  const held = new Map();
  return new Proxy(function () {}, {
    get: (_, name) => {
      if (name === Symbol.iterator) return [][Symbol.iterator].bind([]);
      if (name === Symbol.toPrimitive) return () => "";
      if (name === "then") return undefined;
      if (name === "value" && !held.has(name)) return "";
      if (!held.has(name)) held.set(name, anything());
      return held.get(name);
    },
    set: (_, name, value) => (held.set(name, value), true),
    apply: () => anything(),
    construct: () => anything(),
  });
};

// A tab at an address, with what it keeps; `kept` of null is a browser that keeps nothing.
class Tab {
  constructor(hash, kept) {
    this.asked = [];
    this.heard = {};
    const tab = this;
    this.location = { hash, pathname: "/" };
    const media = () => ({ matches: false });
    this.address = `/${hash}`;
    this.kept = kept;
    const world = {
      document: anything(), navigator: anything(), DOMParser: anything(), URL, Blob, URLSearchParams, AbortController, TextDecoderStream,
      performance, console, location: this.location, matchMedia: media, Intl, clearTimeout: () => {}, clearInterval: () => {},
      setInterval: () => 0, setTimeout: () => 0,
      history: { replaceState: (_, __, path) => ((tab.address = path), (tab.location.hash = "")) },
      sessionStorage: {
        getItem: (name) => { if (kept === null) throw new Error("blocked"); return kept[name] ?? null; },
        setItem: (name, value) => { if (kept === null) throw new Error("blocked"); kept[name] = value; },
      },
      fetch: async (path, { headers }) => {
        tab.asked.push([path, headers]);
        throw new TypeError("no server here");
      },
    };
    world.window = { addEventListener: (name, work) => (tab.heard[name] = work), removeEventListener: () => {} };
    world.globalThis = world;
    this.started = load(vm.createContext(world), script).then((module) => module.evaluate());
  }

  async told() {
    await this.started;
    await new Promise((done) => setTimeout(done, 50));
    const asked = Object.values(Object.fromEntries(this.asked.map((one) => [JSON.stringify(one), one])));
    asked.sort((one, other) => one[0].localeCompare(other[0]));
    return { address: this.address, kept: { ...this.kept }, asked };
  }
}

const kept = {};
const opened = new Tab(`#token=${token}`, kept);
const told = { opened: await opened.told(), reloaded: await new Tab("", kept).told() };
await opened.started;
opened.asked = [];
opened.location.hash = "#token=another";
opened.heard.hashchange();
told.changed = await opened.told();
told.elsewhere = await new Tab("", {}).told();
told.blocked = await new Tab(`#token=${token}`, null).told();
console.log(JSON.stringify(told));
process.exit(0);
