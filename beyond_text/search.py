"""Finds products by words, by a picture or by both, with a finished run's model.

    python -m beyond_text.search RUN "a red striped cushion" "blue vase"
    python -m beyond_text.search RUN "the same in blue" --picture photo.jpg --panel found.png

The products, those of a folder of shards, are encoded and indexed once, in RUN/index; again only
where model or shards are others than those that the index was made of.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table
from torch import Tensor

from beyond_text.checkpoint import MODEL, WEIGHTS
from beyond_text.config import load_config
from beyond_text.corpus import ASKED_COLUMNS, Corpus
from beyond_text.encode import encode_products, encode_queries
from beyond_text.evaluate import corpus_for, load_run, loader_workers
from beyond_text.index import KINDS, IndexKind, ProductIndex
from beyond_text.manifest import FILE, sha256_of
from beyond_text.metrics import Ranking
from beyond_text.model import TwoTower
from beyond_text.panel import PanelRow, draw_panel
from beyond_text.pictures import decode_pixels, read_picture, reduce_picture

MADE_OF = "made_of.txt"


@dataclass(frozen=True)
class Searcher:
    """A model and an index of the products that it searches."""

    model: TwoTower
    tokenizer: Any
    bf16: bool
    corpus: Corpus
    index: ProductIndex

    @classmethod
    def open(cls, run: Path, shards: Path, split: str, kind: IndexKind = "exact") -> Searcher:
        """Loads a run's model and the index of a split, which is made where it is not there.

        Raises:
            CheckpointError: no finished model in `run`.
            TableError, ShardError: no such shards or split.
            ValueError: a damaged index.
        """
        model, tokenizer, bf16 = load_run(run)
        corpus = corpus_for(model, shards, split)
        folder = run / "index" / f"{split}-{kind}"
        files = (run / MODEL / WEIGHTS, shards / FILE)
        made_of = " ".join(map(sha256_of, files))
        mark = folder / MADE_OF
        if mark.is_file() and mark.read_text() == made_of:
            return cls(model, tokenizer, bf16, corpus, ProductIndex.load(folder))
        found = encode_products(model, tokenizer, corpus, bf16=bf16, workers=loader_workers())
        index = ProductIndex.build(*found["product"], kind)
        mark.unlink(missing_ok=True)
        index.save(folder)
        mark.write_text(made_of)
        return cls(model, tokenizer, bf16, corpus, index)

    def search(self, texts: Sequence[str], picture: bytes | None, top: int) -> Ranking:
        """The best products for each text; with a picture, for each text and the picture."""
        settings = self.model.settings
        image: Tensor | None = None
        if picture is not None:
            # As the picture of a product is on its way into shards and out of them.
            stored = reduce_picture(picture, settings.picture_size)
            image = decode_pixels(stored, reduce_to=settings.image_size)
        rows = [(str(number), text, "", "") for number, text in enumerate(texts)]
        queries = pd.DataFrame(rows, columns=ASKED_COLUMNS)
        asked = self.corpus._replace(queries=queries, query_image=lambda number: image)
        vectors = encode_queries(self.model, self.tokenizer, asked, bf16=self.bf16)
        return self.index.search(vectors.vectors, vectors.ids, top)

    def rows(self, texts: Sequence[str], found: Ranking) -> list[PanelRow]:
        """Queries with their products, to be shown; nothing is known of their grades."""
        place = {product_id: row for row, product_id in enumerate(self.corpus.product_ids)}
        rows = []
        for text, product_ids in zip(texts, found.product_ids, strict=True):
            samples = [self.corpus.products[place[product_id]] for product_id in product_ids]
            pictures, captions = [s.image for s in samples], [s.text for s in samples]
            rows.append(PanelRow(text or "(a picture)", pictures, [0.0] * len(samples), captions))
        return rows


def show(rows: Sequence[PanelRow], found: Ranking) -> None:
    """Prints a table for each query."""
    console = Console(width=max(100, Console().width))
    for row, product_ids, scores in zip(rows, found.product_ids, found.scores, strict=True):
        table = Table("", "cosine", "product_id", "text", title=row.query, title_justify="left")
        products = zip(scores, product_ids, row.captions, strict=True)
        for place, (score, product_id, caption) in enumerate(products, 1):
            table.add_row(str(place), f"{score:.3f}", product_id, caption[:60])
        console.print(table)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line; without shards, those that the run was measured on."""
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
    asked = parser.parse_args(argv)
    if not (asked.texts or asked.picture):
        parser.error("nothing to look for: expected a TEXT or --picture")
    return asked


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    asked = parse(argv)
    try:
        saved = load_config([asked.run / "config.yaml"]).data
        shards, split = asked.shards or Path(saved.dev), asked.split or saved.dev_split
        searcher = Searcher.open(asked.run, shards, split, asked.index)
        picture = read_picture(asked.picture) if asked.picture else None
        texts = asked.texts or [""]
        found = searcher.search(texts, picture, asked.top)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    rows = searcher.rows(texts, found)
    show(rows, found)
    if asked.panel:
        draw_panel(rows).save(asked.panel)
        print(f"written to {asked.panel}")


if __name__ == "__main__":
    main()
