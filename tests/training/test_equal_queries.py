"""What a query is, is its content: ids and their doubles change no loss, and shops share no ids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from beyond_text.config.settings import Config, Losses
from beyond_text.shards.batch import Judgment, Sample
from beyond_text.shards.collate import Collate
from beyond_text.training.module import ContrastiveModule
from tests.conftest import tiny_tokenizer
from tests.tiny import UNTAUGHT
from tests.training.test_module import some_module

WORDS = ["red vase", "a lamp", "blue rug", "a vase"]


def product(number: int, judgments: Sequence[Judgment], **more: object) -> Sample:
    """Returns a product that has the first of the judgments as its query."""
    picture = torch.full((3, 32, 32), 40 * number, dtype=torch.uint8)
    asked = judgments[0] if judgments else None
    losses = tuple(UNTAUGHT)
    return Sample(
        str(number), WORDS[number], picture, list(judgments), asked, losses=losses, **more  # type: ignore[arg-type]
    )  # fmt: skip


def losses_of(module: ContrastiveModule, samples: list[Sample]) -> dict[str, float]:
    collate = Collate(tiny_tokenizer(), 6, False, 32)
    batch = collate(samples)
    torch.manual_seed(0)
    module.eval()
    found: dict[str, Tensor] = module.losses(batch, module.model.embed(batch, module.views))
    return {name: value.item() for name, value in found.items()}


@pytest.fixture
def module(folder: Path) -> ContrastiveModule:
    return some_module(folder, batch_size=4)


def test_a_query_under_a_second_id_changes_no_loss(module: ContrastiveModule) -> None:
    """Two products answer one wording; once under one id, once under two, each with its own row."""
    other = Judgment("q9", "the lamp", "human", 1.0)

    def shop(second: str, words: str = "red vase") -> list[Sample]:
        return [
            product(0, [Judgment("q1", "red vase", "human", 1.0)]),
            product(1, [Judgment(second, words, "human", 0.5)]),
            product(2, [other]),
            product(3, []),
        ]

    same = losses_of(module, shop("q1"))
    assert losses_of(module, shop("q2")) == same
    assert losses_of(module, shop("q2", " Red  VASE ")).keys() == same.keys()
    doubled = [
        [Judgment("q1", "red vase", "human", 1.0), Judgment("q2", "red vase", "human", 1.0)],
        [Judgment("q2", "red vase", "human", 0.5), Judgment("q1", "red vase", "human", 0.5)],
    ]
    twice = [product(0, doubled[0]), product(1, doubled[1]), *shop("q1")[2:]]
    assert losses_of(module, twice) == same


def test_the_queries_of_two_ids_would_else_be_each_others_negatives(
    module: ContrastiveModule,
) -> None:
    """Other words under the second id: what the test above would see, were ids what counts."""
    first = product(0, [Judgment("q1", "red vase", "human", 1.0)])
    rest = [product(2, []), product(3, [])]
    same = losses_of(module, [first, product(1, [Judgment("q2", "red vase", "human", 1.0)]), *rest])
    apart = losses_of(module, [first, product(1, [Judgment("q2", "red rug", "human", 1.0)]), *rest])
    assert same["query_product"] != pytest.approx(apart["query_product"])


def test_equal_words_of_triggers_with_other_pictures_are_no_negatives_in_the_text_view(
    module: ContrastiveModule,
) -> None:
    def shop(words: str) -> list[Sample]:
        picture = torch.full((3, 32, 32), 200, dtype=torch.uint8)
        return [
            product(0, [Judgment("a", "red vase", "pair", 1.0, 0)], query_image=picture),
            product(1, [Judgment("b", words, "pair", 1.0, 1)], query_image=picture // 2),
            product(2, []),
            product(3, []),
        ]

    batch = Collate(tiny_tokenizer(), 6, False, 32)(shop("red vase"))
    assert batch.query_keys.trigger_text[0] == batch.query_keys.trigger_text[1]
    assert batch.query_keys.trigger_image[0] != batch.query_keys.trigger_image[1]
    assert batch.query_keys.query[0] != batch.query_keys.query[1]
    module.eval()
    same = losses_of(module, shop("red vase"))
    assert same["imcl"] != pytest.approx(losses_of(module, shop("red rug"))["imcl"])


def test_equal_product_ids_of_two_shops_are_two_products() -> None:
    collate = Collate(tiny_tokenizer(), 6, False, 32)
    one, other, shared = (
        collate([product(0, [], namespace=name)]).product_key for name in ("a", "b", "a")
    )
    assert one.equal(shared)
    assert not one.equal(other)


def test_query_pictures_of_two_sources_are_never_the_same_by_number() -> None:
    judged = [Judgment("q", "", "pair", 1.0, 5)]
    collate = Collate(tiny_tokenizer(), 6, False, 32)
    keys = [collate([product(0, judged, source=source)]).query_keys.query for source in (0, 0, 1)]
    assert keys[0].equal(keys[1])
    assert not keys[0].equal(keys[2])


@pytest.mark.parametrize("loss", ["info_nce", "ranked_nce", "sigmoid"])
def test_a_judged_zero_counts_as_often_among_the_negatives_as_the_setting_says(
    folder: Path,
    loss: str,
) -> None:
    yes, no = Judgment("q", "red vase", "human", 1.0), Judgment("q", "red vase", "human", 0.0)
    shop = [product(0, [yes]), product(1, [])._replace(judgments=[no]), product(2, [])]
    unjudged = [*shop[:1], product(1, []), *shop[2:]]
    only = Losses(query_product=1.0)

    def found(samples: list[Sample], weight: float) -> float:
        module = some_module(folder, batch_size=3, losses=only, loss=loss, negative_weight=weight)
        return losses_of(module, samples)["query_product"]

    once = found(shop, 1.0)
    assert once == pytest.approx(found(unjudged, 1.0))
    assert found(unjudged, 5.0) == pytest.approx(once)
    assert found(shop, 5.0) > once
    assert isinstance(Config().negative_weight, float)
