"""The closed-form start of the image projection: the formula, and what a run begins with."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from beyond_text.config.load import load_config
from beyond_text.config.settings import Config
from beyond_text.retrieval.catalogue import Catalogue, ShardProducts
from beyond_text.retrieval.encode import Encoder, encode_products
from beyond_text.shards.split import Split
from beyond_text.training import alignment
from beyond_text.training.alignment import align_pictures, explained, fit_image_projection, ridge
from beyond_text.training.build import build


def test_the_fit_is_the_ridge_regression_of_standardised_features() -> None:
    """Compares with least squares on rows that stand for the penalty."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(50, 7, generator=random) * torch.arange(1.0, 8.0) + 3
    y = torch.randn(50, 4, generator=random)
    z = ((x - x.mean(0)) / x.std(0, correction=0)).double().numpy()
    penalty = np.sqrt(50) * np.eye(7)
    target = np.vstack([(y - y.mean(0)).double().numpy(), np.zeros((7, 4))])
    expected = np.linalg.lstsq(np.vstack([z, penalty]), target, rcond=None)[0].T
    expected = expected / x.std(0, correction=0).double().numpy()
    found = ridge(x, y).double().numpy()
    np.testing.assert_allclose(
        found / np.linalg.norm(found), expected / np.linalg.norm(expected), atol=1e-6
    )
    # It has the norm of an orthogonal map.
    assert np.linalg.norm(found) == pytest.approx(2.0)


def test_a_feature_that_never_varies_has_no_weight() -> None:
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    x[:, 1] = 5.0
    found = ridge(x, x[:, :2].clone())
    assert torch.isfinite(found).all()
    assert found[:, 1].tolist() == [0.0, 0.0]


def begin(settings: list[str], *overrides: str) -> tuple[Encoder, list[Split], Config]:
    config = load_config([], [*settings, *overrides])
    model, tokenizer = build(config)
    split = Split(config.data.sources["tables"].path, "train", config.data.text_fields)
    return Encoder(model, tokenizer), [split], config


def test_a_run_begins_with_the_fit_and_pictures_weigh_what_they_explain(
    tiny_settings: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("beyond_text.training.alignment.FEWEST", 8)
    encoder, splits, config = begin(tiny_settings, "losses.text_image=1")
    before = encoder.model.image_projection.weight.detach().clone()
    fit = fit_image_projection(encoder, splits, 8192, 0)
    assert fit is not None
    align_pictures(encoder, splits, config)
    projection = encoder.model.image_projection.weight
    assert projection.equal(fit.weight)
    assert not projection.equal(before)
    weight = encoder.model.image_log_weight.exp().item()
    assert weight == pytest.approx(max(fit.explained, 0.1))
    assert f"fitted to {fit.pairs} pairs of text and picture" in " ".join(
        capsys.readouterr().err.split()
    )


def test_a_run_that_begins_like_an_earlier_one_of_the_process_takes_its_fit(
    tiny_settings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alignment, "FEWEST", 8)
    monkeypatch.setattr(alignment, "_FITS", {})
    fitted: list[int] = []

    def counting(*given: Any) -> alignment.Fit:
        fitted.append(len(given))
        fit = fit_image_projection(*given)
        assert fit is not None
        return fit

    monkeypatch.setattr(alignment, "fit_image_projection", counting)

    def aligned(*overrides: str, shift: float = 0.0) -> torch.Tensor:
        encoder, splits, config = begin(tiny_settings, "losses.text_image=1", *overrides)
        next(encoder.model.image_tower.parameters()).data.add_(shift)
        align_pictures(encoder, splits, config)
        return encoder.model.image_projection.weight.detach()

    first = aligned()
    assert aligned("fusion=gated", "loss=sigmoid", "temperature=0.2").equal(first)
    assert len(fitted) == 1
    for overrides in (["seed=1"], ["align_pairs=23"], ["data.text_fields=[title,category]"]):
        before = len(fitted)
        aligned(*overrides)
        assert len(fitted) == before + 1, overrides
    assert not aligned(shift=0.1).equal(first)
    assert len(fitted) == 5
    assert aligned().equal(first)
    assert len(fitted) == 5
    # A fusion of tokens takes other features of the picture, and no fit of theirs.
    assert not aligned("fusion=uniecs").equal(first)
    assert len(fitted) == 6


def test_nothing_is_fitted_where_it_is_not_wanted_or_pairs_are_few(
    tiny_settings: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for overrides, said in (
        (["align_pairs=0"], ""),
        (["align_pairs=20"], "fewer than 32 products have both text and picture"),
    ):
        encoder, splits, config = begin(tiny_settings, "losses.text_image=1", *overrides)
        before = encoder.model.image_projection.weight.detach().clone()
        align_pictures(encoder, splits, config)
        assert encoder.model.image_projection.weight.equal(before)
        assert encoder.model.image_log_weight.item() == 0.0
        assert said in " ".join(capsys.readouterr().err.split())


def test_a_picture_weighs_less_in_the_fused_vector_but_not_where_it_stands_alone(
    tiny_settings: list[str],
) -> None:
    encoder, splits, _ = begin(tiny_settings, "losses.text_image=1", "fusion=sum")
    ids = [str(number) for number in range(len(splits[0]))]
    places = [(0, number) for number in range(len(ids))]
    catalogue = Catalogue(ShardProducts(splits, places, 32), ids)
    encoder.model.image_log_weight.data.fill_(math.log(0.3))
    found = encode_products(encoder, catalogue, ("text", "image", "product"))
    vectors = {view: dict(zip(*part, strict=True)) for view, part in found.items()}
    for product_id, fused in vectors["product"].items():
        text = vectors["text"].get(product_id, 0.0)
        image = vectors["image"].get(product_id, 0.0)
        expected = text + 0.3 * image
        np.testing.assert_allclose(fused, expected / np.linalg.norm(expected), atol=1e-5)


def test_variants_of_one_text_never_stand_on_both_sides_of_what_a_fit_explains() -> None:
    """Pictures that only tell designs apart explain nothing of the texts of other designs."""
    random = torch.Generator().manual_seed(0)
    design = torch.arange(400) // 4
    features = torch.nn.functional.one_hot(design, 100).float()
    features = features + 0.01 * torch.randn(400, 100, generator=random)
    texts = torch.nn.functional.normalize(torch.randn(100, 16, generator=random), dim=1)
    assert explained(features, texts[design]) < 0.02
    assert explained(features, texts[:1].expand(400, 16)) == 0.0
    # Pictures that show what a text says explain all of it.
    shown = torch.randn(100, 16, generator=random)
    assert explained(shown[design], (shown @ torch.randn(16, 16, generator=random))[design]) > 0.9
