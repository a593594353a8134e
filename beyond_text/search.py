"""The command that finds products by words, by a picture or by both, with a finished run's model.

    python -m beyond_text.search RUN "a red striped cushion" "blue vase"
    python -m beyond_text.search RUN "the same in blue" --picture photo.jpg --panel found.png

The products of a folder of shards are encoded and indexed once, in RUN/index, and again only where
the model or the shards have changed since.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from beyond_text.config.load import load_config
from beyond_text.metrics.ranking import Ranking
from beyond_text.retrieval.index import KINDS
from beyond_text.retrieval.panel import PanelRow, draw_panel
from beyond_text.retrieval.searcher import Searcher
from beyond_text.tables.pictures import read_picture


def show(rows: Sequence[PanelRow], ranking: Ranking) -> None:
    """Prints the products of each query as a table."""
    console = Console(width=max(100, Console().width))
    for row, product_ids, scores in zip(rows, ranking.product_ids, ranking.scores, strict=True):
        table = Table("", "cosine", "product_id", "text", title=row.query, title_justify="left")
        products = zip(scores, product_ids, row.captions, strict=True)
        for position, (score, product_id, caption) in enumerate(products, 1):
            table.add_row(str(position), f"{score:.3f}", product_id, caption[:60])
        console.print(table)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line; the default shards are those that the run was measured on."""
    parser = argparse.ArgumentParser(
        prog="python -m beyond_text.search",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="finished run folder")
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="queries")
    parser.add_argument("--picture", type=Path, help="of what is looked for, beside the text")
    parser.add_argument("--shards", type=Path, help="folder of products, default: the run's dev")
    parser.add_argument("--split", help="default: the run's")
    parser.add_argument("--top", type=int, default=10, help="products for each query")
    parser.add_argument("--index", choices=sorted(KINDS), default="exact")
    parser.add_argument("--panel", type=Path, metavar="PNG", help="draws what is found")
    arguments = parser.parse_args(argv)
    if not (arguments.texts or arguments.picture):
        parser.error("nothing to look for: expected a TEXT or --picture")
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    arguments = parse(argv)
    try:
        saved = load_config([arguments.run / "config.yaml"]).data
        shards, split = arguments.shards or Path(saved.dev), arguments.split or saved.dev_split
        searcher = Searcher.open(arguments.run, shards, split, arguments.index)
        picture = read_picture(arguments.picture) if arguments.picture else None
        texts = arguments.texts or [""]
        ranking = searcher.search(texts, picture, arguments.top)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    rows = searcher.rows(texts, ranking)
    show(rows, ranking)
    if arguments.panel:
        draw_panel(rows).save(arguments.panel)
        print(f"written to {arguments.panel}")


if __name__ == "__main__":
    main()
