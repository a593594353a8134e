"""A build is of the same bytes whoever makes its shards, and goes on after it was stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from webdataset import TarWriter

from data_prep.planned import work_folders
from data_prep.rejects import BuildError
from data_prep.shards import build_shards, main
from tests import ROOT
from tests.benchmarks.build import write_shop

OPTIONS = {"picture_size": 16, "samples_per_shard": 10}
build = partial(build_shards, **OPTIONS)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A hundred products; the picture of one is missing, and two have one picture."""
    write_shop(tmp_path / "shop", 100, 4, 99)
    (tmp_path / "shop" / "images" / "000003.jpg").unlink()
    return tmp_path / "shop"


@pytest.fixture
def whole(shop: Path, tmp_path: Path) -> dict[str, bytes]:
    """What one process makes of the shop, undisturbed."""
    build(shop, tmp_path / "whole", workers=1)
    return content(tmp_path / "whole")


@pytest.mark.slow
def test_two_processes_make_the_bytes_of_one(
    shop: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    build(shop, tmp_path / "out", workers=2)
    assert content(tmp_path / "out") == whole
    assert len([name for name in whole if name.endswith(".tar")]) > 9


@pytest.mark.slow
def test_a_ray_cluster_makes_the_bytes_of_one(
    shop: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    pytest.importorskip("ray")
    build(shop, tmp_path / "out", workers=2, ray="local")
    assert content(tmp_path / "out") == whole


def test_jobs_of_an_array_make_the_bytes_of_one_and_the_last_finishes(
    shop: Path, tmp_path: Path, whole: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = [str(shop), str(out), "--picture-size", "16", "--samples-per-shard", "10"]
    for share in ("2/3", "0/3"):
        assert main([*words, "--array", share, "--workers", "1"]) == 0
        assert "this share is done" in capsys.readouterr().out
        assert not out.exists()
    assert main([*words, "--array", "1/3", "--workers", "1"]) == 0
    assert "train: " in capsys.readouterr().out
    assert content(out) == whole
    assert not list(tmp_path.glob(".*"))


@pytest.mark.slow
def test_a_killed_build_goes_on_with_what_it_has_done(
    shop: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    out = tmp_path / "out"
    words = [str(shop), str(out), "--picture-size", "16", "--samples-per-shard", "10"]
    command = [sys.executable, "-m", "data_prep.shards", *words, "--workers", "2"]
    with subprocess.Popen(command, cwd=ROOT) as process:
        while len(list(tmp_path.glob(".*/tasks/*.done.json"))) < 2 and process.poll() is None:
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
    assert not out.exists()
    (work,) = work_folders(out)
    before = files_of_done(work / "tasks")
    assert before
    build(shop, out, workers=1)
    assert content(out) == whole
    assert not list(tmp_path.glob(".*"))
    # Files that were not made again are still the same.
    assert before.items() <= {path.name: made(path) for path in out.iterdir()}.items()


@pytest.mark.slow
def test_jobs_that_start_together_make_one_build(
    shop: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    out = tmp_path / "out"
    words = [str(shop), str(out), "--picture-size", "16", "--samples-per-shard", "10"]
    command = [sys.executable, "-m", "data_prep.shards", *words, "--workers", "1", "--array"]
    jobs = [subprocess.Popen([*command, share], cwd=ROOT) for share in ("0/2", "1/2")]
    assert [job.wait() for job in jobs] == [0, 0]
    assert content(out) == whole
    assert not list(tmp_path.glob(".*"))


def test_a_folder_of_work_that_is_half_deleted_is_made_anew(
    shop: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    tasks = stopped(shop, tmp_path / "out")
    (tasks.parent / "facts.json").unlink()
    (tasks.parent / "products-train.arrow").unlink()
    build(shop, tmp_path / "out", workers=1)
    assert content(tmp_path / "out") == whole


def stopped(shop: Path, out: Path) -> Path:
    """Does half of a build; returns the folder of its tasks."""
    assert build(shop, out, workers=1, array=(0, 2)) == {}
    (work,) = work_folders(out)
    return work / "tasks"


def files_of_done(tasks: Path) -> dict[str, tuple[int, int]]:
    """Returns when the shards of tasks that are done were made."""
    done = [json.loads(path.read_bytes())["files"] for path in tasks.glob("*.done.json")]
    names = [name for files in done for name in files if name.endswith((".tar", ".npy"))]
    return {name: made(tasks / name) for name in names}


def made(path: Path) -> tuple[int, int]:
    """Returns what the disk knows a file by, whatever its name: it was made once."""
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


def test_only_shards_whose_pictures_have_changed_are_made_again(shop: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    before = files_of_done(stopped(shop, out))
    (shop / "images" / "000010.jpg").write_bytes((shop / "images" / "000011.jpg").read_bytes())
    manifest = build(shop, out, workers=1)
    after = {path.name: made(path) for path in out.iterdir()}
    # A product may stand in two splits; of each shard there is an index too.
    assert 0 < sum(before[name] != after[name] for name in before) <= 4 < len(before)
    assert build(shop, tmp_path / "anew", workers=1) == manifest
    assert content(out) == content(tmp_path / "anew")


@pytest.mark.parametrize("change", ["tables", "seed", "nothing"])
def test_what_was_done_of_other_tables_or_options_is_of_no_use(
    shop: Path, tmp_path: Path, change: str
) -> None:
    out = tmp_path / "out"
    before = files_of_done(stopped(shop, out))
    if change == "tables":
        with (shop / "products.csv").open("a") as file:
            file.write("p1,Another,,,,\n")
    manifest = build(shop, out, workers=1, seed=int(change == "seed"))
    after = {path.name: made(path) for path in out.iterdir()}
    kept = [name for name in before if before[name] == after[name]]
    assert len(kept) == (len(before) if change == "nothing" else 0)
    assert manifest["splits"]["train"]["products"] == (101 if change == "tables" else 100)


def test_the_limit_of_rejects_is_that_of_the_whole_and_leaves_no_work(
    shop: Path, tmp_path: Path
) -> None:
    for number in (4, 5, 6):
        (shop / "images" / f"{number:06}.jpg").unlink()
    manifest = build(shop, tmp_path / "out", workers=1, max_rejected=0.04)
    assert manifest["rejects"] == {"picture missing": 4}
    with pytest.raises(BuildError, match=r"products\.csv: 4 of 100 rows rejected"):
        build(shop, tmp_path / "strict", workers=1, max_rejected=0.03)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "shop", "strict.rejects.csv"]


@pytest.mark.parametrize("share", [5.0, -0.1, float("nan")])
def test_a_share_of_rejects_is_one(shop: Path, tmp_path: Path, share: float) -> None:
    with pytest.raises(BuildError, match="expected a share from 0 to 1"):
        build(shop, tmp_path / "out", workers=1, max_rejected=share)


def test_a_build_that_is_interrupted_or_lies_below_a_file_ends_in_one_line(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "file").touch()
    assert main([str(shop), str(tmp_path / "file" / "out")]) == 1
    assert "Not a directory" in capsys.readouterr().err

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("data_prep.shards.run_plan", interrupt)
    assert main([str(shop), str(tmp_path / "out")]) == 130
    assert "the same command goes on" in capsys.readouterr().err


def test_a_folder_of_something_else_is_refused_before_any_work(shop: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="expected a new or empty folder or an earlier build"):
        build(shop, shop, workers=1)
    assert not work_folders(shop)


def test_a_damaged_shard_is_named_and_made_again(
    shop: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    out = tmp_path / "out"
    tasks = stopped(shop, out)
    name = min(path.name for path in tasks.glob("train-*.tar"))
    data = (tasks / name).read_bytes()
    (tasks / name).write_bytes(b"?" + data[1:])
    with pytest.raises(BuildError, match=rf"{name}: not the bytes that task"):
        build(shop, out, workers=1)
    build(shop, out, workers=1)
    assert content(out) == whole


def test_a_shard_has_the_bytes_that_webdataset_writes(shop: Path, tmp_path: Path) -> None:
    (shop / "images.csv").write_text("product_id,image\np00000005,images/000007.jpg\n")
    build(shop, tmp_path / "out", workers=1)
    for path in (tmp_path / "out").glob("*.tar"):
        samples: dict[str, dict[str, Any]] = {}
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, ending = member.name.partition(".")
                stream = tar.extractfile(member)
                assert stream
                samples.setdefault(key, {"__key__": key})[ending] = stream.read()
        again = BytesIO()
        with TarWriter(again, user="", group="", mtime=0, encoder=False) as writer:
            for sample in samples.values():
                writer.write(sample)
        assert again.getvalue() == path.read_bytes()


def test_a_process_that_makes_shards_does_not_load_torch() -> None:
    code = "import sys, data_prep.shard; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
