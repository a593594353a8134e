"""Tells a process that something else started as one of several; imports nothing heavy."""

from __future__ import annotations

import os

# What SLURM, torchrun and Lightning tell a process that they start.
STARTED = ("RANK", "SLURM_PROCID", "LOCAL_RANK")


def is_started() -> bool:
    """Returns whether something else started this process, perhaps as one of several."""
    return any(name in os.environ for name in STARTED)
