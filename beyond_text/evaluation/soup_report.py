"""Reports mixtures of weights: nDCG@10 of each on every shop, as a table and a chart."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from beyond_text.config.views import View
from beyond_text.evaluation.shops import HEADINGS, value_of
from beyond_text.metrics.ranking import needs, query_kinds
from beyond_text.metrics.significance import Comparison, compare_paired, in_words, interval
from beyond_text.retrieval.query_set import QuerySet
from beyond_text.terminal import table_row

# nDCG@10 of each query, by view; and the queries.
Measured = tuple[Mapping[View, pd.Series], QuerySet]
COMPARED = ("difference", "low", "high", "p")


def table_of(measured: Mapping[tuple[str, str], Measured], base: str) -> pd.DataFrame:
    """Returns a row for each mixture, shop, kind of query ("all" first) and view.

    `measured` is by the names of the mixture and of the shop. Columns: name, shop, kind, view,
    queries, needs, mean, low, high (95 % bootstrap interval over needs); and for fused vectors
    paired differences from the better one of text and picture (`over_own_...`) and from those of
    the mixture `base` (`over_base_...`): difference, low, high, p.
    """
    rows = []
    for (name, shop), (values, query_set) in measured.items():
        reference = measured[base, shop][0].get("product")
        for kind, queries in _kinds(values, query_set).items():
            parts = {view: part[part.index.isin(queries)] for view, part in values.items()}
            for view in parts:
                head = {"name": name, "shop": shop, "kind": kind, "view": view}
                rows.append(head | _statistics(view, parts, reference, query_set, name == base))
    return pd.DataFrame(rows)


def _kinds(values: Mapping[View, pd.Series], query_set: QuerySet) -> dict[str, set[str]]:
    """Returns the judged queries of each kind; "all" comes first, and is alone where one kind is.

    Texts and pictures that search for each other are kinds of their own, by view.
    """
    judged = {query for part in values.values() for query in part.index}
    kind = query_kinds(query_set.queries)
    names = sorted({kind[query] for query in judged}) if "product" in values else []
    of_kind = {name: {q for q in judged if kind[q] == name} for name in names}
    return {"all": judged} | (of_kind if len(of_kind) > 1 else {})


def _statistics(
    view: View,
    parts: Mapping[View, pd.Series],
    reference: pd.Series | None,
    query_set: QuerySet,
    is_base: bool,
) -> dict[str, float]:
    """Returns the numbers of a row; those that mean nothing there are left out."""
    values = parts[view]
    need = needs(values.index, query_set.qrels)
    mean, low, high = interval(values.to_numpy(), need)
    found: dict[str, float] = {"queries": len(values), "needs": len(set(need))}
    found |= {"mean": mean, "low": low, "high": high}
    if view != "product":
        return found
    own = [part for name, part in parts.items() if name != view and len(part)]
    if own:
        best = max(own, key=lambda part: part.mean())
        found |= _compared("over_own", values, best, need)
    if reference is not None and not is_base:
        found |= _compared("over_base", values, reference, need)
    return found


def _compared(
    prefix: str, values: pd.Series, other: pd.Series, need: np.ndarray
) -> dict[str, float]:
    paired = compare_paired(values.to_numpy(), other.reindex(values.index).to_numpy(), need)
    return {f"{prefix}_{name}": value for name, value in zip(COMPARED, paired, strict=True)}


def markdown(table: pd.DataFrame, axis: str, base: str, best: str) -> str:
    """Returns the table as Markdown, a line for each shop, kind of query and mixture."""
    views = [view for view in HEADINGS if (table["view"] == view).any()]
    header = ["shop", "queries", axis, *(HEADINGS[view] for view in views)]
    header += ["fused less the better of text and picture", f"fused less {axis} {base}"]
    lines = [table_row(header), "|---|---|--:" + "|---" * (len(header) - 3) + "|"]
    home = table["shop"][0]
    for (shop, kind, name), rows in table.groupby(["shop", "kind", "name"], sort=False):
        of_view = {row["view"]: row for _, row in rows.iterrows()}
        first = rows.iloc[0]
        place = f"{shop} (home)" if shop == home else shop
        line = [place, f"{kind} ({first['queries']})", f"**{name}**" if name == best else name]
        line += [value_of(of_view.get(view)) for view in views]
        line += [_difference(of_view.get("product"), f"over_{part}") for part in ("own", "base")]
        lines.append(table_row(line))
    return "\n".join([*_sorted(lines[:2], lines[2:]), "", _note(table, axis, best, home), ""])


def _sorted(head: list[str], lines: list[str]) -> list[str]:
    """Puts the lines of one shop and kind of query beside each other, in order of appearance."""
    keys = [tuple(line.split(" | ")[:2]) for line in lines]
    order = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return head + [
        line for _, line in sorted(zip(keys, lines, strict=True), key=lambda p: order[p[0]])
    ]


def _note(table: pd.DataFrame, axis: str, best: str, home: str) -> str:
    return (
        f"nDCG@10. Of the mixtures asked for, {axis} {best} is the best for {home}, by fused "
        "vectors (without queries: by texts and pictures that find each other), and was written; "
        "the other shops chose nothing. Brackets: 95 % bootstrap intervals over queries, those "
        "that are judged alike taken as one. Differences are paired by query; p is a sign-flip "
        "permutation test."
    )


def _difference(row: pd.Series | None, prefix: str) -> str:
    names = [f"{prefix}_{name}" for name in COMPARED]
    if row is None or any(name not in row or pd.isna(row[name]) for name in names):
        return "-"
    return in_words(Comparison(*(row[name] for name in names)))


def chart(table: pd.DataFrame, axis: str, best: str) -> Figure:
    """Draws a line for each shop over all queries: fused vectors with intervals, dotted own texts.

    The grey line is the mixture that was written.
    """
    figure = Figure(figsize=(6, 3.8), layout="constrained")
    panel = figure.subplots()
    of_all = table[table["kind"] == "all"]
    names = list(dict.fromkeys(of_all["name"]))
    places = [float(name) for name in names] if axis == "alpha" else list(range(len(names)))
    for number, (shop, rows) in enumerate(of_all.groupby("shop", sort=False)):
        colour = f"C{number % 10}"
        for view, style in (("product", "-"), ("text", ":"), ("image", "--")):
            part = rows[rows["view"] == view]
            if part.empty or (view == "image" and (rows["view"] == "product").any()):
                continue
            label = f"{shop}, {HEADINGS[view]}"  # type: ignore[index]
            panel.plot(places, part["mean"], style, color=colour, marker="o", ms=3, label=label)
            if view == "product":
                panel.fill_between(places, part["low"], part["high"], color=colour, alpha=0.12)
    panel.axvline(places[names.index(best)], color="0.7", linewidth=1, zorder=0)
    panel.set_xticks(places, names)
    panel.set_xlabel(f"{axis}: 1 is the run, 0 its start" if axis == "alpha" else "average")
    panel.set_ylabel("nDCG@10, all queries")
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8)
    return figure
