// Training: what the loop waits for or does, its rounds, the models that are served, and moves between versions.

import { get, send } from "../lib/api.js";
import { badge, card, command, confirmed, dialog, drawing, empty, facts, fault, fill, gauge, loading, make, marked, quiet } from "../lib/dom.js";
import { ahead, bytes, capital, count, exactly, percent, several, signed, span, when } from "../lib/format.js";
import { latest } from "../lib/latest.js";
import { last, listen } from "../lib/live.js";
import { note } from "../lib/route.js";
import { table } from "../lib/table.js";

export const title = "Training";

const STATES = {
  starting: "starting", waiting: "waits for verdicts", training: "makes a round", paused: "pauses",
  elsewhere: "trains elsewhere", restarting: "starts again", ended: "ended", off: "off",
};
const KINDS = { training: "active", waiting: "good", paused: "warn", restarting: "warn" };
const STAGES = {
  land: "Lands what is on the head", plan: "Chooses what to learn from", prepare: "Prepares the dataset", power: "Says what the verdicts could show", finetune: "Fine-tunes",
  evaluate: "Compares with the champion", promote: "Decides", tidy: "Tidies up",
};
const PACKAGED = { ranking: "retrieval’s own order", reranker: "none", embedder: "the packaged one", generator: "the packaged one" };
const MOVES = { promote: "Promoted", rollback: "Rolled back", canary: "Canary started", canary_ended: "Canary ended" };

export const versionName = (model, version) => (version === "none" ? PACKAGED[model] ?? "none" : version);
const cased = (text) => `${capital(text)}${/[.!?]$/.test(text) ? "" : "."}`;

export function open(section) {
  const asked = latest();
  let visible = false;
  let seen = "";

  const state = make("span", { role: "status" });
  const now = make("div", { class: "stack" }, loading());
  const decision = make("div", { class: "stack" });
  const troubles = make("div", { class: "stack" });
  const models = make("div", { class: "stack" }, loading("Loading models"));
  const rounds = make("div", { class: "stack" }, loading("Loading rounds"));
  const moves = make("div", { class: "stack" }, loading("Loading the history"));
  fill(
    section,
    make("div", { class: "view-head" }, make("div", {}, make("h1", {}, "Training"), make("p", {}, "Users' verdicts become a dataset, a challenger is trained on it, and serves only if it beats the champion on held-out questions.")), state),
    troubles,
    make("div", { class: "columns" }, card("Now", now), card("Last decision", decision)),
    card("Models", models), card("Rounds", rounds), card("History of what was served", moves),
  );
  listen("loop", (loop) => {
    fill(state, badge(STATES[loop.state] ?? loop.state, KINDS[loop.state] ?? ""));
    fill(troubles, loopTroubles(loop));
    fill(now, loopNow(loop));
    fill(decision, lastDecision(loop.last));
    const versions = JSON.stringify([loop.last?.round, Object.values(loop.models).map((model) => [model.moves, model.canary])]);
    if (visible && versions !== seen) load();
    seen = versions;
  });
  setInterval(() => visible && last("loop") && fill(now, loopNow(last("loop"))), 5000); // times to come are told from now

  async function load() {
    const wanted = asked();
    try {
      const registry = await get("/v1/registry");
      if (!wanted()) return;
      fill(models, registry.models.map((one) => modelOf(one, last("loop"), load)));
      fill(moves, history(registry.moves));
    } catch (error) {
      if (!wanted()) return;
      fill(models, fault(error, load));
      fill(moves);
    }
    try {
      const found = await get("/v1/rounds");
      if (wanted()) fill(rounds, roundsTable(found));
    } catch (error) {
      if (wanted()) fill(rounds, fault(error, load));
    }
  }

  return {
    async show(parameters) {
      visible = true;
      await load();
      if (!parameters.round) return;
      const { round } = parameters;
      const found = (await get("/v1/rounds", { before: Number(round) + 1, limit: 1 })).data[0];
      if (found?.round === Number(round)) openRound(found);
      else dialog(`Round ${round}`, quiet("This home has no round of that number."), { kind: "small", closed: () => note("training") });
    },
    hide() {
      visible = false;
    },
  };
}

// ---- the loop --------------------------------------------------------------------------------------------------------

function loopTroubles({ trouble, landing, state }) {
  const lines = [...(landing?.troubles ?? [])];
  if (trouble) {
    const whose = trouble.recipe ? `The last round with ${trouble.recipe} failed${trouble.times > 1 ? `, ${trouble.times} times in a row` : ""}: ` : "";
    const again = trouble.next && state !== "ended" ? ` Next try ${ahead(trouble.next)}.` : "";
    lines.unshift(`${whose}${trouble.why} ${trouble.hint}${again}`);
  }
  return lines.map((text) => make("p", { class: "notice fault" }, marked(text)));
}

export function loopNow(loop) {
  if (loop.state === "off") return [make("p", {}, "No training loop runs: this was started with ", make("code", {}, "--no-train"), ". One round by hand:"), command("headrace train")];
  const parts = [];
  const { round } = loop;
  if (round && loop.state === "training") {
    const name = `${round.number ? `Round ${round.number}` : "Next round"} · ${round.recipe}`;
    const left = round.eta_s === null ? "" : `, about ${span(round.eta_s)} left`;
    const loss = round.loss === null || round.loss === undefined ? "" : `, loss ${round.loss.toFixed(3)}`;
    parts.push(gauge(name, round.step, round.steps, round.steps ? `step ${count(round.step)} of ${count(round.steps)}` : ""));
    if (round.power) parts.push(quiet(cased(round.power)));
    parts.push(quiet(`${STAGES[round.stage] ?? "Looks at the stores"}${loss}${left}${round.resumed ? ", resumed where it stopped" : ""}.`));
  }
  for (const one of loop.recipes) {
    const waits = one.note || (one.new && !one.due && one.due_at ? `a round starts at ${count(one.of)}, or ${ahead(one.due_at)}` : "");
    parts.push(gauge(one.recipe, one.new, one.of, `${count(one.new)} of ${several(one.of, "new verdict")}`));
    if (waits) parts.push(quiet(marked(cased(waits))));
  }
  if (loop.note) parts.push(quiet(marked(loop.note)));
  return parts.length ? parts : [quiet("The loop has not looked at the stores yet.")];
}

function lastDecision(decision) {
  if (!decision) return [quiet("No round has run since this was started.")];
  const timings = Object.entries(decision.timings).filter(([, seconds]) => seconds >= 0.05);
  const served = decision.promoted && decision.feedback_to_served !== null ? `From its newest verdict to served in ${span(decision.feedback_to_served)}: ` : "";
  return [
    make("p", {}, `Round ${decision.round} · ${decision.recipe} `, badge(decision.promoted ? `promoted ${decision.version}` : "rejected", decision.promoted ? "good" : "warn")),
    quiet(cased(decision.why)),
    decision.alarms.length ? make("ul", { class: "alarms" }, decision.alarms.map((alarm) => make("li", {}, alarm))) : null,
    decision.weights ? quiet(`Weights: ${weightsOf(decision.weights)}`) : null,
    timings.length ? quiet(served + timings.map(([name, seconds]) => `${name} ${span(seconds)}`).join(" · ")) : null,
  ];
}

// Per typical difference between two passages of a question, so that they can be compared; the largest first.
function weightsOf(weights) {
  const ordered = Object.entries(weights).filter(([, weight]) => Math.abs(weight) >= 0.005).sort((one, other) => Math.abs(other[1]) - Math.abs(one[1]));
  return ordered.map(([name, weight]) => `${name} ${signed(weight)}`).join(" · ") || "none";
}

// ---- models ----------------------------------------------------------------------------------------------------------

function modelOf({ pointer, versions }, loop, reload) {
  const { model } = pointer;
  const canary = pointer.canary;
  const status = loop?.models?.[model]?.canary_status;
  const back = canary ? "End the canary" : "Roll back";
  const list = table(`Released versions of ${model}`, [
    { name: "version", title: "Version", value: (one) => one.version, cell: (one) => one.version },
    { name: "round", title: "Round", number: true, value: (one) => one.round, cell: (one) => String(one.round) },
    { name: "recipe", title: "Recipe", cell: (one) => one.recipe || "–" },
    { name: "bytes", title: "Weights", number: true, value: (one) => one.bytes, cell: (one) => bytes(one.bytes) },
    { name: "share", title: "Answers", cell: (one) => (one.share === 1 ? badge("all answers", "good") : one.share ? badge(`${percent(one.share)} of the answers`, "active") : "–") },
    { name: "act", title: "", cell: (one) => (one.share === 1 ? null : make("button", { type: "button", class: "plain", "aria-label": `Promote ${model} ${one.version}`, onclick: () => promote(model, one.version, reload) }, "Promote")) },
  ]);
  list.show(versions);
  return make(
    "div", { class: "model" },
    make(
      "div", { class: "row apart" },
      make("h3", {}, capital(model), " ", badge(versionName(model, pointer.version), pointer.version === "none" ? "" : "good")),
      pointer.history.length || canary ? make("button", { type: "button", "aria-label": `${back}: ${model}`, onclick: () => rollback(pointer, reload) }, back) : null,
    ),
    pointer.moves ? quiet(`${MOVES[pointer.kind] ?? pointer.kind} by ${pointer.who}, ${exactly(pointer.at)}: ${cased(pointer.why)}`) : quiet("Nothing was promoted yet."),
    canary && status ? canaryOf(status) : null,
    versions.length ? list.element : null,
  );
}

function canaryOf(canary) {
  const side = ({ judged, outcome }) => `${count(judged)} judged${outcome === null ? "" : `, mean ${outcome.toFixed(3)}`}`;
  return make(
    "div", { class: "canary" }, gauge(`Canary: ${canary.version}`, canary.challenger.judged, canary.wanted, `${percent(canary.share)} of the answers`),
    quiet(`${several(canary.wanted, "judged answer")} wanted: it has ${side(canary.challenger)}; the champion ${side(canary.champion_side)} (${canary.measure}). It ends ${ahead(canary.until)} at the latest.`),
  );
}

const reasonField = () => make("input", { id: "move-why", maxLength: 1000, required: true, autocomplete: "off" });

function promote(model, version, reload) {
  const why = reasonField();
  confirmed(`Promote ${model} ${version}?`, make("p", {}, "It answers everybody from the next question on. The move is kept in the history with your reason."), "Promote", async () => {
    await send("POST", `/v1/registry/${model}/promote`, { version, why: why.value.trim() });
    reload();
  }, { fields: [make("label", { for: why.id }, "Why", why)] });
}

function rollback({ model, version, history: before, canary }, reload) {
  const why = reasonField();
  const to = versionName(model, before.at(-1));
  const words = canary ? `The canary ${canary.version} ends; ${versionName(model, version)} answers everybody again.` : `${versionName(model, version)} is taken back; ${to} answers everybody from the next question on.`;
  confirmed(canary ? "End the canary?" : `Roll ${model} back?`, make("p", {}, words), canary ? "End it" : "Roll back", async () => {
    await send("POST", `/v1/registry/${model}/rollback`, { why: why.value.trim() });
    reload();
  }, { danger: true, fields: [make("label", { for: why.id }, "Why", why)] });
}

function history(rows) {
  if (!rows.length) return quiet("No version was promoted or rolled back in the last year.");
  const list = table("Moves of the champions", [
    { name: "at", title: "When", value: (one) => one.at, cell: (one) => make("time", { dateTime: one.at, title: exactly(one.at) }, when(one.at)) },
    { name: "model", title: "Model", value: (one) => one.model, cell: (one) => one.model },
    { name: "kind", title: "Move", value: (one) => one.kind, cell: (one) => MOVES[one.kind] ?? one.kind },
    { name: "version", title: "Before → after", cell: (one) => (one.kind.startsWith("canary") ? one.version : `${versionName(one.model, one.previous)} → ${versionName(one.model, one.version)}`) },
    { name: "who", title: "Who", value: (one) => one.who, cell: (one) => one.who },
    { name: "why", title: "Why", wide: true, cell: (one) => one.why },
  ], { sort: "at", down: true });
  list.show(rows);
  return list.element;
}

// ---- rounds ----------------------------------------------------------------------------------------------------------

function roundsTable({ data, has_more: more }) {
  if (!data.length) return empty("No round has run yet", make("p", {}, "Verdicts on answers start one, or:"), command("headrace train"));
  const rows = [...data];
  const reach = Math.max(0.01, ...rows.flatMap(({ evaluation: e }) => [Math.abs(e.low ?? 0), Math.abs(e.high ?? 0)]));
  const list = table("Rounds of training", [
    { name: "round", title: "Round", titled: true, value: (one) => one.round, cell: (one) => make("button", { type: "button", class: "link", onclick: () => openRound(one) }, make("strong", {}, String(one.round))) },
    { name: "recipe", title: "Recipe", value: (one) => one.recipe, cell: (one) => one.recipe },
    { name: "committed", title: "Committed", value: (one) => one.committed, cell: (one) => make("time", { dateTime: one.committed, title: exactly(one.committed) }, when(one.committed)) },
    { name: "outcome", title: "Outcome", value: (one) => one.promoted, cell: (one) => badge(one.promoted ? `promoted ${one.version}` : "rejected", one.promoted ? "good" : "warn") },
    { name: "champion", title: "Champion", number: true, value: (one) => one.evaluation.champion, cell: (one) => one.evaluation.champion.toFixed(3) },
    { name: "challenger", title: "Challenger", number: true, value: (one) => one.evaluation.challenger, cell: (one) => one.evaluation.challenger.toFixed(3) },
    { name: "difference", title: "Difference, 95 % interval", value: (one) => one.evaluation.difference, cell: (one) => interval(one.evaluation, reach) },
    { name: "questions", title: "Questions", number: true, value: (one) => one.evaluation.questions, cell: (one) => count(one.evaluation.questions) },
  ], { sort: "round", down: true });
  list.show(rows);
  const next = make("button", {
    type: "button", hidden: !more, onclick: async () => {
      const found = await get("/v1/rounds", { before: Math.min(...rows.map((one) => one.round)) });
      rows.push(...found.data);
      list.show(rows);
      next.hidden = !found.has_more;
    },
  }, "Show earlier rounds");
  return [quiet(`${data[0].evaluation.measure} on questions that were not learned from.`), list.element, next];
}

// The difference of challenger and champion as a point with its interval, beside zero.
function interval({ difference, low, high }, reach) {
  if (low === undefined || low === null) return "–";
  const x = (value) => 60 + (value / reach) * 54;
  const kind = low > 0 ? "better" : high < 0 ? "worse" : "open";
  const said = `${signed(difference)} (${signed(low)} to ${signed(high)})`;
  return make("span", { class: `interval ${kind}` }, drawing(
    "svg", { viewBox: "0 0 120 16", role: "img", "aria-label": said }, drawing("line", { class: "zero", x1: 60, x2: 60, y1: 1, y2: 15 }),
    drawing("line", { class: "reach", x1: x(low), x2: x(high), y1: 8, y2: 8 }), drawing("circle", { cx: x(difference), cy: 8, r: 3.5 }),
  ), make("span", {}, said));
}

function openRound(one) {
  const { evaluation } = one;
  const sides = (title, found) => {
    const rows = Object.entries(found ?? {}).map(([name, difference]) => ({ name, ...difference }));
    if (!rows.length) return null;
    const reach = Math.max(0.01, ...rows.flatMap((row) => [Math.abs(row.low), Math.abs(row.high)]));
    const list = table(title, [
      { name: "name", title, value: (row) => row.name, cell: (row) => row.name },
      { name: "questions", title: "Questions", number: true, cell: (row) => count(row.questions) },
      { name: "champion", title: "Champion", number: true, cell: (row) => row.champion.toFixed(3) },
      { name: "challenger", title: "Challenger", number: true, cell: (row) => row.challenger.toFixed(3) },
      { name: "difference", title: "Difference", cell: (row) => interval(row, reach) },
    ]);
    list.show(rows);
    return list.element;
  };
  note("training", { round: one.round });
  dialog(`Round ${one.round} · ${one.recipe}`, make(
    "div", { class: "stack" },
    make("p", {}, badge(one.promoted ? `promoted ${one.version}` : "rejected", one.promoted ? "good" : "warn"), " ", cased(one.why)),
    one.alarms.length ? make("ul", { class: "alarms" }, one.alarms.map((alarm) => make("li", {}, alarm))) : null,
    facts([
      ["Measure", evaluation.measure],
      ["Champion", `${versionName(one.model, one.champion)}: ${evaluation.champion.toFixed(3)}`],
      ["Challenger", evaluation.challenger.toFixed(3)],
      ["Questions", `${count(evaluation.questions)}, judged by ${several(evaluation.users ?? 0, "user")}`],
      evaluation.confidence !== null && evaluation.confidence !== undefined && ["Confidence", percent(evaluation.confidence)],
      evaluation.retrieval !== null && evaluation.retrieval !== undefined && ["Retrieval's own order", evaluation.retrieval.toFixed(3)],
      evaluation.card?.ranking && ["Weights", weightsOf(evaluation.card.ranking.weights)],
      one.power && ["What the verdicts could show", `${count(one.power.questions)} questions: a gain of ${(one.power.gain ?? 0).toFixed(3)} or more`],
      ["Dataset", one.dataset],
      ["Committed", exactly(one.committed)],
      one.feedback_to_served !== null && ["Newest verdict to served", span(one.feedback_to_served)],
      ["Run", make("a", { href: `#/storage?run=${encodeURIComponent(one.run)}` }, one.run)],
    ]),
    sides("Beside the score", evaluation.beside), sides("Tenant", evaluation.tenants), sides("Without the questions of", evaluation.without),
    make("h3", {}, "Where its time went"), facts(Object.entries(one.timings).filter(([, seconds]) => seconds >= 0.05).map(([name, seconds]) => [capital(name), span(seconds)])),
  ), { kind: "wide", closed: () => note("training") });
}
