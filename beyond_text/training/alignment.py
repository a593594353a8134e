"""Fits the image projection in closed form, so that a run starts with pictures beside their texts.

A projection between other widths would else start random, and an untrained picture would be noise
on the text. No judgment is used: only a product's own text and picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from beyond_text.config.settings import Config
from beyond_text.models.digests import digest_of
from beyond_text.retrieval.encode import Encoder, collate_for, device_of, evaluating, to_device
from beyond_text.shards.archive import SampleError
from beyond_text.shards.batch import EMPTY_SAMPLE, Sample
from beyond_text.shards.dataset import PictureVectors, read_product
from beyond_text.shards.split import Split
from beyond_text.terminal import say

BATCH = 128
# Fewer pairs say nothing about a space of hundreds of dimensions.
FEWEST = 32
# The pairs of every fifth text are left out of a first fit, and tell how much of a text its picture
# predicts. Variants of a design share their text, and must not stand on both sides.
HELD_OUT = 5
# A product that has only a picture must not have a zero vector.
SMALLEST_WEIGHT = 0.1


def align_pictures(
    encoder: Encoder,
    splits: Sequence[Split],
    config: Config,
    cached: Sequence[PictureVectors] = (),
) -> None:
    """Gives a new model's image projection the map that fits its pictures to their texts.

    In the fused vector a picture counts as much as the share of the texts' variance that the map
    explains, where a text counts 1. A projection between equal widths stays the identity: such
    encoders were trained together. `cached` are the vectors of each split's pictures, where a
    frozen tower has made them.
    """
    model = encoder.model
    projection = model.image_projection
    if config.align_pairs == 0 or projection.in_features == projection.out_features:
        return
    fit = _fit(encoder, splits, config, cached)
    if fit is None:
        line = f"not fitted: fewer than {FEWEST} products have both text and picture"
    else:
        with torch.no_grad():
            projection.weight.copy_(fit.weight)
            # What a picture does not say of its text is noise on the text.
            model.image_log_weight.fill_(math.log(max(fit.explained, SMALLEST_WEIGHT)))
        line = (
            f"fitted to {fit.pairs:,} pairs of text and picture; explains {fit.explained:.0%} of "
            "the texts' variance among those left out of the fit"
        )
    if encoder.share.is_first:
        say(f"image projection: {line}")


class Fit(NamedTuple):
    """A map from picture features to text vectors, and the share of variance it explains."""

    weight: Float[Tensor, "dim features"]
    explained: float
    pairs: int


# Of this process, by all that decides one: most rows of an ablation begin alike.
_FITS: dict[str, Fit] = {}


def _fit(
    encoder: Encoder, splits: Sequence[Split], config: Config, cached: Sequence[PictureVectors]
) -> Fit | None:
    """Returns the fit that a run begins with: an earlier run's where that began alike.

    Several processes of a run fit anew, for not all of them may have done the earlier run.
    """
    work = partial(fit_image_projection, encoder, splits, config.align_pairs, config.seed, cached)
    if encoder.share.world > 1:
        return work()
    model = encoder.model
    # What neither texts' nor pictures' vectors depend on may differ.
    others: dict[str, Any] = {"fusion": "", "fusion_rank": 0, "loss": "", "matryoshka": []}
    settings = replace(model.settings, **others, temperature=0.0, temperature_min=0.0)
    # A fusion of tokens takes other features of a picture.
    kind = model.fusion.tokens
    weights = [tower.digest() for tower in (model.text_tower, model.image_tower)]
    read = [(split.checksums, split.text_fields) for split in splits]
    # What is kept is rounded to float16.
    rounded = bool(cached), model.text_tower.cached is not None
    chosen = FEWEST, config.align_pairs, config.seed, encoder.bf16, rounded
    key = repr(
        (chosen, settings, kind, weights, digest_of(model.text_projection.state_dict()), read)
    )
    if (fit := _FITS.get(key) or work()) is not None:
        _FITS[key] = fit
    return fit


@torch.inference_mode()
def fit_image_projection(
    encoder: Encoder,
    splits: Sequence[Split],
    most: int,
    seed: int,
    cached: Sequence[PictureVectors] = (),
) -> Fit | None:
    """Fits the map from picture features to the unit vectors of the products' texts, by ridge.

    At most `most` products are drawn, by `seed`. Returns None where fewer than 32 of them have
    both.
    """
    products = _Products(splits, most, encoder.model.settings.image_size, seed, cached)
    features, texts = _pairs(encoder, products, len(products))
    if len(texts) < FEWEST:
        return None
    return Fit(ridge(features, texts), explained(features, texts), len(texts))


def ridge(
    features: Float[Tensor, "pairs features"], targets: Float[Tensor, "pairs dim"]
) -> Float[Tensor, "dim features"]:
    """Returns the map of ridge regression, without its constant.

    With features z standardised and targets y centred, W = argmin mean |y - W z|^2 + |W|^2 (Hoerl
    and Kennard 1970): the penalty is one standardised feature's variance. The map takes the
    features as they are. It is scaled to the norm of an orthogonal one, for only directions of its
    outputs count, and learning rates are set for that norm.
    """
    x, y = features.double(), targets.double()
    scale = x.std(dim=0, correction=0)
    # A feature that never varies gets no weight.
    scale = torch.where(scale > 1e-9 * scale.max(), scale, float("inf"))
    z = (x - x.mean(dim=0)) / scale
    covariance = z.T @ z / len(z) + torch.eye(z.shape[1], dtype=z.dtype)
    weight = torch.linalg.solve(covariance, z.T @ (y - y.mean(dim=0)) / len(z)).T / scale
    return (weight * min(weight.shape) ** 0.5 / weight.norm().clamp(min=1e-12)).float()


def explained(
    features: Float[Tensor, "pairs features"], texts: Float[Tensor, "pairs dim"]
) -> float:
    """Returns the share of the held-out texts' variance that the fit of the others explains.

    That is the squared correlation of the predicted and the true vectors, both less the mean of the
    others: the scale of a prediction does not count.
    """
    # Equal texts have nearly equal vectors, whatever the batch they were encoded in.
    _, text = torch.unique((texts * 1e3).round(), dim=0, return_inverse=True)
    held_out = text % HELD_OUT == 0
    if held_out.all():
        # All products have one text: nothing can be told.
        return 0.0
    weight = ridge(features[~held_out], texts[~held_out])
    predicted = (features[held_out] - features[~held_out].mean(dim=0)) @ weight.T
    target = texts[held_out] - texts[~held_out].mean(dim=0)
    covariance = (predicted * target).sum()
    norms = predicted.square().sum() * target.square().sum()
    return float(covariance.clamp(min=0).square() / norms.clamp(min=1e-12))


def _pairs(encoder: Encoder, products: Dataset[Sample], number: int) -> tuple[Tensor, Tensor]:
    """Returns the picture features and the text vectors of the products that have both.

    Several processes take turns by batches; all get the rows of all, in the products' order.
    """
    share = encoder.share
    batches = [range(s, min(s + BATCH, number)) for s in range(0, number, BATCH)]
    own = share.of(batches)
    features, texts, position = share.together(lambda: _own_pairs(encoder, products, own))
    rows = [torch.cat(share.gather(part, everywhere=True)) for part in (features, texts, position)]
    order = torch.argsort(rows[2])
    return rows[0][order], rows[1][order]


def _own_pairs(
    encoder: Encoder, products: Dataset[Sample], batches: Sequence[range]
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns picture features, text vectors and numbers of the products of some batches."""
    model = encoder.model
    device = device_of(model)
    loader: DataLoader[Sample] = DataLoader(
        products,
        batch_sampler=list(map(list, batches)),
        num_workers=min(encoder.workers, sum(len(batch) == BATCH for batch in batches)),
        collate_fn=collate_for(model, encoder.tokenizer),
    )
    features = [torch.zeros(0, model.image_projection.in_features)]
    texts = [torch.zeros(0, model.settings.dim)]
    numbers = [torch.zeros(0, dtype=torch.long)]
    quiet = None if encoder.share.is_first else True
    shown = tqdm(loader, desc="fitting the image projection", leave=False, disable=quiet)
    for batch, position in zip(shown, batches, strict=True):
        both = (batch.text_row >= 0) & (batch.image_row >= 0)
        if not both.any():
            continue
        numbers.append(torch.tensor(position)[both])
        batch = to_device(device, batch)
        with evaluating(model), torch.autocast(device.type, torch.bfloat16, enabled=encoder.bf16):
            vectors = model.encode_text(batch.text)[batch.text_row[both.to(device)]]
            pictures = model.image_features(batch.image)[batch.image_row[both.to(device)]]
        texts.append(vectors.float().cpu())
        features.append(pictures.float().cpu())
    return torch.cat(features), torch.cat(texts), torch.cat(numbers)


class _Products(Dataset[Sample]):
    """Reads products of several splits, drawn from all alike, by seed.

    One that cannot be read is empty here: training meets and counts it.
    """

    def __init__(
        self,
        splits: Sequence[Split],
        most: int,
        picture_size: int,
        seed: int,
        cached: Sequence[PictureVectors],
    ) -> None:
        self.splits = splits
        self.cached: Sequence[PictureVectors | None] = cached or [None] * len(splits)
        self.picture_size = picture_size
        numbers = [range(len(split)) for split in splits]
        every = [(which, number) for which, part in enumerate(numbers) for number in part]
        drawn = np.random.default_rng(seed).permutation(len(every))[:most]
        self.numbers = [every[position] for position in sorted(drawn)]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, position: int) -> Sample:
        """Returns the product at a position."""
        which, number = self.numbers[position]
        split = self.splits[which]
        try:
            fields, picture = read_product(split, number, self.picture_size, 0, self.cached[which])
        except SampleError:
            return EMPTY_SAMPLE
        return Sample(f"{which}/{fields['product_id']}", split.text_of(fields), picture, [], None)
