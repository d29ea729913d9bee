// The tenant whose questions and documents are shown.

import { get } from "./api.js";
import { keep, kept } from "./keep.js";
import { make } from "./dom.js";

const KEPT = "headrace-tenant";
const changed = new Set();
const field = () => document.getElementById("tenant");
let own = "";

export const tenant = () => (field().validity.valid ? field().value : "") || own;
export const ownTenant = () => own;

export function onTenant(work) {
  changed.add(work);
}

export function chooseTenant(name) {
  if (!name || name === tenant()) return;
  field().value = name;
  settle();
}

function settle() {
  if (!field().value) field().value = own;
  if (!field().validity.valid) return;
  keep(KEPT, field().value);
  for (const work of changed) work(tenant());
}

// Fetches the key's own tenant and the names that are known.
export async function openTenants() {
  field().value ||= kept(KEPT, "");
  const index = await get("/v1/index");
  own = index.default_tenant;
  field().value ||= own;
  const names = (await get("/v1/tenants")).data.map((one) => one.tenant);
  document.getElementById("tenants").replaceChildren(...[...new Set([own, ...names])].map((name) => make("option", { value: name })));
}

export function wireTenant() {
  field().addEventListener("change", settle);
}
