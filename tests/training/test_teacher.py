"""Soft targets of a teacher: values and gradients by hand, what is masked, and whom it teaches."""

from __future__ import annotations

import copy
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from beyond_text.config.load import load_config
from beyond_text.config.settings import ConfigError, Losses
from beyond_text.shards.batch import SELF_MATCH, Batch, Embeddings
from beyond_text.train import train
from beyond_text.training import blocks
from beyond_text.training.blocks import Direction, losses_of
from beyond_text.training.build import build, build_teacher
from beyond_text.training.gathered import pools_of
from beyond_text.training.module import ContrastiveModule
from beyond_text.training.processes import Processes
from beyond_text.training.teacher import Lesson, Teacher, follow
from tests.models.test_two_tower import tiny_model
from tests.test_train import board
from tests.training.test_module import some_batch, some_module

QUERIES, PRODUCTS, DIM = 5, 6, 4
TEMPERATURE = 0.2


def unit(rows: int, width: int, seed: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, width, generator=random), dim=1)


def some_direction() -> tuple[Direction, Tensor]:
    """Some queries and products that are not there, a product that is its own query.

    Also returns the vectors of the products.
    """
    products = unit(PRODUCTS, DIM, 2).requires_grad_()
    relevance = torch.zeros(QUERIES, PRODUCTS)
    relevance[0, 0], relevance[1, 4], relevance[3, 3] = 1.0, 0.5, SELF_MATCH
    # A query left without a product.
    relevance[4] = SELF_MATCH
    direction = Direction(
        unit(QUERIES, DIM, 1).requires_grad_(),
        torch.tensor([True, True, False, True, True]),
        pools_of({"product": products}, Processes())["product"],
        torch.tensor([True, False, True, True, True, True]),
        relevance.__getitem__,
    )
    return direction, products


def some_lesson() -> Lesson:
    return Lesson(unit(QUERIES, 7, 3), unit(PRODUCTS, 7, 4), TEMPERATURE)


def by_hand(direction: Direction, lesson: Lesson) -> tuple[float, Tensor]:
    """Returns the loss, and its gradient by the student's cosines, number by number."""
    relevance = direction.relevance(slice(0, QUERIES))
    cosine = (direction.anchors @ direction.candidates.vectors.T).detach()
    taught = lesson.queries @ lesson.products.T
    total, counted, gradient = 0.0, 0, torch.zeros(QUERIES, PRODUCTS)
    for i in range(QUERIES):
        products = [
            j
            for j in range(PRODUCTS)
            if direction.has_anchor[i] and direction.has_candidate[j] and relevance[i, j] >= 0
        ]
        if not products:
            continue
        counted += 1
        p, q = (
            {j: math.exp(matrix[i, j].item() / lesson.temperature) for j in products}
            for matrix in (taught, cosine)
        )
        p, q = ({j: value / sum(each.values()) for j, value in each.items()} for each in (p, q))
        for j in products:
            total += p[j] * math.log(p[j] / q[j])
            gradient[i, j] = (q[j] - p[j]) / lesson.temperature
    return total / counted, gradient / counted


def value_of(direction: Direction, lesson: Lesson) -> Tensor:
    return losses_of({"teacher": follow(direction, lesson)})["teacher"]


@pytest.mark.parametrize("size", [None, 1, 2])
def test_the_loss_is_the_divergence_of_what_takes_part_and_its_gradient_q_less_p(
    size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if size:
        # As where the matrices are too large to be held at once.
        monkeypatch.setattr(blocks, "BLOCK", size)
        monkeypatch.setattr(blocks, "KEPT", 0)
    (direction, candidates), lesson = some_direction(), some_lesson()
    expected, gradient = by_hand(direction, lesson)
    found = value_of(direction, lesson)
    assert found.item() == pytest.approx(expected, rel=1e-5)
    assert expected > 0.1
    found.backward()
    anchors = direction.anchors
    assert anchors.grad is not None
    assert candidates.grad is not None
    torch.testing.assert_close(anchors.grad, gradient @ candidates.detach())
    torch.testing.assert_close(candidates.grad, gradient.T @ anchors.detach())
    # Nothing reaches what takes no part.
    assert not anchors.grad[[2, 4]].any()
    assert not candidates.grad[1].any()


def test_a_teacher_that_is_the_student_teaches_nothing() -> None:
    direction, candidates = some_direction()
    same = Lesson(direction.anchors.detach(), candidates.detach(), TEMPERATURE)
    found = value_of(direction, same)
    assert found.item() == pytest.approx(0, abs=1e-6)
    found.backward()
    assert direction.anchors.grad is not None
    torch.testing.assert_close(direction.anchors.grad, torch.zeros(QUERIES, DIM))


def test_a_batch_without_a_query_teaches_nothing() -> None:
    direction = some_direction()[0]._replace(has_anchor=torch.zeros(QUERIES, dtype=torch.bool))
    found = value_of(direction, some_lesson())
    found.backward()
    assert found == 0
    assert direction.anchors.grad is not None
    assert not direction.anchors.grad.any()


def fed() -> Batch:
    """Returns a batch of a source that feeds the loss."""
    return some_batch()._replace(losses=("teacher",))


def taught_module(folder: Path, teacher: Teacher, **settings: object) -> ContrastiveModule:
    module = some_module(folder, losses=Losses(query_product=1.0), **settings)
    config = replace(module.config, losses=Losses(teacher=1.0), teacher="somewhere")
    taught = ContrastiveModule(module.model, config, teacher)
    taught.trainer = module.trainer
    return taught


def embedded(module: ContrastiveModule, batch: Batch) -> Embeddings:
    return module.model.embed(batch, module.views)


def test_a_copy_of_the_model_gives_no_gradient_and_another_one_does(folder: Path) -> None:
    model = tiny_model(folder, "bert", "vit")
    module = taught_module(folder, Teacher(copy.deepcopy(model)))
    module.eval()
    for teacher, learns in ((Teacher(copy.deepcopy(module.model)), False), (other(folder), True)):
        module.teacher = teacher
        module.zero_grad()
        loss = module.losses(fed(), embedded(module, fed()))["teacher"]
        loss.backward()
        norms = [p.grad.norm() for p in module.model.parameters() if p.grad is not None]
        assert (loss.item() > 1e-2) == learns
        assert (max(norms) > 1e-3) == learns
        assert all(p.grad is None for p in teacher.model.parameters())
    # The student's temperature is not used: both are divided by the teacher's.
    assert all(t.log_temperature.grad is None for t in module.model.temperatures.values())


def other(folder: Path) -> Teacher:
    """A teacher of another width, backbone, fusion and picture size."""
    return Teacher(
        tiny_model(folder, "xlm-roberta", "timm_resnet", dim=12, fusion="gated", image_size=48)
    )


def test_a_teacher_of_another_kind_sees_the_batch_by_its_own_towers(folder: Path) -> None:
    teacher, batch = other(folder), fed()
    before = {name: value.clone() for name, value in teacher.model.state_dict().items()}
    lesson = teacher.lesson(batch, 1)
    assert lesson.queries.shape == lesson.products.shape == (8, 12)
    assert not lesson.queries.requires_grad
    assert lesson.temperature == pytest.approx(0.05)
    # By hand, at the size that it takes.
    pictures = F.interpolate(batch.image.float(), 48, mode="bilinear", antialias=True)
    resized = batch._replace(image=pictures.round().clamp(0, 255).to(torch.uint8))
    expected = teacher.model.embed(resized, ("query", "product")).vectors
    torch.testing.assert_close(lesson.products, expected["product"])
    torch.testing.assert_close(lesson.queries, expected["query"])
    # A product stands in adjacent rows, one for each query.
    two = teacher.lesson(batch, 2)
    assert two.queries.equal(lesson.queries)
    assert two.products.equal(lesson.products[::2])
    # It is frozen, its moving statistics too.
    after = teacher.model.state_dict()
    assert not teacher.model.training
    assert all(after[name].equal(value) for name, value in before.items())
    assert Teacher(teacher.model, 0.3).temperature == 0.3


def test_the_student_follows_at_each_width_by_its_weight(folder: Path) -> None:
    teacher = other(folder)
    widths, weights = [4, 8, 16], [0.5, 2.0, 3.0]
    module = taught_module(folder, teacher, matryoshka=widths, matryoshka_weights=weights)
    batch = fed()
    embeddings = embedded(module, batch)
    found = module.losses(batch, embeddings)["teacher"]
    assert found > 0.01
    expected = torch.zeros(())
    for width, weight in zip(widths, weights, strict=True):
        single = taught_module(folder, teacher)
        short = {v: F.normalize(x[:, :width], dim=1) for v, x in embeddings.vectors.items()}
        expected = (
            expected + weight * single.losses(batch, embeddings._replace(vectors=short))["teacher"]
        )
    torch.testing.assert_close(found, expected)


def test_remembered_products_take_no_part(folder: Path) -> None:
    module = taught_module(folder, other(folder))
    batch = fed()
    embeddings = embedded(module, batch)
    alone = module.losses(batch, embeddings)["teacher"]
    assert alone > 0.01
    module.memory.size = 64
    module.memory.add(module.gather(batch, embeddings))
    assert module.memory.rows == 8
    assert module.losses(batch, embeddings)["teacher"].equal(alone)


def test_a_source_that_does_not_feed_the_loss_has_none(folder: Path) -> None:
    module = taught_module(folder, other(folder))
    batch = fed()._replace(losses=("query_product",))
    assert module.losses(batch, embedded(module, batch))["teacher"] == 0


def test_a_copy_of_a_module_shares_its_teacher_and_a_checkpoint_has_none(folder: Path) -> None:
    module = taught_module(folder, other(folder))
    assert copy.deepcopy(module).teacher is module.teacher
    assert not any("teacher" in name for name in module.state_dict())
    module.train()
    assert module.teacher
    assert not module.teacher.model.training


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["losses.teacher=1"], "teacher: a run folder and a weight for losses.teacher come"),
        (["teacher=runs/x"], "teacher: a run folder and a weight for losses.teacher come"),
        (["teacher_temperature=0.1"], "teacher_temperature: only a teacher uses it"),
        (["teacher=x", "losses.teacher=1", "teacher_temperature=0"], "from 0.001 to 1, got 0"),
        (["teacher=x", "losses.teacher=1", "cache=runs/cache"], "cache: it holds .* expected ''"),
        (["teacher=s3://x/y", "losses.teacher=1"], "teacher: expected a folder of this machine"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config([], words)


@pytest.fixture(scope="module")
def settings(tiny_settings: list[str], tiny_run: Path) -> list[str]:
    return [*tiny_settings, f"teacher={tiny_run}", "losses.teacher=1"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["text_encoder.query_prefix=ask: "], "its query_prefix is '', the student's 'ask: '"),
        (["text_encoder.max_length=20"], r"max_length: the teacher .* takes at most 16, got 20"),
    ],
)
def test_a_teacher_that_cannot_read_the_batches_is_refused(
    settings: list[str], words: list[str], said: str
) -> None:
    config = load_config([], [*settings, *words])
    with pytest.raises(ConfigError, match=said):
        build_teacher(config, *build(config))


@pytest.mark.slow
def test_a_teacher_of_other_texts_is_told(
    settings: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for words, said in (([], 0), (["data.text_fields=[title]"], 1)):
        config = load_config([], [*settings, *words])
        build_teacher(config, *build(config))
        assert capsys.readouterr().err.count("learned from texts of") == said


@pytest.mark.slow
def test_the_temperature_is_the_teachers_own_or_the_setting(
    settings: list[str], tiny_run: Path
) -> None:
    learned = load_file(tiny_run / "model" / "model.safetensors")
    own = learned["temperatures.query_product.log_temperature"].exp().item()
    for words, expected in (([], own), (["teacher_temperature=0.3"], 0.3)):
        config = load_config([], [*settings, *words])
        teacher = build_teacher(config, *build(config))
        assert teacher
        assert teacher.temperature == pytest.approx(expected)


@pytest.mark.slow
def test_a_teacher_of_another_tokenizer_is_refused_and_one_that_is_not_there(
    settings: list[str], tiny_run: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_run, other)
    file = other / "model" / "text_encoder" / "tokenizer.json"
    file.write_text(file.read_text().replace('"vase"', '"chair"'))
    config = load_config([], [*settings, f"teacher={other}"])
    with pytest.raises(ConfigError, match="its tokenizer is not the student's"):
        build_teacher(config, *build(config))
    config = load_config(
        [], [*settings, f"teacher={tmp_path / 'nowhere'}", f"run={tmp_path / 'r'}"]
    )
    with pytest.raises(ValueError, match="nowhere: no finished model there"):
        train(config)


@pytest.mark.slow
def test_a_run_is_taught_logs_its_loss_and_refuses_another_teacher(
    settings: list[str], tiny_settings: list[str], tmp_path: Path
) -> None:
    """With averaging, accumulation, memory, missing views, several queries and learned weights."""
    teacher = tmp_path / "teacher"
    words = ["losses.query_product=1", "steps=20", "lr.text_encoder=0.003", "dim=12"]
    train(load_config([], [*tiny_settings, *words, f"run={teacher}"]))
    words = [
        *settings, f"teacher={teacher}", "losses.teacher=2", "losses.query_product=0.1",
        "steps=12", "warmup=0", "average_span=0.4", "accumulate=2", "memory_size=16",
        "data.modality_dropout=0.3", "data.queries_per_product=2", "trainer.log_every_n_steps=1",
        "loss_weighting=learned", "matryoshka=[8,16]", "lr.text_encoder=0.003",
        f"run={tmp_path / 'run'}",
    ]  # fmt: skip
    train(load_config([], words))
    scalars = board(tmp_path / "run")
    assert "loss/teacher" in scalars.Tags()["scalars"], list((tmp_path / "run").glob("events*"))
    losses = [event.value for event in scalars.Scalars("loss/teacher")]
    assert len(losses) == 12
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    tags = scalars.Tags()["scalars"]
    assert {"loss/query_product", "loss_weight/teacher", "temperature/query_product"} <= set(tags)
    assert "temperature/text_image" not in tags
    names = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert names.keys() == load_file(teacher / "model" / "model.safetensors").keys()
    assert "teacher" in json.loads((tmp_path / "run" / "inputs.json").read_text())
    with pytest.raises(ConfigError, match="other settings: teacher_temperature"):
        train(load_config([], [*words, "teacher_temperature=0.5"]))
    weights = teacher / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + bytes(4))
    with pytest.raises(ConfigError, match="what teacher held when the run began is not"):
        train(load_config([], words))
