"""What a model is worth when pictures or texts of its products are missing.

A share of the products, the same for every run and the smaller share within the larger, loses its
pictures (or texts) as if they had never had any; a product left with nothing cannot be found.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import compress
from typing import Any, TypedDict

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.figure import Figure

from beyond_text.metrics.ranking import needs, per_query, query_kinds
from beyond_text.metrics.significance import compare_paired, in_words, interval
from beyond_text.models.two_tower import TwoTower
from beyond_text.retrieval.catalogue import Catalogue, Modality, is_left_out
from beyond_text.retrieval.encode import MODALITIES, Vectors, encode_products, encode_queries
from beyond_text.retrieval.query_set import QuerySet
from beyond_text.retrieval.ranking import own_products, search

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
MEASURE = "ndcg@10"
SEED = 0
REMOVED: dict[Modality, str] = {"image": "pictures", "text": "texts"}
WORDS = [f"{share:.0%}" for share in SHARES]
NOTE = (
    f"{MEASURE}, by the share of products whose picture (or text) was removed: the same ones for "
    "each run, those of a smaller share among those of a larger. A product left with nothing is "
    "not found by any query. Differences are paired by query, with 95 % bootstrap intervals and a "
    "sign-flip permutation test over needs: queries that want the same products."
)


class Scores(TypedDict):
    """Of each judged query its kind and need, and nDCG@10 by modality removed, share and query."""

    queries: dict[str, tuple[str, int]]
    removed: dict[Modality, dict[str, dict[str, float]]]


def measure(
    model: TwoTower,
    tokenizer: Any,
    bf16: bool,
    catalogue: Catalogue,
    query_set: QuerySet,
    workers: int,
) -> Scores:
    """nDCG@10 with each of `SHARES` of pictures, and of texts, removed; 0 % is the evaluation's.

    Each product is encoded once with all it has and once by each modality, whatever the shares.
    """

    def encode(*modalities: Modality) -> Vectors:
        return encode_products(
            model, tokenizer, catalogue, modalities=modalities, bf16=bf16, workers=workers
        )["product"]

    queries = encode_queries(model, tokenizer, query_set, bf16=bf16)
    own = own_products(catalogue, query_set)
    whole = encode(*MODALITIES)
    kinds, judged = query_kinds(query_set.queries), []
    scores: dict[Modality, dict[str, dict[str, float]]] = {}
    for removed in REMOVED:
        left = encode(*(modality for modality in MODALITIES if modality != removed))
        scores[removed] = {}
        for share, word in zip(SHARES, WORDS, strict=True):
            reduced = {name for name in catalogue.product_ids if is_left_out(name, share, SEED)}
            ranking = search(queries, _mixed(whole, left, reduced), own)
            values = per_query(ranking, query_set.queries, query_set.qrels, MEASURE)
            scores[removed][word], judged = values.to_dict(), values.index
    need = needs(judged, query_set.qrels).tolist()
    asked = {query: (kinds[query], n) for query, n in zip(judged, need, strict=True)}
    return {"queries": asked, "removed": scores}


def _mixed(whole: Vectors, left: Vectors, reduced: set[str]) -> Vectors:
    """Vectors of what products have; of the `reduced`, where there is anything, of what is left."""
    intact = [product_id not in reduced for product_id in whole.ids]
    partial = [product_id in reduced for product_id in left.ids]
    return Vectors(
        [*compress(whole.ids, intact), *compress(left.ids, partial)],
        np.concatenate([whole.vectors[intact], left.vectors[partial]]),
    )


def _kinds(scores: Scores) -> dict[str, Bool[np.ndarray, " queries"]]:
    """Which queries are of each kind; all of them first."""
    kind = np.array([kind for kind, _ in scores["queries"].values()])
    return {"all": np.ones(len(kind), bool)} | {str(name): kind == name for name in np.unique(kind)}


def _needs(scores: Scores) -> np.ndarray:
    return np.array([need for _, need in scores["queries"].values()])


def _values(scores: Scores, removed: Modality, word: str) -> Float[np.ndarray, " queries"]:
    found = scores["removed"][removed][word]
    return np.array([found[query] for query in scores["queries"]])


def markdown(results: Mapping[str, Scores]) -> str:
    """Gives a table for each modality removed: a row for each run (by name) and kind of query.

    Then each run's paired difference to the first one, where both were asked the same.
    """
    base, *others = results
    lines = []
    for removed, noun in REMOVED.items():
        lines += [f"| {noun} removed | queries | {' | '.join(WORDS)} |"]
        lines += ["|---|---" + "|--:" * len(WORDS) + "|"]
        for run, scores in results.items():
            for kind, asked in _kinds(scores).items():
                means = [f"{_values(scores, removed, word)[asked].mean():.3f}" for word in WORDS]
                lines.append(f"| {run} | {kind} | {' | '.join(means)} |")
        for run in others:
            for kind, words in _differences(results[run], results[base], removed).items():
                lines.append(f"| {run} less {base} | {kind} | {' | '.join(words)} |")
        lines.append("")
    return "\n".join([*lines, NOTE, ""])


def _differences(ours: Scores, theirs: Scores, removed: Modality) -> dict[str, list[str]]:
    """Of each kind of query one difference a share; none where the two were asked otherwise."""
    if ours["queries"] != theirs["queries"]:
        return {}
    need = _needs(ours)
    found: dict[str, list[str]] = {kind: [] for kind in _kinds(ours)}
    for word in WORDS:
        a, b = (_values(scores, removed, word) for scores in (ours, theirs))
        for kind, asked in _kinds(ours).items():
            found[kind].append(in_words(compare_paired(a[asked], b[asked], need[asked])))
    return found


def chart(results: Mapping[str, Scores]) -> Figure:
    """Draws a panel for each modality removed, and in it a line for each run, over all queries.

    Around it lies its 95 % interval.
    """
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, len(REMOVED), sharey=True)
    percent = [100 * share for share in SHARES]
    for panel, (removed, noun) in zip(panels, REMOVED.items(), strict=True):
        for run, scores in results.items():
            found = [interval(_values(scores, removed, w), _needs(scores)) for w in WORDS]
            means, lows, highs = zip(*found, strict=True)
            panel.plot(percent, means, marker="o", label=run)
            panel.fill_between(percent, lows, highs, alpha=0.15)
        panel.set_xticks(percent)
        panel.set_xlabel(f"products whose {noun} are removed, %")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel(f"{MEASURE}, all queries")
    panels[0].set_ylim(bottom=0)
    panels[0].legend()
    return figure
