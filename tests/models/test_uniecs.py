"""Tests the gated encoder against a loop over the tokens that exist."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from beyond_text.models.fusion import UniecsFusion
from beyond_text.models.uniecs import (
    Attention,
    Block,
    CrossLayer,
    GatedEncoder,
    Mlp,
    PooledBlocks,
    Views,
)

DIM, HEADS, HIDDEN = 8, 2, 6
# Rows have: both, both, only a text, only a picture, neither, both.
WORDS = [4, 2, 3, 0, 0, 1]
PLACES = [3, 5, 0, 2, 0, 1]
BOTH, TEXT_ONLY, IMAGE_ONLY, NEITHER = [0, 1, 5], 2, 3, 4


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def mask_of(lengths: list[int], longest: int) -> Tensor:
    return torch.arange(longest) < torch.tensor(lengths)[:, None]


TEXT, IMAGE = (
    F.normalize(random(len(WORDS), longest, DIM, seed=longest), dim=2) for longest in (4, 5)
)
TEXT_MASK, IMAGE_MASK = mask_of(WORDS, 4), mask_of(PLACES, 5)


def made(moved: bool = True) -> GatedEncoder:
    """Builds an encoder; `moved` gives it random weights, as in mid-training."""
    torch.manual_seed(0)
    encoder = GatedEncoder(DIM, HEADS, HIDDEN)
    if moved:
        with torch.no_grad():
            for parameter in encoder.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    return encoder


def encoded(encoder: GatedEncoder, rows: slice | list[int] = slice(None)) -> Views:
    return encoder(TEXT[rows], TEXT_MASK[rows], IMAGE[rows], IMAGE_MASK[rows])


def score(views: Sequence[Tensor]) -> Tensor:
    """Returns a number that depends on every entry of the views."""
    targets = [random(len(WORDS), DIM, seed=seed) for seed in (7, 8, 9)]
    return torch.stack([(v * t).sum() for v, t in zip(views, targets, strict=True)]).sum()


def assert_close(found: Views, expected: Views) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    return torch.stack([(row * x).sum() for row in layer.weight]) + layer.bias


def norm(layer: nn.LayerNorm, x: Tensor) -> Tensor:
    centred = x - x.sum() / len(x)
    return (
        layer.weight * centred / (centred.square().sum() / len(x) + layer.eps).sqrt() + layer.bias
    )


def slow_attention(layer: Attention, x: list[Tensor], seen: list[Tensor]) -> list[Tensor]:
    """Computes softmax(q k / sqrt(part)) v per head, token by token."""
    size = DIM // HEADS
    found = []
    for token in x:
        query, parts = linear(layer.query, token), []
        for first in range(0, DIM, size):
            own = slice(first, first + size)
            keys = [linear(layer.key, other)[own] for other in seen]
            weights = [((query[own] * key).sum() / math.sqrt(size)).exp() for key in keys]
            values = [linear(layer.value, other)[own] for other in seen]
            weighed = [w * value for w, value in zip(weights, values, strict=True)]
            parts.append(sum(weighed[1:], weighed[0]) / sum(weights))
        found.append(linear(layer.out, torch.cat(parts)))
    return found


def slow_mlp(layer: Mlp, x: Tensor) -> Tensor:
    hidden = linear(layer.hidden, norm(layer.norm, x))
    return x + linear(layer.out, hidden / 2 * (1 + torch.erf(hidden / math.sqrt(2))))


def slow_block(block: Block, x: list[Tensor]) -> list[Tensor]:
    normed = [norm(block.norm, token) for token in x]
    found = slow_attention(block.attention, normed, normed)
    return [slow_mlp(block.mlp, token + a) for token, a in zip(x, found, strict=True)]


def slow_gate(layer: nn.Linear, token: Tensor, found: Tensor) -> Tensor:
    gate = 1 / (1 + (-linear(layer, torch.cat([token, found]))).exp())
    return torch.stack([g * a + (1 - g) * v for g, a, v in zip(gate, found, token, strict=True)])


def slow_cross(
    layer: CrossLayer, text: list[Tensor], image: list[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    x = [norm(layer.text_norm, token) for token in text]
    y = [norm(layer.image_norm, token) for token in image]
    seen = slow_attention(layer.text_attention, x, y), slow_attention(layer.image_attention, y, x)
    return (
        [slow_gate(layer.text_gate, t, a) for t, a in zip(text, seen[0], strict=True)],
        [slow_gate(layer.image_gate, v, a) for v, a in zip(image, seen[1], strict=True)],
    )


def slow_pooled_blocks(pooled: PooledBlocks, x: list[Tensor]) -> Tensor:
    for block in pooled.blocks:
        assert isinstance(block, Block)
        x = slow_block(block, x)
    return sum(x[1:], x[0]) / len(x)


def unit(x: Tensor) -> Tensor:
    return x / x.square().sum().sqrt()


def slow_encoder(
    encoder: GatedEncoder, text: list[Tensor], image: list[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns a sample's text, image and product vectors from its own tokens; 0 without any."""
    root, nothing = math.sqrt(DIM), torch.zeros(DIM, dtype=torch.float64)
    text, image = [root * token for token in text], [root * token for token in image]

    def read(text: list[Tensor], image: list[Tensor]) -> tuple[Tensor, Tensor]:
        return (
            unit(slow_mlp(encoder.text_head, slow_pooled_blocks(encoder.text, text)))
            if text
            else nothing,
            unit(slow_mlp(encoder.image_head, slow_pooled_blocks(encoder.image, image)))
            if image
            else nothing,
        )

    alone = read(text, image)
    if text and image:
        for layer in encoder.cross:
            assert isinstance(layer, CrossLayer)
            text, image = slow_cross(layer, text, image)
    met = read(text, image)
    maps = (encoder.text_map, met[0], text), (encoder.image_map, met[1], image)
    tokens = [linear(layer, root * vector) for layer, vector, there in maps if there]
    return *alone, unit(slow_pooled_blocks(encoder.joint, tokens)) if tokens else nothing


def test_each_sample_equals_a_slow_loop_over_the_tokens_it_has_gradients_included() -> None:
    fast = made()
    slow = copy.deepcopy(fast).double()
    tokens = [TEXT.clone().requires_grad_(), IMAGE.clone().requires_grad_()]
    twins = [x.detach().double().requires_grad_() for x in tokens]
    found = fast(tokens[0], TEXT_MASK, tokens[1], IMAGE_MASK)
    rows = [
        slow_encoder(slow, list(twins[0][row, :words]), list(twins[1][row, :places]))
        for row, (words, places) in enumerate(zip(WORDS, PLACES, strict=True))
    ]
    expected = [torch.stack(view) for view in zip(*rows, strict=True)]
    for view, other in zip(found, expected, strict=True):
        torch.testing.assert_close(view, other.float(), rtol=1e-4, atol=1e-5)
    score(found).backward()
    score(expected).backward()
    moved, reference = [*tokens, *fast.parameters()], [*twins, *slow.parameters()]
    for one, other in zip(moved, reference, strict=True):
        assert one.grad is not None
        assert other.grad is not None
        torch.testing.assert_close(one.grad, other.grad.float(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("hidden", [1e4, math.inf, math.nan])
def test_what_stands_behind_a_mask_changes_nothing_and_gets_no_gradient(hidden: float) -> None:
    encoder = made()
    spoilt = [
        tokens.masked_fill(~mask.unsqueeze(2), hidden).requires_grad_()
        for tokens, mask in ((TEXT, TEXT_MASK), (IMAGE, IMAGE_MASK))
    ]
    found = encoder(spoilt[0], TEXT_MASK, spoilt[1], IMAGE_MASK)
    for view, other in zip(found, encoded(encoder), strict=True):
        assert view.equal(other)
    score(found).backward()
    for tokens, mask in zip(spoilt, (TEXT_MASK, IMAGE_MASK), strict=True):
        assert tokens.grad is not None
        assert (tokens.grad[~mask] == 0).all()
        assert (tokens.grad[mask] != 0).any(dim=1).all()


def test_longer_padding_changes_nothing() -> None:
    encoder = made()
    padded = encoder(
        F.pad(TEXT, (0, 0, 0, 3), value=5.0),
        F.pad(TEXT_MASK, (0, 3)),
        F.pad(IMAGE, (0, 0, 2, 0), value=5.0),
        F.pad(IMAGE_MASK, (2, 0)),
    )
    assert_close(padded, encoded(encoder))


def test_a_sample_is_encoded_alike_alone_and_among_samples_with_other_modalities() -> None:
    encoder = made()
    together = encoded(encoder)
    for row in range(len(WORDS)):
        assert_close(encoded(encoder, [row]), Views(*(view[[row]] for view in together)))


def test_a_missing_modality_equals_its_never_having_existed() -> None:
    encoder = made()
    nothing = torch.zeros(len(BOTH), 1, DIM), torch.zeros(len(BOTH), 1, dtype=torch.bool)
    whole = encoded(encoder, BOTH)
    text, text_mask, image, image_mask = (x[BOTH] for x in (TEXT, TEXT_MASK, IMAGE, IMAGE_MASK))
    # Only the first row loses its picture; the values stay in the tensor.
    lost = image_mask.clone()
    lost[0] = False
    never = encoder(text, text_mask, *nothing)
    without = encoder(text, text_mask, image, lost)
    torch.testing.assert_close(without.product[0], never.product[0])
    torch.testing.assert_close(without.product[1:], whole.product[1:])
    assert (without.product[0] - whole.product[0]).abs().max() > 1e-2
    assert not without.image[0].any()
    lost = text_mask.clone()
    lost[0] = False
    never = encoder(*nothing, image, image_mask)
    torch.testing.assert_close(encoder(text, lost, image, image_mask).product[0], never.product[0])


def test_a_modality_alone_has_the_same_vector_whatever_the_other_is() -> None:
    encoder = made()
    whole = encoded(encoder)
    other_image = encoder(TEXT, TEXT_MASK, -IMAGE, IMAGE_MASK.flip(1))
    other_text = encoder(-TEXT, TEXT_MASK.flip(1), IMAGE, IMAGE_MASK)
    assert other_image.text.equal(whole.text)
    assert other_text.image.equal(whole.image)
    for changed in (other_image, other_text):
        difference = (changed.product - whole.product).abs().amax(dim=1)
        assert (difference[BOTH] > 1e-3).all()
    image = IMAGE.clone().requires_grad_()
    encoder(TEXT, TEXT_MASK, image, IMAGE_MASK).text.sum().backward()
    assert image.grad is None or not image.grad.any()


def test_a_sample_with_neither_is_zero_and_gives_finite_gradients() -> None:
    encoder = made()
    text, image = TEXT.clone().requires_grad_(), IMAGE.clone().requires_grad_()
    for rows in ([NEITHER], list(range(len(WORDS)))):
        views = encoder(text[rows], TEXT_MASK[rows], image[rows], IMAGE_MASK[rows])
        place = rows.index(NEITHER)
        assert not any(view[place].any() for view in views)
        torch.cat(views).sum().backward()
        gradients = [x.grad for x in (text, image, *encoder.parameters())]
        assert all(grad is None or torch.isfinite(grad).all() for grad in gradients)


def test_views_are_unit_vectors_in_float32_under_autocast_too() -> None:
    encoder = made()
    exact = encoded(encoder)
    with torch.autocast("cpu", torch.bfloat16):
        views = encoder(TEXT.bfloat16(), TEXT_MASK, IMAGE.bfloat16(), IMAGE_MASK)
    for view, other in zip(views, exact, strict=True):
        assert view.dtype == torch.float32
        there = other.any(dim=1)
        torch.testing.assert_close(view[there].norm(dim=1), torch.ones(int(there.sum())))
        assert F.cosine_similarity(view[there], other[there]).min() > 0.99


@pytest.mark.parametrize("side", ["text", "image"])
def test_a_closed_gate_keeps_the_tokens_and_an_open_one_replaces_them(side: str) -> None:
    layer = made().cross[0]
    assert isinstance(layer, CrossLayer)
    inputs = TEXT[BOTH], TEXT_MASK[BOTH], IMAGE[BOTH], IMAGE_MASK[BOTH]
    tokens = inputs[0] if side == "text" else inputs[2]
    gate, place = getattr(layer, f"{side}_gate"), 0 if side == "text" else 1
    x, y = layer.text_norm(inputs[0]), layer.image_norm(inputs[2])
    found = (
        layer.text_attention(x, y, inputs[3])
        if side == "text"
        else layer.image_attention(y, x, inputs[1])
    )
    for bias, expected in ((-100.0, tokens), (100.0, found)):
        with torch.no_grad():
            gate.bias.fill_(bias)
        torch.testing.assert_close(layer(*inputs)[place], expected)


def mean_direction(tokens: Tensor, mask: Tensor) -> Tensor:
    means = [row[there].sum(dim=0) for row, there in zip(tokens, mask, strict=True)]
    return F.normalize(torch.stack(means), dim=1)


def test_it_starts_as_the_means_of_the_tokens_and_their_sum() -> None:
    views = encoded(made(moved=False))
    text, image = mean_direction(TEXT, TEXT_MASK), mean_direction(IMAGE, IMAGE_MASK)
    expected = Views(text, image, F.normalize(text + image, dim=1))
    for view, other in zip(views, expected, strict=True):
        torch.testing.assert_close(view, other)


def test_the_first_step_can_move_every_zero_layer_and_the_gates() -> None:
    encoder = made(moved=False)
    score(encoded(encoder)).backward()
    zeros = [
        layer
        for layer in encoder.modules()
        if isinstance(layer, nn.Linear) and not layer.weight.any()
    ]
    assert len(zeros) == 4 * 3 + 2 * 7 + 2  # In cross layers, blocks and heads.
    for layer in zeros:
        assert layer.weight.grad is not None
        assert layer.weight.grad.any()


def test_the_parameter_count_at_width_384_is_the_one_that_is_stated() -> None:
    with torch.device("meta"):
        encoder = GatedEncoder(384, 8, 512)
    count = sum(parameter.numel() for parameter in encoder.parameters())
    matrices = sum(parameter.numel() for parameter in encoder.parameters() if parameter.ndim == 2)
    assert matrices == 66 * 384**2 + 18 * 384 * 512
    assert round(count / 1e6, 1) == 13.3


@pytest.mark.parametrize(("dim", "heads"), [(384, 8), (16, 8), (18, 6), (7, 7), (11, 1)])
def test_the_fusion_has_as_many_heads_as_divide_its_width_but_eight(dim: int, heads: int) -> None:
    fusion = UniecsFusion(dim, 4)
    assert {m.heads for m in fusion.modules() if isinstance(m, Attention)} == {heads}
    assert fusion.encoder.text_head.hidden.out_features == 4


def test_fused_vectors_are_sequences_of_one_token() -> None:
    fusion = UniecsFusion(DIM, HIDDEN)
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    text, image = TEXT[:, 0], IMAGE[:, 0]
    has_text, has_image = TEXT_MASK.any(dim=1), IMAGE_MASK.any(dim=1)
    expected = fusion.encoder(
        text[:, None], has_text[:, None], image[:, None], has_image[:, None]
    ).product
    torch.testing.assert_close(fusion(text, image, has_text, has_image), expected)
