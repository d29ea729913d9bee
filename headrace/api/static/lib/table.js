// A table whose rows can be sorted by a column; on a narrow screen each row `stacks` to a block, unless columns are to be compared.

import { fill, make } from "./dom.js";

// `columns`: {name, title, cell(row) → text or element, value(row) → what it is sorted by, number, wide, titled: its title is shown
// in a block too, though it comes first}. `onsort(name, down)` hears of a new order. `label` is the table's name for screen readers.
// Of many rows the first `most` are shown until all are asked for.
export function table(label, columns, { sort = "", down = false, onsort, stacks = true, most = Infinity } = {}) {
  const order = { name: sort, down };
  let rows = [];
  let shown = most;
  const rest = make("button", {
    type: "button", class: "plain", hidden: true,
    onclick: () => {
      shown = Infinity;
      draw();
    },
  });
  const body = make("tbody");
  const heads = columns.map((column) => {
    const cell = make("th", { scope: "col", class: column.number ? "number" : "" });
    if (!column.value) cell.append(column.title || make("span", { class: "unseen" }, "Actions"));
    else {
      cell.append(make("button", {
        type: "button", class: "sort",
        onclick: () => {
          order.down = order.name === column.name ? !order.down : Boolean(column.number);
          order.name = column.name;
          onsort?.(order.name, order.down);
          draw();
        },
      }, column.title));
    }
    return cell;
  });

  function draw() {
    const by = columns.find((column) => column.name === order.name);
    columns.forEach((column, at) => {
      if (column.value) heads[at].setAttribute("aria-sort", column.name !== order.name ? "none" : order.down ? "descending" : "ascending");
    });
    const sorted = by ? [...rows].sort((one, other) => compare(by.value(one), by.value(other)) * (order.down ? -1 : 1)) : rows;
    rest.hidden = sorted.length <= shown;
    rest.textContent = `Show all ${sorted.length}`;
    fill(body, sorted.slice(0, shown).map((row) => make("tr", {}, columns.map((column, at) => {
      const kind = [column.number ? "number" : "", column.titled ? "titled" : "", column.wide ? "wide" : "", column.class?.(row) ?? ""].join(" ").trim();
      return make(at === 0 ? "th" : "td", { class: kind, ...(at === 0 ? { scope: "row" } : {}), "data-title": column.title }, column.cell(row));
    }))));
  }

  const element = make("div", { class: "rows" }, make(
    "div", { class: `scroll ${stacks ? "stacks" : ""}`, tabIndex: 0, role: "region", "aria-label": `${label} (table)` },
    make("table", {}, make("thead", {}, make("tr", {}, heads)), body),
  ), rest);
  return {
    element,
    show(next) {
      rows = next;
      draw();
    },
  };
}

function compare(one, other) {
  if (one === other) return 0;
  if (one === null || one === undefined) return 1;
  if (other === null || other === undefined) return -1;
  return typeof one === "number" ? one - other : String(one).localeCompare(String(other), undefined, { numeric: true });
}
