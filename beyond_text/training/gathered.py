"""A step's batch over all processes: vectors, keys and judgments, each sent once.

The batch of a step is that of all processes together; each has every `world`-th product of it, with
all rows of the product. What is gathered stands in order of rank, and `in_batch_order` puts the
products back into the order of the batch, which is the same for any number of processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from beyond_text.config.views import OBJECTIVE_VIEWS, PRODUCT, QUERY, View
from beyond_text.shards.batch import Batch, Embeddings, Qrels, QueryKeys, counts_of
from beyond_text.training.everyone import Everyone, Pool, Pools
from beyond_text.training.processes import Processes
from beyond_text.training.relevance import Keys


class Gathered(NamedTuple):
    """The rows of this process and those of all; a query has a row, and a product has one.

    `judged` numbers the products of all processes; those of this one begin with number `first`.
    Columns may hold judgments without a query (all keys 0), which mean nothing. `losses` are those
    that the batch's source feeds. `seen`, `skipped` and `anchors` count over all processes.
    `taught` are a teacher's vectors of the products of all processes.
    """

    own: Embeddings
    everyone: Pools
    own_keys: Keys
    keys: Keys
    judged: Qrels
    first: int
    losses: tuple[str, ...]
    seen: int
    skipped: int
    anchors: int
    taught: Tensor | None = None

    @property
    def copies(self) -> int:
        """The number of queries of each product."""
        return len(self.keys.query.query) // len(self.keys.product)

    @property
    def world(self) -> int:
        """The number of processes."""
        return len(self.keys.product) // len(self.own_keys.product)

    def in_batch_order(self, products: Tensor) -> Tensor:
        """Returns products, which stand in order of rank, in the order of the batch."""
        return products.unflatten(0, (self.world, -1)).transpose(0, 1).flatten(0, 1)

    def place_in_batch(self, number: Tensor) -> Tensor:
        """Returns the places of products, given by number, in the order of the batch."""
        own = len(self.own_keys.product)
        return number % own * self.world + number // own


def gather(
    batch: Batch,
    embeddings: Embeddings,
    queries_per_product: int,
    processes: Processes,
    all_judgments: bool,
    taught: Tensor | None = None,
) -> Gathered:
    """Gathers what the losses need, in five messages, and waits for the device once.

    With `all_judgments`, judgments of queries outside this batch are gathered as well. `taught` are
    a teacher's vectors of this process's products.
    """
    own = _once(embeddings, queries_per_product)
    first_rows = slice(None, None, queries_per_product)
    own_keys = Keys(batch.query_keys, batch.product_key[first_rows], batch.text_key[first_rows])
    keys, present, losses = own_keys, own.present, batch.losses
    qrels = batch.qrels
    judged = qrels._replace(product=qrels.product // queries_per_product)
    seen, skipped, anchors = (batch.counts or counts_of(batch))[:3]
    if processes.world > 1:
        bits = sum(1 << i for i, name in enumerate(OBJECTIVE_VIEWS) if name in losses)
        keys, present, tallies = _gather_columns(
            own_keys, present, [seen, skipped, anchors, bits], processes
        )
        judged, (seen, skipped, anchors, bits) = _gather_judged(
            judged, keys, tallies, processes, all_judgments
        )
        losses = tuple(name for i, name in enumerate(OBJECTIVE_VIEWS) if bits >> i & 1)
    pools = pools_of(own.vectors, processes, taught)
    return Gathered(
        own=own,
        everyone=Pools(pools, present),
        own_keys=own_keys,
        keys=keys,
        judged=judged,
        first=processes.rank * len(own_keys.product),
        losses=losses,
        seen=seen,
        skipped=skipped,
        anchors=anchors,
        taught=None if taught is None else pools["product"].everyone.guests[0],
    )


def _once(embeddings: Embeddings, queries_per_product: int) -> Embeddings:
    """Returns the vectors with a row for each product, not for each of its queries.

    Sorted by view: the order of a set differs between processes.
    """
    step = {view: queries_per_product if view in PRODUCT else 1 for view in embeddings.vectors}
    return Embeddings(
        *({view: part[view][:: step[view]] for view in sorted(step)} for part in embeddings)
    )


def _gather_columns(
    own: Keys, present: dict[View, Tensor], counts: Sequence[int], processes: Processes
) -> tuple[Keys, dict[View, Tensor], Tensor]:
    """Gathers keys, which views there are, and each process's counts [processes, counts]."""
    flags = [present[view].long() for view in present]
    columns = [*own.query, own.product, own.text, *flags]
    numbers = torch.tensor(counts, device=own.product.device)
    packed = torch.cat([*columns, numbers])[None]
    sizes = [*map(len, columns), len(counts)]
    *parts, tallies = processes.gather(packed).split(sizes, dim=1)
    gathered = [part.flatten() for part in parts]
    views = {view: part > 0 for view, part in zip(present, gathered[5:], strict=True)}
    return Keys(QueryKeys(*gathered[:3]), gathered[3], gathered[4]), views, tallies


def _gather_judged(
    own: Qrels, keys: Keys, tallies: Tensor, processes: Processes, everything: bool
) -> tuple[Qrels, list[int]]:
    """Gathers judgments of the queries of all processes, or all judgments; and reads the counts.

    Returns:
        The judgments, and the processes' counts: all but the last added up, and the last's largest.
    """
    asked = torch.zeros_like(own.gain, dtype=torch.bool)
    for judged, key in zip(own.query, keys.query, strict=True):
        asked |= (judged != 0) if everything else _is_in(judged, key) & (judged != 0)
    totals = torch.cat([asked.sum()[None], tallies[:, :-1].sum(dim=0), tallies[:, -1].amax()[None]])
    # Each process has its own number of judgments, and the largest is the length of all parts.
    length, *counts = processes.largest(totals).tolist()
    first = (~asked).byte().argsort(stable=True)[:length]
    product = own.product + processes.rank * (len(keys.product) // processes.world)
    cells = torch.stack([product.int(), own.gain.view(torch.int32)], dim=1)
    columns = torch.stack([*own.query, cells.view(torch.int64)[:, 0]], dim=1)
    columns = columns[first] * asked[first, None]
    padding = columns.new_zeros(length - len(columns), columns.shape[1])
    gathered = processes.gather(torch.cat([columns, padding]))
    *query, cell = gathered.unbind(dim=1)
    number, gain = cell.contiguous().view(torch.int32).view(-1, 2).unbind(dim=1)
    found = Qrels(QueryKeys(*query), number.long(), gain.contiguous().view(torch.float32))
    return found, counts


def _is_in(keys: Tensor, among: Tensor) -> Tensor:
    """Returns which keys are among others, without a result whose length depends on them."""
    ordered = among.sort().values
    place = torch.searchsorted(ordered, keys).clamp(max=len(ordered) - 1)
    return ordered[place] == keys


def pools_of(
    own: dict[View, Tensor], processes: Processes, taught: Tensor | None = None
) -> dict[View, Pool]:
    """Gathers the vectors of queries in one message, and those of products in another.

    What a teacher makes of the products goes with these.
    """
    pools: dict[View, Pool] = {}
    earlier = None
    for side in (QUERY, PRODUCT):
        if views := [view for view in own if view in side]:
            guests = [taught] if taught is not None and side == PRODUCT else []
            earlier = Everyone({view: own[view] for view in views}, processes, earlier, guests)
            pools |= {view: earlier.pool(view) for view in views}
    return pools
