// Storage: the ledger of a run as a table, its bytes by tier, what the KV cache did, the last check, and the sizing of a platform.

import { get } from "../lib/api.js";
import { badge, card, empty, fault, fill, loading, make, quiet } from "../lib/dom.js";
import { bytes, count, milliseconds, percent, span, TIERS, when } from "../lib/format.js";
import { latest } from "../lib/latest.js";
import { listen } from "../lib/live.js";
import { note } from "../lib/route.js";
import { table } from "../lib/table.js";
import { showCheck } from "./check.js";
import { sizing } from "./sizing.js";

export const title = "Storage";

const KV = "kv-cache";
const LIVE_MS = 2000;

export function open(section) {
  const asked = latest();
  let ledger = null;
  let chosen = { run: "", tier: "", direction: "", text: "", sort: "bytes", down: true, size: "" };
  let timer = null;

  const runs = make("select", { id: "run", onchange: () => choose({ run: runs.value }) });
  const about = quiet();
  const tiers = make("div", { class: "tier-cards", role: "group", "aria-label": "Bytes by tier; choose one to filter" });
  const text = make("input", { id: "ledger-text", type: "search", autocomplete: "off", spellcheck: false, placeholder: "stage, store or tenant", oninput: () => choose({ text: text.value }) });
  const direction = make("select", { id: "ledger-direction", onchange: () => choose({ direction: direction.value }) }, [["", "reads and writes"], ["read", "reads"], ["write", "writes"]].map(([value, label]) => make("option", { value }, label)));
  const sums = make("p", { class: "quiet", role: "status" });
  const state = make("div", {}, loading("Loading the ledger"));
  const kv = make("div", { class: "stack" });
  const check = make("div", { class: "stack" });
  const sized = sizing((size) => choose({ size }));
  const columns = [
    { name: "stage", title: "Stage", value: (one) => one.stage, cell: (one) => one.stage },
    { name: "store", title: "Store", value: (one) => one.store, cell: (one) => one.store },
    { name: "tier", title: "Tier", value: (one) => one.tier, cell: (one) => make("span", { class: `tier ${one.tier}` }, one.tier) },
    { name: "direction", title: "Direction", value: (one) => one.direction, cell: (one) => make("span", { class: one.direction }, one.direction) },
    { name: "tenant", title: "Tenant", value: (one) => one.tenant, cell: (one) => one.tenant || "–" },
    { name: "bytes", title: "Bytes", number: true, value: (one) => one.bytes, cell: (one) => `${one.estimated ? "≈ " : ""}${bytes(one.bytes)}` },
    { name: "ops", title: "Operations", number: true, value: (one) => one.ops, cell: (one) => count(one.ops) },
    { name: "p50", title: "p50", number: true, value: (one) => one.p50_ms, cell: (one) => milliseconds(one.p50_ms) },
    { name: "p95", title: "p95", number: true, value: (one) => one.p95_ms, cell: (one) => milliseconds(one.p95_ms) },
    { name: "max", title: "Max", number: true, value: (one) => one.max_ms, cell: (one) => milliseconds(one.max_ms) },
  ];
  let list = null;
  const holder = make("div");
  fill(
    section,
    make("div", { class: "view-head" }, make("div", {}, make("h1", {}, "Storage"), about), make("label", { class: "inline", for: "run" }, "Run", runs)),
    tiers,
    card("Ledger", make("div", { class: "row" }, make("label", { class: "inline", for: "ledger-text" }, "Find", text), make("label", { class: "inline", for: "ledger-direction" }, "Show", direction)), state, holder, sums),
    card("KV cache", kv),
    card("Check", check),
    sized.element,
  );

  listen("totals", () => {
    if (section.hidden || chosen.run || timer) return;
    timer = setTimeout(() => {
      timer = null;
      if (!section.hidden && !chosen.run && !document.hidden) load();
    }, LIVE_MS);
  });

  async function load() {
    const run = chosen.run;
    const wanted = asked();
    try {
      const found = await get("/v1/ledger", { run });
      if (!wanted()) return;
      ledger = found;
      draw();
    } catch (error) {
      if (!wanted()) return;
      ledger = list = null;
      about.textContent = sums.textContent = "";
      fill(holder);
      fill(tiers);
      fill(kv);
      fill(state, fault(error, load));
    }
  }

  async function loadRuns() {
    try {
      const found = (await get("/v1/runs", { limit: 200 })).runs;
      fill(runs, make("option", { value: "" }, "this one, live"), found.map((one) => make("option", { value: one.run }, `${one.command}, ${when(one.started)}${one.seconds === null ? "" : `, ${span(one.seconds)}`} · ${bytes(one.bytes)}`)));
      if (chosen.run && !found.some((one) => one.run === chosen.run)) runs.append(make("option", { value: chosen.run }, chosen.run));
      runs.value = chosen.run;
    } catch {
      // the ledger says what is wrong
    }
  }

  function choose(changes) {
    const before = chosen.run;
    chosen = { ...chosen, ...changes };
    note("storage", Object.fromEntries(Object.entries({ ...chosen, down: chosen.down ? "1" : "" }).filter(([name, value]) => value && !(name === "sort" && value === "bytes") && name !== "down")));
    if (chosen.run === before) draw();
    else {
      fill(state, loading("Loading the ledger"));
      load();
    }
  }

  function draw() {
    if (!ledger) return;
    const { run, state: how, started, ended, command } = ledger;
    about.textContent = `headrace ${command} · ${run} · ${how}, ${ended ? `took ${span((new Date(ended) - new Date(started)) / 1000)}` : `since ${when(started)}`}`;
    fill(tiers, tierCards(ledger.rows, chosen.tier, (tier) => choose({ tier })));
    const words = chosen.text.toLowerCase().split(/\s+/).filter(Boolean);
    const rows = ledger.rows.filter((one) => (!chosen.tier || one.tier === chosen.tier) && (!chosen.direction || one.direction === chosen.direction)
      && words.every((word) => `${one.stage} ${one.store} ${one.tenant}`.toLowerCase().includes(word)));
    const read = rows.filter((one) => one.direction === "read").reduce((sum, one) => sum + one.bytes, 0);
    const written = rows.filter((one) => one.direction === "write").reduce((sum, one) => sum + one.bytes, 0);
    sums.textContent = rows.length ? `${count(rows.length)} of ${count(ledger.rows.length)} rows: ${bytes(read)} read, ${bytes(written)} written. ≈ is estimated where a library hides its I/O; p95 is of one operation.` : "";
    if (!list) {
      list = table("Ledger", columns, { sort: chosen.sort, down: chosen.down, stacks: false, most: 20, onsort: (sort, down) => choose({ sort, down }) });
      fill(holder, list.element);
    }
    list.show(rows);
    holder.hidden = !rows.length;
    fill(state, rows.length ? null : ledger.rows.length ? empty("No row matches", make("button", { type: "button", onclick: clear }, "Show all rows")) : empty("This run has moved nothing yet"));
    fill(kv, kvOf(ledger.rows));
  }

  function clear() {
    text.value = direction.value = "";
    choose({ text: "", direction: "", tier: "" });
  }

  return {
    show(parameters) {
      const { run = "", tier = "", direction: way = "", text: words = "", sort, size = "" } = parameters;
      const other = run !== chosen.run;
      chosen = { ...chosen, run, tier: TIERS[tier] ? tier : "", direction: ["read", "write"].includes(way) ? way : "", text: words, sort: sort ?? chosen.sort, size };
      text.value = chosen.text;
      direction.value = chosen.direction;
      if (other) ledger = null;
      loadRuns();
      load();
      showCheck(check);
      sized.show(size);
    },
    hide() {
      clearTimeout(timer);
      timer = null;
    },
  };
}

function tierCards(rows, chosen, choose) {
  const whole = Math.max(1, ...Object.keys(TIERS).map((tier) => rows.filter((one) => one.tier === tier).reduce((sum, one) => sum + one.bytes, 0)));
  return Object.entries(TIERS).map(([tier, name]) => {
    const of = rows.filter((one) => one.tier === tier);
    const sum = (direction) => of.filter((one) => one.direction === direction).reduce((total, one) => total + one.bytes, 0);
    const share = make("i", { class: "share" });
    share.style.width = `${(100 * (sum("read") + sum("write"))) / whole}%`;
    const about = of.some((one) => one.estimated) ? "≈ " : "";
    return make(
      "button", { type: "button", class: `tier-card ${tier}`, "aria-pressed": String(chosen === tier), onclick: () => choose(chosen === tier ? "" : tier) },
      make("span", { class: "tier" }, name), make("span", {}, make("b", {}, `${about}${bytes(sum("read"))}`), make("small", {}, " read")),
      make("span", {}, make("b", {}, `${about}${bytes(sum("write"))}`), make("small", {}, " written")), make("small", {}, `${count(of.reduce((total, one) => total + one.ops, 0))} operations`), share,
    );
  });
}

function kvOf(rows) {
  const of = rows.filter((one) => one.store === KV);
  const read = of.filter((one) => one.direction === "read");
  const written = of.filter((one) => one.direction === "write");
  const bytesOf = (some) => some.reduce((sum, one) => sum + one.bytes, 0);
  if (!of.length) return quiet("No question of this run used the KV cache: the packaged answers quote their passages and read nothing with a generator.");
  const tenants = [...new Set(of.map((one) => one.tenant))];
  const list = table("KV cache by tenant", [
    { name: "tenant", title: "Tenant", value: (one) => one.tenant, cell: (one) => one.tenant || "–" },
    { name: "read", title: "Read", number: true, value: (one) => one.read, cell: (one) => bytes(one.read) },
    { name: "written", title: "Written", number: true, value: (one) => one.written, cell: (one) => bytes(one.written) },
    { name: "again", title: "Read again", number: true, value: (one) => one.read / (one.written || 1), cell: (one) => (one.written ? `${(one.read / one.written).toFixed(1)} ×` : "–") },
    { name: "share", title: "Share of all reads", number: true, value: (one) => one.read, cell: (one) => percent(bytesOf(read) ? one.read / bytesOf(read) : 0) },
  ], { sort: "read", down: true });
  list.show(tenants.map((tenant) => ({ tenant, read: bytesOf(read.filter((one) => one.tenant === tenant)), written: bytesOf(written.filter((one) => one.tenant === tenant)) })));
  return [
    make("p", {}, badge(bytesOf(read) ? "in use" : "filling", bytesOf(read) ? "good" : "active"), ` ${bytes(bytesOf(read))} of keys and values were read from files instead of being computed again; ${bytes(bytesOf(written))} were written.`),
    list.element,
  ];
}
