"""The training step: relevance by id, modality dropout, learned loss weights, clipping."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional as F

from beyond_text.config.settings import Config, Data, LearningRates, Losses
from beyond_text.config.views import PAIRS, PRODUCT, QUERY, View
from beyond_text.shards.batch import (
    SELF_MATCH,
    Batch,
    Embeddings,
    Qrels,
    QueryKeys,
    Tokens,
)
from beyond_text.training.modality_dropout import drop_modalities
from beyond_text.training.module import ContrastiveModule
from beyond_text.training.relevance import Keys
from tests.models.test_two_tower import tiny_model
from tests.tiny import UNTAUGHT, some_pictures, some_tokens
from tests.training.counting import waits_of_a_step
from tests.training.dense import LOSSES, OBJECTIVES
from tests.training.global_batch import full_batch

ROWS = 8
# Rows 2 and 3 show one product, 4 and 5 have one text, 6 and 7 have one query.
QUERY_KEY = [7, 1, 2, 3, 4, 5, 6, 6]
PRODUCT_KEY = [10, 11, 12, 12, 14, 15, 16, 17]
TEXT_KEY = [20, 21, 22, 22, 24, 24, 26, 27]
GAINS = {
    (7, 0): 1.0,
    (7, 3): 0.5,
    (1, 4): 0.25,
    (2, 0): SELF_MATCH,
    (3, 5): SELF_MATCH,
    (5, 4): SELF_MATCH,
    (6, 6): 1.0,
}


def some_module(folder: Path, **settings: object) -> ContrastiveModule:
    """Returns a module on a single process; by default with every objective."""
    everything = Losses(*[1.0] * len(UNTAUGHT))
    config = Config(**{"losses": everything, "batch_size": ROWS, **settings})  # type: ignore[arg-type]
    module = ContrastiveModule(tiny_model(folder, "bert", "vit", fusion=config.fusion), config)
    module.trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    return module


def query_keys(keys: Sequence[int]) -> QueryKeys:
    """Gives queries one key for every view."""
    return QueryKeys(*(torch.tensor(keys),) * 3)


def some_batch(query_pictures: bool = True, queries_per_product: int = 1) -> Batch:
    """Returns rows with text, picture or both; their queries have one of them, both or neither.

    A product has its judgments in the first of its rows.
    """
    (ids, mask), every = some_tokens(ROWS), torch.arange(ROWS)
    judged = {key: gain for key, gain in GAINS.items() if key[1] % queries_per_product == 0}
    (keys, rows), gains = zip(*judged, strict=True), list(judged.values())
    asked = torch.tensor([0, 1, 2, -1, 4, 5, 6, 6])
    shown = torch.tensor([8, -1, 8, 9, -1, -1, 10, 10])
    return Batch(
        product_ids=list("abccefgh"),
        product_key=torch.tensor(PRODUCT_KEY),
        text=Tokens(ids, mask),
        text_row=torch.where(every == 1, -1, every),
        text_key=torch.tensor(TEXT_KEY),
        query=Tokens(ids.flip(0), mask.flip(0)),
        query_row=asked,
        query_keys=query_keys(QUERY_KEY),
        image=some_pictures(11),
        image_row=torch.where(every == 2, -1, every),
        query_image_row=shown if query_pictures else torch.full((ROWS,), -1),
        qrels=Qrels(query_keys(keys), torch.tensor(rows), torch.tensor(gains)),
        losses=tuple(UNTAUGHT),
        skipped=[],
    )


def some_embeddings(seed: int = 0) -> Embeddings:
    random = torch.Generator().manual_seed(seed)
    views = get_args(View)
    vectors = {v: F.normalize(torch.randn(ROWS, 16, generator=random), dim=1) for v in views}
    return Embeddings(vectors, {v: torch.rand(ROWS, generator=random) < 0.8 for v in views})


def by_hand(
    equal_texts: bool, queries_per_product: int = 1, equal_products: bool = False
) -> Tensor:
    """Returns relevance[i, j] by looking up the ids; optionally the best among equal ones.

    Of a product's `queries_per_product` rows, the first has its judgments.
    """
    found = torch.zeros(ROWS, ROWS)
    keys = TEXT_KEY if equal_texts else PRODUCT_KEY if equal_products else list(range(ROWS))
    for i, key in enumerate(QUERY_KEY):
        for j in range(ROWS):
            same = [k for k in range(0, ROWS, queries_per_product) if keys[k] == keys[j]]
            twins = same if equal_texts or equal_products else [j]
            gains = [GAINS.get((key, k), 0.0) for k in twins] or [0.0]
            found[i, j] = max(gains) if max(gains) > 0 else min(gains)
    return found


def twins() -> Tensor:
    """Returns 1 where two rows show one product or have one text."""
    same = [
        [PRODUCT_KEY[i] == PRODUCT_KEY[j] or TEXT_KEY[i] == TEXT_KEY[j] for j in range(ROWS)]
        for i in range(ROWS)
    ]
    return torch.tensor(same).float()


def test_every_objective_gets_vectors_relevance_by_id_and_its_own_temperature(
    folder: Path,
) -> None:
    module, embeddings = some_module(folder), some_embeddings()
    with torch.no_grad():
        for place, name in enumerate(PAIRS):
            module.model.temperatures[name].log_temperature.fill_(-1.0 - 0.1 * place)
    found = module.losses(some_batch(), embeddings)
    assert list(found) == list(UNTAUGHT)
    relevance = {"text_image": twins(), "query_text": by_hand(equal_texts=True)}
    vectors, present = embeddings
    for place, (name, (anchor, candidate)) in enumerate(PAIRS.items()):
        expected = LOSSES["info_nce"](
            vectors[anchor],
            vectors[candidate],
            relevance.get(name, by_hand(equal_texts=False)),
            present[anchor],
            present[candidate],
            torch.tensor(-1.0 - 0.1 * place).exp(),
            torch.tensor(0.0),
        )
        torch.testing.assert_close(found[name], expected)
    keys = Keys(query_keys(QUERY_KEY), torch.tensor(PRODUCT_KEY), torch.tensor(TEXT_KEY))
    for name, objective in OBJECTIVES.items():
        shared = torch.tensor(-1.0).exp()
        judged = dict.fromkeys(QUERY, by_hand(equal_texts=False))
        expected = objective(vectors, present, judged, keys, shared)
        torch.testing.assert_close(found[name], expected)
        assert found[name] > 0


def test_remembered_products_are_further_candidates_without_gradient(folder: Path) -> None:
    module = some_module(folder, memory_size=ROWS)
    now, before = some_embeddings(), some_embeddings(seed=1)
    alone = module.losses(some_batch(), now)
    older = {view: vector.requires_grad_() for view, vector in before.vectors.items()}
    module.memory.add(module.gather(some_batch(), Embeddings(older, before.present)))
    newer = {view: vector.requires_grad_() for view, vector in now.vectors.items()}
    found = module.losses(some_batch(), Embeddings(newer, now.present))
    relevance = {"text_image": twins(), "query_text": by_hand(equal_texts=True)}
    for name, (anchor, candidate) in PAIRS.items():
        # A remembered product is known by its id, and so is one that stands in the batch twice.
        gain = relevance.get(name, by_hand(equal_texts=False, equal_products=True))
        temperature = module.model.temperatures[name]
        expected = LOSSES["info_nce"](
            newer[anchor],
            torch.cat([newer[candidate], older[candidate]]),
            torch.cat([gain, gain], dim=1),
            now.present[anchor],
            torch.cat([now.present[candidate], before.present[candidate]]),
            temperature.value,
            temperature.bias,
            fresh=ROWS,
        )
        torch.testing.assert_close(found[name], expected)
        assert not found[name].isclose(alone[name])
    for name in OBJECTIVES:
        assert found[name].equal(alone[name])
    sum(found[name] for name in PAIRS).backward()
    assert all(vector.grad is None for vector in older.values())
    assert all(newer[view].grad.any() for view in ("query", "text", "image", "product"))


@pytest.mark.parametrize("loss", list(LOSSES))
@pytest.mark.parametrize("weights", [[], [0.5, 2.0, 3.0]])
def test_losses_are_summed_over_the_widths_with_their_gradients(
    folder: Path, loss: str, weights: list[float]
) -> None:
    widths = [4, 8, 16]
    several = some_module(
        folder, loss=loss, dim=16, memory_size=ROWS, matryoshka=widths, matryoshka_weights=weights
    )
    single = some_module(folder, loss=loss, dim=16, memory_size=ROWS)
    now, before = some_embeddings(), some_embeddings(seed=1)
    several.memory.add(several.gather(some_batch(), before))
    leaves = {view: rows.clone().requires_grad_() for view, rows in now.vectors.items()}
    found = several.losses(some_batch(), Embeddings(leaves, now.present))
    by_hand = {view: rows.clone().requires_grad_() for view, rows in now.vectors.items()}
    expected = dict.fromkeys(found, torch.tensor(0.0))
    for width, weight in zip(widths, weights or [1.0] * 3, strict=True):
        short = {v: rows[:, :width] for v, rows in by_hand.items()}
        if width < 16:
            lengths = {
                v: rows.square().sum(dim=1, keepdim=True).sqrt() for v, rows in short.items()
            }
            short = {v: rows / lengths[v] for v, rows in short.items()}
        older = {v: F.normalize(rows[:, :width], dim=1) for v, rows in before.vectors.items()}
        single.memory = type(single.memory)(ROWS)
        single.memory.add(single.gather(some_batch(), Embeddings(older, before.present)))
        for name, value in single.losses(some_batch(), Embeddings(short, now.present)).items():
            expected[name] = expected[name] + weight * value
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name])
        assert value > 0
    several.weights(found).backward()
    single.weights(expected).backward()
    for view, rows in leaves.items():
        torch.testing.assert_close(rows.grad, by_hand[view].grad)
        assert rows.grad.any()
    for name, temperature in several.model.temperatures.items():
        other = single.model.temperatures[name]
        torch.testing.assert_close(temperature.log_temperature.grad, other.log_temperature.grad)


def test_a_product_with_several_rows_is_a_candidate_once(folder: Path) -> None:
    module, embeddings = some_module(folder, batch_size=ROWS // 2), some_embeddings()
    found = module.losses(some_batch(queries_per_product=2), embeddings)
    vectors, present = embeddings
    relevance = {
        "text_image": twins()[::2, ::2],
        "query_text": by_hand(equal_texts=True, queries_per_product=2)[:, ::2],
    }
    for name, (anchor, candidate) in PAIRS.items():
        asking = slice(None, None, 2 if name == "text_image" else 1)
        expected = LOSSES["info_nce"](
            vectors[anchor][asking],
            vectors[candidate][::2],
            relevance.get(name, by_hand(equal_texts=False)[:, ::2]),
            present[anchor][asking],
            present[candidate][::2],
            module.model.temperatures[name].value,
        )
        torch.testing.assert_close(found[name], expected)

    def of_first_rows(rows: Tensor) -> Tensor:
        return rows[::2].repeat_interleave(2, dim=0)

    # To UniECS's objectives, a product is a candidate in each of its rows, which are all alike.
    for view in PRODUCT:
        vectors[view], present[view] = map(of_first_rows, (vectors[view], present[view]))
    product_key, text_key = (of_first_rows(torch.tensor(k)) for k in (PRODUCT_KEY, TEXT_KEY))
    keys = Keys(query_keys(QUERY_KEY), product_key, text_key)
    by_row = of_first_rows(by_hand(equal_texts=False).T).T
    for name, objective in OBJECTIVES.items():
        temperature = module.model.temperatures["text_image"].value
        judged = dict.fromkeys(QUERY, by_row)
        expected = objective(vectors, present, judged, keys, temperature)
        torch.testing.assert_close(found[name], expected)


def test_losses_that_a_source_is_not_meant_for_are_zero_with_zero_gradient(folder: Path) -> None:
    module, embeddings = some_module(folder), some_embeddings()
    vectors = {view: vector.requires_grad_() for view, vector in embeddings.vectors.items()}
    batch = some_batch()._replace(losses=("query_text", "cmal"))
    found = module.losses(batch, Embeddings(vectors, embeddings.present))
    whole = module.losses(some_batch(), embeddings)
    for name, loss in found.items():
        assert loss == (whole[name] if name in batch.losses else 0), name
    (found["imcl"] + found["query_image"]).backward()
    assert not vectors["trigger_image"].grad.any()
    assert not vectors["query"].grad.any()


def test_gradients_of_uniecs_objectives_reach_the_temperature_of_text_and_image(
    folder: Path,
) -> None:
    module = some_module(folder, losses=Losses(cmal=1.0, clal=1.0, imcl=1.0))
    module.weights(module.losses(some_batch(), some_embeddings())).backward()
    reached = {
        name
        for name, temperature in module.model.temperatures.items()
        if temperature.log_temperature.grad is not None and temperature.log_temperature.grad != 0
    }
    assert reached == {"text_image"}


def rows_of(batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return batch.text_row, batch.image_row, batch.query_row, batch.query_image_row


def test_a_step_drops_modalities_of_the_share_that_the_settings_name(folder: Path) -> None:
    for share in (0.0, 1.0):
        module = some_module(folder, memory_size=ROWS, data=Data(modality_dropout=share))
        module.log = lambda *_, **__: None  # type: ignore[method-assign]
        module.training_step(some_batch(), 0)
        candidates, _ = module.memory.all()
        both = candidates.present["text"] & candidates.present["image"]
        assert both.any() == (share == 0)


def test_queries_with_text_and_picture_lose_one_of_them_and_no_other_row_changes() -> None:
    batch = some_batch()
    for share in (0.0, 1.0):
        torch.manual_seed(1)
        lost = drop_modalities(batch, share, queries_per_product=1)
        for before, after in (
            ((batch.text_row, batch.image_row), (lost.text_row, lost.image_row)),
            ((batch.query_row, batch.query_image_row), (lost.query_row, lost.query_image_row)),
        ):
            both = (before[0] >= 0) & (before[1] >= 0)
            gone = [(now < 0) & (was >= 0) for was, now in zip(before, after, strict=True)]
            assert (gone[0] ^ gone[1]).tolist() == (both & bool(share)).tolist()
            for was, now, taken in zip(before, after, gone, strict=True):
                assert now[~taken].equal(was[~taken])


def test_what_a_query_loses_is_drawn_apart_from_what_its_product_loses() -> None:
    every = torch.arange(400)
    batch = some_batch()._replace(
        text_row=every, image_row=every, query_row=every, query_image_row=every
    )
    torch.manual_seed(0)
    text, _, query, _ = rows_of(drop_modalities(batch, 1.0, queries_per_product=1))
    for product_keeps in (text >= 0, text < 0):
        assert 0.35 < (query[product_keeps] >= 0).float().mean() < 0.65


def test_without_queries_pictures_a_step_draws_once_a_product_and_nothing_else() -> None:
    with_pictures, without = some_batch(), some_batch(query_pictures=False)
    torch.manual_seed(5)
    draw = torch.rand(ROWS)
    next_draw = torch.rand(1)
    torch.manual_seed(5)
    text, image, query, _ = rows_of(drop_modalities(without, 0.4, queries_per_product=1))
    assert torch.rand(1).equal(next_draw)
    assert query.equal(without.query_row)
    both = (without.text_row >= 0) & (without.image_row >= 0)
    assert (text < 0).equal((without.text_row < 0) | (both & (draw < 0.2)))
    assert (image < 0).equal((without.image_row < 0) | (both & (draw >= 0.2) & (draw < 0.4)))
    torch.manual_seed(5)
    same_text, same_image, _, _ = rows_of(drop_modalities(with_pictures, 0.4, 1))
    assert same_text.equal(text)
    assert same_image.equal(image)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("fusion", ["bilinear", "moe", "attended", "uniecs"])
def test_a_step_waits_for_the_device_at_most_five_times(
    folder: Path, loss: str, fusion: str
) -> None:
    # More texts than are encoded at once, so that they are sorted by length.
    module = some_module(
        folder,
        loss=loss,
        fusion=fusion,
        batch_size=20,
        memory_size=40,
        negative_weight=2.0,
        loss_weighting="learned",
        data=Data(modality_dropout=0.3),
    )
    module.log = lambda *_, **__: None  # type: ignore[method-assign]
    optimizer = module.configure_optimizers()["optimizer"]
    batch = full_batch(20, 2)
    for number in range(3):
        waits = waits_of_a_step(module, batch, number, optimizer)
        assert 0 < sum(waits.values()) <= 5, waits


def test_fixed_weights_leave_checkpoint_and_optimizer_as_they_were(folder: Path) -> None:
    fixed, learned = (some_module(folder, loss_weighting=w) for w in ("fixed", "learned"))
    assert set(fixed.state_dict()) == {f"model.{name}" for name in fixed.model.state_dict()}
    assert set(learned.state_dict()) - set(fixed.state_dict()) == {"weights.log_variance"}
    names = [
        [group["name"] for group in module.configure_optimizers()["optimizer"].param_groups]
        for module in (fixed, learned)
    ]
    assert names[1] == [*names[0], "loss_weights"]


def test_weights_that_learn_are_no_part_of_the_clipped_norm(folder: Path) -> None:
    module = some_module(folder, loss_weighting="learned", clip_norm=1.0, lr=LearningRates())
    logged: dict[str, Tensor] = {}
    module.log = lambda name, value, **_: logged.update({name: value})  # type: ignore[method-assign]
    weights = module.weights.log_variance
    assert weights is not None
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    first = next(module.model.parameters())
    assert first.grad is not None
    assert weights.grad is not None
    first.grad.view(-1)[0] = 3.0
    weights.grad.fill_(100.0)
    module.configure_gradient_clipping(None, None, None)
    assert logged["gradient_norm"] == 3.0
    assert first.grad.norm() == pytest.approx(1.0, rel=1e-4)
    assert (weights.grad == 100.0).all()


def test_seconds_before_a_kill_count(folder: Path) -> None:
    first, second, checkpoint = some_module(folder), some_module(folder), {}
    first.began -= 100
    first.on_save_checkpoint(checkpoint)
    assert second.seconds < 50
    second.on_load_checkpoint(checkpoint)
    assert 100 <= second.seconds < 150
