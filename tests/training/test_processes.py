"""Runs on several real processes: resumed on another number, measured by all, stopped together.

Processes are joined by gloo on this machine. What several machines do differently, a disk of their
own, is played by processes in folders of their own whose settings name relative paths.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from transformers import ViTConfig, ViTModel

from beyond_text.config.load import load_config
from beyond_text.config.settings import ConfigError
from beyond_text.shards.batch import Batch
from beyond_text.train import main
from beyond_text.training import resume
from beyond_text.training import trainer as trainers
from beyond_text.training.resume import Begun, begin, check_view
from data_prep.shards import build_shards
from tests import RECIPES, ROOT
from tests.test_train import same, weights

pytestmark = pytest.mark.slow

STEPS = 12


class Watcher(pl.Callback):
    """Records each batch and its loss, and kills all processes of the run after the n-th."""

    def __init__(self, folder: Path, kill_after: int) -> None:
        self.folder = folder
        self.left = kill_after

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        line = {
            "batch": batch_idx,
            "world": trainer.world_size,
            "rank": trainer.global_rank,
            "ids": batch.product_ids,
            "queries": batch.query_keys.query.tolist(),
            "loss": outputs["loss"].item() * trainer.accumulate_grad_batches,
            "looks": getattr(trainer.strategy, "_ddp_kwargs", {}).get("find_unused_parameters"),
        }
        with (self.folder / f"{trainer.global_rank}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        self.left -= 1
        if self.left == 0:
            # Only when all have written the line.
            trainer.strategy.barrier()
            if trainer.is_global_zero:
                os.killpg(0, signal.SIGKILL)
            signal.pause()


@contextmanager
def launched(
    *words: str, cwd: Path = ROOT, env: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Starts this file as a program in a process group of its own, and ends it at the latest."""
    process = subprocess.Popen(
        [sys.executable, "-m", __name__, *words],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | (env or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def on(processes: int) -> list[str]:
    return ["trainer.strategy=ddp", f"trainer.devices={processes}"] if processes > 1 else []


def go(settings: Sequence[str], run: Path, seen: Path, processes: int, kill_after: int = 0) -> str:
    """Trains in processes of their own; returns what they wrote to standard error."""
    seen.mkdir(exist_ok=True)
    words = [str(seen), str(kill_after), *on(processes), *settings, f"run={run}"]
    with launched(*words) as process:
        _, errors = process.communicate(timeout=300)
    assert process.returncode == (-signal.SIGKILL if kill_after else 0), errors
    return errors


def batches(seen: Path) -> list[tuple[int, list[list[Any]], float]]:
    """Returns the number, the products with their queries, and the loss of each global batch."""
    lines = [json.loads(line) for path in seen.iterdir() for line in path.read_text().splitlines()]
    steps: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for line in lines:
        steps.setdefault((line["batch"], line["world"]), []).append(line)
    found = []
    for (number, world), parts in sorted(steps.items()):
        for start in range(0, len(parts), world):
            ranks = sorted(parts[start : start + world], key=lambda line: line["rank"])
            assert [line["rank"] for line in ranks] == list(range(world))
            rows = [_products(line) for line in ranks]
            products = [row for together in zip(*rows, strict=True) for row in together]
            found.append((number, products, sum(line["loss"] for line in ranks) / world))
    return found


def _products(line: dict[str, Any], slots: int = 2) -> list[list[Any]]:
    """Returns the rows of each product of a line, one for each query slot."""
    rows = list(zip(line["ids"], line["queries"], strict=True))
    return [rows[start : start + slots] for start in range(0, len(rows), slots)]


@pytest.fixture(scope="module")
def settings(
    tiny_settings: list[str], tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[str]:
    """Encoders without dropout and batch norm, which differ between numbers of processes."""
    image = tmp_path_factory.mktemp("encoders") / "image"
    torch.manual_seed(0)
    ViTModel(
        ViTConfig(
            hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
            image_size=32, patch_size=16,
        )
    ).save_pretrained(image)  # fmt: skip
    return [
        *tiny_settings, f"image_encoder.path={image}", "text_encoder.dropout=false",
        "losses.query_product=1", "losses.query_image=0.5", "losses.text_image=0.5",
        "data.queries_per_product=2", f"steps={STEPS}", "checkpoint_every=2", "evaluate_every=5",
        "average_span=0.4", "trainer.accelerator=cpu", "temperature=0.1", "data.same_category=3",
        "batch_size=8", "memory_size=24", "data.modality_dropout=0.3", "loss=info_nce",
        "image_encoder.drop_path=0",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def alone(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that one process trained undisturbed."""
    folder = tmp_path_factory.mktemp("alone")
    go(settings, folder / "run", folder / "seen", 1)
    return folder


def test_a_killed_run_goes_on_with_any_number_of_processes(
    settings: list[str], alone: Path, tmp_path: Path
) -> None:
    run, seen = tmp_path / "run", tmp_path / "seen"
    go(settings, run, seen, 2, kill_after=5)
    said = go(settings, run, seen, 1, kill_after=3)
    assert "written by 2 processes, goes on with 1" in said
    go(settings, run, seen, 4, kill_after=3)
    go(settings, run, seen, 2)
    expected = {number: (products, loss) for number, products, loss in batches(alone / "seen")}
    found = batches(seen)
    # The kills cost one step each, which was done again.
    assert [number for number, _, _ in found] == [0, 1, 2, 3, 4, 4, 5, 6, 6, 7, 8, 8, 9, 10, 11]
    for number, products, loss in found:
        assert products == expected[number][0]
        assert loss == pytest.approx(expected[number][1], abs=1e-4)
    ours, theirs = weights(run), weights(alone / "run")
    for name, weight in theirs.items():
        torch.testing.assert_close(ours[name], weight, rtol=1e-3, atol=1e-4, msg=name)
    before, after = (json.loads((p / "history.json").read_text()) for p in (alone / "run", run))
    # Nothing was trained yet: encoded by two processes, and measured to the bit.
    assert before["step 0"] == after["step 0"]
    assert before["run"]["product"]["all"]["ndcg@10"] == pytest.approx(
        after["run"]["product"]["all"]["ndcg@10"], abs=0.02
    )


def test_the_same_number_of_processes_gives_the_same_bits(
    settings: list[str], tmp_path: Path
) -> None:
    go(settings, tmp_path / "whole", tmp_path / "seen", 2)
    go(settings, tmp_path / "killed", tmp_path / "killed seen", 2, kill_after=5)
    go(settings, tmp_path / "killed", tmp_path / "killed seen", 2)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))
    for name in ("run.trec", "qrels.trec"):
        whole, killed = ((tmp_path / run / name).read_bytes() for run in ("whole", "killed"))
        assert whole == killed


def test_a_teacher_and_a_pull_to_the_start_are_the_same_for_any_number_of_processes(
    settings: list[str], alone: Path, tiny_run: Path, tmp_path: Path
) -> None:
    words = [
        *settings, f"teacher={tiny_run}", "losses.teacher=1", "start_penalty=300", "steps=6",
    ]  # fmt: skip
    for processes in (1, 2):
        go(words, tmp_path / f"run{processes}", tmp_path / f"seen{processes}", processes)
    one, two = (batches(tmp_path / f"seen{processes}") for processes in (1, 2))
    assert [loss for *_, loss in two] == pytest.approx([loss for *_, loss in one], abs=1e-4)
    untaught = [loss for *_, loss in batches(alone / "seen")][:6]
    assert [loss for *_, loss in one] != pytest.approx(untaught, abs=1e-2)
    ours, theirs = (weights(tmp_path / f"run{processes}") for processes in (1, 2))
    for name, weight in theirs.items():
        torch.testing.assert_close(ours[name], weight, rtol=1e-3, atol=1e-4, msg=name)


def test_weights_without_a_gradient_are_looked_for_only_where_they_differ(
    settings: list[str], tiny_tables: Path, tmp_path: Path
) -> None:
    whole = tmp_path / "whole"
    shutil.copytree(tiny_tables, whole)
    products = pd.read_csv(whole / "products.csv", keep_default_na=False)
    products["image"] = products["image"].where(products["image"] != "", "images/dev.0.jpg")
    products.to_csv(whole / "products.csv", index=False)
    build_shards(whole, tmp_path / "shards", picture_size=40, workers=1)
    words = [
        *settings, "steps=3", "evaluate_every=0", "losses.text_image=0", "data.modality_dropout=0",
    ]  # fmt: skip
    complete = [*words, f"data.sources.tables.path={tmp_path / 'shards'}"]
    looking = [*complete, "trainer.strategy=ddp_find_unused_parameters_true"]
    runs = {"lacking": words, "complete": complete, "looking": looking}
    looks = {}
    for name, overrides in runs.items():
        go(overrides, tmp_path / name, tmp_path / f"{name} seen", 2)
        line = (tmp_path / f"{name} seen" / "0.jsonl").read_text().splitlines()[0]
        looks[name] = json.loads(line)["looks"]
    assert looks == {"lacking": True, "complete": False, "looking": True}
    assert same(weights(tmp_path / "complete"), weights(tmp_path / "looking"))


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def on_two_machines(settings: Sequence[str], machines: tuple[Path, Path]) -> list[tuple[int, str]]:
    """Runs the command as on two machines, each in a folder of its own.

    Returns both exit statuses and standard errors.
    """
    port = free_port()
    common = [*settings, "trainer.strategy=ddp", "trainer.num_nodes=2", "trainer.devices=1"]

    def machine(number: int) -> Any:
        env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": str(number)}
        return launched(
            str(machines[number]), "0", *common, cwd=machines[number], env=env | {"LOCAL_RANK": "0"}
        )

    with machine(0) as one, machine(1) as other:
        ended = [(process.communicate(timeout=120)[1], process) for process in (one, other)]
        return [(process.returncode, said) for said, process in ended]


@pytest.fixture
def machines(tiny_shards: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Two folders with shards, as two machines without a common disk have them."""
    for name in ("one", "two"):
        shutil.copytree(tiny_shards, tmp_path / name / "shards")
    return tmp_path / "one", tmp_path / "two"


@pytest.fixture
def relative(settings: list[str]) -> list[str]:
    return [
        *settings, "run=run", "data.sources.tables.path=shards", "data.dev=shards", "steps=2",
        "evaluate_every=0",
    ]  # fmt: skip


def share_run(two: Path) -> None:
    (two / "run").symlink_to(two.parent / "one" / "run")


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[700] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("shared", "said"),
    [
        (False, r"run/config\.yaml: not the file that the first process sees; the folder of a run"),
        (True, r"shards/dev-0+\.tar: damaged: SHA-256 "),
    ],
)
def test_a_machine_that_sees_something_else_is_named_in_one_line(
    relative: list[str], machines: tuple[Path, Path], shared: bool, said: str
) -> None:
    (machines[0] / "run").mkdir()
    if shared:
        share_run(machines[1])
        flip_a_bit(min((machines[1] / "shards").glob("dev-*.tar")))
    (status, first), (other_status, other) = on_two_machines(relative, machines)
    assert status == 1, first
    line = first.strip().splitlines()[-1]
    assert re.match(rf"error: process 1 of 2, on {socket.gethostname()}: {said}", line), first
    # It has nothing to add.
    assert (other_status, "Traceback" in other, "error" in other) == (0, False, False), other


def test_a_process_compares_settings_files_and_data_with_the_first(
    relative: list[str], machines: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = machines
    monkeypatch.setattr(resume, "PATIENCE", 0)
    monkeypatch.chdir(one)
    words = [*relative, "losses.query_image=0"]
    config = load_config([], words)
    # As it is told to the others.
    told = msgspec.json.decode(msgspec.json.encode(begin(config, 4)), type=Begun)
    check_view(told, config)
    with pytest.raises(ConfigError, match=r"than the first process has: seed \(asked 3, found 0\)"):
        check_view(told, load_config([], [*words, "seed=3"]))
    # What a machine may choose for itself.
    check_view(told, load_config([], [*words, "data.workers=3"]))
    monkeypatch.chdir(two)
    with pytest.raises(ConfigError, match=r"^run/config\.yaml: not the file .* all machines share"):
        check_view(told, config)
    share_run(two)
    check_view(told, config)
    manifest = two / "shards" / "manifest.json"
    manifest.write_text(manifest.read_text() + "\n")
    with pytest.raises(
        ConfigError, match=r"tables: something else where the first .* reads shards"
    ):
        check_view(told, config)
    manifest.unlink()
    with pytest.raises(
        ConfigError, match=r"data\.sources\.tables: nothing where the first process"
    ):
        check_view(told, config)


def test_a_checkpoint_of_another_disk_is_not_gone_on_from(
    relative: list[str], machines: tuple[Path, Path], tmp_path: Path
) -> None:
    share_run(machines[1])
    (tmp_path / "seen").mkdir()
    words = [str(tmp_path / "seen"), "3", *relative, "steps=6"]
    with launched(*words, cwd=machines[0]) as process:
        assert process.wait(timeout=120) == -signal.SIGKILL
    # The second machine has a copy, which its clock has given another time.
    (machines[1] / "run").unlink()
    shutil.copytree(machines[0] / "run", machines[1] / "run", copy_function=shutil.copyfile)
    (status, first), _ = on_two_machines([*relative, "steps=6"], machines)
    assert status == 1
    line = first.strip().splitlines()[-1]
    assert re.match(
        r"error: process 1 of 2, on \S+: run/checkpoints/last\.ckpt: not the file", line
    )


def test_what_the_first_process_refuses_ends_all(
    relative: list[str], machines: tuple[Path, Path]
) -> None:
    (status, first), (other_status, other) = on_two_machines([*relative, "batch_size=7"], machines)
    assert status == 1
    assert first.strip().splitlines()[-1] == (
        "error: batch_size: expected a multiple of the 2 processes that share it, got 7"
    )
    assert (other_status, "Traceback" in other, "error" in other) == (0, False, False), other


def test_too_many_unreadable_samples_of_one_process_stop_all(
    settings: list[str], damaged_shards: Path, tmp_path: Path
) -> None:
    machines = tmp_path / "one", tmp_path / "two"
    for folder in machines:
        folder.mkdir()
    words = [
        *settings, f"data.sources.tables.path={damaged_shards}", f"run={tmp_path / 'run'}",
        "data.max_skipped=0.01", "evaluate_every=0",
    ]  # fmt: skip
    lasts = set()
    for rank, (status, said) in enumerate(on_two_machines(words, machines)):
        (line,) = (line for line in said.splitlines() if line.startswith("error: "))
        who = f"process 1 of 2, on {socket.gethostname()}: " if rank else ""
        found = re.fullmatch(
            rf"error: {who}1 of \d+ samples could not be read, more than "
            r"data\.max_skipped=0\.01; last: (.*)",
            line,
        )
        assert found, said
        assert (status, "Traceback" in said) == (1, False), said
        lasts.add(re.sub(r".*( sample \d+): picture unreadable: .*", r"\1", found[1]))
    # The sample is one process's alone, and the other ends in the same step.
    assert lasts == {" sample 7", "of another process"}


if __name__ == "__main__":
    folder, number, *overrides = sys.argv[1:]
    made = trainers.make_trainer
    watcher = Watcher(Path(folder), int(number))
    trainers.make_trainer = lambda config, others: made(config, [*others, watcher])
    resume.PATIENCE = 1
    main([str(RECIPES / "base.yaml"), *overrides])
