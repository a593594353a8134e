"""Tells a process that something else started as one of several; imports nothing heavy."""

from __future__ import annotations

import os

# What SLURM, torchrun and Lightning tell a process that they start.
STARTED = ("RANK", "SLURM_PROCID", "LOCAL_RANK")


def is_started() -> bool:
    """Returns whether something else started this process, perhaps as one of several."""
    return any(name in os.environ for name in STARTED)


def is_first() -> bool:
    """Returns whether this process is the only one, or the first, by what it was told."""
    of_all = next((os.environ[name] for name in STARTED[:2] if name in os.environ), None)
    if of_all is not None:
        return of_all == "0"
    return all(os.environ.get(name, "0") == "0" for name in ("NODE_RANK", "LOCAL_RANK"))
