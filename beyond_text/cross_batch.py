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

from beyond_text.batch import Batch, Embeddings, Judged
from beyond_text.config import PRODUCT, View


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


def joined(parts: Sequence[Candidates]) -> Candidates:
    """All rows of the parts, with the views that the last of them has."""
    views = parts[-1].vectors
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

    def add(self, batch: Batch, embeddings: Embeddings, products: int) -> None:
        """Remembers the batch's products, whose equally many rows stand together, once each.

        The oldest batches make room; a batch larger than all of it is not remembered.
        """
        if products > self.size:
            return
        turns = len(batch.product_key) // products
        views = [view for view in PRODUCT if view in embeddings.vectors]
        rows = Candidates(
            {view: embeddings.vectors[view].detach() for view in views},
            {view: embeddings.present[view] for view in views},
            batch.product_key,
            batch.text_key,
        )
        first = batch.judged.row % turns == 0
        judged = Judged(
            batch.judged.query_key[first],
            batch.judged.row[first] // turns,
            batch.judged.gain[first],
        )
        self._kept.append((rows.map(lambda rows: rows[::turns].clone()), judged))
        while self.rows > self.size:
            self._kept.popleft()

    def state(self) -> list[Any]:
        """What goes into a checkpoint: tensors in plain lists and dictionaries."""
        return [(*candidates, *judged) for candidates, judged in self._kept]

    def load(self, state: Sequence[Any], device: torch.device) -> None:
        """As `state` gave it."""
        self._kept.clear()
        for entry in state:
            *candidates, query_key, row, gain = entry
            judged = (column.to(device) for column in (query_key, row, gain))
            there = Candidates(*candidates).map(lambda rows: rows.to(device))
            self._kept.append((there, Judged(*judged)))
