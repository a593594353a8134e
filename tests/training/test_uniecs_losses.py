"""UniECS's objectives equal slow loops written from their formulas, in value and in gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, get_args

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from beyond_text.config.views import View
from beyond_text.shards.batch import SELF_MATCH, QueryKeys
from beyond_text.training import blocks
from beyond_text.training.relevance import Keys
from tests.training.dense import LOSSES, OBJECTIVES, sharing
from tests.training.test_losses import (
    DIM,
    assert_same_value_and_gradients,
    graded_case,
    info_nce,
    slow_direction,
    value_and_gradients,
)
from tests.training.test_relevance import slow_sharing

cmal, clal, imcl = (OBJECTIVES[name] for name in ("cmal", "clal", "imcl"))


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
