"""A plan gives the same bytes whoever does it, and goes on after every fault."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from beyond_text.tasks.cores import cores
from beyond_text.tasks.plan import Plan, PlanError
from beyond_text.tasks.processes import Processes
from beyond_text.tasks.run import is_done, results, run_plan, visible_gpus
from tests import ROOT
from tests.tasks.work import (
    SIZE,
    Work,
    bytes_of,
    driver,
    fail,
    living,
    plan_of,
    seen,
    slow,
    tries,
    undisturbed,
    wait_for,
)  # fmt: skip


def test_a_task_leaves_its_files_and_a_sidecar(tmp_path: Path) -> None:
    plan = plan_of(tmp_path / "plan", 2)
    run_plan(plan, workers=1)
    names = ["000000.done.json", "000001.done.json"]
    names += ["a-000.bin", "a-001.bin", "b-000.txt", "b-001.txt", "plan.json"]
    assert list(bytes_of(plan.folder)) == names
    first, second = results(plan)
    assert (first.task, second.task) == (0, 1)
    assert second.counts == {"numbers": SIZE, "seed": 1}
    assert {name: written.bytes for name, written in second.files.items()} == {
        "a-001.bin": SIZE, "b-001.txt": len((plan.folder / "b-001.txt").read_text()),
    }  # fmt: skip
    digest = subprocess.run(
        ["sha256sum", str(plan.folder / "a-001.bin")], capture_output=True, text=True, check=True
    )
    assert second.files["a-001.bin"].sha256 == digest.stdout.split()[0]


@pytest.mark.parametrize("workers", [2, 9])
def test_processes_write_what_one_process_writes(workers: int, tmp_path: Path) -> None:
    plan = plan_of(tmp_path / "plan")
    run_plan(plan, workers=workers)
    assert len(results(plan)) == 6
    assert bytes_of(plan.folder) == undisturbed(tmp_path / "other")


@pytest.mark.parametrize("jobs", [1, 3, 7])
def test_the_jobs_of_an_array_do_each_task_once(jobs: int, tmp_path: Path, notes: Path) -> None:
    plan = plan_of(tmp_path / "plan", notes=str(notes))
    for share in range(jobs):
        run_plan(plan, workers=1, array=(share, jobs))
        assert is_done(plan) == (share >= min(jobs, 6) - 1)
        if not is_done(plan):
            with pytest.raises(PlanError, match=r"of 6 tasks \(.*\) (is|are) not done"):
                results(plan)
    assert is_done(plan)
    assert tries(notes) == dict.fromkeys(range(6), 1)
    assert bytes_of(plan.folder) == undisturbed(tmp_path / "other", notes=str(notes))


def test_what_is_done_is_not_done_again(tmp_path: Path, notes: Path) -> None:
    plan = plan_of(tmp_path / "plan", notes=str(notes))
    run_plan(plan, workers=1, array=(1, 2))
    before = {p.name: p.stat().st_mtime_ns for p in plan.folder.glob("*-*")}
    for _ in range(2):
        run_plan(plan, workers=1)
    assert tries(notes) == dict.fromkeys(range(6), 1)
    assert {name: (plan.folder / name).stat().st_mtime_ns for name in before} == before


def test_another_plan_is_refused_in_one_line_that_says_how_it_differs(tmp_path: Path) -> None:
    plan = plan_of(tmp_path / "plan", 3)
    run_plan(plan, workers=1)
    before = bytes_of(plan.folder)
    for other, words in (
        (plan_of(plan.folder, 2), "3 tasks, expected 2"),
        (plan_of(plan.folder, 3, size=2), "task 0 has size '1', expected '2'"),
        (plan._replace(function="tests.tasks.work:again"), "of tests.tasks.work:write"),
        (plan._replace(tasks=[Work(0), Work(2), Work(1)]), "task 1 has seed '1', expected '2'"),
    ):
        from tests.tasks import work

        work.again = work.write  # type: ignore[attr-defined]
        with pytest.raises(PlanError, match=r"plan\.json: holds another plan") as caught:
            run_plan(other, workers=1)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
        with pytest.raises(PlanError, match="holds another plan"):
            results(other)
    assert bytes_of(plan.folder) == before


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff", b"[" * 100_000, b"null"])
def test_a_plan_that_is_none_is_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_bytes(content)
    with pytest.raises(PlanError, match=r"plan\.json: not a plan of tasks"):
        run_plan(plan_of(tmp_path), workers=1)


def test_a_strangers_plan_runs_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "plan"
    plan = plan_of(folder, 1)
    stranger = Plan(folder, "os:system", plan.tasks)
    from beyond_text.tasks.plan import freeze

    freeze(stranger)
    with pytest.raises(PlanError, match=r"holds another plan \(of os:system, expected tests"):
        run_plan(plan, workers=1)
    # Nor where its digest is that of another content.
    content = json.loads((folder / "plan.json").read_bytes()) | {
        "function": "tests.tasks.work:write"
    }
    (folder / "plan.json").write_text(json.dumps(content))
    with pytest.raises(PlanError, match="damaged: its digest is another"):
        run_plan(plan, workers=1)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("tests.tasks.work:nothing", "expected a function of a task and a folder"),
        ("tests.tasks.work:tries", "expected a function of a task and a folder"),
        ("tests.tasks.work:no_task", "annotated with a Struct"),
    ],
)
def test_what_is_no_function_of_tasks_is_refused(function: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=words):
        run_plan(Plan(tmp_path / "plan", function, [Work(0)]), workers=1)
    assert not (tmp_path / "plan").exists()


def test_settings_out_of_range_are_refused(tmp_path: Path) -> None:
    for words, settings in (
        ("workers: expected at least 1, got 0", {"workers": 0}),
        ("got 2/2", {"array": (2, 2)}),
        ("got -1/2", {"array": (-1, 2)}),
        ("gpus: expected at least 0, got -1", {"gpus": -1}),
        ("gpus: expected at least 0, got nan", {"gpus": float("nan")}),
        ("at most 1, got 2", {"gpus": 2}),
    ):
        with pytest.raises(PlanError, match=words):
            run_plan(plan_of(tmp_path / "plan"), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["a-001.bin", "b-003.txt"])
@pytest.mark.parametrize("how", ["gone", "short", "changed", "another task's"])
def test_damaged_results_are_found_and_done_again(name: str, how: str, tmp_path: Path) -> None:
    expected = undisturbed(tmp_path / "other")
    plan = plan_of(tmp_path / "plan")
    run_plan(plan, workers=1)
    path = plan.folder / name
    content = path.read_bytes()
    if how == "gone":
        path.unlink()
    elif how == "another task's":
        shutil.copy(plan.folder / name.replace("1", "0").replace("3", "0"), path)
        path.write_bytes(path.read_bytes()[: len(content)].ljust(len(content)))
    else:
        changed = content[:-1] if how == "short" else content[:-1] + b"\0"
        path.write_bytes(changed)
    with pytest.raises(PlanError, match=rf"not done|{name}: not the bytes that task") as caught:
        results(plan)
    assert "1 of 6 tasks" in str(caught.value)
    run_plan(plan, workers=1)
    results(plan)
    assert bytes_of(plan.folder) == expected


@pytest.mark.parametrize(
    "change",
    [
        {"task": 3}, {"plan": "0" * 64}, {"files": {"../x": {"bytes": 1, "sha256": ""}}},
        {"files": {"none": {"bytes": 1, "sha256": ""}}}, {"counts": {"a": "b"}}, {"further": 1},
    ],
)  # fmt: skip
def test_a_sidecar_of_something_else_counts_for_nothing(
    change: dict[str, object], tmp_path: Path, notes: Path
) -> None:
    plan = plan_of(tmp_path / "plan", 3, notes=str(notes))
    (tmp_path / "x").write_text("1")
    run_plan(plan, workers=1)
    path = plan.folder / "000001.done.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert not is_done(plan)
    run_plan(plan, workers=1)
    assert tries(notes) == {0: 1, 1: 2, 2: 1}
    assert len(results(plan)) == 3


def test_two_tasks_that_write_one_file_are_found(tmp_path: Path) -> None:
    plan = Plan(tmp_path / "plan", "tests.tasks.work:write", [Work(1), Work(1)])
    run_plan(plan, workers=1)
    with pytest.raises(PlanError, match=r"a-001\.bin: written by tasks 0 and 1"):
        results(plan)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        ("input", PlanError, r"^row 3: expected a number, got 'x'$"),
        ("code", RuntimeError, r"(?s)task 3: Traceback.*KeyError: 'seed'"),
        ("name", PlanError, r"task 3 wrote 'plan.json': expected a plain file's name"),
        ("folder", PlanError, r"task 3 wrote 'further': expected a plain file's name"),
    ],
)
def test_a_task_that_fails_ends_the_run_and_leaves_nothing_half_done(
    fault: str, error: type[Exception], words: str, workers: int, tmp_path: Path
) -> None:
    tasks = [Work(seed, fault=fault if seed == 3 else "") for seed in range(6)]
    plan = Plan(tmp_path / "plan", "tests.tasks.work:write", tasks)
    with pytest.raises(error, match=words):
        run_plan(plan, workers=workers)
    assert not is_done(plan)
    assert not [name for name in bytes_of(plan.folder) if name.startswith(".") or "003" in name]
    if workers == 1:
        assert (plan.folder / "000002.done.json").exists()
        assert not (plan.folder / "000004.done.json").exists()


def test_a_killed_process_is_one_line_and_the_run_goes_on(tmp_path: Path, notes: Path) -> None:
    tasks = [
        Work(seed, fault="killed once" if seed == 3 else "", notes=str(notes)) for seed in range(6)
    ]
    plan = Plan(tmp_path / "plan", "tests.tasks.work:write", tasks)
    with pytest.raises(RuntimeError, match="a process was killed") as caught:
        run_plan(plan, workers=2)
    assert "\n" not in str(caught.value)
    assert not list(plan.folder.glob(".*"))
    run_plan(plan, workers=2)
    assert {p.name: p.read_bytes() for p in plan.folder.glob("?-*")} == {
        name: data for name, data in undisturbed(tmp_path / "other").items() if name[1] == "-"
    }


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_that_is_stopped_takes_its_processes_along_and_goes_on(
    number: signal.Signals, workers: int, tmp_path: Path, notes: Path
) -> None:
    folder = tmp_path / "plan"
    fields = {"notes": str(notes)}
    slow(notes, 0.5)
    process = driver(folder, **fields, how={"workers": workers})
    wait_for(lambda: len(list(folder.glob("*.done.json"))) >= 2)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode != 0
    wait_for(lambda: not living(notes))
    done = len(list(folder.glob("*.done.json")))
    assert 2 <= done < 6
    slow(notes, 0.0)
    plan = plan_of(folder, **fields)
    run_plan(plan, workers=1)
    results(plan)
    assert sum(tries(notes).values()) <= 6 + workers
    assert bytes_of(folder) == undisturbed(tmp_path / "other", **fields)


@pytest.mark.slow
def test_two_runs_of_one_plan_at_the_same_time_change_nothing(tmp_path: Path, notes: Path) -> None:
    folder = tmp_path / "plan"
    fields = {"count": 9, "notes": str(notes)}
    slow(notes, 0.3)
    both = [driver(folder, {"workers": workers}, **fields) for workers in (1, 2)]
    for process in both:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
    assert max(tries(notes).values()) == 2
    results(plan_of(folder, **fields))  # type: ignore[arg-type]
    assert bytes_of(folder) == undisturbed(tmp_path / "other", **fields)


def test_a_task_that_another_run_has_done_and_tidied_up_is_done(tmp_path: Path) -> None:
    plan = plan_of(tmp_path / "plan", 1, fault="overtaken")
    run_plan(plan, workers=1)
    assert len(results(plan)) == 1
    assert bytes_of(plan.folder) == undisturbed(tmp_path / "other", count=1, fault="overtaken")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_is_one_line_and_leaves_nothing_half_done(
    workers: int, small_disk: Path, tmp_path: Path
) -> None:
    plan = plan_of(small_disk / "plan", 9, size=9)
    with pytest.raises(OSError, match="No space left on device") as caught:
        run_plan(plan, workers=workers)
    assert str(plan.folder) in str(caught.value)
    names = list(bytes_of(plan.folder))
    assert not [name for name in names if name.startswith(".")]
    sidecars = [name for name in names if name.endswith(".done.json")]
    assert len(sidecars) == 3 if workers == 1 else len(sidecars) <= 4
    # A larger disk, and the same command goes on.
    subprocess.run(["mount", "-o", f"remount,size={200 * SIZE}", str(small_disk)], check=True)
    run_plan(plan, workers=workers)
    results(plan)
    assert bytes_of(plan.folder) == undisturbed(tmp_path / "other", count=9, size=9)


def test_no_task_is_a_plan_too(tmp_path: Path) -> None:
    plan = plan_of(tmp_path / "plan", 0)
    run_plan(plan)
    assert results(plan) == []
    assert is_done(plan)


def test_sidecars_are_equal_wherever_they_were_written(tmp_path: Path) -> None:
    for name in "ab":
        run_plan(plan_of(tmp_path / name), workers=1)
    one, other = (results(plan_of(tmp_path / name)) for name in "ab")
    assert [msgspec.json.encode(s) for s in one] == [msgspec.json.encode(s) for s in other]


def test_leftovers_of_the_living_stay(tmp_path: Path) -> None:
    import socket

    plan = plan_of(tmp_path / "plan", 1)
    run_plan(plan, workers=1)
    (plan.folder / "000000.done.json").unlink()
    host = socket.gethostname()
    alive = plan.folder / f".000000.{host}.{os.getppid()}"
    elsewhere = plan.folder / ".000000.node-7.local.4194999"
    dead = plan.folder / f".000000.{host}.4194999"
    for folder in (alive, elsewhere, dead):
        folder.mkdir()
    run_plan(plan, workers=1)
    assert (alive.exists(), elsewhere.exists(), dead.exists()) == (True, True, False)
    results(plan)
    assert not list(plan.folder.glob(".*"))


def test_each_process_sees_a_gpu_and_its_share_of_the_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    # A machine with four GPUs, of which this run may see two.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,3")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert visible_gpus(0) == []
    assert visible_gpus(0.5) == ["1", "3", "1", "3"]
    plan = plan_of(tmp_path / "plan", wait=0.5)._replace(function="tests.tasks.work:see")
    run_plan(plan, gpus=1)
    share = str(max(1, cores() // 2))
    assert {each["CUDA_VISIBLE_DEVICES"] for each in seen(plan.folder)} == {"1", "3"}
    assert {each["OMP_NUM_THREADS"] for each in seen(plan.folder)} == {share}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(PlanError, match="gpus: 1 asked for, and this machine has none"):
        run_plan(plan_of(tmp_path / "none"), gpus=1)


@pytest.mark.parametrize("imports", [(), ("csv", "no_such_module")])
def test_processes_that_were_started_before_do_tasks_of_several_plans(
    tmp_path: Path, imports: tuple[str, ...]
) -> None:
    with Processes(2, fail, imports=imports) as processes:
        for name in "ab":
            plan = plan_of(tmp_path / name)
            run_plan(plan, processes=processes)
            assert len(results(plan)) == 6
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")


@pytest.mark.parametrize("imports", ["", "tqdm"])
def test_processes_that_are_ended_leave_nothing_behind(imports: str) -> None:
    """Nor does Python warn of locks that they held."""
    code = (
        "import sys, time; from beyond_text.tasks.processes import Processes\n"
        "from tests.tasks.work import show_a_bar\n"
        "with Processes(1, show_a_bar, imports=sys.argv[1].split()) as processes:\n"
        "    processes._pool.submit(int).result()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, imports], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert (done.stdout, done.stderr) == ("", "")
