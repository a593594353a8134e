"""Losses equal slow loops written from their formulas, in value and in gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from beyond_text.batch import Judged
from beyond_text.losses import (
    LOSSES,
    chance_level,
    info_nce,
    relevance_matrix,
    share_between_equals,
    sigmoid,
)

DIM = 5


class Case(NamedTuple):
    """The seven arguments of a loss, in order."""

    anchors: Tensor
    candidates: Tensor
    relevance: Tensor
    has_anchor: Tensor
    has_candidate: Tensor
    temperature: Tensor
    bias: Tensor

    def differentiable(self) -> Case:
        """The same values as fresh leaves."""
        leaves = ("anchors", "candidates", "temperature", "bias")
        return self._replace(
            **{name: getattr(self, name).detach().clone().requires_grad_() for name in leaves}
        )

    def rows(self, order: Tensor, columns: Tensor) -> Case:
        """The same case with its anchors and candidates picked or permuted."""
        return self._replace(
            anchors=self.anchors[order],
            candidates=self.candidates[columns],
            relevance=self.relevance[order][:, columns],
            has_anchor=self.has_anchor[order],
            has_candidate=self.has_candidate[columns],
        )


def graded_case(rows: int = 7, seed: int = 0, missing: bool = True) -> Case:
    """Random vectors; several graded positives a row, rows without any, rows without a view."""
    random = torch.Generator().manual_seed(seed)
    relevance = torch.rand(rows, rows, generator=random)
    relevance[torch.rand(rows, rows, generator=random) < 0.6] = 0
    relevance[0] = 0
    relevance[1, -1] = 1
    has_anchor, has_candidate = (torch.ones(rows, dtype=torch.bool) for _ in range(2))
    if missing:
        has_anchor[3] = has_candidate[4] = has_candidate[3] = False
    return Case(
        F.normalize(torch.randn(rows, DIM, generator=random), dim=1),
        F.normalize(torch.randn(rows, DIM, generator=random), dim=1),
        relevance,
        has_anchor,
        has_candidate,
        torch.tensor(0.2),
        torch.tensor(-1.5),
    )


def cosine(case: Case, i: int, j: int) -> Tensor:
    return sum((case.anchors[i, d] * case.candidates[j, d] for d in range(DIM)), torch.tensor(0.0))


def slow_direction(similarity: list[list[Tensor]], grades: list[list[float]]) -> Tensor:
    """Mean over anchors, weighted by best grade, of -sum_j p_ij log softmax_j."""
    total, weights = torch.tensor(0.0), 0.0
    for row, given_grades in zip(similarity, grades, strict=True):
        if sum(given_grades) == 0:
            continue
        denominator = sum((value.exp() for value in row), torch.tensor(0.0))
        loss = torch.tensor(0.0)
        for value, grade in zip(row, given_grades, strict=True):
            loss = loss - grade / sum(given_grades) * (value.exp() / denominator).log()
        total = total + max(given_grades) * loss
        weights += max(given_grades)
    return total / weights if weights else total


def slow_info_nce(case: Case) -> Tensor:
    anchors = [i for i in range(len(case.anchors)) if case.has_anchor[i]]
    candidates = [j for j in range(len(case.candidates)) if case.has_candidate[j]]
    s = [[cosine(case, i, j) / case.temperature for j in candidates] for i in anchors]
    r = [[float(case.relevance[i, j]) for j in candidates] for i in anchors]
    transposed = [list(column) for column in zip(*s, strict=True)]
    forward = slow_direction(s, r)
    return (forward + slow_direction(transposed, [list(c) for c in zip(*r, strict=True)])) / 2


def slow_sigmoid(case: Case) -> Tensor:
    total, anchors = torch.tensor(0.0), 0
    for i in range(len(case.anchors)):
        anchors += bool(case.has_anchor[i])
        for j in range(len(case.candidates)):
            if not (case.has_anchor[i] and case.has_candidate[j]):
                continue
            grade = float(case.relevance[i, j])
            z, weight = (1, grade) if grade > 0 else (-1, 1.0)
            logit = cosine(case, i, j) / case.temperature + case.bias
            total = total - weight * (1 / (1 + (-z * logit).exp())).log()
    return total / anchors


SLOW: dict[str, Callable[[Case], Tensor]] = {"info_nce": slow_info_nce, "sigmoid": slow_sigmoid}


def value_and_gradients(loss: Callable[..., Tensor], case: Case) -> tuple[Tensor, list[Tensor]]:
    case = case.differentiable()
    value = loss(*case)
    leaves = (case.anchors, case.candidates, case.temperature, case.bias)
    gradients = torch.autograd.grad(value, leaves, allow_unused=True)
    zeros = [torch.zeros_like(leaf) for leaf in leaves]
    return value.detach(), [z if g is None else g for g, z in zip(gradients, zeros, strict=True)]


def assert_same_value_and_gradients(
    left: tuple[Tensor, list[Tensor]], right: tuple[Tensor, list[Tensor]]
) -> None:
    torch.testing.assert_close(left[0], right[0], rtol=1e-5, atol=1e-6)
    for mine, reference in zip(left[1], right[1], strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_loss_equals_the_slow_loop_of_its_formula_in_value_and_gradient(
    name: str, missing: bool, seed: int
) -> None:
    case = graded_case(seed=seed, missing=missing)
    fast = value_and_gradients(LOSSES[name], case)
    slow = value_and_gradients(lambda *arguments: SLOW[name](Case(*arguments)), case)
    assert fast[0] > 0
    assert_same_value_and_gradients(fast, slow)


def test_info_nce_with_one_positive_a_row_is_clips_cross_entropy() -> None:
    case = graded_case(missing=False)._replace(relevance=torch.eye(7))

    def clip(anchors: Tensor, candidates: Tensor, *rest: Tensor) -> Tensor:
        logits, target = anchors @ candidates.T / rest[3], torch.arange(7)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    assert_same_value_and_gradients(
        value_and_gradients(info_nce, case), value_and_gradients(clip, case)
    )


def test_sigmoid_of_one_positive_a_row_is_binary_cross_entropy_summed_over_candidates() -> None:
    case = graded_case(missing=False)._replace(relevance=torch.eye(7))
    logits = case.anchors @ case.candidates.T / case.temperature + case.bias
    expected = F.binary_cross_entropy_with_logits(logits, torch.eye(7), reduction="sum") / 7
    torch.testing.assert_close(sigmoid(*case), expected)


@pytest.mark.parametrize("name", LOSSES)
def test_rows_that_miss_a_view_change_nothing(name: str) -> None:
    case = graded_case()._replace(
        has_anchor=torch.tensor([True] * 5 + [False] * 2),
        has_candidate=torch.tensor([True] * 5 + [False] * 2),
    )
    without = case.rows(torch.arange(5), torch.arange(5))
    value, gradients = value_and_gradients(LOSSES[name], case)
    expected, expected_gradients = value_and_gradients(LOSSES[name], without)
    torch.testing.assert_close(value, expected)
    for mine, reference in zip(gradients[:2], expected_gradients[:2], strict=True):
        torch.testing.assert_close(mine[:5], reference)
        assert (mine[5:] == 0).all()
    torch.testing.assert_close(gradients[2:], expected_gradients[2:])


@pytest.mark.parametrize("name", LOSSES)
def test_a_row_may_lack_one_view_and_still_serve_by_the_other(name: str) -> None:
    case = graded_case()._replace(has_anchor=torch.tensor([False] + [True] * 6))
    _, gradients = value_and_gradients(LOSSES[name], case)
    assert (gradients[0][0] == 0).all()
    assert (gradients[1][0] != 0).any()


@pytest.mark.parametrize("name", LOSSES)
@given(order=st.permutations(range(7)), columns=st.permutations(range(7)))
@settings(max_examples=20, deadline=None)
def test_the_order_of_rows_does_not_matter(name: str, order: list[int], columns: list[int]) -> None:
    case = graded_case()
    shuffled = case.rows(torch.tensor(order), torch.tensor(columns))
    torch.testing.assert_close(LOSSES[name](*shuffled), LOSSES[name](*case))


def test_info_nce_is_lowest_where_probability_is_shared_by_grade() -> None:
    """With p = (2/3, 1/3) the best softmax is p itself, and the loss then p's entropy."""
    case = graded_case(missing=False)
    logits = torch.tensor([2 / 3, 1 / 3, 1e-9]).log()
    relevance = torch.tensor([[1.0, 0.5, 0.0]])
    anchors, candidates = torch.ones(1, 1), logits[:, None]
    has = torch.ones(3, dtype=torch.bool)

    def forward(candidates: Tensor) -> Tensor:
        both = info_nce(anchors, candidates, relevance, has[:1], has, torch.tensor(1.0), case.bias)
        # One anchor is certain of itself from every candidate: the other direction is 0.
        return 2 * both

    entropy = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))
    torch.testing.assert_close(forward(candidates), torch.tensor(entropy))
    for shift in (0.3, -0.3):
        moved = candidates + torch.tensor([[shift], [0.0], [0.0]])
        assert forward(moved) > forward(candidates)


def test_an_anchor_counts_by_its_best_grade() -> None:
    case = graded_case(rows=2, missing=False)
    single = [
        2 * info_nce(*case._replace(relevance=torch.diag(torch.tensor(grades))))
        for grades in ([1.0, 0.0], [0.0, 1.0], [1.0, 0.25])
    ]
    torch.testing.assert_close(single[2], (single[0] + 0.25 * single[1]) / 1.25)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("absent", ["anchors", "candidates", "both", "positives"])
def test_with_nothing_to_contrast_gradients_are_finite_and_the_loss_is_zero(
    name: str, absent: str
) -> None:
    case, none = graded_case(), torch.zeros(7, dtype=torch.bool)
    if absent in ("anchors", "both"):
        case = case._replace(has_anchor=none)
    if absent in ("candidates", "both"):
        case = case._replace(has_candidate=none)
    if absent == "positives":
        case = case._replace(relevance=torch.zeros(7, 7))
    value, gradients = value_and_gradients(LOSSES[name], case)
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    if absent != "positives" or name == "info_nce":
        assert value == 0
        assert all((gradient == 0).all() for gradient in gradients)


def test_equal_vectors_are_at_chance_level() -> None:
    case = graded_case(missing=False)
    same = torch.ones(7, DIM) / DIM**0.5
    case = case._replace(anchors=same, candidates=same)
    for relevance in (torch.eye(7), case.relevance):
        value = info_nce(*case._replace(relevance=relevance))
        assert value.item() == pytest.approx(chance_level(7), rel=1e-5)
    assert chance_level(128) == math.log(128)
    assert chance_level(0) == 0


@pytest.mark.parametrize("name", LOSSES)
def test_low_precision_vectors_are_contrasted_in_float32(name: str) -> None:
    case = graded_case()
    low = case._replace(anchors=case.anchors.bfloat16(), candidates=case.candidates.bfloat16())
    rounded = case._replace(anchors=low.anchors.float(), candidates=low.candidates.float())
    with torch.autocast("cpu", torch.bfloat16):
        value = LOSSES[name](*low)
        same = LOSSES[name](*rounded)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, LOSSES[name](*rounded), rtol=1e-6, atol=0)
    torch.testing.assert_close(same, value, rtol=1e-6, atol=0)


def test_the_bias_moves_only_the_sigmoid() -> None:
    case = graded_case()
    assert info_nce(*case._replace(bias=torch.tensor(5.0))) == info_nce(*case)
    assert sigmoid(*case._replace(bias=torch.tensor(5.0))) != sigmoid(*case)


def judged_from(entries: list[tuple[int, int, float]]) -> Judged:
    keys, rows, grades = zip(*entries, strict=True) if entries else ((), (), ())
    return Judged(
        torch.tensor(keys, dtype=torch.long),
        torch.tensor(rows, dtype=torch.long),
        torch.tensor(grades, dtype=torch.float32),
    )


KEYS = st.sampled_from([-(2**63), -7, 0, 3, 2**63 - 1])


@given(
    query_key=st.lists(KEYS, min_size=1, max_size=6),
    judgements=st.dictionaries(st.tuples(KEYS, st.integers(0, 5)), st.sampled_from([0.25, 0.5, 1])),
)
@settings(max_examples=60, deadline=None)
def test_relevance_matrix_is_the_lookup_of_query_and_row(
    query_key: list[int], judgements: dict[tuple[int, int], float]
) -> None:
    judged = judged_from([(key, row, grade) for (key, row), grade in judgements.items()])
    expected = [[judgements.get((key, row), 0.0) for row in range(6)] for key in query_key]
    found = relevance_matrix(torch.tensor(query_key), judged, 6)
    torch.testing.assert_close(found, torch.tensor(expected))


@given(
    key=st.lists(KEYS, min_size=1, max_size=6),
    grades=st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=12, max_size=12),
)
@settings(max_examples=60, deadline=None)
def test_candidates_of_equal_key_share_the_best_relevance_among_them(
    key: list[int], grades: list[float]
) -> None:
    relevance = torch.tensor(grades).view(2, 6)[:, : len(key)]
    expected = [
        [max(float(row[j]) for j in range(len(key)) if key[j] == own) for own in key]
        for row in relevance
    ]
    found = share_between_equals(relevance, torch.tensor(key))
    torch.testing.assert_close(found, torch.tensor(expected))


def test_a_twin_known_as_positive_is_pulled_and_not_repelled() -> None:
    anchor = torch.tensor([[1.0, 0.0]])
    candidates = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    has, zero = torch.ones(3, dtype=torch.bool), torch.tensor(0.0)

    def pull_on_twin(relevance: list[float]) -> float:
        case = Case(
            anchor, candidates, torch.tensor([relevance]), has[:1], has, torch.tensor(1.0), zero
        )
        _, gradients = value_and_gradients(info_nce, case)
        return -float(gradients[1][1] @ anchor[0])

    assert pull_on_twin([1.0, 0.0, 0.0]) < 0
    assert pull_on_twin([1.0, 1.0, 0.0]) > 0
