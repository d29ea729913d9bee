// The page: its views, which of them is shown, and what is the same in all of them.

import { token } from "./lib/api.js";
import { fill, icon, make, marked } from "./lib/dom.js";
import { duration, several } from "./lib/format.js";
import { follow, listen } from "./lib/live.js";
import { address, here } from "./lib/route.js";
import { openTenants, wireTenant } from "./lib/tenant.js";
import { chosenTheme, openTheme, turnTheme } from "./lib/theme.js";
import * as ask from "./views/ask.js";
import * as documents from "./views/documents.js";
import * as head from "./views/head.js";
import * as overview from "./views/overview.js";
import * as storage from "./views/storage.js";
import * as tenants from "./views/tenants.js";
import * as training from "./views/training.js";

// Each has a title and `open(section)`, which fills its section once and returns {show(parameters), hide()}.
const VIEWS = { overview, ask, documents, training, head, storage, tenants };
const at = (id) => document.getElementById(id);
const opened = new Map();
const links = new Map();
let current = "";

function show() {
  const { view: wanted, parameters } = here();
  const name = Object.hasOwn(VIEWS, wanted) ? wanted : "overview";
  if (current && current !== name) {
    opened.get(current).view.hide?.();
    opened.get(current).section.hidden = true;
  }
  if (!opened.has(name)) {
    const section = make("div", { class: `view ${name}` });
    at("main").append(section);
    opened.set(name, { section, view: VIEWS[name].open(section) });
  }
  const moved = current !== name;
  current = name;
  const { section, view } = opened.get(name);
  section.hidden = false;
  for (const [other, link] of links) {
    if (other === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (moved) links.get(name).scrollIntoView({ block: "nearest", inline: "center" });
  document.title = `${VIEWS[name].title} · Headrace`;
  view.show(parameters);
}

// ---- what every view has ---------------------------------------------------------------------------------------------

function showTotals({ run, state, seconds, answering, waiting }) {
  const lasting = state === "running" ? `running for ${duration(seconds)}` : state;
  const under = answering || waiting ? ` · ${answering} being answered, ${waiting} waiting` : "";
  at("state").textContent = `Run ${run}: ${lasting}${under}`;
}

function showConnection(message) {
  const found = !message && document.body.classList.contains("lost");
  at("state").classList.toggle("lost", Boolean(message));
  document.body.classList.toggle("lost", Boolean(message));
  if (message) fill(at("state"), marked(message));
  if (found) show(); // what could not be fetched meanwhile
}

// Nothing where every part is ready, else a line for each that is not.
function showHealth({ parts, unrecorded_answers: waiting }) {
  const lines = parts.filter((part) => !part.ready)
    .map((part) => `${part.part} ${part.state}${part.for_s === undefined ? "" : `, for ${duration(part.for_s)}`}. ${part.remedy}`);
  if (waiting) lines.push(`${several(waiting, "answer")} ${waiting === 1 ? "waits" : "wait"} to be recorded until the head takes them.`);
  fill(at("health"), lines.map((text) => make("p", { class: "notice fault" }, marked(text))));
}

function wireTheme() {
  const apply = () => {
    at("theme").setAttribute("aria-label", `Theme: ${chosenTheme()}`);
    at("theme").title = `Theme: ${chosenTheme()}`;
  };
  at("theme").append(icon("theme"));
  openTheme();
  apply();
  at("theme").addEventListener("click", () => {
    turnTheme();
    apply();
  });
}

function start() {
  for (const [name, view] of Object.entries(VIEWS)) {
    links.set(name, make("a", { href: address(name) }, icon(name), view.title));
  }
  fill(at("nav"), [...links.values()]);
  wireTheme();
  wireTenant();
  listen("totals", showTotals);
  listen("connection", showConnection);
  listen("health", showHealth);
  let known = token();
  window.addEventListener("hashchange", () => {
    if (known !== (known = token())) connect();
    const wanted = location.hash;
    for (const box of document.querySelectorAll("dialog")) box.close(); // which may note the address without what it showed
    if (location.hash !== wanted) history.replaceState(null, "", wanted || location.pathname);
    show();
  });
  connect();
  show();
}

function connect() {
  openTenants().catch(() => {}); // the views say what is wrong
  follow();
}

start();
