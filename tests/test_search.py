"""The search command finds what the evaluation finds, and its index is never a stale one."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from beyond_text.config.names import INDEX_KINDS
from beyond_text.encoding.model import load
from beyond_text.indexing.index import Hit, Index
from beyond_text.indexing.of_run import index_of_run
from beyond_text.retrieval import encode as encoding
from beyond_text.retrieval.encode import encode_products
from beyond_text.retrieval.ranking import rank
from beyond_text.retrieval.run import load_run, split_for
from beyond_text.search import main, panel_rows
from tests import ROOT


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


def found(
    run: Path, index: Index, texts: list[str], picture: bytes | None = None, top: int = 10
) -> list[list[Hit]]:
    pictures = [picture] * len(texts) if picture else None
    return index.search_vectors(load(run).encode_queries(texts, pictures), top=top)


def ids(hits: list[Hit]) -> list[str]:
    return [hit.product_id for hit in hits]


def test_words_find_what_the_evaluation_finds_for_them(run: Path, tiny_shards: Path) -> None:
    index = index_of_run(run, tiny_shards, "dev")
    encoder = load_run(run)
    catalogue, query_set = split_for(encoder.model, tiny_shards, "dev")
    expected = rank(encoder, catalogue, query_set, depth=24)["product"]
    hits = found(run, index, list(query_set.queries["query"]), top=24)
    for row, names, scores in zip(hits, expected.product_ids, expected.scores, strict=True):
        score_of = dict(zip(names, scores, strict=True))
        assert {hit.product_id: hit.score for hit in row} == pytest.approx(score_of, abs=1e-3)
    rows = panel_rows(["red rug"], index, found(run, index, ["red rug"], top=24))
    assert len(rows[0].pictures) == 24
    assert sum(picture is None for picture in rows[0].pictures) == 2


def test_every_product_of_every_split_is_found_judged_or_not(
    run: Path, tiny_shards: Path, tiny_tables: Path, tmp_path: Path
) -> None:
    every = index_of_run(run, tiny_shards)
    assert len(every) == 48
    names = ids(found(run, every, ["red rug"], top=48)[0])
    assert {name.split(".")[0] for name in names} == {"train", "dev"}
    # Another catalogue, which has no queries, has the same vectors.
    shutil.copytree(tiny_tables, tmp_path / "shop")
    for name in ("queries.csv", "qrels.csv"):
        (tmp_path / "shop" / name).unlink()
    other = index_of_run(run, tmp_path / "shop")
    assert ids(found(run, other, ["red rug"], top=48)[0]) == names
    for index in (every, other):
        hits = found(run, index, ["red rug"], top=48)[0]
        assert sum(index.picture(each) is None for each in ids(hits)) == 4
        assert index.product("dev.2").text == "rug. decor. a rug home decor"


def test_a_picture_of_a_product_without_a_text_finds_that_product_by_its_picture(
    run: Path, tiny_shards: Path, tiny_tables: Path
) -> None:
    index = index_of_run(run, tiny_shards, "dev")
    encoder = load_run(run)
    catalogue, _ = split_for(encoder.model, tiny_shards, "dev")
    picture = (tiny_tables / "images" / "dev.0.jpg").read_bytes()
    hits = found(run, index, [""], picture, top=24)
    blind = encode_products(encoder, catalogue, modalities=("image",))["product"]
    own = torch.from_numpy(blind.vectors[blind.ids.index("dev.0")])
    vectors = encode_products(encoder, catalogue)
    cosine = torch.from_numpy(vectors["product"].vectors) @ own
    assert hits[0][0].score == pytest.approx(float(cosine.max()), abs=1e-3)
    both = found(run, index, ["blue lamp"], picture, top=24)
    alone = found(run, index, ["blue lamp"], None, top=24)
    scores = [[hit.score for hit in each[0]] for each in (both, alone, hits)]
    assert scores[0] != scores[1] != scores[2]


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
    hits = [
        ids(found(run, index_of_run(run, tiny_shards, "dev", kind), ["rug"], top=3)[0])
        for kind in ("exact", "exact", *INDEX_KINDS[1:], *INDEX_KINDS[1:])
    ]
    assert len(made) == 1
    assert all(each == hits[0] for each in hits)
    assert not list(run.rglob("*.faiss"))
    weights = run / "model" / "model.safetensors"
    save_file({name: value * 1.01 for name, value in load_file(weights).items()}, weights)
    index_of_run(run, tiny_shards, "dev")
    assert len(made) == 2
    for number, name in enumerate(("vectors.npy", "products.arrow", "columns.arrow", "index.json")):
        path = max((run / "index").rglob(name))
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]) if number < 3 else b"{}")
        index_of_run(run, tiny_shards, "dev")
        assert len(made) == 3 + number
        path = max((run / "index").rglob(name))
        path.write_bytes(b"")
        assert len(index_of_run(run, tiny_shards, "dev")) == 24
        made.pop()


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
        (["rug", "--picture", "none.jpg"], "picture missing: none.jpg: expected a file"),
        (["rug", "--picture", str(ROOT / "Makefile")], "Makefile: expected JPEG"),
        (["rug", "--split", "autumn"], "no split 'autumn'"),
        ([""], "a blank TEXT finds nothing"),
        (["rug", " \t"], "a blank TEXT finds nothing"),
        (["rug", "--top", "0"], "expected at least 1, got '0'"),
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


@pytest.mark.parametrize("command", ["search", "evaluate", "train", "ablate", "index"])
def test_help_and_mistakes_import_neither_torch_nor_what_is_as_slow(command: str) -> None:
    words = {"search": "none rug", "evaluate": "none --tables none", "train": "none.yaml",
             "ablate": "--fusion sum --start none",
             "index": "none none --model none"}[command]  # fmt: skip
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
