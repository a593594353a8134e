"""The closed forms of a step's bytes are those of its tensors, up to sixteen processes.

The steps are real, on tensors that have a shape and no memory, in a process group of PyTorch's that
sends nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch import distributed as dist
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore

from beyond_text.config.views import PAIRS, PRODUCT, TEACHER
from beyond_text.shards.batch import Batch, Counts, Embeddings, Qrels, QueryKeys, Tokens
from beyond_text.training.blocks import losses_of
from beyond_text.training.contrasts import Contrasts
from beyond_text.training.cost import Step, held, messages, sent
from beyond_text.training.cross_batch import CrossBatchMemory
from beyond_text.training.gathered import gather
from beyond_text.training.losses import LOSSES
from beyond_text.training.processes import Processes
from beyond_text.training.teacher import Lesson, follow
from beyond_text.training.uniecs_losses import OBJECTIVES
from tests.tiny import UNTAUGHT
from tests.training.counting import Answers, LiveBytes
from tests.training.step_worker import counted

# As many positives as an anchor has at most.
POSITIVES = 64
GIGABYTE = 10**9
LARGE = Step(processes=16, products=4096, queries=4, dim=512, judgments=4 * 4096 * 4)


@pytest.fixture
def world() -> int:
    return 16


@pytest.fixture
def processes(world: int) -> Iterator[Processes]:
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world)
    try:
        yield Processes(world, 0)
    finally:
        dist.destroy_process_group()


def batch_of(step: Step, objectives: Sequence[str]) -> tuple[Batch, Embeddings]:
    """Returns the slice of a process, and vectors of the views of the objectives."""
    rows = step.products * step.queries
    row, judged = torch.zeros(rows, dtype=torch.long), torch.zeros(step.judgments).long()
    none = Tokens(row[:0, None], row[:0, None])
    views = sorted({view for name in objectives for view in UNTAUGHT[name]})
    batch = Batch(
        product_ids=[""] * rows,
        product_key=row,
        text=none,
        text_row=row,
        text_key=row,
        query=none,
        query_row=row,
        query_keys=QueryKeys(row, row, row),
        image=torch.zeros(0, 3, 1, 1, dtype=torch.uint8),
        image_row=row,
        query_image_row=row,
        qrels=Qrels(QueryKeys(judged, judged, judged), judged, judged.float()),
        losses=tuple(objectives),
        skipped=[],
        counts=Counts(step.products, 0, step.products, 0),
    )
    vectors = {view: torch.zeros(rows, step.dim, requires_grad=True) for view in views}
    return batch, Embeddings(vectors, dict.fromkeys(views, row == 0))


def measured(
    step: Step, objectives: Sequence[str], loss: str, processes: Processes, width: int = 0
) -> tuple[list[int], int, int]:
    """Returns the bytes of each message of a step, its number of sums, and the bytes it holds.

    Vectors are shortened to `width` numbers.
    """
    batch, embeddings = batch_of(step, objectives)
    temperature, bias = (torch.tensor(value, requires_grad=True) for value in (0.05, -10.0))
    numbers = [step.judgments, step.all_products, 0, step.all_products, 127]
    with counted() as calls, Answers(numbers, POSITIVES), LiveBytes() as live:
        memory = CrossBatchMemory(step.remembered)
        if step.remembered:
            memory.load(remembered_of(step, embeddings))
        lesson = lesson_of(step)
        taught = lesson.products if step.taught else None
        gathered = gather(batch, embeddings, step.queries, processes, step.remembered > 0, taught)
        contrasts = Contrasts(gathered, memory.all(), pairs=[n for n in objectives if n in PAIRS])
        terms = {
            name: OBJECTIVES[name](contrasts.scene.at(width), temperature)
            if name in OBJECTIVES
            else LOSSES[loss](contrasts.of_pair(name).at(width), temperature, bias)
            for name in objectives
        }
        if gathered.taught is not None:
            lesson = lesson._replace(products=gathered.taught)
            terms[TEACHER] = follow(contrasts.in_batch._replace(width=width), lesson)
        summed: list[int] = []

        def over_all(sums: Tensor) -> Tensor:
            summed.append(sums.shape[1])
            return processes.sum(sums)

        total = torch.stack(list(losses_of(terms, over_all, processes.world).values())).sum()
        # As after the step, when the backward pass begins.
        del gathered, contrasts, terms, lesson, taught
        total.backward()
    return [size for _, size in calls], summed[0], live.most


def lesson_of(step: Step) -> Lesson:
    """Returns what a teacher makes of the slice of a process."""
    rows = step.products * step.queries
    return Lesson(torch.zeros(rows, step.taught), torch.zeros(step.products, step.taught), 0.05)


def remembered_of(step: Step, embeddings: Embeddings) -> list[Any]:
    """Returns what a memory of two batches holds."""
    rows, judged = step.remembered // 2, step.judgments * step.processes // 2
    number = torch.zeros(judged, dtype=torch.long)
    views = [view for view in PRODUCT if view in embeddings.vectors]
    return [
        (
            {view: torch.zeros(rows, step.dim) for view in views},
            {view: torch.zeros(rows, dtype=torch.bool) for view in views},
            *torch.zeros(2, rows, dtype=torch.long),
            *torch.zeros(4, judged, dtype=torch.long),
            number.float(),
        )
        for _ in range(2)
    ]


def size_for(step: Step, objectives: Sequence[str]) -> Step:
    views = {view for name in objectives for view in UNTAUGHT[name]}
    products = len(views & set(PRODUCT))
    return step._replace(query_views=len(views) - products, product_views=products)


SMALL = Step(16, 32, 2, 64, judgments=300)
MIDDLE = Step(16, 1024, 4, 256, judgments=1000)
CASES = [
    ("info_nce", list(PAIRS), SMALL),
    ("ranked_nce", list(PAIRS), SMALL),
    ("uniecs", list(UNTAUGHT), SMALL),
    ("sigmoid", ["query_product", "text_image"], MIDDLE),
    ("info_nce", ["query_text"], MIDDLE),
    ("ranked_nce", ["query_product"], MIDDLE),
    ("ranked_nce", ["query_product"], MIDDLE._replace(remembered=16 * 1024)),
    ("info_nce", ["query_product"], MIDDLE._replace(judgments=40_000)),
    ("uniecs", ["cmal"], Step(16, 1024, 1, 64, judgments=1000)),
    ("uniecs", ["imcl"], Step(16, 256, 2, 256, judgments=1000)),
    # With a teacher, narrower and wider than the model.
    ("info_nce", list(PAIRS), SMALL._replace(taught=96)),
    ("info_nce", ["query_product"], MIDDLE._replace(taught=768)),
    ("ranked_nce", ["query_product"], MIDDLE._replace(taught=64, remembered=16 * 1024)),
    ("sigmoid", ["query_product", "text_image"], MIDDLE._replace(taught=384)),
]


@pytest.mark.parametrize("width", [0, 32])
@pytest.mark.parametrize(("loss", "objectives", "step"), CASES)
def test_the_closed_forms_are_those_of_the_tensors(
    loss: str, objectives: list[str], step: Step, width: int, processes: Processes
) -> None:
    step = size_for(step, objectives)
    name = loss if loss in LOSSES else "info_nce"
    with FakeTensorMode(allow_non_fake_inputs=True):
        sizes, terms, most = measured(step, objectives, name, processes, width)
    expected = messages(step, terms)
    assert len(sizes) <= 8
    assert sum(sizes) == sum(expected.values())
    assert sizes[:3] == [expected[key] for key in ("columns", "length, largest", "judgments")]
    assert most <= held(step, loss)
    # The small ones are rounded up: each objective's matrices count as the largest one's.
    assert step.products < 1024 or held(step, loss) / 2 < most


def test_a_step_of_sixteen_times_4096_products_holds_at_most_four_gigabytes() -> None:
    remembers = LARGE._replace(remembered=LARGE.all_products)
    for loss in LOSSES:
        assert held(LARGE, loss) <= 4 * GIGABYTE, loss
        assert held(remembers, loss) <= 4 * GIGABYTE, loss
        # A teacher twice as wide: as it was gathered and apart, and what this process made.
        wide = LARGE._replace(taught=1024)
        assert held(wide, loss) - held(LARGE, loss) > 2 * 4 * 1024 * LARGE.all_products
        assert sent(wide) - sent(LARGE) == 4 * 1024 * 15 * LARGE.products
    every = size_for(LARGE, list(UNTAUGHT))
    assert (every.query_views, every.product_views) == (3, 3)
    assert held(every, "uniecs") <= 4 * GIGABYTE
    # What it would hold with one matrix of all queries and products, and its gathered copy.
    assert 2 * 4 * LARGE.all_queries * LARGE.all_products > 137 * GIGABYTE


@pytest.mark.parametrize("world", [256])
@pytest.mark.parametrize(
    ("loss", "objective", "width"), [("ranked_nce", "query_product", 256), ("uniecs", "imcl", 0)]
)
def test_so_do_the_tensors_of_as_many_products_on_more_processes(
    loss: str, objective: str, width: int, processes: Processes
) -> None:
    # With fewer anchors, the step has fewer blocks: it is as large, and counted sooner.
    step = size_for(LARGE, [objective])._replace(processes=256, products=256, judgments=4096)
    if loss != "uniecs":
        step = step._replace(remembered=LARGE.all_products)
    assert (step.all_products, step.all_queries) == (LARGE.all_products, LARGE.all_queries)
    with FakeTensorMode(allow_non_fake_inputs=True):
        name = loss if loss in LOSSES else "info_nce"
        _, _, most = measured(step, [objective], name, processes, width)
    assert held(step, loss) / 2 < most <= held(step, loss) <= 4 * GIGABYTE


def test_what_is_sent_grows_with_the_batch_and_not_with_the_square_of_it() -> None:
    assert sent(LARGE) < 2 * GIGABYTE
    double = LARGE._replace(products=2 * LARGE.products, judgments=2 * LARGE.judgments)
    assert sent(double) == pytest.approx(2 * sent(LARGE), rel=1e-3)
    assert sent(LARGE._replace(processes=1)) == 0
