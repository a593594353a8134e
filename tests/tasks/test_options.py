"""The options that say who does the tasks take what they are given, or refuse it in one line."""

from __future__ import annotations

import argparse

import pytest

from beyond_text.tasks.options import add_run_options, run_options


def parse(*words: str) -> dict[str, object]:
    parser = argparse.ArgumentParser()
    add_run_options(parser)
    return run_options(parser.parse_args(words))


def of_slurm(monkeypatch: pytest.MonkeyPatch, **values: object) -> None:
    for name in ("ID", "MIN", "MAX", "COUNT"):
        monkeypatch.delenv(f"SLURM_ARRAY_TASK_{name}", raising=False)
    for name, value in values.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))


def test_nothing_said_is_processes_of_this_machine() -> None:
    assert parse() == {"workers": None, "ray": None, "array": None, "gpus": 0}


def test_options_are_read() -> None:
    given = parse("--workers", "3", "--ray", "auto", "--array", "2/10", "--gpus", "0.5")
    assert given == {"workers": 3, "ray": "auto", "array": (2, 10), "gpus": 0.5}


@pytest.mark.parametrize(
    ("numbers", "share"),
    [
        ((0, 0, 9, 10), (0, 10)), ((9, 0, 9, 10), (9, 10)), ((1, 1, 10, 10), (0, 10)),
        ((10, 1, 10, 10), (9, 10)), ((4, 0, 8, 5), (2, 5)), ((7, 7, 7, 1), (0, 1)),
    ],
)  # fmt: skip
def test_a_slurm_array_may_be_numbered_in_any_even_way(
    numbers: tuple[int, ...], share: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    of_slurm(monkeypatch, **dict(zip(("ID", "MIN", "MAX", "COUNT"), numbers, strict=True)))
    assert parse("--array", "auto")["array"] == share


def test_single_jobs_of_an_array_are_given_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    of_slurm(monkeypatch, ID=7, MIN=3, MAX=12, COUNT=3)
    assert parse("--array", "auto/20")["array"] == (7, 20)
    with pytest.raises(SystemExit):
        parse("--array", "auto")
    assert "give auto/N" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--workers", "0"), "expected at least 1, got '0'"),
        (("--workers", "two"), "expected at least 1, got 'two'"),
        (("--array", "10/10"), "expected I from 0 to N - 1, got 10 of 10"),
        (("--array", "0/0"), "expected I from 0 to N - 1, got 0 of 0"),
        (("--array", "-1/3"), "expected I/N, auto/N or auto, got '-1/3'"),
        (("--array", "3"), "expected I/N, auto/N or auto, got '3'"),
        (("--array", "1/2/3"), "expected I/N, auto/N or auto"),
        (("--array", "auto"), "SLURM_ARRAY_TASK_ID, got none"),
        (("--array", "auto/3"), "SLURM_ARRAY_TASK_ID, got none"),
    ],
)
def test_what_makes_no_sense_is_refused(
    words: tuple[str, str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    of_slurm(monkeypatch)
    with pytest.raises(SystemExit):
        parse(f"{words[0]}={words[1]}")
    assert message in capsys.readouterr().err
