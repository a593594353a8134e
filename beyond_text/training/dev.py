"""Measures retrieval on a run's dev split: by its queries, or without any by texts and pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cache, cached_property, partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from torch import Tensor
from torch.utils.data import Dataset

from beyond_text.config.settings import Config
from beyond_text.config.views import View
from beyond_text.metrics.ranking import Ranking, retrieval_metrics
from beyond_text.metrics.results import Metrics, with_pool
from beyond_text.models.settings import ModelSettings
from beyond_text.retrieval.catalogue import Catalogue
from beyond_text.retrieval.encode import Encoder, Vectors, encode_products, encode_queries
from beyond_text.retrieval.query_set import COLUMNS, QuerySet
from beyond_text.retrieval.ranking import own_products, picture_digest, rank_encoded, search
from beyond_text.retrieval.read_split import read_products, read_split
from beyond_text.retrieval.shares import Share
from beyond_text.shards.batch import Sample
from beyond_text.shards.manifest import read_manifest
from beyond_text.shards.split import Split
from beyond_text.shards.store import Store

# Texts, and pictures, that search for each other at most: a ranking of all would grow as a square.
MOST_PAIRS = 2000
DEPTH = 100


class Measured(NamedTuple):
    """The metrics of each view by kind of query, and those that stand for the run.

    `ranking` is what `metrics` measure, and `rankings` are those of each view. `by_width` are
    metrics of all queries by fused vectors that are shortened to each of the model's widths
    (Matryoshka).
    """

    by_view: dict[View, Metrics]
    metrics: Metrics
    ranking: Ranking
    by_width: dict[int, dict[str, Any]]
    rankings: dict[View, Ranking]


class QueryRetrieval:
    """Measures the dev queries, by each vector of a product; the fused one stands for the run."""

    def __init__(
        self,
        catalogue: Catalogue,
        query_set: QuerySet,
        views: tuple[View, ...] = ("product", "text", "image"),
    ) -> None:
        self.catalogue = catalogue
        self.query_set = query_set
        self.views = views
        # It reads the pictures of all products where a query is a product itself.
        self._own = cache(partial(own_products, catalogue, query_set))

    def measure(self, encoder: Encoder) -> Measured | None:
        """Ranks the products for every query, and measures; None in all processes but the first."""
        queries = encode_queries(encoder, self.query_set)
        encoded = encode_products(encoder, self.catalogue, self.views)
        widths = encoder.model.settings.matryoshka
        return in_first(encoder.share, lambda: self._measured(queries, encoded, widths))

    def _measured(
        self, queries: Vectors, encoded: dict[View, Vectors], widths: Sequence[int]
    ) -> Measured:
        rankings, shortened = rank_encoded(queries, encoded, self._own(), widths)
        by_view: dict[View, Metrics] = {
            view: with_pool(
                retrieval_metrics(ranking, self.query_set.queries, self.query_set.qrels),
                len(self.catalogue.product_ids),
                self.catalogue.pool,
            )
            for view, ranking in rankings.items()
        }
        by_width = {
            width: retrieval_metrics(ranking, self.query_set.queries, self.query_set.qrels)["all"]
            for width, ranking in shortened.items()
        }
        return Measured(by_view, by_view["product"], rankings["product"], by_width, rankings)


class PairRetrieval:
    """Measures a catalogue without queries: texts find their pictures, pictures their texts.

    A product's text is relevant for its picture and for every equal one, and the other way round.
    Both are the product's own vectors, so this needs no judgment. Of more than 2,000 products that
    have both, 2,000 are drawn to search; all are searched.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue

    @cached_property
    def drawn(self) -> list[int]:
        """The numbers of the products whose texts and pictures search."""
        both = [n for n, (text, picture) in enumerate(self._contents) if text and picture]
        ids = self.catalogue.product_ids
        return sorted(both, key=lambda n: _digest(ids[n]))[:MOST_PAIRS]

    @cached_property
    def _contents(self) -> list[tuple[str, str]]:
        """The text of every product and the digest of its picture, empty where it has none."""
        samples = (self.catalogue.products[n] for n in range(len(self.catalogue.product_ids)))
        return [
            (sample.text, "" if sample.image is None else picture_digest(sample.image).hex())
            for sample in samples
        ]

    @cached_property
    def query_set(self) -> QuerySet:
        """The drawn products' texts and pictures as queries, and what is relevant for them."""
        ids = self.catalogue.product_ids
        equal: dict[str, set[int]] = {}
        for number, (text, picture) in enumerate(self._contents):
            if text and picture:
                equal.setdefault(f"text {text}", set()).add(number)
                equal.setdefault(f"picture {picture}", set()).add(number)
        queries, qrels = [], []
        for number in self.drawn:
            text, picture = self._contents[number]
            twins = equal[f"text {text}"] | equal[f"picture {picture}"]
            for side, query in (("text", text), ("image", "")):
                query_id = f"{side}/{ids[number]}"
                kind = "text_to_image" if side == "text" else "image_to_text"
                queries.append((query_id, query, kind, ""))
                qrels += [(query_id, ids[twin], 1.0) for twin in sorted(twins)]
        return QuerySet(
            pd.DataFrame(queries, columns=COLUMNS),
            pd.DataFrame(qrels, columns=["query_id", "product_id", "relevance"]),
            partial(_picture_of_query, self.catalogue.products, self.drawn),
        )

    def measure(self, encoder: Encoder) -> Measured | None:
        """Ranks pictures for texts and texts for pictures; None in all processes but the first."""
        found = encode_products(encoder, self.catalogue, ("text", "image"))
        return in_first(encoder.share, lambda: self._measured(found))

    def _measured(self, found: dict[View, Vectors]) -> Measured:
        wanted = {self.catalogue.product_ids[number] for number in self.drawn}
        # One file holds both rankings, so they are equally deep.
        depth = min(DEPTH, *(len(vectors.ids) for vectors in found.values()))
        by_view: dict[View, Metrics] = {}
        rankings: dict[View, Ranking] = {}
        queries = self.query_set.queries
        sides: tuple[tuple[View, View], ...] = (("text", "image"), ("image", "text"))
        for asked, searched in sides:
            vectors = _as_queries(found[asked], asked, wanted)
            ranking = search(vectors, found[searched], {}, depth)
            of_side = queries[queries["query_id"].str.startswith(f"{asked}/")]
            metrics = retrieval_metrics(ranking, of_side, self.query_set.qrels)
            metrics.pop("all")
            among = len(found[searched].ids)
            by_view[searched] = with_pool(metrics, among, self.catalogue.pool)
            rankings[searched] = ranking
        one, other = rankings.values()
        both = Ranking(
            one.query_ids + other.query_ids,
            one.product_ids + other.product_ids,
            np.concatenate([one.scores, other.scores]),
        )
        return Measured(by_view, by_view["image"] | by_view["text"], both, {}, rankings)


def in_first(share: Share, measure: Callable[[], Measured]) -> Measured | None:
    """Measures in the first process alone; the others wait, and stop where it cannot."""
    measured: list[Measured] = []
    share.first(lambda: measured.append(measure()), type(None))
    return measured[0] if measured else None


# Products that are searched, and queries whose rankings are measured.
DevSet = QueryRetrieval | PairRetrieval


def read_dev(config: Config, settings: ModelSettings) -> DevSet:
    """Reads the dev split of a run.

    Raises:
        TableError, ShardError: no such split, or none that can be measured.
    """
    store = Store.of(config.data.dev, config.data)
    split, size = config.data.dev_split, settings.image_size
    entry = read_manifest(store)["splits"].get(split)
    if entry is None or entry["queries"]:
        return QueryRetrieval(*read_split(store, split, settings.text_fields, size))
    Split(store, split, settings.text_fields).verify()
    return PairRetrieval(read_products(store, split, settings.text_fields, size))


def _digest(product_id: str) -> str:
    """Returns a digest that orders products the same on every machine."""
    return hashlib.sha256(product_id.encode()).hexdigest()


def _as_queries(vectors: Vectors, side: View, wanted: set[str]) -> Vectors:
    """Returns the wanted products' vectors under the ids of their queries."""
    rows = [row for row, product_id in enumerate(vectors.ids) if product_id in wanted]
    return Vectors([f"{side}/{vectors.ids[row]}" for row in rows], vectors.vectors[rows])


def _picture_of_query(
    products: Dataset[Sample], drawn: Sequence[int], number: int
) -> Tensor | None:
    """Returns the picture of the number-th query: every second query is one."""
    return products[drawn[number // 2]].image if number % 2 else None
