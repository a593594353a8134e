"""The command that measures a finished run: `python -m beyond_text.evaluate RUN --tables TABLES`.

The model comes from the run folder alone. Writes metrics.json, run.trec and qrels.trec; the search
is exact, over all products of the split. Of one run or several,

    python -m beyond_text.evaluate RUN [RUN ...] --tables TABLES --out OUT --scenarios [PAIRS.jsonl]
    python -m beyond_text.evaluate RUN [RUN ...] --tables TABLES --out OUT --missing

writes NAME.json, NAME.md and NAME.png with the nine scenarios (of the queries of TABLES, or of
pairs of its products), or with shares of pictures and texts removed.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from beyond_text import missing, scenarios
from beyond_text.checkpoint import load_model
from beyond_text.config import View, load_config
from beyond_text.corpus import Corpus, read_corpus, with_triggers
from beyond_text.encode import rank
from beyond_text.files import write_json, write_text
from beyond_text.inputs import METRICS
from beyond_text.metrics import Ranking, retrieval_metrics
from beyond_text.model import TwoTower
from beyond_text.tables import TableError
from beyond_text.trec import write_trec

Metrics = dict[str, dict[str, Any]]
SHOWN = ("ndcg@1", "ndcg@10", "recall@10", "recall@100", "mrr")
PRODUCT_VIEWS: tuple[View, ...] = ("product", "text", "image")


class Comparison(NamedTuple):
    """How runs are compared: what is measured of each, and the table and chart of all by name."""

    measure: Callable[[TwoTower, Any, bool, Corpus, int], Any]
    markdown: Callable[[Mapping[str, Any]], str]
    chart: Callable[[Mapping[str, Any]], Figure]


COMPARISONS = {
    "scenarios": Comparison(scenarios.measure, scenarios.markdown, scenarios.chart),
    "missing": Comparison(missing.measure, missing.markdown, missing.chart),
}


def bf16_is_fast(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 natively."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        able = torch.cpu.get_capabilities()
        return bool(able.get("avx512_bf16") or able.get("amx_bf16"))
    return False


def precision_of(asked: str) -> str:
    """Lightning's precision; `auto` is bfloat16 autocast where the device computes it natively."""
    if asked != "auto":
        return asked
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return "bf16-mixed" if bf16_is_fast(device) else "32-true"


def write_results(out: Path, metrics: Metrics, ranking: Ranking, corpus: Corpus) -> None:
    """Writes the TREC files, then metrics.json, whose presence says that all is there."""
    out.mkdir(parents=True, exist_ok=True)
    write_trec(out, ranking, corpus.qrels, corpus.queries)
    write_json(out / METRICS, metrics)


def show(title: str, rows: dict[str, Metrics], measures: tuple[str, ...] = SHOWN) -> None:
    """Prints a row a name and kind of query, a column a measure."""
    table = Table(title=title, title_justify="left")
    for heading in ("", "queries", "number"):
        table.add_column(heading)
    for measure in measures:
        table.add_column(measure, justify="right")
    for name, metrics in rows.items():
        for kind, block in metrics.items():
            if "queries" in block:
                values = [f"{block[m]:.3f}" if m in block else "-" for m in measures]
                table.add_row(name, kind, str(block["queries"]), *values)
        table.add_section()
    Console(width=max(100, Console().width)).print(table)


def load_run(run: Path) -> tuple[TwoTower, Any, bool]:
    """A run's model, on its device, its tokenizer, and whether it computes in bfloat16.

    In the precision of the run's config.yaml, so the numbers are those that training reported.

    Raises:
        CheckpointError: no finished model in `run`.
    """
    model, tokenizer = load_model(run)
    model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    saved = run / "config.yaml"
    precision = precision_of(load_config([saved]).precision if saved.is_file() else "auto")
    return model, tokenizer, precision == "bf16-mixed"


def corpus_for(model: TwoTower, tables: Path, split: str) -> Corpus:
    """The corpus of a split with the texts and pictures that the model was made for."""
    settings = model.settings
    return read_corpus(
        tables, split, settings.text_fields, settings.image_size, settings.picture_size
    )


def loader_workers() -> int:
    """All cores but one decode pictures."""
    return max(1, (os.cpu_count() or 1) - 1)


def evaluate(run: Path, tables: Path, split: str, out: Path, view: View = "product") -> Metrics:
    """Ranks a split's products for its queries with a run's model; writes and returns the metrics.

    Raises:
        CheckpointError: no finished model in `run`.
        TableError, ShardError: no such tables or split.
    """
    model, tokenizer, bf16 = load_run(run)
    corpus = corpus_for(model, tables, split)
    found = rank(model, tokenizer, corpus, (view,), bf16=bf16, workers=loader_workers())
    if view not in found:
        raise TableError(f"{tables}: no product of split {split!r} has the view {view!r}")
    metrics = retrieval_metrics(found[view], corpus.queries, corpus.qrels)
    write_results(out, metrics, found[view], corpus)
    return metrics


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
        corpus = corpus_for(model, tables, split)
        if pairs is not None:
            corpus = with_triggers(corpus, pairs)
        results[label] = comparison.measure(model, tokenizer, bf16, corpus, loader_workers())
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / f"{name}.md", comparison.markdown(results))
    comparison.chart(results).savefig(out / f"{name}.png", dpi=150)
    write_json(out / f"{name}.json", results)
    return results


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line; `comparison` is one of `COMPARISONS` or None."""
    parser = argparse.ArgumentParser(prog="python -m beyond_text.evaluate", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="finished run folder")
    parser.add_argument("--tables", type=Path, required=True, help="folder of tables or shards")
    parser.add_argument("--split", default="dev")
    parser.add_argument("--out", type=Path, help="default, of one run: RUN/eval-SPLIT")
    parser.add_argument(
        "--view",
        choices=PRODUCT_VIEWS,
        default="product",
        help="which product vectors are searched (default: the fused ones)",
    )
    parser.add_argument(
        "--scenarios",
        nargs="?",
        const="",
        metavar="PAIRS.jsonl",
        help="the nine scenarios; without a file of pairs, of the queries that TABLES has",
    )
    parser.add_argument(
        "--missing", action="store_true", help="with shares of pictures and of texts removed"
    )
    asked = parser.parse_args(argv)
    chosen = {"scenarios": asked.scenarios is not None, "missing": asked.missing}
    asked.comparison = next((name for name, wanted in chosen.items() if wanted), None)
    if all(chosen.values()):
        parser.error("--scenarios and --missing: one at a time")
    if asked.comparison and asked.view != "product":
        parser.error(f"--view: --{asked.comparison} decides what is searched")
    if not asked.comparison and len(asked.runs) > 1:
        parser.error("several runs: only with --scenarios or --missing")
    if len(asked.runs) > 1 and not asked.out:
        parser.error("several runs: --out says where their comparison is written")
    return asked


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    asked = parse(argv)
    run, tables, split = asked.runs[0], asked.tables, asked.split
    out = asked.out or run / f"eval-{split}"
    try:
        if asked.comparison:
            pairs = Path(asked.scenarios) if asked.scenarios else None
            compare(asked.comparison, asked.runs, tables, split, out, pairs)
            print((out / f"{asked.comparison}.md").read_text(encoding="utf-8"))
        else:
            metrics = evaluate(run, tables, split, out, asked.view)
            show(f"{run} on {tables} ({split})", {"": metrics})
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    print(f"written to {out}")


if __name__ == "__main__":
    main()
