"""Decides which samples make up each batch of a run, from its seed alone.

Samples are numbers, so a loading process reads just its own, any number of processes gives the same
batches, and a run goes on at any step at once: a batch depends on its number, not on those before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int64
from torch.utils.data import Sampler

from beyond_text.shards.batch import SampleIndex
from beyond_text.shards.hard_negatives import HardNegatives
from beyond_text.shards.order import Categories, Told
from beyond_text.shards.plan import SourcePlan
from beyond_text.shards.roles import Roles

# Batches whose sources are drawn at a time.
BLOCK = 2**16


class BatchSampler(Sampler[list[SampleIndex]]):
    """Yields the samples of each batch of a run, for one of `world` processes.

    A batch of `batch_size` products comes from one source, drawn by weight: negatives of one shop
    are hard ones, and the pictures of a shop are all there or not. It is the same for any number of
    processes, of which number `rank` takes the products rank, rank + world, rank + 2 world ... So
    all take the same number of steps. A product stands in as many rows, one after the other, as
    `queries_per_product` says of its source. Starts at batch `start`, for a run that is resumed.

    Of each source, `roles`, `negatives` and `hard` are as for `SourcePlan`, `categories`, `run`
    and `told` as for `Order`.
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
        roles: Sequence[Roles | None] = (),
        negatives: float = 0.0,
        categories: Sequence[Categories] = (),
        run: int = 1,
        told: Sequence[Told] = (),
        hard: Sequence[HardNegatives | None] = (),
    ) -> None:
        if batch_size % world:
            raise ValueError(
                f"expected a batch_size that {world} processes divide, got {batch_size}"
            )
        self.shares = np.array(weights, dtype=float) / sum(weights)
        self.batches = batches
        self.seed = seed
        self.own = batch_size // world
        self.rank = rank
        self.world = world
        self.start = start
        self.queries_per_product = queries_per_product or [1] * len(sizes)
        self.sources = [
            SourcePlan(
                sizes[number],
                batch_size,
                (seed, number),
                roles[number] if roles else None,
                negatives,
                categories[number] if categories else None,
                run,
                told[number] if told else None,
                hard[number] if hard else None,
            )
            for number in range(len(sizes))
        ]

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[SampleIndex]]:
        drawn = np.zeros(len(self.sources), dtype=np.int64)
        for block in range(-(-self.batches // BLOCK)):
            first = max(0, self.start - block * BLOCK)
            sources = self._drawn_sources(block)[: self.batches - block * BLOCK]
            drawn += np.bincount(sources[:first], minlength=len(drawn))
            for source in sources[first:].tolist():
                yield self._indices(source, int(drawn[source]))
                drawn[source] += 1

    def _drawn_sources(self, block: int) -> Int64[np.ndarray, " batches"]:
        """Draws the source of each batch of a block."""
        random = np.random.default_rng([self.seed, len(self.sources), block])
        return random.choice(len(self.sources), BLOCK, p=self.shares)

    def _indices(self, source: int, number: int) -> list[SampleIndex]:
        """Returns this process's samples of the number-th batch of a source."""
        draws = self.sources[source].batch(number, slice(self.rank, None, self.world))
        samples, epochs, queries = (
            [-1] * self.own if part is None else part.tolist() for part in draws
        )
        slots = range(self.queries_per_product[source])
        return [
            SampleIndex(source, sample, epoch, slot, query)
            for sample, epoch, query in zip(samples, epochs, queries, strict=True)
            for slot in slots
        ]
