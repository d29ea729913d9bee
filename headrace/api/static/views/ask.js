// Ask: a question, its streamed answer, and the answers of this tab.

import { call, events, get, LOST, Refusal } from "../lib/api.js";
import { command, empty, fault, fill, make, marked, quiet } from "../lib/dom.js";
import { count } from "../lib/format.js";
import { keep, kept } from "../lib/keep.js";
import { onTenant, ownTenant, tenant } from "../lib/tenant.js";
import { answered } from "./answer.js";

export const title = "Ask";

const KEPT = "headrace-answers";
const MOST_KEPT = 30;

export function open(section) {
  const entries = read(); // newest first
  let asking = null;

  const question = make("textarea", {
    id: "question", rows: 2, maxLength: 4000, required: true, placeholder: "Something that your documents answer", "aria-describedby": "keys",
  });
  const stop = make("button", { type: "button", hidden: true, onclick: () => asking?.abort() }, "Stop");
  const send = make("button", { class: "main", id: "send" }, "Ask");
  const filters = make("input", {
    id: "filters", autocomplete: "off", spellcheck: false, maxLength: 1000, placeholder: "document=handbook/, team=hydro",
    title: "Only documents with these: key=value, document=FOLDER/, kind=pdf, changed>=2026-01-31; several with commas",
  });
  const follows = make("input", { type: "checkbox", id: "follows", checked: true });
  const options = make(
    "div", { class: "row options" },
    make("label", { for: "filters", class: "inline" }, "Filter", filters),
    make("label", { for: "follows", class: "inline", title: "“And in winter?” is then understood: it is asked so that it stands alone, and shown" }, follows, "Follows up on the last answer"),
  );
  const form = make(
    "form", { class: "card ask-form", id: "ask" },
    make("label", { for: "question" }, "Question"), question, options,
    make("div", { class: "row end" }, make("span", { id: "keys", class: "quiet grow" }, "Enter to ask, Shift+Enter for a new line."), stop, send),
  );
  const index = make("p", { class: "quiet", id: "index", role: "status" });
  const nothing = make("div");
  const answers = make("div", { class: "stack", id: "answers", role: "feed", "aria-label": "Answers, newest first" });
  fill(
    section,
    make("div", { class: "view-head" }, make("div", {}, make("h1", {}, "Ask your documents"), index)),
    form, nothing, answers,
  );

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const text = question.value.trim();
    if (text && !asking) ask(text, tenant(), filters.value.split(",").map((one) => one.trim()).filter(Boolean));
  });
  question.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      form.requestSubmit();
    }
  });
  onTenant(() => !section.hidden && showIndex());

  for (const entry of [...entries].reverse()) answers.prepend(answered(entry, { open: entry === entries[0], changed: save }));

  async function showIndex() {
    try {
      const state = await get("/v1/index", { tenant: tenant() });
      const some = state.passages > 0;
      index.textContent = some ? `${count(state.passages)} passages of tenant ${state.tenant} are indexed (index version ${state.index_version}).` : "";
      const how = `headrace index PATH${state.tenant === ownTenant() ? "" : ` --tenant ${state.tenant}`}`;
      fill(nothing, some ? null : empty(
        `Nothing is indexed for tenant ${state.tenant} yet`,
        make("p", {}, "Drop files into ", make("a", { href: "#/documents" }, "Documents"), ", or index a folder in another terminal:"),
        command(how), make("button", { type: "button", onclick: showIndex }, "Look again"),
      ));
    } catch (error) {
      fill(nothing, fault(error, showIndex));
    }
  }

  async function ask(text, whose, chosen) {
    const leaving = new AbortController();
    asking = leaving;
    question.select();
    send.disabled = true;
    stop.hidden = false;
    for (const other of answers.querySelectorAll(":scope > article > details")) other.open = false;

    const status = quiet("Looking for passages …");
    status.setAttribute("role", "status");
    const words = make("p", { class: "text", hidden: true });
    const article = make("article", { class: "card answer" }, make("h2", {}, text), words, status);
    answers.prepend(article);

    const began = performance.now();
    const clock = setInterval(() => {
      const seconds = Math.round((performance.now() - began) / 1000);
      if (seconds >= 2) status.textContent = words.hidden ? `Reading passages … ${seconds} s` : `Writing … ${seconds} s`;
    }, 1000);
    try {
      const json = { question: text, tenant: whose || undefined, filters: chosen, stream: true, candidates: true };
      const response = await begun({ ...json, after: before(whose) }, leaving.signal).catch((error) => {
        if (error.code !== "not_found") throw error;
        return begun(json, leaving.signal); // the last answer is not known there any more
      });
      let answer = null;
      for await (const { name, data } of events(response)) {
        if (name === "error") throw new Refusal(data.error.message, data.error.code);
        if (name === "answer") answer = data;
        if (name === "piece") {
          words.hidden = false;
          words.classList.add("writing");
          words.append(data.text);
        }
      }
      if (answer === null) throw new Refusal("The answer broke off. Ask again.", "");
      const entry = { question: text, tenant: whose, at: new Date().toISOString(), answer, verdict: null };
      entries.unshift(entry);
      save();
      article.replaceWith(answered(entry, { open: true, changed: save }));
    } catch (error) {
      words.classList.remove("writing");
      if (error.name === "AbortError") {
        status.textContent = "Stopped. What was written so far is not recorded.";
      } else {
        status.remove();
        article.append(make("p", { class: "notice fault", role: "alert" }, marked(error instanceof Refusal ? error.message : LOST)));
        if (error.code === "nothing_indexed") showIndex();
      }
    } finally {
      clearInterval(clock);
      asking = null;
      send.disabled = false;
      stop.hidden = true;
    }
  }

  function begun(json, signal) {
    return call("/v1/ask", { method: "POST", json, signal });
  }

  // The tenant's last answer, which a question may follow up on.
  function before(whose) {
    const last = follows.checked ? entries.find((entry) => entry.tenant === whose && (entry.answer.kind ?? "answer") === "answer") : null;
    return last?.answer.answer_id;
  }

  // A tab keeps some megabytes: where that is too little, the oldest answers are dropped.
  function save() {
    entries.length = Math.min(entries.length, MOST_KEPT);
    for (let most = entries.length; most > 0; most = Math.floor(most / 2)) {
      if (keep(KEPT, JSON.stringify(entries.slice(0, most)))) return;
    }
  }

  return {
    show(parameters) {
      showIndex();
      if (parameters.question) question.value = parameters.question;
      if (matchMedia("(hover: hover)").matches) question.focus({ preventScroll: true });
    },
  };
}

function read() {
  try {
    return JSON.parse(kept(KEPT, "[]"));
  } catch {
    return [];
  }
}
