"""TODO training.trainer."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import LearningRateMonitor, RichProgressBar
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from beyond_text.config.settings import Config, ConfigError
from beyond_text.models.precision import precision_of
from beyond_text.training.averaging import Averaging
from beyond_text.training.checkpoints import (
    CHECKPOINTS,
    Origin,
    RunCheckpoints,
    StepCheckpoint,
)
from beyond_text.training.embedding_cache import EmbeddingCache
from beyond_text.training.module import TrainingError

# Lightning's warnings about what is meant to be so, its own use of torch among them.
NOISE = (
    "isinstance.treespec",
    "The '.*dataloader' does not have many workers",
    "Found .* in eval mode",
    "The number of training batches",
    "You're resuming from a checkpoint that ended before the epoch ended",
)


# What would end a run before its steps, or begin its batches again: of Lightning's Trainer.
SHORTENING = {"limit_train_batches", "overfit_batches", "fast_dev_run", "max_epochs", "max_time"}


def make_trainer(config: Config, callbacks: Sequence[pl.Callback]) -> pl.Trainer:
    """Lightning's Trainer for a run; what `config.trainer` says goes before our defaults.

    Raises:
        ConfigError: something in `config.trainer` that Lightning refuses or a run itself decides.
    """
    # Of no use to someone who watches a run; the progress bar stays.
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    for message in NOISE:
        warnings.filterwarnings("ignore", message=f".*{message}")
    run = Path(config.run)
    own: dict[str, Any] = {
        "max_steps": config.total_steps,
        "accumulate_grad_batches": config.accumulate,
        "precision": precision_of(config.precision),
        "use_distributed_sampler": False,
        "limit_val_batches": 0,
        "callbacks": [
            StepCheckpoint(
                run / CHECKPOINTS,
                save_last=True,
                save_top_k=0,
                every_n_train_steps=config.checkpoint_every,
                save_on_exception=False,
                # One last.ckpt, never a last-v1.ckpt beside an older one.
                enable_version_counter=False,
            ),
            LearningRateMonitor("step"),
            *([EmbeddingCache(config.cache)] if config.cache else []),
            # Before those given: what they measure is the average with the step in it.
            *([Averaging(config.average_span)] if config.average_span else []),
            *callbacks,
        ],
        "logger": TensorBoardLogger(run, name="", version="", default_hp_metric=False),
    }
    if taken := (own.keys() | SHORTENING) & config.trainer.keys():
        raise ConfigError(f"trainer.{min(taken)}: the run's own settings decide this")
    free = {"log_every_n_steps": 5, "enable_model_summary": False} | config.trainer
    if free.get("enable_progress_bar", True):
        own["callbacks"].append(RichProgressBar())
    try:
        trainer = pl.Trainer(**own, **free)
    except (TypeError, ValueError, MisconfigurationException) as error:
        raise ConfigError(f"trainer: {error}") from error
    trainer.strategy.checkpoint_io = RunCheckpoints(Origin(asdict(config), trainer.world_size))
    if isinstance(trainer.strategy, DDPStrategy):
        # No stage uses every weight, and a slice of a batch may be without any picture.
        trainer.strategy._ddp_kwargs.setdefault("find_unused_parameters", True)
    return trainer


@contextmanager
def explain_killed_workers(trainer: pl.Trainer) -> Iterator[None]:
    """Where a loader's worker was killed, says so."""
    try:
        yield
    except RuntimeError as error:
        # Torch has no class of its own for it.
        if not str(error).startswith("DataLoader worker"):
            raise
        raise TrainingError(
            f"step {trainer.global_step}: {str(error).strip()} (out of memory, perhaps); the same "
            "command goes on from the last checkpoint"
        ) from error
