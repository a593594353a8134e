"""Modality dropout: hides the text or the picture of a share of the products and queries.

Only rows that have both can lose one of them. The draws come from PyTorch's global generator, which
`ContrastiveModule` seeds at every step, and are made for the batch of all processes: what a row
loses depends on its place there, whatever the process that holds it.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from beyond_text.shards.batch import Batch


def drop_modalities(
    batch: Batch, share: float, queries_per_product: int, rank: int = 0, world: int = 1
) -> Batch:
    """Returns the batch with one modality hidden in a share of its products, and of its queries.

    The batch holds every `world`-th product of that of all processes, from number `rank` on. What a
    step draws otherwise does not depend on the queries' pictures where there are none.
    """
    products = len(batch.text_row) // queries_per_product
    device = batch.text_row.device
    draw = torch.rand(products * world, device=device)[rank::world]
    text_row, image_row = _drop_one_of_both(
        batch.text_row, batch.image_row, share, draw.repeat_interleave(queries_per_product)
    )
    batch = batch._replace(text_row=text_row, image_row=image_row)
    if len(batch.image) == batch.product_pictures:
        return batch
    draw = torch.rand(products * world, queries_per_product, device=device)[rank::world].flatten()
    query_row, query_image_row = _drop_one_of_both(
        batch.query_row, batch.query_image_row, share, draw
    )
    return batch._replace(query_row=query_row, query_image_row=query_image_row)


def _drop_one_of_both(
    text_row: Int[Tensor, " rows"],
    image_row: Int[Tensor, " rows"],
    share: float,
    draw: Float[Tensor, " rows"],
) -> tuple[Int[Tensor, " rows"], Int[Tensor, " rows"]]:
    """Sets text or picture, with equal chance, to -1 in a share of the rows that have both."""
    has_both = (text_row >= 0) & (image_row >= 0)
    return (
        text_row.masked_fill(has_both & (draw < share / 2), -1),
        image_row.masked_fill(has_both & (share / 2 <= draw) & (draw < share), -1),
    )
