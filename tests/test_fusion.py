"""Every fusion starts as the sum, keeps to its formula, and does not see what is missing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from beyond_text.fusion import (
    FUSIONS,
    BilinearFusion,
    ConcatFusion,
    Fusion,
    GatedFusion,
    ImageFusion,
    TextFusion,
)

DIM, RANK, ROWS = 6, 5, 8
# Both, text only, image only, in turn.
HAS_TEXT = torch.tensor([True, True, False] * 3)[:ROWS]
HAS_IMAGE = torch.tensor([True, False, True] * 3)[:ROWS]
ALL = torch.ones(ROWS, dtype=torch.bool)
TWO_MODALITIES = ("bilinear", "concat", "gated", "sum")


def unit_vectors(seed: int) -> Tensor:
    return F.normalize(torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(seed)), dim=1)


TEXT, IMAGE = unit_vectors(1), unit_vectors(2)


def made(name: str, moved: bool = True) -> Fusion:
    """A block of the given name; `moved` gives it the random weights of one in mid-training."""
    torch.manual_seed(0)
    fusion = FUSIONS[name](DIM, RANK)
    if moved:
        for parameter in fusion.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    return fusion


@pytest.mark.parametrize("name", FUSIONS)
@pytest.mark.parametrize("moved", [False, True])
def test_every_product_with_a_modality_gets_a_unit_vector(name: str, moved: bool) -> None:
    fused = made(name, moved)(TEXT, IMAGE, HAS_TEXT, HAS_IMAGE)
    assert fused.dtype == torch.float32
    torch.testing.assert_close(fused.norm(dim=1), torch.ones(ROWS))


@pytest.mark.parametrize("name", TWO_MODALITIES)
def test_every_variant_of_two_modalities_starts_as_their_sum(name: str) -> None:
    fused = made(name, moved=False)(TEXT, IMAGE, HAS_TEXT, HAS_IMAGE)
    expected = F.normalize(
        torch.where(HAS_TEXT[:, None], TEXT, 0.0) + torch.where(HAS_IMAGE[:, None], IMAGE, 0.0),
        dim=1,
    )
    if name == "gated":
        # tanh bends large entries, so only the direction agrees, and not to the last digit.
        assert F.cosine_similarity(fused, expected).min() > 0.98
    else:
        torch.testing.assert_close(fused, expected)


@pytest.mark.parametrize("name", TWO_MODALITIES)
def test_trained_variants_leave_the_sum(name: str) -> None:
    summed = F.normalize(TEXT + IMAGE, dim=1)
    agreement = F.cosine_similarity(made(name)(TEXT, IMAGE, ALL, ALL), summed).mean()
    assert agreement > 0.999 if name == "sum" else agreement < 0.9


@pytest.mark.parametrize("name", FUSIONS)
@pytest.mark.parametrize("filler", [1e6, float("nan"), float("inf")])
def test_what_is_passed_for_a_missing_modality_changes_nothing(name: str, filler: float) -> None:
    fusion = made(name)
    expected = fusion(TEXT, IMAGE, HAS_TEXT, HAS_IMAGE)
    text = torch.where(HAS_TEXT[:, None], TEXT, filler).requires_grad_()
    image = torch.where(HAS_IMAGE[:, None], IMAGE, filler).requires_grad_()
    fused = fusion(text, image, HAS_TEXT, HAS_IMAGE)
    torch.testing.assert_close(fused, expected)
    fused[:, 0].sum().backward()
    assert text.grad is not None
    assert image.grad is not None
    assert (text.grad[~HAS_TEXT] == 0).all()
    assert (image.grad[~HAS_IMAGE] == 0).all()
    assert torch.isfinite(text.grad).all()
    assert torch.isfinite(image.grad).all()


@pytest.mark.parametrize("name", FUSIONS)
def test_a_product_fuses_alike_alone_and_in_any_batch(name: str) -> None:
    fusion = made(name)
    together = fusion(TEXT, IMAGE, HAS_TEXT, HAS_IMAGE)
    for row in range(ROWS):
        one = slice(row, row + 1)
        alone = fusion(TEXT[one], IMAGE[one], HAS_TEXT[one], HAS_IMAGE[one])
        torch.testing.assert_close(together[one], alone)


def linear(layer: torch.nn.Module, vector: list[float]) -> list[float]:
    """W v + b by hand."""
    assert isinstance(layer, torch.nn.Linear)
    bias = layer.bias.tolist() if layer.bias is not None else [0.0] * layer.out_features
    return [
        sum(w * v for w, v in zip(row, vector, strict=True)) + b
        for row, b in zip(layer.weight.tolist(), bias, strict=True)
    ]


def tanh(vector: list[float]) -> list[float]:
    return torch.tensor(vector, dtype=torch.float64).tanh().tolist()


def slow_concat(block: ConcatFusion, x: list[float], y: list[float], flags: list[float]) -> Tensor:
    root = DIM**0.5
    hidden = linear(block.hidden, [*(root * v for v in x), *(root * v for v in y), *flags])
    activated = F.gelu(torch.tensor(hidden, dtype=torch.float64)).tolist()
    terms = linear(block.text, x), linear(block.image, y), linear(block.out, activated)
    return torch.tensor([a + b + c / root for a, b, c in zip(*terms, strict=True)])


def slow_gated(block: GatedFusion, x: list[float], y: list[float], flags: list[float]) -> Tensor:
    root = DIM**0.5
    gate = torch.tensor(linear(block.gate, [root * v for v in (*x, *y)])).sigmoid().tolist()
    if flags == [1.0, 0.0]:
        gate = [1.0] * DIM
    if flags == [0.0, 1.0]:
        gate = [0.0] * DIM
    terms = gate, tanh(linear(block.text, x)), tanh(linear(block.image, y))
    return torch.tensor([g * a + (1 - g) * b for g, a, b in zip(*terms, strict=True)])


def slow_bilinear(
    block: BilinearFusion, x: list[float], y: list[float], flags: list[float]
) -> Tensor:
    root = DIM**0.5
    fused = [a + b for a, b in zip(linear(block.text, x), linear(block.image, y), strict=True)]
    if flags == [1.0, 1.0]:
        left = tanh(linear(block.text_factor, [root * v for v in x]))
        right = tanh(linear(block.image_factor, [root * v for v in y]))
        product = linear(block.out, [a * b for a, b in zip(left, right, strict=True)])
        fused = [a + b / root for a, b in zip(fused, product, strict=True)]
    return torch.tensor(fused)


@pytest.mark.parametrize(
    ("name", "slow"),
    [("concat", slow_concat), ("gated", slow_gated), ("bilinear", slow_bilinear)],
)
def test_a_trained_block_equals_its_formula_sample_by_sample(
    name: str, slow: Callable[..., Tensor]
) -> None:
    block = made(name)
    fused = block(TEXT, IMAGE, HAS_TEXT, HAS_IMAGE)
    for row in range(ROWS):
        text, image = bool(HAS_TEXT[row]), bool(HAS_IMAGE[row])
        x = TEXT[row].tolist() if text else [0.0] * DIM
        y = IMAGE[row].tolist() if image else [0.0] * DIM
        expected = slow(block, x, y, [float(text), float(image)]).float()
        torch.testing.assert_close(fused[row], expected / expected.norm())


@pytest.mark.parametrize("name", ["concat", "gated", "bilinear"])
def test_gradients_reach_every_parameter_once_the_zero_layer_has_moved(name: str) -> None:
    fusion = made(name, moved=False)
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    target = unit_vectors(3)
    (fusion(TEXT, IMAGE, ALL, ALL) * target).sum().backward()
    for parameter_name, parameter in fusion.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert (parameter.grad != 0).any(), parameter_name


@pytest.mark.parametrize("name", ["concat", "gated", "bilinear"])
def test_the_first_step_can_move_the_zero_layer(name: str) -> None:
    fusion = made(name, moved=False)
    (fusion(TEXT, IMAGE, ALL, ALL) * unit_vectors(3)).sum().backward()
    zero_layer = fusion.gate if name == "gated" else fusion.out
    assert isinstance(zero_layer, torch.nn.Linear)
    assert zero_layer.weight.grad is not None
    assert (zero_layer.weight.grad != 0).any()


def test_controls_of_one_modality_fall_back_on_the_other() -> None:
    text_only = TextFusion(DIM, RANK)(TEXT, IMAGE, HAS_TEXT, HAS_IMAGE)
    torch.testing.assert_close(text_only, torch.where(HAS_TEXT[:, None], TEXT, IMAGE))
    image_only = ImageFusion(DIM, RANK)(TEXT, IMAGE, HAS_TEXT, HAS_IMAGE)
    torch.testing.assert_close(image_only, torch.where(HAS_IMAGE[:, None], IMAGE, TEXT))


def test_controls_learn_nothing_and_name_the_modality_they_use() -> None:
    assert all(not list(made(name).parameters()) for name in ("sum", "text", "image"))
    assert FUSIONS["text"].uses == ("text",)
    assert FUSIONS["image"].uses == ("image",)
    assert all(FUSIONS[name].uses == ("text", "image") for name in TWO_MODALITIES)


@pytest.mark.parametrize("name", FUSIONS)
def test_fusion_computes_in_float32_under_autocast(name: str) -> None:
    fusion = made(name)
    expected = fusion(TEXT.bfloat16().float(), IMAGE.bfloat16().float(), HAS_TEXT, HAS_IMAGE)
    with torch.autocast("cpu", torch.bfloat16):
        fused = fusion(TEXT.bfloat16(), IMAGE.bfloat16(), HAS_TEXT, HAS_IMAGE)
    assert fused.dtype == torch.float32
    torch.testing.assert_close(fused, expected)


@pytest.mark.parametrize("name", FUSIONS)
def test_a_product_with_neither_has_finite_gradients(name: str) -> None:
    fusion = made(name)
    text, image = TEXT.clone().requires_grad_(), IMAGE.clone().requires_grad_()
    fused = fusion(text, image, ~ALL, ~ALL)
    assert torch.isfinite(fused).all()
    fused.sum().backward()
    gradients = [p.grad for p in (text, image, *fusion.parameters()) if p.grad is not None]
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
