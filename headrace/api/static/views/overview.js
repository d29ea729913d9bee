// Overview: the two pipelines as measured, and what moves now.

import { call } from "../lib/api.js";
import { card, fill, make, marked, quiet } from "../lib/dom.js";
import { bytes, count, TIERS } from "../lib/format.js";
import { listen } from "../lib/live.js";
import { note } from "../lib/route.js";
import { loopNow } from "./training.js";

export const title = "Overview";

const PIPELINES = ["inference", "training"];
const SHAPES = { "storage/slide": "Storage", "storage/full": "Storage, every flow", "time/slide": "Time", "ray/slide": "Ray" };
const LEGIBLE = 900; // pixels, for text of 12 in a picture of 960
const darkness = window.matchMedia?.("(prefers-color-scheme: dark)");
const EVERY_MS = 10000;

export function open(section) {
  let chosen = "inference";
  let zoom = 1;
  let drawn = 0;
  let timer = null;
  let shown = "";
  let operations = 0;
  let last = "";

  const tabs = PIPELINES.map((name) => make("button", {
    role: "tab", id: `tab-${name}`, type: "button", "aria-controls": "diagram", onclick: () => turn(name),
    onkeydown: ({ key }) => (key === "ArrowLeft" || key === "ArrowRight") && turn(PIPELINES.find((other) => other !== chosen)),
  }, name === "inference" ? "Inference" : "Training"));
  const smaller = make("button", { type: "button", class: "icon", "aria-label": "Zoom out", onclick: () => zoomTo(zoom / 1.4) }, "−");
  const larger = make("button", { type: "button", class: "icon", "aria-label": "Zoom in", onclick: () => zoomTo(zoom * 1.4) }, "+");
  const fit = make("button", { type: "button", onclick: () => zoomTo(1) }, "Fit");
  const shape = make("select", { "aria-label": "View", onchange: draw }, Object.entries(SHAPES).map(([value, name]) => make("option", { value }, name)));
  const saving = make("button", { type: "button", disabled: true, onclick: save }, "Save");
  const nothing = quiet("Drawing …");
  const picture = make("img", { id: "drawing", alt: "", hidden: true, draggable: false });
  const box = make("div", { id: "diagram", role: "tabpanel", tabIndex: 0 }, nothing, picture);
  const tiers = make("tbody");
  const loop = make("div", { class: "stack" }, quiet("Not known yet."));
  fill(
    section,
    make("div", { class: "view-head" }, make("div", {}, make("h1", {}, "Overview"), make("p", {}, "Both pipelines as this home measured them, and what they move now."))),
    card(
      "Pipelines",
      make("div", { class: "row" }, make("div", { class: "segments", role: "tablist", "aria-label": "Pipeline" }, tabs), shape, make("div", { class: "row end grow", role: "group", "aria-label": "Zoom" }, smaller, fit, larger, saving)),
      box,
    ),
    make("div", { class: "columns" }, card(
      "Moved so far, by tier",
      make("div", { class: "scroll" }, make("table", { id: "tiers" }, make("thead", {}, make("tr", {}, ["Tier", "Read", "Written", "Operations"].map((name, at) => make("th", { scope: "col", class: at ? "number" : "" }, name)))), tiers)),
      quiet("Counted since this run began, about once a second. ≈ marks bytes estimated where a library hides its I/O."),
    ), card("Training loop", loop)),
  );

  box.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    zoomTo(zoom * (event.deltaY < 0 ? 1.15 : 1 / 1.15));
  }, { passive: false });
  window.addEventListener("resize", size);
  darkness?.addEventListener("change", draw);
  listen("loop", (state) => fill(loop, loopNow(state)));
  listen("totals", (totals) => {
    fill(tiers, totals.tiers.map(tierRow));
    // Landing asks the object tier every other second who else lands: that is nothing to draw.
    const now = totals.tiers.reduce((sum, tier) => sum + (tier.tier === "object" ? 0 : tier.ops), 0);
    if (now !== operations) drawSoon();
    operations = now;
  });

  // Redrawing costs the server a moment, so it is done after a change and not too often.
  function drawSoon() {
    if (timer !== null) return;
    timer = setTimeout(() => {
      timer = null;
      if (!section.hidden && !document.hidden) draw();
    }, Math.max(300, drawn + EVERY_MS - performance.now()));
  }

  async function draw() {
    const [view, detail] = (shape.value || "storage/slide").split("/");
    const asked = `${chosen}.svg?view=${view}&detail=${detail}&theme=${darkness?.matches ? "dark" : "light"}`;
    last = asked;
    drawn = performance.now();
    try {
      const text = await (await call(`/v1/diagrams/${asked}`)).text();
      if (asked !== last) return;
      if (text !== shown) {
        shown = text;
        picture.alt = `${partOf(text, "title")}. ${partOf(text, "desc")}`;
        picture.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
      }
      picture.hidden = false;
      nothing.hidden = true;
      saving.disabled = false;
      size();
    } catch (error) {
      if (asked !== last) return;
      shown = "";
      picture.hidden = true;
      nothing.hidden = false;
      fill(nothing, marked(error.message));
      saving.disabled = true;
    }
  }

  function size() {
    const room = box.clientWidth;
    picture.style.width = `${Math.round(Math.max(room, zoom === 1 ? Math.min(LEGIBLE, room * 2.5) : LEGIBLE) * zoom)}px`;
    smaller.disabled = zoom <= 1;
    larger.disabled = zoom >= 4;
  }

  function zoomTo(value) {
    const before = zoom;
    zoom = Math.min(4, Math.max(1, value));
    const middle = [(box.scrollLeft + box.clientWidth / 2) / before, (box.scrollTop + box.clientHeight / 2) / before];
    size();
    box.scrollTo(middle[0] * zoom - box.clientWidth / 2, middle[1] * zoom - box.clientHeight / 2);
  }

  function save() {
    const link = make("a", { href: URL.createObjectURL(new Blob([shown], { type: "image/svg+xml" })), download: `${chosen}.svg` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  function turn(name) {
    note("overview", { pipeline: name });
    choose(name, true);
  }

  function choose(name, focus) {
    if (name !== chosen) shown = "";
    chosen = name;
    for (const [at, tab] of tabs.entries()) {
      tab.setAttribute("aria-selected", String(PIPELINES[at] === name));
      tab.tabIndex = PIPELINES[at] === name ? 0 : -1;
      if (focus && PIPELINES[at] === name) tab.focus();
    }
    box.setAttribute("aria-labelledby", `tab-${name}`);
    draw();
  }

  return {
    show: ({ pipeline }) => choose(PIPELINES.includes(pipeline) ? pipeline : chosen),
  };
}

// Only the one element is parsed: the picture's own style would be reported against this page's policy.
function partOf(text, tag) {
  const found = new RegExp(`<${tag} id="[a-z]+">[^<]*</${tag}>`).exec(text)?.[0] ?? "";
  return new DOMParser().parseFromString(found.replaceAll(tag, "p"), "text/html").body.textContent;
}

function tierRow(tier) {
  const amount = (size) => (size && tier.estimated ? `≈ ${bytes(size)}` : bytes(size));
  return make(
    "tr", {}, make("th", { scope: "row" }, make("span", { class: `tier ${tier.tier}` }, TIERS[tier.tier] ?? tier.tier)),
    make("td", { class: "number" }, amount(tier.read_bytes)), make("td", { class: "number" }, amount(tier.written_bytes)), make("td", { class: "number" }, count(tier.ops)),
  );
}
