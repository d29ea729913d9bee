// Verdicts: thumbs with a reason and a correction, and how far a verdict has come since.

import { get, send } from "../lib/api.js";
import { fault, fill, icon, make, quiet } from "../lib/dom.js";
import { listen } from "../lib/live.js";

const LOOK_MS = 2000;
let forms = 0;

// The verdict on a whole answer.
export function judgement(entry, changed) {
  const id = `verdict-${(forms += 1)}`;
  const said = make("div", { role: "status" });
  const reason = make("input", { id: `${id}-reason`, maxLength: 1000, autocomplete: "off" });
  const correction = make("textarea", { id: `${id}-correction`, maxLength: 4000, rows: 2 });
  const better = make("label", { for: correction.id }, "What the answer should have been (optional)", correction);
  const record = make("button", { class: "main" }, "Record verdict");
  const why = make("form", { class: "why stack", hidden: true }, make("label", { for: reason.id }, "Why (optional)", reason), better, make("div", {}, record));
  let up = true;
  const thumbs = [["Helpful", true], ["Not helpful", false]].map(([label, value]) => {
    const button = make("button", { type: "button", "aria-pressed": "false" }, icon("up", value ? "" : "down"), label);
    button.addEventListener("click", () => {
      up = value;
      for (const other of thumbs) other.setAttribute("aria-pressed", String(other === button));
      why.hidden = false;
      better.hidden = up;
      fill(said);
      reason.focus();
    });
    return button;
  });
  why.addEventListener("submit", async (event) => {
    event.preventDefault();
    const body = { answer_id: entry.answer.answer_id, up, reason: reason.value.trim() };
    if (!up) body.correction = correction.value.trim();
    const where = await recorded(body, said, [...thumbs, record]);
    if (!where) return;
    why.hidden = true;
    entry.verdict = { up, partition: where.partition, offset: where.offset };
    changed();
    fill(said, way(entry.verdict));
  });
  if (entry.verdict) {
    thumbs.forEach((button, at) => {
      button.disabled = true;
      button.setAttribute("aria-pressed", String((at === 0) === entry.verdict.up));
    });
    fill(said, way(entry.verdict));
  }
  return make("fieldset", { class: "verdict" }, make("legend", {}, "Was this answer helpful?"), make("div", { class: "row" }, thumbs), why, said);
}

// The verdict on one passage of an answer.
export function judged(entry, passage) {
  if (!passage.used && !(entry.answer.passages ?? []).includes(passage)) return null;
  const said = make("div", { role: "status" });
  const buttons = [["It helped", true], ["It did not help", false]].map(([label, up]) => {
    const button = make("button", { type: "button", "aria-pressed": "false" }, label);
    button.addEventListener("click", async () => {
      const where = await recorded({ answer_id: entry.answer.answer_id, up, chunk_id: passage.chunk_id }, said, buttons);
      if (!where) return;
      button.setAttribute("aria-pressed", "true");
      fill(said, way(where));
    });
    return button;
  });
  return make("div", { class: "stack" }, make("div", { class: "row" }, make("span", { class: "quiet" }, "This passage:"), buttons), said);
}

async function recorded(body, said, buttons) {
  for (const button of buttons) button.disabled = true;
  fill(said, quiet("Recording …"));
  try {
    return await send("POST", "/v1/feedback", body);
  } catch (error) {
    for (const button of buttons) button.disabled = false;
    fill(said, fault(error));
    return null;
  }
}

// The steps of a verdict: on the head, in its table, within reach of a round; looked at until it has landed, and after each round.
function way({ partition, offset }) {
  const steps = [`On the head at feedback/${partition}/${offset}`, "Landed in the table feedback", "Learned from in a round"].map((label, at) => make("li", { class: at ? "" : "done" }, label));
  const list = make("ol", { class: "way", "aria-label": "How far this verdict is" }, steps);
  let last = "";

  async function look() {
    if (!list.isConnected && last) return;
    last = "looked";
    try {
      const found = await get(`/v1/feedback/${partition}/${offset}`);
      if (!found.landed) {
        setTimeout(look, LOOK_MS);
        return;
      }
      steps[1].classList.add("done");
      if (found.round) {
        steps[2].textContent = `Round ${found.round} could learn from it`;
        steps[2].classList.add("done");
      }
    } catch {
      // it is on the head in any case; the next round looks again
    }
  }

  look();
  let round = null;
  listen("loop", ({ last: decision }) => {
    if (round !== null && decision?.round !== round && !steps[2].classList.contains("done")) look();
    round = decision?.round ?? 0;
  });
  return list;
}
