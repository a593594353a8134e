"""The command that makes an index of a catalogue, or brings one up to date.

    python -m beyond_text.index PRODUCTS INDEX --model RUN
    python -m beyond_text.search INDEX "a red rug" --where "price<50"

PRODUCTS are tables or shards, with queries or without. Given again, the command encodes only what
has changed: products whose text or pictures are others, or all where the model is. Products that
are gone leave the index. The new state appears whole; until then the old one answers.

With --ray a cluster encodes; with --array I/N, each of N jobs, such as those of a SLURM array,
encodes a share, and the last makes the index.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from beyond_text.config.names import INDEX_KINDS
from beyond_text.config.urls import check_place, path_of, place_of
from beyond_text.tasks.options import add_run_options, run_options
from beyond_text.terminal import check_writable, command_parser, errors_in_one_line, plain

WAITS = (
    "this share is done: the job that finds all shares done makes the index, or the same command "
    "without --array"
)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = command_parser("beyond_text.index", __doc__)
    parser.add_argument(
        "products", type=place_of, help="tables, or shards or their URL, with queries or without"
    )
    parser.add_argument("index", type=path_of, metavar="INDEX", help="folder to make or to update")
    parser.add_argument("--model", type=path_of, required=True, metavar="MODEL",
                        help="finished run or export")  # fmt: skip
    parser.add_argument("--kind", choices=INDEX_KINDS, default="exact", help="default: exact")
    parser.add_argument("--dim", type=int, help="width of the vectors; default: the model's")
    add_run_options(parser)
    parser.add_argument("--split", help="only the products of one split; default: of all")
    parser.add_argument(
        "--weight",
        type=float,
        default=1.0,
        help="of vectors beside words, 0 to 1, where a search names none; default: 1",
    )
    parser.add_argument(
        "--copy-pictures", action="store_true", help="the index holds the main pictures itself"
    )
    arguments = parser.parse_args(argv)
    if not 0 <= arguments.weight <= 1:
        parser.error(f"--weight {arguments.weight}: expected 0 to 1")
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    arguments = parse(argv)
    with errors_in_one_line(RuntimeError):
        from beyond_text.indexing.models import model_facts

        model = model_facts(arguments.model)
        products = arguments.products
        check_place(products)
        check_writable(arguments.index)
        from beyond_text.indexing.build import Options, build_index
        from beyond_text.shards.store import folder_of

        built = build_index(
            folder_of(products),
            arguments.index,
            model,
            Options(
                kind=arguments.kind,
                dim=arguments.dim,
                split=arguments.split,
                weight=arguments.weight,
                copy_pictures=arguments.copy_pictures,
                **run_options(arguments),
            ),
        )
        if built is None:
            print(plain(f"{arguments.index}: {WAITS}"))
            return
        facts = built.facts
        if not (isinstance(products, Path) or facts.copied):
            print("pictures at a URL are not shown: say --copy-pictures to keep them in the index")
        lost = f", {built.left_out:,} left out that have neither" if built.left_out else ""
        print(
            plain(
                f"{arguments.index}: {facts.products:,} products: {built.encoded:,} encoded, "
                f"{built.kept:,} as they were, {built.removed:,} removed{lost}; {facts.kind}, "
                f"recall@10 {facts.recall_at_10:.3f}"
            )
        )


if __name__ == "__main__":
    main()
