r"""The command that tags products with what a model sees in their pictures; it needs no judgments.

    python -m beyond_text.tag RUN TABLES OUT
    python -m data_prep.queries TABLES FREE --fields OUT/attributes.csv \
        --attributes colour,product_type

RUN may be stage 1 alone. OUT/attributes.csv has product_id, a column for each field (colour,
pattern, material) and product_type; a cell is empty where neither text nor picture says enough. It
replaces one that this command has written; OUT/tagged.json says how. A word that the product's text
names is taken as it is; else the words are compared with the picture and the nearest is kept where
it is sure. How sure is the softmax over the words, each set against its scores over all products:
it orders products, and is no probability.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from beyond_text.config.names import check_finished
from beyond_text.config.urls import check_place, path_of, place_of
from beyond_text.terminal import (
    check_writable,
    command_parser,
    errors_in_one_line,
    plain,
    print_table,
)

if TYPE_CHECKING:
    from beyond_text.shards.store import Folder
    from beyond_text.tagging.tag import Tagged

# What imports torch is imported in `main`, so that --help and a mistake cost no wait.
CONFIDENCE = 0.7
ATTRIBUTES = "attributes.csv"
# Says that this command has written them.
MARK = "tagged.json"


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = command_parser("beyond_text.tag", __doc__)
    parser.add_argument("run", type=path_of, metavar="RUN", help="finished run folder")
    parser.add_argument(
        "tables", type=place_of, metavar="TABLES", help="folder of tables or shards, or shards' URL"
    )
    parser.add_argument("out", type=path_of, metavar="OUT", help="folder to write to")
    parser.add_argument(
        "--words",
        type=path_of,
        metavar="FILE.yaml",
        help="fields and words (default: the package's)",
    )
    parser.add_argument(
        "--confidence",
        type=_share,
        default=CONFIDENCE,
        help=f"how sure a picture's word has to be, 0 to 1 (default: {CONFIDENCE:g})",
    )
    parser.add_argument(
        "--top-share",
        type=_share,
        default=1.0,
        metavar="SHARE",
        help="keep only this share of the pictures, the surest of each field (default: 1)",
    )
    parser.add_argument("--split", help="only the products of one split (default: of all)")
    return parser.parse_args(argv)


def _share(word: str) -> float:
    if not 0 <= (share := float(word)) <= 1:
        raise ValueError(word)
    return share


_share.__name__ = "number from 0 to 1"


def tag(
    run: Path,
    tables: Folder,
    out: Path,
    words: Path | None = None,
    confidence: float = CONFIDENCE,
    top_share: float = 1.0,
    split: str | None = None,
) -> Tagged:
    """Tags the products of tables or shards by a run's model; writes OUT/attributes.csv.

    Raises:
        CheckpointError: no finished model in `run`.
        TableError, ShardError: no such tables or split.
        ValueError: no such words, or no product has a text or a picture that they could be of.
    """
    from beyond_text.files import atomic_write, write_text
    from beyond_text.retrieval.read_split import read_products
    from beyond_text.retrieval.run import load_run
    from beyond_text.tagging.tag import tag_products
    from beyond_text.tagging.words import read_fields

    fields = read_fields(words)
    encoder = load_run(run)
    settings = encoder.model.settings
    sizes = settings.image_size, settings.picture_size
    catalogue = read_products(tables, split, settings.text_fields, *sizes)
    tagged = tag_products(encoder, catalogue, fields, confidence, top_share)
    out.mkdir(parents=True, exist_ok=True)
    made = {"run": str(run), "confidence": confidence, "top_share": top_share, "split": split}
    write_text(out / MARK, json.dumps(made))
    with atomic_write(out / ATTRIBUTES) as file:
        tagged.table.to_csv(file, index=False)
    return tagged


def show(title: str, tagged: Tagged) -> None:
    """Prints for each field how many products have a word, and where it comes from."""
    rows = [
        [name, *(_with_share(n, each.products) for n in (each.by_text, each.by_picture, left))]
        for name, each in tagged.counts.items()
        for left in [each.products - each.by_text - each.by_picture]
    ]
    headings = ("field", "named by the text", "seen in the picture", "left empty")
    print_table(title, headings, [rows], headings[1:])


def _with_share(number: int, products: int) -> str:
    return f"{number:,} ({number / products:.0%})"


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    arguments = parse(argv)
    run, tables, out = arguments.run, arguments.tables, arguments.out
    with errors_in_one_line(RuntimeError):
        check_finished(run)
        check_place(tables)
        check_writable(out)
        own = tables.parent if isinstance(tables, Path) and tables.is_file() else tables
        if isinstance(own, Path) and out.resolve() == own.resolve():
            raise ValueError(f"{out}: the shop's own folder: expected another one to write to")
        if (out / ATTRIBUTES).exists() and not (out / MARK).is_file():
            raise FileExistsError(
                f"{out / ATTRIBUTES}: not of this command: expected another folder to write to"
            )
        from beyond_text.shards.store import folder_of

        choice = arguments.words, arguments.confidence, arguments.top_share, arguments.split
        tagged = tag(run, folder_of(tables), out, *choice)
        show(f"{tables} by {run}: {len(tagged.table):,} products", tagged)
        print(plain(f"written to {out / ATTRIBUTES}"))


if __name__ == "__main__":
    main()
