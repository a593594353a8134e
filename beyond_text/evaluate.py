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
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from beyond_text.config.views import View
from beyond_text.evaluation.compare import compare
from beyond_text.metrics.ranking import retrieval_metrics
from beyond_text.metrics.results import Metrics, write_results
from beyond_text.retrieval.ranking import rank
from beyond_text.retrieval.run import load_run, loader_workers, split_for
from beyond_text.tables.layouts import TableError

SHOWN = ("ndcg@1", "ndcg@10", "recall@10", "recall@100", "mrr")
PRODUCT_VIEWS: tuple[View, ...] = ("product", "text", "image")


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


def evaluate(run: Path, tables: Path, split: str, out: Path, view: View = "product") -> Metrics:
    """Ranks a split's products for its queries with a run's model; writes and returns the metrics.

    Raises:
        CheckpointError: no finished model in `run`.
        TableError, ShardError: no such tables or split.
    """
    model, tokenizer, bf16 = load_run(run)
    catalogue, query_set = split_for(model, tables, split)
    found = rank(
        model, tokenizer, catalogue, query_set, (view,), bf16=bf16, workers=loader_workers()
    )
    if view not in found:
        raise TableError(f"{tables}: no product of split {split!r} has the view {view!r}")
    metrics = retrieval_metrics(found[view], query_set.queries, query_set.qrels)
    write_results(out, metrics, found[view], query_set.queries, query_set.qrels)
    return metrics


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
