// Products as cards, and what stands in their place while they come.

import { icon, make, number, title } from "./dom.js";
import { address } from "./state.js";

const SHOWN_APART = ["title", "price", "image", "description"];
const PRICES = ["price", "sale_price"];

/** Makes a photo, or a mark where there is none, or it cannot be read. */
export function photo(place, alt) {
  const frame = make("div", { class: "photo" });
  if (!place) {
    frame.append(icon("none"));
    return frame;
  }
  const image = make("img", { class: "coming", alt, loading: "lazy", decoding: "async" });
  image.addEventListener("load", () => image.classList.remove("coming"));
  image.addEventListener("error", () => image.replaceWith(icon("none")));
  image.src = place;
  frame.append(image);
  return frame;
}

const share = (value) => `${Math.round(100 * Math.max(0, Math.min(1, value)))}%`;

function bar(name, value, kind) {
  const line = make("i", { "aria-hidden": "true" });
  line.style.setProperty("--value", share(value));
  return make("span", { class: `bar ${kind}`, title: `${name} ${value.toFixed(3)}` }, name, line);
}

/** Makes the score of a hit, and what it comes from. */
export function why(hit) {
  const words = hit.lexical !== null;
  const spoken = `score ${hit.score.toFixed(2)}: meaning ${hit.vector.toFixed(2)}${words ? `, words ${hit.lexical.toFixed(2)}` : ""}`;
  return make("div", { class: `why${words ? "" : " plain"}`, role: "img", "aria-label": spoken },
    make("b", { title: "score" }, hit.score.toFixed(2)),
    bar("meaning", hit.vector, "meaning"),
    words && bar("words", hit.lexical, "words"));
}

/** Returns a product's price as it is shown, or null. */
export function price(columns) {
  const found = PRICES.map((name) => columns[name]).find((value) => value !== null && value !== undefined && value !== "");
  if (found === undefined) return null;
  return typeof found === "number" ? number(found, Number.isInteger(found) ? 0 : 2) : String(found);
}

function about(columns) {
  const words = ["brand", "category"].map((name) => columns[name]).filter(Boolean);
  return words.map((word) => title(String(word).split(">").pop())).join(" · ");
}

/** Makes a card; `badge` is a pair of text and class, and `onlike` starts a search for the like. */
export function card(hit, state, { badge = null, onlike } = {}) {
  const amount = price(hit.columns);
  const link = make("a", { href: address({ ...state, product: hit.product_id }) },
    photo(hit.picture, ""),
    badge && make("span", { class: `badge ${badge[1]}`, title: badge[2] }, badge[0]),
    make("h3", {}, hit.title));
  link.dataset.product = hit.product_id;
  const similar = hit.picture && make("button", { class: "similar", type: "button", title: "Search by this picture",
    "aria-label": `Search by the picture of ${hit.title}`, onclick: () => onlike(hit.product_id) }, icon("like"));
  const line = about(hit.columns);
  const found = make("li", { class: "card" }, link, similar,
    (line || amount) && make("p", { class: "about" }, amount && make("span", { class: "price" }, amount), amount && line ? " · " : "", line),
    why(hit));
  found.dataset.product = hit.product_id;
  return found;
}

/** Makes grey cards, as many as may come. */
export function bones(howMany) {
  const one = () => make("li", { class: "card" }, make("div", { class: "photo bone" }), make("div", { class: "bone line" }), make("div", { class: "bone line short" }));
  return make("ul", { class: "grid coming", "aria-hidden": "true" }, Array.from({ length: howMany }, one));
}

/** Makes a line in place of results. */
export function message(kind, heading, text, action) {
  return make("div", { class: `message ${kind}`, role: kind === "bad" ? "alert" : null }, icon(kind === "bad" ? "bad" : "search"),
    make("h2", {}, heading), text && make("p", {}, text),
    action && make("button", { class: "button", type: "button", onclick: action[1] }, action[0]));
}

/** Makes the view of one product. */
export function details(product, hit, { onclose, onlike, oncopy }) {
  const shown = Object.entries(product.columns).filter(([name, value]) => !SHOWN_APART.includes(name) && value !== null && value !== "");
  const amount = price(product.columns);
  const copy = make("button", { class: "button quiet", type: "button", onclick: () => oncopy(copy) }, icon("link"), "Copy link");
  return [
    make("button", { class: "close", type: "button", "aria-label": "Close", onclick: onclose }, icon("close")),
    make("article", { tabIndex: -1, autofocus: true },
      photo(product.picture, product.title),
      make("div", { class: "facts" },
        make("h2", { id: "product-title" }, product.title),
        amount && make("p", {}, make("span", { class: "price" }, amount)),
        product.text !== product.title && make("p", {}, product.text),
        hit && why(hit),
        make("dl", {}, [["product_id", product.product_id], ...shown].map(([name, value]) =>
          [make("dt", {}, name === "product_id" ? "Product" : title(name)), make("dd", {}, value === true ? "yes" : value === false ? "no" : String(value))])),
        make("div", { class: "actions" },
          product.picture && make("button", { class: "button", type: "button", onclick: onlike }, icon("like"), "Find similar"),
          copy))),
  ];
}
