// A diagram as elements of SVG, from the parts that the server has laid out.

import { drawing } from "./dom.js";

const CHOSEN = new Set(["stage", "bar", "flow"]);
const APART = new Set(["is", "text", "room", "head"]);

// `choose(group)` is called for a stage, bar or flow that is clicked, or chosen with Enter.
export function drawn(scene, choose) {
  const root = drawing("svg", { viewBox: `0 0 ${scene.width} ${scene.height}`, role: "group", "aria-label": scene.title, class: "scene" });
  for (const group of scene.groups) {
    const acts = CHOSEN.has(group.kind);
    const element = drawing("g", { class: group.kind, ...(acts ? { tabindex: 0, role: "button", "aria-label": labelOf(group) } : { "aria-hidden": group.kind === "shaft" }) }, drawing("title", {}, group.alt), group.items.flatMap(itemOf));
    element.dataset.name = group.name;
    if (acts) {
      element.addEventListener("click", () => choose(group));
      element.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        choose(group);
      });
    }
    root.append(element);
  }
  return root;
}

// What is written on it comes first where its words in full do not hold it: so it is called by those who speak to their computer.
function labelOf({ alt, items }) {
  const plain = (text) => text.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, " ").trim();
  const written = items.filter((item) => item.is === "text").map((item) => item.text).join(" ");
  return plain(alt).includes(plain(written)) ? alt : `${written}: ${alt}`;
}

function itemOf(item) {
  const attributes = Object.fromEntries(Object.entries(item).filter(([name, value]) => !APART.has(name) && value !== null));
  if (item.is === "text") {
    const text = drawing("text", { ...attributes, "aria-hidden": true }, item.text); // its group says it in words
    text.dataset.room = item.room;
    return [text, " "]; // words of two lines stay two words
  }
  if (item.is === "line" && item.head) return arrow(attributes, item.head);
  return [drawing(item.is, attributes)];
}

function arrow(line, [half, length]) {
  const { x1, y1, x2, y2, stroke } = line;
  const span = Math.hypot(x2 - x1, y2 - y1) || 1;
  const [ux, uy] = [(x2 - x1) / span, (y2 - y1) / span];
  const [bx, by] = [x2 - ux * length, y2 - uy * length];
  const short = Math.min(1, length / 2);
  const points = [[x2, y2], [bx - uy * half, by + ux * half], [bx + uy * half, by - ux * half]].map((point) => point.join()).join(" ");
  return [drawing("line", { ...line, x2: bx + ux * short, y2: by + uy * short }), drawing("polygon", { points, fill: stroke })];
}

// Letters of another font than the one that was laid out for are narrowed until they fit. The element has to be in the page.
export function fitted(root) {
  for (const text of root.querySelectorAll("text")) {
    const room = Number(text.dataset.room);
    if (text.getComputedTextLength() > room * 1.01) {
      text.setAttribute("textLength", room);
      text.setAttribute("lengthAdjust", "spacingAndGlyphs");
    }
  }
}
