"""Defines Index: a folder of products that answers queries, of words, pictures or vectors.

Notable: equal scores come in trec_eval's order (product_id descending), also where the last of the
products asked for shares its score with others. An open index goes on answering, as it was when it
was opened, while an update writes another; many threads may search it at once.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float, Float32

from beyond_text.config.names import IndexKind
from beyond_text.config.urls import is_url
from beyond_text.indexing.copied_pictures import is_picture, place_of_copy
from beyond_text.indexing.facts import ColumnType, IndexFormatError, check_files, read_facts
from beyond_text.indexing.faiss_cache import open_nearest
from beyond_text.indexing.generation import VECTORS, Generation
from beyond_text.indexing.models import MODELS
from beyond_text.retrieval.hybrid import check_weight, top_weighted
from beyond_text.retrieval.nearest import settled
from beyond_text.retrieval.truncate import truncate

# How many nearest products bound what words can lift: many, so that few others are compared.
NEAREST_BESIDE_WORDS = 256
# A column of more values than this is no facet.
FACET_VALUES = 1000
Queries = Float32[np.ndarray, "queries dim"]


class Hit(NamedTuple):
    """A product that was found.

    Attributes:
        product_id: its id.
        score: what it was ranked by.
        vector: the inner product of its vector and the query's.
        lexical: what its words say, 0 to 1; None where words were not asked for.
        text: what the model reads of it.
        columns: its title, category and further columns, where they are not empty.
        has_picture: whether the source has a picture of it.
    """

    product_id: str
    score: float
    vector: float
    lexical: float | None
    text: str
    columns: dict[str, Any]
    has_picture: bool


class Index:
    """Searches the products of an index folder."""

    def __init__(
        self, path: Path, generation: Generation, kind: IndexKind, threads: int = 0
    ) -> None:
        self.path = path
        self.kind = kind
        self.facts = generation.facts
        self.dim: int = generation.facts.dim
        self.columns: dict[str, ColumnType] = generation.facts.columns
        self._generation = generation
        self._ids = generation.product_ids()
        self._lexical = generation.lexical
        vectors = generation.facts.files[VECTORS].sha256
        self._nearest = open_nearest(kind, generation.vectors, vectors, generation.asked())
        # A column of a shop's comes before the id.
        columns, ids = generation.columns, generation.products["product_id"]
        by_id = {} if "product_id" in self.columns else {"product_id": ids}
        self._filtered = pa.table({**{name: columns[name] for name in self.columns}, **by_id})
        self._models: dict[str, Any] = {}
        self._threads = threads
        self._lock = threading.Lock()
        self._facets_of_all = lru_cache(maxsize=4)(lambda most: self._facets(None, most))

    @classmethod
    def open(cls, path: Path | str, kind: IndexKind | None = None, threads: int = 0) -> Index:
        """Opens an index folder; imports no torch, and reads no vectors but to check few.

        Args:
            path: what `python -m beyond_text.index` made.
            kind: of the search over vectors; None for that of the build.
            threads: that encode a query, where an export does; 0 for every core.

        Raises:
            IndexFormatError: it is missing, damaged or of a newer version.
        """
        generation = Generation.open(Path(path))
        return cls(Path(path), generation, kind or generation.facts.kind, threads)

    def __len__(self) -> int:
        return len(self._generation)

    def is_current(self) -> bool:
        """Says whether the folder is as it was opened; if not, open it again."""
        try:
            return read_facts(self.path) == self.facts
        except IndexFormatError:
            return False

    def encode(
        self,
        texts: Sequence[str] | None = None,
        images: Sequence[Any] | None = None,
        precision: Literal["float32", "int8"] = "float32",
    ) -> Queries:
        """Returns unit vectors of queries of words, pictures or both, of the index's width.

        Raises:
            IndexFormatError: the index holds no model.
            ValueError: a query of neither words nor a picture.
        """
        return self._queries(self._model(precision).encode_queries(texts, images))

    def _model(self, precision: Literal["float32", "int8"]) -> Any:
        """Loads what encodes queries when it is first needed."""
        with self._lock:
            if precision not in self._models:
                kept = self.facts.query_model
                if not kept.name:
                    raise IndexFormatError(f"{self.path}: no model in it: give vectors")
                folder = self.path / MODELS / kept.name
                check_files(folder, kept.files)
                from beyond_text.encoding.model import load

                self._models[precision] = load(folder, precision, self._threads)
            return self._models[precision]

    def search(
        self,
        texts: Sequence[str] | None = None,
        images: Sequence[Any] | None = None,
        *,
        top: int = 10,
        where: Sequence[str] = (),
        weight: float | None = None,
    ) -> list[list[Hit]]:
        """Returns the best products for each query; arguments are those of `search_vectors`.

        `images` are contents or paths of pictures, or None, one for each query.

        Raises:
            ValueError: as `encode` and `search_vectors`.
        """
        vectors = self.encode(texts, images)
        return self.search_vectors(vectors, texts, top=top, where=where, weight=weight)

    def search_vectors(
        self,
        vectors: Float[np.ndarray, "queries dim"],
        texts: Sequence[str] | None = None,
        *,
        top: int = 10,
        where: Sequence[str] = (),
        weight: float | None = None,
    ) -> list[list[Hit]]:
        """Returns the best products for each vector of a query; fewer where there are fewer.

        Args:
            vectors: unit vectors of the index's width, or of its model's.
            texts: the words of each query.
            top: products for each query.
            where: conditions on columns, such as `price<50`; a product must fulfil all.
            weight: of the vector's score beside that of the words, 0 to 1; None for the index's.
                By 0, words alone, products without any of the words are not found.

        Raises:
            ValueError: an argument that cannot be used.
        """
        queries = self._queries(vectors)
        if top < 1:
            raise ValueError(f"top: expected at least 1, got {top}")
        if texts is not None and len(texts) != len(queries):
            raise ValueError(f"{len(texts)} texts for {len(queries)} vectors")
        if weight is not None:
            check_weight(weight)
        if texts is None and weight is not None and weight < 1:
            raise ValueError(f"weight {weight:g}: expected texts too, or weight 1")
        share = 1.0 if texts is None else self.facts.weight if weight is None else weight
        allowed = self._allowed(where)
        if texts is None or share == 1:
            found = self._by_vectors(queries, top, allowed)
            return [
                [self._hit(row, score, score, None) for score, row in zip(*each, strict=True)]
                for each in found
            ]
        return [
            self._by_both(query, text, top, allowed, share)
            for query, text in zip(queries, texts, strict=True)
        ]

    def product(self, product_id: str) -> Hit:
        """Returns a product, with scores of 0.

        Raises:
            KeyError: there is no such product.
        """
        return self._hit(self._ids.find(product_id), 0.0, 0.0, None)

    def place(self, product_id: str) -> str:
        """Returns where a product's main picture lies in its source, in words; "" for none.

        Raises:
            KeyError: there is no such product.
        """
        return str(self._generation.place(self._ids.find(product_id)) or "")

    def picture(self, product_id: str) -> bytes | None:
        """Returns the content of a product's main picture; None where it has none, or it is gone.

        Raises:
            KeyError: there is no such product.
        """
        number = self._ids.find(product_id)
        place = self._generation.place(number)
        if place is None:
            return None
        source = self.facts.source
        places = [(Path(source.folder), place), (self.path / source.beside, place)]
        if is_url(source.folder):
            # An index may be a stranger's: it makes no machine send requests.
            places = []
        if self.facts.copied:
            places = [(self.path, place_of_copy(self._generation.picture_digest(number)))]
        for folder, each in places:
            try:
                data = each.read(folder)
            except (OSError, ValueError):
                continue
            if is_picture(data):
                return data
        return None

    def facets(self, where: Sequence[str] = (), most: int = 20) -> dict[str, list[tuple[Any, int]]]:
        """Returns the most frequent values of each column, with their numbers of products.

        Columns of more than FACET_VALUES values, such as titles and prices, are left out.

        Raises:
            ValueError: a condition that cannot be used.
        """
        allowed = self._allowed(where)
        return self._facets_of_all(most) if allowed is None else self._facets(allowed, most)

    def _queries(self, vectors: np.ndarray) -> Queries:
        """Checks vectors of queries, and narrows them to the index's width."""
        vectors = np.asarray(vectors, dtype=np.float32)
        if vectors.ndim != 2 or vectors.shape[1] not in (self.dim, self.facts.model_dim):
            raise ValueError(
                f"query vectors of shape {vectors.shape}, expected [queries, {self.dim}]"
            )
        wrong = ~np.isfinite(vectors).all(axis=1)
        if wrong.any():
            raise ValueError(f"vector of query {int(wrong.argmax())} is not finite")
        return np.ascontiguousarray(truncate(vectors, self.dim))

    def _allowed(self, where: Sequence[str]) -> np.ndarray | None:
        """Returns the rows that fulfil all conditions, in order; None where there is none."""
        if not where:
            return None
        if isinstance(where, str):
            raise ValueError(f"where: expected a list of filters, got one str {where!r:.100}")
        from beyond_text.retrieval.filters import parse_filter, rows_of

        return rows_of(self._filtered, [parse_filter(each) for each in where])

    def _by_vectors(
        self, queries: Queries, top: int, allowed: np.ndarray | None
    ) -> list[tuple[list[float], list[int]]]:
        """Returns scores and rows of the `top` nearest products of each query."""
        most = len(self) if allowed is None else len(allowed)
        found: list[tuple[list[float], list[int]]] = [([], []) for _ in queries]
        if not most:
            return found
        k = min(top, most)
        nearest = partial(self._nearest_rows, allowed=allowed)
        for query, scores, rows in settled(nearest, queries, k, most):
            # Rows stand in the order of trec_eval.
            order = np.lexsort((rows, -scores))[:k]
            found[query] = scores[order].tolist(), rows[order].tolist()
        return found

    def _by_both(
        self, query: np.ndarray, text: str, top: int, allowed: np.ndarray | None, weight: float
    ) -> list[Hit]:
        """Returns the `top` products by the weighted sum of vectors' and words' scores."""
        most = len(self) if allowed is None else len(allowed)
        if not most:
            return []
        try:
            lexical = self._lexical.scores(text)
        except IndexError as error:
            raise IndexFormatError(f"{self.path}: damaged: words of no product") from error

        def cosines(rows: np.ndarray) -> np.ndarray:
            return self._generation.vectors[rows].astype(np.float32) @ query

        width = min(max(NEAREST_BESIDE_WORDS, 2 * top), most)
        scores, rows = (each[0] for each in self._nearest_rows(query[None], width, allowed))
        scores, rows = top_weighted((scores, rows), lexical, cosines, weight, top, allowed)
        if not weight:
            # Words alone find what has one of them.
            scores, rows = (each[lexical[rows] > 0] for each in (scores, rows))
        if not np.isfinite(scores).all():
            raise IndexFormatError(f"{self.path}: damaged: a score is not finite")
        parts = rows.tolist(), scores.tolist(), cosines(rows).tolist(), lexical[rows].tolist()
        return [self._hit(*each) for each in zip(*parts, strict=True)]

    def _nearest_rows(
        self, queries: Queries, k: int, allowed: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns scores and rows of the k nearest products of each query."""
        scores, rows = self._nearest.search(queries, k, allowed)
        if not np.isfinite(scores).all():
            raise IndexFormatError(f"{self.path}: damaged: a vector is not finite")
        return scores, rows

    def _hit(self, row: int, score: float, vector: float, lexical: float | None) -> Hit:
        generation = self._generation
        values = {name: generation.columns[name][row].as_py() for name in self.columns}
        return Hit(
            self._ids[row],
            score,
            vector,
            lexical,
            generation.products["text"][row].as_py(),
            {name: value for name, value in values.items() if value is not None},
            generation.place(row) is not None,
        )

    def _facets(self, allowed: np.ndarray | None, most: int) -> dict[str, list[tuple[Any, int]]]:
        columns = self._generation.columns
        table = columns if allowed is None else columns.take(pa.array(allowed))
        facets = {}
        for name in self.columns:
            counts = pc.value_counts(table[name].drop_null())
            if 0 < len(counts) <= FACET_VALUES:
                pairs = zip(*(counts.field(n).to_pylist() for n in (0, 1)), strict=True)
                facets[name] = sorted(pairs, key=lambda pair: (-pair[1], str(pair[0])))[:most]
        return facets
