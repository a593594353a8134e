"""Reads the samples of a training run: each product with the queries drawn for it in an epoch.

A sample that cannot be read becomes a line that says which and why; the collation counts it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple, Protocol

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from beyond_text.config.views import uses_queries
from beyond_text.shards.archive import SampleError
from beyond_text.shards.batch import EMPTY_SAMPLE, Judgment, Sample, SampleIndex
from beyond_text.shards.split import Split


def draw_queries(
    judgments: list[Judgment], seed: Sequence[int], number: int = 1, first: str | None = None
) -> list[Judgment]:
    """Draws distinct judgments: first a kind, all equally likely, then one in it by its gain.

    All kinds are equally likely, because machine-made queries outnumber those that people wrote. A
    query that is the product itself, or for which it is judged 0, is never drawn. There are fewer
    than `number` where the product has no more. `first` is the query_id of the one that was drawn
    before, likewise, and comes first.
    """
    kinds: dict[str, list[Judgment]] = {}
    for judgment in judgments:
        if judgment.gain > 0:
            kinds.setdefault(judgment.kind, []).append(judgment)
    drawn = [each for each in judgments if each.query_id == first and each.gain > 0][:number]
    for judgment in drawn:
        kinds[judgment.kind].remove(judgment)
        kinds = {kind: left for kind, left in kinds.items() if left}
    if not kinds or len(drawn) == number:
        return drawn
    random = np.random.default_rng(list(seed))
    while kinds and len(drawn) < number:
        kind = sorted(kinds)[random.integers(len(kinds))]
        # NumPy's choice by weight takes many times as long for a few items.
        cumulative = list(accumulate(judgment.gain for judgment in kinds[kind]))
        chosen = bisect_right(cumulative, random.random() * cumulative[-1], hi=len(cumulative) - 1)
        drawn.append(kinds[kind].pop(chosen))
        if not kinds[kind]:
            del kinds[kind]
    return drawn


class _Product(NamedTuple):
    """A product as it was read, and the queries drawn for its slots with their pictures."""

    fields: dict[str, Any]
    picture: Tensor | None
    judgments: list[Judgment]
    queries: list[tuple[Judgment, Tensor | None]]


class PictureVectors(Protocol):
    """Gives what a frozen tower made of the pictures of a split; None where one was unreadable."""

    def of_product(self, sample: int, picture: int) -> Tensor | None:
        """Returns the vector [features] of one of a product's pictures."""

    def of_query(self, number: int) -> Tensor | None:
        """Returns the vector [features] of a query's picture."""


def read_product(
    split: Split, sample: int, picture: int | None, which: int, vectors: PictureVectors | None
) -> tuple[dict[str, Any], Tensor | None]:
    """Reads the JSON of a sample and one of its pictures, as `Split.read`.

    With `vectors` that of the picture stands in its place.

    Raises:
        SampleError: as `Split.read`, or there is no vector of the picture.
    """
    if vectors is None:
        return split.read(sample, picture, which)
    fields, _ = split.read(sample, None)
    if picture is None or not split.picture_numbers(sample):
        return fields, None
    return fields, _known(vectors.of_product(sample, which), f"{split.store} sample {sample}")


class Products(Dataset[Sample | str]):
    """Reads samples of several splits by SampleIndex.

    `picture` is as in `Split.read`, for queries too. `losses` are those that each split supplies;
    its queries are drawn where one of them has queries, `queries_per_product` for each product.
    Of several pictures of a product one is drawn, anew in each epoch.
    Each query takes a row of the batch; the first row alone reads the sample, and has its
    judgments. Product ids of different `namespaces`, one for each split, are different products.
    Where there are `vectors`, those of each split, they stand in the places of pictures, which are
    not decoded.
    """

    def __init__(
        self,
        sources: Sequence[Split],
        seed: int,
        picture: int | None,
        losses: Sequence[tuple[str, ...]] = (),
        queries_per_product: Sequence[int] = (),
        namespaces: Sequence[str] = (),
        vectors: Sequence[PictureVectors] = (),
    ) -> None:
        self.vectors = vectors
        self.sources = list(sources)
        self.seed = seed
        self.picture = picture
        self.losses = losses or [()] * len(sources)
        # A source whose losses use text and picture alone needs no queries.
        self.draws_queries = [not names or uses_queries(names) for names in self.losses]
        self.queries_per_product = queries_per_product or [1] * len(sources)
        self.namespaces = namespaces or [""] * len(sources)
        self._last: tuple[SampleIndex, _Product | str] | None = None

    def _product(self, index: SampleIndex) -> _Product | str:
        """Returns what all query slots of a product share: read by the first, kept for the next.

        Where the product cannot be read it is a line that says why.
        """
        first = index._replace(slot=0)
        if self._last is None or self._last[0] != first:
            self._last = first, self._read(first)
        return self._last[1]

    def _read(self, index: SampleIndex) -> _Product | str:
        """Reads a product, draws its queries and reads their pictures."""
        source = self.sources[index.source]
        try:
            which = self._drawn_picture(source, index)
            vectors = self.vectors[index.source] if self.vectors else None
            fields, picture = read_product(source, index.sample, self.picture, which, vectors)
        except SampleError as error:
            return str(error)
        judgments = source.judgments(index.sample) if self.draws_queries[index.source] else []
        seed = (self.seed, index.source, index.sample, index.epoch)
        first = source.asked[index.query].query_id if index.query >= 0 else None
        drawn = draw_queries(judgments, seed, self.queries_per_product[index.source], first)
        try:
            queries = [(query, self._query_picture(index.source, query)) for query in drawn]
        except SampleError as error:
            # All rows of the product are skipped: its first row is the one among the candidates.
            return f"{source.store} sample {index.sample}: {error}"
        return _Product(fields, picture, judgments, queries)

    def _drawn_picture(self, source: Split, index: SampleIndex) -> int:
        """Draws one of a product's pictures, another in another epoch; 0 where it has none."""
        numbers = source.picture_numbers(index.sample) if self.picture is not None else []
        if len(numbers) < 2:
            return numbers[0] if numbers else 0
        # Not the seed of its queries, whose draws would go with those of pictures.
        seed = (self.seed, index.source, index.sample, index.epoch, len(numbers))
        return numbers[np.random.default_rng(seed).integers(len(numbers))]

    def __getitem__(self, index: SampleIndex) -> Sample | str:
        """Returns the sample, or where it cannot be read a line that says which and why.

        A product with fewer queries than slots has no query in the further ones. One that cannot be
        read is named in its first slot, and is empty in the further ones.
        """
        product = self._product(index)
        if isinstance(product, str):
            return EMPTY_SAMPLE if index.slot else product
        fields, queries = product.fields, product.queries
        query, query_image = queries[index.slot] if index.slot < len(queries) else (None, None)
        return Sample(
            fields["product_id"],
            self.sources[index.source].text_of(fields),
            product.picture,
            [] if index.slot else product.judgments,
            query,
            index.epoch,
            query_image,
            self.losses[index.source],
            self.namespaces[index.source],
            index.source,
        )

    def _query_picture(self, number: int, query: Judgment) -> Tensor | None:
        """Reads the picture of a drawn query, or None where it has none or none is wanted."""
        if self.picture is None or query.picture is None:
            return None
        source = self.sources[number]
        if not self.vectors:
            return source.read_query_picture(query.picture, self.picture)
        name = f"{source.store} query picture {query.picture}"
        return _known(self.vectors[number].of_query(query.picture), name)


def _known(vector: Tensor | None, name: str) -> Tensor:
    """Returns the vector of a picture; a SampleError names one that could not be read."""
    if vector is None:
        raise SampleError(f"{name}: not readable when the outputs of its tower were kept")
    return vector
