"""An index is built by a run or by its export, and holds what encodes its queries."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import beyond_text
from beyond_text.encoding.digest import digest_of_run
from beyond_text.exporting.graphs import write_graphs
from beyond_text.exporting.preprocessing import write_preprocessing_of
from beyond_text.indexing.encoders import Job, encode_by, load_encoder
from beyond_text.indexing.facts import IndexFormatError
from beyond_text.indexing.index import Index
from beyond_text.indexing.models import model_facts
from beyond_text.models.checkpoint import load_model
from beyond_text.retrieval.described import Described, Place
from beyond_text.search import main as search
from tests import ROOT
from tests.indexing.shop import build, copied_shop, rows_of, write_rows

# PyTorch's export takes seconds a graph.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def tiny_export(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exports") / "export"
    folder.mkdir()
    model, tokenizer = load_model(tiny_run)
    write_graphs(model, folder)
    write_preprocessing_of(model, tokenizer, digest_of_run(tiny_run), folder)
    return folder


@pytest.fixture
def shop(tiny_tables: Path, tmp_path: Path) -> Path:
    return copied_shop(tiny_tables, tmp_path / "shop")


@pytest.mark.parametrize("kind", ["tables", "shards"])
def test_an_export_gives_the_vectors_of_its_run(
    kind: str, tiny_export: Path, tiny_run: Path, tiny_tables: Path, tiny_shards: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    folder = {"tables": tiny_tables, "shards": tiny_shards}[kind]
    by_run, by_export = tmp_path / "run", tmp_path / "export"
    build(folder, by_run, tiny_run)
    assert build(folder, by_export, tiny_export).encoded == 48
    one, two = (Index.open(each)._generation.vectors for each in (by_run, by_export))
    np.testing.assert_allclose(one.astype(np.float32), two.astype(np.float32), atol=2e-3)
    # They are one model: to change from one to the other encodes nothing.
    built = build(folder, by_run, tiny_export)
    assert built.encoded == 0
    assert built.facts.query_model.name.endswith("-export")


def test_an_index_by_an_export_answers_without_torch_and_without_the_products_graph(
    shop: Path, tiny_export: Path, tiny_run: Path, tmp_path: Path
) -> None:
    index = tmp_path / "index"
    build(shop, index, tiny_export)
    names = {path.name for path in (index / "models").rglob("*")}
    assert "preprocessing.json" in names
    assert not [name for name in names if name.startswith("product")]
    code = (
        "import sys, beyond_text\n"
        f"index = beyond_text.Index.open({str(index)!r})\n"
        "hits = index.search(['red rug', 'blue lamp'], where=['in_stock'], top=3)\n"
        "print([hit.product_id for row in hits for hit in row], 'torch' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    vectors = beyond_text.load(tiny_run).encode_queries(["red rug", "blue lamp"])
    expected = Index.open(index).search_vectors(vectors, where=["in_stock"], top=3)
    found = [hit.product_id for row in expected for hit in row]
    assert done.stdout == f"{found} False\n"


def test_an_index_by_a_run_encodes_words_and_pictures_as_the_run_does(
    shop: Path, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    build(shop, tmp_path / "index", tiny_run, dim=8)
    index = beyond_text.Index.open(shutil.move(tmp_path / "index", tmp_path / "moved"))
    picture = (shop / "images" / "dev.0.jpg").read_bytes()
    expected = beyond_text.load(tiny_run).encode_queries(["red rug"], [picture])[:, :8]
    expected /= np.linalg.norm(expected)
    np.testing.assert_allclose(index.encode(["red rug"], [picture]), expected, atol=1e-5)
    assert index.search(["red rug"], [picture]) == index.search_vectors(
        index.encode(["red rug"], [picture]), ["red rug"]
    )
    search([str(tmp_path / "moved"), "red rug", "--where", "price<9", "--top", "48"])
    said = capsys.readouterr().out
    assert said.count(" train.") == 9
    assert "dev." not in said


def test_a_damaged_model_is_found_before_it_is_read(
    shop: Path, tiny_run: Path, tmp_path: Path
) -> None:
    build(shop, tmp_path / "index", tiny_run)
    (weights,) = (tmp_path / "index" / "models").rglob("model.safetensors")
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    index = Index.open(tmp_path / "index")
    with pytest.raises(IndexFormatError, match=r"model\.safetensors: damaged"):
        index.encode(["red rug"])


def test_a_damaged_model_is_copied_anew_by_the_command_that_made_the_index(
    shop: Path, tiny_run: Path, tmp_path: Path
) -> None:
    index = tmp_path / "index"
    build(shop, index, tiny_run)
    expected = Index.open(index).encode(["red rug"])
    (tokenizer,) = (index / "models").rglob("tokenizer.json")
    whole = tokenizer.read_bytes()
    tokenizer.write_bytes(whole.replace(b"rug", b"mat"))
    assert tokenizer.read_bytes() != whole
    build(shop, index, tiny_run)
    assert tokenizer.read_bytes() == whole
    np.testing.assert_array_equal(Index.open(index).encode(["red rug"]), expected)


def test_a_further_picture_that_is_none_is_not_used_by_run_and_export_alike(
    shop: Path, tiny_export: Path, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    rows = rows_of(shop)
    (shop / "images" / "page.jpg").write_text("<html>404</html>")
    rows[0]["image"] += "|images/page.jpg"
    write_rows(shop, rows)
    for model in (tiny_run, tiny_export):
        build(shop, tmp_path / f"by-{model.name}", model)
        assert "page.jpg: not used" in capsys.readouterr().out
    one, two = (
        Index.open(tmp_path / f"by-{model.name}")._generation.vectors.astype(np.float32)
        for model in (tiny_run, tiny_export)
    )
    np.testing.assert_allclose(one, two, atol=2e-3)


def test_a_picture_that_is_gone_since_the_tables_were_read_is_an_error(
    tiny_run: Path, tiny_export: Path, tmp_path: Path
) -> None:
    """Else its product would have a vector of the text alone, until its tables change."""
    (tmp_path / "page.jpg").write_text("<html>404</html>")
    for model in (tiny_run, tiny_export):
        facts = model_facts(model)
        encode = load_encoder(Job(facts, tmp_path, facts.dim, threads=1))
        product = Described("a", "red rug", {}, (Place("page.jpg"),))
        assert encode([product]).present.all()
        with pytest.raises(ValueError, match=r"gone\.jpg: gone since the tables were read"):
            encode([product._replace(pictures=(Place("gone.jpg"),))])
    encode_by(None)
