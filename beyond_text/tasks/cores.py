"""Counts the cores that this process may use."""

from __future__ import annotations

import os


def cores() -> int:
    """Counts the cores that this process may use; those of the machine where no system tells."""
    # Only Linux tells; a scheduler such as SLURM leaves a job a part of the machine.
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
