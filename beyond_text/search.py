"""The command that finds products by words, by a picture or by both, with a finished run's model.

    python -m beyond_text.search RUN "a red striped cushion" "blue vase"
    python -m beyond_text.search RUN "the same in blue" --picture photo.jpg --panel found.png
    python -m beyond_text.search RUN "red rug" --products shop

All products are searched, judged or not, of every split. They are encoded once, into RUN/index (or
the user's cache, if RUN is read-only), and again only where the model or the products have changed.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from beyond_text.config.names import INDEX_KINDS, check_finished
from beyond_text.terminal import check_writable, errors_in_one_line, plain, print_table

if TYPE_CHECKING:
    from beyond_text.metrics.found import Ranking
    from beyond_text.retrieval.shown import Shown

# What imports torch is imported in `main`, so that --help and a mistake cost no wait.


def show(
    texts: Sequence[str], ranking: Ranking, found: Sequence[Sequence[Shown]], products: int
) -> None:
    """Prints the products of each query as a table."""
    headings = ("", "cosine", "product_id", "text", "picture")
    for text, scores, shown in zip(texts, ranking.scores, found, strict=True):
        rows = [
            (position, f"{score:.3f}", each.product_id, plain(each.text)[:60], each.place)
            for position, (score, each) in enumerate(zip(scores, shown, strict=True), 1)
        ]
        title = f"{text or '(a picture)'}: {products:,} products searched"
        print_table(title, headings, [rows], ("", "cosine"))


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line; the default products are those that the run was measured on."""
    parser = argparse.ArgumentParser(
        prog="python -m beyond_text.search",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="finished run folder")
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="queries")
    parser.add_argument("--picture", type=Path, help="of what is looked for, beside the text")
    parser.add_argument(
        "--products",
        "--shards",
        type=Path,
        metavar="FOLDER",
        help="tables or shards, with queries or without; default: the run's data.dev",
    )
    parser.add_argument("--split", help="only the products of one split; default: of all")
    parser.add_argument("--top", type=_positive, default=10, help="products for each query")
    parser.add_argument("--index", choices=INDEX_KINDS, default="exact")
    parser.add_argument("--panel", type=Path, metavar="PNG", help="draws what is found")
    arguments = parser.parse_args(argv)
    if not (arguments.texts or arguments.picture):
        parser.error("nothing to look for: expected a TEXT or --picture")
    if not arguments.picture and not all(text.strip() for text in arguments.texts):
        parser.error("a blank TEXT finds nothing: expected words, or --picture")
    return arguments


def _positive(word: str) -> int:
    if (number := int(word)) < 1:
        raise ValueError(word)
    return number


_positive.__name__ = "number from 1"


def _panel_path(path: Path) -> None:
    """Checks that a panel can be written."""
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise ValueError(f"--panel {path}: expected the name of a PNG, such as found.png")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise ValueError(f"--panel {path}: expected a file in a folder that exists")
    check_writable(path)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    arguments = parse(argv)
    run, picture = arguments.run, None
    with errors_in_one_line(RuntimeError):
        check_finished(run)
        if arguments.panel:
            _panel_path(arguments.panel)
        folder = arguments.products or _products_of(run)
        if not folder.exists():
            raise FileNotFoundError(f"{folder}: no such file or folder of products")
        if arguments.picture:
            from beyond_text.tables.pictures import read_picture

            picture = read_picture(arguments.picture)
        from beyond_text.retrieval.searcher import Searcher

        searcher = Searcher.open(run, folder, arguments.split, arguments.index)
        texts = arguments.texts or [""]
        ranking = searcher.search(texts, picture, arguments.top)
        show(texts, ranking, searcher.found(ranking), len(searcher.index))
        if arguments.panel:
            from beyond_text.retrieval.panel import draw_panel

            draw_panel(searcher.rows(texts, ranking)).save(arguments.panel)
            print(plain(f"written to {arguments.panel}"))


def _products_of(run: Path) -> Path:
    """Returns the folder of products that a run was measured on."""
    from beyond_text.config.load import load_config

    folder = load_config([run / "config.yaml"]).data.dev
    if not folder:
        raise ValueError(f"{run}: it was measured on no products: name a folder by --products")
    return Path(folder)


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    # Taking the libraries apart again would take a second, and nothing is left to be done.
    os._exit(0)
