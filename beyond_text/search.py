"""The command that finds products by words, by a picture or by both, with a run's model.

    python -m beyond_text.search RUN "a red striped cushion" "blue vase"
    python -m beyond_text.search RUN "the same in blue" --picture photo.jpg --panel found.png
    python -m beyond_text.search RUN "red rug" --products shop
    python -m beyond_text.search INDEX "red rug" --where "price<50"

All products are searched, judged or not, of every split. They are encoded once, into RUN/index (or
the user's cache, if RUN is read-only), and again only where the model or they have changed. An
INDEX is what `python -m beyond_text.index` makes; it holds its own products and model.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from beyond_text.config.names import INDEX_FILE, INDEX_KINDS, check_finished
from beyond_text.config.urls import check_place, is_url, path_of, place_of
from beyond_text.terminal import (
    at_least,
    check_writable,
    command_parser,
    errors_in_one_line,
    plain,
    print_table,
)

if TYPE_CHECKING:
    from beyond_text.indexing.index import Hit, Index
    from beyond_text.retrieval.panel import PanelRow
    from beyond_text.shards.store import Folder

# What imports torch is imported in `main`, so that --help and a mistake cost no wait.


def show(texts: Sequence[str], index: Index, found: Sequence[Sequence[Hit]]) -> None:
    """Prints the products of each query as a table."""
    headings = ("", "score", "product_id", "text", "picture")
    for text, hits in zip(texts, found, strict=True):
        rows = [
            (position, f"{hit.score:.3f}", hit.product_id, plain(hit.text)[:60], place)
            for position, hit in enumerate(hits, 1)
            for place in [index.place(hit.product_id)]
        ]
        title = f"{text or '(a picture)'}: {len(index):,} products searched"
        print_table(title, headings, [rows], ("", "score"))


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line; the default products are those that the run was measured on."""
    parser = command_parser("beyond_text.search", __doc__)
    parser.add_argument("run", type=path_of, metavar="RUN", help="finished run folder, or an index")
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="queries")
    parser.add_argument("--picture", type=Path, help="of what is looked for, beside the text")
    parser.add_argument(
        "--products",
        "--shards",
        type=place_of,
        metavar="FOLDER",
        help="tables, or shards or their URL, with queries or without; default: the run's data.dev",
    )
    parser.add_argument("--split", help="only the products of one split; default: of all")
    parser.add_argument("--top", type=at_least(1), default=10, help="products for each query")
    parser.add_argument("--index", choices=INDEX_KINDS, help="default: exact, or the index's own")
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="CONDITION",
        help="on a column, such as 'price<50'; may be given several times",
    )
    parser.add_argument(
        "--weight", type=float, help="of vectors beside words, 0 to 1; default: the index's own"
    )
    parser.add_argument("--panel", type=Path, metavar="PNG", help="draws what is found")
    arguments = parser.parse_args(argv)
    if not (arguments.texts or arguments.picture):
        parser.error("nothing to look for: expected a TEXT or --picture")
    if not arguments.picture and not all(text.strip() for text in arguments.texts):
        parser.error("a blank TEXT finds nothing: expected words, or --picture")
    return arguments


def _panel_path(path: Path) -> None:
    """Checks that a panel can be written."""
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise ValueError(f"--panel {path}: expected the name of a PNG, such as found.png")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise ValueError(f"--panel {path}: expected a file in a folder that exists")
    check_writable(path)


def _picture(path: Path) -> bytes:
    """Reads the picture of what is looked for, and checks it before the products are encoded."""
    from beyond_text.tables.pictures import MAX_PIXELS, PictureError, check_size, read_picture

    try:
        content = read_picture(path)
        check_size(content, MAX_PIXELS)
    except PictureError as error:
        raise PictureError(error.reason, f"{path}: {error.detail}") from error
    return content


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    arguments = parse(argv)
    picture = None
    with errors_in_one_line(RuntimeError):
        is_index = (arguments.run / INDEX_FILE).is_file()
        if is_index and (arguments.products or arguments.split):
            raise ValueError(f"{arguments.run}: an index has its own products: leave out "
                             "--products and --split")  # fmt: skip
        if not is_index:
            check_finished(arguments.run)
        if arguments.panel:
            _panel_path(arguments.panel)
        folder = None if is_index else _products_of(arguments)
        check_place(folder)
        if arguments.picture:
            picture = _picture(arguments.picture)
        texts = arguments.texts or [""]
        index, found = _search(arguments, folder, texts, picture)
        show(texts, index, found)
        if arguments.panel:
            from beyond_text.retrieval.panel import draw_panel

            draw_panel(panel_rows(texts, index, found)).save(arguments.panel)
            print(plain(f"written to {arguments.panel}"))


def _search(
    arguments: argparse.Namespace,
    folder: Folder | None,
    texts: Sequence[str],
    picture: bytes | None,
) -> tuple[Index, list[list[Hit]]]:
    """Opens an index, or a run's own over a folder, and searches it."""
    from beyond_text.indexing.index import Index

    pictures = None if picture is None else [picture] * len(texts)
    how = {"top": arguments.top, "where": arguments.where, "weight": arguments.weight}
    if folder is None:
        index = Index.open(arguments.run, arguments.index)
        return index, index.search(texts, pictures, **how)
    from beyond_text.encoding.model import load
    from beyond_text.indexing.of_run import index_of_run

    index = index_of_run(arguments.run, folder, arguments.split, arguments.index or "exact")
    vectors = load(arguments.run).encode_queries(texts, pictures)
    return index, index.search_vectors(vectors, texts, **how)


def panel_rows(
    texts: Sequence[str], index: Index, found: Sequence[Sequence[Hit]]
) -> list[PanelRow]:
    """Returns a panel row for each query; grades are 0, as they are not known."""
    from beyond_text.retrieval.panel import PanelRow
    from beyond_text.tables.pictures import decode_pixels

    rows = []
    for text, hits in zip(texts, found, strict=True):
        pictures = [index.picture(hit.product_id) for hit in hits]
        pixels = [None if data is None else decode_pixels(data) for data in pictures]
        captions = [hit.text for hit in hits]
        rows.append(PanelRow(text or "(a picture)", pixels, [0.0] * len(hits), captions))
    return rows


def _products_of(arguments: argparse.Namespace) -> Folder:
    """Returns where the products are: by default, those that a run was measured on."""
    if isinstance(arguments.products, Path):
        return arguments.products
    from beyond_text.config.load import load_config
    from beyond_text.shards.store import Store, folder_of

    if arguments.products:
        return folder_of(arguments.products)
    data = load_config([arguments.run / "config.yaml"]).data
    if not data.dev:
        raise ValueError(
            f"{arguments.run}: it was measured on no products: name a folder by --products"
        )
    return Store.of(data.dev, data) if is_url(data.dev) else Path(data.dev)


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    # Taking the libraries apart again would take a second, and nothing is left to be done.
    os._exit(0)
