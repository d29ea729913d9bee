// A document's text beside the page, with a passage of it highlighted.

import { get, Refusal } from "../lib/api.js";
import { badge, dialog, facts, fault, fill, loading, make, marked, quiet } from "../lib/dom.js";
import { count } from "../lib/format.js";
import { rendered } from "../lib/markdown.js";

// `passage` has document, chunk_id and what is known of it; without a chunk_id the document's beginning is shown. `beneath` are
// elements put above the text.
export function openDocument(uri, { tenant, chunkId, quotes = [], beneath = [], closed } = {}) {
  const body = make("div", { class: "reader stack" });
  const box = dialog(uri, body, { kind: "side", closed });

  async function load(reader) {
    fill(body, beneath, loading("Loading the text"));
    try {
      const text = await get("/v1/text", { uri, tenant, chunk_id: chunkId, reader });
      fill(body, beneath, shown(text, chunkId, quotes));
      body.querySelector("mark")?.scrollIntoView({ block: "center" });
    } catch (error) {
      fill(body, beneath, error instanceof Refusal && error.status === 403 ? behalf(error) : fault(error, () => load(reader)));
    }
  }

  // A document that is closed to some readers is read on behalf of one of them.
  function behalf(error) {
    const name = make("input", { required: true, maxLength: 200, autocomplete: "off" });
    return make(
      "form", { class: "notice", onsubmit: (event) => (event.preventDefault(), load(name.value.trim())) },
      make("p", {}, marked(error.message)), make("label", {}, "Read it on behalf of", name), make("button", { class: "main" }, "Open"),
    );
  }

  load();
  return box;
}

function shown(text, chunkId, quotes) {
  const marks = quotes.length ? narrowed(text, quotes) : text.spans;
  const where = [text.heading, text.place].filter(Boolean).join(" · ");
  const end = text.start + text.text.length;
  const part = text.length > text.text.length ? `Characters ${count(text.start + 1)} to ${count(end)} of ${count(text.length)}` : `${count(text.length)} characters`;
  return [
    facts([
      text.title && ["Title", text.title],
      where && ["Passage", where],
      ["Type", text.media || "unknown"],
      ["Text", part],
      ["Version", make("span", {}, text.version.slice(0, 12), " ", text.newest ? null : badge("an earlier one", "warn"))],
    ]),
    chunkId && !text.found ? quiet("The passage is not in this text any more: the document has changed since it was indexed.") : null,
    rendered(text.text, marks),
  ];
}

// The quoted sentences at their places in the passage; the passage itself where none is found.
function narrowed(text, quotes) {
  const [first, last] = [text.spans[0]?.[0] ?? 0, text.spans.at(-1)?.[1] ?? text.text.length];
  const found = quotes.flatMap((quote) => {
    const at = text.text.slice(0, last).indexOf(quote, first);
    return at < 0 ? [] : [[at, at + quote.length]];
  });
  return found.length ? found.sort((one, other) => one[0] - other[0]) : text.spans;
}
