"""The search command finds what the evaluation finds, and its index is never a stale one."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from beyond_text.config.load import load_config
from beyond_text.retrieval import encode as encoding
from beyond_text.retrieval.encode import encode_products
from beyond_text.retrieval.ranking import rank
from beyond_text.retrieval.run import load_run, split_for
from beyond_text.retrieval.searcher import Searcher
from beyond_text.retrieval.store import Store
from beyond_text.search import main
from beyond_text.shards.manifest import sha256_of
from beyond_text.train import train
from tests import ROOT


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
    encoder = load_run(run)
    catalogue, query_set = split_for(encoder.model, tiny_shards, "dev")
    expected = rank(encoder, catalogue, query_set, depth=5)["product"]
    found = searcher.search(list(query_set.queries["query"]), None, top=5)
    assert found.product_ids == expected.product_ids
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)
    rows = searcher.rows(["red rug"], searcher.search(["red rug"], None, top=24))
    assert len(rows[0].pictures) == 24
    assert sum(picture is None for picture in rows[0].pictures) == 2


def test_every_product_of_every_split_is_found_judged_or_not(
    run: Path, tiny_shards: Path, tiny_tables: Path, tmp_path: Path
) -> None:
    every = Searcher.open(run, tiny_shards)
    assert len(every.index) == 48
    found = every.search(["red rug"], None, top=48).product_ids[0]
    assert {name.split(".")[0] for name in found} == {"train", "dev"}
    # Another catalogue, which has no queries, has the same vectors.
    shutil.copytree(tiny_tables, tmp_path / "shop")
    for name in ("queries.csv", "qrels.csv"):
        (tmp_path / "shop" / name).unlink()
    other = Searcher.open(run, tmp_path / "shop")
    assert other.search(["red rug"], None, top=48).product_ids[0] == found
    for searcher in (every, other):
        shown = searcher.found(searcher.search(["red rug"], None, top=48))[0]
        assert sum(each.read(searcher.folder) is None for each in shown) == 4
        assert {each.text for each in shown if each.product_id == "dev.2"} == {
            "rug. decor. a rug home decor"
        }


def test_a_picture_of_a_product_without_a_text_finds_that_product_by_its_picture(
    run: Path, tiny_shards: Path, tiny_tables: Path
) -> None:
    searcher = Searcher.open(run, tiny_shards, "dev")
    encoder = load_run(run)
    catalogue, _ = split_for(encoder.model, tiny_shards, "dev")
    picture = (tiny_tables / "images" / "dev.0.jpg").read_bytes()
    found = searcher.search([""], picture, top=24)
    blind = encode_products(encoder, catalogue, modalities=("image",))["product"]
    own = torch.from_numpy(blind.vectors[blind.ids.index("dev.0")])
    vectors = encode_products(encoder, catalogue)
    cosine = torch.from_numpy(vectors["product"].vectors) @ own
    assert float(found.scores[0][0]) == pytest.approx(float(cosine.max()), abs=1e-5)
    both = searcher.search(["blue lamp"], picture, top=24)
    alone = searcher.search(["blue lamp"], None, top=24)
    assert both.scores.tolist() != alone.scores.tolist() != found.scores.tolist()


def test_the_index_is_kept_and_made_again_where_it_is_another_or_damaged(
    run: Path, tiny_shards: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made: list[bool] = []
    encode = encoding.encode_products
    monkeypatch.setattr(
        encoding,
        "encode_products",
        lambda *given, **how: made.append(True) or encode(*given, **how),
    )
    found = [
        Searcher.open(run, tiny_shards, "dev", kind).search(["rug"], None, 3).product_ids
        for kind in ("exact", "exact", "ivf_sq8", "rabitq")
    ]
    assert len(made) == 1
    assert found[0] == found[1]
    assert found[2] == found[3]
    assert not list(run.rglob("*.faiss"))
    weights = run / "model" / "model.safetensors"
    save_file({name: value * 1.01 for name, value in load_file(weights).items()}, weights)
    Searcher.open(run, tiny_shards, "dev")
    assert len(made) == 2
    for number, name in enumerate(("vectors.npy", "products.jsonl", "lines.npy", "made_of.json")):
        (path,) = (run / "index").rglob(name)
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        Searcher.open(run, tiny_shards, "dev")
        assert len(made) == 3 + number
        path.write_bytes(b"")
        Searcher.open(run, tiny_shards, "dev")
        made.pop()


def test_a_vectors_file_of_python_objects_is_not_read(run: Path, tiny_shards: Path) -> None:
    Searcher.open(run, tiny_shards, "dev")
    (path,) = (run / "index").rglob("vectors.npy")
    np.save(path, np.array([{"a": 1}] * 24, dtype=object), allow_pickle=True)
    made_of = path.with_name("made_of.json")
    content = json.loads(made_of.read_text())
    content["sha256"]["vectors.npy"] = sha256_of(path)
    made_of.write_text(json.dumps(content))
    assert Store.load(path.parent, content["made_of"]) is None
    assert len(Searcher.open(run, tiny_shards, "dev").index) == 24


def test_what_a_user_typed_or_a_shop_wrote_is_printed_as_it_is(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    shop = tmp_path / "a=b: [shop]"
    shop.mkdir()
    titles = ["Mug [set of 4]", "[/red] [bold]rug", ":smile: vase", "lamp \x1b[31m\u202e red"]
    lines = [f"{number},{title}" for number, title in enumerate(titles)]
    (shop / "products.csv").write_text("product_id,title\n" + "\n".join(lines), encoding="utf-8")
    moved = Path(shutil.move(run, tmp_path / "shop: first [try]"))
    main([str(moved), "[/red] mug [4]", "--products", str(shop)])
    said = capsys.readouterr().out
    for text in (*titles[:3], "[/red] mug [4]", "4 products searched"):
        assert text in said
    # Reading takes control characters off; what a user typed is shown as codes.
    assert not {"\x1b", "\u202e"} & set(said)
    main([str(moved), "lamp \x1b[31m\u202e red", "--products", str(shop)])
    assert "lamp \\x1b[31m\\u202e red" in capsys.readouterr().out


def test_the_command_prints_and_draws_what_it_finds(
    run: Path, tiny_tables: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    panel = tmp_path / "found.png"
    words = ["red rug", "blue lamp", "--top", "3", "--split", "dev"]
    main([str(run), *words, "--panel", str(panel)])
    said = capsys.readouterr().out
    assert said.count("dev.") >= 6
    assert said.count("24 products searched") == 2
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
        ([""], "a blank TEXT finds nothing"),
        (["rug", " \t"], "a blank TEXT finds nothing"),
        (["rug", "--top", "0"], "invalid number from 1 value: '0'"),
        (["rug", "--products", "no[/red]where"], "no[/red]where: no such file or folder"),
        (["rug", "--panel", "no/where/found.png"], "expected a file in a folder that exists"),
        (["rug", "--panel", "found.xyz"], "expected the name of a PNG"),
    ],
)
def test_what_cannot_be_searched_is_said(
    run: Path, words: list[str], said: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as caught:
        main([str(run), *words])
    written = capsys.readouterr().err
    assert said in f"{caught.value.code}{written}"
    assert "Traceback" not in written


@pytest.mark.parametrize("command", ["search", "evaluate", "train", "ablate"])
def test_help_and_mistakes_import_neither_torch_nor_what_is_as_slow(command: str) -> None:
    words = {"search": "none rug", "evaluate": "none --tables none", "train": "none.yaml",
             "ablate": "--fusion sum --start none"}[command]  # fmt: skip
    code = (
        "import sys\n"
        f"from beyond_text.{command} import main\n"
        "for words in (['--help'], {words!r}.split()):\n"
        "    try:\n"
        "        sys.argv[1:] = words; main()\n"
        "    except SystemExit as error:\n"
        "        print(error.code, file=sys.stderr)\n"
        "slow = ('torch', 'transformers', 'pandas', 'matplotlib', 'sklearn', 'ir_measures',\n"
        "        'pytorch_lightning', 'faiss', 'scipy', 'timm')\n"
        "print('slow:', [name for name in slow if name in sys.modules])\n"
    ).replace("{words!r}", repr(words))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.endswith("slow: []\n")
    assert "error: none" in done.stderr or "error: none.yaml" in done.stderr
