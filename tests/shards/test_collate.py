"""Tests that a batch encodes a repeated text or picture once, keeps its rows, follows its seed."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from jaxtyping import UInt8
from torch import Tensor

from beyond_text.shards.batch import SELF_MATCH, Judgment, Sample, key_of, query_text_key, rows_of
from beyond_text.shards.collate import Collate, tokenize
from beyond_text.shards.transform import to_square
from tests.conftest import tiny_tokenizer

SIZE = 8


def gradient(width: int = 40, height: int = 30) -> UInt8[Tensor, "3 height width"]:
    """A picture whose red grows from left to right and green from top to bottom; blue is 0."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.linspace(0, 240, width).astype(np.uint8)
    pixels[..., 1] = np.linspace(0, 240, height).astype(np.uint8)[:, None]
    return torch.from_numpy(pixels).permute(2, 0, 1)


def sample(
    product_id: str, text: str, query: str | None = None, picture: bool = True, epoch: int = 0
) -> Sample:
    asked = Judgment(f"id of {query}", query, "human", 0.5) if query else None
    judgments = [asked] if asked else []
    return Sample(product_id, text, gradient() if picture else None, judgments, asked, epoch)


def collate(augment_seed: int | None = None, fixed_length: bool = False) -> Collate:
    return Collate(tiny_tokenizer(), 6, fixed_length, SIZE, augment_seed, smallest_crop=0.9)


SAMPLES: list[Sample | str] = [
    sample("1", "red vase", "the red vase"),
    sample("2", "a rug", None, picture=False),
    "shop sample 7: picture unreadable",
    sample("3", "red vase", "the red vase"),
    sample("4", "", "a lamp"),
]


def test_distinct_texts_and_queries_are_tokenised_once_and_found_by_row() -> None:
    batch = collate()(SAMPLES)
    assert batch.text_row.tolist() == [0, 1, -1, 0, -1]
    assert batch.query_row.tolist() == [0, -1, -1, 0, 1]
    words = tiny_tokenizer().convert_ids_to_tokens
    assert [words(row) for row in batch.text.input_ids.tolist()] == [
        ["[CLS]", "red", "vase", "[SEP]"],
        ["[CLS]", "a", "rug", "[SEP]"],
    ]
    assert [words(row) for row in batch.query.input_ids.tolist()] == [
        ["[CLS]", "the", "red", "vase", "[SEP]"],
        ["[CLS]", "a", "lamp", "[SEP]", "[PAD]"],
    ]
    assert batch.query.attention_mask.tolist() == [[1] * 5, [1, 1, 1, 1, 0]]


def test_pictures_stand_once_for_the_rows_that_have_one() -> None:
    batch = collate()(SAMPLES)
    assert batch.image_row.tolist() == [0, -1, -1, 1, 2]
    assert batch.image.shape == (3, 3, SIZE, SIZE)
    assert batch.image.dtype == torch.uint8
    torch.testing.assert_close(batch.image[1], to_square(gradient(), SIZE))


def test_a_skipped_sample_keeps_its_row_empty_and_is_named() -> None:
    batch = collate()(SAMPLES)
    assert batch.skipped == ["shop sample 7: picture unreadable"]
    assert batch.product_ids == ["1", "2", "", "3", "4"]
    for row in (batch.text_row, batch.query_row, batch.image_row):
        assert row[2] == -1
    assert 2 not in batch.qrels.product


def test_keys_are_equal_for_equal_ids_and_texts_alone() -> None:
    batch = collate()(SAMPLES)
    assert batch.product_key.tolist() == [key_of(f"/{name}") for name in batch.product_ids]
    assert batch.text_key[0] == batch.text_key[3] == key_of("red vase")
    the_red_vase, a_lamp = query_text_key("the red vase"), query_text_key("a lamp")
    assert batch.query_keys.query.tolist() == [the_red_vase, 0, 0, the_red_vase, a_lamp]
    assert batch.query_keys.trigger_text.tolist() == batch.query_keys.query.tolist()
    assert batch.query_keys.trigger_image.tolist() == [0] * 5
    assert len(set(batch.product_key.tolist())) == 5


def test_judgments_are_flat_columns_of_key_row_and_gain() -> None:
    both = sample("1", "red vase", "the red vase")
    both.judgments.append(Judgment("q2", "vase", "human", 1.0))
    qrels = collate()([sample("0", "a rug"), both]).qrels
    assert qrels.query.query.tolist() == [query_text_key("the red vase"), query_text_key("vase")]
    assert qrels.product.tolist() == [1, 1]
    assert qrels.gain.tolist() == [0.5, 1.0]
    assert qrels.gain.dtype == torch.float32


def asking(product_id: str, query_id: str, text: str, picture: bool = True) -> Sample:
    """A product without a picture, with a drawn query that has one."""
    query = Judgment(query_id, text, "pair", 1.0, int(query_id[1:]) if picture else None)
    image = gradient(30, 40) if picture else None
    return Sample(product_id, "rug", None, [query], query, 0, image)


def test_query_pictures_stand_once_behind_the_products() -> None:
    found = [
        asking("1", "q1", ""), sample("2", "a rug"), "unreadable", asking("3", "q2", "red rug"),
        asking("4", "q1", ""), asking("5", "q3", "a lamp", picture=False), sample("6", "red rug"),
    ]  # fmt: skip
    batch = collate()(found)
    assert batch.image_row.tolist() == [-1, 0, -1, -1, -1, -1, 1]
    assert batch.query_image_row.tolist() == [2, -1, -1, 3, 2, -1, -1]
    assert batch.query_row.tolist() == [-1, -1, -1, 0, -1, 1, -1]
    assert batch.image.shape == (4, 3, SIZE, SIZE)
    torch.testing.assert_close(batch.image[2], to_square(gradient(30, 40), SIZE))
    # A query without text is still the same query to every row.
    keys = batch.query_keys.query.tolist()
    assert keys[0] == keys[4] == batch.query_keys.trigger_image[0] != 0
    assert len(set(keys)) == 4


def test_a_product_in_several_rows_has_its_text_and_picture_encoded_once() -> None:
    found = [
        sample("1", "red vase", "the red vase"), sample("1", "red vase", "a vase"),
        sample("2", "a rug", "a rug"), sample("1", "red vase", "a vase", epoch=1),
    ]  # fmt: skip
    batch = collate(augment_seed=0)(found)
    assert batch.text_row.tolist() == [0, 0, 1, 0]
    # Another epoch crops the picture differently.
    assert batch.image_row.tolist() == [0, 0, 1, 2]
    assert len(batch.image) == 3
    assert batch.query_row.tolist() == [0, 1, 2, 1]
    assert batch.product_key[0] == batch.product_key[1] == key_of("/1")


def test_a_batch_without_query_pictures_points_at_none() -> None:
    assert collate()(SAMPLES).query_image_row.tolist() == [-1] * 5
    alone = Sample("", "", None, [], Judgment("q", "rug", "human"), 0)
    assert collate()([alone]).query_row.tolist() == [0]


def test_a_query_picture_is_augmented_by_its_query_and_not_by_the_product() -> None:
    def picture(product_id: str, query_id: str, seed: int | None = 0) -> bytes:
        batch = collate(seed)([asking(product_id, query_id, "")])
        return batch.image[0].numpy().tobytes()

    assert picture("1", "q1") == picture("2", "q1")
    assert len({picture("1", "q1"), picture("1", "q3"), picture("1", "q1", None)}) == 3
    # It is augmented like a product of that id.
    own = Sample("q1", "", gradient(30, 40), [], None)
    assert picture("1", "q1") == collate(0)([own]).image[0].numpy().tobytes()


def test_the_query_that_is_the_product_is_judged_with_its_own_mark() -> None:
    own = Judgment("trigger/1", "rug", "pair", SELF_MATCH)
    qrels = collate()([Sample("1", "rug", None, [own], None)]).qrels
    assert qrels.query.query.tolist() == [query_text_key("rug")]
    assert qrels.gain.tolist() == [-1.0]


@pytest.mark.parametrize("found", [["unreadable"] * 2, [sample("1", "", None, picture=False)] * 2])
def test_a_batch_of_nothing_has_its_rows_and_no_vectors(found: list[Sample | str]) -> None:
    batch = collate()(found)
    assert len(batch.product_ids) == 2
    for tokens, row in ((batch.text, batch.text_row), (batch.query, batch.query_row)):
        assert len(tokens.input_ids) == len(tokens.attention_mask) == 0
        assert row.tolist() == [-1, -1]
        assert row.dtype == torch.long
    assert batch.image.shape == (0, 3, SIZE, SIZE)
    assert batch.image.dtype == torch.uint8
    qrels = batch.qrels
    assert [len(column) for column in (*qrels.query, *qrels[1:])] == [0] * 5
    assert rows_of(torch.zeros(0, 4), batch.text_row).tolist() == [[0.0] * 4] * 2


def test_vectors_spread_over_rows_and_leave_zeros_where_there_is_none() -> None:
    vectors = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    spread = rows_of(vectors, torch.tensor([1, -1, 0, 1]))
    assert spread.tolist() == [[3, 4], [0, 0], [1, 2], [3, 4]]
    spread.sum().backward()
    assert vectors.grad is not None
    assert vectors.grad.tolist() == [[1, 1], [2, 2]]


def test_long_texts_are_cut_and_fixed_length_pads_to_it() -> None:
    long = "the red vase a the blue rug home decor"
    for fixed in (False, True):
        tokens = tokenize(tiny_tokenizer(), [long, "rug"], 6, fixed)
        assert tokens.input_ids.shape == (2, 6)
        assert tokens.attention_mask.sum(dim=1).tolist() == [6, 3]
    assert tokenize(tiny_tokenizer(), ["rug"], 6, fixed=False).input_ids.shape == (1, 3)
    assert tokenize(tiny_tokenizer(), ["rug"], 6, fixed=True).input_ids.shape == (1, 6)


def test_a_tokenizer_without_a_mask_has_every_position_count() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.model_input_names = ["input_ids"]
    tokens = tokenize(tokenizer, ["rug", "a red rug"], 8, fixed=True)
    assert tokens.attention_mask.tolist() == [[1] * 8] * 2
    assert tokens.input_ids[0].tolist()[3:] == [tokenizer.pad_token_id] * 5


def test_a_picture_without_augmentation_is_squeezed_whole() -> None:
    plain = torch.tensor([10, 200, 30], dtype=torch.uint8)[:, None, None].expand(3, 16, 64)
    tensor = to_square(plain, SIZE)
    assert tensor.shape == (3, SIZE, SIZE)
    assert [channel.unique().tolist() for channel in tensor] == [[10], [200], [30]]
    red, green, blue = to_square(gradient(), SIZE).float()
    assert (red.diff(dim=1) > 0).all()
    assert (green.diff(dim=0) > 0).all()
    assert (blue == 0).all()
    assert float(red.mean()) == pytest.approx(120, abs=2)


def test_augmentation_repeats_by_seed_and_differs_by_seed_epoch_and_product() -> None:
    def picture(seed: int | None, epoch: int, product_id: str = "1") -> torch.Tensor:
        return collate(seed)([sample(product_id, "rug", epoch=epoch)]).image[0]

    assert torch.equal(picture(0, 0), picture(0, 0))
    assert torch.equal(picture(None, 0), picture(None, 1))
    variants = [picture(0, 0), picture(0, 1), picture(1, 0), picture(0, 0, "3"), picture(None, 0)]
    assert len({variant.numpy().tobytes() for variant in variants}) == 5


def test_augmentation_does_not_depend_on_the_rest_of_the_batch() -> None:
    alone = collate(0)([sample("1", "rug")]).image[0]
    among = collate(0)([sample("2", "vase"), sample("1", "rug")]).image[1]
    assert torch.equal(alone, among)


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_augmentation_keeps_a_share_of_each_side_and_mirrors_half(share: float) -> None:
    mirrored, kept = 0, []
    for seed in range(200):
        red, green, _ = to_square(gradient(), SIZE, (seed,), share).float()
        mirrored += bool(red[0, 0] > red[0, -1])
        assert green[0, 0] < green[-1, 0]
        for channel, axis in ((red, 1), (green, 0)):
            # The ends of the axis lie half a pixel of the result inside the crop.
            ends = channel.amax(dim=axis) - channel.amin(dim=axis)
            kept.append(float(ends.min()) / (240 * (1 - 1 / SIZE)))
    assert share - 8 / (240 * (1 - 1 / SIZE)) <= min(kept) < share + 0.1
    assert max(kept) > 0.95
    assert 70 < mirrored < 130


def test_keys_are_the_same_in_every_process() -> None:
    names = ["", "1", "Ljusstake å 7/ö"]
    code = f"from beyond_text.shards.batch import key_of; print([key_of(n) for n in {names!r}])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == str([key_of(name) for name in names])
    assert all(-(2**63) <= key_of(name) < 2**63 for name in names)
