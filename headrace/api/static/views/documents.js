// Documents: put them by drag and drop, see how far they are, who may read them, and delete them.

import { call, documentPath, get, Refusal, withParameters } from "../lib/api.js";
import { badge, command, confirmed, empty, facts, fault, fill, icon, loading, make, marked, quiet } from "../lib/dom.js";
import { ago, bytes, count, exactly, several, span } from "../lib/format.js";
import { latest } from "../lib/latest.js";
import { note } from "../lib/route.js";
import { table } from "../lib/table.js";
import { chooseTenant, onTenant, tenant } from "../lib/tenant.js";
import { openDocument } from "./reader.js";

export const title = "Documents";

const PAGE = 100;
const LOOK_MS = 2000;
const STATES = {
  put: ["stored", "active", "It is stored and announced; it is parsed next."],
  parsed: ["parsed", "active", "Its text is in a table; it is embedded next."],
  indexed: ["indexed", "good", "Questions find it."],
  failed: ["failed", "warn", "It could not be read."],
  deleting: ["deleting", "", "Its sources are deleted; the index follows within seconds."],
};

export function open(section) {
  const asked = latest();
  let rows = [];
  let more = false;
  let status = "";
  let looking = null;
  let visible = false;

  const stored = quiet();
  const picked = make("input", { type: "file", multiple: true, id: "files", class: "unseen", onchange: () => upload(named([...picked.files])) });
  const readers = make("input", { id: "readers", autocomplete: "off", spellcheck: false, placeholder: "everybody of the tenant" });
  const attributes = make("input", { id: "attributes", autocomplete: "off", spellcheck: false, placeholder: "team=hydro, site=north" });
  const under = make("ul", { class: "uploads", "aria-label": "Uploads", role: "status" });
  const drop = make(
    "div", { class: "card drop" },
    make("label", { for: "files", class: "drop-target" }, icon("upload"), make("strong", {}, "Drop files or folders here"), make("span", {}, "or choose files: Markdown, text, HTML, PDF, Word, slides, sheets, CSV, source code")),
    make("div", { class: "row" }, make("label", { for: "readers", class: "inline" }, "Who may read them", readers), make("label", { for: "attributes", class: "inline" }, "Attributes", attributes)), picked, under,
  );
  const filter = make("select", { id: "status", onchange: () => choose(filter.value) }, [["", "all"], ...Object.entries(STATES).map(([name, [label]]) => [name, label])].map(([value, label]) => make("option", { value }, label)));
  const list = table("Documents", [
    { name: "uri", title: "Name", wide: true, cell: (one) => make("button", { type: "button", class: "link", onclick: () => look(one) }, make("strong", {}, one.uri), make("span", { class: "excerpt" }, [one.title !== one.uri && one.title, ...(one.attributes ?? [])].filter(Boolean).join(" · "))) },
    { name: "status", title: "Status", wide: true, cell: (one) => [badge(...STATES[one.status]?.slice(0, 2) ?? [one.status]), one.reason ? make("span", { class: "reason" }, one.reason) : null] },
    { name: "readers", title: "Readers", wide: true, class: () => "narrow", cell: (one) => (one.readers.length ? one.readers.join(", ") : make("span", { class: "quiet" }, "everybody")) },
    { name: "bytes", title: "Size", number: true, cell: (one) => bytes(one.bytes) },
    { name: "at", title: "Put", cell: (one) => make("time", { dateTime: one.at, title: exactly(one.at) }, ago(one.at)) },
    { name: "delete", title: "", cell: (one) => make("button", { type: "button", class: "plain", disabled: one.status === "deleting", "aria-label": `Delete ${one.uri}`, onclick: () => remove(one) }, "Delete") },
  ]);
  const sources = table("Followed sources", [
    { name: "place", title: "Source", wide: true, cell: (one) => make("strong", {}, one.place) },
    { name: "tenant", title: "Tenant", cell: (one) => one.tenant },
    { name: "documents", title: "Documents", number: true, titled: true, cell: (one) => (one.documents < 0 ? "–" : count(one.documents)) },
    { name: "state", title: "Index", wide: true, cell: (one) => [badge(...inStep(one)), one.trouble ? make("span", { class: "reason" }, marked(one.trouble)) : null] },
  ]);
  const followed = make("section", { class: "card", "aria-label": "Followed sources", hidden: true }, make("h2", {}, "Followed sources"), sources.element);
  const next = make("button", { type: "button", hidden: true, onclick: () => load(true) }, "Show more");
  const state = make("div", {}, loading("Loading documents"));
  const content = make("div", { class: "stack", hidden: true }, list.element, make("div", { class: "row" }, next));
  fill(
    section,
    make("div", { class: "view-head" }, make("div", {}, make("h1", {}, "Documents"), stored), make("label", { class: "inline", for: "status" }, "Status", filter)),
    drop, followed, make("section", { class: "card list", "aria-label": "Documents" }, state, content),
  );

  for (const kind of ["dragenter", "dragover"]) {
    drop.addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.add("over");
    });
  }
  drop.addEventListener("dragleave", (event) => drop.contains(event.relatedTarget) || drop.classList.remove("over"));
  drop.addEventListener("drop", async (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    upload(await dropped(event.dataTransfer));
  });
  onTenant(() => visible && load());

  async function load(onward = false) {
    clearTimeout(looking);
    const whose = tenant();
    const wanted = asked();
    try {
      const limit = onward ? PAGE : Math.min(1000, Math.max(PAGE, rows.length));
      const found = await get("/v1/documents", { tenant: whose, status, limit, after: onward ? rows.at(-1)?.uri : "" });
      if (!wanted()) return;
      rows = onward ? [...rows, ...found.data] : found.data;
      more = found.has_more;
      stored.textContent = `Tenant ${whose} has ${several(found.stored.documents, "document")}; ${bytes(found.stored.bytes)} are stored.`;
      draw();
    } catch (error) {
      if (!wanted()) return;
      content.hidden = true;
      fill(state, fault(error, () => load()));
    }
    const behind = await follow();
    if (!wanted()) return;
    if (visible && (behind || rows.some((one) => ["put", "parsed", "deleting"].includes(one.status)))) looking = setTimeout(() => load(), LOOK_MS);
  }

  // The sources that the service follows, for its operator alone; whether the index is behind one.
  async function follow() {
    try {
      const { data } = await get("/v1/sources");
      followed.hidden = !data.length;
      sources.show(data);
      return data.some((one) => one.behind_s || one.documents < 0);
    } catch {
      followed.hidden = true;
      return false;
    }
  }

  function draw() {
    content.hidden = !rows.length;
    next.hidden = !more;
    list.show(rows);
    if (rows.length) fill(state);
    else if (status) fill(state, empty(`No document is ${STATES[status][0]}`));
    else fill(state, empty("No documents yet", make("p", {}, "Drop some files above, or index a folder:"), command("headrace index PATH")));
  }

  function choose(name) {
    status = name;
    filter.value = name;
    rows = [];
    note("documents", { status });
    load();
  }

  async function upload(files) {
    picked.value = "";
    const whose = tenant();
    const listed = (field) => field.value.split(",").map((one) => one.trim()).filter(Boolean);
    for (const file of files) {
      const line = make("li", {}, make("span", { class: "name" }, file.path), " ", badge("uploading", "active"));
      under.prepend(line);
      const said = (text, kind, reason = "") => fill(line, make("span", { class: "name" }, file.path), " ", badge(text, kind), reason ? make("span", { class: "reason" }, marked(reason)) : null);
      try {
        const response = await call(withParameters(documentPath(file.path), { tenant: whose, reader: listed(readers), attribute: listed(attributes) }), { method: "PUT", body: file.content });
        const put = await response.json();
        if (response.status === 200) said("unchanged", "", "The same content is there already.");
        else {
          said("stored", "good");
          setTimeout(() => line.remove(), 15000);
        }
        merge(put);
      } catch (error) {
        said("not stored", "warn", error instanceof Refusal ? error.message : String(error));
      }
    }
    load();
  }

  function merge(put) {
    rows = [put, ...rows.filter((one) => one.uri !== put.uri)].sort((one, other) => (one.uri < other.uri ? -1 : 1));
    draw();
  }

  function look(one) {
    const [label, kind, sentence] = STATES[one.status] ?? [one.status, "", ""];
    const beneath = [
      make("div", { class: "row" }, badge(label, kind), quiet(one.reason || sentence)),
      facts([["Readers", one.readers.length ? one.readers.join(", ") : "everybody of the tenant"], ["Size", bytes(one.bytes)], ["Attributes", one.attributes?.length ? one.attributes.join(", ") : "none"], ["Put", exactly(one.at)], ["Id", one.document_id]]),
    ];
    note("documents", { status, uri: one.uri, tenant: tenant() });
    openDocument(one.uri, { tenant: tenant(), beneath, closed: () => note("documents", { status }) });
  }

  function remove(one) {
    const words = make("p", {}, "The sources of all versions of ", make("strong", {}, one.uri), " are deleted, and no question finds it any more. This cannot be undone.");
    confirmed("Delete this document?", words, "Delete", async () => {
      await call(withParameters(documentPath(one.uri), { tenant: tenant() }), { method: "DELETE" });
      load();
    }, { danger: true });
  }

  return {
    async show(parameters) {
      visible = true;
      chooseTenant(parameters.tenant);
      status = STATES[parameters.status] ? parameters.status : "";
      filter.value = status;
      load();
      if (!parameters.uri) return;
      try {
        const found = await get(documentPath(parameters.uri), { tenant: tenant() });
        if (parameters.chunk) openDocument(found.uri, { tenant: tenant(), chunkId: parameters.chunk });
        else look(found);
      } catch (error) {
        fill(state, fault(error));
      }
    },
    hide() {
      visible = false;
      clearTimeout(looking);
    },
  };
}

function inStep(source) {
  if (source.trouble) return [source.behind_s ? `held up, ${span(source.behind_s)} behind` : "held back", "warn"];
  return source.behind_s ? [`${span(source.behind_s)} behind`, "active"] : source.documents < 0 ? ["being listed", "active"] : ["in step", "good"];
}

// The files that were dropped, with their paths within dropped folders.
async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return named([...transfer.files]);
  return (await Promise.all(entries.map((entry) => within(entry, "")))).flat();
}

async function within(entry, folder) {
  const path = `${folder}${entry.name}`;
  if (entry.name.startsWith(".")) return [];
  if (entry.isFile) return [{ path, content: await new Promise((done, failed) => entry.file(done, failed)) }];
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    const some = await new Promise((done, failed) => reader.readEntries(done, failed));
    if (!some.length) break;
    found.push(...some);
  }
  return (await Promise.all(found.map((one) => within(one, `${path}/`)))).flat();
}

const named = (files) => files.map((file) => ({ path: file.webkitRelativePath || file.name, content: file }));
