"""Cross-batch memory (Wang et al. 2020, arXiv 1912.06798): more negatives for next to no time.

Products of the last batches stay candidates, as they were encoded then and without gradient. Who is
relevant to whom is known by id, as within a batch, so a remembered product may also be a positive.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from beyond_text.config.views import PRODUCT, View
from beyond_text.shards.batch import Batch, Embeddings, Judged


class Candidates(NamedTuple):
    """Products that anchors are contrasted with: vectors of their views, and 64-bit keys."""

    vectors: Mapping[View, Float[Tensor, "rows dim"]]
    present: Mapping[View, Bool[Tensor, " rows"]]
    product_key: Int[Tensor, " rows"]
    text_key: Int[Tensor, " rows"]

    def map(self, change: Callable[[Tensor], Tensor]) -> Candidates:
        """The same with every tensor changed."""
        return Candidates(
            {view: change(vectors) for view, vectors in self.vectors.items()},
            {view: change(present) for view, present in self.present.items()},
            change(self.product_key),
            change(self.text_key),
        )


def candidates_of(
    vectors: Mapping[View, Tensor],
    present: Mapping[View, Tensor],
    product_key: Tensor,
    text_key: Tensor,
    turns: int,
) -> Candidates:
    """A batch's products, each once: of its `turns` rows, side by side, the first."""
    views = [view for view in PRODUCT if view in vectors]
    rows = Candidates(
        {view: vectors[view] for view in views},
        {view: present[view] for view in views},
        product_key,
        text_key,
    )
    return rows.map(lambda rows: rows[::turns])


def once(judged: Judged, turns: int) -> Judged:
    """What is judged of `candidates_of`: each product's judgements, its first row's, once."""
    first = judged.row % turns == 0
    return Judged(judged.query_key[first], judged.row[first] // turns, judged.gain[first])


def joined(parts: Sequence[Candidates]) -> Candidates:
    """All rows of the parts, which have the same views."""
    views = parts[0].vectors
    return Candidates(
        {view: torch.cat([part.vectors[view] for part in parts]) for view in views},
        {view: torch.cat([part.present[view] for part in parts]) for view in views},
        torch.cat([part.product_key for part in parts]),
        torch.cat([part.text_key for part in parts]),
    )


class CrossBatchMemory:
    """The products of the last batches, `size` at most, with what is judged of them."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._kept: deque[tuple[Candidates, Judged]] = deque()

    def __iter__(self) -> Iterator[tuple[Candidates, Judged]]:
        return iter(self._kept)

    @property
    def rows(self) -> int:
        """How many products are remembered."""
        return sum(len(candidates.product_key) for candidates, _ in self._kept)

    def add(self, batch: Batch, embeddings: Embeddings, turns: int) -> None:
        """Remembers the batch's products, of whose `turns` rows each the first stands for all.

        The oldest batches make room; a batch larger than all of it is not remembered.
        """
        if len(batch.product_key) // turns > self.size:
            return
        products = candidates_of(*embeddings, batch.product_key, batch.text_key, turns)
        kept = products.map(lambda rows: rows.detach().clone())
        self._kept.append((kept, once(batch.judged, turns)))
        while self.rows > self.size:
            self._kept.popleft()

    def all(self) -> tuple[Candidates, Judged]:
        """All that is remembered, the oldest first; something must be."""
        parts, judged = zip(*self._kept, strict=True)
        sizes = [len(part.product_key) for part in parts]
        rows = [one.row + sum(sizes[:number]) for number, one in enumerate(judged)]
        return joined(parts), Judged(
            torch.cat([one.query_key for one in judged]),
            torch.cat(rows),
            torch.cat([one.gain for one in judged]),
        )

    def to(self, device: torch.device) -> None:
        """Moves all that is remembered."""
        self._kept = deque(
            (candidates.map(lambda rows: rows.to(device)), Judged(*(c.to(device) for c in judged)))
            for candidates, judged in self._kept
        )

    def state(self) -> list[Any]:
        """What goes into a checkpoint: tensors in plain lists and dictionaries."""
        return [(*candidates, *judged) for candidates, judged in self._kept]

    def load(self, state: Sequence[Any]) -> None:
        """As `state` gave it."""
        self._kept = deque((Candidates(*entry[:4]), Judged(*entry[4:])) for entry in state)
