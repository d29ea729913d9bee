// The head: what only Kafka has, how far each partition has landed, and what stopped one.

import { get } from "../lib/api.js";
import { badge, card, command, empty, fault, fill, loading, make, marked, quiet } from "../lib/dom.js";
import { bytes, capital, count, exactly, span, when } from "../lib/format.js";
import { latest } from "../lib/latest.js";
import { listen } from "../lib/live.js";
import { table } from "../lib/table.js";

export const title = "The head";

const LOOK_MS = 5000;

export function open(section) {
  const asked = latest();
  let timer = null;

  const figures = make("div", { class: "figures" });
  const troubles = make("div", { class: "stack" });
  const landing = make("p", { class: "quiet", role: "status" });
  const partitions = table("Partitions of the head", [
    { name: "partition", title: "Partition", value: (one) => `${one.topic}/${one.partition}`, cell: (one) => make("strong", {}, `${one.topic}/${one.partition}`) },
    { name: "low", title: "Begins", number: true, value: (one) => one.low, cell: (one) => count(one.low) },
    { name: "end", title: "End", number: true, value: (one) => one.end, cell: (one) => count(one.end) },
    { name: "landed", title: "Landed", number: true, value: (one) => one.landed, cell: (one) => count(one.landed) },
    { name: "lag", title: "Lag", number: true, value: (one) => one.lag, cell: (one) => (one.lag ? make("strong", {}, count(one.lag)) : "0") },
    { name: "bytes", title: "Only in Kafka", number: true, value: (one) => one.bytes, cell: (one) => `${one.estimated ? "≈ " : ""}${bytes(one.bytes)}` },
    { name: "oldest", title: "Oldest not landed", number: true, value: (one) => one.oldest_s ?? 0, cell: (one) => (one.oldest_s === null || !one.lag ? "–" : span(one.oldest_s)) },
    { name: "kept", title: "Broker keeps", number: true, value: (one) => one.retention_s, cell: (one) => (one.retention_s === null ? "all" : span(one.retention_s)) },
    { name: "state", title: "State", value: (one) => one.trouble, cell: (one) => badge(one.trouble ? "stopped" : one.lag ? "landing" : "landed", one.trouble ? "warn" : one.lag ? "active" : "good") },
  ], { sort: "partition" });
  const state = make("div", {}, loading("Asking the broker"));
  const diverged = make("div", { class: "stack" }, loading());
  const triggers = table("Triggers", [
    { name: "name", title: "Trigger", value: (one) => one.name, cell: (one) => make("strong", {}, one.name) },
    { name: "causes", title: "On", wide: true, cell: (one) => one.causes.join(", ") },
    { name: "action", title: "Action", cell: (one) => one.action },
    { name: "waiting", title: "Waiting", number: true, cell: (one) => count(one.waiting + one.running) },
    { name: "done", title: "Done (7 days)", number: true, cell: (one) => count(one.done) },
    { name: "dead", title: "Dead", number: true, cell: (one) => (one.dead ? make("strong", {}, count(one.dead)) : "0") },
    { name: "reason", title: "Last failure", wide: true, cell: (one) => one.reason || null },
  ]);
  const noTriggers = quiet("The settings have no triggers.");
  const steps = table("Steps of the service", [
    { name: "step", title: "Step", value: (one) => one.name, cell: (one) => make("strong", {}, one.name) },
    { name: "causes", title: "On", wide: true, cell: (one) => one.causes.join(", ") },
    { name: "does", title: "What", wide: true, cell: (one) => one.does },
    { name: "state", title: "State", value: (one) => one.on, cell: (one) => badge(one.on ? "on" : "off", one.on ? "good" : "") },
    { name: "setting", title: "Setting", cell: (one) => (one.setting ? make("code", {}, one.setting) : "always on") },
    { name: "command", title: "By hand", wide: true, cell: (one) => (one.command ? make("code", {}, one.command) : null) },
  ]);
  const triggered = make("section", { class: "card", "aria-label": "Triggers", hidden: true }, make("h2", {}, "Triggers"), noTriggers, triggers.element, make("h3", {}, "What the service does without one"), steps.element);
  fill(
    section,
    make("div", { class: "view-head" }, make("div", {}, make("h1", {}, "The head"), make("p", {}, "Kafka is the head, not a tier: an event is there until its table has it, and replay comes from the tables."))),
    figures, troubles,
    card("Partitions", state, partitions.element, landing),
    card("Divergences", diverged), triggered,
  );
  listen("loop", ({ landing: status }) => {
    if (!status) {
      landing.textContent = "Nothing lands here: another process lands.";
      return;
    }
    const landed = Object.entries(status.landed).map(([topic, events]) => `${count(events)} ${topic}`).join(", ") || "nothing yet";
    landing.textContent = `Landed since the start: ${landed}; ${count(status.dead_letters)} dead letters.`;
  });

  async function load() {
    clearTimeout(timer);
    const wanted = asked();
    try {
      const found = await get("/v1/head");
      if (!wanted()) return;
      fill(state);
      partitions.element.hidden = false;
      partitions.show(found.partitions);
      fill(figures, summary(found.partitions));
      const stopped = found.partitions.filter((one) => one.trouble);
      fill(troubles, stopped.map(howToGoOn));
      fill(diverged, divergences(found.divergences));
      const { data, built_in: builtIn } = await get("/v1/triggers");
      if (!wanted()) return;
      triggered.hidden = false;
      noTriggers.hidden = data.length > 0;
      triggers.element.hidden = !data.length;
      triggers.show(data);
      steps.show(builtIn);
    } catch (error) {
      if (!wanted()) return;
      fill(state, fault(error, load));
      partitions.element.hidden = true;
    }
    timer = setTimeout(() => (document.hidden ? null : load()), LOOK_MS);
  }

  document.addEventListener("visibilitychange", () => !document.hidden && !section.hidden && load());
  return { show: load, hide: () => clearTimeout(timer) };
}

function summary(partitions) {
  const lag = partitions.reduce((sum, one) => sum + one.lag, 0);
  const only = partitions.reduce((sum, one) => sum + one.bytes, 0);
  const oldest = Math.max(0, ...partitions.filter((one) => one.lag).map((one) => one.oldest_s ?? 0));
  const stopped = partitions.filter((one) => one.trouble).length;
  return [
    ["Lag", `${count(lag)} event${lag === 1 ? "" : "s"}`], ["Only in Kafka", `${partitions.some((one) => one.estimated) ? "≈ " : ""}${bytes(only)}`],
    ["Oldest not landed", lag ? span(oldest) : "none"], ["Stopped partitions", count(stopped)],
  ].map(([name, value]) => make("div", { class: "figure" }, make("span", {}, name), make("strong", {}, value)));
}

// What stopped, and each command that its remedy names with a button to copy it.
function howToGoOn(one) {
  const commands = [...one.trouble.matchAll(/`(headrace [^`]+)`|(headrace land[^.`]*)$/g)].map((found) => (found[1] ?? found[2]).trim());
  return make("div", { class: "notice fault", role: "alert" }, make("p", {}, make("strong", {}, `${one.topic}/${one.partition} `), marked(one.trouble)), [...new Set(commands)].map(command));
}

function divergences(rows) {
  if (!rows.length) return empty("No partition stopped in the last 90 days", make("p", {}, "Where the head and a table disagree (events lost before they landed, a topic made anew), landing stops and this says how to go on."));
  const list = table("Divergences", [
    { name: "at", title: "When", value: (one) => one.at, cell: (one) => make("time", { dateTime: one.at, title: exactly(one.at) }, when(one.at)) },
    { name: "partition", title: "Partition", value: (one) => `${one.topic}/${one.partition}`, cell: (one) => `${one.topic}/${one.partition}` },
    { name: "kind", title: "Kind", value: (one) => one.kind, cell: (one) => one.kind },
    { name: "action", title: "What happened", cell: (one) => badge(one.action === "stopped" ? "stopped" : `resolved by ${one.who}`, one.action === "stopped" ? "warn" : "good") },
    { name: "seen", title: "What was seen", wide: true, cell: (one) => capital(one.seen) },
  ], { sort: "at", down: true });
  list.show(rows);
  return list.element;
}
