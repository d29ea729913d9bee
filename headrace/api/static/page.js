// The page. Everything that comes from answers and documents goes in as text, never as markup.
"use strict";

const at = (id) => document.getElementById(id);

function make(name, properties = {}, ...children) {
  const { class: classes, ...rest } = properties;
  const element = document.createElement(name);
  if (classes) element.className = classes;
  for (const [key, value] of Object.entries(rest)) {
    if (key.startsWith("aria-") || key === "role" || key === "scope" || key === "for") element.setAttribute(key, value);
    else element[key] = value;
  }
  element.append(...children);
  return element;
}

function bytes(count) {
  const units = ["B", "KB", "MB", "GB", "TB", "PB"];
  let value = count;
  let unit = 0;
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  const shown = unit === 0 || value >= 99.95 ? Math.round(value) : Number(value.toFixed(1));
  return `${shown} ${units[unit]}`;
}

function milliseconds(ms) {
  if (ms < 9.95) return `${Number(ms.toFixed(1))} ms`;
  return ms < 999.5 ? `${Math.round(ms)} ms` : `${Number((ms / 1000).toFixed(1))} s`;
}

function duration(seconds) {
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

// Sentences mark commands with backticks.
const marked = (sentence) => sentence.split("`").map((part, index) => (index % 2 ? make("code", {}, part) : part));

const score = (value) => (Math.abs(value) >= 10 ? value.toFixed(1) : value.toFixed(4));

// ---- talking to the server -------------------------------------------------------------------------------------------

class Told extends Error {
  constructor(message, code) {
    super(message);
    this.code = code;
  }
}

// The token comes in the address behind #, which no server is ever sent, and is kept for this tab alone: a cookie would go to every
// server on this machine, whatever its port.
const KEPT = "headrace-token";
let held = "";

function token() {
  const brought = new URLSearchParams(location.hash.slice(1)).get("token");
  if (brought) history.replaceState(null, "", location.pathname);
  try {
    if (brought) sessionStorage.setItem(KEPT, brought);
    held = sessionStorage.getItem(KEPT) ?? "";
  } catch {
    held = brought || held; // a browser that stores nothing keeps it until the page is loaded again
  }
  return held;
}

const LOST = "The server cannot be reached. Is `headrace up` still running? Start it again and open the address it prints.";

const STALE = "The token is no longer right. Open the address that `headrace up` printed last.";
const NO_TOKEN = "This page needs a token. Open the address that `headrace up` printed in its terminal; it carries one.";

async function call(path, body, signal) {
  let response;
  try {
    const headers = { Authorization: `Bearer ${token()}` };
    response = await fetch(path, body === undefined ? { headers, signal } : {
      method: "POST",
      headers: { ...headers, "Content-Type": "application/json" },
      body: JSON.stringify(body),
      signal,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Told(LOST, "lost");
  }
  if (response.ok) return response;
  let told;
  try {
    told = (await response.json()).error;
  } catch {
    told = { message: `The server said ${response.status}. Try again.`, code: "" };
  }
  if (response.status === 401) told.message = token() ? STALE : NO_TOKEN;
  throw new Told(told.message, told.code);
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let pending = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    pending += value;
    let end;
    while ((end = pending.indexOf("\n\n")) >= 0) {
      const lines = pending.slice(0, end).split("\n");
      pending = pending.slice(end + 2);
      const of = (field) => lines.filter((line) => line.startsWith(`${field}: `)).map((line) => line.slice(field.length + 2)).join("\n");
      yield { name: of("event"), data: JSON.parse(of("data")) };
    }
  }
}

// ---- asking ----------------------------------------------------------------------------------------------------------

let asking = null;

async function ask(question, tenant) {
  const leaving = new AbortController();
  asking = leaving;
  at("question").select();
  at("send").disabled = true;
  at("stop").hidden = false;

  const status = make("p", { class: "quiet", role: "status" }, "Looking for passages …");
  const text = make("p", { class: "text" });
  text.hidden = true;
  const article = make("article", {}, make("h3", {}, question), text, status);
  at("answers").prepend(article);

  const began = performance.now();
  const clock = setInterval(() => {
    const seconds = Math.round((performance.now() - began) / 1000);
    if (seconds >= 2) status.textContent = text.hidden ? `Reading passages … ${seconds} s` : `Writing … ${seconds} s`;
  }, 1000);
  try {
    const response = await call("/v1/ask", { question, tenant, stream: true }, leaving.signal);
    let answer = null;
    for await (const { name, data } of events(response)) {
      if (name === "error") throw new Told(data.error.message, data.error.code);
      if (name === "answer") {
        answer = data;
      } else if (name === "piece") {
        text.hidden = false;
        text.classList.add("writing");
        text.append(data.text);
      }
    }
    if (answer === null) throw new Told("The answer broke off. Ask again.", "");
    showAnswer(article, text, status, answer);
  } catch (error) {
    if (error.name === "AbortError") {
      status.textContent = "Stopped. What was written so far is not recorded.";
    } else {
      status.remove();
      const told = error instanceof Told ? error.message : LOST;
      article.append(make("p", { class: "notice fault", role: "alert" }, ...marked(told)));
      if (error.code === "nothing_indexed") showStanding();
    }
  } finally {
    clearInterval(clock);
    text.classList.remove("writing");
    asking = null;
    at("send").disabled = false;
    at("stop").hidden = true;
    drawSoon(true);
  }
}

function showAnswer(article, text, status, answer) {
  const passages = make("ol", { class: "passages", "aria-label": "Passages of the answer" });
  const opened = new Map();
  for (const passage of answer.passages) {
    const item = passageItem(answer, passage);
    opened.set(String(passage.number), item.firstChild);
    passages.append(item);
  }
  text.hidden = false;
  text.replaceChildren(...withCitations(answer.answer, opened));
  status.textContent = sentence(answer);
  if (answer.note) article.append(make("p", { class: "notice" }, `Note: ${answer.note}`));
  if (answer.passages.length) article.append(passages);
  article.append(verdict(answer), howMade(answer));
}

function sentence(answer) {
  const { total, first_token: first } = answer.timings_ms;
  const cited = answer.citations.length;
  const quoted = answer.mode === "extractive";
  const stands = !answer.passages.length ? "No passage was found."
    : answer.refused ? "The nearest passages are below."
    : quoted ? `Quoted word for word from ${cited === 1 ? "a passage" : `${cited} passages`}.`
    : cited ? `It cites ${cited} of ${answer.passages.length} passages.`
    : "No sentence of it is supported by a passage; judge it with care.";
  return `Answered in ${milliseconds(total)}, first words after ${milliseconds(first)}. ${stands}`;
}

function withCitations(text, opened) {
  return text.split(/(\[\d+\])/).map((part) => {
    const number = /^\[(\d+)\]$/.exec(part)?.[1];
    const details = opened.get(number);
    if (!details) return part;
    const button = make("button", { type: "button", class: "cite", "aria-label": `Show passage ${number}` }, number);
    button.addEventListener("click", () => {
      details.open = true;
      details.querySelector("summary").focus();
      details.scrollIntoView({ block: "nearest" });
    });
    return button;
  });
}

function facts(pairs) {
  return make("dl", { class: "facts" }, ...pairs.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
}

function passageItem(answer, passage) {
  const about = make("span", { class: "document" }, passage.document);
  if (passage.heading) about.append(make("span", { class: "heading" }, ` · ${passage.heading}`));
  const summary = make(
    "summary", {},
    make("span", { class: "number" }, String(passage.number)),
    about,
    make("span", { class: "cited" }, passage.cited ? "cited" : "not cited"),
  );
  const reranked = passage.rerank_score !== null;
  const said = make("p", { class: "quiet", role: "status" });
  const buttons = [["It helped", true], ["It did not help", false]].map(([label, up]) => {
    const button = make("button", { type: "button" }, label);
    button.addEventListener("click", () => judge({ answer_id: answer.answer_id, up, chunk_id: passage.chunk_id }, said, buttons, button));
    return button;
  });
  return make("li", {}, make(
    "details", {}, summary,
    make(
      "div", { class: "inside" },
      make("blockquote", {}, passage.text),
      facts([
        ["Retrieval score", score(passage.retrieval_score)],
        ["Retrieval rank", String(passage.retrieval_rank)],
        ["Re-rank score", reranked ? score(passage.rerank_score) : "none: no re-ranker scored it"],
        ["Re-rank rank", reranked ? String(passage.rerank_rank) : "none"],
        ["Chunk", passage.chunk_id],
      ]),
      make("div", { class: "row" }, make("span", { class: "quiet" }, "This passage:"), ...buttons),
      said,
    ),
  ));
}

function howMade(answer) {
  const words = (name) => name.replaceAll("_", " ");
  const moved = Object.entries(answer.bytes);
  return make(
    "details", { class: "made" }, make("summary", {}, "How it was made: versions, timings, bytes"),
    make("h4", {}, "Versions"),
    facts([
      ["Index", answer.index_version],
      ["Re-ranker", answer.model_version === "none" ? "none: retrieval order stands" : answer.model_version],
      ["Generator", answer.generator_version !== "none" ? answer.generator_version : answer.mode === "extractive" ? "none: the answer is quoted" : "none: nothing to write from"],
      ["Answer", answer.answer_id],
    ]),
    make("h4", {}, "Timings"),
    facts(Object.entries(answer.timings_ms).map(([name, ms]) => [words(name), milliseconds(ms)])),
    make("h4", {}, "Bytes moved by tier"),
    moved.length ? facts(moved.map(([name, count]) => [words(name), bytes(count)])) : make("p", { class: "quiet" }, "None."),
  );
}

// ---- verdicts --------------------------------------------------------------------------------------------------------

let forms = 0;

function thumb(up) {
  const drawing = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  for (const [name, value] of [["viewBox", "0 0 16 16"], ["aria-hidden", "true"], ["class", up ? "" : "down"]]) drawing.setAttribute(name, value);
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", "M1.5 7h3v7h-3zM4.5 7.5 7.5 1.5c1.5 0 2 1 1.7 2.3L8.7 6h4.1c1.2 0 1.9 1 1.6 2.1l-1.2 4.5c-.2.9-.9 1.4-1.8 1.4H4.5");
  drawing.append(path);
  return drawing;
}

function verdict(answer) {
  const id = `verdict-${(forms += 1)}`;
  const said = make("p", { class: "quiet", role: "status" });
  const reason = make("input", { id: `${id}-reason`, maxLength: 1000, autocomplete: "off" });
  const correction = make("input", { id: `${id}-correction`, maxLength: 4000, autocomplete: "off" });
  const better = make("label", { for: correction.id }, "What the answer should have been (optional)", correction);
  const record = make("button", { class: "main" }, "Record verdict");
  const why = make("form", { class: "why" }, make("label", { for: reason.id }, "Why (optional)", reason), better, record);
  why.hidden = true;
  let up = true;
  const thumbs = [["Helpful", true], ["Not helpful", false]].map(([label, value]) => {
    const button = make("button", { type: "button", class: "thumb", "aria-pressed": "false" }, thumb(value), label);
    button.addEventListener("click", () => {
      up = value;
      for (const other of thumbs) other.setAttribute("aria-pressed", String(other === button));
      why.hidden = false;
      better.hidden = up;
      said.textContent = "";
      reason.focus();
    });
    return button;
  });
  why.addEventListener("submit", async (event) => {
    event.preventDefault();
    const given = { answer_id: answer.answer_id, up, reason: reason.value.trim() };
    if (!up) given.correction = correction.value.trim();
    if (await judge(given, said, [...thumbs, record])) why.hidden = true;
  });
  return make("fieldset", { class: "verdict" }, make("legend", {}, "Was this answer helpful?"), make("div", { class: "row" }, ...thumbs), why, said);
}

async function judge(given, said, buttons, pressed) {
  for (const button of buttons) button.disabled = true;
  said.className = "quiet";
  said.textContent = "Recording …";
  try {
    const where = await (await call("/v1/feedback", given)).json();
    pressed?.setAttribute("aria-pressed", "true");
    said.className = "recorded";
    said.textContent = `Recorded as ${given.up ? "helpful" : "not helpful"}, on the head at ${where.topic}/${where.partition}/${where.offset}. The next round learns from it.`;
    return true;
  } catch (error) {
    for (const button of buttons) button.disabled = false;
    said.className = "notice fault";
    said.replaceChildren(...marked(`Not recorded. ${error.message}`));
    return false;
  }
}

// ---- the index -------------------------------------------------------------------------------------------------------

async function showStanding() {
  try {
    const tenant = at("tenant").value;
    const standing = await (await call(`/v1/index${tenant && at("tenant").validity.valid ? `?tenant=${encodeURIComponent(tenant)}` : ""}`)).json();
    if (!tenant) at("tenant").value = standing.tenant;
    at("empty").hidden = standing.passages > 0;
    at("how").textContent = `headrace index PATH${standing.tenant === standing.default_tenant ? "" : ` --tenant ${standing.tenant}`}`;
    at("index").textContent = standing.passages > 0
      ? `${standing.passages.toLocaleString("en")} passages are indexed for tenant ${standing.tenant} (index version ${standing.index_version}).` : "";
  } catch (error) {
    at("index").replaceChildren(...marked(error.message));
  }
}

// ---- the live ledger -------------------------------------------------------------------------------------------------

const TIERS = { stream: "stream (Kafka)", file: "file", vector: "vector", table: "table", object: "object" };
let operations = 0;

let following = false;

async function follow() {
  if (following) return;
  following = true;
  const state = at("state");
  let again = true;
  let message = "Connection lost; trying again. Is `headrace up` still running?";
  try {
    for await (const { name, data } of events(await call("/v1/events"))) {
      if (name === "totals") showTotals(data);
      if (name === "loop") {
        loop = data;
        showLoop();
      }
      if (name === "health") showHealth(data);
    }
  } catch (error) {
    if (error instanceof Told && error.code !== "lost") message = error.message;
    again = error.code !== "invalid_api_key"; // which another address mends, and no patience
  }
  following = false;
  state.className = "lost";
  state.replaceChildren(...marked(message));
  if (again) setTimeout(follow, 5000);
}

function showTotals(totals) {
  const state = at("state");
  state.className = "";
  const under = totals.answering || totals.waiting ? ` · ${totals.answering} being answered, ${totals.waiting} waiting` : "";
  const lasting = totals.state === "running" ? `running for ${duration(totals.seconds)}` : totals.state;
  state.textContent = `Run ${totals.run}: ${lasting}${under}`;
  at("tiers").tBodies[0].replaceChildren(...totals.tiers.map(tierRow));
  // Landing asks the object tier every other second who else lands: that is nothing to draw.
  const now = totals.tiers.reduce((sum, tier) => sum + (tier.tier === "object" ? 0 : tier.ops), 0);
  if (now !== operations) {
    operations = now;
    drawSoon();
  }
}

// Nothing where every part is ready, else a line for each that is not.
function showHealth({ parts, unrecorded_answers: waiting }) {
  const told = parts.filter((part) => !part.ready)
    .map((part) => `${part.part} ${part.state}, for ${duration(part.for_s)}. ${part.remedy}`);
  if (waiting) told.push(`${several(waiting, "answer")} ${waiting === 1 ? "waits" : "wait"} to be recorded until the head takes them.`);
  at("health").replaceChildren(...told.map((text) => make("p", { class: "notice fault" }, ...marked(text))));
}

function tierRow(tier) {
  const amount = (count) => (count && tier.estimated ? `≈ ${bytes(count)}` : bytes(count));
  return make(
    "tr", {},
    make("th", { scope: "row", class: tier.tier }, TIERS[tier.tier] ?? tier.tier),
    make("td", {}, amount(tier.read_bytes)),
    make("td", {}, amount(tier.written_bytes)),
    make("td", {}, tier.ops.toLocaleString("en")),
  );
}

// ---- the training loop -----------------------------------------------------------------------------------------------

const STATES = {
  starting: "starting", waiting: "waits for verdicts", training: "makes a round", paused: "pauses",
  elsewhere: "trains elsewhere", restarting: "starts again", ended: "ended", off: "off",
};
const STAGES = {
  land: "Lands what is on the head", plan: "Chooses what to learn from", prepare: "Prepares the dataset", finetune: "Fine-tunes",
  evaluate: "Compares with the champion", promote: "Decides", tidy: "Tidies up",
};
const PACKAGED = { reranker: "retrieval’s own order", embedder: "the packaged one", generator: "the packaged one" };
const MOVES = { promote: "Promoted", rollback: "Rolled back", canary: "Canary started", canary_ended: "Canary ended" };
let loop = null;

const several = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
const percent = (share) => `${Number((share * 100).toFixed(1))} %`;

function span(seconds) {
  if (seconds < 10) return `${Number(seconds.toFixed(1))} s`;
  return duration(Math.round(seconds));
}

function ahead(time) {
  const seconds = (new Date(time) - Date.now()) / 1000;
  return seconds > 1 ? `in ${span(seconds)}` : "now";
}

function gauge(name, value, of, detail) {
  const bar = make("progress", { max: Math.max(of, 1), value: Math.min(value, of), "aria-label": name });
  return make("div", { class: "gauge" }, make("div", { class: "row" }, make("strong", {}, name), make("span", {}, detail)), bar);
}

function showLoop() {
  if (!loop) return;
  const state = at("loop-state");
  state.className = `badge ${loop.state}`;
  state.textContent = STATES[loop.state] ?? loop.state;
  at("loop-troubles").replaceChildren(...loopTroubles());
  at("loop-now").replaceChildren(...loopNow());
  at("loop-last").replaceChildren(...loopLast());
  at("loop-models").replaceChildren(...loopModels());
}

function loopTroubles() {
  const { trouble } = loop;
  const told = [...(loop.landing?.troubles ?? [])];
  if (trouble) {
    const whose = trouble.recipe ? `The last round with ${trouble.recipe} failed${trouble.times > 1 ? `, ${trouble.times} times in a row` : ""}: ` : "";
    const again = trouble.next && loop.state !== "ended" ? ` Next try ${ahead(trouble.next)}.` : "";
    told.unshift(`${whose}${trouble.why} ${trouble.hint}${again}`);
  }
  return told.map((text) => make("p", { class: "notice fault" }, ...marked(text)));
}

function loopNow() {
  if (loop.state === "off") return [make("p", {}, "No training loop runs: this was started with ", make("code", {}, "--no-train"), ".")];
  const parts = [];
  const { round } = loop;
  if (round && loop.state === "training") {
    const name = `${round.number ? `Round ${round.number}` : "Next round"} · ${round.recipe}`;
    const left = round.eta_s === null ? "" : `, about ${span(round.eta_s)} left`;
    const loss = round.loss === null || round.loss === undefined ? "" : `, loss ${round.loss.toFixed(3)}`;
    const what = round.steps ? `step ${round.step.toLocaleString("en")} of ${round.steps.toLocaleString("en")}` : "";
    parts.push(gauge(name, round.step, round.steps, what));
    parts.push(make("p", { class: "quiet" }, `${STAGES[round.stage] ?? "Looks at the stores"}${loss}${left}${round.resumed ? ", resumed where it stopped" : ""}.`));
  }
  for (const one of loop.recipes) {
    const waits = one.note || (one.new && !one.due && one.due_at ? `a round starts at ${one.of.toLocaleString("en")}, or ${ahead(one.due_at)}` : "");
    parts.push(gauge(one.recipe, one.new, one.of, `${one.new.toLocaleString("en")} of ${several(one.of, "new verdict")}`));
    if (waits) parts.push(make("p", { class: "quiet" }, `${waits[0].toUpperCase()}${waits.slice(1)}.`));
  }
  if (loop.note) parts.push(make("p", { class: "quiet" }, ...marked(loop.note)));
  return parts;
}

function loopLast() {
  const { last } = loop;
  if (!last) return [make("p", { class: "quiet" }, "No round was made yet. Verdicts on answers start one.")];
  const outcome = make("span", { class: `outcome ${last.promoted ? "promoted" : "refused"}` }, last.promoted ? `promoted ${last.version}` : "refused");
  const parts = [
    make("p", {}, `Round ${last.round} · ${last.recipe}: `, outcome),
    make("p", { class: "quiet" }, `${last.why[0].toUpperCase()}${last.why.slice(1)}.`),
  ];
  if (last.alarms.length) parts.push(make("ul", { class: "alarms" }, ...last.alarms.map((alarm) => make("li", {}, alarm))));
  const timings = Object.entries(last.timings).filter(([, seconds]) => seconds >= 0.05);
  const served = last.promoted && last.feedback_to_served !== null ? `From its newest verdict to served in ${span(last.feedback_to_served)}: ` : "";
  if (timings.length) parts.push(make("p", { class: "quiet" }, served + timings.map(([name, seconds]) => `${name} ${span(seconds)}`).join(" · ")));
  return parts;
}

function loopModels() {
  const found = Object.entries(loop.models);
  if (!found.length) return [make("p", { class: "quiet" }, "Not known yet.")];
  return [make("dl", { class: "serving" }, ...found.map(([name, model]) => {
    const version = model.version === "none" ? PACKAGED[name] ?? "none" : model.version;
    const rows = [make("dt", {}, name, make("strong", {}, version))];
    const canary = model.canary_status;
    if (canary && model.canary) {
      const side = ({ judged, outcome }) => `${judged.toLocaleString("en")} judged${outcome === null ? "" : `, mean ${outcome.toFixed(3)}`}`;
      rows.push(make("dd", {}, gauge(`Canary: ${canary.version}`, canary.challenger.judged, canary.wanted, `${percent(canary.share)} of the answers`)));
      rows.push(make("dd", { class: "quiet" }, `${several(canary.wanted, "judged answer")} wanted: it has ${side(canary.challenger)}; the champion ${side(canary.champion_side)} (${canary.measure}). It ends ${ahead(canary.until)} at the latest.`));
    } else if (model.moves) {
      rows.push(make("dd", { class: "quiet" }, `${MOVES[model.kind] ?? model.kind} by ${model.who}, ${new Date(model.at).toLocaleString()}: ${model.why}.`));
    }
    return make("div", {}, ...rows);
  }))];
}

// ---- diagrams ----------------------------------------------------------------------------------------------------------

const LEGIBLE = 760;
const EVERY_MS = 10000;
let chosen = "inference";
let zoom = 1;
let drawn = 0;
let timer = null;
let shown = "";

// Redrawing costs the server a moment, so it is done after an answer or a change, and not while one is being written.
function drawSoon(now = false) {
  if (timer !== null && !now) return;
  clearTimeout(timer);
  timer = setTimeout(() => {
    timer = null;
    if (asking || document.hidden) return;
    draw();
  }, now ? 0 : Math.max(300, drawn + EVERY_MS - performance.now()));
}

// Only the one element is parsed: the picture's own style would be reported against this page's policy.
function partOf(text, tag) {
  const found = new RegExp(`<${tag} id="[a-z]+">[^<]*</${tag}>`).exec(text)?.[0] ?? "";
  return new DOMParser().parseFromString(found.replaceAll(tag, "p"), "text/html").body.textContent;
}

async function draw() {
  const name = chosen;
  drawn = performance.now();
  try {
    const text = await (await call(`/v1/diagrams/${name}.svg`)).text();
    if (name !== chosen) return;
    if (text !== shown) {
      shown = text;
      const title = partOf(text, "title");
      at("drawing").alt = `${title}. ${partOf(text, "desc")}`;
      at("drawing").src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
    }
    at("drawing").hidden = false;
    at("no-diagram").hidden = true;
    at("moving").hidden = false;
    at("save").disabled = false;
    size();
  } catch (error) {
    if (name !== chosen) return;
    shown = "";
    at("drawing").hidden = true;
    at("no-diagram").hidden = false;
    at("no-diagram").replaceChildren(...marked(error.message));
    at("moving").hidden = true;
    at("save").disabled = true;
  }
}

function size() {
  const room = at("diagram").clientWidth;
  at("drawing").style.width = `${Math.round(Math.max(room, zoom === 1 ? Math.min(LEGIBLE, room * 2.5) : LEGIBLE) * zoom)}px`;
  at("smaller").disabled = zoom <= 1;
  at("larger").disabled = zoom >= 4;
}

function zoomTo(value) {
  const box = at("diagram");
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

function choose(name, focus) {
  chosen = name;
  shown = "";
  for (const tab of document.querySelectorAll("[role=tab]")) {
    const selected = tab.id === `tab-${name}`;
    tab.setAttribute("aria-selected", String(selected));
    tab.tabIndex = selected ? 0 : -1;
    if (selected && focus) tab.focus();
  }
  at("diagram").setAttribute("aria-labelledby", `tab-${name}`);
  draw();
}

// ---- wiring ----------------------------------------------------------------------------------------------------------

at("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const question = at("question").value.trim();
  if (question && !asking) ask(question, at("tenant").value);
});
at("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    at("ask").requestSubmit();
  }
});
at("stop").addEventListener("click", () => asking?.abort());
at("tenant").addEventListener("change", showStanding);
at("look").addEventListener("click", showStanding);
at("larger").addEventListener("click", () => zoomTo(zoom * 1.4));
at("smaller").addEventListener("click", () => zoomTo(zoom / 1.4));
at("save").addEventListener("click", save);
at("fit").addEventListener("click", () => zoomTo(1));
for (const name of ["inference", "training"]) {
  const other = name === "inference" ? "training" : "inference";
  at(`tab-${name}`).addEventListener("click", () => choose(name));
  at(`tab-${name}`).addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft" || event.key === "ArrowRight") choose(other, true);
  });
}
at("diagram").addEventListener("wheel", (event) => {
  if (!event.ctrlKey && !event.metaKey) return;
  event.preventDefault();
  zoomTo(zoom * (event.deltaY < 0 ? 1.15 : 1 / 1.15));
}, { passive: false });
at("diagram").addEventListener("pointerdown", (event) => {
  if (event.pointerType !== "mouse" || event.button !== 0) return;
  const box = at("diagram");
  const start = { x: event.clientX + box.scrollLeft, y: event.clientY + box.scrollTop };
  const move = (moved) => box.scrollTo(start.x - moved.clientX, start.y - moved.clientY);
  const end = () => {
    box.classList.remove("dragging");
    window.removeEventListener("pointermove", move);
    window.removeEventListener("pointerup", end);
  };
  box.classList.add("dragging");
  window.addEventListener("pointermove", move);
  window.addEventListener("pointerup", end);
});
window.addEventListener("resize", size);
document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  showStanding();
  drawSoon();
});

// Times to come are told from now.
setInterval(showLoop, 5000);

token();
window.addEventListener("hashchange", () => {
  token();
  showStanding();
  follow();
  drawSoon(true);
});
showStanding();
follow();
choose("inference");
