"""Measures several finished runs on one split and writes their scores side by side.

`COMPARISONS` names the kinds of comparison; each brings a measurement, a table and a chart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from beyond_text.config.names import Pool
from beyond_text.evaluation import hybrid, missing, scenarios
from beyond_text.files import write_json, write_text
from beyond_text.retrieval.query_set import with_triggers
from beyond_text.retrieval.run import load_run, split_for, train_for
from beyond_text.shards.store import Folder


class Comparison(NamedTuple):
    """A kind of comparison: how a run is measured, and the table and chart of all runs by label.

    With `needs_train`, a run is measured with the train products and queries beside the others.
    """

    measure: Callable[..., Any]
    markdown: Callable[[Mapping[str, Any]], str]
    chart: Callable[[Mapping[str, Any]], Figure]
    needs_train: bool = False


COMPARISONS = {
    "scenarios": Comparison(scenarios.measure, scenarios.markdown, scenarios.chart),
    "missing": Comparison(missing.measure, missing.markdown, missing.chart),
    "hybrid": Comparison(hybrid.measure, hybrid.markdown, hybrid.chart, needs_train=True),
}


def names_of(runs: Sequence[Path]) -> list[str]:
    """Returns a label for each run, as `short_names`.

    Raises:
        ValueError: a run is given twice.
    """
    if len({run.resolve() for run in runs}) < len(runs):
        raise ValueError(f"a run is given twice: {', '.join(map(str, runs))}")
    return short_names([str(run) for run in runs])


def short_names(places: Sequence[str]) -> list[str]:
    """Returns the last part of each path, or where two are equal, what follows the shared parts."""
    parts = [place.split("/") for place in places]
    last = [each[-1] or place for each, place in zip(parts, places, strict=True)]
    if len(set(last)) == len(last):
        return last
    # At least its last part is left of each.
    folders = zip(*(each[:-1] for each in parts), strict=False)
    shared = len(list(takewhile(lambda names: len(set(names)) == 1, folders)))
    return ["/".join(each[shared:]) for each in parts]


def compare(
    name: str,
    runs: Sequence[Path],
    tables: Folder,
    split: str,
    out: Path,
    pairs: Path | None = None,
    pool: Pool | None = None,
) -> dict[str, Any]:
    """Measures runs by one of `COMPARISONS`; writes and returns the scores of each, by its label.

    `pairs` is a JSONL of pairs of the split's products: their triggers replace its queries.

    Raises:
        ValueError: a run is given twice, or the split lacks what the comparison needs.
        CheckpointError, TableError, ShardError: as for `evaluate`.
    """
    comparison = COMPARISONS[name]
    results = {}
    for label, run in zip(names_of(runs), runs, strict=True):
        encoder = load_run(run)
        catalogue, query_set = split_for(encoder.model, tables, split, pool)
        if pairs is not None:
            query_set = with_triggers(catalogue, pairs)
        train = (train_for(encoder.model, tables),) if comparison.needs_train else ()
        results[label] = comparison.measure(encoder, catalogue, query_set, *train)
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / f"{name}.md", f"{comparison.markdown(results)}\n{catalogue.in_words}.\n")
    comparison.chart(results).savefig(out / f"{name}.png", dpi=150)
    write_json(out / f"{name}.json", results)
    return results
