"""Cross-batch memory (Wang et al. 2020, arXiv 1912.06798): more negatives at almost no cost.

Products of the last batches stay candidates, with the vectors they had then and without gradient.
Relevance is known by id, as within a batch, so a remembered product may also be a positive.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from beyond_text.config.views import PRODUCT, View
from beyond_text.shards.batch import Qrels, QueryKeys
from beyond_text.training.gathered import Gathered


class Candidates(NamedTuple):
    """The products that anchors are contrasted with: vectors of their views, and 64-bit keys."""

    vectors: Mapping[View, Float[Tensor, "rows dim"]]
    present: Mapping[View, Bool[Tensor, " rows"]]
    product_key: Int[Tensor, " rows"]
    text_key: Int[Tensor, " rows"]

    def map(self, change: Callable[[Tensor], Tensor]) -> Candidates:
        """Returns candidates with `change` applied to every tensor."""
        return Candidates(
            {view: change(vectors) for view, vectors in self.vectors.items()},
            {view: change(present) for view, present in self.present.items()},
            change(self.product_key),
            change(self.text_key),
        )


def candidates_of(gathered: Gathered) -> Candidates:
    """Returns the products of a batch over all processes."""
    pools, present = gathered.everyone
    views = [view for view in PRODUCT if view in pools]
    return Candidates(
        {view: pools[view].vectors for view in views},
        {view: present[view] for view in views},
        gathered.keys.product,
        gathered.keys.text,
    )


def concatenate(parts: Sequence[Candidates]) -> Candidates:
    """Returns the rows of all parts, which must have the same views."""
    if len(parts) == 1:
        return parts[0]
    views = parts[0].vectors
    return Candidates(
        {view: torch.cat([part.vectors[view] for part in parts]) for view in views},
        {view: torch.cat([part.present[view] for part in parts]) for view in views},
        torch.cat([part.product_key for part in parts]),
        torch.cat([part.text_key for part in parts]),
    )


def joined(parts: Sequence[Qrels]) -> Qrels:
    """Returns the judgments of all parts."""
    return Qrels(
        QueryKeys(*map(torch.cat, zip(*(part.query for part in parts), strict=True))),
        torch.cat([part.product for part in parts]),
        torch.cat([part.gain for part in parts]),
    )


class CrossBatchMemory:
    """Keeps the products of the last batches, at most `size` of them, with their judgments.

    A batch is that of all processes, in its own order: every process remembers the same, and a
    checkpoint does not tell how many there were.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._kept: deque[tuple[Candidates, Qrels]] = deque()

    def __iter__(self) -> Iterator[tuple[Candidates, Qrels]]:
        return iter(self._kept)

    @property
    def rows(self) -> int:
        """The number of remembered products."""
        return sum(len(candidates.product_key) for candidates, _ in self._kept)

    def add(self, gathered: Gathered) -> None:
        """Remembers the products of a batch.

        The oldest batches make room. A batch larger than the whole memory is not remembered.
        """
        if len(gathered.keys.product) > self.size:
            return
        kept = candidates_of(gathered).map(
            lambda rows: gathered.in_batch_order(rows.detach()).clone()
        )
        judged = gathered.judged
        places = gathered.place_in_batch(judged.product)
        self._kept.append((kept, judged._replace(product=places)))
        while self.rows > self.size:
            self._kept.popleft()

    def all(self) -> tuple[Candidates, Qrels] | None:
        """Returns all remembered products, oldest first, and their judgments; None without any."""
        if not self._kept:
            return None
        parts, judged = zip(*self._kept, strict=True)
        starts = accumulate((len(part.product_key) for part in parts), initial=0)
        return concatenate(parts), joined(
            [
                one._replace(product=one.product + start)
                for one, start in zip(judged, starts, strict=False)
            ]
        )

    def to(self, device: torch.device) -> None:
        """Moves all remembered tensors to a device."""
        self._kept = deque(
            (
                candidates.map(lambda rows: rows.to(device)),
                _changed(judged, lambda column: column.to(device)),
            )
            for candidates, judged in self._kept
        )

    def state(self) -> list[Any]:
        """Returns what goes into a checkpoint: tensors in plain tuples and dictionaries.

        Judgments are sorted by product, and those without a query are left out.
        """
        state = []
        for candidates, judged in self._kept:
            order = judged.product.argsort(stable=True)
            asks = torch.stack(judged.query).any(dim=0)[order]
            judged = _changed(judged, lambda column: column[order][asks])  # noqa: B023
            state.append((*candidates, *judged.query, *judged[1:]))
        return state

    def load(self, state: Sequence[Any]) -> None:
        """Restores what `state` returned."""
        self._kept = deque(
            (Candidates(*entry[:4]), Qrels(QueryKeys(*entry[4:7]), *entry[7:])) for entry in state
        )


def _changed(judged: Qrels, change: Callable[[Tensor], Tensor]) -> Qrels:
    """Returns judgments with `change` applied to every column."""
    return Qrels(QueryKeys(*map(change, judged.query)), *map(change, judged[1:]))
