"""Makes the README's table: each stage beside the best that there was before training.

    python -m tests.benchmarks.stages runs runs/seed1 --split test

Each folder holds the runs stage1, stage2 and stage3 of one seed, and all were trained on the same
shards. Values are nDCG@10, averaged over the folders; intervals are over needs (queries that ask
for the same products), p is that of a paired permutation test against the best before training.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from beyond_text.config.load import load_config
from beyond_text.config.urls import place_of
from beyond_text.config.views import View
from beyond_text.metrics.ranking import needs, per_query
from beyond_text.metrics.significance import compare_paired, in_words, interval
from beyond_text.retrieval.query_set import QuerySet
from beyond_text.retrieval.ranking import rank
from beyond_text.retrieval.run import load_run, split_for
from beyond_text.shards.store import folder_of
from beyond_text.terminal import errors_in_one_line
from beyond_text.training.untouched import untouched

STAGES = ("stage1", "stage2", "stage3")
VIEWS: tuple[View, ...] = ("product", "text", "image")
# nDCG@10 of each query, by the view and by the state of training.
Values = dict[tuple[str, View], pd.Series]


def measure(runs: Path, split: str) -> tuple[Values, QuerySet, str]:
    """Measures a seed's stages; also returns the queries, and how many products are searched."""
    shards = folder_of(place_of(load_config([runs / "stage1" / "config.yaml"]).data.dev))
    values: Values = {}
    for stage in ("step 0", *STAGES):
        encoder = load_run(runs / stage) if stage != "step 0" else untouched(runs / "stage1")
        catalogue, query_set = split_for(encoder.model, shards, split)
        for view, ranking in rank(encoder, catalogue, query_set, VIEWS).items():
            values[stage, view] = per_query(ranking, query_set.queries, query_set.qrels)
    return values, query_set, catalogue.in_words


def table(folders: Sequence[Path], split: str) -> str:
    """Returns the table as Markdown, with what it is of."""
    measured = [measure(folder, split) for folder in folders]
    (first, query_set, pool), seeds = measured[0], [values for values, _, _ in measured]
    mean = {key: sum(values[key] for values in seeds) / len(seeds) for key in first}
    best = max(VIEWS, key=lambda view: mean["step 0", view].mean())
    before = mean["step 0", best]
    need = needs(before.index, query_set.qrels)
    rows = [("best before training", "step 0", best)]
    rows += [(f"{stage}, fused", stage, "product") for stage in STAGES]
    rows += [(f"stage3, {view} alone", "stage3", view) for view in ("text", "image")]
    lines = [
        f"nDCG@10, split {split}, {len(before)} queries, {pool}, {len(folders)} seeds.\n",
        "| | mean | 95 % interval | each seed | against the best before training |",
        "|---|--:|---|---|---|",
    ]
    for name, stage, view in rows:
        value = mean[stage, view].to_numpy()
        _, low, high = interval(value, need)
        each = ", ".join(f"{values[stage, view].mean():.3f}" for values in seeds)
        name = f"{name} ({view})" if stage == "step 0" else name
        against = in_words(compare_paired(value, before.to_numpy(), need))
        against = "" if stage == "step 0" else against
        lines.append(
            f"| {name} | {np.mean(value):.3f} | {low:.3f} to {high:.3f} | {each} | {against} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="a folder of stage1 to stage3 a seed")
    parser.add_argument("--split", default="test")
    arguments = parser.parse_args()
    with errors_in_one_line(RuntimeError):
        print(table(arguments.runs, arguments.split))


if __name__ == "__main__":
    main()
