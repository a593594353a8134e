// Puts the page together: an address becomes a state, a state is shown, a change is a new address.

import { details, message } from "./cards.js";
import { count, make, number, say, title } from "./dom.js";
import { showFacets } from "./facets.js";
import { listenToKeys } from "./keys.js";
import { ofProduct, padded, placeOf, reduced } from "./picture.js";
import { example, facets, health, product, search } from "./service.js";
import { address, asks, filtered, hasText, read } from "./state.js";
import { compare, list, nothing, waiting, welcome } from "./views.js";

const part = (id) => document.getElementById(id);
const [form, words, chip, file, tools, summary, weight, weighed, panel, results, veil, view] =
  ["search", "words", "chip", "file", "tools", "summary", "weight", "weighed", "facets", "results", "veil", "product"].map(part);

let state = read(location);
let indexes = [];
let found = [];
let running = new AbortController();

const named = (name) => indexes.find((index) => index.name === name) || indexes[0];

/** Shows a changed state, and makes it the page's address. */
function navigate(change, { replace = false, stay = false } = {}) {
  const before = state;
  state = { ...state, ...change };
  if (!("top" in change) && !("product" in change)) state.top = read({ search: "", hash: "" }).top;
  history[replace ? "replaceState" : "pushState"](null, "", address(state));
  if (!stay && !replace && !("product" in change)) scrollTo({ top: 0 });
  show(before);
}

const sameSearch = (one, other) => {
  const bare = (each) => address({ ...each, product: null });
  return bare(one) === bare(other);
};

function show(before = null) {
  showControls();
  showProduct();
  if (before && sameSearch(before, state)) return;
  showResults();
}

function showControls() {
  if (document.activeElement !== words || words.value.trim() !== state.q.trim()) words.value = state.q;
  const picture = state.picture ? `data:image/jpeg;base64,${padded(state.picture)}` : state.like !== null && placeOf(state.like, named(state.index).name);
  chip.hidden = !picture;
  if (picture) chip.querySelector("img").src = picture;
  words.placeholder = picture ? "Add words to the picture" : "Search, or paste a picture";
  const asked = asks(state);
  tools.hidden = !asked;
  const effective = hasText(state) ? state.weight ?? named(state.index).weight : 1;
  weight.disabled = !hasText(state);
  weight.value = effective;
  showWeight();
  part("compare").hidden = indexes.length < 2;
  part("compare").setAttribute("aria-pressed", String(state.versus !== null));
  document.title = state.q.trim() ? `${state.q.trim()} · Beyond Text` : "Beyond Text";
  const badge = part("filter").querySelector("b");
  badge.hidden = filtered(state) === 0;
  badge.textContent = filtered(state);
}

function showWeight() {
  weight.style.setProperty("--at", `${100 * weight.value}%`);
  weighed.textContent = `${Math.round(100 * weight.value)} %`;
  weight.setAttribute("aria-valuetext", `${Math.round(100 * weight.value)} percent meaning`);
}

async function showResults() {
  running.abort();
  running = new AbortController();
  const { signal } = running;
  results.setAttribute("aria-busy", "true");
  try {
    const shown = asks(state) ? await searched(signal) : await welcomed(signal);
    if (signal.aborted) return;
    results.replaceChildren(...shown.nodes.filter(Boolean));
    summary.replaceChildren(...shown.line);
    say(summary.textContent);
    showProduct();
  } catch (error) {
    if (error.name === "AbortError" || signal.aborted) return;
    found = [];
    summary.replaceChildren();
    document.querySelector(".body").classList.add("wide");
    results.replaceChildren(message("bad", "That did not work", error.message, remedy(error)));
  }
  if (!signal.aborted) results.setAttribute("aria-busy", "false");
}

/** Returns what can be done: what was asked for wrongly fails again. */
function remedy(error) {
  return error.status >= 400 && error.status < 500 ? ["Start over", () => navigate(read({ search: "", hash: "" }))] : ["Try again", showResults];
}

async function searched(signal) {
  if (!results.querySelector(".grid:not(.coming)")) results.replaceChildren(waiting(state.versus));
  const index = named(state.index);
  const picture = state.picture ? padded(state.picture) : state.like !== null ? await ofProduct(state.like, index.name) : null;
  const names = state.versus === null ? [index.name] : [named(state.versus).name, index.name];
  const [facetsOfAll, ...answers] = await Promise.all([
    facets(index.name, state, signal), ...names.map((name) => search(name, state, picture, signal))]);
  signal.throwIfAborted();
  found = answers;
  const hasFacets = showFacets(panel, facetsOfAll.facets, index.columns, state, (change) => navigate(change), () => openFacets(false));
  document.querySelector(".body").classList.toggle("wide", !hasFacets || state.versus !== null);
  part("filter").classList.toggle("always", hasFacets && state.versus !== null);
  if (answers.every((answer) => answer.hits.length === 0)) return { nodes: [nothing(state, filtered(state) > 0, navigate)], line: [count(0, "product")] };
  return answers.length === 1 ? list(answers[0], state, navigate) : compare(...answers, state, indexes.map(({ name }) => name), navigate);
}

async function welcomed(signal) {
  found = [];
  document.querySelector(".body").classList.add("wide");
  const index = named(state.index);
  const values = (await facets(index.name, state, signal)).facets;
  const kind = ["category", "product_type", "brand"].find((column) => values[column]?.length > 1);
  const most = kind ? values[kind].filter(({ value }) => value).slice(0, 12) : [];
  const hits = await Promise.all(most.map(({ value }) => example(index.name, kind, value).catch(() => null)));
  const kinds = most.map((one, place) => ({ ...one, hit: hits[place] })).filter(({ hit }) => hit);
  return { nodes: [welcome(index, kinds, state)], line: [] };
}

async function showProduct() {
  if (state.product === null) {
    if (view.open) view.close();
    return;
  }
  if (view.open && view.dataset.product === state.product) return;
  view.dataset.product = state.product;
  const index = named(state.index).name;
  const close = () => view.close();
  try {
    // Of two lists, the right one is of the index that is searched.
    const hit = found.toReversed().flatMap((answer) => answer.hits).find((each) => each.product_id === state.product);
    const shown = hit || await product(state.product, index);
    if (state.product !== shown.product_id) return;
    view.replaceChildren(...details(shown, hit, {
      onclose: close,
      onlike: () => navigate({ like: shown.product_id, picture: null, q: "", product: null }),
      oncopy: copyLink,
    }).map((child) => child || ""));
  } catch (error) {
    view.replaceChildren(message("bad", "No such product", error.message, ["Close", close]));
  }
  if (!view.open) view.showModal();
}

async function copyLink(button) {
  await navigator.clipboard.writeText(location.href);
  button.lastChild.textContent = "Copied";
}

function openFacets(open) {
  panel.classList.toggle("open", open);
  veil.hidden = !open;
  part("filter").setAttribute("aria-expanded", String(open));
  (open ? panel.querySelector("input, button") : part("filter"))?.focus();
}

async function take(pictureFile) {
  try {
    navigate({ picture: await reduced(pictureFile), like: null });
  } catch (error) {
    tools.hidden = true;
    results.replaceChildren(message("bad", "That did not work", error.message));
  }
}

function listenToControls() {
  let typing;
  words.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => navigate({ q: words.value }, { replace: true }), 160);
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    clearTimeout(typing);
    navigate({ q: words.value });
  });
  chip.querySelector("button").addEventListener("click", () => {
    navigate({ picture: null, like: null });
    words.focus();
  });
  file.addEventListener("change", () => {
    if (file.files[0]) take(file.files[0]);
    file.value = "";
  });
  let sliding;
  weight.addEventListener("input", () => {
    showWeight();
    clearTimeout(sliding);
    sliding = setTimeout(() => navigate({ weight: +weight.value }, { replace: true }), 120);
  });
  part("compare").addEventListener("click", () => {
    const other = indexes.find(({ name }) => name !== named(state.index).name);
    navigate({ versus: state.versus === null ? other.name : null });
  });
  part("filter").addEventListener("click", () => openFacets(!panel.classList.contains("open")));
  veil.addEventListener("click", () => openFacets(false));
}

function listenToPictures() {
  const drop = part("drop");
  let depth = 0;
  const carries = (event) => [...(event.dataTransfer?.types || [])].includes("Files");
  const over = (change) => (event) => {
    if (!carries(event)) return;
    event.preventDefault();
    depth = Math.max(0, depth + change);
    drop.hidden = depth === 0;
  };
  addEventListener("dragenter", over(1));
  addEventListener("dragleave", over(-1));
  addEventListener("dragover", (event) => carries(event) && event.preventDefault());
  addEventListener("drop", (event) => {
    if (!carries(event)) return;
    event.preventDefault();
    depth = 0;
    drop.hidden = true;
    if (event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
  });
  addEventListener("paste", (event) => {
    const [pasted] = event.clipboardData?.files || [];
    if (!pasted) return;
    event.preventDefault();
    take(pasted);
  });
}

function listenToPlaces() {
  // Links to states of this page are shown without loading it again.
  addEventListener("click", (event) => {
    const link = event.target.closest?.("a[href]");
    if (!link || event.button || event.metaKey || event.ctrlKey || event.shiftKey || link.getAttribute("href").startsWith("#")) return;
    const place = new URL(link.href);
    if (place.origin !== location.origin || place.pathname !== location.pathname) return;
    event.preventDefault();
    const before = state;
    state = read(place);
    history.pushState(null, "", place);
    if (!sameSearch(before, state)) scrollTo({ top: 0 });
    show(before);
  });
  addEventListener("popstate", () => {
    const before = state;
    state = read(location);
    show(before);
  });
  view.addEventListener("close", () => {
    const { product: id } = view.dataset;
    delete view.dataset.product;
    if (state.product !== null) navigate({ product: null });
    // The browser gives the focus back to what had it, if that is still there.
    if (document.activeElement === document.body) results.querySelector(`a[data-product="${CSS.escape(id)}"]`)?.focus({ preventScroll: true });
  });
  view.addEventListener("click", (event) => event.target === view && view.close());
  addEventListener("scroll", () => document.querySelector(".top").classList.toggle("scrolled", scrollY > 4), { passive: true });
}

async function start() {
  listenToControls();
  listenToPictures();
  listenToPlaces();
  listenToKeys({ words, results, view, leave: () => panel.classList.contains("open") ? openFacets(false) : words.focus() });
  try {
    ({ indexes } = await health());
  } catch (error) {
    results.replaceChildren(message("bad", "That did not work", error.message, ["Try again", () => location.reload()]));
    results.setAttribute("aria-busy", "false");
    return;
  }
  show();
  if (!asks(state) && matchMedia("(hover: hover)").matches) words.focus();
}

start();
