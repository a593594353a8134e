"""Checkpoints of a run are whole or not there, also where a process is killed or a disk is full."""

from __future__ import annotations

import multiprocessing
import resource
import signal
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from beyond_text.models.checkpoint import CheckpointError, load_model, save_model
from beyond_text.training.checkpoints import (
    Origin,
    newest_checkpoint,
    read_origin,
    write_checkpoint,
)
from tests.conftest import tiny_tokenizer
from tests.models.test_checkpoint import assert_same
from tests.models.test_two_tower import tiny_model

ORIGIN = Origin({"steps": 3, "lr": {"fusion": 0.1}}, 2)


def write(step: int, folder: Path) -> None:
    content = {"global_step": step, "weights": torch.full((4096,), float(step))}
    write_checkpoint(content, ORIGIN, folder / "last.ckpt")


def step_of(path: Path) -> int:
    return torch.load(path, weights_only=True)["global_step"]


def test_the_newest_checkpoint_is_found_with_its_origin_and_the_one_before_stays(
    tmp_path: Path,
) -> None:
    assert newest_checkpoint(tmp_path) is None
    for step in (1, 2, 3):
        write(step, tmp_path)
    assert newest_checkpoint(tmp_path) == (tmp_path / "last.ckpt", ORIGIN)
    assert [step_of(tmp_path / f"{name}.ckpt") for name in ("last", "previous")] == [3, 2]
    assert len(list(tmp_path.iterdir())) == 2
    # A kill between the two renames leaves this state.
    (tmp_path / "last.ckpt").unlink()
    assert newest_checkpoint(tmp_path) == (tmp_path / "previous.ckpt", ORIGIN)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1],
        lambda content: content.replace(torch.full((1,), 3.0).numpy().tobytes() * 2, b"1234" * 2),
        lambda content: bytes(len(content)),
    ],
    ids=["empty", "half", "a byte short", "other weights", "zeros"],
)
def test_a_damaged_checkpoint_is_refused_by_name(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    write(3, tmp_path)
    path = tmp_path / "last.ckpt"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match=r"last\.ckpt: not whole \(.+\)$"):
        read_origin(path)


def test_a_file_that_is_no_checkpoint_of_a_run_is_refused_by_name(tmp_path: Path) -> None:
    torch.save({"global_step": 3}, tmp_path / "old.ckpt")
    with pytest.raises(CheckpointError, match=r"old\.ckpt: does not say whose it is"):
        read_origin(tmp_path / "old.ckpt")
    with zipfile.ZipFile(tmp_path / "foreign.ckpt", "w") as archive:
        archive.writestr("readme", "a zip")
    with pytest.raises(CheckpointError, match=r"foreign\.ckpt: not whole"):
        read_origin(tmp_path / "foreign.ckpt")


def in_child(action: Callable[[], None]) -> int | None:
    """Runs an action in a process that can write no file beyond 8 KiB; returns its exit code."""

    def starved() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**13, 2**13))
        action()

    child = multiprocessing.get_context("fork").Process(target=starved)
    child.start()
    child.join()
    return child.exitcode


def test_a_process_killed_in_the_middle_of_writing_leaves_the_checkpoints_before(
    tmp_path: Path,
) -> None:
    def killed() -> None:
        # Beyond the limit the kernel sends this signal, which kills where nothing handles it.
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        write(3, tmp_path)

    write(1, tmp_path)
    write(2, tmp_path)
    assert in_child(killed) == -signal.SIGXFSZ
    assert (tmp_path / "last.partial").stat().st_size == 2**13
    assert [step_of(tmp_path / f"{name}.ckpt") for name in ("last", "previous")] == [2, 1]
    write(3, tmp_path)
    assert [step_of(tmp_path / f"{name}.ckpt") for name in ("last", "previous")] == [3, 2]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_disk_that_fills_while_a_checkpoint_or_a_model_is_written_costs_nothing(
    folder: Path, tmp_path: Path
) -> None:
    model = tiny_model(folder, "bert", "vit")

    def refused() -> None:
        with pytest.raises(CheckpointError, match=r"last\.ckpt: could not be written \(.*File too"):
            write(3, tmp_path)
        with pytest.raises(CheckpointError, match=r"safetensors: could not be written \("):
            save_model(model, tiny_tokenizer(), tmp_path)

    save_model(model, tiny_tokenizer(), tmp_path)
    write(1, tmp_path)
    write(2, tmp_path)
    assert in_child(refused) == 0
    assert not (tmp_path / "last.partial").exists()
    assert [step_of(tmp_path / f"{name}.ckpt") for name in ("last", "previous")] == [2, 1]
    assert_same(load_model(tmp_path)[0], model.eval())
