"""Two and four processes with slices of a batch have the loss and the gradients of one with it all.

Products and queries lack views, are judged in grades, and are remembered.
"""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch

from beyond_text.config.views import PRODUCT
from tests.training.global_batch import slice_of
from tests.training.step_worker import CASES, FUSIONS, work

Found = dict[int, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def found(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What every process of one, two and four gives, by case."""
    out = tmp_path_factory.mktemp("steps")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.training.step_worker"])
    for world in (1, 2, 4):
        started = [
            context.Process(target=work, args=(folder, out, rank, world)) for rank in range(world)
        ]
        for process in started:
            process.start()
        for process in started:
            process.join(timeout=240)
        try:
            assert [process.exitcode for process in started] == [0] * world
        finally:
            for process in started:
                process.kill()
    return {
        world: [torch.load(out / f"{world}-{rank}.pt", weights_only=True) for rank in range(world)]
        for world in (1, 2, 4)
    }


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("world", [2, 4])
def test_the_loss_and_its_gradients_are_those_of_one_process(
    found: Found, name: str, world: int
) -> None:
    (whole,) = (process[name] for process in found[1])
    parts = [process[name] for process in found[world]]
    queries = CASES[name][1]
    assert all(loss > 0 for loss in whole["losses"].values())
    for rank, part in enumerate(parts):
        assert part["losses"].keys() == whole["losses"].keys()
        for loss, value in whole["losses"].items():
            torch.testing.assert_close(part["losses"][loss], value, rtol=1e-5, atol=1e-5)
        for view, gradient in whole["vectors"].items():
            assert gradient.any()
            # DDP takes the mean over the processes.
            own = part["vectors"][view] / world
            expected = slice_of(gradient, rank, world, queries)
            if view in PRODUCT:
                own, expected = (
                    rows.unflatten(0, (-1, queries)).sum(dim=1) for rows in (own, expected)
                )
            torch.testing.assert_close(own, expected, rtol=1e-5, atol=1e-5)
    for parameter, gradient in whole["parameters"].items():
        mean = torch.stack([part["parameters"][parameter] for part in parts]).mean(dim=0)
        torch.testing.assert_close(mean, gradient, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in CASES if "memory_size" in CASES[name][0]])
def test_every_process_remembers_the_batch_of_all(found: Found, name: str) -> None:
    (whole,) = (process[name]["memory"] for process in found[1])
    assert whole
    for world in (2, 4):
        for process in found[world]:
            torch.testing.assert_close(process[name]["memory"], whole, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("world", [2, 4])
def test_so_are_those_of_a_step_with_every_loss_a_teacher_and_balanced_experts(
    found: Found, world: int
) -> None:
    (whole,) = (process["whole step"] for process in found[1])
    parts = [process["whole step"] for process in found[world]]
    for part in parts:
        torch.testing.assert_close(part["loss"], whole["loss"], rtol=1e-5, atol=1e-5)
    for parameter, gradient in whole["parameters"].items():
        mean = torch.stack(
            [part["parameters"].get(parameter, torch.zeros_like(gradient)) for part in parts]
        ).mean(dim=0)
        torch.testing.assert_close(mean, gradient, rtol=1e-4, atol=1e-5, msg=parameter)
    assert whole["parameters"]["model.fusion.router.weight"].any()


@pytest.mark.parametrize("name", [*CASES, "whole step"])
def test_a_step_has_at_most_eight_collectives(found: Found, name: str) -> None:
    for world in (2, 4):
        calls = [process[name]["collectives"] for process in found[world]]
        assert all(names == calls[0] for names in calls)
        assert 0 < len(calls[0]) <= 8
    assert not found[1][0][name]["collectives"]


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("world", [2, 4])
def test_a_step_of_several_processes_waits_for_the_device_at_most_five_times(
    found: Found, world: int, fusion: str
) -> None:
    for process in found[world]:
        for waits in process["waits"][fusion]:
            assert 0 < sum(waits.values()) <= 5, waits
