"""Tells a process that something else started as one of several; imports nothing heavy."""

from __future__ import annotations

import os

# What torchrun, SLURM and Lightning tell a process that they start: its number among all processes,
# or on its machine.
OF_ALL = ("RANK", "SLURM_PROCID")
STARTED = (*OF_ALL, "LOCAL_RANK")


def is_started() -> bool:
    """Returns whether something else started this process, perhaps as one of several."""
    return any(name in os.environ for name in STARTED)


def is_first() -> bool:
    """Returns whether this process is the only one, or the first, by what it was told."""
    for name in OF_ALL:
        if name in os.environ:
            return os.environ[name] == "0"
    return all(os.environ.get(name, "0") == "0" for name in ("NODE_RANK", "LOCAL_RANK"))
