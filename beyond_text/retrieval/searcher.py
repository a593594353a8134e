"""Searches one split's products with a run's model and an index that is made once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from torch import Tensor

from beyond_text.metrics.ranking import Ranking
from beyond_text.models.checkpoint import MODEL, WEIGHTS
from beyond_text.retrieval.catalogue import Catalogue
from beyond_text.retrieval.encode import Encoder, encode_products, encode_queries
from beyond_text.retrieval.index import IndexKind, ProductIndex
from beyond_text.retrieval.panel import PanelRow
from beyond_text.retrieval.query_set import COLUMNS, QuerySet
from beyond_text.retrieval.run import load_run, split_for
from beyond_text.shards.manifest import FILE, sha256_of
from beyond_text.tables.pictures import decode_pixels, reduce_picture

MADE_OF = "made_of.txt"


@dataclass(frozen=True)
class Searcher:
    """A model, a catalogue and an index of its products."""

    encoder: Encoder
    catalogue: Catalogue
    index: ProductIndex

    @classmethod
    def open(cls, run: Path, shards: Path, split: str, kind: IndexKind = "exact") -> Searcher:
        """Loads a run's model and the index of a split; builds the index where it is missing.

        An index made by other weights or of other shards is built again.

        Raises:
            CheckpointError: no finished model in `run`.
            TableError, ShardError: no such shards or split.
            ValueError: a damaged index.
        """
        encoder = load_run(run)
        catalogue, _ = split_for(encoder.model, shards, split)
        folder = run / "index" / f"{split}-{kind}"
        files = (run / MODEL / WEIGHTS, shards / FILE)
        made_of = " ".join(map(sha256_of, files))
        mark = folder / MADE_OF
        if mark.is_file() and mark.read_text() == made_of:
            return cls(encoder, catalogue, ProductIndex.load(folder))
        products = encode_products(encoder, catalogue)["product"]
        index = ProductIndex.build(*products, kind)
        mark.unlink(missing_ok=True)
        index.save(folder)
        mark.write_text(made_of)
        return cls(encoder, catalogue, index)

    def search(self, texts: Sequence[str], picture: bytes | None, top: int) -> Ranking:
        """Returns the `top` nearest products of each text; a picture joins every text."""
        settings = self.encoder.model.settings
        image: Tensor | None = None
        if picture is not None:
            # As the picture of a product is on its way into shards and out of them.
            stored = reduce_picture(picture, settings.picture_size)
            image = decode_pixels(stored, reduce_to=settings.image_size)
        rows = [(str(number), text, "", "") for number, text in enumerate(texts)]
        queries = pd.DataFrame(rows, columns=COLUMNS)
        query_set = QuerySet(queries, pd.DataFrame(), lambda number: image)
        vectors = encode_queries(self.encoder, query_set)
        return self.index.search(vectors.vectors, vectors.ids, top)

    def rows(self, texts: Sequence[str], found: Ranking) -> list[PanelRow]:
        """Returns each query with its products, to be shown; their grades are not known."""
        place = {product_id: row for row, product_id in enumerate(self.catalogue.product_ids)}
        rows = []
        for text, product_ids in zip(texts, found.product_ids, strict=True):
            samples = [self.catalogue.products[place[product_id]] for product_id in product_ids]
            pictures, captions = [s.image for s in samples], [s.text for s in samples]
            rows.append(PanelRow(text or "(a picture)", pictures, [0.0] * len(samples), captions))
        return rows
