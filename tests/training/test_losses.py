"""Losses equal slow loops written from their formulas, in value and in gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from beyond_text.shards.batch import SELF_MATCH
from beyond_text.training.losses import chance_level
from tests.training.dense import LOSSES

DIM = 5
info_nce, ranked_nce, sigmoid = (LOSSES[name] for name in ("info_nce", "ranked_nce", "sigmoid"))


class Case(NamedTuple):
    """The seven arguments of a loss of two views, in order."""

    anchors: Tensor
    candidates: Tensor
    relevance: Tensor
    has_anchor: Tensor
    has_candidate: Tensor
    temperature: Tensor
    bias: Tensor

    def differentiable(self) -> Case:
        """Returns the same values as new leaves of the autograd graph."""
        leaves = ("anchors", "candidates", "temperature", "bias")
        return self._replace(
            **{name: getattr(self, name).detach().clone().requires_grad_() for name in leaves}
        )

    def rows(self, order: Tensor, columns: Tensor) -> Case:
        """Returns the case with its anchors and candidates selected or permuted."""
        return self._replace(
            anchors=self.anchors[order],
            candidates=self.candidates[columns],
            relevance=self.relevance[order][:, columns],
            has_anchor=self.has_anchor[order],
            has_candidate=self.has_candidate[columns],
        )


def graded_case(rows: int = 7, seed: int = 0, missing: bool = True, own: bool = False) -> Case:
    """Returns random vectors; rows have several graded positives, none, or lack a view.

    With `own`, some anchors are one of the candidates themselves, also one without any positive.
    """
    random = torch.Generator().manual_seed(seed)
    relevance = torch.rand(rows, rows, generator=random)
    relevance[torch.rand(rows, rows, generator=random) < 0.6] = 0
    relevance[0] = 0
    relevance[1, -1] = 1
    if own:
        relevance[[0, 1, 2, 5, 6], [1, 0, 2, 5, 2]] = SELF_MATCH
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


def slow_direction(
    similarity: list[list[Tensor]], grades: list[list[float]], lesser: bool = False
) -> Tensor:
    """Returns the mean over anchors, weighted by best grade, of -sum_j p_ij log softmax_j.

    Candidates of grade < 0 take no part. With `lesser`, the softmax of j is over j and the
    candidates of a lower grade.
    """
    total, weights = torch.tensor(0.0), 0.0
    for all_values, all_grades in zip(similarity, grades, strict=True):
        given_grades = [grade for grade in all_grades if grade >= 0]
        row = [value for value, g in zip(all_values, all_grades, strict=True) if g >= 0]
        if sum(given_grades) == 0:
            continue
        loss = torch.tensor(0.0)
        for place, (value, grade) in enumerate(zip(row, given_grades, strict=True)):
            denominator = torch.tensor(0.0)
            for k, other in enumerate(given_grades):
                if not lesser or k == place or other < grade:
                    denominator = denominator + row[k].exp()
            loss = loss - grade / sum(given_grades) * (value.exp() / denominator).log()
        total = total + max(given_grades) * loss
        weights += max(given_grades)
    return total / weights if weights else total


def slow_info_nce(case: Case, lesser: bool = False, fresh: int | None = None) -> Tensor:
    anchors = [i for i in range(len(case.anchors)) if case.has_anchor[i]]
    candidates = [j for j in range(len(case.candidates)) if case.has_candidate[j]]
    s = [[cosine(case, i, j) / case.temperature for j in candidates] for i in anchors]
    r = [[float(case.relevance[i, j]) for j in candidates] for i in anchors]
    first = sum(j < len(case.candidates[:fresh]) for j in candidates)
    transposed = [list(column) for column in zip(*s, strict=True)][:first]
    columns = [list(column) for column in zip(*r, strict=True)][:first]
    return (slow_direction(s, r, lesser) + slow_direction(transposed, columns, lesser)) / 2


def slow_sigmoid(case: Case) -> Tensor:
    total, anchors = torch.tensor(0.0), 0
    for i in range(len(case.anchors)):
        anchors += bool(case.has_anchor[i])
        for j in range(len(case.candidates)):
            if not (case.has_anchor[i] and case.has_candidate[j]):
                continue
            grade = float(case.relevance[i, j])
            if grade < 0:
                continue
            z, weight = (1, grade) if grade > 0 else (-1, 1.0)
            logit = cosine(case, i, j) / case.temperature + case.bias
            total = total - weight * (1 / (1 + (-z * logit).exp())).log()
    return total / anchors


SLOW: dict[str, Callable[[Case], Tensor]] = {
    "info_nce": slow_info_nce,
    "ranked_nce": partial(slow_info_nce, lesser=True),
    "sigmoid": slow_sigmoid,
}


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
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_loss_equals_the_slow_loop_of_its_formula_in_value_and_gradient(
    name: str, missing: bool, own: bool, seed: int
) -> None:
    case = graded_case(seed=seed, missing=missing, own=own)
    fast = value_and_gradients(LOSSES[name], case)
    slow = value_and_gradients(lambda *arguments: SLOW[name](Case(*arguments)), case)
    assert fast[0] > 0
    assert_same_value_and_gradients(fast, slow)


@pytest.mark.parametrize(("name", "lesser"), [("info_nce", False), ("ranked_nce", True)])
def test_remembered_candidates_are_anchors_of_nothing(name: str, lesser: bool) -> None:
    case = graded_case()
    found = value_and_gradients(partial(LOSSES[name], fresh=4), case)

    def slow(*tensors: Tensor) -> Tensor:
        case = Case(*tensors)
        fixed = torch.cat([case.candidates[:4], case.candidates[4:].detach()])
        return slow_info_nce(case._replace(candidates=fixed), lesser, fresh=4)

    assert_same_value_and_gradients(found, value_and_gradients(slow, case))


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
    """With p = (2/3, 1/3) the best softmax is p itself, and the loss is then the entropy of p."""
    case = graded_case(missing=False)
    logits = torch.tensor([2 / 3, 1 / 3, 1e-9]).log()
    relevance = torch.tensor([[1.0, 0.5, 0.0]])
    anchors, candidates = torch.ones(1, 1), logits[:, None]
    has = torch.ones(3, dtype=torch.bool)

    def forward(candidates: Tensor) -> Tensor:
        both = info_nce(anchors, candidates, relevance, has[:1], has, torch.tensor(1.0), case.bias)
        # The other direction has one anchor to choose from, so its loss is 0.
        return 2 * both

    entropy = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))
    torch.testing.assert_close(forward(candidates), torch.tensor(entropy))
    for shift in (0.3, -0.3):
        moved = candidates + torch.tensor([[shift], [0.0], [0.0]])
        assert forward(moved) > forward(candidates)


def test_ranked_nce_sets_a_positive_against_what_is_less_relevant_alone() -> None:
    s = [0.7, 0.2, -0.4]
    has = torch.ones(3, dtype=torch.bool)
    for grades, expected in (
        ([1.0, 1.0, 0.0], [(0.5, s[0], s[2:]), (0.5, s[1], s[2:])]),
        ([1.0, 0.5, 0.0], [(2 / 3, s[0], s[1:]), (1 / 3, s[1], s[2:])]),
        ([1.0, 1.0, 1.0], []),
    ):
        # The other direction has one anchor to choose from, so its loss is 0.
        found = 2 * ranked_nce(
            torch.ones(1, 1), torch.tensor(s)[:, None], torch.tensor([grades]), has[:1], has,
            torch.tensor(1.0),
        )  # fmt: skip
        values = [
            share * math.log1p(sum(math.exp(other - positive) for other in less))
            for share, positive, less in expected
        ]
        assert found.item() == pytest.approx(sum(values), abs=1e-6)


def test_ranked_nce_of_many_grades_keeps_no_more_for_the_backward_pass_than_of_few() -> None:
    """Clicks grade by fractions: every positive of a batch may have a grade of its own."""
    kept = []
    for number in (1, 400):
        case = graded_case(rows=20)
        order = torch.arange(400).view(20, 20) % number + 1
        relevance = (order / number).where(case.relevance > 0, 0.0)

        def keep(tensor: Tensor, sizes: list[int]) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(partial(keep, sizes=sizes), lambda t: t):
            case.anchors.requires_grad_()
            ranked_nce(*case._replace(relevance=relevance))
        kept.append(sum(sizes))
    assert 0 < kept[1] == kept[0]


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
        assert value.item() == pytest.approx(chance_level(7, 7), rel=1e-5)
    assert chance_level(64, 256) == pytest.approx(math.log(128))
    assert chance_level(0, 0) == 0


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
