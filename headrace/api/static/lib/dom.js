// Elements. What comes from answers and documents goes in as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";
const LONG = 60; // characters of a value that takes a line of its own
const ATTRIBUTES = new Set(["role", "scope", "for", "colspan", "list"]);

// `onclick`, `onsubmit` … are listeners; names with a dash are attributes, everything else is a property. Children that are
// null or false are left out.
export function make(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (key === "class") element.className = value;
    else if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key.includes("-") || ATTRIBUTES.has(key)) element.setAttribute(key, value);
    else element[key] = value;
  }
  element.append(...shown(children));
  return element;
}

export function drawing(name, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...shown(children));
  return element;
}

const shown = (children) => children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);

// `replaceChildren` that takes lists and leaves out what is null or false.
export function fill(element, ...children) {
  element.replaceChildren(...shown(children));
  return element;
}

// Sentences mark commands with backticks.
export const marked = (sentence) => sentence.split("`").map((part, index) => (index % 2 ? make("code", {}, part) : part));

// Names and values side by side.
export function facts(pairs) {
  const shownPairs = pairs.filter(Boolean);
  return make("dl", { class: "facts" }, shownPairs.map(([name, value]) => make("div", { class: value?.length > LONG ? "whole" : "" }, make("dt", {}, name), make("dd", {}, value))));
}

export function card(title, ...children) {
  const heading = make("h2", {}, title);
  const section = make("section", { class: "card" }, heading, ...children);
  section.setAttribute("aria-label", title);
  return section;
}

export const badge = (text, kind = "") => make("span", { class: `badge ${kind}` }, text);

export const quiet = (...children) => make("p", { class: "quiet" }, ...children);

// What is shown instead of data: while it is fetched, where there is none, and where it could not be had.
export const loading = (what = "Loading") => make("div", { class: "loading", role: "status" }, make("span", { class: "unseen" }, `${what} …`), make("i"), make("i"), make("i"));

export const empty = (title, ...children) => make("div", { class: "empty" }, make("p", { class: "empty-title" }, title), ...children);

export function fault(error, again) {
  const notice = make("div", { class: "notice fault", role: "alert" }, make("p", {}, marked(error.message)));
  if (again) notice.append(make("button", { type: "button", onclick: again }, "Try again"));
  return notice;
}

export function gauge(name, value, of, detail) {
  const bar = make("progress", { max: Math.max(of, 1), value: Math.min(value, of), "aria-label": name });
  return make("div", { class: "gauge" }, make("div", { class: "row apart" }, make("strong", {}, name), make("span", {}, detail)), bar);
}

// Icons of 16 × 16, drawn as lines.
const ICONS = {
  overview: "M2 3h5v5H2zM9 3h5v3H9zM9 8h5v5H9zM2 10h5v3H2z",
  ask: "M2 3h12v8H7l-3 3v-3H2z",
  documents: "M4 2h5l3 3v9H4zM9 2v3h3M6 8h4M6 11h4",
  training: "M13 8a5 5 0 1 1-1.600-3.700M13 2v3h-3",
  head: "M2 5h12M2 8h12M2 11h8",
  storage: "M3 4c0-2.600 10-2.600 10 0v8c0 2.600-10 2.600-10 0zM3 4c0 2.600 10 2.600 10 0M3 8c0 2.600 10 2.600 10 0",
  tenants: "M6 8a2.500 2.500 0 1 0 0-5 2.500 2.500 0 0 0 0 5zM2 14c0-5 8-5 8 0M11 4a2 2 0 0 1 0 4M12 10c1.500.500 2 2 2 4",
  theme: "M8 2a6 6 0 1 0 0 12zM8 2a6 6 0 0 1 0 12",
  close: "M4 4l8 8M12 4l-8 8",
  up: "M1.500 7h3v7h-3zM4.500 7.500 7.500 1.500c1.500 0 2 1 1.700 2.300L8.700 6h4.100c1.200 0 1.900 1 1.600 2.100l-1.200 4.500c-.200.900-.900 1.400-1.800 1.400H4.500",
  upload: "M8 11V3M4.500 6 8 2.500 11.500 6M3 10v3h10v-3",
  copy: "M5 5h8v9H5zM3 11V2h8",
};

export function icon(name, kind = "") {
  return drawing("svg", { viewBox: "0 0 16 16", "aria-hidden": "true", class: `icon-svg ${kind}` }, drawing("path", { d: ICONS[name] }));
}

// A command with a button that copies it.
export function command(text) {
  const button = make("button", { type: "button", class: "icon", "aria-label": `Copy ${text}` }, icon("copy"));
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.classList.add("done");
      setTimeout(() => button.classList.remove("done"), 1200);
    } catch {
      getSelection().selectAllChildren(code);
    }
  });
  const code = make("code", {}, text);
  return make("div", { class: "command" }, code, button);
}

// Opens a modal dialog and returns it; it closes with Escape, with its button, or by `close()`.
export function dialog(title, content, { kind = "", closed } = {}) {
  const box = make("dialog", { class: kind });
  const heading = make("h2", { tabIndex: -1 }, title);
  const close = make("button", { type: "button", class: "icon", "aria-label": "Close", onclick: () => box.close() }, icon("close"));
  box.append(make("div", { class: "dialog-head" }, heading, close), make("div", { class: "dialog-body" }, content));
  box.setAttribute("aria-label", title);
  box.addEventListener("click", (event) => {
    if (event.target === box) box.close();
  });
  box.addEventListener("close", () => {
    box.remove();
    closed?.();
  });
  document.body.append(box);
  box.showModal();
  heading.focus();
  return box;
}

// Asks before something is done that somebody would miss; `act` may fail, which the dialog then says.
export function confirmed(title, words, label, act, { danger = false, fields = [] } = {}) {
  const said = make("p", { role: "status" });
  const go = make("button", { class: danger ? "danger" : "main" }, label);
  const form = make(
    "form", { class: "stack" }, make("div", {}, words), fields,
    make("div", { class: "row end" }, make("button", { type: "button", onclick: () => box.close() }, "Cancel"), go), said,
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    go.disabled = true;
    fill(said, "Working …");
    try {
      await act();
      box.close();
    } catch (error) {
      go.disabled = false;
      fill(said, fault(error));
    }
  });
  const box = dialog(title, form, { kind: "small" });
  return box;
}
