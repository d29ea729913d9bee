// Overview: the two pipelines as measured, what moves now, and the runs before.

import { call, get, withParameters } from "../lib/api.js";
import { drawn, fitted } from "../lib/diagram.js";
import { card, dialog, empty, fault, fill, loading, make, quiet } from "../lib/dom.js";
import { bytes, capital, count, milliseconds, span, TIERS, when } from "../lib/format.js";
import { keep, kept } from "../lib/keep.js";
import { latest } from "../lib/latest.js";
import { last, listen } from "../lib/live.js";
import { address, note } from "../lib/route.js";
import { table } from "../lib/table.js";
import { onTheme, theme } from "../lib/theme.js";
import { loopNow } from "./training.js";

export const title = "Overview";

const PIPELINES = ["inference", "training"];
const SHAPES = { "storage/slide": "Storage", "storage/full": "Storage, every flow", "time/slide": "Time", "ray/slide": "Ray" };
const LEGIBLE = 0.94; // of a picture's own size: its smallest letters then have 10 to 11 pixels
const AGAIN_MS = 3000; // redrawing costs the server a moment
const ACTIVE_MS = 2500;
const RUNS = 100;

export function open(section) {
  let chosen = "inference";
  let run = ""; // the newest
  let zoom = 1;
  let scene = null;
  let picture = null;
  let runs = []; // of this pipeline, oldest first
  const asked = latest();
  let drawnFrom = ""; // its address
  let timer = null;
  let moved = new Map(); // what each run's flows were when they were heard of last
  const active = new Map(); // flow → until when it is shown as at work

  // ---- elements -----------------------------------------------------------------------------------------------------

  const tabs = PIPELINES.map((name) => make("button", {
    role: "tab", id: `tab-${name}`, type: "button", "aria-controls": "diagram", onclick: () => turn(name),
    onkeydown: ({ key }) => (key === "ArrowLeft" || key === "ArrowRight") && turn(PIPELINES.find((other) => other !== chosen)),
  }, capital(name)));
  const smaller = make("button", { type: "button", class: "icon", "aria-label": "Zoom out", onclick: () => zoomTo(zoom / 1.4) }, "−");
  const larger = make("button", { type: "button", class: "icon", "aria-label": "Zoom in", onclick: () => zoomTo(zoom * 1.4) }, "+");
  const fit = make("button", { type: "button", onclick: () => zoomTo(whole()) }, "Fit");
  const motion = make("button", { type: "button", "aria-pressed": "true", onclick: () => move(motion.getAttribute("aria-pressed") !== "true") }, "Motion");
  const shape = make("select", { "aria-label": "What the diagram shows", onchange: draw }, Object.entries(SHAPES).map(([value, name]) => make("option", { value }, name)));
  const saving = make("button", { type: "button", disabled: true, onclick: save }, "Save");
  const box = make("div", { id: "diagram", role: "tabpanel", tabIndex: 0 }, loading("Drawing"));
  const sideways = make("p", { class: "quiet", hidden: true }, "Scroll the picture sideways to see the rest.");
  const work = make("p", { class: "work", role: "status" });
  const slider = make("input", { id: "scrubber", type: "range", min: 0, max: 0, step: 1, value: 0, oninput: () => scrub(Number(slider.value)) });
  const said = make("output", { for: "scrubber", class: "quiet" });
  const before = make("button", { type: "button", class: "icon", "aria-label": "The run before", onclick: () => scrub(Number(slider.value) - 1) }, "‹");
  const after = make("button", { type: "button", class: "icon", "aria-label": "The run after", onclick: () => scrub(Number(slider.value) + 1) }, "›");
  const newest = make("button", { type: "button", onclick: () => scrub(runs.length) }, "Newest");
  const scrubber = make("div", { class: "scrubber", hidden: true }, before, make("label", { for: "scrubber", class: "unseen" }, "Recorded runs, oldest to newest"), slider, after, newest, said);
  const tiers = table("Moved so far, by tier", [
    { title: "Tier", cell: (one) => make("span", { class: `tier ${one.tier}` }, TIERS[one.tier] ?? one.tier) },
    { title: "Read", number: true, cell: (one) => amount(one, one.read_bytes) },
    { title: "Written", number: true, cell: (one) => amount(one, one.written_bytes) },
    { title: "Operations", number: true, cell: (one) => count(one.ops) },
  ]);
  const loop = make("div", { class: "stack" }, quiet("Not known yet."));
  fill(
    section,
    make("div", { class: "view-head" }, make("div", {}, make("h1", {}, "Overview"), make("p", {}, "Both pipelines as this home measured them, and what moves now. Choose a stage, a store or an arrow for its figures."))),
    make(
      "section", { class: "card", "aria-label": "Pipelines" },
      make("div", { class: "row" }, make("div", { class: "segments", role: "tablist", "aria-label": "Pipeline" }, tabs), shape, make("div", { class: "row end grow diagram-tools" }, motion, make("div", { class: "row", role: "group", "aria-label": "Zoom" }, smaller, fit, larger), saving)),
      box, sideways, work, scrubber,
    ),
    make("div", { class: "columns" }, card(
      "Moved so far, by tier",
      tiers.element,
      quiet("Counted since this run began, about once a second. ≈ marks bytes estimated where a library hides its I/O. ", make("a", { href: address("storage") }, "The whole ledger")),
    ), card("Training loop", loop)),
  );
  move(kept("headrace-motion", "on") === "on");

  box.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    zoomTo(zoom * (event.deltaY < 0 ? 1.15 : 1 / 1.15));
  }, { passive: false });
  window.addEventListener("resize", size);
  onTheme(draw);
  listen("loop", (state) => fill(loop, loopNow(state)));
  listen("totals", (totals) => tiers.show(totals.tiers));
  listen("moved", hear);
  setInterval(settle, 500);

  // ---- what moves now ------------------------------------------------------------------------------------------------

  // Flows whose operations have grown since they were heard of last are at work.
  function hear({ runs: moving }) {
    const known = new Map();
    for (const one of moving) {
      const flows = new Map(one.flows.map((flow) => [flow.slice(0, 4).join("|"), flow]));
      const previous = moved.get(one.run);
      known.set(one.run, flows);
      if (!previous) continue;
      // Landing asks every other second who else lands: that is no work.
      const grown = [...flows].filter(([name, flow]) => flow[1] !== "leases" && flow[5] > (previous.get(name)?.[5] ?? 0)).map(([, flow]) => nameOf(flow, scene));
      if (scene?.run === one.run) {
        for (const name of grown) active.set(name, performance.now() + ACTIVE_MS);
      }
      const seen = grown.some((name) => picture?.querySelector(`[data-name="${CSS.escape(name)}"]`));
      if (seen || (!run && scene?.run !== one.run && grown.length)) drawSoon();
    }
    if (!run && moving.some((one) => !moved.has(one.run)) && moved.size) drawSoon(); // a round has begun
    moved = known;
    settle();
  }

  function settle() {
    if (section.hidden || !picture) return;
    const now = performance.now();
    for (const [name, until] of active) if (until < now) active.delete(name);
    const stages = new Set([...active.keys()].map((name) => name.split("|")[0]));
    for (const group of picture.querySelectorAll("[data-name]")) {
      const { name } = group.dataset;
      group.classList.toggle("active", active.has(name) || stages.has(name));
    }
    const labels = scene.groups.filter((group) => group.kind === "stage" && stages.has(group.name)).map((group) => group.alt.split(/[:,]/)[0]);
    const words = !scene.measured ? "" : scene.live || moved.has(scene.run) ? (labels.length ? `At work now: ${labels.join(", ")}.` : "No stage of this pipeline reads or writes now.") : "";
    if (work.textContent !== words) work.textContent = words;
  }

  function move(on) {
    motion.setAttribute("aria-pressed", String(on));
    keep("headrace-motion", on ? "on" : "off");
    if (on) delete document.documentElement.dataset.motion;
    else document.documentElement.dataset.motion = "off";
  }

  // ---- the picture ---------------------------------------------------------------------------------------------------

  function drawSoon() {
    timer ??= setTimeout(() => {
      timer = null;
      if (!section.hidden && !document.hidden) draw();
    }, AGAIN_MS);
  }

  async function draw() {
    const [view, detail] = (SHAPES[shape.value] ? shape.value : "storage/slide").split("/");
    const wanted = asked();
    const from = withParameters(`/v1/diagrams/${chosen}.json`, { run, view, detail, theme: theme() });
    drawnFrom = from;
    try {
      const found = await get(from);
      if (!wanted()) return;
      show(found);
    } catch (error) {
      if (!wanted()) return;
      scene = picture = null;
      saving.disabled = true;
      work.textContent = "";
      fill(box, error.status === 404 ? empty("Nothing to draw yet", make("p", {}, error.message.replaceAll("`", ""))) : fault(error, draw));
    }
  }

  function show(found) {
    const focused = document.activeElement?.closest?.("#diagram [data-name]")?.dataset.name;
    scene = found;
    picture = drawn(scene, details);
    picture.style.background = scene.ground;
    fill(box, picture);
    fitted(picture);
    if (focused) picture.querySelector(`[data-name="${CSS.escape(focused)}"][tabindex]`)?.focus();
    saving.disabled = false;
    size();
    settle();
  }

  function size() {
    if (!picture) return;
    zoom = Math.max(zoom, whole());
    const wide = Math.round(legible() * zoom);
    picture.style.width = `${wide}px`;
    sideways.hidden = wide <= box.clientWidth;
    smaller.disabled = zoom <= whole();
    larger.disabled = zoom >= 4;
  }

  // How wide the picture is at a zoom of 1, in pixels, and the zoom at which all of it is seen.
  const legible = () => Math.max(box.clientWidth, scene.width * LEGIBLE);
  const whole = () => box.clientWidth / legible();

  function zoomTo(value) {
    if (!picture) return;
    const was = zoom;
    zoom = Math.min(4, Math.max(whole(), value));
    const middle = [(box.scrollLeft + box.clientWidth / 2) / was, (box.scrollTop + box.clientHeight / 2) / was];
    size();
    box.scrollTo(middle[0] * zoom - box.clientWidth / 2, middle[1] * zoom - box.clientHeight / 2);
  }

  async function save() {
    const response = await call(drawnFrom.replace(".json", ".svg"));
    const link = make("a", { href: URL.createObjectURL(await response.blob()), download: `${chosen}.svg` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  function turn(name) {
    run = "";
    note("overview", { pipeline: name });
    choose(name, true);
  }

  function choose(name, focus) {
    chosen = name;
    for (const [at, tab] of tabs.entries()) {
      tab.setAttribute("aria-selected", String(PIPELINES[at] === name));
      tab.tabIndex = PIPELINES[at] === name ? 0 : -1;
      if (focus && PIPELINES[at] === name) tab.focus();
    }
    box.setAttribute("aria-labelledby", `tab-${name}`);
    draw();
    showRuns();
  }

  // ---- recorded runs -------------------------------------------------------------------------------------------------

  async function showRuns() {
    const pipeline = chosen;
    try {
      const found = (await get("/v1/runs", { limit: RUNS })).runs;
      if (pipeline !== chosen) return;
      runs = found.filter((one) => one.pipelines.includes(pipeline)).reverse();
    } catch {
      runs = []; // the picture says what is wrong
    }
    scrubber.hidden = runs.length < 2;
    slider.max = Math.max(0, runs.length - 1);
    const at = runs.findIndex((one) => one.run === run);
    mark(at < 0 ? runs.length - 1 : at);
  }

  function scrub(to) {
    const at = Math.min(runs.length - 1, Math.max(0, to));
    const newestChosen = at === runs.length - 1;
    run = newestChosen ? "" : runs[at].run;
    note("overview", { pipeline: chosen, run });
    mark(at);
    clearTimeout(timer);
    timer = setTimeout(() => {
      timer = null;
      draw();
    }, 120); // while the thumb is dragged, the runs on the way are not drawn
  }

  function mark(at) {
    const one = runs[at];
    slider.value = at;
    before.disabled = at <= 0;
    after.disabled = at >= runs.length - 1;
    newest.disabled = at >= runs.length - 1;
    const words = one ? `${at + 1} of ${runs.length}: headrace ${one.command}, ${when(one.started)}${one.seconds === null ? `, ${one.state}` : `, took ${span(one.seconds)}`}; it moved ${bytes(one.bytes)}.` : "";
    said.textContent = words;
    slider.setAttribute("aria-valuetext", words);
  }

  // ---- details -------------------------------------------------------------------------------------------------------

  async function details(group) {
    const body = make("div", { class: "stack" }, make("p", {}, group.alt.replace(/[^.]$/, "$&.")), loading("Loading its figures"));
    dialog(group.kind === "flow" ? "Flow" : group.alt.split(/[:(,]/)[0].trim(), body, { kind: "wide" });
    try {
      const ledger = await get("/v1/ledger", { run: scene.live ? "" : scene.run });
      const rows = ledger.rows.filter((row) => {
        const name = nameOf([row.stage, row.store, row.tier, row.direction], scene);
        const [stage, , store] = name.split("|");
        return group.kind === "flow" ? name === group.name : group.kind === "stage" ? stage === group.name : store === group.name;
      });
      const list = table(`Ledger of ${group.name}`, [
        { name: "stage", title: "Stage", value: (row) => row.stage, cell: (row) => row.stage },
        { name: "store", title: "Store", value: (row) => row.store, cell: (row) => make("span", { class: `tier ${row.tier}` }, row.store) },
        { name: "direction", title: "Direction", value: (row) => row.direction, cell: (row) => make("span", { class: row.direction }, row.direction) },
        { name: "tenant", title: "Tenant", value: (row) => row.tenant, cell: (row) => row.tenant || "–" },
        { name: "bytes", title: "Bytes", number: true, value: (row) => row.bytes, cell: (row) => `${row.estimated ? "≈ " : ""}${bytes(row.bytes)}` },
        { name: "ops", title: "Operations", number: true, value: (row) => row.ops, cell: (row) => count(row.ops) },
        { name: "p50", title: "p50", number: true, value: (row) => row.p50_ms, cell: (row) => milliseconds(row.p50_ms) },
        { name: "p95", title: "p95", number: true, value: (row) => row.p95_ms, cell: (row) => milliseconds(row.p95_ms) },
      ], { sort: "bytes", down: true });
      list.show(rows);
      fill(
        body, make("p", {}, group.alt.replace(/[^.]$/, "$&.")), rows.length ? list.element : quiet("It moved nothing in this run."),
make("p", {}, make("a", { href: address("storage", { run: scene.live ? "" : scene.run, text: rows.length ? (group.kind === "bar" ? rows[0].store : rows[0].stage) : "" }) }, "In the ledger of this run")),
      );
    } catch (error) {
      fill(body, fault(error));
    }
  }

  return {
    show({ pipeline, run: wanted = "" }) {
      run = wanted;
      choose(PIPELINES.includes(pipeline) ? pipeline : chosen);
      if (last("moved")) hear(last("moved"));
    },
  };
}

// The name of a flow of the ledger as the diagram has it: at slide level several stages are one, and stores have titles.
function nameOf([stage, store, tier, direction], scene) {
  const drawnStage = Object.entries(scene?.stages ?? {}).find(([, stages]) => stages.includes(stage))?.[0] ?? stage;
  const drawnStore = Object.entries(scene?.stores ?? {}).find(([name, known]) => known === store && name.startsWith(`${tier}/`))?.[0] ?? `${tier}/${store}`;
  return `${drawnStage}|${direction}|${drawnStore}`;
}

const amount = (tier, size) => (size && tier.estimated ? `≈ ${bytes(size)}` : bytes(size));
