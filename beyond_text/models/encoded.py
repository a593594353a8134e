"""What a batch's inputs were encoded as: each distinct text, picture, and pair of both once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from beyond_text.models.layers import spread_tokens
from beyond_text.shards.batch import rows_of

Numbers = Int[Tensor, " rows"]
# Stands above every number of a pair: of one that lacks its text or its picture.
LACKS = 1 << 62


class Encoded(NamedTuple):
    """What the model reads of the distinct inputs of a view, and which of them each row has.

    `parts` have a row for each input; a row of the batch without the view has the number -1.
    """

    parts: tuple[Tensor, ...]
    row: Numbers

    def vectors(self, row: Numbers) -> Tensor:
        """Returns the first part in the order of `row`, which are numbers of inputs."""
        return rows_of(self.parts[0], row)

    def tokens(self, row: Numbers) -> tuple[Tensor, Tensor]:
        """Returns the last two parts, tokens and their mask, in the order of `row`."""
        tokens, mask = self.parts[-2:]
        return spread_tokens((tokens, mask), row)


class Pairs(NamedTuple):
    """The distinct pairs of a text and a picture, by their numbers, and the pair of each row.

    A product stands in a row for each of its queries; its pair is fused once. Pairs that have both
    come first; `has_both` tells them apart, and lies on the host.
    """

    text: Numbers
    image: Numbers
    of_row: Numbers
    has_both: Bool[Tensor, " pairs"]


def pairs_of(sides: Sequence[tuple[Encoded, Encoded]]) -> list[Pairs]:
    """Returns the pairs of each side's texts and pictures; waits for the device once for all."""
    found = [_sorted_pairs(text.row, image.row, len(image.parts[0])) for text, image in sides]
    # Of none, nothing is read.
    counts = torch.stack([count for *_, count in found]).tolist() if found else []
    pairs = []
    for (code, of_row, _), (_, image), (number, both) in zip(found, sides, counts, strict=True):
        code, pictures = code[:number] % LACKS, len(image.parts[0]) + 1
        # Made of an array: to read it is no wait for a device.
        has_both = torch.from_numpy(np.arange(number) < both)
        pairs.append(Pairs(code // pictures - 1, code % pictures - 1, of_row, has_both))
    return pairs


def _sorted_pairs(text: Numbers, image: Numbers, pictures: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns codes of the pairs, the pair of each row, and how many pairs there are, with both."""
    lacks = (text < 0) | (image < 0)
    code = (text + 1) * (pictures + 1) + image + 1 + lacks * LACKS
    ordered, order = code.sort()
    is_new = torch.ones_like(ordered, dtype=torch.bool)
    is_new[1:] = ordered[1:] != ordered[:-1]
    place = is_new.cumsum(dim=0) - 1
    codes = torch.zeros_like(code).scatter(0, place, ordered)
    counts = torch.stack([is_new.sum(), (is_new & (ordered < LACKS)).sum()])
    return codes, torch.zeros_like(code).scatter(0, order, place), counts
