// What is shown, as an address: each state has a link, and each link its state.
//
//   ?q=red+rug&index=trained&versus=untouched&weight=0.7&top=48&like=ID&product=ID
//   &is.category=rug&from.price=10&to.price=50#picture=BASE64
//
// A picture stands behind the #, which no server is sent and no log keeps.

export const TOP = 24;
export const MOST = 200;

/** Returns values by column, where a column called `constructor` is one like any other. */
export const byColumn = (values = {}) => Object.assign(Object.create(null), values);

export function empty() {
  return {
    q: "", like: null, picture: null, index: null, versus: null, weight: null, top: TOP, product: null,
    is: byColumn(), from: byColumn(), to: byColumn(),
  };
}

const ids = ["like", "index", "versus", "product"];

/** Returns the state of an address. */
export function read(place) {
  const state = empty();
  for (const [key, value] of new URLSearchParams(place.search)) {
    const [, kind, column] = /^(is|from|to)\.(.+)$/s.exec(key) || [];
    if (kind === "is") (state.is[column] ||= []).push(value);
    else if (kind) state[kind][column] = value;
    else if (key === "q") state.q = value;
    else if (ids.includes(key)) state[key] = value;
    else if (key === "weight" && value !== "" && +value >= 0 && +value <= 1) state.weight = +value;
    else if (key === "top" && +value >= 1) state.top = Math.min(MOST, Math.floor(+value));
  }
  const [, picture] = /^#picture=([\w-]+)$/.exec(place.hash) || [];
  if (picture) state.picture = picture.replace(/-/g, "+").replace(/_/g, "/");
  return state;
}

/** Returns the address of a state. */
export function address(state) {
  const words = new URLSearchParams();
  if (state.q.trim()) words.set("q", state.q.trim());
  for (const key of ids) if (state[key] !== null) words.set(key, state[key]);
  if (state.weight !== null) words.set("weight", String(state.weight));
  if (state.top !== TOP) words.set("top", String(state.top));
  for (const [column, values] of Object.entries(state.is)) for (const value of values) words.append(`is.${column}`, value);
  for (const kind of ["from", "to"]) for (const [column, value] of Object.entries(state[kind])) words.set(`${kind}.${column}`, value);
  const query = words.toString();
  const picture = state.picture && state.picture.replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
  return (query ? `./?${query}` : "./") + (picture ? `#picture=${picture}` : "");
}

const quoted = (text) => `"${String(text).replaceAll('"', '""')}"`;

/** Returns the filters of a state as the service takes them. */
export function filters(state) {
  return [
    ...Object.entries(state.is).filter(([, values]) => values.length)
      .map(([column, values]) => `${quoted(column)}=${values.map(quoted).join("|")}`),
    ...Object.entries(state.from).map(([column, value]) => `${quoted(column)}>=${quoted(value)}`),
    ...Object.entries(state.to).map(([column, value]) => `${quoted(column)}<=${quoted(value)}`),
  ];
}

export const filtered = (state) => filters(state).length;
export const asks = (state) => Boolean(state.q.trim() || state.picture || state.like !== null);
export const hasText = (state) => Boolean(state.q.trim());
