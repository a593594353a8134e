"""The search command finds what the evaluation finds, and its index is never a stale one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from beyond_text.config.load import load_config
from beyond_text.retrieval import searcher as command
from beyond_text.retrieval.encode import encode_products
from beyond_text.retrieval.ranking import rank
from beyond_text.retrieval.run import split_for
from beyond_text.retrieval.searcher import Searcher
from beyond_text.search import main
from beyond_text.train import train


@pytest.fixture(scope="module")
def trained(tiny_settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("search") / "run"
    train(load_config([], [*tiny_settings, f"run={run}", "steps=2", "losses.query_product=1"]))
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_words_find_what_the_evaluation_finds_for_them(run: Path, tiny_shards: Path) -> None:
    searcher = Searcher.open(run, tiny_shards, "dev")
    catalogue, query_set = split_for(searcher.encoder.model, tiny_shards, "dev")
    expected = rank(searcher.encoder, catalogue, query_set, depth=5)["product"]
    found = searcher.search(list(query_set.queries["query"]), None, top=5)
    assert found.product_ids == expected.product_ids
    rows = searcher.rows(["red rug"], searcher.search(["red rug"], None, top=24))
    assert len(rows[0].pictures) == 24
    assert sum(picture is None for picture in rows[0].pictures) == 2


def test_a_picture_of_a_product_without_a_text_finds_that_product_by_its_picture(
    run: Path, tiny_shards: Path, tiny_tables: Path
) -> None:
    searcher = Searcher.open(run, tiny_shards, "dev")
    picture = (tiny_tables / "images" / "dev.0.jpg").read_bytes()
    found = searcher.search([""], picture, top=24)
    blind = encode_products(searcher.encoder, searcher.catalogue, modalities=("image",))["product"]
    own = torch.from_numpy(blind.vectors[blind.ids.index("dev.0")])
    vectors = encode_products(searcher.encoder, searcher.catalogue)
    cosine = torch.from_numpy(vectors["product"].vectors) @ own
    assert float(found.scores[0][0]) == pytest.approx(float(cosine.max()), abs=1e-5)
    both = searcher.search(["blue lamp"], picture, top=24)
    alone = searcher.search(["blue lamp"], None, top=24)
    assert both.scores.tolist() != alone.scores.tolist() != found.scores.tolist()


def test_the_index_is_kept_and_made_again_where_the_model_changed(
    run: Path, tiny_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[bool] = []
    encode = command.encode_products
    monkeypatch.setattr(
        command, "encode_products", lambda *given, **how: made.append(True) or encode(*given, **how)
    )
    for kind in ("exact", "exact", "approximate"):
        Searcher.open(run, tiny_shards, "dev", kind)
    assert len(made) == 2
    weights = run / "model" / "model.safetensors"
    save_file({name: value * 1.01 for name, value in load_file(weights).items()}, weights)
    Searcher.open(run, tiny_shards, "dev")
    assert len(made) == 3
    index = run / "index" / "dev-exact" / "index.faiss"
    index.write_bytes(index.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match="expected SHA-256"):
        Searcher.open(run, tiny_shards, "dev")


def test_the_command_prints_and_draws_what_it_finds(
    run: Path, tiny_tables: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    panel = tmp_path / "found.png"
    main([str(run), "red rug", "blue lamp", "--top", "3", "--panel", str(panel)])
    said = capsys.readouterr().out
    assert said.count("dev.") >= 6
    assert "red rug" in said
    assert "blue lamp" in said
    with Image.open(panel) as picture:
        assert picture.height > 200
    main([str(run), "--picture", str(tiny_tables / "images" / "dev.1.jpg"), "--top", "1"])
    assert "(a picture)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "expected a TEXT or --picture"),
        (["rug", "--picture", "none.jpg"], "picture missing"),
        (["rug", "--split", "autumn"], "no split 'autumn'"),
    ],
)
def test_what_cannot_be_searched_is_said(
    run: Path, words: list[str], said: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as caught:
        main([str(run), *words])
    assert said in f"{caught.value.code}{capsys.readouterr().err}"
