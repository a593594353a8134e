"""Reads the samples of a training: each product with the queries drawn for it in this epoch.

A sample that cannot be read is a line that says which and why; the collation counts it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from beyond_text.config.views import OBJECTIVE_VIEWS
from beyond_text.shards.archive import SampleError
from beyond_text.shards.batch import EMPTY_SAMPLE, SELF_MATCH, Judgment, Sample, SampleIndex
from beyond_text.shards.split import Split


def draw_queries(judgments: list[Judgment], seed: Sequence[int], number: int = 1) -> list[Judgment]:
    """Draws distinct judgments: first a kind, all equally likely, then one in it by its gain.

    Kinds alike, because machine-made queries outnumber those that people wrote. Never the product
    itself. Fewer than `number` where there are no more.
    """
    kinds: dict[str, list[Judgment]] = {}
    for judgment in judgments:
        if judgment.gain != SELF_MATCH:
            kinds.setdefault(judgment.kind, []).append(judgment)
    drawn: list[Judgment] = []
    if not kinds:
        return drawn
    random = np.random.default_rng(list(seed))
    while kinds and len(drawn) < number:
        kind = sorted(kinds)[random.integers(len(kinds))]
        # NumPy's own choice by weight takes many times as long for a few.
        reached = list(accumulate(judgment.gain for judgment in kinds[kind]))
        place = bisect_right(reached, random.random() * reached[-1], hi=len(reached) - 1)
        drawn.append(kinds[kind].pop(place))
        if not kinds[kind]:
            del kinds[kind]
    return drawn


def uses_queries(losses: Sequence[str]) -> bool:
    """Says whether one of the losses has a view other than a product's text and picture."""
    return any(not {"text", "image"}.issuperset(OBJECTIVE_VIEWS[name]) for name in losses)


class _Read(NamedTuple):
    """A sample as it was read, and the queries drawn for its slots with their pictures."""

    fields: dict[str, Any]
    picture: Tensor | None
    judgments: list[Judgment]
    queries: list[tuple[Judgment, Tensor | None]]


class Products(Dataset[Sample | str]):
    """Samples of several splits, by SampleIndex; `picture` is as in `Split.read`, for queries too.

    `losses` are those that each split feeds; its queries are drawn where one of them has queries,
    `queries_per_product` for each product. Each is a row of the batch; only the first reads the
    sample.
    """

    def __init__(
        self,
        sources: Sequence[Split],
        seed: int,
        picture: int | None,
        losses: Sequence[tuple[str, ...]] = (),
        queries_per_product: Sequence[int] = (),
    ) -> None:
        self.sources = list(sources)
        self.seed = seed
        self.picture = picture
        self.losses = losses or [()] * len(sources)
        # Nobody asks for the queries of what feeds text and picture alone.
        self.asked = [not feeds or uses_queries(feeds) for feeds in self.losses]
        self.queries_per_product = queries_per_product or [1] * len(sources)
        self._last: tuple[SampleIndex, _Read | str] | None = None

    def _read(self, draw: SampleIndex) -> _Read | str:
        """Returns what all query slots of a product share: read by the first, kept for the next.

        A line that says why where it cannot be read.
        """
        first = draw._replace(slot=0)
        if self._last is None or self._last[0] != first:
            self._last = first, self._read_first(first)
        return self._last[1]

    def _read_first(self, draw: SampleIndex) -> _Read | str:
        source = self.sources[draw.source]
        try:
            fields, picture = source.read(draw.sample, self.picture)
        except SampleError as error:
            return str(error)
        judgments = source.judgments_of(fields) if self.asked[draw.source] else []
        seed = (self.seed, draw.source, draw.sample, draw.epoch)
        drawn = draw_queries(judgments, seed, self.queries_per_product[draw.source])
        try:
            queries = [(query, self._query_picture(source, fields, query)) for query in drawn]
        except SampleError as error:
            # The product goes with it: its first row stands for it among the candidates.
            return f"{source.folder} sample {draw.sample}: {error}"
        return _Read(fields, picture, judgments, queries)

    def __getitem__(self, draw: SampleIndex) -> Sample | str:
        """Returns the sample, or where it cannot be read a line that says which and why.

        A product with fewer queries than slots has no query in the further ones. One that cannot be
        read is named in its first slot, and is empty in the further ones.
        """
        source = self.sources[draw.source]
        read = self._read(draw)
        if isinstance(read, str):
            return EMPTY_SAMPLE if draw.slot else read
        fields, picture, judgments, queries = read
        query, asked = queries[draw.slot] if draw.slot < len(queries) else (None, None)
        text = source.text_of(fields)
        feeds = self.losses[draw.source]
        identity = fields["product_id"]
        return Sample(identity, text, picture, judgments, query, draw.epoch, asked, feeds)

    def _query_picture(
        self, source: Split, fields: Mapping[str, Any], query: Judgment
    ) -> Tensor | None:
        if self.picture is None:
            return None
        entries = (item for item in fields["queries"] if item["query_id"] == query.query_id)
        number = next(entries).get("picture")
        return None if number is None else source.read_query_picture(number, self.picture)
