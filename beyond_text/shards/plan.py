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

    def batch(self, number: int) -> Draws:
        """Returns the samples of the number-th batch of the source."""
        anchors = self.anchors.batch(number)
        if not self.others:
            return anchors
        self._taken[anchors.samples] = True
        wanted = self.size - len(anchors.samples)
        mined, queries = self._mined(anchors, number, wanted)
        parts = [anchors, *mined]
        wanted -= sum(len(part.samples) for part in mined)
        parts += self._judged(anchors, number, wanted)
        for order in self.others:
            wanted = self.size - sum(len(part.samples) for part in parts)
            is_last = order is self.others[-1]
            parts += self._free(order, number, wanted if is_last else min(wanted, order.take))
        samples, epochs = map(np.concatenate, zip(*(part[:2] for part in parts), strict=True))
        self._taken[samples] = False
        return Draws(samples, epochs, queries)

    def _mined(
        self, anchors: Draws, number: int, wanted: int
    ) -> tuple[list[Draws], Numbers | None]:
        """Draws a query of each of the first anchors, and products that were mined for these.

        The queries are those of the whole batch, -1 where none is drawn.
        """
        if self.hard is None:
            return [], None
        random = np.random.default_rng([*self.seed, HARD, number])
        queries = np.full(self.size, -1)
        found: list[Draws] = []
        asked = anchors.samples[:wanted]
        # As many as fill the batch if all have enough; next ones only where there is room left.
        step = max(1, -(-wanted // min(self.hard.each, MOST_ROUNDS)))
        for first in range(0, len(asked), step):
            if wanted <= 0:
                break
            part = slice(first, first + step)
            queries[first : first + len(asked[part])], mined = self.hard.draw(asked[part], random)
            owner, place = np.nonzero(mined >= 0)
            epochs = anchors.epochs[part][owner]
            found.append(self._claimed(mined[owner, place], epochs, wanted))
            wanted -= len(found[-1].samples)
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
        place = np.arange(len(sample), dtype=np.int32)
        self._first[sample[::-1]] = place[::-1]
        free = (self._first[sample] == place) & ~self._taken[sample]
        chosen = np.flatnonzero(free)[:wanted]
        self._taken[sample[chosen]] = True
        return Draws(sample[chosen], epochs[chosen])

    def _free(self, order: Order, number: int, wanted: int) -> list[Draws]:
        """Returns the next samples of an order that the batch does not hold, as many as there are.

        Whoever has gone through the order once has seen them all.
        """
        parts = []
        for further in range(-(-order.size // order.take) + 1):
            if wanted <= 0:
                break
            draws = order.batch(number + further)
            free = np.flatnonzero(~self._taken[draws.samples])[:wanted]
            parts.append(Draws(draws.samples[free], draws.epochs[free]))
            self._taken[draws.samples[free]] = True
            wanted -= len(free)
        return parts
