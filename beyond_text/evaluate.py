"""The command that measures a finished run: `python -m beyond_text.evaluate RUN --tables TABLES`.

It needs only the run folder and a folder of tables or shards. It searches all products of the split
exactly and writes metrics.json, run.trec and qrels.trec. With one run or several,

    python -m beyond_text.evaluate RUN [RUN ...] --tables TABLES --out OUT --scenarios [PAIRS.jsonl]
    python -m beyond_text.evaluate RUN [RUN ...] --tables TABLES --out OUT --missing

it writes NAME.json, NAME.md and NAME.png: `scenarios` are the nine scenarios of UniECS, for the
queries of TABLES or for pairs of its products; `missing` removes shares of pictures and of texts.
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
from beyond_text.retrieval.run import load_run, split_for
from beyond_text.tables.layouts import TableError

SHOWN = ("ndcg@1", "ndcg@10", "recall@10", "recall@100", "mrr")
PRODUCT_VIEWS: tuple[View, ...] = ("product", "text", "image")


def show(title: str, rows: dict[str, Metrics], measures: tuple[str, ...] = SHOWN) -> None:
    """Prints a table with a row for each name and kind of query, and a column for each measure."""
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
    """Ranks a split's products for its queries with a run's model; writes and returns metrics.

    Raises:
        CheckpointError: no finished model in `run`.
        TableError, ShardError: no such tables, split or view.
    """
    encoder = load_run(run)
    catalogue, query_set = split_for(encoder.model, tables, split)
    rankings = rank(encoder, catalogue, query_set, (view,))
    if view not in rankings:
        raise TableError(f"{tables}: no product of split {split!r} has the view {view!r}")
    metrics = retrieval_metrics(rankings[view], query_set.queries, query_set.qrels)
    write_results(out, metrics, rankings[view], query_set.queries, query_set.qrels)
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
    arguments = parser.parse_args(argv)
    chosen = {"scenarios": arguments.scenarios is not None, "missing": arguments.missing}
    arguments.comparison = next((name for name, given in chosen.items() if given), None)
    if all(chosen.values()):
        parser.error("--scenarios and --missing: one at a time")
    if arguments.comparison and arguments.view != "product":
        parser.error(f"--view: --{arguments.comparison} decides what is searched")
    if not arguments.comparison and len(arguments.runs) > 1:
        parser.error("several runs: only with --scenarios or --missing")
    if len(arguments.runs) > 1 and not arguments.out:
        parser.error("several runs: --out says where their comparison is written")
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    arguments = parse(argv)
    run, tables, split = arguments.runs[0], arguments.tables, arguments.split
    out = arguments.out or run / f"eval-{split}"
    try:
        if arguments.comparison:
            pairs = Path(arguments.scenarios) if arguments.scenarios else None
            compare(arguments.comparison, arguments.runs, tables, split, out, pairs)
            print((out / f"{arguments.comparison}.md").read_text(encoding="utf-8"))
        else:
            metrics = evaluate(run, tables, split, out, arguments.view)
            show(f"{run} on {tables} ({split})", {"": metrics})
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    print(f"written to {out}")


if __name__ == "__main__":
    main()
