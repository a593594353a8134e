"""The command that measures a finished run: `python -m beyond_text.evaluate RUN --tables TABLES`.

It needs only the run folder and a folder of tables or shards. It searches all products of its
pool exactly and writes metrics.json, run.trec and qrels.trec. With one run or several,

    python -m beyond_text.evaluate RUN [RUN ...] --tables TABLES --out OUT --scenarios [PAIRS.jsonl]
    python -m beyond_text.evaluate RUN [RUN ...] --tables TABLES --out OUT --missing
    python -m beyond_text.evaluate RUN [RUN ...] --tables TABLES --out OUT --hybrid

it writes NAME.json, NAME.md and NAME.png: `scenarios` are the nine scenarios of UniECS, for the
queries of TABLES or for pairs of its products; `missing` removes shares of pictures and of texts;
`hybrid` compares vectors with words (BM25) and with both. Out of shop,

    python -m beyond_text.evaluate RUN [RUN ...] --tables TABLES --others SHARDS ... --out OUT

writes one table, shops.md: the runs and the untouched encoders on each shop.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from beyond_text.config.names import MEASURE_NAMES, MODEL, POOLS, Pool, check_finished
from beyond_text.config.urls import check_place, path_of, place_of
from beyond_text.config.views import View
from beyond_text.terminal import (
    check_writable,
    command_parser,
    errors_in_one_line,
    plain,
    print_table,
)

if TYPE_CHECKING:
    from beyond_text.metrics.results import Metrics
    from beyond_text.shards.store import Folder

# What imports torch is imported in the functions, so that --help and a mistake cost no wait.
PRODUCT_VIEWS: tuple[View, ...] = ("product", "text", "image")


def show(title: str, rows: dict[str, Metrics], measures: tuple[str, ...] = MEASURE_NAMES) -> None:
    """Prints a table with a row for each name and kind of query, and a column for each measure."""
    headings = ("", "queries", "number", "products searched", *measures)
    sections = []
    for name, metrics in rows.items():
        section = []
        for kind, block in metrics.items():
            if "queries" in block:
                pool = f"{block['products']:,} ({block['pool']})" if "products" in block else "-"
                values = [f"{block[m]:.3f}" if m in block else "-" for m in measures]
                section.append([name, kind, block["queries"], pool, *values])
        sections.append(section)
    print_table(title, headings, sections, measures)


def evaluate(
    run: Path,
    tables: Folder,
    split: str,
    out: Path,
    view: View = "product",
    pool: Pool | None = None,
) -> Metrics:
    """Ranks products for a split's queries with a run's model; writes and returns metrics.

    The products are those of the `pool`; the default is that of `read_split`.

    Raises:
        CheckpointError: no finished model in `run`.
        TableError, ShardError: no such tables, split or view.
        RejectError: too many rows of the tables cannot be used.
    """
    from beyond_text.metrics.ranking import retrieval_metrics
    from beyond_text.metrics.results import with_pool, write_results
    from beyond_text.retrieval.ranking import rank
    from beyond_text.retrieval.run import load_run, split_for

    encoder = load_run(run)
    catalogue, query_set = split_for(encoder.model, tables, split, pool)
    rankings = rank(encoder, catalogue, query_set, (view,))
    if view not in rankings:
        raise ValueError(f"{tables}: no product of split {split!r} has the view {view!r}")
    metrics = with_pool(
        retrieval_metrics(rankings[view], query_set.queries, query_set.qrels),
        len(catalogue.product_ids),
        catalogue.pool,
    )
    write_results(out, metrics, rankings[view], query_set.queries, query_set.qrels)
    return metrics


# Of view and pool: what a folder's name does not say.
DEFAULTS = ("product", None)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line; `comparison` is one of `COMPARISONS`, "others" or None."""
    parser = command_parser("beyond_text.evaluate", __doc__)
    parser.add_argument("runs", type=path_of, nargs="+", metavar="RUN", help="finished run folder")
    parser.add_argument(
        "--tables", type=place_of, required=True, help="folder of tables or shards, or shards' URL"
    )
    parser.add_argument("--split", default="dev")
    parser.add_argument(
        "--pool",
        choices=POOLS,
        help="search all products of the split, or those of every split (default: split; all where "
        "products have no split of their own)",
    )
    parser.add_argument(
        "--out", type=path_of, help="default, of one run: RUN/eval-SPLIT[-VIEW][-POOL]"
    )
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
    parser.add_argument(
        "--hybrid",
        action="store_true",
        help="vectors, words and both, whose weight is tuned on the train queries of TABLES",
    )
    parser.add_argument(
        "--others",
        type=place_of,
        nargs="+",
        default=[],
        metavar="SHARDS",
        help="other shops: one table of the runs, and the untouched encoders, on each shop",
    )
    arguments = parser.parse_args(argv)
    _check(parser, arguments)
    return arguments


def _check(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Stops where options contradict each other; sets `comparison`, one of those of `chosen`."""
    chosen = {
        "scenarios": arguments.scenarios is not None,
        "missing": arguments.missing,
        "hybrid": arguments.hybrid,
        "others": bool(arguments.others),
    }
    arguments.comparison = next((name for name, given in chosen.items() if given), None)
    if sum(chosen.values()) > 1:
        given = " and ".join(f"--{name}" for name, given in chosen.items() if given)
        parser.error(f"{given}: one at a time")
    if arguments.comparison and arguments.view != "product":
        parser.error(f"--view: --{arguments.comparison} decides what is searched")
    if not arguments.comparison and len(arguments.runs) > 1:
        parser.error("several runs: only with --scenarios, --missing, --hybrid or --others")
    if len(arguments.runs) > 1 and not arguments.out:
        parser.error("several runs: --out says where their comparison is written")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    arguments = parse(argv)
    run, tables, split = arguments.runs[0], arguments.tables, arguments.split
    asked = [split, *(word for word in (arguments.view, arguments.pool) if word not in DEFAULTS)]
    out = arguments.out or run / "-".join(("eval", *asked))
    with errors_in_one_line(RuntimeError):
        for each in arguments.runs:
            check_finished(each)
        for each in (tables, *arguments.others):
            check_place(each)
        check_writable(out)
        if (out / MODEL).exists():
            raise FileExistsError(f"--out: expected another folder than a run's, got {out}")
        from beyond_text.shards.store import folder_of

        tables = folder_of(tables)
        if arguments.others:
            from beyond_text.evaluation.shops import compare_shops

            shops = [tables, *map(folder_of, arguments.others)]
            compare_shops(arguments.runs, shops, split, out, arguments.pool)
            print((out / "shops.md").read_text(encoding="utf-8"))
        elif arguments.comparison:
            from beyond_text.evaluation.compare import compare

            pairs = Path(arguments.scenarios) if arguments.scenarios else None
            given = (arguments.runs, tables, split, out, pairs, arguments.pool)
            compare(arguments.comparison, *given)
            print((out / f"{arguments.comparison}.md").read_text(encoding="utf-8"))
        else:
            metrics = evaluate(run, tables, split, out, arguments.view, arguments.pool)
            show(f"{run} on {tables} ({split})", {"": metrics})
        print(plain(f"written to {out}"))


if __name__ == "__main__":
    main()
