"""The outputs of frozen towers are computed once and kept on disk; results do not change."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from beyond_text.config.load import load_config
from beyond_text.config.settings import ConfigError
from beyond_text.models.fusing import Fusion
from beyond_text.models.image_tower import ImageTower
from beyond_text.models.layout import Layout
from beyond_text.models.towers import TextTower, Tower
from beyond_text.models.two_tower import TwoTower
from beyond_text.shards import split as splits
from beyond_text.shards.manifest import ShardError
from beyond_text.train import train
from beyond_text.training import alignment, callbacks
from beyond_text.training.cached_embeddings import (
    Block,
    CachedPictures,
    CachedTexts,
    Outputs,
    picture_keys,
    text_keys,
)
from data_prep.shards import build_shards
from tests.tiny import some_tokens

pytestmark = pytest.mark.slow

FROZEN = [
    "align_pairs=0",
    "losses.query_product=1",
    "lr.text_encoder=0",
    "lr.image_encoder=0",
    "lr.fusion=0.003",
]


def test_a_text_has_one_key_however_it_is_padded() -> None:
    ids, mask = some_tokens()
    keys = text_keys(ids, mask)
    assert len(set(keys.tolist())) == len(
        {tuple(row[m].tolist()) for row, m in zip(ids, mask > 0, strict=True)}
    )
    wider = [
        torch.nn.functional.pad(part, (0, 5), value=filler)
        for part, filler in ((ids, 9), (mask, 0))
    ]
    assert (text_keys(*wider) == keys).all()
    ids[3, 0] += 1
    assert (text_keys(ids, mask) != keys).nonzero()[0].tolist() == [3]


class Doubling(Tower):
    """Returns twice the first two tokens, and counts its inputs."""

    def __init__(self) -> None:
        super().__init__(torch.nn.Identity())
        self.given = 0

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        self.given += len(ids)
        return 2.0 * ids[:, :2]


def write(folder: Path, start: int, ids: Tensor, mask: Tensor) -> Block:
    block = Block.of(folder, "products", start)
    assert not block.is_whole
    block.write(text_keys(ids, mask), 2.0 * ids[:, :2])
    assert block.is_whole
    return block


def test_the_tower_runs_for_texts_that_no_block_holds(tmp_path: Path) -> None:
    ids, mask = some_tokens()
    parts = [slice(0, 10), slice(10, 10), slice(5, 30)]
    blocks = [write(tmp_path, n, ids[p], mask[p]) for n, p in enumerate(parts)]
    outputs, tower = Outputs(blocks, 2), Doubling()
    tower.cached = CachedTexts(outputs)
    assert torch.equal(tower.read(ids.flip(0), mask.flip(0))[0], 2.0 * ids.flip(0)[:, :2])
    assert tower.given == len(ids) - 30
    assert torch.equal(tower.read(ids[:30], mask[:30])[0], 2.0 * ids[:30, :2])
    assert tower.read(ids[:0], mask[:0])[0].shape == (0, 2)
    assert tower.given == len(ids) - 30
    # Without blocks, no input is found.
    assert not Outputs([], 2).find(text_keys(ids, mask))[1].any()


def test_pictures_are_found_by_number_in_blocks_of_any_order(tmp_path: Path) -> None:
    product, picture = np.array([0, 0, 3, 900]), np.array([0, 2, 0, 1])
    keys = picture_keys(product, picture)
    vectors = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 65504.0 * 2]])
    blocks = [Block.of(tmp_path, "products", start) for start in (0, 3)]
    blocks[0].write(keys[:3], vectors[:3])
    blocks[1].write(keys[3:], vectors[3:])
    # What float16 cannot hold stays as it is.
    assert [np.load(block.vectors).dtype for block in blocks] == [np.float16, np.float32]
    for order in (blocks, blocks[::-1]):
        cached = CachedPictures(Outputs(order, 2), Outputs([], 2))
        for number, (of, which) in enumerate(zip(product, picture, strict=True)):
            found = cached.of_product(of, which)
            assert found is not None
            assert torch.equal(found, vectors[number])
        assert cached.of_product(0, 1) is cached.of_product(4, 0) is cached.of_query(0) is None


@pytest.mark.parametrize("name", ["vectors", "keys"])
def test_a_file_cut_short_is_refused_by_name(tmp_path: Path, name: str) -> None:
    block = write(tmp_path, 0, *some_tokens())
    path = getattr(block, name)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ShardError, match=rf"{path.name}: damaged: .* delete it"):
        Outputs([block], 2)


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    block = write(tmp_path, 0, *some_tokens())
    np.save(block.keys, np.arange(3))
    with pytest.raises(ShardError, match=r"damaged: expected 2 numbers for each of 3 inputs, got"):
        Outputs([block], 2)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Counts the inputs that each kind of tower was run for since the model was built.

    Outputs are kept in float32, since AdamW makes large differences of the smallest.
    """
    monkeypatch.setattr("beyond_text.training.cached_embeddings.LARGEST", 0)
    given: dict[str, int] = {"text": 0, "image": 0}

    def counting(kind: str, run_tower: Callable[..., Any]) -> Callable[..., Any]:
        def run(tower: Tower, *inputs: Tensor) -> Any:
            given[kind] += len(inputs[0])
            return run_tower(tower, *inputs)

        return run

    monkeypatch.setattr(TextTower, "run", counting("text", TextTower.run))
    monkeypatch.setattr(ImageTower, "run", counting("image", ImageTower.run))
    built = TwoTower._set_layouts

    def layouts(model: TwoTower, fusion: type[Fusion]) -> tuple[Layout, Layout]:
        found = built(model, fusion)
        given.update(text=0, image=0)
        return found

    monkeypatch.setattr(TwoTower, "_set_layouts", layouts)
    return given


def run(settings: list[str], run: Path, *more: str) -> dict[str, Tensor]:
    train(load_config([], [*settings, *FROZEN, f"run={run}", "steps=6", *more]))
    return load_file(run / "model" / "model.safetensors")


def close(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, weight in one.items():
        torch.testing.assert_close(weight, other[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("more", [[], ["chunk_size=3"], ["data.workers=1", "memory_size=16"]])
def test_frozen_towers_run_once_for_all_runs(
    tiny_settings: list[str],
    tmp_path: Path,
    counted: dict[str, int],
    more: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("beyond_text.training.fill_cache.BATCH", 8)
    more = ["data.augment=false", "data.queries_per_product=2", *more]
    without = run(tiny_settings, tmp_path / "without", *more)
    assert counted["image"] > 40
    cache = tmp_path / "cache"
    first = run(tiny_settings, tmp_path / "first", *more, f"cache={cache}")
    # Each split has 22 products with a picture and 12 queries. Its products have 5 different texts:
    # one for each of the 4 kinds, and that of the product without a description.
    assert counted == {"text": 2 * 12 + 2 * 5, "image": 2 * 22}
    files = {path: path.read_bytes() for path in cache.rglob("*.npy")}
    # A folder for each tower and split.
    assert len(list(cache.iterdir())) == 4
    close(first, without)
    second = run(tiny_settings, tmp_path / "second", *more, f"cache={cache}")
    assert counted == {"text": 0, "image": 0}
    assert {path: path.read_bytes() for path in cache.rglob("*.npy")} == files
    assert all(torch.equal(second[name], first[name]) for name in first)
    # Another precision: other outputs.
    run(tiny_settings, tmp_path / "other", *more, f"cache={cache}", "precision=bf16-mixed")
    assert len(list(cache.iterdir())) == 8


@pytest.mark.parametrize("fusion", ["bilinear", "attended", "uniecs"])
def test_the_fit_of_the_image_projection_takes_what_is_kept(
    tiny_settings: list[str],
    tmp_path: Path,
    counted: dict[str, int],
    monkeypatch: pytest.MonkeyPatch,
    fusion: str,
) -> None:
    monkeypatch.setattr(alignment, "FEWEST", 8)
    more = ["data.augment=false", "align_pairs=8192", f"fusion={fusion}"]
    cache = f"cache={tmp_path / 'cache'}"

    def fitted(name: str, *words: str) -> dict[str, Tensor]:
        monkeypatch.setattr(alignment, "_FITS", {})
        found = run(tiny_settings, tmp_path / name, *more, *words)
        assert alignment._FITS
        return found

    without = fitted("without")
    first = fitted("first", cache)
    assert counted == {"text": 2 * 12 + 2 * 5, "image": 2 * 22}
    close(first, without)
    second = fitted("second", cache)
    assert counted == {"text": 0, "image": 0}
    assert all(torch.equal(second[name], first[name]) for name in first)


@pytest.mark.parametrize("fusion", ["attended", "uniecs"])
@pytest.mark.parametrize("more", [[], ["chunk_size=3", "share_text_encoder=false"]])
def test_fusions_of_tokens_train_from_the_cache_as_without_it(
    tiny_settings: list[str],
    tmp_path: Path,
    counted: dict[str, int],
    fusion: str,
    more: list[str],
    capsys: pytest.CaptureFixture,
) -> None:
    more = ["data.augment=false", f"fusion={fusion}", "evaluate_every=3", *more]
    if "share_text_encoder=false" in more:
        more.append("lr.query_encoder=0")
    cache = tmp_path / "cache"
    without = run(tiny_settings, tmp_path / "without", *more)
    first = run(tiny_settings, tmp_path / "first", *more, f"cache={cache}")
    # Each picture is read once, whatever it is needed for; dev measurements take it from there.
    assert counted["image"] == 2 * 22
    assert counted["text"] == 2 * 12 + 2 * 5
    said = " ".join(capsys.readouterr().err.split())
    assert f"cache={cache}: keeps up to " in said
    assert "44 pictures of " in said
    for name, weight in first.items():
        # Six steps move a weight by 0.018 at most; AdamW makes much of gradients that are noise.
        assert (weight - without[name]).abs().max() < 2e-5, name
    second = run(tiny_settings, tmp_path / "second", *more, f"cache={cache}")
    assert counted == {"text": 0, "image": 0}
    assert all(torch.equal(second[name], first[name]) for name in first)
    assert "keeps up to" not in capsys.readouterr().err
    # Vectors are other outputs than tokens; those of the texts are the same for `attended`.
    folders = len(list(cache.iterdir()))
    other = [word for word in more if not word.startswith("fusion=")]
    run(tiny_settings, tmp_path / "pooled", *other, "fusion=bilinear", f"cache={cache}")
    assert len(list(cache.iterdir())) == folders + (2 if fusion == "attended" else folders)


def test_a_disk_without_the_room_is_told_before_anything_is_computed(
    tiny_settings: list[str],
    tmp_path: Path,
    counted: dict[str, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    full = SimpleNamespace(free=10_000)
    monkeypatch.setattr("beyond_text.training.cache_room.shutil.disk_usage", lambda _: full)
    more = ["data.augment=false", "fusion=attended", f"cache={tmp_path / 'cache'}"]
    with pytest.raises(ConfigError, match=r"cache=.*: expected .* MB of free disk .* got 0.01 MB"):
        run(tiny_settings, tmp_path / "run", *more)
    assert counted == {"text": 0, "image": 0}
    assert not (tmp_path / "cache").exists()


def test_a_tower_that_moves_is_left_alone(
    tiny_settings: list[str], tmp_path: Path, counted: dict[str, int]
) -> None:
    more = ["data.augment=false", "lr.image_encoder=0.001"]
    without = run(tiny_settings, tmp_path / "without", *more)
    pictures = counted["image"]
    held = run(tiny_settings, tmp_path / "with", *more, f"cache={tmp_path / 'cache'}")
    assert len(list((tmp_path / "cache").iterdir())) == 2
    assert counted == {"text": 2 * 12 + 2 * 5, "image": pictures}
    close(held, without)


def test_a_frozen_tower_reads_no_queries_that_are_anothers(
    tiny_settings: list[str], tmp_path: Path, counted: dict[str, int]
) -> None:
    cache = tmp_path / "cache"
    more = ["data.augment=false", "share_text_encoder=false", "lr.query_encoder=0.001"]
    run(tiny_settings, tmp_path / "run", *more, f"cache={cache}")
    names = {path.name.partition("-")[0] for path in cache.rglob("*.npy")}
    assert names == {"products"}


def test_augmented_pictures_are_others_each_time(
    tiny_settings: list[str], tmp_path: Path, counted: dict[str, int]
) -> None:
    without = run(tiny_settings, tmp_path / "without")
    pictures = counted["image"]
    held = run(tiny_settings, tmp_path / "with", f"cache={tmp_path / 'cache'}")
    # Pictures of the dev split are encoded twice without the cache: before the first step and after
    # the last.
    assert counted["image"] == pictures - 22
    close(held, without)


def test_pictures_of_queries_are_kept_too(
    tiny_settings: list[str], tiny_tables: Path, tmp_path: Path, counted: dict[str, int]
) -> None:
    shutil.copytree(tiny_tables, tmp_path / "asked")
    header, *rows = (tiny_tables / "queries.csv").read_text().splitlines()
    for number, row in enumerate(rows):
        rows[number] = f"{row},images/{number}.png"
        colour = (9 * number, 200, 100)
        Image.new("RGB", (20, 30), colour).save(tmp_path / "asked/images" / f"{number}.png")
    (tmp_path / "asked/queries.csv").write_text("\n".join([f"{header},image", *rows]))
    shards = tmp_path / "shards"
    build_shards(tmp_path / "asked", shards, picture_size=40, workers=1)
    sources = [f"data.dev={shards}", f"data.sources.tables.path={shards}", "data.augment=false"]
    without = run(tiny_settings, tmp_path / "without", *sources)
    held = run(tiny_settings, tmp_path / "with", *sources, f"cache={tmp_path / 'cache'}")
    # The pictures of products, and one for each query, which dev encodes for each measurement.
    assert counted["image"] == 2 * (22 + 12) + 2 * 12
    close(held, without)
    run(tiny_settings, tmp_path / "again", *sources, f"cache={tmp_path / 'cache'}")
    assert counted == {"text": 0, "image": 2 * 12}


def test_it_says_where_nothing_can_be_kept(
    tiny_settings: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    more = ["lr.text_encoder=0.001", "lr.image_encoder=0.001"]
    run(tiny_settings, tmp_path / "run", *more, f"cache={tmp_path / 'cache'}")
    assert "is not used: no tower is frozen" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "cache").exists()


def test_blocks_that_are_whole_stay_when_a_run_is_stopped(
    tiny_settings: list[str], tmp_path: Path, counted: dict[str, int]
) -> None:
    cache, more = tmp_path / "cache", ["data.augment=false", "align_pairs=0"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("beyond_text.training.fill_cache.SMALLEST_BLOCK", 8)
        write, left = Block.write, iter([None] * 7)

        def until_full(block: Block, *arrays: Any) -> None:
            if next(left, 0) == 0:
                raise OSError(28, "No space left on device", str(block.vectors))
            write(block, *arrays)

        with pytest.MonkeyPatch.context() as full:
            full.setattr(Block, "write", until_full)
            with pytest.raises(OSError, match=r"No space left on device: '.*\.npy'"):
                run(tiny_settings, tmp_path / "run", *more, f"cache={cache}")
        done = {path: path.stat().st_mtime_ns for path in cache.rglob("*.npy")}
        assert len(done) == 14
        run(tiny_settings, tmp_path / "run", *more, f"cache={cache}")
    assert done.items() <= {p: p.stat().st_mtime_ns for p in cache.rglob("*.npy")}.items()
    # What was done before was not done again.
    assert counted["image"] < 2 * 22


def test_training_decodes_no_picture_that_is_kept(
    tiny_settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, more = f"cache={tmp_path / 'cache'}", ["data.augment=false"]
    run(tiny_settings, tmp_path / "first", *more, cache)
    decoded: list[int] = []
    decode = splits.decode_pixels

    def counting(data: bytes, **settings: Any) -> Tensor:
        decoded.append(len(data))
        return decode(data, **settings)

    monkeypatch.setattr(splits, "decode_pixels", counting)
    # The panel of pictures shows some of dev.
    monkeypatch.setattr(callbacks, "panel_of", lambda *_: np.zeros((4, 4, 3), np.uint8))
    second = run(tiny_settings, tmp_path / "second", *more, cache)
    assert decoded == []
    first = load_file(tmp_path / "first" / "model" / "model.safetensors")
    assert all(torch.equal(second[name], first[name]) for name in first)
