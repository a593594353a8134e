"""Losses equal slow loops written from their formulas, in value and in gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from beyond_text.config.views import View
from beyond_text.shards.batch import SELF_MATCH, QueryKeys
from beyond_text.training import blocks
from beyond_text.training.loss_weights import LossWeights
from beyond_text.training.losses import chance_level
from beyond_text.training.relevance import Judged, Keys, Relevance, Sides, judged_relevance
from tests.training.dense import LOSSES, OBJECTIVES, sharing

DIM = 5
info_nce, ranked_nce, sigmoid = (LOSSES[name] for name in ("info_nce", "ranked_nce", "sigmoid"))
cmal, clal, imcl = (OBJECTIVES[name] for name in ("cmal", "clal", "imcl"))


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


def judged_from(entries: list[tuple[int, int, float]]) -> Judged:
    keys, rows, grades = zip(*entries, strict=True) if entries else ((), (), ())
    return Judged(
        torch.tensor(keys, dtype=torch.long),
        torch.tensor(rows, dtype=torch.long),
        torch.tensor(grades, dtype=torch.float32),
    )


def in_blocks(relevance: Relevance, queries: int, products: int) -> tuple[Tensor, Tensor]:
    """Returns both matrices of a relevance, put together of blocks of two rows."""
    first, second = (
        torch.cat([blocks(slice(row, row + 2)) for row in range(0, rows, 2)])
        for blocks, rows in zip(relevance, (queries, products), strict=True)
    )
    return first, second


KEYS = st.sampled_from([-(2**63), -7, 0, 3, 2**63 - 1])


@given(
    query_key=st.lists(KEYS, min_size=1, max_size=6),
    judgments=st.dictionaries(
        st.tuples(KEYS, st.integers(0, 5)), st.sampled_from([SELF_MATCH, 0.0, 0.25, 0.5, 1])
    ),
)
@settings(max_examples=60, deadline=None)
def test_relevance_is_the_lookup_of_query_and_product_in_either_direction(
    query_key: list[int], judgments: dict[tuple[int, int], float]
) -> None:
    judged = judged_from([(key, row, grade) for (key, row), grade in judgments.items()])
    # A query of key 0 has nothing of the view.
    expected = torch.tensor(
        [[judgments.get((key, row), 0.0) if key else 0.0 for row in range(6)] for key in query_key]
    )
    zeros = torch.tensor(
        [[float(judgments.get((key, r)) == 0 and key != 0) for r in range(6)] for key in query_key]
    )
    keys, products = torch.tensor(query_key), torch.arange(6)
    # This process has the last queries and the products 2 to 5; the last are remembered ones.
    own = keys[len(keys) // 2 :]
    sides = Sides(own, keys, 2, 3, products)
    for columns, matrix in ((judged, expected), (judged.zeros(), zeros)):
        first, second = in_blocks(judged_relevance(columns, sides), len(own), 3)
        assert first.equal(matrix[len(keys) // 2 :])
        assert second.equal(matrix.T[2:5])


@given(
    key=st.lists(KEYS, min_size=1, max_size=6),
    grades=st.lists(st.sampled_from([SELF_MATCH, 0.0, 0.5, 1.0]), min_size=12, max_size=12),
)
@settings(max_examples=100, deadline=None)
def test_candidates_of_equal_key_share_the_best_relevance_among_them(
    key: list[int], grades: list[float]
) -> None:
    relevance = torch.tensor(grades).view(2, 6)[:, : len(key)]
    expected = slow_sharing(relevance.tolist(), key)
    queries = torch.tensor([5, 7])
    rows, columns = relevance.nonzero(as_tuple=True)
    judged = Judged(queries[rows], columns, relevance[rows, columns])
    sides = Sides(queries, queries, 0, len(key), torch.tensor(key))
    first, second = in_blocks(judged_relevance(judged, sides, shared=True), 2, len(key))
    assert first.equal(torch.tensor(expected))
    assert second.equal(torch.tensor(expected).T)


def slow_sharing(relevance: list[list[float]], key: list[int]) -> list[list[float]]:
    """Shares the best: a match is better than SELF_MATCH, which is better than not judged."""
    order = [0.0, SELF_MATCH]
    return [
        [
            max(
                (grade for grade, other in zip(row, key, strict=True) if other == own),
                key=lambda grade: grade if grade > 0 else order.index(grade) - 2,
            )
            for own in key
        ]
        for row in relevance
    ]


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


class Scene(NamedTuple):
    """The five arguments of the objectives of UniECS, in order."""

    vectors: dict[View, Tensor]
    present: dict[View, Tensor]
    relevance: dict[View, Tensor]
    keys: Keys
    temperature: Tensor

    def differentiable(self) -> Scene:
        """Returns the same values as new leaves of the autograd graph."""
        vectors = {v: x.detach().clone().requires_grad_() for v, x in self.vectors.items()}
        temperature = self.temperature.detach().clone().requires_grad_()
        return self._replace(vectors=vectors, temperature=temperature)

    def without(self, *views: View) -> Scene:
        """Returns the scene where no row has these views."""
        none = torch.zeros(len(self.keys.product), dtype=torch.bool)
        return self._replace(present=self.present | dict.fromkeys(views, none))


ITEMS: tuple[tuple[View, View, View], ...] = (
    ("text", "image", "product"),
    ("trigger_text", "trigger_image", "query"),
)


def some_scene(seed: int, rows: int = 13) -> Scene:
    """Returns more products than clal's neighbours; rows without a view hold random vectors.

    Rows 2, 3 show one product, 4, 5 have one text, 6, 7 one trigger, 9, 10 a trigger's text, 11, 12
    a trigger's picture; rows 0, 1, 8 have all views.
    """
    random = torch.Generator().manual_seed(seed)
    vectors: dict[View, Tensor] = {
        view: F.normalize(torch.randn(rows, DIM, generator=random), dim=1)
        for view in get_args(View)
    }
    present: dict[View, Tensor] = {}
    for text, image, fused in ITEMS:
        for view in (text, image):
            present[view] = torch.rand(rows, generator=random) < 0.8
            present[view][[0, 1, 8]] = True
        present[fused] = present[text] | present[image]
    relevance: dict[View, Tensor] = {}
    for view in ITEMS[1]:
        relevance[view] = torch.rand(rows, rows, generator=random)
        relevance[view][torch.rand(rows, rows, generator=random) < 0.7] = 0
        relevance[view][torch.rand(rows, rows, generator=random) < 0.1] = SELF_MATCH
        relevance[view][0, :3] = torch.tensor([1.0, 0.0, SELF_MATCH])
    product, text, query = (torch.arange(rows) for _ in range(3))
    product[3], text[3], text[5], query[7] = 2, 2, 4, 6
    queries = QueryKeys(query.clone(), query.clone(), query)
    queries.trigger_text[10], queries.trigger_image[12] = 9, 11
    return Scene(vectors, present, relevance, Keys(queries, product, text), torch.tensor(0.3))


Table = list[list[Tensor]]
Grades = list[list[float]]


def those(flags: Tensor) -> list[int]:
    return [row for row, there in enumerate(flags) if there]


def cosine_table(
    scene: Scene, one: View, other: View, rows: list[int], columns: list[int]
) -> Table:
    return [[scene.vectors[one][i] @ scene.vectors[other][j] for j in columns] for i in rows]


def picked(grades: Grades, rows: list[int], columns: list[int]) -> Grades:
    return [[grades[i][j] for j in columns] for i in rows]


def flipped(table: list[list]) -> list[list]:
    return [list(column) for column in zip(*table, strict=True)]


def harder_half(row: list[Tensor], grades: list[float]) -> list[float]:
    """Returns grades in which the easier half of the negatives is not contrasted."""
    negatives = [j for j, grade in enumerate(grades) if grade == 0]
    ranked = sorted(negatives, key=lambda j: -row[j].item())
    easy = ranked[math.ceil(len(negatives) / 2) :]
    return [SELF_MATCH if j in easy else grade for j, grade in enumerate(grades)]


def slow_symmetric(
    cosine: Table, grades: Grades, temperature: Tensor, margin: float = 0.0, hard: bool = False
) -> Tensor:
    total = torch.tensor(0.0)
    for table, given_grades in ((cosine, grades), (flipped(cosine), flipped(grades))):
        logits = [
            [(c - margin * (g > 0)) / temperature for c, g in zip(row, row_grades, strict=True)]
            for row, row_grades in zip(table, given_grades, strict=True)
        ]
        kept = given_grades
        if hard:
            kept = [harder_half(row, g) for row, g in zip(table, given_grades, strict=True)]
        total = total + slow_direction(logits, kept)
    return total / 2


def mean_of(values: list[tuple[float, Tensor]]) -> Tensor:
    """Returns the weighted mean of (weight, value) pairs; 0 where there are none."""
    total = sum((weight * value for weight, value in values), torch.tensor(0.0))
    return total / sum(weight for weight, _ in values) if values else total


def slow_ranking(scene: Scene, view: View) -> Tensor:
    """Returns the mean of relu(0.3 - s_ij + s_ik) over i, positives j, negatives k, by j's gain."""
    found = []
    for i in those(scene.present[view]):
        products = those(scene.present["product"])
        (row,) = cosine_table(scene, view, "product", [i], products)
        grades = [float(scene.relevance[view][i, j]) for j in products]
        for match, gain in zip(row, grades, strict=True):
            for other, grade in zip(row, grades, strict=True):
                if gain > 0 and grade == 0:
                    found.append((gain, (0.3 - match + other).clamp(min=0)))
    return mean_of(found)


def slow_cmal(scene: Scene) -> Tensor:
    keys, total = scene.keys, torch.tensor(0.0)
    asked = keys.query
    for views, item, of_text, of_image in (
        (ITEMS[0], keys.product, keys.text, keys.product),
        (ITEMS[1], asked.query, asked.trigger_text, asked.trigger_image),
    ):
        text, image, fused = views
        both = those(scene.present[text] & scene.present[image])
        pairs = (
            (text, image, [item, of_text, of_image]),
            (text, fused, [item, of_text]),
            (image, fused, [item, of_image]),
        )
        for one, other, equals in pairs:
            grades = [[float(any(k[i] == k[j] for k in equals)) for j in both] for i in both]
            table = cosine_table(scene, one, other, both, both)
            total = total + slow_symmetric(table, grades, scene.temperature)
        for alone in (text, image):
            cosine = [scene.vectors[alone][i] @ scene.vectors[fused][i] for i in both]
            total = total + mean_of([(1.0, 1 - value) for value in cosine])
    return total + sum(slow_ranking(scene, view) for view in ITEMS[1])


def slow_clal(scene: Scene) -> Tensor:
    found: dict[tuple[View, View], list[tuple[float, Tensor]]] = {}
    for i in those(scene.present["query"]):
        judged = scene.relevance["query"]
        allowed = [j for j in those(scene.present["product"]) if judged[i, j] >= 0]
        (fused,) = cosine_table(scene, "query", "product", [i], allowed)
        order = sorted(range(len(allowed)), key=lambda place: -fused[place].item())
        for j in [allowed[place] for place in order[:10]]:
            score = {
                product: scene.vectors[trigger][i] @ scene.vectors[product][j]
                for product, trigger in zip(*ITEMS, strict=True)
                if scene.present[trigger][i] and scene.present[product][j]
            }
            pairs: list[tuple[View, View]] = [
                ("image", "product"), ("text", "product"), ("image", "text"),
            ]  # fmt: skip
            for a, b in pairs:
                if a in score and b in score:
                    excess = ((score[a] - score[b]).abs() - 0.05).clamp(min=0)
                    found.setdefault((a, b), []).append((1.0, excess**2))
    return sum((mean_of(values) for values in found.values()), torch.tensor(0.0))


def slow_imcl(scene: Scene) -> Tensor:
    total, grades = torch.tensor(0.0), scene.relevance
    shared = slow_sharing(grades["trigger_text"].tolist(), scene.keys.text.tolist())
    for trigger, product, relevance, hard in (
        ("trigger_text", "text", shared, False),
        ("trigger_image", "image", grades["trigger_image"].tolist(), True),
    ):
        rows, columns = those(scene.present[trigger]), those(scene.present[product])
        table = cosine_table(scene, trigger, product, rows, columns)
        margin = 0.2 if hard else 0.0
        given_grades = picked(relevance, rows, columns)
        total = total + slow_symmetric(table, given_grades, scene.temperature, margin, hard)
    return total


SLOW_OBJECTIVES: dict[str, Callable[[Scene], Tensor]] = {
    "cmal": slow_cmal,
    "clal": slow_clal,
    "imcl": slow_imcl,
}


def objective_and_gradients(
    objective: Callable[..., Tensor], scene: Scene
) -> tuple[Tensor, list[Tensor]]:
    """Returns the value, and the gradients by the six views and the temperature."""
    scene = scene.differentiable()
    value = objective(*scene)
    leaves = [*scene.vectors.values(), scene.temperature]
    if not value.requires_grad:
        return value, [torch.zeros_like(leaf) for leaf in leaves]
    found = torch.autograd.grad(value, leaves, allow_unused=True)
    zeros = [torch.zeros_like(leaf) for leaf in leaves]
    return value.detach(), [z if g is None else g for g, z in zip(found, zeros, strict=True)]


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("seed", [0, 1])
def test_an_objective_equals_the_slow_loop_of_its_formula_in_value_and_gradient(
    name: str, seed: int
) -> None:
    scene = some_scene(seed)
    fast = objective_and_gradients(OBJECTIVES[name], scene)
    slow = objective_and_gradients(lambda *given: SLOW_OBJECTIVES[name](Scene(*given)), scene)
    assert fast[0] > 0
    assert_same_value_and_gradients(fast, slow)
    for view, gradient in zip(scene.vectors, fast[1], strict=False):
        assert (gradient[~scene.present[view]] == 0).all()


@pytest.mark.parametrize("name", [*LOSSES, *OBJECTIVES])
def test_blocks_of_anchors_give_the_whole_in_the_memory_of_one(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal held
        held += tensor.nbytes
        return tensor

    def found() -> tuple[Tensor, list[Tensor]]:
        nonlocal held
        held = 0
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            if name in LOSSES:
                return value_and_gradients(LOSSES[name], graded_case(rows=60))
            return objective_and_gradients(OBJECTIVES[name], some_scene(0, rows=120))

    whole = found()
    whole_held = held
    # The last block is smaller than the others.
    monkeypatch.setattr(blocks, "BLOCK", 7)
    assert_same_value_and_gradients(found(), whole)
    assert held < whole_held / 3


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize(
    "absent",
    [("trigger_image",), ("image",), ("trigger_text", "text"), ("trigger_image", "image")],
    ids="-".join,
)
def test_an_objective_without_a_view_is_that_of_what_is_left(
    name: str, absent: tuple[View, ...]
) -> None:
    scene = some_scene(2).without(*absent)
    fast = objective_and_gradients(OBJECTIVES[name], scene)
    slow = objective_and_gradients(lambda *given: SLOW_OBJECTIVES[name](Scene(*given)), scene)
    assert_same_value_and_gradients(fast, slow)
    for view, gradient in zip(scene.vectors, fast[1], strict=False):
        assert view not in absent or not gradient.any()


def test_text_only_triggers_leave_the_image_part_of_imcl_at_zero() -> None:
    scene = some_scene(3)
    value, gradients = objective_and_gradients(imcl, scene.without("trigger_image"))
    relevance = sharing(scene.relevance["trigger_text"], scene.keys.text)
    has = scene.present["trigger_text"], scene.present["text"]
    vectors = scene.vectors["trigger_text"], scene.vectors["text"]
    torch.testing.assert_close(value, info_nce(*vectors, relevance, *has, scene.temperature))
    found = dict(zip(scene.vectors, gradients, strict=False))
    assert not found["trigger_image"].any()
    assert not found["image"].any()
    assert found["text"].any()


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("absent", ["triggers", "products", "views", "judgments"])
def test_an_objective_of_nothing_is_zero_and_its_gradients_are_finite(
    name: str, absent: str
) -> None:
    scene = some_scene(4)
    taken = {"triggers": ITEMS[1], "products": ITEMS[0], "views": (*ITEMS[0], *ITEMS[1])}
    scene = scene.without(*taken.get(absent, ()))
    if absent == "judgments":
        scene = scene._replace(
            relevance={v: torch.full_like(m, SELF_MATCH) for v, m in scene.relevance.items()}
        )
    value, gradients = objective_and_gradients(OBJECTIVES[name], scene)
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    # cmal aligns items that have both modalities, whatever the queries and judgments.
    if name != "cmal" or absent == "views":
        assert value == 0
        assert not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_order_of_rows_does_not_matter_to_an_objective(name: str) -> None:
    scene = some_scene(5)
    order = torch.randperm(13, generator=torch.Generator().manual_seed(0))
    shuffled = Scene(
        {view: vectors[order] for view, vectors in scene.vectors.items()},
        {view: present[order] for view, present in scene.present.items()},
        {view: matrix[order][:, order] for view, matrix in scene.relevance.items()},
        Keys(
            QueryKeys(*(key[order] for key in scene.keys.query)),
            scene.keys.product[order],
            scene.keys.text[order],
        ),
        scene.temperature,
    )
    torch.testing.assert_close(OBJECTIVES[name](*shuffled), OBJECTIVES[name](*scene))


def at(*cosines: float) -> Tensor:
    """Returns unit vectors in the plane that have these cosines with (1, 0)."""
    return torch.tensor([[c, math.sqrt(1 - c * c)] for c in cosines])


def one_trigger(**views: Tensor) -> Scene:
    """Returns a trigger and three products, of which the first is relevant; views by name."""
    vectors: dict[View, Tensor] = {v: views.get(v, at(1.0, 1.0, 1.0)) for v in get_args(View)}
    rows = torch.arange(3)
    present: dict[View, Tensor] = {v: torch.full((3,), v in views) for v in get_args(View)}
    for view in ITEMS[1]:
        present[view] = present[view] & (rows == 0)
    judged = torch.tensor([[1.0, 0.0, 0.0], [0.0] * 3, [0.0] * 3])
    relevance: dict[View, Tensor] = dict.fromkeys(ITEMS[1], judged)
    keys = Keys(QueryKeys(rows, rows, rows), rows, rows)
    return Scene(vectors, present, relevance, keys, torch.tensor(0.5))


def test_imcl_lessens_the_positive_cosine_and_drops_the_easy_half() -> None:
    """The relevant picture has cosine 0.6; the others have 0.5 and 0.1, and 0.1 is dropped."""
    same = at(1.0, 1.0, 1.0)
    value = imcl(*one_trigger(trigger_image=same, image=at(0.6, 0.5, 0.1)))
    # From the product's side there is one trigger to choose from, so that direction is 0.
    expected = math.log(1 + math.exp((0.5 - (0.6 - 0.2)) / 0.5)) / 2
    assert value.item() == pytest.approx(expected, rel=1e-5)


def test_clal_is_the_square_of_what_goes_beyond_the_slack() -> None:
    same = at(1.0, 1.0, 1.0)
    scene = one_trigger(
        query=same, product=at(0.9, 0.8, 0.5), trigger_text=same, text=at(0.6, 0.8, 0.54)
    )
    assert clal(*scene).item() == pytest.approx((0.3 - 0.05) ** 2 / 3, rel=1e-5)
    judged = torch.tensor([[SELF_MATCH, 0.0, 0.0], [0.0] * 3, [0.0] * 3])
    own = scene._replace(relevance={"query": judged})
    assert clal(*own).item() == 0


def test_the_margin_of_cmal_is_one_of_cosines_whatever_the_temperature() -> None:
    scene = one_trigger(query=at(1.0, 1.0, 1.0), product=at(0.6, 0.5, 0.1))
    expected = pytest.approx((0.3 - 0.6 + 0.5) / 2, rel=1e-5)
    for temperature in (0.02, 1.0):
        assert cmal(*scene._replace(temperature=torch.tensor(temperature))).item() == expected


def test_fixed_weights_are_the_weighted_sum_and_no_parameters() -> None:
    weights = LossWeights({"a": 1.0, "b": 0.25}, learned=False)
    total = weights({"b": torch.tensor(4.0), "a": torch.tensor(3.0)})
    assert total.item() == 4.0
    assert weights.state_dict() == {}
    assert weights.learned() == {}


def test_learned_weights_and_their_gradients_are_those_of_the_formula() -> None:
    weights = LossWeights({"a": 1.0, "b": 0.25}, learned=True)
    losses = {
        name: torch.tensor(value, requires_grad=True) for name, value in (("a", 3.0), ("b", 0.5))
    }
    assert weights(losses).item() == pytest.approx((3.0 + 0.25 * 0.5) / 2)
    assert weights.log_variance is not None
    with torch.no_grad():
        weights.log_variance.copy_(torch.tensor([0.7, -0.4]))
    total = weights(losses)
    total.backward()
    s, w, value = (0.7, -0.4), (1.0, 0.25), (3.0, 0.5)
    terms = [w[i] * (value[i] * math.exp(-s[i]) / 2 + s[i] / 2) for i in (0, 1)]
    assert total.item() == pytest.approx(sum(terms))
    slopes = [w[i] / 2 * (1 - value[i] * math.exp(-s[i])) for i in (0, 1)]
    assert weights.log_variance.grad is not None
    assert weights.log_variance.grad.tolist() == pytest.approx(slopes)
    effective = {name: weight.item() for name, weight in weights.learned().items()}
    assert effective == pytest.approx({n: w[i] * math.exp(-s[i]) / 2 for i, n in enumerate("ab")})
    for name, leaf in losses.items():
        assert leaf.grad is not None
        assert leaf.grad.item() == pytest.approx(effective[name])


def test_an_objective_with_nothing_to_compare_teaches_its_weight_nothing() -> None:
    weights = LossWeights({"a": 1.0, "b": 1.0}, learned=True)
    weights({"a": torch.tensor(2.0), "b": torch.tensor(0.0)}).backward()
    assert weights.log_variance is not None
    assert weights.log_variance.grad is not None
    assert weights.log_variance.grad.tolist() == [-0.5, 0.0]
