// Asks the service. Every answer that is none becomes one Error with a line to show.

import { filters, hasText } from "./state.js";

async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The service does not answer. Is it still running?");
  }
  const content = await answer.json().catch(() => null);
  if (answer.ok && content) return content;
  throw Object.assign(new Error(content?.error || `The service answered ${answer.status}.`), { status: answer.status });
}

export const health = () => ask("health");

export function product(id, index) {
  return ask(`products/${encodeURIComponent(id)}?${new URLSearchParams({ index })}`);
}

export function facets(index, state, signal) {
  const words = new URLSearchParams({ index });
  for (const filter of filters(state)) words.append("filters", filter);
  return ask(`facets?${words}`, { signal });
}

export function search(index, state, picture, signal) {
  const body = { index, text: state.q.trim(), filters: filters(state), top: state.top };
  if (picture) body.picture = picture;
  if (state.weight !== null && hasText(state)) body.weight = state.weight;
  return ask("search", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal });
}

/** Returns a product of a kind, to show what the kind looks like. */
export async function example(index, column, value) {
  const state = { q: value, filters: [], top: 1, weight: null, is: { [column]: [value] }, from: {}, to: {} };
  return (await search(index, state)).hits[0];
}
