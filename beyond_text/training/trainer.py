"""Makes Lightning's Trainer for a run, and explains a training that ends with a killed worker."""

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
from pytorch_lightning.plugins.environments import SLURMEnvironment
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from beyond_text.config.settings import Config, ConfigError
from beyond_text.config.urls import without_credentials
from beyond_text.models.precision import precision_of
from beyond_text.training.averaging import Averaging
from beyond_text.training.checkpoints import CHECKPOINTS, Origin, RunCheckpoints, StepCheckpoint
from beyond_text.training.module import TrainingError
from beyond_text.training.strategies import check_strategy

# Lightning's warnings about what is intended here, and about its own use of torch.
NOISE = (
    "isinstance.treespec",
    "The '.*dataloader' does not have many workers",
    "Found .* in eval mode",
    "The number of training batches",
    "You're resuming from a checkpoint that ended before the epoch ended",
)
# Arguments of Lightning's Trainer that would end a run early or repeat its batches.
SHORTENING = {"limit_train_batches", "overfit_batches", "fast_dev_run", "max_epochs", "max_time"}
# Those that the module does itself, by `clip_norm`.
OURS = {"gradient_clip_val", "gradient_clip_algorithm"}


def make_trainer(config: Config, callbacks: Sequence[pl.Callback]) -> pl.Trainer:
    """Returns Lightning's Trainer for a run; settings in `config.trainer` override our defaults.

    Raises:
        ConfigError: `config.trainer` has what Lightning refuses or what the run itself decides.
    """
    # Lightning's messages do not help someone who watches a run; the progress bar stays.
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    for message in NOISE:
        warnings.filterwarnings("ignore", message=f".*{message}")
    fixed: dict[str, Any] = {
        "max_steps": config.total_steps,
        "accumulate_grad_batches": config.accumulate,
        "precision": precision_of(config.precision),
        "use_distributed_sampler": False,
        "limit_val_batches": 0,
        "callbacks": _callbacks(config, callbacks),
        "logger": TensorBoardLogger(config.run, name="", version="", default_hp_metric=False),
    }
    if taken := (fixed.keys() | SHORTENING | OURS) & config.trainer.keys():
        raise ConfigError(f"trainer.{min(taken)}: the run's own settings decide this")
    check_strategy(config.trainer)
    free: dict[str, Any] = {
        "log_every_n_steps": 5,
        "enable_model_summary": False,
        # Lightning goes on from whatever checkpoint of a cluster's job lies there.
        "default_root_dir": config.run,
    }
    if SLURMEnvironment.detect():
        # A job that SLURM ends goes on from the run's own checkpoint, as any other.
        free["plugins"] = [SLURMEnvironment(auto_requeue=False)]
    free |= config.trainer
    if free.get("enable_progress_bar", True):
        fixed["callbacks"].append(RichProgressBar())
    try:
        trainer = pl.Trainer(**fixed, **free)
    except (TypeError, ValueError, MisconfigurationException) as error:
        raise ConfigError(f"trainer: {error}") from error
    trainer.strategy.checkpoint_io = RunCheckpoints(
        Origin(asdict(without_credentials(config)), trainer.world_size)
    )
    return trainer


def _callbacks(config: Config, further: Sequence[pl.Callback]) -> list[pl.Callback]:
    """Returns the callbacks of every run, then the further ones."""
    checkpoints = StepCheckpoint(
        Path(config.run) / CHECKPOINTS,
        save_last=True,
        save_top_k=0,
        every_n_train_steps=config.checkpoint_every,
        save_on_exception=False,
        # One last.ckpt, never a last-v1.ckpt beside an older one.
        enable_version_counter=False,
    )
    callbacks: list[pl.Callback] = [checkpoints, LearningRateMonitor("step")]
    if config.average_span:
        # Before the further ones, which measure an average that includes the current step.
        callbacks.append(Averaging(config.average_span))
    return [*callbacks, *further]


@contextmanager
def explain_killed_workers(trainer: pl.Trainer) -> Iterator[None]:
    """Turns the error of a killed loader worker into a TrainingError that says how to go on."""
    try:
        yield
    except RuntimeError as error:
        # PyTorch has no class of its own for this error.
        if not str(error).startswith("DataLoader worker"):
            raise
        raise TrainingError(
            f"step {trainer.global_step}: {str(error).strip()} (out of memory, perhaps); the same "
            "command goes on from the last checkpoint"
        ) from error
