"""Follows a teacher: its scores of a batch's products for each query are soft targets.

Hinton et al. 2015 (arXiv 1503.02531). The teacher is a finished run of any width, backbone and
fusion that reads the student's tokens; it sees the same texts and pictures, cropped alike.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from beyond_text.config.settings import ConfigError
from beyond_text.models.temperature import Temperature
from beyond_text.models.tokenizer import reads_alike
from beyond_text.models.two_tower import TwoTower
from beyond_text.shards.batch import Batch
from beyond_text.terminal import say
from beyond_text.training.blocks import Direction, Sums, Term, sums_over_blocks
from beyond_text.training.losses import MASKED


class Lesson(NamedTuple):
    """A teacher's unit vectors of this process's queries, and of its products or those of all.

    A student follows a lesson with the products of all processes. The teacher's cosines, and the
    student's, are divided by `temperature`.
    """

    queries: Float[Tensor, "queries dim"]
    products: Float[Tensor, "products dim"]
    temperature: float


class Teacher:
    """A frozen model; `temperature` None is what it learned for queries and fused products."""

    def __init__(self, model: TwoTower, temperature: float | None = None) -> None:
        self.model = model.eval().requires_grad_(False)
        own = model.temperatures["query_product"]
        assert isinstance(own, Temperature)
        self.temperature = float(own.value) if temperature is None else temperature

    def __deepcopy__(self, _: Any) -> Teacher:
        """Returns itself: an averaged copy of the student has the same teacher."""
        return self

    def to(self, device: torch.device) -> None:
        """Moves the model to a device."""
        self.model.to(device)

    @torch.no_grad()
    def lesson(self, batch: Batch, queries_per_product: int) -> Lesson:
        """Encodes the student's batch, which is that of this process."""
        size = self.model.settings.image_size
        if len(batch.image) and batch.image.shape[-1] != size:
            batch = batch._replace(image=_resized(batch.image, size))
        vectors = self.model.embed(batch, ("query", "product")).vectors
        products = vectors["product"][::queries_per_product].float()
        queries = vectors["query"].float()
        return Lesson(queries, products, self.temperature)


def follow(direction: Direction, lesson: Lesson) -> list[Term]:
    """Returns the mean over queries of KL(teacher || student), in nats.

    With p and q the softmax of the teacher's and of the student's cosines / temperature, over the
    products that take part, a query's loss is sum_j p_j (log p_j - log q_j). Its gradient by the
    student's cosines is (q - p) / temperature, 0 where both agree. Queries and products whose view
    is missing, and a query's own product, take no part.
    """

    def sums(rows: slice, anchors: Tensor, has_anchor: Tensor, taught: Tensor) -> Sums:
        similarity, _, contrasted = direction.matrices(rows, anchors, has_anchor)
        with torch.autocast(taught.device.type, enabled=False):
            wanted = taught @ lesson.products.T
        target, found = (
            (cosine / lesson.temperature).masked_fill(~contrasted, MASKED).log_softmax(dim=1)
            for cosine in (wanted, similarity)
        )
        divergence = (target.exp() * (target - found) * contrasted).sum(dim=1)
        return divergence.sum(), contrasted.any(dim=1).float().sum()

    rows = direction.anchors, direction.has_anchor, lesson.queries
    over_blocks = partial(sums_over_blocks, sums, direction.columns, *rows)
    return [Term(1.0, direction.candidates, over_blocks)]


def check_reads_batches(
    name: str, teacher: tuple[TwoTower, Any], student: tuple[TwoTower, Any]
) -> None:
    """Refuses a teacher that cannot read the student's tokens; pictures are resized for it.

    Raises:
        ConfigError: tokenizers, prefixes or lengths of texts differ.
    """
    (theirs, their_tokenizer), (ours, our_tokenizer) = teacher, student
    if not reads_alike(their_tokenizer, our_tokenizer):
        raise ConfigError(
            f"teacher={name}: its tokenizer is not the student's; a batch holds tokens of one"
        )
    for prefix in ("query_prefix", "text_prefix"):
        one, other = getattr(theirs.settings, prefix), getattr(ours.settings, prefix)
        if one != other:
            raise ConfigError(f"teacher={name}: its {prefix} is {one!r}, the student's {other!r}")
    longest, length = theirs.settings.max_length, ours.settings.max_length
    padded = theirs.text_tower.fixed_length or ours.text_tower.fixed_length
    if longest < length or (padded and longest != length):
        expected = f"exactly {longest}" if padded else f"at most {longest}"
        raise ConfigError(
            f"text_encoder.max_length: the teacher {name} takes {expected}, got {length}"
        )
    if list(theirs.settings.text_fields) != list(ours.settings.text_fields):
        learned, read = ("+".join(each.settings.text_fields) for each in (theirs, ours))
        say(f"teacher={name} learned from texts of {learned}, and reads the student's, of {read}")


def _resized(pictures: Tensor, size: int) -> Tensor:
    """Returns square uint8 pictures of another size, by linear interpolation without aliasing."""
    scaled = F.interpolate(
        pictures.float(), (size, size), mode="bilinear", antialias=True, align_corners=False
    )
    return scaled.round().clamp(0, 255).to(torch.uint8)
