"""Lets the text look at the picture's patches: a picture often shows more than the product."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from beyond_text.models.bilinear import BilinearFusion
from beyond_text.models.fusing import Flags, Patches, Real, Vectors, share_of


class AttendedFusion(BilinearFusion):
    """Computes y' = y + W_a sum_j a_j t_j, and then what `bilinear` does of x and y'.

    a = softmax over j of w . (tanh(P x) o tanh(Q t_j)): the text x weighs the picture's patches
    t_j, which are the positions of a convolutional network's feature map, or the patches of a ViT.
    This is the low-rank bilinear attention of BAN (Kim et al. 2018, arXiv 1805.07932), after MLB.
    Ours: one query, the text's vector, where BAN attends between all words and regions; a softmax;
    patches in unit length; and the residual, W_a = 0 at the start, when the block is `bilinear` at
    its start. Without text or without picture y' is y. Two parts of the weights are as wide as a
    patch has numbers (`features`): 2.2M parameters with 1,280, those of the default encoder.

    Logged are `attended_share`, the mean length of y' - y over that of y, and `attention_entropy`,
    which is 1 where all patches have the same weight, and 0 where one has all.
    """

    patches: ClassVar[bool] = True

    def __init__(self, dim: int, rank: int, features: int = 0) -> None:
        super().__init__(dim, rank)
        features = features or dim
        self.text_query = nn.Linear(dim, rank)
        self.image_key = nn.Linear(features, rank)
        # A constant would fall out of the softmax.
        self.score = nn.Linear(rank, 1, bias=False)
        self.image_value = nn.Linear(features, dim, bias=False)
        nn.init.zeros_(self.image_value.weight)

    def look(
        self, x: Vectors, y: Vectors, both: Flags, patches: Patches | None, real: Real | None
    ) -> Vectors:
        """Adds what the text sees of the patches to the picture's vector, where both are there.

        Raises:
            TypeError: the patches are missing.
        """
        if patches is None or real is None:
            raise TypeError("expected the patches of pictures, and which of them are real")
        both = both.unsqueeze(1)
        seen = torch.where(both, self.seen(x, patches.float(), real & both), 0.0)
        if self.training:
            self.logged["attended_share"] = share_of(seen, torch.where(both, y, 0.0))
        return y + seen

    def seen(self, x: Vectors, patches: Patches, real: Real) -> Vectors:
        """Returns W_a times the weighted sum of the patches, zero in rows without any."""
        tokens = torch.where(real.unsqueeze(2), patches * patches.shape[2] ** 0.5, 0.0)
        weights = self.weights(x * self.dim**0.5, tokens, real)
        pooled = (weights.unsqueeze(1) @ tokens).squeeze(1)
        return self.image_value(pooled) / self.dim**0.5

    def weights(self, x: Vectors, tokens: Patches, real: Real) -> Float[Tensor, "rows patches"]:
        """Returns the weight of each patch; those of a row sum to one over its real patches."""
        # w . (p o q) is (w o p) . q, so that the rows' queries are weighed, and not all patches.
        query = torch.tanh(self.text_query(x)) * self.score.weight
        scores = (torch.tanh(self.image_key(tokens)) @ query.unsqueeze(2)).squeeze(2)
        # Over an empty set the softmax is NaN, so a row without a patch weighs padding, which is 0.
        among = real | ~real.any(dim=1, keepdim=True)
        weights = scores.masked_fill(~among, float("-inf")).softmax(dim=1)
        if self.training:
            self._note(weights.detach(), real)
        return weights

    def _note(self, weights: Float[Tensor, "rows patches"], real: Real) -> None:
        """Logs how widely the text looks, over the rows with several patches."""
        number = real.sum(dim=1)
        several = number > 1
        entropy = -torch.xlogy(weights, weights).sum(dim=1)
        share = torch.where(several, entropy / number.clamp(min=2).log(), 0.0)
        self.logged["attention_entropy"] = share.sum() / several.sum().clamp(min=1)
