"""Cross-batch memory (Wang et al. 2020, arXiv 1912.06798): more negatives at almost no cost.

Products of the last batches stay candidates, with the vectors they had then and without gradient.
Relevance is known by id, as within a batch, so a remembered product may also be a positive.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from beyond_text.config.views import PRODUCT, View
from beyond_text.shards.batch import Batch, Embeddings, Qrels, QueryKeys


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


def candidates_of(
    vectors: Mapping[View, Tensor],
    present: Mapping[View, Tensor],
    product_key: Tensor,
    text_key: Tensor,
    queries_per_product: int,
) -> Candidates:
    """Returns each product of a batch once: the first of its `queries_per_product` rows."""
    views = [view for view in PRODUCT if view in vectors]
    rows = Candidates(
        {view: vectors[view] for view in views},
        {view: present[view] for view in views},
        product_key,
        text_key,
    )
    return rows.map(lambda rows: rows[::queries_per_product])


def first_slot_qrels(qrels: Qrels, queries_per_product: int) -> Qrels:
    """Returns the judgments of `candidates_of`'s products: those of each product's first row."""
    first = qrels.product % queries_per_product == 0
    return Qrels(
        QueryKeys(*(key[first] for key in qrels.query)),
        qrels.product[first] // queries_per_product,
        qrels.gain[first],
    )


def concatenate(parts: Sequence[Candidates]) -> Candidates:
    """Returns the rows of all parts, which must have the same views."""
    views = parts[0].vectors
    return Candidates(
        {view: torch.cat([part.vectors[view] for part in parts]) for view in views},
        {view: torch.cat([part.present[view] for part in parts]) for view in views},
        torch.cat([part.product_key for part in parts]),
        torch.cat([part.text_key for part in parts]),
    )


class CrossBatchMemory:
    """Keeps the products of the last batches, at most `size` of them, with their judgments."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._kept: deque[tuple[Candidates, Qrels]] = deque()

    def __iter__(self) -> Iterator[tuple[Candidates, Qrels]]:
        return iter(self._kept)

    @property
    def rows(self) -> int:
        """The number of remembered products."""
        return sum(len(candidates.product_key) for candidates, _ in self._kept)

    def add(self, batch: Batch, embeddings: Embeddings, queries_per_product: int) -> None:
        """Remembers the batch's products, each by the first of its `queries_per_product` rows.

        The oldest batches make room. A batch larger than the whole memory is not remembered.
        """
        if len(batch.product_key) // queries_per_product > self.size:
            return
        products = candidates_of(
            *embeddings, batch.product_key, batch.text_key, queries_per_product
        )
        kept = products.map(lambda rows: rows.detach().clone())
        self._kept.append((kept, first_slot_qrels(batch.qrels, queries_per_product)))
        while self.rows > self.size:
            self._kept.popleft()

    def all(self) -> tuple[Candidates, Qrels]:
        """Returns all remembered products (at least one), oldest first, and their judgments."""
        parts, qrels = zip(*self._kept, strict=True)
        sizes = [len(part.product_key) for part in parts]
        products = [one.product + sum(sizes[:number]) for number, one in enumerate(qrels)]
        return concatenate(parts), Qrels(
            QueryKeys(*map(torch.cat, zip(*(one.query for one in qrels), strict=True))),
            torch.cat(products),
            torch.cat([one.gain for one in qrels]),
        )

    def to(self, device: torch.device) -> None:
        """Moves all remembered tensors to a device."""
        self._kept = deque(
            (
                candidates.map(lambda rows: rows.to(device)),
                Qrels(
                    QueryKeys(*(key.to(device) for key in qrels.query)),
                    qrels.product.to(device),
                    qrels.gain.to(device),
                ),
            )
            for candidates, qrels in self._kept
        )

    def state(self) -> list[Any]:
        """Returns what goes into a checkpoint: tensors in plain tuples and dictionaries."""
        return [(*candidates, *qrels.query, *qrels[1:]) for candidates, qrels in self._kept]

    def load(self, state: Sequence[Any]) -> None:
        """Restores what `state` returned."""
        self._kept = deque(
            (Candidates(*entry[:4]), Qrels(QueryKeys(*entry[4:7]), *entry[7:])) for entry in state
        )
