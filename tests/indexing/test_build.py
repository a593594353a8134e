"""An index holds what the model gives, is updated by what changed, and goes on after a kill."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from beyond_text.encoding.model import load
from beyond_text.indexing import encode_parts
from beyond_text.indexing.generation import Generation
from beyond_text.indexing.index import Index
from beyond_text.retrieval.encode import encode_products
from beyond_text.retrieval.read_split import read_products
from beyond_text.retrieval.run import load_run
from tests import ROOT
from tests.indexing.shop import build, copied_shop, rows_of, write_rows


@pytest.fixture
def shop(tiny_tables: Path, tmp_path: Path) -> Path:
    return copied_shop(tiny_tables, tmp_path / "shop")


def vectors_of(folder: Path, run: Path) -> dict[str, np.ndarray]:
    """Encodes a folder's products without an index."""
    encoder = load_run(run)
    settings = encoder.model.settings
    sizes = settings.image_size, settings.picture_size
    catalogue = read_products(folder, None, settings.text_fields, *sizes)
    return dict(zip(*encode_products(encoder, catalogue)["product"], strict=True))


def check(index: Path, folder: Path, run: Path) -> Index:
    """Checks that an index holds the products of a folder with their vectors."""
    opened, expected = Index.open(index), vectors_of(folder, run)
    generation = opened._generation
    assert list(generation.product_ids()) == sorted(expected, reverse=True)
    for number, product_id in enumerate(generation.product_ids()):
        np.testing.assert_allclose(
            generation.vectors[number].astype(np.float32), expected[product_id], atol=1e-3
        )
    return opened


def files_of(index: Path) -> set[str]:
    return {str(path.relative_to(index)) for path in index.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", ["tables", "shards"])
def test_an_index_holds_the_vectors_of_all_products(
    kind: str, tiny_tables: Path, tiny_shards: Path, tiny_run: Path, tmp_path: Path
) -> None:
    folder = {"tables": tiny_tables, "shards": tiny_shards}[kind]
    built = build(folder, tmp_path / "index", tiny_run)
    assert built[1:] == (48, 0, 0, 0)
    index = check(tmp_path / "index", folder, tiny_run)
    assert len(index) == built.facts.products == 48
    assert built.facts.recall_at_10 == 1.0
    hit = index.product("dev.2")
    assert hit.text == "rug. decor. a rug home decor"
    assert hit.columns == {"title": "rug", "category": "decor"}
    assert index.picture("dev.5") is None
    picture = index.picture("dev.2")
    assert picture is not None
    if kind == "tables":
        assert picture == (tiny_tables / "images/dev.2.jpg").read_bytes()
    with pytest.raises(KeyError):
        index.product("dev.99")


def test_a_split_alone_is_indexed(tiny_shards: Path, tiny_run: Path, tmp_path: Path) -> None:
    build(tiny_shards, tmp_path / "index", tiny_run, split="dev")
    assert len(Index.open(tmp_path / "index")) == 24


def test_an_update_encodes_what_changed_and_forgets_what_is_gone(
    shop: Path, tiny_run: Path, tmp_path: Path
) -> None:
    index = tmp_path / "index"
    build(shop, index, tiny_run)
    before = Index.open(index)
    rows = rows_of(shop)
    gone = rows.pop(7)
    rows[0]["title"] = "blue lamp"
    # The same name, other bytes.
    Image.new("RGB", (30, 30), "orange").save(shop / rows[1]["image"])
    rows.append({**rows[2], "product_id": "new", "title": "green vase", "group_id": "new"})
    # Content that is known under another id needs no model.
    rows.append({**rows[3], "product_id": "twin", "group_id": "twin"})
    rows[4]["image"] = ""
    write_rows(shop, rows)
    built = build(shop, index, tiny_run)
    assert (built.encoded, built.kept, built.removed) == (4, 45, 1)
    check(index, shop, tiny_run)
    # The index that was open answers as before.
    assert not before.is_current()
    assert before.product(gone["product_id"]).text
    assert len(before) == 48
    with pytest.raises(KeyError):
        Index.open(index).product(gone["product_id"])


def test_an_index_of_what_has_not_changed_stays_as_it_is(
    shop: Path, tiny_run: Path, tmp_path: Path
) -> None:
    index = tmp_path / "index"
    build(shop, index, tiny_run)
    opened, files = Index.open(index), files_of(index)
    built = build(shop, index, tiny_run)
    assert (built.encoded, built.kept, built.removed) == (0, 48, 0)
    assert opened.is_current()
    assert files_of(index) == files


def test_another_model_encodes_everything_again(shop: Path, tiny_run: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    index = tmp_path / "index"
    build(shop, index, tiny_run)
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    weights = run / "model" / "model.safetensors"
    state = {name: value + 0.1 for name, value in load_file(weights).items()}
    save_file(state, weights)
    assert build(shop, index, run).encoded == 48
    check(index, shop, run)


def test_the_generation_before_stays_and_older_ones_go(
    shop: Path, tiny_run: Path, tmp_path: Path
) -> None:
    index = tmp_path / "index"
    for number in range(4):
        rows = rows_of(shop)
        rows[0]["title"] = f"red rug {number * 'home '}"
        write_rows(shop, rows)
        build(shop, index, tiny_run)
    assert sorted(path.name for path in (index / "generations").iterdir()) == ["3", "4"]
    assert not (index / "building").exists()


def test_a_narrow_index_holds_the_first_numbers_as_unit_vectors(
    shop: Path, tiny_run: Path, tmp_path: Path
) -> None:
    build(shop, tmp_path / "index", tiny_run, dim=8)
    index, whole = Index.open(tmp_path / "index"), vectors_of(shop, tiny_run)
    assert index.dim == 8
    query = whole["dev.3"][None]
    scores = {hit.product_id: hit.score for hit in index.search_vectors(query, top=48)[0]}
    cut = {name: vector[:8] / np.linalg.norm(vector[:8]) for name, vector in whole.items()}
    assert scores == pytest.approx({n: v @ cut["dev.3"] for n, v in cut.items()}, abs=2e-3)
    with pytest.raises(ValueError, match="dim: expected 1 to 16"):
        build(shop, tmp_path / "other", tiny_run, dim=17)


def test_copied_pictures_are_the_indexs_own(shop: Path, tiny_run: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    rows = rows_of(shop)
    shutil.copy(shop / rows[0]["image"], shop / rows[1]["image"])
    build(shop, index, tiny_run, copy_pictures=True)
    # Four products of 48 have none, and two have the same.
    assert len(list((index / "pictures").rglob("*/*"))) == 43
    content = (shop / rows[2]["image"]).read_bytes()
    moved = Path(shutil.move(index, tmp_path / "elsewhere"))
    pictures = shop / "images"
    pictures.rename(tmp_path / "images")
    assert Index.open(moved).picture(rows[2]["product_id"]) == content
    (tmp_path / "images").rename(pictures)
    for _ in range(2):
        Image.new("RGB", (30, 30), f"#{time.time_ns() % 2**24:06x}").save(shop / rows[2]["image"])
        build(shop, moved, tiny_run, copy_pictures=True)
    # Of the generation before too, of older ones none.
    assert len(list((moved / "pictures").rglob("*/*"))) == 44
    assert Index.open(moved).picture(rows[2]["product_id"]) != content


def test_an_index_that_moved_answers_and_finds_pictures_that_moved_with_it(
    shop: Path, tiny_run: Path, tmp_path: Path
) -> None:
    (tmp_path / "all").mkdir()
    shop = Path(shutil.move(shop, tmp_path / "all" / "shop"))
    build(shop, tmp_path / "all" / "index", tiny_run)
    content = (shop / "images" / "dev.2.jpg").read_bytes()
    shutil.move(tmp_path / "all", tmp_path / "moved")
    index = Index.open(tmp_path / "moved" / "index")
    assert index.picture("dev.2") == content
    shutil.rmtree(tmp_path / "moved" / "shop")
    assert index.picture("dev.2") is None
    assert len(index.search_vectors(np.ones((1, 16)), top=48)[0]) == 48


KILLED = """
import os, signal, sys
from pathlib import Path
from beyond_text.encoding.model import load
from beyond_text.indexing import encode_parts
from beyond_text.indexing.generation import Generation
from beyond_text.tasks.runner import Outcome
from tests.indexing.shop import build

encode_parts.PART = encode_parts.LEAST = 7
check, parts = Outcome.check, []
def counted(outcome):
    parts.append(outcome)
    if len(parts) == {after}:
        os.kill(os.getpid(), signal.SIGKILL)
    check(outcome)
Outcome.check = counted
if __name__ == "__main__":
    build(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), workers={workers})
"""


@pytest.mark.parametrize(("after", "workers"), [(1, 1), (4, 1), (3, 2)])
def test_a_killed_build_goes_on_with_the_parts_that_are_done(
    after: int, workers: int, shop: Path, tiny_run: Path, tmp_path: Path
) -> None:
    index, script = tmp_path / "index", tmp_path / "killed.py"
    script.write_text(KILLED.format(after=after, workers=workers))
    words = [sys.executable, str(script), str(shop), str(index), str(tiny_run)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == -signal.SIGKILL, done.stderr
    with pytest.raises(ValueError, match="not an index"):
        Index.open(index)
    # Also one whose worker was ended before it could say that it was done.
    parts = len(list((index / "building").rglob("*.safetensors")))
    assert parts >= after
    # In between the catalogue changes too.
    rows = rows_of(shop)
    rows[0]["title"] = "blue lamp"
    write_rows(shop, rows)
    built = build(shop, index, tiny_run)
    # Two products have the content of others, one has changed.
    assert 46 <= built.encoded + 7 * parts <= 49
    check(index, shop, tiny_run)
    assert not (index / "building").exists()


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_the_last_job_of_an_array_makes_the_index(
    order: tuple[int, ...],
    shop: Path,
    tiny_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(encode_parts, "PART", 7)
    monkeypatch.setattr(encode_parts, "LEAST", 7)
    index = tmp_path / "index"
    first, second, last = (
        build(shop, index, tiny_run, workers=1, array=(share, 3)) for share in order
    )
    assert (first, second) == (None, None)
    assert last.facts.products == 48
    check(index, shop, tiny_run)
    other = build(shop, tmp_path / "other", tiny_run, workers=1)
    assert last.facts.files == other.facts.files
    assert not (index / "building").exists()
    # A job that comes too late changes nothing.
    files = files_of(index) - {"seen.arrow"}
    late = build(shop, index, tiny_run, workers=1, array=(1, 3))
    assert (late.encoded, late.kept) == (0, 48)
    assert files_of(index) - {"seen.arrow"} == files


def test_an_array_with_a_share_that_is_not_done_is_finished_without_it(
    shop: Path, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode_parts, "PART", 7)
    monkeypatch.setattr(encode_parts, "LEAST", 7)
    index = tmp_path / "index"
    assert build(shop, index, tiny_run, workers=1, array=(1, 2)) is None
    with pytest.raises(ValueError, match="not an index"):
        Index.open(index)
    built = build(shop, index, tiny_run, workers=1)
    assert built.encoded == 46 - 3 * 7 + 2
    check(index, shop, tiny_run)


def test_jobs_of_an_array_work_at_the_same_time_and_no_other_build_does(
    shop: Path, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    monkeypatch.setattr(encode_parts, "PART", 7)
    monkeypatch.setattr(encode_parts, "LEAST", 7)
    index = tmp_path / "index"
    (index / "building").mkdir(parents=True)
    with (index / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        with pytest.raises(BlockingIOError, match="another process builds"):
            build(shop, index, tiny_run, workers=1)
        # All is done, and the job that holds the lock will make the index.
        assert build(shop, index, tiny_run, workers=1, array=(0, 1)) is None
    assert build(shop, index, tiny_run, workers=1, array=(0, 1)).encoded == 0
    check(index, shop, tiny_run)


def test_a_large_index_is_updated_by_processes_that_were_started_before(
    shop: Path, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(shop, tmp_path / "index", tiny_run)
    monkeypatch.setattr("beyond_text.indexing.build.MANY", 48)
    rows = rows_of(shop)
    for row in rows[:5]:
        row["title"] = "blue lamp"
    write_rows(shop, rows)
    assert build(shop, tmp_path / "index", tiny_run, workers=2).encoded == 5
    check(tmp_path / "index", shop, tiny_run)
    assert build(shop, tmp_path / "index", tiny_run, workers=2).encoded == 0


def test_a_damaged_part_is_encoded_again(shop: Path, tiny_run: Path, tmp_path: Path) -> None:
    building = tmp_path / "index" / "building" / "0123456789abcdef"
    building.mkdir(parents=True)
    for number, content in enumerate((b"", b"\xff" * 100, b"{}")):
        (building / f"{number:08}.safetensors").write_bytes(content)
    assert build(shop, tmp_path / "index", tiny_run).encoded == 48
    check(tmp_path / "index", shop, tiny_run)


def test_what_is_no_index_is_not_written_into(shop: Path, tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("1")
    with pytest.raises(ValueError, match="expected a new or empty folder or an index"):
        build(shop, tmp_path / "thesis", tiny_run)
    assert files_of(tmp_path / "thesis") == {"chapter.txt"}
    with pytest.raises(ValueError, match="expected a folder"):
        build(shop, tmp_path / "thesis" / "chapter.txt", tiny_run)


def test_two_builds_of_one_index_do_not_mix(shop: Path, tiny_run: Path, tmp_path: Path) -> None:
    import fcntl

    build(shop, tmp_path / "index", tiny_run)
    with (tmp_path / "index" / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError, match="another process builds"):
            build(shop, tmp_path / "index", tiny_run)


def test_products_that_the_model_cannot_see_are_counted(
    shop: Path, tiny_run: Path, tmp_path: Path
) -> None:
    rows = rows_of(shop)
    # Of a description alone the model reads none, for its texts are title and category.
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    settings = run / "model" / "settings.yaml"
    settings.write_text(settings.read_text().replace("- description\n", ""))
    rows[0] |= {"title": "", "category": "", "image": "", "description": "words"}
    write_rows(shop, rows)
    built = build(shop, tmp_path / "index", run)
    assert built.left_out == 1
    assert built.facts.products == 47


def test_rows_that_cannot_be_used_stop_a_build_as_they_stop_shards(
    shop: Path, tiny_run: Path, tmp_path: Path
) -> None:
    from beyond_text.tables.rejects import RejectError

    rows = rows_of(shop)
    for row in rows[:4]:
        row["image"] = "images/none.jpg"
    write_rows(shop, rows)
    with pytest.raises(RejectError, match="4 of 48 rows rejected"):
        build(shop, tmp_path / "index", tiny_run)
    assert not (tmp_path / "index" / "index.json").exists()


def test_an_index_of_lists_is_measured_by_titles_asked_as_queries(
    shop: Path, tiny_run: Path, tmp_path: Path
) -> None:
    index = tmp_path / "index"
    facts = build(shop, index, tiny_run, kind="ivf_sq8").facts
    asked = Generation.open(index).asked()
    assert asked is not None
    titles = [row["title"] for row in rows_of(shop)]
    expected = load(tiny_run).encode_queries(titles)
    # Each is a title's vector, in half precision.
    assert (asked @ expected.T).max(axis=1).min() > 0.999
    assert facts.recall_at_10 == 1
    # An update asks the same, and an exact index nothing.
    write_rows(shop, [{**row, "title": f"new {row['title']}"} for row in rows_of(shop)])
    build(shop, index, tiny_run, kind="ivf_sq8")
    np.testing.assert_array_equal(Generation.open(index).asked(), asked)
    build(shop, index, tiny_run)
    assert Generation.open(index).asked() is None
