"""What a model is worth when pictures or texts of its products are missing.

A share of the products, the same for every run and the smaller share within the larger, loses its
pictures (or texts) as if they had never had any; a product left with nothing cannot be found.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import compress
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from beyond_text.corpus import Corpus, Modality, is_left_out
from beyond_text.encode import (
    MODALITIES,
    Vectors,
    encode_products,
    encode_queries,
    own_products,
    search,
)
from beyond_text.metrics import retrieval_metrics
from beyond_text.model import TwoTower

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
MEASURE = "ndcg@10"
SEED = 0
REMOVED: dict[Modality, str] = {"image": "pictures", "text": "texts"}
# nDCG@10 by modality removed, share of the products that lost it ("25%"), and kind of query.
Scores = dict[str, dict[str, dict[str, float]]]
NOTE = (
    f"{MEASURE}, by the share of products whose picture (or text) was removed: the same ones for "
    "each run, those of a smaller share among those of a larger. A product left with nothing is "
    "not found by any query."
)


def measure(model: TwoTower, tokenizer: Any, bf16: bool, corpus: Corpus, workers: int) -> Scores:
    """nDCG@10 with each of `SHARES` of pictures, and of texts, removed; 0 % is the evaluation's.

    Each product is encoded once with all it has and once by each modality, whatever the shares.
    """

    def encode(*modalities: Modality) -> Vectors:
        return encode_products(
            model, tokenizer, corpus, modalities=modalities, bf16=bf16, workers=workers
        )["product"]

    queries = encode_queries(model, tokenizer, corpus, bf16=bf16)
    own = own_products(corpus)
    whole = encode(*MODALITIES)
    scores: Scores = {}
    for removed in REMOVED:
        left = encode(*(modality for modality in MODALITIES if modality != removed))
        scores[removed] = {}
        for share in SHARES:
            reduced = {name for name in corpus.product_ids if is_left_out(name, share, SEED)}
            ranking = search(queries, _mixed(whole, left, reduced), own)
            metrics = retrieval_metrics(ranking, corpus.queries, corpus.qrels)
            scores[removed][f"{share:.0%}"] = {
                kind: block[MEASURE] for kind, block in metrics.items() if MEASURE in block
            }
    return scores


def _mixed(whole: Vectors, left: Vectors, reduced: set[str]) -> Vectors:
    """Vectors of what products have; of the `reduced`, where there is anything, of what is left."""
    intact = [product_id not in reduced for product_id in whole.ids]
    partial = [product_id in reduced for product_id in left.ids]
    return Vectors(
        [*compress(whole.ids, intact), *compress(left.ids, partial)],
        np.concatenate([whole.vectors[intact], left.vectors[partial]]),
    )


def markdown(results: Mapping[str, Scores]) -> str:
    """Gives a table for each modality removed: a row for each run (by name) and kind of query."""
    shares = [f"{share:.0%}" for share in SHARES]
    lines = []
    for removed, noun in REMOVED.items():
        lines += [f"| {noun} removed | queries | {' | '.join(shares)} |"]
        lines += ["|---|---" + "|--:" * len(shares) + "|"]
        for run, scores in results.items():
            for kind in scores[removed][shares[0]]:
                values = [f"{scores[removed][share][kind]:.3f}" for share in shares]
                lines.append(f"| {run} | {kind} | {' | '.join(values)} |")
        lines.append("")
    return "\n".join([*lines, NOTE, ""])


def chart(results: Mapping[str, Scores]) -> Figure:
    """Draws a panel for each modality removed, and in it a line for each run, over all queries."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, len(REMOVED), sharey=True)
    for panel, (removed, noun) in zip(panels, REMOVED.items(), strict=True):
        for run, scores in results.items():
            values = [scores[removed][f"{share:.0%}"]["all"] for share in SHARES]
            panel.plot([100 * share for share in SHARES], values, marker="o", label=run)
        panel.set_xticks([100 * share for share in SHARES])
        panel.set_xlabel(f"products whose {noun} are removed, %")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel(f"{MEASURE}, all queries")
    panels[0].set_ylim(bottom=0)
    panels[0].legend()
    return figure
