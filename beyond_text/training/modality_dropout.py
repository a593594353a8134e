"""Modality dropout: hides the text or the picture of a share of the products and queries.

Only rows that have both can lose one of them. The draws come from PyTorch's global generator, which
`ContrastiveModule` seeds at every step.
"""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from beyond_text.shards.batch import Batch


def drop_modalities(batch: Batch, share: float, queries_per_product: int) -> Batch:
    """Returns the batch with one modality hidden in a share of its products, and of its queries.

    What a step draws otherwise does not depend on the queries' pictures where there are none.
    """
    text_row, image_row = _drop_one_of_both(
        batch.text_row, batch.image_row, share, queries_per_product
    )
    batch = batch._replace(text_row=text_row, image_row=image_row)
    if not (batch.query_image_row >= 0).any():
        return batch
    query_row, query_image_row = _drop_one_of_both(batch.query_row, batch.query_image_row, share)
    return batch._replace(query_row=query_row, query_image_row=query_image_row)


def _drop_one_of_both(
    text_row: Int[Tensor, " rows"],
    image_row: Int[Tensor, " rows"],
    share: float,
    queries_per_product: int = 1,
) -> tuple[Int[Tensor, " rows"], Int[Tensor, " rows"]]:
    """Sets text or picture, with equal chance, to -1 in a share of the rows that have both.

    The `queries_per_product` adjacent rows of one product lose the same modality.
    """
    draw = torch.rand(
        len(text_row) // queries_per_product, device=text_row.device
    ).repeat_interleave(queries_per_product)
    draw[(text_row < 0) | (image_row < 0)] = 1.0
    missing = text_row.new_tensor(-1)
    return (
        torch.where(draw < share / 2, missing, text_row),
        torch.where((share / 2 <= draw) & (draw < share), missing, image_row),
    )
