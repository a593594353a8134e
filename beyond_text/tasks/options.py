"""Reads the options of a command line that say who does the tasks of a plan."""

from __future__ import annotations

import argparse
import os
import re
from typing import Any

from beyond_text.terminal import at_least

# What SLURM tells each job of an array.
SLURM = "SLURM_ARRAY_TASK_"


def add_run_options(
    parser: argparse.ArgumentParser, gpus: bool = True, workers: str = "one a core"
) -> None:
    """Adds --workers, --ray, --array and, with `gpus`, --gpus; `run_options` takes their values.

    `workers` says what the default of --workers is.
    """
    parser.add_argument(
        "--workers",
        type=at_least(1),
        help=f"processes, or actors with --ray; default: {workers}",
    )
    parser.add_argument(
        "--ray", metavar="auto|ADDRESS", help="work on a Ray cluster (pip install '.[cluster]')"
    )
    parser.add_argument(
        "--array",
        type=array_share,
        metavar="I/N",
        help="do the I-th of N shares, from 0; auto is this job's of a SLURM array",
    )
    if gpus:
        parser.add_argument(
            "--gpus", type=float, default=0, help="GPUs that a process or actor takes; default: 0"
        )


def run_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the values of those options that were added, as keyword arguments of `run_plan`."""
    given = vars(arguments)
    return {name: given[name] for name in ("workers", "ray", "array", "gpus") if name in given}


def array_share(text: str) -> tuple[int, int]:
    """Parses "3/10" (0/10 to 9/10), "auto" or "auto/10", which ask SLURM's variables."""
    if text == "auto":
        return _of_slurm()
    match = re.fullmatch(r"(auto|[0-9]+)/([0-9]+)", text.strip(), re.ASCII)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected I/N, auto/N or auto, got {text!r}")
    share = _variable("ID") if match[1] == "auto" else int(match[1])
    if not share < int(match[2]):
        raise argparse.ArgumentTypeError(
            f"expected I from 0 to N - 1, got {share} of {match[2]}: number a SLURM array from 0"
        )
    return share, int(match[2])


def _of_slurm() -> tuple[int, int]:
    """Returns which job of its array this is, and how many there are, however they are numbered."""
    number, first, last, count = (_variable(name) for name in ("ID", "MIN", "MAX", "COUNT"))
    step = (last - first) // (count - 1) if count > 1 else 1
    share, rest = divmod(number - first, max(step, 1))
    if rest or first + step * (count - 1) != last or not 0 <= share < count:
        raise argparse.ArgumentTypeError(
            f"{SLURM}ID is {number} of {count} from {first} to {last}, which are not equally far "
            "apart: give auto/N with the N of the first array"
        )
    return share, count


def _variable(name: str) -> int:
    value = os.environ.get(SLURM + name, "")
    if not value.isdecimal():
        got = repr(value) if value else "none"
        raise argparse.ArgumentTypeError(
            f"auto: expected a number in {SLURM}{name}, got {got}: is this a job of an array?"
        )
    return int(value)
