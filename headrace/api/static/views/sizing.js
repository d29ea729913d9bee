// Sizing with sliders: what each tier of a platform must hold and move, beside a reference architecture and this home's measurements.

import { get } from "../lib/api.js";
import { card, command, fault, fill, loading, make, quiet } from "../lib/dom.js";
import { bytes, count, percent } from "../lib/format.js";
import { latest } from "../lib/latest.js";
import { table } from "../lib/table.js";

const WAIT_MS = 150;
// name, label, least, most, default: sliders move in powers, since a platform has 8 GPUs or 100,000.
const SLIDERS = [
  ["gpus", "GPUs that train", 1, 100_000, 256],
  ["users", "Users who ask", 1, 10_000_000, 1_000],
  ["context_tokens", "Tokens of a context", 500, 1_000_000, 8_000],
  ["documents", "Documents", 1_000, 1_000_000_000, 1_000_000],
  ["events_per_s", "Events a second", 1, 10_000_000, 1_000],
  ["stall_s", "Seconds a checkpoint may stop training", 1, 600, 30],
];
const STEPS = 200;

// Returns {element, show(text)}; `changed(text)` hears of the choice as text for the address, e.g. "gpus:512,users:2000".
export function sizing(changed) {
  let chosen = {};
  let timer = null;
  const asked = latest();
  const model = make("select", { id: "size-model", onchange: () => choose("model", model.value, "llama-3.1-70b") });
  const recipe = make("select", { id: "size-recipe", onchange: () => choose("recipe", recipe.value, "mixed-adam") });
  const sliders = SLIDERS.map(([name, label, least, most, usual]) => {
    const shown = make("output", { for: `size-${name}` });
    const input = make("input", { id: `size-${name}`, type: "range", min: 0, max: STEPS, step: 1, oninput: () => choose(name, at(Number(input.value)), usual) });
    const at = (step) => (step === place(usual) ? usual : two(least * (most / least) ** (step / STEPS)));
    const place = (value) => Math.round((STEPS * Math.log(value / least)) / Math.log(most / least));
    return {
      element: make("label", { class: "slider", for: input.id }, make("span", {}, label), shown, input),
      set() {
        const value = Number(chosen[name] ?? usual);
        input.value = String(Math.min(STEPS, Math.max(0, place(value))));
        shown.textContent = count(value);
        input.setAttribute("aria-valuetext", `${count(value)} ${label}`);
      },
    };
  });
  const results = make("div", { class: "stack", "aria-live": "polite" }, loading("Sizing"));
  const element = card(
    "Sizing", quiet("What a platform must hold and move, by formulas with sources; if this home measured the same quantity, both are shown. Every figure with its formula: ", make("code", {}, "headrace size")),
    make("div", { class: "row" }, make("label", { class: "inline", for: "size-model" }, "Model", model), make("label", { class: "inline", for: "size-recipe" }, "Checkpoint", recipe)),
    make("div", { class: "sliders" }, sliders.map((one) => one.element)), results,
  );

  function choose(name, value, usual) {
    if (value === usual) delete chosen[name];
    else chosen[name] = value;
    draw();
    changed(Object.entries(chosen).map(([key, one]) => `${key}:${one}`).join(","));
    clearTimeout(timer);
    timer = setTimeout(load, WAIT_MS);
  }

  function draw() {
    for (const slider of sliders) slider.set();
  }

  async function load() {
    const wanted = asked();
    try {
      const found = await get("/v1/sizing", chosen);
      if (!wanted()) return;
      options(model, found.models, found.sizing.parameters.model);
      options(recipe, found.recipes, found.sizing.parameters.recipe);
      fill(results, tables(found.sizing));
    } catch (error) {
      if (wanted()) fill(results, fault(error, load));
    }
  }

  return {
    element,
    show(text) {
      const known = new Set(["model", "recipe", ...SLIDERS.map(([name]) => name)]);
      chosen = Object.fromEntries(text.split(",").map((one) => one.split(":")).filter(([name, value]) => known.has(name) && value));
      draw();
      load();
    },
  };
}

function options(select, names, value) {
  if (!select.firstChild) fill(select, names.map((name) => make("option", { value: name }, name)));
  select.value = value;
}

const two = (value) => Number(value.toPrecision(value < 100 ? 1 : 2));
const speed = (value) => (value ? `${bytes(Math.round(value))}/s` : "–");

function tables(found) {
  const tiers = table("What each tier must hold and move", [
    { name: "tier", title: "Tier", value: (one) => one.tier, cell: (one) => make("span", { class: `tier ${one.tier}` }, one.tier) },
    { name: "capacity", title: "Holds", number: true, value: (one) => one.capacity, cell: (one) => bytes(Math.round(one.capacity)) },
    ...[["read", "Reads"], ["write", "Writes"], ["peak_read", "Peak reads"], ["peak_write", "Peak writes"]].map(([name, title]) => ({ name, title, number: true, value: (one) => one[name], cell: (one) => speed(one[name]) })),
  ]);
  tiers.show(found.tiers);
  const supply = table("Demand beside DGX SuperPOD's guideline", [
    { name: "level", title: "Guideline", value: (one) => one.read, cell: (one) => `SuperPOD, ${one.level}` },
    { name: "read", title: "Read", number: true, value: (one) => one.read, cell: (one) => speed(one.read) },
    { name: "read_share", title: "Needed of that", number: true, value: (one) => one.read_share, cell: (one) => needed(one.read_share) },
    { name: "write", title: "Write", number: true, value: (one) => one.write, cell: (one) => speed(one.write) },
    { name: "write_share", title: "Needed of that", number: true, value: (one) => one.write_share, cell: (one) => needed(one.write_share) },
    { name: "meant", title: "Meant for", cell: (one) => one.meant_for, wide: true },
  ]);
  supply.show(found.supply);
  return [tiers.element, supply.element, measured(found.measured)];
}

function off(error) {
  return `${error < 0 ? "−" : error > 0 ? "+" : ""}${percent(Math.abs(error))}`;
}

function needed(share) {
  const text = share < 10 ? percent(Number(share.toFixed(3))) : `${count(Math.round(share))} ×`;
  return make("span", { class: share > 1 ? "short" : "" }, share > 1 ? `${text}, too little` : text);
}

function measured(rows) {
  if (!rows.length) return [quiet("This home has measured none of these yet: "), command("headrace demo")];
  const list = table("Measured by this home beside the same formulas", [
    { name: "label", title: "Measured here", value: (one) => one.label, cell: (one) => [one.label, make("span", { class: "reason" }, `${one.how}, ${one.run}${one.of_runs > 1 ? `, the largest sample of ${one.of_runs} runs` : ""}`)], wide: true },
    { name: "measured", title: "Measured", number: true, value: (one) => one.measured, cell: (one) => bytes(Math.round(one.measured)) },
    { name: "estimated", title: "Formula", number: true, value: (one) => one.estimated, cell: (one) => bytes(Math.round(one.estimated)) },
    { name: "error", title: "Off", number: true, value: (one) => Math.abs(one.error), cell: (one) => off(Number(one.error.toFixed(2))) },
  ]);
  list.show(rows);
  return list.element;
}
