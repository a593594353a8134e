"""TODO evaluation.compare."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from beyond_text.evaluation import missing, scenarios
from beyond_text.files import write_json, write_text
from beyond_text.models.two_tower import TwoTower
from beyond_text.retrieval.catalogue import Catalogue
from beyond_text.retrieval.query_set import QuerySet, with_triggers
from beyond_text.retrieval.run import load_run, loader_workers, split_for


class Comparison(NamedTuple):
    """How runs are compared: what is measured of each, and the table and chart of all by name."""

    measure: Callable[[TwoTower, Any, bool, Catalogue, QuerySet, int], Any]
    markdown: Callable[[Mapping[str, Any]], str]
    chart: Callable[[Mapping[str, Any]], Figure]


COMPARISONS = {
    "scenarios": Comparison(scenarios.measure, scenarios.markdown, scenarios.chart),
    "missing": Comparison(missing.measure, missing.markdown, missing.chart),
}


def names_of(runs: Sequence[Path]) -> list[str]:
    """A name for each run: its folder's own where these differ, else the whole path.

    Raises:
        ValueError: a run that is given twice.
    """
    if len(set(runs)) < len(runs):
        raise ValueError(f"a run is given twice: {', '.join(map(str, runs))}")
    short = [run.name or str(run) for run in runs]
    return short if len(set(short)) == len(short) else [str(run) for run in runs]


def compare(
    name: str, runs: Sequence[Path], tables: Path, split: str, out: Path, pairs: Path | None = None
) -> dict[str, Any]:
    """Measures runs by one of `COMPARISONS`; writes and returns what each has, by its name.

    `pairs` is a JSONL of pairs of the split's products: their triggers replace its queries.

    Raises:
        ValueError: a run that is given twice, or what the comparison needs is not there.
        CheckpointError, TableError, ShardError: as for `evaluate`.
    """
    comparison = COMPARISONS[name]
    results = {}
    for label, run in zip(names_of(runs), runs, strict=True):
        model, tokenizer, bf16 = load_run(run)
        catalogue, query_set = split_for(model, tables, split)
        if pairs is not None:
            query_set = with_triggers(catalogue, pairs)
        results[label] = comparison.measure(
            model, tokenizer, bf16, catalogue, query_set, loader_workers()
        )
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / f"{name}.md", comparison.markdown(results))
    comparison.chart(results).savefig(out / f"{name}.png", dpi=150)
    write_json(out / f"{name}.json", results)
    return results
