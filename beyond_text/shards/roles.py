"""Decides what each sample of a source is to a stage: an anchor of its losses, or only a negative.

A sample is an anchor where it has the views of one of the losses; where some losses have queries,
of one of these, or the few products with queries would be lost among the others. Its judged
negatives are the products that a query of its own is judged 0 for: an explicit no, which is worth
more than a product that nobody judged.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, UInt32

from beyond_text.config.views import PAIRS, uses_queries
from beyond_text.shards.negatives import judged_negatives
from beyond_text.shards.records import text_bits
from beyond_text.shards.split import Split

Numbers = Int64[np.ndarray, " numbers"]


class Roles(NamedTuple):
    """Which samples are anchors, and the judged negatives of sample i.

    These are `negatives[starts[i] : starts[i + 1]]`, numbers of samples.
    """

    anchor: Bool[np.ndarray, " samples"]
    starts: UInt32[np.ndarray, " bounds"]
    negatives: UInt32[np.ndarray, " pairs"]

    @property
    def all_alike(self) -> bool:
        """Whether every sample is an anchor, and none has a judged negative."""
        return bool(self.anchor.all()) and not len(self.negatives)

    def anchors_in(self, number: int, share: float, mined: int = 0) -> int:
        """Returns how many of a batch's `number` products are anchors, the next ones in order.

        Others have their share of the source, judged negatives a place for each anchor that may
        have one, and mined ones for the `mined` that all samples may ask for; all together no more
        than `share`, and what anchors cannot fill.
        """
        anchors, samples = int(self.anchor.sum()), len(self.anchor)
        asking = int(np.count_nonzero(np.diff(self.starts))) + mined
        others = self.others_in(number, share) - (-asking * number // samples)
        return min(anchors, number - min(int(share * number), others))

    def others_in(self, number: int, share: float) -> int:
        """Returns how many of a batch are no anchors: as of the source, but at most `share`."""
        samples = len(self.anchor)
        return min(int(share * number), int((~self.anchor).sum()) * number // samples)

    def of(self, sample: int) -> UInt32[np.ndarray, " negatives"]:
        """Returns the judged negatives of a sample."""
        return self.negatives[self.starts[sample] : self.starts[sample + 1]]

    def draw_negatives(
        self, samples: Numbers, random: np.random.Generator
    ) -> tuple[Numbers, Numbers]:
        """Draws a judged negative of each sample that has one.

        Returns:
            The positions of these among `samples`, and the negatives.
        """
        first = self.starts[samples].astype(np.int64)
        number = self.starts[samples + 1] - first
        owner = np.flatnonzero(number)
        drawn = (random.random(len(owner)) * number[owner]).astype(np.int64)
        return owner, self.negatives[first[owner] + drawn].astype(np.int64)


def roles_of(split: Split, losses: Collection[str]) -> Roles:
    """Returns which samples of a split are anchors of one of the losses, from its arrays alone.

    Raises:
        ShardError: one of its files is damaged.
    """
    text, image = _views_of_products(split)
    query = np.zeros(len(split), dtype=bool)
    any_zero = False
    for pairs in split.judged:
        gains = np.where(pairs.own, -1, split.gains(pairs.grades))
        query[pairs.sample[gains > 0]] = True
        any_zero = any_zero or bool((gains == 0).any())
    has = {"query": query, "text": text, "image": image}
    anchor = np.zeros(len(split), dtype=bool)
    for loss in anchoring(losses):
        anchor |= np.logical_and.reduce([has[view] for view in _views(loss)])
    if any_zero:
        return Roles(anchor, *judged_negatives(split))
    return Roles(anchor, np.zeros(len(split) + 1, np.uint32), np.zeros(0, np.uint32))


def anchoring(losses: Collection[str]) -> list[str]:
    """Returns the losses that decide what is an anchor: those with queries, if there are any."""
    return [loss for loss in losses if uses_queries([loss])] or list(losses)


def _views(loss: str) -> set[str]:
    """Returns the views that make a sample an anchor of a loss; UniECS's need a query alone."""
    return {"query", "text", "image"} & set(PAIRS.get(loss, ("query", "query")))


def _views_of_products(split: Split) -> Bool[np.ndarray, "2 samples"]:
    """Returns which samples have a text, and which a picture."""
    bits = text_bits(split.text_fields)
    has = np.zeros((2, len(split)), dtype=bool)
    first = 0
    for shard, samples in enumerate(split.sizes):
        records = split.products.records(shard)
        has[0, first : first + samples] = records["texts"] & bits > 0
        has[1, first : first + samples] = records["pictures"] > 0
        first += samples
    return has
