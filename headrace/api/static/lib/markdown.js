// Markdown as elements, with marks: characters of the text that are highlighted. Only what shapes a document is read (headings,
// lists, tables, code); everything else is text.

import { make } from "./dom.js";

// `spans` are [start, end] in characters of `text`.
export function rendered(text, spans = []) {
  const root = make("div", { class: "markdown" });
  const lines = [];
  let offset = 0;
  for (const line of text.split("\n")) {
    lines.push({ line, offset });
    offset += line.length + 1;
  }
  let paragraph = null;
  for (let at = 0; at < lines.length; at += 1) {
    const { line, offset: from } = lines[at];
    const fence = /^\s*(`{3,}|~{3,})/.exec(line)?.[1];
    if (fence) {
      const inside = [];
      while (at + 1 < lines.length && !lines[at + 1].line.trim().startsWith(fence)) inside.push(lines[(at += 1)]);
      at += 1;
      root.append(make("pre", {}, inside.flatMap((one) => [...plain(`${one.line}\n`, one.offset, spans)])));
      paragraph = null;
    } else if (/^\s*\|/.test(line)) {
      const rows = [];
      while (at < lines.length && /^\s*\|/.test(lines[at].line)) rows.push(lines[at++]);
      at -= 1;
      root.append(tableOf(rows, spans));
      paragraph = null;
    } else if (!line.trim()) {
      paragraph = null;
    } else {
      const heading = /^(#{1,6})\s+/.exec(line);
      const item = /^\s*(?:[-*+]|\d+[.)])\s+/.exec(line);
      if (heading) {
        root.append(make("p", { class: `heading level${heading[1].length}` }, inline(line.slice(heading[0].length), from + heading[0].length, spans)));
        paragraph = null;
      } else if (item) {
        paragraph = make("p", { class: "item" }, inline(line, from, spans));
        root.append(paragraph);
      } else if (paragraph) {
        paragraph.append("\n", ...inline(line, from, spans));
      } else {
        paragraph = make("p", {}, inline(line, from, spans));
        root.append(paragraph);
      }
    }
  }
  return root;
}

function tableOf(rows, spans) {
  const isRule = ({ line }) => /^[\s|:-]+$/.test(line) && line.includes("-");
  const cells = ({ line, offset }) => {
    const parts = [];
    let from = line.indexOf("|") + 1;
    for (let to = from; to <= line.length; to += 1) {
      const ends = to === line.length || (line[to] === "|" && line[to - 1] !== "\\");
      if (!ends) continue;
      if (to < line.length || line.slice(from).trim()) parts.push([line.slice(from, to), offset + from]);
      from = to + 1;
    }
    return parts;
  };
  const head = rows.length > 1 && isRule(rows[1]) ? rows[0] : null;
  const body = rows.filter((row) => row !== head && !isRule(row));
  const made = (name, row) => make("tr", {}, cells(row).map(([text, at]) => {
    const lead = text.length - text.trimStart().length;
    return make(name, {}, inline(text.trim(), at + lead, spans));
  }));
  return make("div", { class: "scroll", tabIndex: 0, role: "region", "aria-label": "Table" }, make("table", {}, head && make("thead", {}, made("th", head)), make("tbody", {}, body.map((row) => made("td", row)))));
}

// Text with bold and code; their signs are left out.
function inline(text, offset, spans) {
  const parts = [];
  let at = 0;
  for (const found of text.matchAll(/\*\*(.+?)\*\*|`([^`]+)`/g)) {
    parts.push(...plain(text.slice(at, found.index), offset + at, spans));
    const [whole, bold, code] = found;
    const inner = offset + found.index + (bold ? 2 : 1);
    parts.push(make(bold ? "strong" : "code", {}, plain(bold ?? code, inner, spans)));
    at = found.index + whole.length;
  }
  parts.push(...plain(text.slice(at), offset + at, spans));
  return parts;
}

// Text whose characters within a span are marked.
function plain(text, offset, spans) {
  const parts = [];
  let at = 0;
  for (const [start, end] of spans) {
    const from = Math.max(start - offset, at);
    const to = Math.min(end - offset, text.length);
    if (to <= from) continue;
    if (from > at) parts.push(text.slice(at, from));
    parts.push(make("mark", {}, text.slice(from, to)));
    at = to;
  }
  if (at < text.length) parts.push(text.slice(at));
  return parts;
}
