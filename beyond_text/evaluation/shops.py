"""Measures runs on several shops, their own and others, beside the untouched encoders.

Rows are runs, columns shops: fused vectors, texts and pictures, each against untouched text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from beyond_text.config.names import UNTOUCHED, Pool
from beyond_text.config.views import View
from beyond_text.evaluation.compare import names_of, short_names
from beyond_text.files import write_json, write_text
from beyond_text.metrics.ranking import needs, per_query, query_kinds
from beyond_text.metrics.significance import (
    Comparison,
    compare_paired,
    in_words,
    interval,
    with_interval,
)
from beyond_text.retrieval.encode import Encoder
from beyond_text.retrieval.query_set import QuerySet
from beyond_text.retrieval.ranking import rank
from beyond_text.retrieval.run import load_run, split_for
from beyond_text.shards.store import Folder
from beyond_text.terminal import table_row
from beyond_text.training.untouched import untouched

MEASURE = "ndcg@10"
HEADINGS: dict[View, str] = {"product": "fused", "text": "text", "image": "picture"}
# What each number is compared with: the text vectors of the untouched encoders.
REFERENCE: tuple[str, View] = (UNTOUCHED, "text")
# A shop's values of each query by run and view, its queries, and what is searched.
OfShop = tuple[dict[tuple[str, View], pd.Series], QuerySet, str]


def compare_shops(
    runs: Sequence[Path],
    shops: Sequence[Folder],
    split: str,
    out: Path,
    pool: Pool | None = None,
) -> list[dict[str, Any]]:
    """Measures runs, and the untouched encoders of the first, on a split of every shop.

    Writes shops.md and shops.json to `out`, and returns the rows of the latter: run, shop, kind of
    query, view, queries, needs, mean, low, high; and difference, difference_low, difference_high
    and p, paired against untouched text where the shop has texts.

    Raises:
        ValueError: a run or a shop is given twice.
        CheckpointError, TableError, ShardError: as for `evaluate`.
    """
    labels = shop_names(shops)
    pairs = zip(names_of(runs), runs, strict=True)
    names = [str(run.absolute()) if name == UNTOUCHED else name for name, run in pairs]
    of_shops: dict[str, OfShop] = {}
    with tqdm(total=(1 + len(runs)) * len(shops), desc="measuring", unit="shop") as bar:
        for name, run in zip([UNTOUCHED, *names], [None, *runs], strict=True):
            encoder = untouched(runs[0]) if run is None else load_run(run)
            for label, shop in zip(labels, shops, strict=True):
                bar.set_postfix_str(f"{name} on {label}")
                values, query_set, searched = _measure(encoder, shop, split, pool)
                found = of_shops.setdefault(label, ({}, query_set, searched))
                found[0].update({(name, view): part for view, part in values.items()})
                bar.update()
    rows = [row for label, of_shop in of_shops.items() for row in _rows(label, of_shop)]
    out.mkdir(parents=True, exist_ok=True)
    searched = "; ".join(f"{label}: {of_shop[2]}" for label, of_shop in of_shops.items())
    write_text(out / "shops.md", f"{markdown(rows)}\nSplit {split}. {searched}.\n")
    # JSON has no NaN, which the interval of one need is.
    numbers = [{name: None if value != value else value for name, value in row.items()}
               for row in rows]  # fmt: skip
    write_json(out / "shops.json", numbers)
    return rows


def shop_names(shops: Sequence[Folder]) -> list[str]:
    """Returns a label for each shop, as `short_names`.

    Raises:
        ValueError: a shop is given twice.
    """
    whole = [str(shop).rstrip("/") for shop in shops]
    if len(set(whole)) < len(whole):
        raise ValueError(f"a shop is given twice: {', '.join(whole)}")
    return short_names(whole)


def _measure(
    encoder: Encoder, shop: Folder, split: str, pool: Pool | None
) -> tuple[dict[View, pd.Series], QuerySet, str]:
    """Returns the measure of each query by the view of the products, and what is searched."""
    catalogue, query_set = split_for(encoder.model, shop, split, pool)
    rankings = rank(encoder, catalogue, query_set, tuple(HEADINGS))
    queries, qrels = query_set.queries, query_set.qrels
    values = {view: per_query(each, queries, qrels, MEASURE) for view, each in rankings.items()}
    return values, query_set, catalogue.in_words


def _rows(shop: str, of_shop: OfShop) -> list[dict[str, Any]]:
    """Returns the rows of a shop, "all" queries first, then each kind where there are several."""
    values, query_set, _ = of_shop
    kind = query_kinds(query_set.queries)
    reference = values.get(REFERENCE)
    rows = []
    for (name, view), part in values.items():
        kinds = kind[part.index].to_numpy()
        parts = {each: kinds == each for each in sorted(set(kinds))}
        need = needs(part.index, query_set.qrels)
        whole = {"all": np.ones(len(part), dtype=bool)}
        for each, chosen in (whole | (parts if len(parts) > 1 else {})).items():
            value, group = part.to_numpy()[chosen], need[chosen]
            mean, low, high = interval(value, group)
            row = {"run": name, "shop": shop, "kind": each, "view": view, "queries": len(value),
                   "needs": len(set(group)), "mean": mean, "low": low, "high": high}  # fmt: skip
            if reference is not None and (name, view) != REFERENCE:
                other = reference.reindex(part.index).to_numpy()[chosen]
                compared = compare_paired(value, other, group)
                names = ("difference", "difference_low", "difference_high", "p")
                row |= dict(zip(names, compared, strict=True))
            rows.append(row)
    return rows


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns one table over all queries: a line for each run, four columns for each shop."""
    of_all = {(r["run"], r["shop"], r["view"]): r for r in rows if r["kind"] == "all"}
    runs, shops = (list(dict.fromkeys(key[n] for key in of_all)) for n in (0, 1))
    queries = {shop: max(r["queries"] for r in rows if r["shop"] == shop) for shop in shops}
    heads = ["run"]
    for shop in shops:
        heads += [f"{shop} ({queries[shop]}), {heading}" for heading in HEADINGS.values()]
        heads.append(f"{shop}, fused less untouched text")
    lines = [table_row(heads), "|---" * len(heads) + "|"]
    for run in runs:
        cells = [run]
        for shop in shops:
            cells += [value_of(of_all.get((run, shop, view))) for view in HEADINGS]
            cells.append(_difference(of_all.get((run, shop, "product"))))
        lines.append(table_row(cells))
    note = (
        f"{MEASURE} of all queries (their number in round brackets); kinds are in shops.json. "
        f"Square brackets: 95 % bootstrap intervals over queries, those that are judged alike "
        "taken as one. Differences are paired by query; p is a sign-flip permutation test, not "
        f"corrected for the number of cells. {UNTOUCHED}: the encoders that the first run began "
        "with."
    )
    return "\n".join([*lines, "", note, ""])


def value_of(row: Mapping[str, Any] | pd.Series | None) -> str:
    """Returns the mean of a row with its interval, "-" where there is none."""
    return "-" if row is None else with_interval(row["mean"], row["low"], row["high"])


def _difference(row: Mapping[str, Any] | None) -> str:
    if row is None or "difference" not in row:
        return "-"
    names = ("difference", "difference_low", "difference_high", "p")
    return in_words(Comparison(*(row[name] for name in names)))
