"""Searches the products of a split with a run's model, by an index that is built once."""

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

# Holds the digests of the weights and of the shards that an index was built from.
MADE_OF = "made_of.txt"


@dataclass(frozen=True)
class Searcher:
    """Encodes texts and a picture as queries, and finds the nearest products of a catalogue."""

    encoder: Encoder
    catalogue: Catalogue
    index: ProductIndex

    @classmethod
    def open(cls, run: Path, shards: Path, split: str, kind: IndexKind = "exact") -> Searcher:
        """Loads a run's model and the index of a split, which is built where it is missing.

        An index of other weights or other shards is built again.

        Raises:
            CheckpointError: no finished model in `run`.
            TableError, ShardError: no such shards or split.
            ValueError: a damaged index.
        """
        encoder = load_run(run)
        catalogue, _ = split_for(encoder.model, shards, split)
        folder = run / "index" / f"{split}-{kind}"
        digests = " ".join(map(sha256_of, (run / MODEL / WEIGHTS, shards / FILE)))
        made_of = folder / MADE_OF
        if made_of.is_file() and made_of.read_text() == digests:
            return cls(encoder, catalogue, ProductIndex.load(folder))
        products = encode_products(encoder, catalogue)["product"]
        index = ProductIndex.build(*products, kind)
        # Written last, so an index that is cut short is built again.
        made_of.unlink(missing_ok=True)
        index.save(folder)
        made_of.write_text(digests)
        return cls(encoder, catalogue, index)

    def search(self, texts: Sequence[str], picture: bytes | None, top: int) -> Ranking:
        """Returns the `top` nearest products of each text; the picture is part of every query."""
        settings = self.encoder.model.settings
        image: Tensor | None = None
        if picture is not None:
            # Reduced as the pictures of products are, into shards and out of them.
            stored = reduce_picture(picture, settings.picture_size)
            image = decode_pixels(stored, reduce_to=settings.image_size)
        rows = [(str(number), text, "", "") for number, text in enumerate(texts)]
        queries = pd.DataFrame(rows, columns=COLUMNS)
        query_set = QuerySet(queries, pd.DataFrame(), lambda number: image)
        vectors = encode_queries(self.encoder, query_set)
        return self.index.search(vectors.vectors, vectors.ids, top)

    def rows(self, texts: Sequence[str], ranking: Ranking) -> list[PanelRow]:
        """Returns a panel row for each query; grades are 0, as they are not known."""
        position = self.catalogue.positions
        rows = []
        for text, product_ids in zip(texts, ranking.product_ids, strict=True):
            samples = [self.catalogue.products[position[product_id]] for product_id in product_ids]
            rows.append(PanelRow.of(text, samples, [0.0] * len(samples)))
        return rows
