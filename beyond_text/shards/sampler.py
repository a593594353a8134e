"""Decides which samples make up each batch of a run, from its seed alone.

Samples are numbers, so a loading process reads just its own, any number of processes gives the same
batches, and a run goes on at any step. Shards are shuffled, then samples within a window of shards,
so that reading stays local however large the set is. Within a window, samples of one category may
stand together in short runs: they are each other's hard negatives.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import count, islice

import numpy as np
from jaxtyping import Bool, Int64
from torch.utils.data import Sampler

from beyond_text.shards.batch import SampleIndex
from beyond_text.shards.roles import Roles

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


def group_by_category(category: Callable[[int], int], length: int) -> Reorder:
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
            known[number] = category(number) or -1 - number
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

    Where `roles` are given, a source's batches are drawn from its anchors. Up to a share of
    `negatives` are other products: first such as are judged 0 for the queries of the anchors, then
    as many without the losses' views as their share of the source. These fill the batch, too,
    where there are too few anchors. A product stands in a batch once.
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
        roles: Sequence[Roles | None] = (),
        negatives: float = 0.0,
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
        self.roles = roles or [None] * len(sizes)
        self.negatives = negatives

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[SampleIndex]]:
        random = np.random.default_rng([self.seed, len(self.sizes)])
        sources = [self._source(number) for number in range(len(self.sizes))]
        for batch in range(self.batches):
            source = sources[random.choice(len(sources), p=self.shares)]
            indices = source.draw(self.batch_size * self.world)
            if batch >= self.start:
                yield [
                    index._replace(slot=slot)
                    for index in indices[self.rank :: self.world]
                    for slot in range(self.queries_per_product[index.source])
                ]

    def _source(self, number: int) -> _Source:
        """Begins the samples of a source."""
        sizes, order, roles = self.sizes[number], self.orders[number], self.roles[number]

        def stream(members: Bool[np.ndarray, " samples"] | None = None) -> _Stream:
            return _Stream(_endless(sizes, self.seed, number, order, members))

        if roles is None or roles.all_alike:
            return _Source(stream())
        random = np.random.default_rng([self.seed, number, len(self.sizes)])
        return _MixedSource(
            stream(roles.anchor), stream(~roles.anchor), roles, self.negatives, random
        )


def _endless(
    sizes: Sequence[int],
    seed: int,
    source: int,
    order: Reorder | None,
    members: Bool[np.ndarray, " samples"] | None,
) -> Iterator[SampleIndex]:
    """Yields the samples of a source that are `members`, epoch after epoch; None: all."""
    for epoch in count():
        for numbers in epoch_order(sizes, (seed, source, epoch), order=order):
            for number in numbers if members is None else numbers[members[numbers]]:
                yield SampleIndex(source, int(number), epoch)


class _Stream:
    """Takes samples in order; one that its batch holds already waits for the next batch."""

    def __init__(self, indices: Iterator[SampleIndex]) -> None:
        self._indices = indices
        self._waiting: deque[SampleIndex] = deque()

    def take(self, number: int, taken: set[int]) -> list[SampleIndex]:
        """Takes samples that are not among the `taken`, and adds them."""
        waiting, self._waiting = self._waiting, deque()
        indices: list[SampleIndex] = []
        while len(indices) < number:
            index = waiting.popleft() if waiting else next(self._indices)
            if index.sample in taken:
                self._waiting.append(index)
            else:
                taken.add(index.sample)
                indices.append(index)
        self._waiting += waiting
        return indices


class _Source:
    """Draws the batches of one source, all of whose samples are anchors."""

    def __init__(self, anchors: _Stream) -> None:
        self.anchors = anchors

    def draw(self, number: int) -> list[SampleIndex]:
        """Draws the samples of a batch."""
        return self.anchors.take(number, set())


class _MixedSource(_Source):
    """Draws batches of anchors and negatives; see `BatchSampler`."""

    def __init__(
        self,
        anchors: _Stream,
        others: _Stream,
        roles: Roles,
        share: float,
        random: np.random.Generator,
    ) -> None:
        super().__init__(anchors)
        self.others = others
        self.roles = roles
        self.share = share
        self.random = random

    def draw(self, number: int) -> list[SampleIndex]:
        """Draws the samples of a batch: anchors, their judged negatives, others, more anchors."""
        taken: set[int] = set()
        first = self.anchors.take(self.roles.anchors_in(number, self.share, reserve=True), taken)
        most = int(self.share * number)
        judged = list(islice(self._judged_negatives(first, taken), most))
        room = number - len(taken)
        is_anchor = self.roles.anchor
        free_anchors = int(is_anchor.sum() - is_anchor[list(taken)].sum())
        free_others = len(is_anchor) - len(taken) - free_anchors
        wanted = number - self.roles.anchors_in(number, self.share)
        others = max(min(wanted, room, free_others), room - free_anchors)
        return [
            *first,
            *judged,
            *self.others.take(others, taken),
            *self.anchors.take(room - others, taken),
        ]

    def _judged_negatives(
        self, anchors: Sequence[SampleIndex], taken: set[int]
    ) -> Iterator[SampleIndex]:
        """Draws for each anchor a product that one of its queries is judged 0 for, if there is."""
        for anchor in anchors:
            free = [
                sample for sample in self.roles.of(anchor.sample).tolist() if sample not in taken
            ]
            if free:
                sample = free[self.random.integers(len(free))]
                taken.add(sample)
                yield anchor._replace(sample=sample)
