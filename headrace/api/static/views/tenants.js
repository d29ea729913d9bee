// Tenants: customers with their quotas and keys, and the audit of what was done.

import { get, send } from "../lib/api.js";
import { badge, card, command, confirmed, dialog, empty, facts, fault, fill, loading, make, quiet } from "../lib/dom.js";
import { ago, bytes, capital, count, exactly, when, words } from "../lib/format.js";
import { latest } from "../lib/latest.js";
import { note } from "../lib/route.js";
import { table } from "../lib/table.js";
import { openTenants } from "../lib/tenant.js";

export const title = "Tenants";

const SCOPES = {
  read: "ask, search, judge, see documents", write: "put and delete documents", users: "name the user who asks or judges",
  simulate: "ask and judge as simulated users", "tenant-admin": "everything of this tenant", admin: "everything, of every tenant",
};
const LINES = 50;
const QUOTAS = {
  requests_per_minute: "Requests a minute", questions: "Questions at once", documents: "Documents", stored_bytes: "Stored bytes",
  versions: "Versions of a document",
  kv_cache_bytes: "KV cache, bytes", put_bytes_per_day: "Bytes put a day", keys: "Keys", retention_days: "Days kept",
};
const quota = (name, value) => (name.includes("bytes") ? bytes(value) : count(value));

export function open(section) {
  let keys = [];
  const listed = latest();
  const read = latest();

  const list = table("Tenants", [
    { name: "tenant", title: "Tenant", value: (one) => one.tenant, cell: (one) => make("button", { type: "button", class: "link", onclick: () => openTenant(one) }, make("strong", {}, one.tenant)) },
    { name: "keys", title: "Keys in use", number: true, value: (one) => live(one).length, cell: (one) => count(live(one).length) },
    { name: "documents", title: "Documents, at most", number: true, value: (one) => one.limits.documents, cell: (one) => count(one.limits.documents) },
    { name: "stored", title: "Stored, at most", number: true, value: (one) => one.limits.stored_bytes, cell: (one) => bytes(one.limits.stored_bytes) },
    { name: "requests", title: "Requests a minute", number: true, value: (one) => one.limits.requests_per_minute, cell: (one) => count(one.limits.requests_per_minute) },
    { name: "training", title: "Training", value: (one) => one.training, cell: (one) => badge(one.training === "shared" ? "shared models learn" : "not learned from", one.training === "shared" ? "active" : "") },
    { name: "created", title: "Since", value: (one) => one.created_at, cell: (one) => make("time", { dateTime: one.created_at, title: exactly(one.created_at) }, when(one.created_at)) },
  ], { sort: "tenant" });
  const state = make("div", {}, loading("Loading tenants"));
  const audit = make("div", { class: "stack" }, loading("Loading the audit"));
  const whose = make("select", { id: "audit-tenant", onchange: () => loadAudit() }, make("option", { value: "" }, "everybody"));
  const reads = make("input", { id: "audit-reads", type: "checkbox", onchange: () => loadAudit() });
  fill(
    section,
    make("div", { class: "view-head" }, make("div", {}, make("h1", {}, "Tenants"), make("p", {}, "Customers of this service. Each sees its own documents and answers only, within its quotas.")), make("button", { type: "button", class: "main", onclick: addTenant }, "Add a tenant")),
    card("Tenants and their quotas", state, list.element),
    card("Audit", make("div", { class: "row" }, make("label", { class: "inline", for: "audit-tenant" }, "Of", whose), make("label", { class: "inline", for: "audit-reads" }, reads, "Also reads, such as this page's own")), audit),
  );
  const live = (one) => keys.filter((key) => key.tenant === one.tenant && !key.revoked_at);

  async function load() {
    const wanted = listed();
    try {
      const [tenants, found] = await Promise.all([get("/v1/tenants"), get("/v1/keys")]);
      if (!wanted()) return tenants.data;
      keys = found.data;
      list.element.hidden = !tenants.data.length;
      fill(state, tenants.data.length ? null : empty("No tenant yet", make("p", {}, "Commands use the tenant of the settings. A tenant with keys of its own is added here, or by"), command("headrace tenant add NAME")));
      list.show(tenants.data);
      const before = whose.value;
      fill(whose, [["", "everybody"], ...tenants.data.map((one) => [one.tenant, one.tenant])].map(([value, label]) => make("option", { value }, label)));
      whose.value = before;
      return tenants.data;
    } catch (error) {
      if (!wanted()) return [];
      list.element.hidden = true;
      fill(state, fault(error, load));
      return [];
    }
  }

  async function loadAudit(before) {
    const wanted = read();
    try {
      const found = (await get("/v1/audit", { tenant: whose.value, before, reads: reads.checked, limit: LINES })).data;
      if (!wanted()) return null;
      if (!found.length && !before) return fill(audit, empty("Nothing yet", make("p", {}, "Each question, change and refused request to the API and this page is a line here a few seconds later; with the box ticked, each read is, too. Of commands, those that change tenants and keys or forget something are.")));
      const lines = table("Audit, newest first", [
        { name: "at", title: "When", cell: (one) => make("time", { dateTime: one.at, title: exactly(one.at) }, ago(one.at)) },
        { name: "tenant", title: "Tenant", cell: (one) => one.tenant || "–" },
        { name: "key", title: "By", cell: (one) => make("code", {}, one.key_id || "–") },
        { name: "action", title: "Action", cell: (one) => one.action },
        { name: "resource", title: "Resource", wide: true, cell: (one) => one.resource },
        { name: "outcome", title: "Outcome", cell: (one) => badge(one.outcome, one.outcome === "done" ? "good" : "warn") },
        { name: "address", title: "Address", cell: (one) => one.address || "–" },
      ]);
      lines.show(found);
      return fill(audit, lines.element, make("div", { class: "row" },
        make("button", { type: "button", onclick: () => loadAudit() }, "Newest"),
        make("button", { type: "button", disabled: found.length < LINES, onclick: () => loadAudit(found.at(-1).at) }, "Earlier")));
    } catch (error) {
      return wanted() ? fill(audit, fault(error, () => loadAudit(before))) : null;
    }
  }

  function addTenant() {
    const name = make("input", { id: "tenant-name", required: true, pattern: "[a-z0-9][a-z0-9\\-]{0,62}", maxLength: 63, autocomplete: "off", title: "Lower-case letters, digits and dashes" });
    const shared = make("input", { type: "checkbox", id: "tenant-shared" });
    confirmed("Add a tenant", quiet("It starts with the default quotas and without a key."), "Add", async () => {
      await send("POST", "/v1/tenants", { name: name.value, training: shared.checked ? "shared" : "none" });
      await load();
      openTenants().catch(() => {});
    }, { fields: [make("label", { for: name.id }, "Name", name), make("label", { class: "inline", for: shared.id }, shared, "Models that all tenants share may learn from its verdicts")] });
  }

  async function openTenant(one) {
    note("tenants", { tenant: one.tenant });
    const body = make("div", { class: "stack" });
    dialog(`Tenant ${one.tenant}`, body, { kind: "side", closed: () => note("tenants") });
    const usage = make("div", {}, loading());
    const show = async () => {
      const found = (await load()).find((other) => other.tenant === one.tenant);
      if (found) fill(body, usage, quotas(found, show), training(found, show), keysOf(found, show));
    };
    fill(body, usage, quotas(one, show), training(one, show), keysOf(one, show));
    try {
      const [documents, index] = await Promise.all([get("/v1/documents", { tenant: one.tenant, limit: 1 }), get("/v1/index", { tenant: one.tenant })]);
      fill(usage, facts([["Documents", count(documents.stored.documents)], ["Stored", bytes(documents.stored.bytes)], ["Passages indexed", count(index.passages)]]));
    } catch (error) {
      fill(usage, fault(error));
    }
  }

  function quotas(one, show) {
    const fields = Object.entries(one.limits).map(([name, value]) => {
      const input = make("input", { id: `quota-${name}`, type: "number", min: 0, step: 1, value: one.quotas[name] ?? "", placeholder: String(value) });
      return { name, input, label: make("label", { for: input.id }, `${QUOTAS[name] ?? capital(words(name))} (now ${quota(name, value)})`, input) };
    });
    const said = make("div", { role: "status" });
    const form = make("form", { class: "stack" }, make("div", { class: "fields" }, fields.map(({ label }) => label)), make("div", { class: "row" }, make("button", { class: "main" }, "Save quotas"), quiet("Empty: the default of the settings.")), said);
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const given = Object.fromEntries(fields.filter(({ input }) => input.value !== "").map(({ name, input }) => [name, Number(input.value)]));
      try {
        await send("PUT", `/v1/tenants/${one.tenant}/quotas`, { quotas: given });
        await show();
      } catch (error) {
        fill(said, fault(error));
      }
    });
    return make("section", { class: "stack" }, make("h3", {}, "Quotas"), form);
  }

  function training(one, show) {
    const shared = one.training === "shared";
    const said = make("div", { role: "status" });
    return make("section", { class: "stack" }, make("h3", {}, "Training"), make("p", {}, shared ? "The models that all tenants share may learn from its verdicts." : "Nothing learns from its verdicts."), make("div", {}, make("button", {
      type: "button", onclick: async () => {
        try {
          await send("PUT", `/v1/tenants/${one.tenant}/training`, { training: shared ? "none" : "shared" });
          await show();
        } catch (error) {
          fill(said, fault(error));
        }
      },
    }, shared ? "Stop learning from it" : "Let shared models learn from it")), said);
  }

  function keysOf(one, show) {
    const own = keys.filter((key) => key.tenant === one.tenant);
    const rows = table(`Keys of ${one.tenant}`, [
      { name: "id", title: "Key", cell: (key) => make("code", {}, key.id) },
      { name: "label", title: "Label", wide: true, cell: (key) => key.label || "–" },
      { name: "scopes", title: "Scopes", cell: (key) => key.scopes.join(", ") },
      { name: "readers", title: "Readers", cell: (key) => key.readers?.join(", ") ?? "any" },
      { name: "used", title: "Last used", cell: (key) => (key.last_used_at ? ago(key.last_used_at) : "never") },
      { name: "revoke", title: "", cell: (key) => (key.revoked_at ? badge("revoked") : make("button", { type: "button", class: "plain", "aria-label": `Revoke ${key.id}`, onclick: () => revoke(key, show) }, "Revoke")) },
    ]);
    rows.show([...own].sort((key, other) => (key.created_at < other.created_at ? 1 : -1)));
    return make("section", { class: "stack" }, make("div", { class: "row apart" }, make("h3", {}, "Keys"), make("button", { type: "button", onclick: () => createKey(one, show) }, "Create a key")), own.length ? rows.element : quiet("No key yet."));
  }

  function createKey(one, show) {
    const label = make("input", { id: "key-label", maxLength: 200, autocomplete: "off" });
    const boxes = Object.entries(SCOPES).map(([name, says]) => {
      const input = make("input", { type: "checkbox", id: `scope-${name}`, value: name, checked: name === "read" });
      return { input, row: make("label", { class: "inline", for: input.id }, input, make("span", {}, make("b", {}, name), `: ${says}`)) };
    });
    const readers = make("input", { id: "key-readers", autocomplete: "off", placeholder: "any" });
    confirmed(`A key for ${one.tenant}`, quiet("Its text is shown once."), "Create", async () => {
      const scopes = boxes.filter(({ input }) => input.checked).map(({ input }) => input.value);
      const named = readers.value.split(",").map((reader) => reader.trim()).filter(Boolean);
      const made = await send("POST", "/v1/keys", { tenant: one.tenant, label: label.value, scopes, ...(named.length ? { readers: named } : {}) });
      await show();
      dialog("The new key", make("div", { class: "stack" }, make("p", {}, "Copy it now: it cannot be shown again."), command(made.key)), { kind: "small" });
    }, {
      fields: [
        make("label", { for: label.id }, "Label", label),
        make("fieldset", { class: "scopes" }, make("legend", {}, "Scopes"), boxes.map(({ row }) => row)),
        make("label", { for: readers.id }, "Bound to readers, by commas", readers),
      ],
    });
  }

  function revoke(key, show) {
    confirmed("Revoke this key?", make("p", {}, make("code", {}, key.id), " allows nothing from now on. This cannot be undone."), "Revoke", async () => {
      await send("DELETE", `/v1/keys/${key.id}`);
      await show();
    }, { danger: true });
  }

  return {
    async show(parameters) {
      loadAudit();
      const found = (await load()).find((one) => one.tenant === parameters.tenant);
      if (found) openTenant(found);
    },
  };
}
