"""Tests that fusions start as the sum, equal their formulas, and ignore what is missing."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from beyond_text.models.fusion import (
    FUSIONS,
    BilinearFusion,
    BlockFusion,
    ConcatFusion,
    Fusion,
    GatedFusion,
    ImageFusion,
    LmfFusion,
    MoeFusion,
    MutanFusion,
    ResidualFusion,
    TextFusion,
)
from beyond_text.models.layers import Chunkwise, signed_root

DIM, RANK, ROWS = 6, 5, 8
# Rows have both modalities, only text, or only an image, in turn.
HAS_TEXT = torch.tensor([True, True, False] * 3)[:ROWS]
HAS_IMAGE = torch.tensor([True, False, True] * 3)[:ROWS]
ALL = torch.ones(ROWS, dtype=torch.bool)
# Fusions of vectors alone; those that read tokens have tests of their own.
POOLED = [name for name, fusion in FUSIONS.items() if not (fusion.tokens or fusion.patches)]
LEARNED = [name for name in POOLED if list(FUSIONS[name](DIM, RANK).parameters())]
TWO_MODALITIES = [*LEARNED, "sum"]
# Fusions whose whole term, bias included, is zero where a modality is missing.
MASKED_PRODUCTS = ("bilinear", "mutan", "block")


def unit_vectors(seed: int) -> Tensor:
    return F.normalize(torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(seed)), dim=1)


TEXT, IMAGE = unit_vectors(1), unit_vectors(2)


def made(name: str, moved: bool = True) -> Fusion:
    """Builds the block of a name; `moved` gives it random weights, as in mid-training."""
    torch.manual_seed(0)
    fusion = FUSIONS[name](DIM, RANK)
    if moved:
        for parameter in fusion.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    return fusion


@pytest.mark.parametrize("name", POOLED)
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
        # tanh reduces large entries, so the directions agree only roughly.
        assert F.cosine_similarity(fused, expected).min() > 0.98
    else:
        torch.testing.assert_close(fused, expected)


@pytest.mark.parametrize("name", TWO_MODALITIES)
def test_trained_variants_leave_the_sum(name: str) -> None:
    summed = F.normalize(TEXT + IMAGE, dim=1)
    agreement = F.cosine_similarity(made(name)(TEXT, IMAGE, ALL, ALL), summed).mean()
    assert agreement > 0.999 if name == "sum" else agreement < 0.9


@pytest.mark.parametrize("name", POOLED)
@pytest.mark.parametrize("filler", [1e6, float("nan"), float("inf")])
def test_what_is_passed_for_a_missing_modality_changes_nothing(name: str, filler: float) -> None:
    fusion = made(name)
    expected = fusion(TEXT, IMAGE, HAS_TEXT, HAS_IMAGE)
    text = torch.where(HAS_TEXT[:, None], TEXT, filler).requires_grad_()
    image = torch.where(HAS_IMAGE[:, None], IMAGE, filler).requires_grad_()
    fused = fusion(text, image, HAS_TEXT, HAS_IMAGE)
    assert torch.equal(fused, expected)
    fused[:, 0].sum().backward()
    assert text.grad is not None
    assert image.grad is not None
    assert (text.grad[~HAS_TEXT] == 0).all()
    assert (image.grad[~HAS_IMAGE] == 0).all()
    assert torch.isfinite(text.grad).all()
    assert torch.isfinite(image.grad).all()


@pytest.mark.parametrize("name", POOLED)
def test_a_product_fuses_alike_alone_and_in_any_batch(name: str) -> None:
    fusion = made(name)
    together = fusion(TEXT, IMAGE, HAS_TEXT, HAS_IMAGE)
    for row in range(ROWS):
        one = slice(row, row + 1)
        alone = fusion(TEXT[one], IMAGE[one], HAS_TEXT[one], HAS_IMAGE[one])
        torch.testing.assert_close(together[one], alone)


def linear(layer: torch.nn.Module, vector: list[float]) -> list[float]:
    """Computes W v + b by hand."""
    assert isinstance(layer, torch.nn.Linear)
    bias = layer.bias.tolist() if layer.bias is not None else [0.0] * layer.out_features
    return [
        sum(w * v for w, v in zip(row, vector, strict=True)) + b
        for row, b in zip(layer.weight.tolist(), bias, strict=True)
    ]


def tanh(vector: list[float]) -> list[float]:
    return torch.tensor(vector, dtype=torch.float64).tanh().tolist()


def times(factor: float, vector: list[float]) -> list[float]:
    return [factor * v for v in vector]


def gelu(vector: list[float]) -> list[float]:
    return F.gelu(torch.tensor(vector, dtype=torch.float64)).tolist()


def multiplied(a: list[float], b: list[float]) -> list[float]:
    return [u * v for u, v in zip(a, b, strict=True)]


def skips(block: ResidualFusion, x: list[float], y: list[float], term: list[float]) -> Tensor:
    """Computes W_t x + W_v y + term / sqrt(dim)."""
    terms = linear(block.text, x), linear(block.image, y), term
    return torch.tensor([a + b + c / DIM**0.5 for a, b, c in zip(*terms, strict=True)])


def slow_concat(block: ConcatFusion, x: list[float], y: list[float], flags: list[float]) -> Tensor:
    root = DIM**0.5
    hidden = linear(block.hidden, [*times(root, x), *times(root, y), *flags])
    return skips(block, x, y, linear(block.out, gelu(hidden)))


def slow_gated(block: GatedFusion, x: list[float], y: list[float], flags: list[float]) -> Tensor:
    root = DIM**0.5
    gate = torch.tensor(linear(block.gate, [root * v for v in (*x, *y)])).sigmoid().tolist()
    if flags == [1.0, 0.0]:
        gate = [1.0] * DIM
    if flags == [0.0, 1.0]:
        gate = [0.0] * DIM
    terms = gate, tanh(linear(block.text, x)), tanh(linear(block.image, y))
    return torch.tensor([g * a + (1 - g) * b for g, a, b in zip(*terms, strict=True)])


def slow_product(block: BilinearFusion, x: list[float], y: list[float]) -> list[float]:
    """Computes tanh(U x) o tanh(V y), of inputs times sqrt(dim)."""
    left = tanh(linear(block.text_factor, times(DIM**0.5, x)))
    right = tanh(linear(block.image_factor, times(DIM**0.5, y)))
    return multiplied(left, right)


def slow_bilinear(
    block: BilinearFusion, x: list[float], y: list[float], flags: list[float]
) -> Tensor:
    if flags != [1.0, 1.0]:
        return skips(block, x, y, [0.0] * DIM)
    return skips(block, x, y, linear(block.out, slow_product(block, x, y)))


def slow_moe(block: MoeFusion, x: list[float], y: list[float], flags: list[float]) -> Tensor:
    """Runs one expert after another; the product is zero unless both modalities exist."""
    sx, sy = times(DIM**0.5, x), times(DIM**0.5, y)
    scores = linear(block.router, [*sx, *sy, *multiplied(sx, sy), *flags])
    shares = [math.exp(score) / sum(map(math.exp, scores)) for score in scores]
    hidden = gelu(linear(block.expert_hidden, [*sx, *sy, *flags]))
    width = len(hidden) // 4
    mix = torch.zeros(width, dtype=torch.float64)
    for number, share in enumerate(shares):
        place = slice(number * width, (number + 1) * width)
        weight, bias = block.expert_out.weight[0, number], block.expert_out.bias[place]
        mix += share * (weight.double() @ torch.tensor(hidden[place]).double() + bias.double())
    product = slow_product(block, x, y) if flags == [1.0, 1.0] else [0.0] * (RANK // 2)
    joined = linear(block.hidden, [*mix.tolist(), *product])
    return skips(block, x, y, linear(block.out, gelu(joined)))


def slow_mutan(block: MutanFusion, x: list[float], y: list[float], flags: list[float]) -> Tensor:
    """Splits the rows of the factors, RANK at a time, into M_1, M_2 and N_1, N_2."""
    if flags != [1.0, 1.0]:
        return skips(block, x, y, [0.0] * DIM)
    first, second = torch.tensor(slow_product(block, x, y)).split(RANK)
    return skips(block, x, y, linear(block.out, (first + second).tolist()))


def slow_chunk_maps(factor: torch.nn.Module, vector: list[float]) -> dict[tuple[int, int], Tensor]:
    """Computes M_cr x_c, by (chunk, term)."""
    assert isinstance(factor, torch.nn.Sequential)
    projection, maps = factor
    assert isinstance(maps, Chunkwise)
    terms, chunks, size, _ = maps.weight.shape
    projected = torch.tensor(linear(projection, times(DIM**0.5, vector)), dtype=torch.float64)
    found = {}
    for chunk in range(chunks):
        piece = projected[chunk * size : (chunk + 1) * size]
        for term in range(terms):
            place = (term * chunks + chunk) * size
            bias = maps.bias[place : place + size].double()
            found[chunk, term] = maps.weight[term, chunk].double() @ piece + bias
    return found


def slow_block(block: BlockFusion, x: list[float], y: list[float], flags: list[float]) -> Tensor:
    if flags != [1.0, 1.0]:
        return skips(block, x, y, [0.0] * DIM)
    left = slow_chunk_maps(block.text_factor, x)
    right = slow_chunk_maps(block.image_factor, y)
    pieces: list[float] = []
    for chunk in range(16):
        products = [left[chunk, term].tanh() * right[chunk, term].tanh() for term in range(8)]
        rooted = [v / math.sqrt(abs(v) + 1e-4) for v in sum(products, torch.zeros(())).tolist()]
        pieces += times(1 / math.hypot(*rooted), rooted)
    return skips(block, x, y, linear(block.out, pieces))


def slow_lmf(block: LmfFusion, x: list[float], y: list[float], flags: list[float]) -> Tensor:
    """Multiplies [x; 1] and [y; 1] by factors whose last column belongs to the 1."""
    x1, y1 = [*times(DIM**0.5, x), 1.0], [*times(DIM**0.5, y), 1.0]
    fused = [0.0] * DIM
    for factor in range(4):
        for entry in range(DIM):
            row = factor * DIM + entry
            sides = []
            for layer, v in ((block.text_factors, x1), (block.image_factors, y1)):
                weights = [*layer.weight[row].tolist(), layer.bias[row].item()]
                sides.append(sum(multiplied(weights, v)))
            fused[entry] += block.weights[factor, entry].item() * sides[0] * sides[1]
    return torch.tensor(fused)


SLOW: dict[str, Callable[..., Tensor]] = {
    "bilinear": slow_bilinear,
    "concat": slow_concat,
    "gated": slow_gated,
    "moe": slow_moe,
    "mutan": slow_mutan,
    "block": slow_block,
    "lmf": slow_lmf,
}


@pytest.mark.parametrize("name", LEARNED)
def test_a_trained_block_equals_its_formula_sample_by_sample(name: str) -> None:
    block = made(name)
    fused = block(TEXT, IMAGE, HAS_TEXT, HAS_IMAGE)
    for row in range(ROWS):
        text, image = bool(HAS_TEXT[row]), bool(HAS_IMAGE[row])
        x = TEXT[row].tolist() if text else [0.0] * DIM
        y = IMAGE[row].tolist() if image else [0.0] * DIM
        expected = SLOW[name](block, x, y, [float(text), float(image)]).float()
        torch.testing.assert_close(fused[row], expected / expected.norm())


@pytest.mark.parametrize("name", LEARNED)
def test_gradients_equal_finite_differences_for_inputs_and_every_parameter(name: str) -> None:
    fusion = made(name).double()
    flags = HAS_TEXT[:, None].double(), HAS_IMAGE[:, None].double()
    x = (TEXT * flags[0]).requires_grad_()
    y = (IMAGE * flags[1]).requires_grad_()

    def fused(*_: Tensor) -> Tensor:
        return F.normalize(fusion.combine(x, y, *flags), dim=1)

    assert torch.autograd.gradcheck(fused, (x, y, *fusion.parameters()), fast_mode=True)


@pytest.mark.parametrize("name", LEARNED)
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


@pytest.mark.parametrize("name", LEARNED)
def test_the_first_step_can_move_what_is_zero(name: str) -> None:
    fusion = made(name, moved=False)
    zero = {"gated": "gate.weight", "lmf": "weights"}.get(name, "out.weight")
    weight = fusion.get_parameter(zero)
    (fusion(TEXT, IMAGE, ALL, ALL) * unit_vectors(3)).sum().backward()
    assert weight.grad is not None
    assert (weight == 0).any()
    assert (weight.grad[(weight == 0).all(dim=1)] != 0).any()


@pytest.mark.parametrize("name", LEARNED)
@pytest.mark.parametrize(("own", "other"), [("text", "image"), ("image", "text")])
def test_what_a_block_does_with_one_modality_never_shows_in_a_product_of_the_other(
    name: str, own: str, other: str
) -> None:
    fusion = made(name)
    alone = {"text": HAS_TEXT & ~HAS_IMAGE, "image": HAS_IMAGE & ~HAS_TEXT}[own]
    before = fusion(TEXT, IMAGE, HAS_TEXT, HAS_IMAGE)
    with torch.no_grad():
        for parameter_name, parameter in fusion.named_parameters():
            # In LMF a missing modality still has its appended 1, and so these biases.
            kept = name == "lmf" and parameter_name.endswith("bias")
            if parameter_name.startswith(other) and not kept:
                parameter.add_(torch.randn_like(parameter))
    after = fusion(TEXT, IMAGE, HAS_TEXT, HAS_IMAGE)
    assert torch.equal(after[alone], before[alone])
    both = HAS_TEXT & HAS_IMAGE
    assert not torch.isclose(after[both], before[both]).all(dim=1).any()


@pytest.mark.parametrize("name", MASKED_PRODUCTS)
def test_a_product_of_one_modality_is_left_to_its_skip(name: str) -> None:
    fusion = made(name)
    assert isinstance(fusion, BilinearFusion)
    fused = fusion(TEXT, IMAGE, HAS_TEXT, HAS_IMAGE)
    torch.testing.assert_close(fused[~HAS_IMAGE], F.normalize(fusion.text(TEXT[~HAS_IMAGE])))
    torch.testing.assert_close(fused[~HAS_TEXT], F.normalize(fusion.image(IMAGE[~HAS_TEXT])))


def routed(block: MoeFusion) -> Tensor:
    flags = HAS_TEXT[:, None].float(), HAS_IMAGE[:, None].float()
    return block.shares(DIM**0.5 * TEXT * flags[0], DIM**0.5 * IMAGE * flags[1], *flags)


def test_shares_of_the_experts_sum_to_one_and_differ_between_samples() -> None:
    block = made("moe")
    assert isinstance(block, MoeFusion)
    shares = routed(block)
    assert shares.shape == (ROWS, 4)
    assert (shares > 0).all()
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(ROWS))
    assert (shares.std(dim=0) > 0.01).all()


def test_an_expert_is_no_linear_map() -> None:
    """Twice an expert's input is not twice its answer, as it was while experts were linear."""
    block = made("moe")
    assert isinstance(block, MoeFusion)
    with torch.no_grad():
        block.expert_hidden.bias.zero_()
        block.expert_out.bias.zero_()
    joined = torch.cat([TEXT, IMAGE, HAS_TEXT[:, None], HAS_IMAGE[:, None]], dim=1)
    once, twice = (
        block.expert_out(F.gelu(block.expert_hidden(factor * joined))) for factor in (1, 2)
    )
    assert ((twice - 2 * once).abs() > 1e-3).any(dim=1).all()


def test_a_mixture_logs_the_entropy_of_its_router_and_the_shares_of_its_experts() -> None:
    block = made("moe")
    assert isinstance(block, MoeFusion)
    nothing = torch.zeros(1, dtype=torch.bool)
    # A row without a product counts for nothing.
    flags = torch.cat([HAS_TEXT, nothing]), torch.cat([HAS_IMAGE, nothing])
    block.eval()(TEXT, IMAGE, HAS_TEXT, HAS_IMAGE)
    assert (block.logged, block.routing) == ({}, None)
    block.train()(torch.cat([TEXT, TEXT[:1]]), torch.cat([IMAGE, IMAGE[:1]]), *flags)
    shares = routed(block)
    entropy = -(shares * shares.log()).sum(dim=1).mean() / math.log(4)
    torch.testing.assert_close(block.logged["router_entropy"], entropy.detach())
    for number in range(4):
        expected = shares[:, number].mean().detach()
        torch.testing.assert_close(block.logged[f"expert_share/{number}"], expected)
    with torch.no_grad():
        block.router.weight.zero_()
        block.router.bias.copy_(torch.tensor([0.0, 90, 0, 0]))
    block(TEXT, IMAGE, HAS_TEXT, HAS_IMAGE)
    assert block.logged["router_entropy"] < 1e-30
    assert block.logged["expert_share/1"] == 1
    assert not any(value.requires_grad for value in block.logged.values())


def test_an_expert_that_gets_no_share_changes_nothing() -> None:
    block = made("moe")
    assert isinstance(block, MoeFusion)
    with torch.no_grad():
        block.router.bias[0] = -1e4
    before = block(TEXT, IMAGE, HAS_TEXT, HAS_IMAGE)
    for number, changes in ((0, False), (1, True)):
        with torch.no_grad():
            block.expert_out.weight[:, number] += 1
        after = block(TEXT, IMAGE, HAS_TEXT, HAS_IMAGE)
        assert torch.equal(after, before) != changes


@pytest.mark.parametrize("moved", [False, True])
def test_chunks_of_block_are_unit_vectors(moved: bool) -> None:
    block = made("block", moved)
    assert isinstance(block, BlockFusion)
    chunks = block.product(DIM**0.5 * TEXT, DIM**0.5 * IMAGE).unflatten(1, (16, -1))
    assert chunks.shape == (ROWS, 16, 2)
    torch.testing.assert_close(chunks.norm(dim=2), torch.ones(ROWS, 16))


@pytest.mark.parametrize(("rank", "size"), [(1, 2), (32, 2), (50, 3), (512, 32)])
def test_block_cuts_any_rank_into_chunks_of_two_or_more(rank: int, size: int) -> None:
    block = BlockFusion(DIM, rank)
    assert block.product(TEXT, IMAGE).shape == (ROWS, 16 * size)


def test_a_chunk_of_block_sees_only_its_own_chunk_of_each_modality() -> None:
    maps = Chunkwise(chunks=3, size=2, terms=2)
    projected = torch.randn(1, 6, requires_grad=True)
    for term in range(2):
        for chunk in range(3):
            place = slice((term * 3 + chunk) * 2, (term * 3 + chunk) * 2 + 2)
            (gradient,) = torch.autograd.grad(maps(projected)[:, place].sum(), projected)
            assert (gradient.unflatten(1, (3, 2)) != 0).any(dim=2).nonzero().tolist() == [
                [0, chunk]
            ]


def test_the_signed_root_has_the_sign_the_root_and_a_finite_slope_at_zero() -> None:
    values = torch.tensor([-4.0, 0.0, 9.0, 0.25], requires_grad=True)
    rooted = signed_root(values)
    torch.testing.assert_close(rooted, torch.tensor([-2.0, 0.0, 3.0, 0.5]), rtol=1e-3, atol=0)
    rooted.sum().backward()
    slopes = torch.tensor([1 / 4, 100.0, 1 / 6, 1.0])
    torch.testing.assert_close(values.grad, slopes, rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("bilinear", 0.9),
        ("concat", 0.9),
        ("moe", 1.2),
        ("attended", 1.4),
        ("mutan", 1.3),
        ("block", 1.2),
        ("lmf", 1.2),
    ],
)
def test_blocks_are_of_one_order_of_size(name: str, millions: float) -> None:
    with torch.device("meta"):
        fusion = FUSIONS[name](384, 512)
    assert round(sum(p.numel() for p in fusion.parameters()) / 1e6, 1) == millions


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


@pytest.mark.parametrize("name", POOLED)
def test_fusion_computes_in_float32_under_autocast(name: str) -> None:
    fusion = made(name)
    expected = fusion(TEXT.bfloat16().float(), IMAGE.bfloat16().float(), HAS_TEXT, HAS_IMAGE)
    with torch.autocast("cpu", torch.bfloat16):
        fused = fusion(TEXT.bfloat16(), IMAGE.bfloat16(), HAS_TEXT, HAS_IMAGE)
    assert fused.dtype == torch.float32
    torch.testing.assert_close(fused, expected)


@pytest.mark.parametrize("name", POOLED)
def test_a_product_with_neither_has_finite_gradients(name: str) -> None:
    fusion = made(name)
    text, image = TEXT.clone().requires_grad_(), IMAGE.clone().requires_grad_()
    fused = fusion(text, image, ~ALL, ~ALL)
    assert torch.isfinite(fused).all()
    fused.sum().backward()
    gradients = [p.grad for p in (text, image, *fusion.parameters()) if p.grad is not None]
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
