"""The order in which the samples of a source are drawn: a function of seed and position alone.

Shards are shuffled anew in each epoch, then samples within a window of shards, so that reading
stays local however large the set is. Within a window, samples of one category may stand together
in short runs: they are each other's hard negatives. Nothing of the past is drawn to go on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import gcd
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, UInt32, UInt64

# Shards in a window.
WINDOW = 16
Numbers = Int64[np.ndarray, " samples"]
# The keys of the categories of all samples; 0 stands for none.
Categories = UInt32[np.ndarray, " all"]
# Is told the shards of a window when it begins, and those of the next one.
Told = Callable[[Sequence[int]], None]


class Draws(NamedTuple):
    """Samples, the epoch in which each is drawn, and its query where that is drawn (else -1)."""

    samples: Numbers
    epochs: Numbers
    queries: Numbers | None = None


class Order:
    """The samples of a source in batches of `take`, none of which holds a sample twice.

    Batch follows batch without a gap, and each epoch has every sample once. Where the last samples
    of an epoch would meet themselves in the batch that they share with the next one, they stand
    behind it. A source of fewer than two batches goes round in one order until an epoch ends with a
    batch.

    Args:
        sizes: samples in each shard.
        take: samples in a batch.
        seed: four numbers at most.
        members: which samples are drawn; None for all.
        categories: of all samples; None for samples one by one.
        run: the most samples of a category that stand together.
        window: shards in a window.
        told: is told which shards are read next.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        take: int,
        seed: Sequence[int],
        members: Bool[np.ndarray, " all"] | None = None,
        categories: Categories | None = None,
        run: int = 1,
        window: int = WINDOW,
        told: Told | None = None,
    ) -> None:
        self.starts = np.cumsum([0, *sizes])
        self.counts = np.array(sizes, dtype=np.int64)
        if members is not None and len(sizes):
            self.counts = np.add.reduceat(members, self.starts[:-1], dtype=np.int64)
        self.size = int(self.counts.sum())
        self.take = take
        self.seed = tuple(seed)
        self.members = members
        self.categories = categories if run > 1 else None
        self.run = run
        self.window = window
        self.told = told
        if not 0 < take <= self.size:
            raise ValueError(f"expected batches of at most {self.size} samples, got {take}")
        # Epochs until one ends with a batch.
        self.period = take // gcd(self.size, take)
        # A batch's worth of windows is kept, and a few more.
        kept = 4 + 2 * take // max(1, self.size // -(-len(sizes) // window))
        self._epoch = lru_cache(4)(self._draw_epoch)
        self._window = lru_cache(kept)(self._draw_window)
        self._head = lru_cache(4)(self._draw_head)

    def batch(self, number: int) -> Draws:
        """Returns the number-th batch."""
        first, last = number * self.take, (number + 1) * self.take
        parts, epochs = [], []
        for epoch in range(first // self.size, (last - 1) // self.size + 1):
            start = epoch * self.size
            own = max(0, first - start), min(self.size, last - start)
            parts += self._parts(epoch, *own)
            epochs.append(np.full(own[1] - own[0], epoch))
        return Draws(joined(parts), joined(epochs))

    def _parts(self, epoch: int, first: int, last: int) -> list[Numbers]:
        """Returns the samples from `first` to before `last` of an epoch, in parts."""
        if self.size < 2 * self.take:
            return self._shuffled(epoch - epoch % self.period, first, last)
        head = [self._head(epoch)[first:last]] if first < self.take else []
        return head + self._shuffled(epoch, max(first, self.take), last)

    def _draw_head(self, epoch: int) -> Numbers:
        """Returns the first `take` samples: those of the batch that the last epoch began come last.

        That batch has fewer of this epoch than there are others among them.
        """
        head = joined(self._shuffled(epoch, 0, self.take))
        begun = epoch * self.size % self.take
        if not begun:
            return head
        tail = joined(self._shuffled(epoch - 1, self.size - begun, self.size))
        # By a table of all samples; sorting takes many times as long.
        there = np.isin(head, tail, kind="table")
        return np.concatenate([head[~there], head[there]])

    def _shuffled(self, epoch: int, first: int, last: int) -> list[Numbers]:
        """Returns samples of an epoch as they are shuffled, a part of each window."""
        if last <= first:
            return []
        bounds = self._epoch(epoch)[1]
        begin = int(np.searchsorted(bounds, first, side="right")) - 1
        end = int(np.searchsorted(bounds, last))
        return [
            self._window(epoch, number)[max(0, first - start) : last - start]
            for number, start in zip(range(begin, end), bounds[begin:end].tolist(), strict=True)
        ]

    def _draw_epoch(self, epoch: int) -> tuple[Numbers, Numbers]:
        """Returns the order of the shards, and the position at which each window begins."""
        shards = np.random.default_rng([*self.seed, epoch, 0]).permutation(len(self.counts))
        firsts = np.arange(0, len(shards), self.window)
        return shards, np.cumsum([0, *np.add.reduceat(self.counts[shards], firsts)])

    def _draw_window(self, epoch: int, number: int) -> Numbers:
        """Returns the samples of a window in their order."""
        shards = self._epoch(epoch)[0]
        place = slice(number * self.window, (number + 1) * self.window)
        if self.told is not None:
            self._tell(epoch, number)
        own = shards[place].tolist()
        numbers = np.concatenate([np.arange(self.starts[s], self.starts[s + 1]) for s in own])
        keep = slice(None) if self.members is None else self.members[numbers]
        random = np.random.default_rng([*self.seed, epoch, number + 1])
        numbers = numbers[keep]
        if self.categories is None:
            return random.permutation(numbers)
        return numbers[runs(self.categories[numbers], self.run, random)]

    def _tell(self, epoch: int, number: int) -> None:
        """Tells which shards are read now, and which next."""
        assert self.told is not None
        shards = self._epoch(epoch)[0][number * self.window : (number + 2) * self.window].tolist()
        if len(shards) < 2 * self.window:
            shards += self._epoch(epoch + 1)[0][: self.window].tolist()
        self.told(shards)


def joined(parts: Sequence[Numbers]) -> Numbers:
    """Joins parts, of which there is one at least; one alone is not copied."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def runs(
    category: UInt32[np.ndarray, " samples"], length: int, random: np.random.Generator
) -> Numbers:
    """Returns an order in which up to `length` samples of one category stand together.

    Which of a category's samples are a run is drawn, the runs themselves are in random order, and a
    sample without a category is a run of its own. In batches of them a product meets others of its
    category among the negatives, which is the purpose of topic-aware sampling (Hofstaetter et al.
    2021, arXiv 2104.06967). There topics are clusters of queries; here categories are given, and a
    batch holds many.
    """
    if not len(category):
        return np.zeros(0, np.int64)
    keys = _drawn_keys(category, random)
    kind = keys >> np.uint64(32)
    keys &= np.uint64((1 << _bits(category)) - 1)
    first = np.flatnonzero(np.append(True, kind[1:] != kind[:-1]))
    last = np.append(first[1:], len(kind))
    # Runs of each category, from its first on.
    steps = np.where(kind[first] == 0, 1, length)
    number = -(-(last - first) // steps)
    place = np.arange(number.sum()) - np.repeat(np.cumsum(number) - number, number)
    begins = np.repeat(first, number) + place * np.repeat(steps, number)
    lengths = np.diff(begins, append=len(kind))
    drawn = random.permutation(len(begins))
    begins, lengths = begins[drawn], lengths[drawn]
    # The places of each run from its first on, one run after the other.
    place = np.repeat(begins - np.cumsum(lengths) + lengths, lengths)
    place += np.arange(len(kind))
    return keys.view(np.int64)[place]


def _bits(category: UInt32[np.ndarray, " samples"]) -> int:
    """Returns how many bits hold the place of a sample."""
    return len(category).bit_length()


def _drawn_keys(
    category: UInt32[np.ndarray, " samples"], random: np.random.Generator
) -> UInt64[np.ndarray, " samples"]:
    """Returns the samples by category and then by chance, as numbers, sorted.

    From the highest bits on, a number holds the category, chance, and the place of the sample. To
    sort such numbers is many times as fast as to sort places by keys, and no two are equal.
    """
    bits = np.uint64(_bits(category))
    chance = random.integers(0, 2**32, len(category), np.uint64) >> bits << bits
    keys = category.astype(np.uint64) << np.uint64(32) | chance
    keys |= np.arange(len(category), dtype=np.uint64)
    keys.sort()
    return keys
