"""Measures what missing pictures or texts of products cost a model.

A share of the products loses its pictures (or texts), as if they never had any. The products are
the same for every run, and those of a smaller share are among those of a larger. A product left
with neither cannot be found.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import compress
from typing import TypedDict

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from beyond_text.evaluation.judged import Judged, kinds_and_needs, needs_of, parts_of
from beyond_text.metrics.ranking import per_query
from beyond_text.metrics.significance import compare_paired, in_words, interval
from beyond_text.retrieval.catalogue import MODALITIES, Catalogue, Modality, is_left_out
from beyond_text.retrieval.encode import Encoder, Vectors, encode_products, encode_queries
from beyond_text.retrieval.query_set import QuerySet
from beyond_text.retrieval.ranking import own_products, search
from beyond_text.terminal import table_row

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
MEASURE = "ndcg@10"
SEED = 0
REMOVED: dict[Modality, str] = {"image": "pictures", "text": "texts"}
LABELS = [f"{share:.0%}" for share in SHARES]
NOTE = (
    f"{MEASURE}, by the share of products whose picture (or text) was removed: the same ones for "
    "each run, those of a smaller share among those of a larger. A product left with nothing is "
    "not found by any query. Differences are paired by query, with 95 % bootstrap intervals and a "
    "sign-flip permutation test over needs: queries that want the same products."
)


class Scores(TypedDict):
    """The kind and information need of each judged query, and its nDCG@10.

    `removed` holds nDCG@10 by removed modality, then share (such as "25%"), then query_id.
    """

    queries: Judged
    removed: dict[Modality, dict[str, dict[str, float]]]


def measure(encoder: Encoder, catalogue: Catalogue, query_set: QuerySet) -> Scores:
    """Returns nDCG@10 with each of `SHARES` of pictures, and of texts, removed.

    At 0 % it is the evaluation's. Each product is encoded once with all that it has and once by
    each modality, however many shares there are.
    """

    def encode(*modalities: Modality) -> Vectors:
        return encode_products(encoder, catalogue, modalities=modalities)["product"]

    queries = encode_queries(encoder, query_set)
    own = own_products(catalogue, query_set)
    complete = encode(*MODALITIES)
    scores: dict[Modality, dict[str, dict[str, float]]] = {}
    for removed in REMOVED:
        reduced = encode(*(modality for modality in MODALITIES if modality != removed))
        scores[removed] = {}
        for share, label in zip(SHARES, LABELS, strict=True):
            losing = {name for name in catalogue.product_ids if is_left_out(name, share, SEED)}
            ranking = search(queries, _mixed(complete, reduced, losing), own)
            values = per_query(ranking, query_set.queries, query_set.qrels, MEASURE)
            scores[removed][label] = values.to_dict()
    judged = [*scores["image"][LABELS[0]]]
    return {"queries": kinds_and_needs(query_set, judged), "removed": scores}


def _mixed(complete: Vectors, reduced: Vectors, losing: set[str]) -> Vectors:
    """Takes the products in `losing` from `reduced`, if they are there, others from `complete`."""
    keeps = [product_id not in losing for product_id in complete.ids]
    loses = [product_id in losing for product_id in reduced.ids]
    return Vectors(
        [*compress(complete.ids, keeps), *compress(reduced.ids, loses)],
        np.concatenate([complete.vectors[keeps], reduced.vectors[loses]]),
    )


def _values(scores: Scores, removed: Modality, label: str) -> Float[np.ndarray, " queries"]:
    """Returns the nDCG@10 of each query with a share removed, in the order of the queries."""
    by_query = scores["removed"][removed][label]
    return np.array([by_query[query] for query in scores["queries"]])


def markdown(results: Mapping[str, Scores]) -> str:
    """Returns a table for each removed modality: a row for each run (by name) and kind of query.

    Then each further run's paired differences from the first one, if both have the same queries.
    """
    base, *others = results
    lines = []
    for removed, noun in REMOVED.items():
        lines += [table_row([f"{noun} removed", "queries", *LABELS])]
        lines += ["|---|---" + "|--:" * len(LABELS) + "|"]
        for run, scores in results.items():
            for kind, part in parts_of(scores["queries"]).items():
                means = [f"{_values(scores, removed, label)[part].mean():.3f}" for label in LABELS]
                lines.append(table_row([run, kind, *means]))
        for run in others:
            for kind, words in _differences(results[run], results[base], removed).items():
                lines.append(table_row([f"{run} less {base}", kind, *words]))
        lines.append("")
    return "\n".join([*lines, NOTE, ""])


def _differences(ours: Scores, theirs: Scores, removed: Modality) -> dict[str, list[str]]:
    """Returns a difference per share for each kind of query; empty where the queries differ."""
    if ours["queries"] != theirs["queries"]:
        return {}
    need = needs_of(ours["queries"])
    differences: dict[str, list[str]] = {kind: [] for kind in parts_of(ours["queries"])}
    for label in LABELS:
        a, b = (_values(scores, removed, label) for scores in (ours, theirs))
        for kind, part in parts_of(ours["queries"]).items():
            differences[kind].append(in_words(compare_paired(a[part], b[part], need[part])))
    return differences


def chart(results: Mapping[str, Scores]) -> Figure:
    """Draws a panel per removed modality: a line for each run over all queries, with intervals.

    The intervals are 95 % bootstrap intervals.
    """
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, len(REMOVED), sharey=True)
    percent = [100 * share for share in SHARES]
    for panel, (removed, noun) in zip(panels, REMOVED.items(), strict=True):
        for run, scores in results.items():
            intervals = [
                interval(_values(scores, removed, label), needs_of(scores["queries"]))
                for label in LABELS
            ]
            means, lows, highs = zip(*intervals, strict=True)
            panel.plot(percent, means, marker="o", label=run)
            panel.fill_between(percent, lows, highs, alpha=0.15)
        panel.set_xticks(percent)
        panel.set_xlabel(f"products whose {noun} are removed, %")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel(f"{MEASURE}, all queries")
    panels[0].set_ylim(bottom=0)
    panels[0].legend()
    return figure
