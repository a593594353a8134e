"""Decides which samples make up each batch of a run, from its seed alone.

Samples are numbers, so a loading process reads just its own, any number of processes gives the same
batches, and a run goes on at any step. Shards are shuffled, then samples within a window of shards,
so that reading stays local however large the set is. Within a window, samples of one category may
stand together in short runs: they are each other's hard negatives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Int64
from torch.utils.data import Sampler

from beyond_text.shards.batch import SampleIndex, key_of

WINDOW = 16
Numbers = Int64[np.ndarray, " samples"]
# Puts shuffled numbers into another order, with the random generator it is given.
Reorder = Callable[[Numbers, np.random.Generator], Numbers]


def epoch_order(
    sizes: Sequence[int], seed: Sequence[int], window: int = WINDOW, order: Reorder | None = None
) -> Iterator[Numbers]:
    """Yields the sample numbers of one epoch, a window of shards at a time; each sample once.

    `order` puts the shuffled numbers of a window into another order.
    """
    random = np.random.default_rng(list(seed))
    starts = np.cumsum([0, *sizes])
    shards = random.permutation(len(sizes))
    for first in range(0, len(shards), window):
        ranges = [np.arange(starts[s], starts[s + 1]) for s in shards[first : first + window]]
        numbers = random.permutation(np.concatenate(ranges))
        yield order(numbers, random) if order else numbers


def group_by_category(category: Callable[[int], str], length: int) -> Reorder:
    """Returns an order in which up to `length` samples of one category stand together.

    The runs themselves are in random order. In batches of them a product meets others of its
    category among the negatives, which is the purpose of topic-aware sampling (Hofstaetter et al.
    2021, arXiv 2104.06967). There topics are clusters of queries; here categories are given, and a
    batch holds many.
    """
    known: dict[int, int] = {}

    def key(number: int) -> int:
        if number not in known:
            # A sample without a category is a group of its own.
            known[number] = key_of(category(number) or f"sample {number}")
        return known[number]

    def order(numbers: Numbers, random: np.random.Generator) -> Numbers:
        _, label = np.unique([key(number) for number in numbers.tolist()], return_inverse=True)
        by_label = np.argsort(label, kind="stable")
        label = label[by_label]
        position = np.arange(len(label)) - np.searchsorted(label, label)
        _, run = np.unique(label * len(label) + position // length, return_inverse=True)
        rank_of_run = random.permutation(len(numbers))[run]
        return numbers[by_label[np.argsort(rank_of_run, kind="stable")]]

    return order


class BatchSampler(Sampler[list[SampleIndex]]):
    """Yields the samples of each batch of a run, for one of `world` processes.

    A batch comes from one source, drawn by weight: negatives of one shop are hard ones, and the
    pictures of a shop are all there or not. Every process takes an equal slice of every batch, so
    all take the same number of steps. A product stands in as many rows, one after the other, as
    `queries_per_product` says of its source; `orders` may put similar products side by side.
    Starts at batch `start`, for a run that is resumed.
    """

    def __init__(
        self,
        sizes: Sequence[Sequence[int]],
        weights: Sequence[float],
        batch_size: int,
        batches: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        start: int = 0,
        queries_per_product: Sequence[int] = (),
        orders: Sequence[Reorder] = (),
    ) -> None:
        self.sizes = sizes
        self.shares = np.array(weights, dtype=float) / sum(weights)
        self.batch_size = batch_size
        self.batches = batches
        self.seed = seed
        self.rank = rank
        self.world = world
        self.start = start
        self.queries_per_product = queries_per_product or [1] * len(sizes)
        self.orders: Sequence[Reorder | None] = orders or [None] * len(sizes)

    def __len__(self) -> int:
        return self.batches

    def _endless(self, source: int) -> Iterator[SampleIndex]:
        """Yields the samples of a source, epoch after epoch."""
        epoch = 0
        while True:
            seed = (self.seed, source, epoch)
            for numbers in epoch_order(self.sizes[source], seed, order=self.orders[source]):
                for number in numbers:
                    yield SampleIndex(source, int(number), epoch)
            epoch += 1

    def __iter__(self) -> Iterator[list[SampleIndex]]:
        random = np.random.default_rng([self.seed, len(self.sizes)])
        streams = [self._endless(source) for source in range(len(self.sizes))]
        for batch in range(self.batches):
            stream = streams[random.choice(len(streams), p=self.shares)]
            indices = [next(stream) for _ in range(self.batch_size * self.world)]
            if batch >= self.start:
                yield [
                    index._replace(slot=slot)
                    for index in indices[self.rank :: self.world]
                    for slot in range(self.queries_per_product[index.source])
                ]
