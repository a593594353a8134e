// The filters beside the results: values with their counts, numbers as a range.

import { make, number, title } from "./dom.js";
import { byColumn, filtered } from "./state.js";

const FEW = 7;
const NOT_SHOWN = ["title", "description", "split", "group_id"];

/** Says whether a column's values part the products into kinds, as a name or an id does not. */
function parts(values, type, chosen) {
  if (chosen || type === "number") return true;
  if (type === "boolean") return values.length > 0;
  return values.length > 1 && values[0].products > 1 && values.some(({ products }) => products > 2);
}

function checks(column, values, state, change) {
  const chosen = state.is[column] || [];
  const known = values.map(({ value }) => String(value));
  // What is chosen is shown, even where nothing is left of it.
  const rows = [...values, ...chosen.filter((value) => !known.includes(value)).map((value) => ({ value, products: 0 }))];
  const toggle = (value, on) => {
    const now = on ? [...chosen, value] : chosen.filter((other) => other !== value);
    const { [column]: _, ...others } = state.is;
    change({ is: byColumn(now.length ? { ...others, [column]: now } : others) });
  };
  const list = make("ul", {}, rows.map(({ value, products }, place) => {
    const text = String(value);
    const shown = value === true ? "yes" : value === false ? "no" : text;
    const box = make("input", { type: "checkbox", checked: chosen.includes(text), onchange: (event) => toggle(text, event.target.checked) });
    box.dataset.facet = `${column}=${text}`;
    return make("li", { hidden: place >= FEW && !chosen.includes(text) }, make("label", { title: shown }, box, make("span", {}, shown), make("small", {}, number(products))));
  }));
  const hidden = [...list.children].filter((item) => item.hidden).length;
  const more = hidden > 0 && make("button", { class: "more", type: "button", onclick: () => {
    for (const item of list.children) item.hidden = false;
    more.remove();
  } }, `${hidden} more`);
  return [list, more];
}

function range(column, state, change) {
  const bound = (kind, word) => {
    const input = make("input", { type: "number", step: "any", placeholder: word, value: state[kind][column] ?? "", "aria-label": `${title(column)} ${word}` });
    input.dataset.facet = `${kind}.${column}`;
    input.addEventListener("change", () => {
      const { [column]: _, ...others } = state[kind];
      change({ [kind]: byColumn(input.value === "" ? others : { ...others, [column]: input.value }) });
    });
    return input;
  };
  return make("div", { class: "range" }, bound("from", "from"), "–", bound("to", "to"));
}

/** Fills the panel of filters. `change` is called with what changes of the state. */
export function showFacets(panel, found, columns, state, change, close) {
  const focused = document.activeElement?.dataset?.facet;
  const closed = new Set([...panel.querySelectorAll("details:not([open])")].map((one) => one.dataset.column));
  const sections = [];
  for (const [column, type] of Object.entries(columns)) {
    const values = found[column] || [];
    const chosen = column in state.is || column in state.from || column in state.to;
    if (NOT_SHOWN.includes(column) || !parts(values, type, chosen)) continue;
    const section = make("details", { open: !closed.has(column) }, make("summary", {}, title(column)),
      type === "number" ? range(column, state, change) : checks(column, values, state, change));
    section.dataset.column = column;
    sections.push(section);
  }
  const clear = filtered(state) > 0 && make("button", { class: "clear", type: "button", onclick: () => change({ is: {}, from: {}, to: {} }) }, "Clear all");
  panel.replaceChildren(...[
    make("header", {}, make("h2", {}, "Filters"), clear),
    ...sections,
    make("div", { class: "done" }, make("button", { class: "button", type: "button", onclick: close }, "Show results")),
  ].map((child) => child || ""));
  if (focused) panel.querySelector(`[data-facet="${CSS.escape(focused)}"]`)?.focus();
  return sections.length > 0;
}
