"""The nine scenarios of UniECS: queries and products by text, by picture, or by what they have.

UniECS (arXiv 2508.13843) reports recall on each of {text, image, text+image} -> {text, image,
text+image}. Here every product of the split that has one of the scenario's modalities is searched,
and of a query or product nothing else is seen: it is as if it had never had the other one. Recall
is the share of a query's relevant products that are found, so with several of them recall@1 stays
below 1.
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
from beyond_text.models.two_tower import TwoTower
from beyond_text.retrieval.catalogue import Catalogue, Modality
from beyond_text.retrieval.encode import MODALITIES, encode_products, encode_queries
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
# Of each scenario, such as "text->image": the measures, the number of `queries` they are over, and
# of each query `by_query` the need that it is one of, and COMPARED.
Scores = dict[str, dict[str, Any]]
NOTE = (
    "Rows: what is seen of a query. Columns: what is seen of a product; all products of the split "
    "that have it are searched. text+image goes by what each has. Recall is the share of a query's "
    "relevant products found; a query whose relevant products all lack the modality counts 0; no "
    "query finds the product that it is itself, nor another of the same picture. Differences are "
    "paired by query, with 95 % bootstrap intervals and a sign-flip permutation test over needs: "
    "queries that want the same products, or products of one design."
)


def measure(
    model: TwoTower,
    tokenizer: Any,
    bf16: bool,
    catalogue: Catalogue,
    query_set: QuerySet,
    workers: int,
) -> Scores:
    """Scores of a model in the nine scenarios, each over the queries that have its modality.

    A scenario without such a query that is judged has no measures, only `queries` 0.

    Raises:
        ValueError: no query has a picture.
    """
    queries = {
        name: encode_queries(model, tokenizer, query_set, side, bf16=bf16, workers=workers)
        for name, side in SIDES.items()
    }
    if not queries["image"].ids:
        raise ValueError(
            f"none of {len(query_set.queries)} queries has a picture: expected a column `image` in "
            "queries, or a file of pairs: --scenarios PAIRS.jsonl"
        )
    products = {
        name: encode_products(
            model, tokenizer, catalogue, modalities=side, bf16=bf16, workers=workers
        )["product"]
        for name, side in SIDES.items()
    }
    own = own_products(catalogue, query_set)
    need = _needs(query_set)
    return {
        f"{asked}->{found}": _scores(
            search(queries[asked], products[found], own), queries[asked].ids, query_set, need
        )
        for asked, found in product(SIDES, SIDES)
    }


def _needs(query_set: QuerySet) -> dict[str, int]:
    """A number for each judged query, equal for those that tell as much as one.

    Products of a design that ask for one another want different products, yet are one design.
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
    queries, qrels = query_set.queries, query_set.qrels
    judged = qrels["query_id"][qrels[grade_columns(qrels)[0]] > 0]
    if judged.isin(query_ids).any():
        seen = queries[queries["query_id"].isin(query_ids)]
        block = retrieval_metrics(ranking, seen, qrels, MEASURED)["all"]
        values = per_query(ranking, seen, qrels, COMPARED).to_dict()
        by_query = {query_id: (need[query_id], value) for query_id, value in values.items()}
        return {**{name: block[name] for name in (*MEASURED, "queries")}, "by_query": by_query}
    return {"queries": 0}


def _grid(scores: Scores, name: str) -> Float[np.ndarray, "queries products"]:
    """One measure of the nine scenarios; nan where it was not measured."""
    values = [[scores[f"{asked}->{found}"].get(name) for found in SIDES] for asked in SIDES]
    return np.array(values, dtype=float)


def _word(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.3f}"


def markdown(results: Mapping[str, Scores]) -> str:
    """Gives a 3x3 table for each measure, those of several runs (by name) side by side."""
    first = next(iter(results.values()))
    lines = []
    for name in MEASURED:
        heads = [name, "queries", *(f"{run}: {found}" for run, found in product(results, SIDES))]
        lines += ["| " + " | ".join(heads) + " |", "|---" + "|--:" * (len(heads) - 1) + "|"]
        table = np.hstack([_grid(scores, name) for scores in results.values()])
        for asked, values in zip(SIDES, table, strict=True):
            words = [asked, str(first[f"{asked}->{asked}"]["queries"]), *map(_word, values)]
            lines.append("| " + " | ".join(words) + " |")
        lines.append("")
    base, *others = results
    for run in others:
        lines += [f"| {COMPARED}, {run} less {base} | {' | '.join(SIDES)} |", "|---|---|---|---|"]
        for asked in SIDES:
            words = [_difference(results, run, base, f"{asked}->{found}") for found in SIDES]
            lines.append(f"| {asked} | {' | '.join(words)} |")
        lines.append("")
    return "\n".join([*lines, NOTE, ""])


def _difference(results: Mapping[str, Scores], run: str, base: str, scenario: str) -> str:
    ours, theirs = (results[name][scenario].get("by_query", {}) for name in (run, base))
    if not ours or ours.keys() != theirs.keys():
        return "-"
    values = np.array([(ours[query][1], theirs[query][1]) for query in ours])
    need = np.array([need for need, _ in ours.values()])
    return in_words(compare_paired(values[:, 0], values[:, 1], need))


def chart(results: Mapping[str, Scores]) -> Figure:
    """Draws heat maps: a row for each measure, on one colour scale, and a column for each run."""
    figure = Figure(figsize=(0.8 + 3.2 * len(results), 8.4), layout="constrained")
    panels = figure.subplots(len(MEASURED), len(results), squeeze=False)
    for row, name in zip(panels, MEASURED, strict=True):
        grids = [_grid(scores, name) for scores in results.values()]
        highest = max(np.nan_to_num(grids).max(), 1e-9)
        for panel, run, grid in zip(row, results, grids, strict=True):
            panel.imshow(grid, vmin=0, vmax=highest, cmap="viridis")
            for (asked, found), value in np.ndenumerate(grid):
                # Viridis ends in a bright yellow; what was not measured is blank.
                colour = "white" if value <= 0.6 * highest else "black"
                panel.text(found, asked, _word(value), ha="center", va="center", color=colour)
            panel.set_title(f"{run}: {name}", fontsize=10)
            panel.set_xticks(range(len(SIDES)), list(SIDES), fontsize=8)
            panel.set_yticks(range(len(SIDES)), list(SIDES), fontsize=8)
            panel.set_xlabel("product")
            panel.set_ylabel("query")
    return figure
