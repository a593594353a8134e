"""Brings the processes of a run together before anything is decided.

Lightning starts the processes of one machine, SLURM or torchrun those of several. All of them read
and build; what a run goes on from is decided by the first.
"""

from __future__ import annotations

import os
from datetime import timedelta

import pytorch_lightning as pl
from torch import distributed

from beyond_text.config.settings import Config, ConfigError
from beyond_text.retrieval.shares import ALONE, Share
from beyond_text.tasks.cores import cores

# How long processes wait for those that still read, encode or measure. One that is gone is noticed
# at once; the steps themselves have the shorter limit of Lightning's strategy.
PATIENCE = timedelta(days=2)
# Loader processes beyond these bring nothing.
MOST_WORKERS = 8


def join(trainer: pl.Trainer) -> Share:
    """Starts the machine's other processes where nobody else does, and connects all of them."""
    if trainer.world_size == 1:
        return ALONE
    strategy = trainer.strategy
    assert strategy.launcher is not None
    strategy.launcher.launch(strategy.setup_environment)
    # Beside the group of the steps: in main memory, and patient.
    group = distributed.new_group(backend="gloo", timeout=PATIENCE)
    return Share(trainer.global_rank, trainer.world_size, group)


def check_processes(config: Config, processes: int) -> None:
    """Refuses a number of processes that cannot share a batch equally.

    Raises:
        ConfigError: names both numbers.
    """
    if config.batch_size % processes:
        raise ConfigError(
            f"batch_size: expected a multiple of the {processes} processes that share it, got "
            f"{config.batch_size}"
        )


def workers_of(config: Config, processes: int) -> int:
    """Returns how many processes load samples for each of a machine's training `processes`.

    Without a setting, these and the loaders have a core each, as far as there are cores.
    """
    if config.data.workers is not None:
        return config.data.workers
    own = cores() if _has_own_cores(processes) else cores() // processes
    return max(1, min(MOST_WORKERS, own - 1))


def _has_own_cores(processes: int) -> bool:
    """Says whether SLURM has bound each process, a task of its, to cores of its own."""
    of_task, tasks = (
        int(os.environ.get(name) or 0) for name in ("SLURM_CPUS_PER_TASK", "SLURM_NTASKS")
    )
    return tasks >= processes > 1 and cores() <= of_task
