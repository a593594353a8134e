// What stands in the middle of the page: a welcome, one list of products, or two side by side.

import { bones, card, message, photo } from "./cards.js";
import { count, make, number, title } from "./dom.js";
import { MOST, TOP, address } from "./state.js";

const milliseconds = (answer) => {
  const sum = answer.milliseconds.encoding + answer.milliseconds.searching;
  return `${number(sum, sum < 10 ? 1 : 0)} ms`;
};

function grid(answer, state, options) {
  return make("ul", { class: "grid", "aria-label": "Products" }, answer.hits.map((hit, place) =>
    card(hit, state, { ...options, badge: options.badge?.(hit, place) })));
}

function more(answers, state, navigate) {
  const full = answers.some((answer) => answer.hits.length === state.top);
  if (!full || state.top >= MOST) return null;
  const wanted = Math.min(MOST, state.top + TOP);
  return make("div", { class: "more-button" }, make("button", { class: "button quiet", type: "button",
    onclick: () => navigate({ top: wanted }, { stay: true }) }, "Show more"));
}

/** Returns one list of products, and a line about it. */
export function list(answer, state, navigate) {
  const onlike = (id) => navigate({ like: id, picture: null, q: "" });
  const nodes = [grid(answer, state, { onlike }), more([answer], state, navigate)];
  const line = [make("b", {}, count(answer.hits.length, "product")), ` of ${number(answer.products)} · ${milliseconds(answer)}`];
  return { nodes, line };
}

function moved(before) {
  return (hit, place) => {
    const earlier = before.indexOf(hit.product_id);
    if (earlier < 0) return ["new", "up", "not among the first of the other side"];
    const rise = earlier - place;
    if (rise === 0) return ["=", "", "at the same place on the other side"];
    return [`${rise > 0 ? "↑" : "↓"} ${Math.abs(rise)}`, rise > 0 ? "up" : "", `at place ${earlier + 1} on the other side`];
  };
}

function column(answer, state, names, options, choose) {
  const heading = names.length > 2
    ? make("select", { "aria-label": "Index", onchange: (event) => choose(event.target.value) },
      names.map((name) => make("option", { value: name, selected: name === answer.index }, name)))
    : make("h2", {}, title(answer.index));
  const none = answer.hits.length === 0 && make("p", {}, "Nothing found.");
  return make("section", { class: "column", "aria-label": answer.index },
    make("header", {}, heading, make("p", {}, milliseconds(answer))), none || grid(answer, state, options));
}

/** Returns two lists side by side, and a line on what they share; the right one says what moved. */
export function compare(left, right, state, names, navigate) {
  const before = left.hits.map((hit) => hit.product_id);
  const both = right.hits.filter((hit) => before.includes(hit.product_id)).length;
  const onlike = (id) => navigate({ like: id, picture: null, q: "" });
  const columns = make("div", { class: "columns" },
    column(left, state, names, { onlike, badge: (_, place) => [String(place + 1), "", "place"] }, (name) => navigate({ versus: name })),
    column(right, state, names, { onlike, badge: moved(before) }, (name) => navigate({ index: name })));
  const mark = (event, on) => {
    const id = event.target.closest?.("a[data-product]")?.dataset.product;
    for (const each of columns.querySelectorAll(".card.same")) each.classList.remove("same");
    if (!id || !on) return;
    const same = [...columns.querySelectorAll(".card")].filter((each) => each.dataset.product === id);
    if (same.length > 1) for (const each of same) each.classList.add("same");
  };
  for (const kind of ["pointerover", "focusin"]) columns.addEventListener(kind, (event) => mark(event, true));
  for (const kind of ["pointerleave", "focusout"]) columns.addEventListener(kind, (event) => mark(event, false));
  const line = [make("b", {}, `${both} of ${right.hits.length}`), " on both sides"];
  return { nodes: [columns, more([left, right], state, navigate)], line };
}

/** Returns what is shown while results come. */
export const waiting = (versus) => versus
  ? make("div", { class: "columns" }, make("section", { class: "column" }, bones(6)), make("section", { class: "column" }, bones(6)))
  : bones(12);

/** Returns what is shown where nothing was found. */
export function nothing(state, hasFilters, navigate) {
  const heading = state.q.trim() ? `Nothing found for “${state.q.trim()}”` : "Nothing found for this picture";
  return hasFilters
    ? message("none", heading, "No product passes all filters.", ["Clear filters", () => navigate({ is: {}, from: {}, to: {} })])
    : message("none", heading, "Try other words, or a picture.");
}

/** Returns the page without a search: what there is, by kind. */
export function welcome(index, kinds, state) {
  const tiles = kinds.map(({ value, products, hit }) =>
    make("li", {}, make("a", { href: address({ ...state, q: String(value) }) }, photo(hit.picture, ""),
      make("span", {}, String(value).split(">").pop().trim()), make("small", {}, count(products, "product")))));
  return make("section", { class: "welcome" },
    make("h1", {}, "Say what you want, or show it."),
    make("p", {}, `${count(index.products, "product")}, found by words, by a picture or by both.`),
    tiles.length > 0 && make("ul", { class: "kinds", "aria-label": "Kinds" }, tiles));
}
