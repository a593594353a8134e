"""The fusion that lets a text look at the picture's patches: formula, start, masks, what lacks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from beyond_text.models.attended import AttendedFusion
from beyond_text.models.bilinear import BilinearFusion
from tests.models.test_fusion import DIM, HAS_IMAGE, HAS_TEXT, IMAGE, RANK, ROWS, TEXT, linear

PATCHES, FEATURES = 4, 7
BOTH = HAS_TEXT & HAS_IMAGE


def patches(seed: int = 4) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(ROWS, PATCHES, FEATURES, generator=random), dim=2)


TOKENS = patches()
# Pictures of one to four patches.
REAL = torch.arange(PATCHES) <= torch.arange(ROWS).unsqueeze(1) % PATCHES
INPUTS = TEXT, IMAGE, HAS_TEXT, HAS_IMAGE, TOKENS, REAL


def made(moved: bool = True) -> AttendedFusion:
    torch.manual_seed(0)
    fusion = AttendedFusion(DIM, RANK, FEATURES)
    if moved:
        for parameter in fusion.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    return fusion


def bilinear_of(fusion: AttendedFusion) -> BilinearFusion:
    """Returns the bilinear block that has its weights."""
    block = BilinearFusion(DIM, RANK)
    block.load_state_dict({name: fusion.get_parameter(name) for name in block.state_dict()})
    return block


def test_it_starts_bit_for_bit_as_bilinear_does_which_is_the_sum() -> None:
    torch.manual_seed(0)
    block = BilinearFusion(DIM, RANK)
    fusion = made(moved=False)
    for name, weight in block.state_dict().items():
        assert torch.equal(fusion.get_parameter(name), weight)
    assert torch.equal(fusion(*INPUTS), block(*INPUTS[:4]))
    # Its own start is neutral whatever the rest of it is.
    trained = made()
    torch.nn.init.zeros_(trained.image_value.weight)
    assert torch.equal(trained(*INPUTS), bilinear_of(trained)(*INPUTS[:4]))


def by_hand(fusion: AttendedFusion, row: int) -> Tensor:
    """Computes y' of a row with both modalities, patch by patch."""
    x = [DIM**0.5 * v for v in TEXT[row].tolist()]
    query = [math.tanh(v) for v in linear(fusion.text_query, x)]
    tokens = [
        [FEATURES**0.5 * v for v in token]
        for token, real in zip(TOKENS[row].tolist(), REAL[row], strict=True)
        if real
    ]
    scores = []
    for token in tokens:
        key = [math.tanh(v) for v in linear(fusion.image_key, token)]
        weights = fusion.score.weight[0].tolist()
        scores.append(sum(w * q * k for w, q, k in zip(weights, query, key, strict=True)))
    total = sum(map(math.exp, scores))
    pooled = [0.0] * FEATURES
    for score, token in zip(scores, tokens, strict=True):
        for entry, value in enumerate(token):
            pooled[entry] += math.exp(score) / total * value
    seen = linear(fusion.image_value, pooled)
    return IMAGE[row] + torch.tensor(seen) / DIM**0.5


def test_it_equals_its_formula_sample_by_sample() -> None:
    fusion = made()
    expected = IMAGE.clone()
    for row in BOTH.nonzero().flatten().tolist():
        expected[row] = by_hand(fusion, row)
    assert (expected - IMAGE)[BOTH].norm(dim=1).min() > 0.1
    found = fusion(*INPUTS)
    torch.testing.assert_close(found, bilinear_of(fusion)(TEXT, expected, HAS_TEXT, HAS_IMAGE))


def test_gradients_equal_finite_differences_for_inputs_and_every_parameter() -> None:
    fusion = made().double()
    x, tokens = TEXT.double().requires_grad_(), TOKENS.double().requires_grad_()

    def seen(*_: Tensor) -> Tensor:
        # `forward` computes in float32.
        return fusion.seen(x, tokens * 1.0, REAL)

    own = [p for name, p in fusion.named_parameters() if name.split(".")[0] in OWN]
    assert torch.autograd.gradcheck(seen, (x, tokens, *own), fast_mode=True)


OWN = ("text_query", "image_key", "score", "image_value")


def test_gradients_reach_every_parameter_and_both_towers() -> None:
    fusion = made()
    given = [part.clone().requires_grad_() for part in (TEXT, IMAGE, TOKENS)]
    fused = fusion(given[0], given[1], HAS_TEXT, HAS_IMAGE, given[2], REAL)
    (fused * patches(9)[:, 0, :DIM]).sum().backward()
    for name, parameter in fusion.named_parameters():
        assert parameter.grad is not None, name
        assert (parameter.grad != 0).any(), name
    tokens = given[2].grad
    assert tokens is not None
    used = REAL & BOTH.unsqueeze(1)
    assert (tokens[used] != 0).any(dim=1).all()
    assert (tokens[~used] == 0).all()


def test_the_first_step_can_move_what_is_zero() -> None:
    fusion = made(moved=False)
    (fusion(*INPUTS) * patches(9)[:, 0, :DIM]).sum().backward()
    gradient = fusion.image_value.weight.grad
    assert gradient is not None
    assert (gradient != 0).all()


@pytest.mark.parametrize("filler", [1e6, float("nan"), float("inf")])
def test_what_is_passed_for_what_is_missing_changes_nothing(filler: float) -> None:
    fusion = made()
    expected = fusion(*INPUTS)
    used = (REAL & BOTH.unsqueeze(1)).unsqueeze(2)
    given = [
        torch.where(HAS_TEXT[:, None], TEXT, filler).requires_grad_(),
        torch.where(HAS_IMAGE[:, None], IMAGE, filler).requires_grad_(),
        torch.where(used, TOKENS, filler).requires_grad_(),
    ]
    found = fusion(given[0], given[1], HAS_TEXT, HAS_IMAGE, given[2], REAL)
    assert torch.equal(found, expected)
    found[:, 0].sum().backward()
    assert all(part.grad is not None and torch.isfinite(part.grad).all() for part in given)


@pytest.mark.parametrize("missing", ["text", "image"])
def test_with_one_modality_it_is_bilinear_of_that_alone(missing: str) -> None:
    fusion = made()
    flags = {"text": HAS_TEXT, "image": HAS_IMAGE} | {missing: torch.zeros_like(HAS_TEXT)}
    found = fusion(TEXT, IMAGE, flags["text"], flags["image"], TOKENS, REAL)
    expected = bilinear_of(fusion)(TEXT, IMAGE, flags["text"], flags["image"])
    assert torch.equal(found, expected)


def test_a_row_whose_patches_are_all_masked_has_y_itself() -> None:
    fusion = made()
    found = fusion(TEXT, IMAGE, HAS_TEXT, HAS_IMAGE, TOKENS, torch.zeros_like(REAL))
    assert torch.equal(found, bilinear_of(fusion)(TEXT, IMAGE, HAS_TEXT, HAS_IMAGE))


def test_a_product_fuses_alike_alone_and_in_any_batch_and_with_more_padding() -> None:
    fusion = made()
    together = fusion(*INPUTS)
    for row in range(ROWS):
        alone = fusion(*(part[row : row + 1] for part in INPUTS))
        torch.testing.assert_close(together[row : row + 1], alone)
    padded = F.pad(TOKENS, (0, 0, 0, 3), value=9.0), F.pad(REAL, (0, 3))
    torch.testing.assert_close(fusion(*INPUTS[:4], *padded), together)
    order = torch.tensor([2, 0, 3, 1])
    shuffled = TOKENS[:, order], REAL[:, order]
    torch.testing.assert_close(fusion(*INPUTS[:4], *shuffled), together)


def test_another_text_looks_at_other_patches() -> None:
    fusion, every = made(), torch.ones(ROWS, PATCHES, dtype=torch.bool)
    tokens = TOKENS[:1].expand(ROWS, -1, -1) * FEATURES**0.5
    weights = fusion.weights(TEXT * DIM**0.5, tokens, every)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(ROWS))
    assert (weights.std(dim=0) > 0.01).all()
    assert (fusion.weights(TEXT, tokens, REAL)[~REAL] == 0).all()


def test_it_logs_how_widely_it_looks_and_how_much_it_adds() -> None:
    fusion = made()
    fusion.eval()(*INPUTS)
    assert fusion.logged == {}
    fusion.train()(*INPUTS)
    assert 0 < fusion.logged["attention_entropy"] < 1
    rows = BOTH.nonzero().flatten().tolist()
    added = sum((by_hand(fusion, row) - IMAGE[row]).norm() for row in rows)
    expected = (added / sum(IMAGE[row].norm() for row in rows)).detach()
    torch.testing.assert_close(fusion.logged["attended_share"], expected)
    torch.nn.init.zeros_(fusion.score.weight)
    fusion(*INPUTS)
    torch.testing.assert_close(fusion.logged["attention_entropy"], torch.tensor(1.0))


def test_it_computes_in_float32_under_autocast() -> None:
    fusion = made()
    halves = [part.bfloat16() for part in (TEXT, IMAGE, TOKENS)]
    expected = fusion(
        halves[0].float(), halves[1].float(), HAS_TEXT, HAS_IMAGE, halves[2].float(), REAL
    )
    with torch.autocast("cpu", torch.bfloat16):
        found = fusion(halves[0], halves[1], HAS_TEXT, HAS_IMAGE, halves[2], REAL)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)


def test_patches_that_were_not_given_are_an_error() -> None:
    with pytest.raises(TypeError, match="expected the patches"):
        made()(*INPUTS[:4])
