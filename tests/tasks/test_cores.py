"""The cores that a process may use are counted on every system."""

from __future__ import annotations

import pytest

from beyond_text.tasks.cores import cores


def test_the_cores_of_a_process_are_those_that_the_system_leaves_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {3, 5}, raising=False)
    assert cores() == 2


@pytest.mark.parametrize(("counted", "expected"), [(12, 12), (None, 1)])
def test_a_system_that_does_not_tell_has_all_its_cores(
    counted: int | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: counted)
    assert cores() == expected
