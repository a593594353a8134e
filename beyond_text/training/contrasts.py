"""What the objectives of a step contrast: its batch over all processes, and remembered products."""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property

import torch
from torch import Tensor

from beyond_text.config.views import PAIRS, QUERY, View
from beyond_text.shards.batch import Qrels
from beyond_text.training.blocks import Contrast, Direction, most_positives
from beyond_text.training.cross_batch import Candidates, joined
from beyond_text.training.gathered import Gathered
from beyond_text.training.relevance import (
    Blocks,
    Judged,
    Relevance,
    Sides,
    equal,
    judged_relevance,
)
from beyond_text.training.uniecs_losses import Scene


def _matched_by(pair: str) -> str:
    """Returns what decides the relevance of a pair of views."""
    return {"text_image": "equal", "query_text": "text"}.get(pair, "judged")


class Contrasts:
    """Makes what each objective contrasts; relevance is made in blocks, when it is needed.

    Anchors are queries or products of this process. Candidates are the products of all processes,
    followed by the remembered ones, or the queries of all processes. A product has a row for each
    of its queries, but is a candidate once. A query's judged zeros count `negative_weight` times.
    `pairs` are those that will be asked for.
    """

    def __init__(
        self,
        gathered: Gathered,
        remembered: tuple[Candidates, Qrels] | None = None,
        negative_weight: float = 1.0,
        pairs: Collection[str] = tuple(PAIRS),
    ) -> None:
        self.gathered = gathered
        self.negative_weight = negative_weight
        self.pairs = pairs
        # A remembered product may be that of another source, which has other judgments of it.
        self.remembers = remembered is not None
        self.judged = gathered.judged
        self.product_key, self.text_key = gathered.keys.product, gathered.keys.text
        self.pools = dict(gathered.everyone.pools)
        self.present = dict(gathered.everyone.present)
        if remembered is not None:
            older, judged = remembered
            later = judged._replace(product=judged.product + len(gathered.keys.product))
            self.judged = joined([gathered.judged, later])
            self.product_key = torch.cat([self.product_key, older.product_key])
            self.text_key = torch.cat([self.text_key, older.text_key])
            for view, rows in older.vectors.items():
                self.pools[view] = self.pools[view]._replace(older=rows)
                self.present[view] = torch.cat([self.present[view], older.present[view]])

    def of_pair(self, pair: str) -> Contrast:
        """Contrasts two views: queries with products, or for text_image products with products."""
        anchor, candidate = PAIRS[pair]
        relevance = self._relevance_of(pair)
        weights = (None, None) if pair == "text_image" else self._negative_weights
        own, everyone = self.gathered.own, self.gathered.everyone
        return Contrast(
            Direction(
                own.vectors[anchor],
                own.present[anchor],
                self.pools[candidate],
                self.present[candidate],
                relevance.first,
                weights[0],
                most_positives=lambda: self._most_positives[_matched_by(pair)][0],
            ),
            Direction(
                own.vectors[candidate],
                own.present[candidate],
                everyone.pools[anchor],
                everyone.present[anchor],
                relevance.second,
                weights[1],
                most_positives=lambda: self._most_positives[_matched_by(pair)][1],
            ),
        )

    @property
    def in_batch(self) -> Direction:
        """Queries among the products of the batch, without remembered ones, by fused vectors."""
        return Contrasts(self.gathered).of_pair("query_product").first

    @cached_property
    def scene(self) -> Scene:
        """What the objectives of UniECS contrast; remembered products are no part of it."""
        gathered = self.gathered
        return Scene(
            gathered.own,
            gathered.everyone,
            {view: self._judged(gathered.judged, gathered.keys.product, view) for view in QUERY},
            self._judged(gathered.judged, gathered.keys.text, "trigger_text", shared=True),
            gathered.own_keys,
            gathered.keys,
            gathered.copies,
        )

    def _relevance_of(self, pair: str) -> Relevance:
        match _matched_by(pair):
            case "equal":
                return self._equal_products
            case "text":
                return self._shared
        return self._relevance

    @cached_property
    def _most_positives(self) -> dict[str, tuple[int, int]]:
        """The most positives of an anchor in each direction, by what decides a pair's relevance.

        A device is waited for once.
        """
        keys, own = self.gathered.keys, self.gathered.own_keys
        pairs = {_matched_by(pair): pair for pair in self.pairs}
        found = []
        for pair in pairs.values():
            anchors, candidates = own.query.query, keys.query.query
            if pair == "text_image":
                anchors, candidates = own.product, keys.product
            one, other = self._relevance_of(pair)
            found.append(most_positives(one, len(anchors), len(self.product_key)))
            found.append(most_positives(other, len(own.product), len(candidates)))
        numbers = torch.stack(found).tolist()
        return dict(zip(pairs, zip(numbers[::2], numbers[1::2], strict=True), strict=True))

    @cached_property
    def _relevance(self) -> Relevance:
        return self._judged(self.judged, self.product_key, shared=self.remembers)

    @cached_property
    def _shared(self) -> Relevance:
        return self._judged(self.judged, self.text_key, shared=True)

    @cached_property
    def _negative_weights(self) -> tuple[Blocks | None, Blocks | None]:
        """How often each candidate counts as a negative, by direction; None where all do once."""
        if self.negative_weight == 1:
            return None, None
        zeros = self._judged(self.judged, self.product_key, shared=self.remembers, zeros=True)
        return self._weights(zeros.first), self._weights(zeros.second)

    def _weights(self, zeros: Blocks) -> Blocks:
        return lambda rows: 1 + (self.negative_weight - 1) * zeros(rows)

    @cached_property
    def _equal_products(self) -> Relevance:
        """Products of one text are each other's positives: the text fits either picture."""
        own, keys = self.gathered.own_keys, self.gathered.keys
        return Relevance(
            equal((own.product, self.product_key), (own.text, self.text_key)),
            equal((own.product, keys.product), (own.text, keys.text)),
        )

    def _judged(
        self,
        judged: Qrels,
        product_key: Tensor,
        view: View = "query",
        shared: bool = False,
        zeros: bool = False,
    ) -> Relevance:
        """Returns the gains of products for queries, which are matched by a view of them."""
        gathered = self.gathered
        sides = Sides(
            getattr(gathered.own_keys.query, view),
            getattr(gathered.keys.query, view),
            gathered.first,
            len(gathered.own_keys.product),
            product_key,
        )
        columns = Judged(getattr(judged.query, view), judged.product, judged.gain)
        return judged_relevance(columns.zeros() if zeros else columns, sides, shared)
