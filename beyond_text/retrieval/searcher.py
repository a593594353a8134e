"""Searches a catalogue with a run's model, by vectors that are computed once.

What a warm search does not need it does not import: a text query runs the text tower alone, and
results come from the store, so neither shards nor tables are read.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from beyond_text.config.names import MODEL, WEIGHTS, IndexKind
from beyond_text.metrics.found import Ranking
from beyond_text.retrieval.index import ProductIndex
from beyond_text.retrieval.shown import Shown
from beyond_text.retrieval.store import Store, spare_folder, store_folder
from beyond_text.shards.manifest import FILE, ShardError, read_manifest, sha256_of
from beyond_text.tables.layouts import DEFAULT_LAYOUT, TableError, find_table
from beyond_text.terminal import plain

if TYPE_CHECKING:
    from beyond_text.retrieval.panel import PanelRow


@dataclass(frozen=True)
class Searcher:
    """Encodes texts and a picture as queries, and finds the nearest products of a catalogue."""

    run: Path
    folder: Path
    store: Store
    index: ProductIndex

    @classmethod
    def open(
        cls, run: Path, folder: Path, split: str | None = None, kind: IndexKind = "exact"
    ) -> Searcher:
        """Opens the store of a folder of products, which is made where it is missing.

        A store of other weights or other products is made again.

        Args:
            run: a finished run.
            folder: shards or tables, with queries or without.
            split: whose products are searched; None for every split's.
            kind: of the index over their vectors.

        Raises:
            CheckpointError: no finished model in `run`.
            TableError, ShardError: no such products or split.
            RejectError: too many rows of the tables cannot be used.
        """
        facts = made_of(run, folder, split)
        home = store_folder(run, key_of_store(folder, split))
        store = Store.load(home, facts) or _make(run, folder, split, home, facts)
        return cls(run, folder, store, store.index(kind))

    def search(self, texts: Sequence[str], picture: bytes | None, top: int) -> Ranking:
        """Returns the `top` nearest products of each text; the picture is part of every query.

        Raises:
            ValueError: a text that is blank, without a picture.
        """
        if picture is None and not all(text.strip() for text in texts):
            raise ValueError("a query of blanks finds nothing: expected words or a picture")
        vectors = _encode_texts(self.run, texts) if picture is None else None
        if vectors is None:
            vectors = _encode_queries(self.run, texts, picture)
        return self.index.search(vectors, [str(number) for number in range(len(texts))], top)

    def found(self, ranking: Ranking) -> list[list[Shown]]:
        """Returns what is shown of each product of a ranking."""
        return [[self.store.products.found(each) for each in row] for row in ranking.product_ids]

    def rows(self, texts: Sequence[str], ranking: Ranking) -> list[PanelRow]:
        """Returns a panel row for each query; grades are 0, as they are not known."""
        from beyond_text.retrieval.panel import PanelRow
        from beyond_text.tables.pictures import decode_pixels

        rows = []
        for text, products in zip(texts, self.found(ranking), strict=True):
            pictures = [product.read(self.folder) for product in products]
            pixels = [None if data is None else decode_pixels(data) for data in pictures]
            captions = [product.text for product in products]
            rows.append(PanelRow(text or "(a picture)", pixels, [0.0] * len(products), captions))
        return rows


def made_of(run: Path, folder: Path, split: str | None) -> dict[str, str]:
    """Returns what decides a store: the model, the products and the split.

    Raises:
        ShardError, TableError: no such folder or split.
    """
    return {
        "weights": sha256_of(run / MODEL / WEIGHTS),
        "settings": sha256_of(run / MODEL / "settings.yaml"),
        "products": _digest_of_products(folder, split),
        "split": split or "",
    }


def key_of_store(folder: Path, split: str | None) -> str:
    """Returns the name of the store of a folder of products."""
    place = f"{folder.resolve()}\n{split or ''}"
    return f"{split or 'all'}-{hashlib.sha256(place.encode()).hexdigest()[:12]}"


def _digest_of_products(folder: Path, split: str | None) -> str:
    """Returns a digest of what a folder holds: its manifest, or the table of its products.

    Raises:
        ShardError, TableError: no such folder or split.
    """
    if (folder / FILE).is_file():
        splits = read_manifest(folder)["splits"]
        if split is not None and split not in splits:
            raise ShardError(f"{folder}: no split {split!r}; it has {', '.join(splits)}")
        return sha256_of(folder / FILE)
    if not folder.exists():
        raise TableError(f"{folder}: no such file or folder")
    sources = (DEFAULT_LAYOUT.products, DEFAULT_LAYOUT.queries, DEFAULT_LAYOUT.qrels)
    tables = (
        [find_table(folder, source) for source in (*sources, DEFAULT_LAYOUT.log)]
        if folder.is_dir()
        else [folder]
    )
    digests = [sha256_of(path) for path in tables if path is not None]
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()


def _make(run: Path, folder: Path, split: str | None, home: Path, facts: dict[str, str]) -> Store:
    """Encodes the products and keeps them in `home`, or where that cannot be, for this search."""
    from beyond_text.retrieval.encode import encode_products
    from beyond_text.retrieval.read_split import read_products
    from beyond_text.retrieval.run import load_run

    encoder = load_run(run)
    settings = encoder.model.settings
    catalogue = read_products(
        folder, split, settings.text_fields, settings.image_size, settings.picture_size
    )
    ids, vectors = encode_products(encoder, catalogue)["product"]
    if not ids:
        raise TableError(f"{folder}: no product has a text or a picture")
    numbers = catalogue.positions
    wrong = ~np.isfinite(vectors).all(axis=1)
    if wrong.any():
        raise ValueError(f"vector of product {ids[int(wrong.argmax())]!r} is not finite")

    def save(place: Path) -> Store | None:
        shown = (catalogue.products.describe(numbers[each]) for each in ids)  # type: ignore[attr-defined]
        Store.save(place, vectors, shown, facts)
        return Store.load(place, facts)

    try:
        store = save(home)
    except OSError as error:
        print(plain(f"{home}: the index is not kept: {error.strerror}"), file=sys.stderr)
        store = save(spare_folder())
    if store is None:
        raise ValueError(f"{home}: the index that was just written cannot be read")
    return store


def _encode_texts(run: Path, texts: Sequence[str]) -> np.ndarray | None:
    """Encodes text queries by the query tower alone; None where that cannot be."""
    import torch

    from beyond_text.config.load import load_config
    from beyond_text.models.precision import uses_bf16
    from beyond_text.models.query_side import load_query_side

    if torch.cuda.is_available() or (side := load_query_side(run)) is None:
        return None
    config = run / "config.yaml"
    bf16 = uses_bf16(load_config([config]).precision if config.is_file() else "auto")
    return side.encode(texts, bf16).numpy()


def _encode_queries(run: Path, texts: Sequence[str], picture: bytes | None) -> np.ndarray:
    """Encodes queries of texts, of a picture or of both by the whole model."""
    import pandas as pd

    from beyond_text.retrieval.encode import encode_queries
    from beyond_text.retrieval.query_set import COLUMNS, QuerySet
    from beyond_text.retrieval.run import load_run
    from beyond_text.tables.pictures import decode_pixels, reduce_picture

    encoder = load_run(run)
    settings = encoder.model.settings
    image: Any = None
    if picture is not None:
        # Reduced as the pictures of products are, into shards and out of them.
        stored = reduce_picture(picture, settings.picture_size)
        image = decode_pixels(stored, reduce_to=settings.image_size)
    rows = [(str(number), text, "", "") for number, text in enumerate(texts)]
    queries = pd.DataFrame(rows, columns=COLUMNS)
    query_set = QuerySet(queries, pd.DataFrame(), lambda number: image)
    return encode_queries(encoder, query_set).vectors
