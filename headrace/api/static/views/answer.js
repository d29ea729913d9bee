// One answer: its text with citations, where its time went, the passages it was made from, and the verdict on it.

import { badge, facts, make, quiet } from "../lib/dom.js";
import { ago, bytes, capital, count, exactly, milliseconds, percent, score, TIERS, words } from "../lib/format.js";
import { table } from "../lib/table.js";
import { openDocument } from "./reader.js";
import { judged, judgement } from "./verdict.js";

// `entry` is {question, tenant, at, answer, verdict}; `changed()` is called when its verdict has changed.
export function answered(entry, { open, changed }) {
  const { answer, question } = entry;
  const text = make("p", { class: "text" }, withCitations(entry));
  const body = make(
    "div", { class: "stack" }, answer.asked_as ? quiet(`Asked as: ${answer.asked_as}`) : null, text, quiet(sentence(answer)),
    answer.note ? make("p", { class: "notice" }, `Note: ${answer.note}`) : null,
    ...(answer.kind === "small_talk" || answer.kind === "task" ? [] : [
      sources(entry), latency(answer), judgement(entry, changed), passages(entry), versions(answer),
    ]),
  );
  return make(
    "article", { class: "card answer", "aria-label": question },
    make("details", { open, class: "fold" }, make("summary", {}, make("h2", {}, question), make("span", { class: "quiet", title: exactly(entry.at) }, ago(entry.at))), body),
  );
}

function sentence(answer) {
  const { total, first_token: first } = answer.timings_ms;
  const cited = answer.citations?.length ?? 0;
  const quoted = answer.mode === "extractive";
  const found = answer.passages?.length ?? 0;
  const stands = answer.kind === "small_talk" || answer.kind === "task" ? "It is no question to the documents, and not recorded."
    : !found ? "No passage was found."
    : answer.refused ? "The documents hold no answer; the nearest passages are below."
    : quoted ? `Quoted word for word from ${cited === 1 ? "a passage" : `${cited} passages`}.`
    : cited ? `It cites ${cited} of ${found} passages.`
    : "No sentence of it is supported by a passage; judge it with care.";
  return `Answered in ${milliseconds(total)}, first words after ${milliseconds(first)}. ${stands}`;
}

function withCitations(entry) {
  return entry.answer.answer.split(/(\[\d+\])/).map((part) => {
    const number = Number(/^\[(\d+)\]$/.exec(part)?.[1]);
    const passage = (entry.answer.passages ?? []).find((one) => one.number === number);
    if (!passage) return part;
    return make("button", {
      type: "button", class: "cite", "aria-label": `Open passage ${number} in ${passage.document}`, title: passage.document, onclick: () => show(entry, passage),
    }, String(number));
  });
}

function sources(entry) {
  const cited = entry.answer.citations ?? [];
  if (!cited.length) return null;
  return make("ul", { class: "sources", "aria-label": "Sources" }, cited.map((one) => make("li", {}, make(
    "button", { type: "button", onclick: () => show(entry, (entry.answer.passages ?? []).find((passage) => passage.number === one.number) ?? one) },
    make("span", { class: "cite" }, String(one.number)),
    make(
      "span", {}, make("strong", {}, one.document), [one.heading, one.place, alsoIn(one)].filter(Boolean).map((part) => ` · ${part}`),
      ...(entry.answer.mode === "extractive" ? one.spans.filter(shortened).map(quote) : []),
    ),
  ))));
}

// Whether the answer says only some words of a quote; a list's mark, bold and the breaks of lines are none.
function shortened(span) {
  const length = (text) => text.replace(/\s/g, "").length;
  return length(span.sentence) < length(withoutBold(span.quote)) - 1;
}

// As `without_bold` in models/support.py.
const withoutBold = (text) => text.replace(/(?<![\w*\\`])(\*{2,3})(?=[^\s*])([^*`\n]+)(?<=\S)\1(?![\w*`])/g, "$2");

// The whole quote, with the words that the answer says; the cells of a table row with dots between them.
function quote(span) {
  const whole = withoutBold(span.quote);
  const text = whole.startsWith("|") ? whole.replace(/^[| ]+|[| ]+$/g, "").replaceAll("|", "·") : whole;
  const at = text.indexOf(span.sentence);
  const parts = at < 0 ? [text] : [text.slice(0, at), make("mark", {}, span.sentence), text.slice(at + span.sentence.length)];
  return make("span", { class: "quote" }, "“", ...parts, "”");
}

// The other documents that hold the passage's text.
function alsoIn(passage) {
  const others = (passage.sources ?? []).slice(1).map((source) => [source.document, source.place].filter(Boolean).join(" "));
  return others.length ? `also in ${others.slice(0, 3).join(", ")}${others.length > 3 ? ` and ${others.length - 3} more` : ""}` : "";
}

// The passage in its document, with what retrieval and re-ranking said of it.
function show(entry, passage) {
  const citation = (entry.answer.citations ?? []).find((one) => one.chunk_id === passage.chunk_id);
  const quotes = citation ? citation.spans.map((span) => span.quote).filter(Boolean) : [];
  const beneath = [ranks(passage), judged(entry, passage)];
  openDocument(passage.document, { tenant: entry.tenant, chunkId: passage.chunk_id, quotes, beneath });
}

function ranks(passage) {
  const known = (value) => value !== null && value !== undefined;
  return facts([
    ["Retrieval score", known(passage.retrieval_score) ? score(passage.retrieval_score) : "for admins only"],
    ["Retrieval rank", String(passage.retrieval_rank)],
    ["Re-rank score", known(passage.rerank_score) ? score(passage.rerank_score) : "none: no re-ranker scored it"],
    ["Re-rank rank", known(passage.rerank_rank) ? String(passage.rerank_rank) : "none: retrieval's order is kept"],
  ]);
}

// ---- where the time went ---------------------------------------------------------------------------------------------

const STEPS = [
  ["retrieve", "Retrieve"], ["rerank", "Re-rank"], ["generate_kv_read", "KV load"], ["generate_prefill", "Prefill"],
  ["generate_decode", "Decode"], ["generate_kv_write", "KV save"], ["extract", "Quote"],
];

function latency(answer) {
  const times = answer.timings_ms;
  const steps = STEPS.filter(([name]) => times[name] !== undefined).map(([name, label]) => ({ name, label, ms: times[name] }));
  const known = steps.reduce((sum, step) => sum + step.ms, 0);
  const rest = times.total - known;
  if (rest > 0.02 * times.total) steps.push({ name: "rest", label: "Other", ms: rest });
  const whole = Math.max(times.total, known, 0.1);
  const said = steps.map((step) => `${step.label} ${milliseconds(step.ms)}`).join(", ");
  const bar = make("div", { class: "latency", role: "img", "aria-label": `Where ${milliseconds(times.total)} went: ${said}` });
  for (const step of steps) {
    const part = make("span", { class: `step ${step.name}`, title: `${step.label}: ${milliseconds(step.ms)}` });
    part.style.flexGrow = step.ms / whole;
    bar.append(part);
  }
  const legend = make("ul", { class: "legend" }, steps.map((step) => make("li", { class: `step ${step.name}` }, step.label, " ", make("b", {}, milliseconds(step.ms)))));
  return make("div", { class: "where" }, bar, legend, moved(answer));
}

function moved(answer) {
  const tiers = new Map();
  for (const [name, size] of Object.entries(answer.bytes ?? {})) {
    const [tier, direction] = name.split("_");
    tiers.set(tier, { ...tiers.get(tier), [direction]: size });
  }
  const usage = answer.usage;
  const cached = usage?.prompt_tokens_details?.cached_tokens ?? 0;
  const parts = [...tiers].map(([tier, { read, write }]) => make(
    "li", { class: `tier ${tier}` }, `${TIERS[tier] ?? capital(tier)} `,
    make("b", {}, [read !== undefined && `${bytes(read)} read`, write !== undefined && `${bytes(write)} written`].filter(Boolean).join(", ")),
  ));
  if (usage?.prompt_tokens) {
    parts.push(make("li", {}, "Tokens from KV ", make("b", {}, `${count(cached)} of ${count(usage.prompt_tokens)} (${percent(cached / usage.prompt_tokens)})`)));
  }
  return make("ul", { class: "legend", "aria-label": "Bytes by tier, and tokens" }, parts);
}

// ---- passages --------------------------------------------------------------------------------------------------------

function passages(entry) {
  const { answer } = entry;
  const all = answer.candidates?.length ? answer.candidates : (answer.passages ?? []).map((one) => ({ ...one, used: one.number, dropped: "" }));
  if (!all.length) return null;
  const cited = new Set((answer.citations ?? []).map((one) => one.number));
  const used = all.filter((one) => one.used).length;
  const list = table(`Passages retrieved for ${entry.question}`, [
    {
      name: "passage", title: "Passage", wide: true, value: (one) => one.document,
      cell: (one) => make("button", { type: "button", class: "link", onclick: () => show(entry, one) }, make("strong", {}, one.document), [one.heading, alsoIn(one)].filter(Boolean).map((part) => ` · ${part}`), make("span", { class: "excerpt" }, one.text)),
    },
    { name: "retrieval", title: "Retrieval score", number: true, value: (one) => one.retrieval_score, cell: (one) => score(one.retrieval_score) },
    { name: "rerank", title: "Re-rank score", number: true, value: (one) => one.rerank_score, cell: (one) => score(one.rerank_score) },
    { name: "rank", title: "Rank before → after", number: true, value: (one) => one.rerank_rank ?? one.retrieval_rank, cell: rank },
    {
      name: "outcome", title: "Outcome", wide: true, value: (one) => (one.used ? one.used : 1000 + (one.rerank_rank ?? one.retrieval_rank)),
      cell: (one) => (one.used ? badge(cited.has(one.used) ? `cited as ${one.used}` : `used, not cited`, cited.has(one.used) ? "good" : "active") : make("span", { class: "quiet" }, `Dropped: ${one.dropped}`)),
    },
  ], { sort: "outcome", most: 8 });
  list.show(all);
  return make(
    "details", { class: "inspect" }, make("summary", {}, `Passages: ${all.length} retrieved, ${used} used`),
    all.some((one) => one.rerank_rank !== null && one.rerank_rank !== undefined) ? null : quiet("No ranking or re-ranker has been promoted yet: retrieval's order is kept."), list.element,
  );
}

function rank(one) {
  const before = one.retrieval_rank;
  const after = one.rerank_rank;
  if (after === null || after === undefined) return `${before}`;
  const kind = after < before ? "rose" : after > before ? "fell" : "";
  return make("span", { class: kind }, `${before} → ${after}`, kind ? make("span", { class: "unseen" }, ` (${kind})`) : null);
}

function versions(answer) {
  return make(
    "details", { class: "inspect" }, make("summary", {}, "Versions and timings"),
    facts([
      ["Index", answer.index_version],
      ["Re-ranker", answer.model_version],
      ["Ranking", answer.ranking_version ?? "none"],
      ["Generator", answer.generator_version && answer.generator_version !== "none" ? answer.generator_version : answer.mode === "extractive" ? "none: the answer is quoted" : "none: nothing to write from"],
      ["Answer", answer.answer_id],
      answer.filters && ["Filter", answer.filters.join(", ")],
      answer.groundedness !== null && answer.groundedness !== undefined && ["Sentences supported", percent(answer.groundedness)],
      answer.similarity !== null && answer.similarity !== undefined && ["Nearest passage", `cosine ${answer.similarity.toFixed(3)}`],
      ...Object.entries(answer.timings_ms).map(([name, ms]) => [capital(words(name.replace("generate_", ""))), milliseconds(ms)]),
    ]),
  );
}
