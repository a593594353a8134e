"""The command that trains one stage: `python -m beyond_text.train RECIPE... [key=value ...]`.

    python -m beyond_text.train recipes/base.yaml recipes/stage1.yaml run=runs/stage1

A run folder holds config.yaml, TensorBoard events, checkpoints/ while it trains, model/ (for both
see `beyond_text.checkpoint`), run.trec, qrels.trec and, last of all, metrics.json: a run without
that file is not finished and `resume=auto` goes on from its last whole checkpoint. However it was
stopped, it ends with the weights of a run that never was, to the bit on a CPU.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint, RichProgressBar
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer

from beyond_text.callbacks import Averaging, Retrieval, Throughput, read_history, save_history
from beyond_text.checkpoint import (
    LAST,
    CheckpointError,
    Origin,
    newest_checkpoint,
    save_model,
    warm_start,
    write_checkpoint,
)
from beyond_text.config import Config, ConfigError, differences, flat, load_config, to_yaml
from beyond_text.corpus import read_corpus
from beyond_text.datamodule import ShardData
from beyond_text.evaluate import precision_of, write_results
from beyond_text.files import named, write_text
from beyond_text.frozen import FrozenOutputs
from beyond_text.inputs import METRICS, check_inputs, write_inputs
from beyond_text.manifest import read_manifest
from beyond_text.memory import keep_freed_memory
from beyond_text.model import TwoTower, build_model, settings_of
from beyond_text.module import ContrastiveModule, TrainingError
from beyond_text.towers import ImageTower

CHECKPOINTS = "checkpoints"
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


def build(config: Config) -> tuple[TwoTower, Any]:
    """The model a run starts with, and its tokenizer.

    Raises:
        CheckpointError: `start` names no finished run, or one of other encoders.
        FileNotFoundError: an encoder that is not there.
    """
    pl.seed_everything(config.seed, verbose=False)
    stored = read_manifest(Path(config.data.dev))["picture_size"]
    settings = settings_of(config, stored)
    model = build_model(
        settings,
        config.text_encoder.path,
        config.image_encoder.path,
        pretrained=True,
        drop_path=config.image_encoder.drop_path,
    )
    if config.start:
        warm_start(model, config.start)
    for tower in model.towers.values():
        shows = isinstance(tower, ImageTower)
        tower.add_lora(config.image_encoder.lora if shows else config.text_encoder.lora)
        if config.compile:
            tower.compile_encoder()
    return model, AutoTokenizer.from_pretrained(config.text_encoder.path)


def _refuse_others(begun: Config, config: Config, where: Path) -> None:
    """Refuses to go on with other settings than the run began with."""
    if differing := differences(begun, config):
        raise ConfigError(
            f"{where} was begun with other settings: {', '.join(differing)}; take another run "
            "folder, delete this one, or say resume=never to begin again"
        )


def _settings(checkpoint: Path, origin: Origin) -> Config:
    """The settings of a checkpoint's run; what it does not know yet has its default."""
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Config), origin.settings)
        return cast("Config", OmegaConf.to_object(merged))
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{checkpoint}: of other settings: {reason}") from error


def _resumable(config: Config) -> tuple[Path, Origin] | None:
    """The checkpoint that the run goes on from, if it has one.

    Raises:
        CheckpointError: none is whole.
        ConfigError: it is one of other settings.
    """
    folder = Path(config.run) / CHECKPOINTS
    if found := newest_checkpoint(folder):
        path, origin = found
        _refuse_others(_settings(path, origin), config, path)
        check_inputs(config)
        if path.name != LAST:
            # It would push the whole one out when the next is written.
            _forget(folder / LAST)
    return found


@rank_zero_only
def _forget(*files: Path) -> None:
    """Once, for a second process starts when the first has already begun."""
    for path in files:
        path.unlink(missing_ok=True)


class RunCheckpoints(TorchCheckpointIO):
    """Lightning's checkpoints, whole or not there, with the one before and their origin."""

    def __init__(self, origin: Origin) -> None:
        self.origin = origin

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """As `write_checkpoint`."""
        write_checkpoint(checkpoint, self.origin, Path(path))


class StepCheckpoint(ModelCheckpoint):
    """Lightning's, which after a resumption would save the step that it has just loaded again.

    By then a part of the next step's batches may have been accumulated, which no checkpoint holds.
    """

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """The step that the run starts at is saved already."""
        super().on_train_start(trainer, module)
        self._last_global_step_saved = trainer.global_step


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
            *([FrozenOutputs(config.cache)] if config.cache else []),
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


def train(config: Config) -> dict[str, Any]:
    """Trains a run to its end, or returns the metrics of one that is finished.

    Of several processes, all but the first return nothing.

    Raises:
        ConfigError: settings that cannot work together, or differ from those the run began with.
        CheckpointError, ShardError, TableError: what the run reads is not there or not whole.
        FileNotFoundError: an encoder is not there.
        TrainingError: the loss became NaN, too many samples were unreadable, or a loader's worker
            was killed.
        OSError: the disk is full; names the file, or else the run.
    """
    with named(Path(config.run)):
        return _train(config)


def _train(config: Config) -> dict[str, Any]:
    run = Path(config.run)
    found = None
    if config.resume == "auto":
        if (run / METRICS).is_file():
            _refuse_others(load_config([run / "config.yaml"]), config, run)
            check_inputs(config)
            return json.loads((run / METRICS).read_text(encoding="utf-8"))
        # A run that failed before its first checkpoint may begin again with anything.
        found = _resumable(config)
    else:
        _forget(run / METRICS, *(run / CHECKPOINTS).glob("*"))
    if not config.data.dev:
        raise ConfigError("data.dev: expected a folder of shards to measure retrieval on, got ''")
    run.mkdir(parents=True, exist_ok=True)
    write_text(run / "config.yaml", to_yaml(config))

    keep_freed_memory()
    model, tokenizer = build(config)
    settings = model.settings
    module = ContrastiveModule(model, config)
    data = ShardData(config, settings, tokenizer, model.text_tower.fixed_length)
    corpus = read_corpus(
        Path(config.data.dev), config.data.dev_split, settings.text_fields, settings.image_size
    )
    if found is None:
        # All that it names has been read by now.
        write_inputs(config)
    bf16 = precision_of(config.precision) == "bf16-mixed"
    retrieval = Retrieval(corpus, tokenizer, config.evaluate_every, bf16)
    trainer = make_trainer(config, [Throughput(), retrieval])
    # Here, before processes are started that would each say it.
    data.check_shares(trainer.world_size)
    if found and found[1].processes != trainer.world_size:
        raise ConfigError(
            f"{found[0]} was begun with another number of processes, which share each batch: "
            f"asked {trainer.world_size}, found {found[1].processes}"
        )
    with _told_of_workers(trainer):
        trainer.fit(module, data, ckpt_path=found[0] if found else None, weights_only=True)
        seconds = module.seconds
        if trainer.global_step < config.total_steps:
            raise TrainingError(f"stopped at step {trainer.global_step} of {config.total_steps}")
        if not trainer.is_global_zero:
            return {}
        return _finish(config, module, trainer, retrieval, tokenizer, seconds)


@contextmanager
def _told_of_workers(trainer: pl.Trainer) -> Iterator[None]:
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


def _finish(
    config: Config,
    module: ContrastiveModule,
    trainer: pl.Trainer,
    retrieval: Retrieval,
    tokenizer: Any,
    seconds: float,
) -> dict[str, Any]:
    """Saves the model, then its metrics; metrics.json comes last."""
    run = Path(config.run)
    save_model(module.model, tokenizer, run)
    # Lightning leaves the model on the CPU.
    module.to(trainer.strategy.root_device)
    by_view, rankings = retrieval.measure_and_log(trainer, module)
    history = read_history(Path(config.start)) if config.start else read_history(run)
    # Folders of one name in two places are two runs.
    name = str(run) if config.start and run.name in history else run.name
    # A run that is finished again, after a kill between the two files, is in it once.
    save_history(run, {**history, name: by_view})
    training = {
        "seconds": round(seconds, 1),
        "steps": config.total_steps,
        # What `auto` was on this machine.
        "precision": precision_of(config.precision),
        "parameters": sum(p.numel() for p in module.model.parameters()),
        "fusion_parameters": sum(p.numel() for p in module.model.fusion.parameters()),
    }
    assert isinstance(trainer.logger, TensorBoardLogger)
    finals = {
        f"final/{kind}": block["ndcg@10"]
        for kind, block in by_view["product"].items()
        if "ndcg@10" in block
    }
    trainer.logger.log_hyperparams(flat(asdict(config)), finals)
    trainer.logger.finalize("success")
    metrics = {**by_view["product"], "training": training}
    write_results(run, metrics, rankings["product"], retrieval.corpus)
    shutil.rmtree(run / CHECKPOINTS, ignore_errors=True)
    return metrics


def report(run: Path) -> None:
    """Prints what each stage brought so far: nDCG@10 of each view, beside the untouched encoders'.

    The product view is what is served; text and image alone show where it comes from.
    """
    table = Table(title=f"{run}: dev nDCG@10 (recall@10)", title_justify="left")
    history = read_history(run)
    table.add_column("product vector")
    table.add_column("queries")
    for name in history:
        table.add_column(name, justify="right")
    for view in next(iter(history.values())):
        for kind in list(history.values())[-1].get(view, {}):
            blocks = [stage.get(view, {}).get(kind, {}) for stage in history.values()]
            cells = [
                f"{block['ndcg@10']:.3f} ({block['recall@10']:.3f})" if "ndcg@10" in block else "-"
                for block in blocks
            ]
            table.add_row({"product": "fused"}.get(view, view), kind, *cells)
        table.add_section()
    Console(width=max(100, Console().width)).print(table)


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(prog="python -m beyond_text.train", description=__doc__)
    parser.add_argument("recipe", nargs="+", help="recipe files, then key=value overrides")
    given = parser.parse_args().recipe
    files = [text for text in given if "=" not in text]
    overrides = [text for text in given if "=" in text]
    try:
        config = load_config(files, overrides)
        if train(config):
            report(Path(config.run))
    except (ValueError, OSError, TrainingError) as error:
        # A loader's worker sends its traceback along, which ends with the error.
        sys.exit(f"error: {str(error).strip().splitlines()[-1]}")


if __name__ == "__main__":
    main()
