"""On a real Ray cluster a plan gives the same bytes, whatever of it is killed or full."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from beyond_text.tasks.on_ray import _room
from beyond_text.tasks.plan import Plan, PlanError
from beyond_text.tasks.run import is_done, results, run_plan
from data_prep.fetch.fetcher import FetchSettings
from data_prep.pictures import fetch_pictures
from tests.cluster import STORE
from tests.data_prep.fetch.server import picture_host
from tests.indexing.shop import build
from tests.tasks.work import (
    FUNCTION,
    SIZE,
    Work,
    bytes_of,
    driver,
    living,
    plan_of,
    seen,
    slow,
    tries,
    undisturbed,
    wait_for,
)  # fmt: skip

pytestmark = pytest.mark.slow


def done(folder: Path) -> int:
    return len(list(folder.glob("*.done.json")))


def ended(process: subprocess.Popen[str]) -> str:
    """Waits for a driver; returns what it said."""
    _, said = process.communicate(timeout=240)
    return said


def test_a_killed_actor_is_replaced(cluster: Any, tmp_path: Path, notes: Path) -> None:
    tasks = [
        Work(seed, fault="killed once" if seed in (0, 4) else "", notes=str(notes))
        for seed in range(6)
    ]
    plan = Plan(tmp_path / "plan", FUNCTION, tasks)
    run_plan(plan, ray=cluster.address, workers=2)
    results(plan)
    assert tries(notes)[0] >= 2
    assert tries(notes)[4] >= 2
    other = plan._replace(folder=tmp_path / "other")
    run_plan(other, workers=1)
    results(other)
    assert bytes_of(plan.folder) == bytes_of(other.folder)


def test_a_killed_driver_takes_its_actors_along_and_its_plan_goes_on(
    cluster: Any, tmp_path: Path, notes: Path
) -> None:
    fields = {"count": 8, "notes": str(notes)}
    slow(notes, 1.0)
    folder = tmp_path / "plan"
    process = driver(folder, {"ray": cluster.address, "workers": 2}, **fields)
    wait_for(lambda: done(folder) >= 2)
    process.kill()
    ended(process)
    assert process.returncode == -signal.SIGKILL
    wait_for(lambda: not living(notes))
    assert 2 <= done(folder) < 8
    slow(notes, 0.0)
    process = driver(folder, {"ray": cluster.address, "workers": 2}, **fields)
    said = ended(process)
    assert process.returncode == 0, said
    results(plan_of(folder, **fields))  # type: ignore[arg-type]
    assert bytes_of(folder) == undisturbed(tmp_path / "other", **fields)


def test_the_tasks_of_a_machine_that_is_lost_are_done_by_another(
    cluster: Any, tmp_path: Path, notes: Path
) -> None:
    fields = {"count": 16, "notes": str(notes)}
    slow(notes, 2.0)
    folder = tmp_path / "plan"
    machine = cluster.add_node(num_cpus=2, object_store_memory=STORE)
    process = driver(folder, {"ray": cluster.address, "workers": 4}, **fields)
    wait_for(lambda: len(living(notes)) >= 3)
    cluster.remove_node(machine, allow_graceful=False)
    slow(notes, 0.1)
    said = ended(process)
    assert process.returncode == 0, said
    results(plan_of(folder, **fields))  # type: ignore[arg-type]
    assert max(tries(notes).values()) > 1
    assert bytes_of(folder) == undisturbed(tmp_path / "other", **fields)


def test_a_full_disk_is_one_line_and_leaves_nothing_half_done(
    cluster: Any, small_disk: Path, tmp_path: Path
) -> None:
    folder = small_disk / "plan"
    fields = {"count": 9, "size": 9}
    process = driver(folder, {"ray": cluster.address, "workers": 2}, **fields)
    lines = [line for line in ended(process).splitlines() if "tasks:" not in line]
    assert process.returncode == 1
    assert lines[-1].startswith(f"error: [Errno 28] No space left on device: '{folder}")
    wait_for(lambda: not [path for path in folder.iterdir() if path.name.startswith(".")])
    plan = plan_of(folder, **fields)  # type: ignore[arg-type]
    assert not is_done(plan)
    subprocess.run(["mount", "-o", f"remount,size={200 * SIZE}", str(small_disk)], check=True)
    run_plan(plan, ray=cluster.address, workers=2)
    results(plan)
    assert bytes_of(folder) == undisturbed(tmp_path / "other", **fields)


def test_errors_are_those_of_one_process(cluster: Any, tmp_path: Path) -> None:
    for fault, error, words in (
        ("input", PlanError, r"^row 0: expected a number, got 'x'$"),
        ("code", RuntimeError, r"(?s)task 0: Traceback.*KeyError: 'seed'"),
    ):
        with pytest.raises(error, match=words):
            run_plan(Plan(tmp_path / fault, FUNCTION, [Work(0, fault=fault)]), ray=cluster.address)
    with pytest.raises(PlanError, match="no machine has 1 GPUs for an actor"):
        run_plan(plan_of(tmp_path / "gpu"), ray=cluster.address, gpus=1)


def test_no_cluster_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs the extra `cluster`")
    with pytest.raises(ConnectionError, match=r"no cluster there \(.*start --head") as caught:
        run_plan(plan_of(tmp_path / "plan"), ray="127.0.0.1:1")
    assert "\n" not in str(caught.value)


def test_ray_that_is_not_installed_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install '\.\[cluster\]'") as caught:
        run_plan(plan_of(tmp_path / "plan"), ray="auto")
    assert "\n" not in str(caught.value)


def test_an_index_is_encoded_by_a_cluster(
    cluster: Any, tiny_tables: Path, tiny_run: Path, tmp_path: Path
) -> None:
    built = build(tiny_tables, tmp_path / "ray", tiny_run, ray=cluster.address, workers=1)
    other = build(tiny_tables, tmp_path / "alone", tiny_run, workers=1)
    assert (built.encoded, built.facts.files) == (48, other.facts.files)
    assert not (tmp_path / "ray" / "building").exists()


def test_an_actor_has_the_gpus_that_it_is_said_to_take(cluster: Any, tmp_path: Path) -> None:
    # Ray believes what it is told of GPUs.
    machine = cluster.add_node(num_cpus=4, num_gpus=2, object_store_memory=STORE)
    plan = plan_of(tmp_path / "plan", 6, wait=1.0)._replace(function="tests.tasks.work:see")
    run_plan(plan, ray=cluster.address, gpus=1)
    cluster.remove_node(machine)
    assert {each["CUDA_VISIBLE_DEVICES"] for each in seen(plan.folder)} == {"0", "1"}


def test_pictures_are_fetched_by_a_cluster(cluster: Any, tmp_path: Path) -> None:
    tables = tmp_path / "shop"
    tables.mkdir()
    settings = FetchSettings(allow_private=True)
    with picture_host() as host:
        rows = [f"p{n},Vase,{host.url}/many/{n}" for n in range(9)]
        rows += [f"p9,Vase,{host.url}/gone.jpg"]
        (tables / "products.csv").write_text("\n".join(["product_id,title,image", *rows]))
        fetched, alone = (
            fetch_pictures(tables, tmp_path / name, settings=settings, ray=ray, max_rejected=1)
            for name, ray in (("ray", cluster.address), ("alone", None))
        )
        assert set(host.hits.values()) == {2}
    assert fetched == alone
    for name in ("products.csv", "rejects.csv"):
        assert (tmp_path / "ray" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


def test_actors_share_the_cores_of_the_machines_that_have_their_gpus() -> None:
    machines = [{"CPU": 64.0}, {"CPU": 16.0, "GPU": 8.0}, {"CPU": 7.0, "GPU": 2.0}]
    assert _room(machines, 0) == (87, 1)
    assert _room(machines, 1) == (10, 2)
    assert _room(machines, 0.5) == (20, 1)
    # An actor's GPUs are those of one machine.
    assert _room(machines, 3) == (2, 8)
    assert _room(machines, 9) == (0, 0)
    assert _room([], 0) == (0, 1)
