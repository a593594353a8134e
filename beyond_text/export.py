"""The command that writes a finished run's model as files that other programs read.

    python -m beyond_text.export RUN OUT
    python -m beyond_text.export RUN OUT --products shop --push owner/name

OUT holds a sentence-transformers folder of queries, ONNX graphs of queries and products, what makes
tokens and pixels, an example without torch, and a model card.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from beyond_text.config.names import check_finished
from beyond_text.config.urls import check_place, path_of, place_of
from beyond_text.terminal import check_writable, command_parser, errors_in_one_line, plain

if TYPE_CHECKING:
    from beyond_text.exporting.card import Facts

# What imports torch is imported in `main`, so that --help and a mistake cost no wait.


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = command_parser("beyond_text.export", __doc__)
    parser.add_argument("run", type=path_of, metavar="RUN", help="finished run folder")
    parser.add_argument("out", type=path_of, metavar="OUT", help="new folder, or an earlier export")
    parser.add_argument(
        "--products",
        type=place_of,
        metavar="FOLDER",
        help="tables, or shards or their URL, whose vectors are written to OUT/vectors.parquet",
    )
    parser.add_argument(
        "--push", metavar="OWNER/NAME", help="uploads OUT to a hub (HF_ENDPOINT), as private"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    arguments = parse(argv)
    with errors_in_one_line(RuntimeError):
        check_finished(arguments.run)
        check_writable(arguments.out)
        products = arguments.products
        check_place(products)
        if arguments.push:
            from beyond_text.exporting.push import check_name

            check_name(arguments.push)
        from beyond_text.exporting.folder import export_run
        from beyond_text.shards.store import folder_of

        folder = None if products is None else folder_of(products)
        _show(arguments.out, export_run(arguments.run, arguments.out, folder))
        if arguments.push:
            from beyond_text.exporting.push import push

            print(plain(f"uploaded to {push(arguments.out, arguments.push)}"))


def _show(out: Path, facts: Facts) -> None:
    """Prints what was written, and what was not."""
    print(plain(f"{out}: vectors equal torch's up to {facts.difference:.1g}"))
    if facts.no_query_folder is not None:
        print(plain(f"no {out / 'query'} for sentence-transformers: {facts.no_query_folder}"))
    if isinstance(facts.int8, str):
        print(plain(f"what int8 costs was not measured: {facts.int8}"))
    else:
        exact, small, queries, _ = facts.int8
        print(plain(f"int8: nDCG@10 {small:.4f}, float32: {exact:.4f} ({queries:,} queries)"))
    if facts.products is not None:
        print(plain(f"{out / 'vectors.parquet'}: {facts.products:,} products"))


if __name__ == "__main__":
    main()
