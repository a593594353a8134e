"""Scores the nine scenarios of UniECS: queries and products by text, by picture, or by both.

UniECS (arXiv 2508.13843) reports recall on each of {text, image, text+image} -> {text, image,
text+image}. Here a scenario searches every product of the split that has one of its modalities, and
encodes queries and products as if they had no other modality. Recall is the share of a query's
relevant products that are found, so with several of them recall@1 stays below 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from ir_measures import R
from jaxtyping import Float
from matplotlib.figure import Figure

from beyond_text.metrics.ranking import (
    MEASURES,
    Ranking,
    grade_columns,
    needs,
    per_query,
    retrieval_metrics,
)
from beyond_text.metrics.significance import compare_paired, in_words
from beyond_text.retrieval.catalogue import MODALITIES, Catalogue, Modality
from beyond_text.retrieval.encode import Encoder, encode_products, encode_queries
from beyond_text.retrieval.query_set import QuerySet
from beyond_text.retrieval.ranking import own_products, search
from beyond_text.tables.pairs import designs_of

SIDES: dict[str, tuple[Modality, ...]] = {
    "text": ("text",),
    "image": ("image",),
    "text+image": MODALITIES,
}
MEASURED = {
    "recall@1": R(rel=1) @ 1,
    "recall@10": MEASURES["recall@10"],
    "ndcg@10": MEASURES["ndcg@10"],
}
COMPARED = "ndcg@10"
# For each scenario, such as "text->image": the means of the measures, the number of `queries` they
# are over, and `by_query` each query's information need (a number) and its value of COMPARED.
Scores = dict[str, dict[str, Any]]
NOTE = (
    "Rows: what is seen of a query. Columns: what is seen of a product; all products of the split "
    "that have it are searched. text+image goes by what each has. Recall is the share of a query's "
    "relevant products found; a query whose relevant products all lack the modality counts 0; no "
    "query finds the product that it is itself, nor another of the same picture. Differences are "
    "paired by query, with 95 % bootstrap intervals and a sign-flip permutation test over needs: "
    "queries that want the same products, or products of one design."
)


def measure(encoder: Encoder, catalogue: Catalogue, query_set: QuerySet) -> Scores:
    """Returns a model's scores in the nine scenarios, each over the queries with its modality.

    A scenario without a judged query of its modality has no measures, only `queries` 0.

    Raises:
        ValueError: no query has a picture.
    """
    queries = {name: encode_queries(encoder, query_set, side) for name, side in SIDES.items()}
    if not queries["image"].ids:
        raise ValueError(
            f"none of {len(query_set.queries)} queries has a picture: expected a column `image` in "
            "queries, or a file of pairs: --scenarios PAIRS.jsonl"
        )
    products = {
        name: encode_products(encoder, catalogue, modalities=side)["product"]
        for name, side in SIDES.items()
    }
    own = own_products(catalogue, query_set)
    need = _needs(query_set)
    scores = {}
    for query_side, product_side in product(SIDES, SIDES):
        ranking = search(queries[query_side], products[product_side], own)
        ids = queries[query_side].ids
        scores[f"{query_side}->{product_side}"] = _scores(ranking, ids, query_set, need)
    return scores


def _needs(query_set: QuerySet) -> dict[str, int]:
    """Returns a number for each judged query, equal for queries of one information need.

    Where every query is a product itself, queries of one design are one need: they want different
    products, each other, yet their values are not independent.
    """
    queries, qrels = query_set.queries, query_set.qrels
    own = queries.set_index("query_id")["product_id"]
    if (own == "").any():
        ids = pd.Index(queries["query_id"])
        return dict(zip(ids, needs(ids, qrels).tolist(), strict=True))
    wanted = qrels[qrels[grade_columns(qrels)[0]] > 0]
    pairs = {"item_id_1": wanted["query_id"].map(own), "item_id_2": wanted["product_id"]}
    number, _ = pd.factorize(np.array(designs_of(pd.DataFrame(pairs)), dtype=object))
    return dict(zip(wanted["query_id"], number.tolist(), strict=True))


def _scores(
    ranking: Ranking, query_ids: list[str], query_set: QuerySet, need: Mapping[str, int]
) -> dict[str, Any]:
    """Returns the scores of one scenario, whose queries are `query_ids`."""
    queries, qrels = query_set.queries, query_set.qrels
    judged = qrels["query_id"][qrels[grade_columns(qrels)[0]] > 0]
    if not judged.isin(query_ids).any():
        return {"queries": 0}
    in_scenario = queries[queries["query_id"].isin(query_ids)]
    block = retrieval_metrics(ranking, in_scenario, qrels, MEASURED)["all"]
    values = per_query(ranking, in_scenario, qrels, COMPARED).to_dict()
    by_query = {query_id: (need[query_id], value) for query_id, value in values.items()}
    return {**{name: block[name] for name in (*MEASURED, "queries")}, "by_query": by_query}


def _grid(scores: Scores, name: str) -> Float[np.ndarray, "queries products"]:
    """Returns one measure of the nine scenarios; nan where it was not measured."""
    values = [[scores[f"{row}->{column}"].get(name) for column in SIDES] for row in SIDES]
    return np.array(values, dtype=float)


def _cell(value: float) -> str:
    """Returns a value for the table; a dash where it was not measured."""
    return "-" if np.isnan(value) else f"{value:.3f}"


def markdown(results: Mapping[str, Scores]) -> str:
    """Returns a 3x3 table for each measure, those of several runs (by name) side by side.

    Then each further run's paired differences from the first one.
    """
    first = next(iter(results.values()))
    lines = []
    for name in MEASURED:
        heads = [name, "queries", *(f"{run}: {side}" for run, side in product(results, SIDES))]
        lines += ["| " + " | ".join(heads) + " |", "|---" + "|--:" * (len(heads) - 1) + "|"]
        table = np.hstack([_grid(scores, name) for scores in results.values()])
        for side, values in zip(SIDES, table, strict=True):
            cells = [side, str(first[f"{side}->{side}"]["queries"]), *map(_cell, values)]
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    base, *others = results
    for run in others:
        lines += [f"| {COMPARED}, {run} less {base} | {' | '.join(SIDES)} |", "|---|---|---|---|"]
        for row in SIDES:
            cells = [_difference(results, run, base, f"{row}->{column}") for column in SIDES]
            lines.append(f"| {row} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join([*lines, NOTE, ""])


def _difference(results: Mapping[str, Scores], run: str, base: str, scenario: str) -> str:
    """Returns a run's difference from the base in words; a dash where their queries differ."""
    ours, theirs = (results[name][scenario].get("by_query", {}) for name in (run, base))
    if not ours or ours.keys() != theirs.keys():
        return "-"
    values = np.array([(ours[query][1], theirs[query][1]) for query in ours])
    need = np.array([need for need, _ in ours.values()])
    return in_words(compare_paired(values[:, 0], values[:, 1], need))


def chart(results: Mapping[str, Scores]) -> Figure:
    """Draws heat maps: a row per measure, with one colour scale, and a column per run."""
    figure = Figure(figsize=(0.8 + 3.2 * len(results), 8.4), layout="constrained")
    panels = figure.subplots(len(MEASURED), len(results), squeeze=False)
    for row, name in zip(panels, MEASURED, strict=True):
        grids = [_grid(scores, name) for scores in results.values()]
        highest = max(np.nan_to_num(grids).max(), 1e-9)
        for panel, run, grid in zip(row, results, grids, strict=True):
            panel.imshow(grid, vmin=0, vmax=highest, cmap="viridis")
            for (y, x), value in np.ndenumerate(grid):
                # Black on viridis's bright end, and on cells that are blank as not measured.
                colour = "white" if value <= 0.6 * highest else "black"
                panel.text(x, y, _cell(value), ha="center", va="center", color=colour)
            panel.set_title(f"{run}: {name}", fontsize=10)
            panel.set_xticks(range(len(SIDES)), list(SIDES), fontsize=8)
            panel.set_yticks(range(len(SIDES)), list(SIDES), fontsize=8)
            panel.set_xlabel("product")
            panel.set_ylabel("query")
    return figure
