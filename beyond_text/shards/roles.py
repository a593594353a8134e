"""Decides what each sample of a source is to a stage: an anchor of its losses, or only a negative.

A sample is an anchor where it has the views of one of the losses. Its judged negatives are the
products that a query of its own is judged 0 for: an explicit no, which is worth more than a product
that nobody judged.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, UInt32

from beyond_text.config.views import PAIRS
from beyond_text.shards.batch import query_text_key
from beyond_text.shards.records import text_bits
from beyond_text.shards.split import Split

# The most judged negatives that are kept of a sample; a batch takes one of them.
MOST_NEGATIVES = 16
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

    def anchors_in(self, number: int, share: float) -> int:
        """Returns how many of a batch's `number` products are anchors, the next ones in order.

        Others have their share of the source, and judged negatives a place for each anchor that may
        have one; both together no more than `share`, and what anchors cannot fill.
        """
        anchors, samples = int(self.anchor.sum()), len(self.anchor)
        asking = int(np.count_nonzero(np.diff(self.starts)))
        others = (samples - anchors) * number // samples - (-asking * number // samples)
        return min(anchors, number - min(int(share * number), others))

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


def roles_from(anchor: Bool[np.ndarray, " samples"], owners: Numbers, negatives: Numbers) -> Roles:
    """Makes roles of pairs of a sample and a judged negative, which are in order of the sample."""
    number = np.bincount(owners, minlength=len(anchor)) if len(owners) else np.zeros(0, np.int64)
    starts = np.zeros(len(anchor) + 1, dtype=np.uint32)
    starts[1 : len(number) + 1] = np.cumsum(number)
    return Roles(anchor, starts, negatives.astype(np.uint32))


def roles_of(split: Split, losses: Collection[str]) -> Roles:
    """Returns which samples of a split are anchors of one of the losses, from its arrays alone.

    Raises:
        ShardError: one of its files is damaged.
    """
    has = {"query": np.zeros(len(split), dtype=bool)} | _views_of_products(split)
    zeros: list[tuple[Numbers, Numbers]] = []
    for pairs in split.judged:
        gains = split.gains(pairs.grades)
        has["query"][pairs.sample[(gains > 0) & ~pairs.own]] = True
        refused = (gains == 0) & ~pairs.own
        zeros.append((pairs.query[refused], pairs.sample[refused]))
    anchor = np.zeros(len(split), dtype=bool)
    for loss in losses:
        anchor |= np.logical_and.reduce([has[view] for view in _views(loss)])
    owners, negatives = _judged_negatives(split, zeros)
    return roles_from(anchor, owners, negatives)


def _views(loss: str) -> set[str]:
    """Returns the views that make a sample an anchor of a loss; UniECS's need a query alone."""
    return {"query", "text", "image"} & set(PAIRS.get(loss, ("query", "query")))


def _views_of_products(split: Split) -> dict[str, Bool[np.ndarray, " samples"]]:
    """Returns which samples have a text, and which a picture."""
    bits = text_bits(split.text_fields)
    text, image = np.zeros((2, len(split)), dtype=bool)
    first = 0
    for shard, samples in enumerate(split.sizes):
        records = split.products.records(shard)
        text[first : first + samples] = records["texts"] & bits > 0
        image[first : first + samples] = records["pictures"] > 0
        first += samples
    return {"text": text, "image": image}


def _judged_negatives(
    split: Split, zeros: Sequence[tuple[Numbers, Numbers]]
) -> tuple[Numbers, Numbers]:
    """Returns pairs of samples in order: one that a query wants, and one judged 0 for its words.

    `zeros` are queries, by their rows, and samples that are judged 0 for them.
    """
    none = np.zeros(0, dtype=np.int64)
    query, sample = map(np.concatenate, zip((none, none), *zeros, strict=True))
    if not len(query):
        return none, none
    keys = _keys(split)
    order = np.argsort(keys[query], kind="stable")
    keyed, sample = keys[query][order], sample[order]
    # Queries of pictures alone have no words to be known by.
    keyed, sample = keyed[keyed != 0], sample[keyed != 0]
    found = [np.zeros((2, 0), np.int64), *_joined(split, keys, keyed, sample)]
    owners, negatives = np.concatenate(found, axis=1)
    return owners, negatives


def _keys(split: Split) -> Numbers:
    """Returns the key of each query's words."""
    # Past the memory of `query_text_key`, which queries in use fill better.
    key = query_text_key.__wrapped__
    texts = (text for part in split.asked.columns for text in part["query"].to_pylist())
    return np.fromiter(map(key, texts), dtype=np.int64, count=len(split.asked))


def _joined(
    split: Split, keys: Numbers, keyed: Numbers, sample: Numbers
) -> Iterator[Int64[np.ndarray, "2 pairs"]]:
    """Yields the pairs of each part of the judgments, in order, few of each sample.

    `keyed` are keys of queries, sorted, and `sample` is judged 0 for them.
    """
    for pairs in split.judged:
        wanted = (split.gains(pairs.grades) > 0) & ~pairs.own
        owner, key = pairs.sample[wanted], keys[pairs.query[wanted]]
        first, last = (np.searchsorted(keyed, key, side) for side in ("left", "right"))
        number = np.minimum(last - first, MOST_NEGATIVES)
        # The places from each first on, one after the other.
        within = np.arange(number.sum()) - np.repeat(np.cumsum(number) - number, number)
        negative = sample[np.repeat(first, number) + within]
        both = np.unique(np.stack([np.repeat(owner, number), negative]), axis=1)
        rank = np.arange(both.shape[1]) - np.searchsorted(both[0], both[0])
        yield both[:, rank < MOST_NEGATIVES]
