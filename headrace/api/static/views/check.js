// The last acceptance test of the storage: what was checked, which promises it keeps, how fast it is.

import { get } from "../lib/api.js";
import { badge, command, empty, facts, fault, fill, loading, make, quiet } from "../lib/dom.js";
import { count, milliseconds, several, span, when } from "../lib/format.js";
import { table } from "../lib/table.js";

const RUN = "headrace check --report acceptance.pdf";
const OUTCOMES = { broken: ["broken", "bad"], not_needed: ["not kept, not needed", "warn"], not_tested: ["not tested", ""] };
const MET = { true: ["yes", "good"], false: ["no", "warn"], null: ["measured", ""] };

// Fills `element` with the report; called again whenever the view is shown.
export async function showCheck(element) {
  if (!element.firstChild) fill(element, loading("Loading the last check"));
  try {
    const { report } = await get("/v1/check");
    fill(element, report ? parts(report) : empty("No check was run in this home", quiet("It tests what Headrace relies on and measures each tier, in about a minute. Run it in a terminal:"), command(RUN)));
  } catch (error) {
    fill(element, fault(error, () => showCheck(element)));
  }
}

function parts(report) {
  const notes = report.promises.filter((one) => one.outcome !== "kept");
  return [
    make("p", {}, badge(report.broken ? `${report.broken} broken` : "no promise broken", report.broken ? "bad" : "good"), ` ${several(report.kept, "promise")} kept, ${count(report.not_needed)} not kept but not needed, ${count(report.not_tested)} not tested.`),
    facts([
      ["checked", when(report.started)],
      ["took", span(report.seconds)],
      ["from", `${report.host.name}, ${several(report.host.cores, "core")}`],
      ["version", report.version],
      ["in flight", count(report.concurrency)],
    ]),
    make("ul", { class: "places" }, report.subjects.map((one) => make("li", {}, make("span", { class: `tier ${one.tier}` }, one.tier), " ", make("span", {}, `${one.where}${one.embedded ? " (embedded)" : ""}`)))),
    notes.length ? make("ul", { class: "seen" }, notes.map((one) => make("li", {}, badge(...OUTCOMES[one.outcome]), ` ${one.promise}: ${one.seen}`))) : null,
    workloads(report.workloads),
    report.requirements.length ? requirements(report.requirements) : null,
    quiet("Run it again, and hand it over: "), command(RUN),
  ];
}

function workloads(rows) {
  const list = table("Throughput and latency", [
    { name: "tier", title: "Tier", value: (one) => one.tier, cell: (one) => make("span", { class: `tier ${one.tier}` }, one.tier) },
    { name: "workload", title: "Workload", value: (one) => one.workload, cell: (one) => [one.workload, make("span", { class: "reason" }, one.failed || one.shape)], wide: true },
    { name: "concurrency", title: "In flight", number: true, value: (one) => one.concurrency, cell: (one) => (one.failed ? "–" : count(one.concurrency)) },
    { name: "mib", title: "MiB/s", number: true, value: (one) => one.mib_per_s, cell: (one) => (one.bytes ? rate(one.mib_per_s) : "–") },
    { name: "ops", title: "Operations/s", number: true, value: (one) => one.ops_per_s, cell: (one) => (one.failed ? "failed" : rate(one.ops_per_s)) },
    ...["p50", "p95", "p99"].map((name) => ({ name, title: name, number: true, value: (one) => one[`${name}_ms`], cell: (one) => (one.failed ? "–" : milliseconds(one[`${name}_ms`])) })),
  ], { most: 9 });
  list.show(rows);
  return list.element;
}

function requirements(rows) {
  const list = table("NVIDIA's storage requirements for AI clouds", [
    { name: "id", title: "NVIDIA's id", value: (one) => one.id, cell: (one) => one.id },
    { name: "asks", title: "Asks for", value: (one) => one.asks, cell: (one) => one.asks, wide: true },
    { name: "met", title: "Met", value: (one) => String(one.met), cell: (one) => badge(...MET[one.met]) },
    { name: "seen", title: "Seen", cell: (one) => one.seen, wide: true },
  ]);
  list.show(rows);
  return list.element;
}

const rate = (value) => (value >= 100 ? count(Math.round(value)) : Number(value.toPrecision(3)).toString());
