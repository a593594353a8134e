"""The batches of one source: its anchors, products judged 0 for their queries, and others."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from beyond_text.shards.hard_negatives import HardNegatives
from beyond_text.shards.order import Categories, Draws, Numbers, Order, Told
from beyond_text.shards.roles import Roles

# What the numbers that follow a source's in a seed are for.
ANCHORS, OTHERS, FURTHER, NEGATIVES, HARD = range(5)
# Times that a batch asks further anchors for what was mined for them.
MOST_ROUNDS = 4


class SourcePlan:
    """The products of each batch of a source, by the batch's number alone.

    Without roles, or where all are alike, batches follow one order of all products. Else the
    anchors of a batch are the next ones in an order of theirs, so that an epoch takes each once. Up
    to a share of `negatives` are other products: first such as were mined for the queries of the
    batch's anchors (`hard`), a few for each anchor in turn, then such as are judged 0 for them,
    then the next ones in an order of those that are no anchors. What is still free is filled with
    anchors from another order. A product stands in a batch once.

    Args:
        sizes: samples in each shard.
        size: products in a batch.
        seed: the run's seed, and the number of the source.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        size: int,
        seed: tuple[int, int],
        roles: Roles | None = None,
        negatives: float = 0.0,
        categories: Categories | None = None,
        run: int = 1,
        told: Told | None = None,
        hard: HardNegatives | None = None,
    ) -> None:
        order = partial(Order, sizes, categories=categories, run=run, told=told)
        self.size = size
        self.seed = seed
        self.roles = roles
        self.hard = hard
        self.others: list[Order] = []
        if roles is None or (roles.all_alike and hard is None):
            self.anchors = order(size, (*seed, ANCHORS))
            return
        first = roles.anchors_in(size, negatives, hard.asking if hard else 0)
        self.anchors = order(first, (*seed, ANCHORS), roles.anchor)
        if first == size:
            return
        # What a batch holds, and which of its anchors draws a sample first.
        self._taken = np.zeros(len(roles.anchor), dtype=bool)
        self._first = np.zeros(len(roles.anchor), dtype=np.int32)
        others = max(roles.others_in(size, negatives), size - int(roles.anchor.sum()))
        for kind, members, most in (
            (OTHERS, ~roles.anchor, others), (FURTHER, roles.anchor, size - first),
        ):  # fmt: skip
            if number := min(most, int(members.sum())):
                self.others.append(order(number, (*seed, kind), members))

    def batch(self, number: int, own: slice) -> Draws:
        """Returns the part `own` of the samples of the number-th batch of the source."""
        anchors = self.anchors.batch(number)
        if not self.others:
            return Draws(anchors.samples[own], anchors.epochs[own])
        self._taken[anchors.samples] = True
        wanted = self.size - len(anchors.samples)
        mined, queries = self._mined(anchors, number, wanted, own)
        parts = [anchors, *mined]
        wanted -= sum(len(part.samples) for part in mined)
        parts += self._judged(anchors, number, wanted)
        for order in self.others:
            wanted = self.size - sum(len(part.samples) for part in parts)
            is_last = order is self.others[-1]
            parts += self._free(order, number, wanted if is_last else min(wanted, order.take))
        samples, epochs = map(np.concatenate, zip(*(part[:2] for part in parts), strict=True))
        # All at once is faster, but of a source that is far larger than a batch.
        self._taken[slice(None) if len(self._taken) < 64 * self.size else samples] = False
        return Draws(samples[own], epochs[own], None if queries is None else queries[own])

    def _mined(
        self, anchors: Draws, number: int, wanted: int, own: slice
    ) -> tuple[list[Draws], Numbers | None]:
        """Draws a query of each of the first anchors, and products that were mined for these.

        The queries are those of the whole batch, -1 where none is drawn, or it is not of `own`.
        """
        hard = self.hard
        if hard is None:
            return [], None
        random = np.random.default_rng([*self.seed, HARD, number])
        queries = np.full(self.size, -1)
        found: list[Draws] = []
        asked = anchors.samples[:wanted]
        # As many as fill the batch if all have enough; next ones only where there is room left.
        step = max(1, -(-wanted // min(hard.each, MOST_ROUNDS)))
        shares, places = np.zeros((2, len(asked)))
        done = drawn = 0
        while wanted > 0 and done < len(asked):
            if done == drawn:
                drawn = min(drawn + step, len(asked))
                shares[done:drawn], places[done:drawn] = random.random((2, drawn - done))
            # Of those, no more than are needed if all have enough; but not few by few.
            part = slice(done, min(drawn, done + max(-(-wanted // hard.each), step // 8)))
            queries[part] = hard.queries(asked[part], shares[part])
            mined = hard.products(queries[part], places[part]).ravel()
            there = np.flatnonzero(mined >= 0)
            epochs = anchors.epochs[part].take(there // hard.each)
            found.append(self._claimed(mined.take(there).astype(np.int64), epochs, wanted))
            wanted -= len(found[-1].samples)
            done = part.stop
        # The others of the last round bring none, but have a query.
        rest = np.arange(self.size)[own]
        rest = rest[(done <= rest) & (rest < drawn)]
        queries[rest] = hard.queries(asked[rest], shares[rest])
        return found, queries

    def _judged(self, anchors: Draws, number: int, wanted: int) -> list[Draws]:
        """Draws for each anchor a product that one of its queries is judged 0 for, if there is.

        Anchors are asked in order, some at a time: most batches are full before all were asked.
        """
        assert self.roles is not None
        random = np.random.default_rng([*self.seed, NEGATIVES, number])
        found: list[Draws] = []
        step = max(wanted // 2, len(anchors.samples) // (2 * MOST_ROUNDS), 1)
        for first in range(0, len(anchors.samples), step):
            if wanted <= 0:
                break
            part = slice(first, first + step)
            owner, sample = self.roles.draw_negatives(anchors.samples[part], random)
            found.append(self._claimed(sample, anchors.epochs[part][owner], wanted))
            wanted -= len(found[-1].samples)
        return found

    def _claimed(self, sample: Numbers, epochs: Numbers, wanted: int) -> Draws:
        """Takes the first samples that the batch does not hold, `wanted` at most, each once."""
        # Of several anchors that draw one product, the first has it.
        # Backwards in place: with negative strides, NumPy takes several times as long.
        place = np.arange(len(sample), dtype=np.int32)
        self._first[sample[::-1].copy()] = place[::-1].copy()
        # `take` is several times as fast as an index.
        free = (self._first.take(sample) == place) & ~self._taken.take(sample)
        chosen = np.flatnonzero(free)[:wanted]
        draws = Draws(sample.take(chosen), epochs.take(chosen))
        self._taken[draws.samples] = True
        return draws

    def _free(self, order: Order, number: int, wanted: int) -> list[Draws]:
        """Returns the next samples of an order that the batch does not hold, as many as there are.

        Whoever has gone to the end of an epoch, and through the next one, has seen them all.
        """
        parts = []
        for further in range(-(-2 * order.size // order.take)):
            if wanted <= 0:
                break
            draws = order.batch(number + further)
            free = np.flatnonzero(~self._taken.take(draws.samples))[:wanted]
            parts.append(Draws(draws.samples[free], draws.epochs[free]))
            self._taken[draws.samples[free]] = True
            wanted -= len(free)
        return parts
