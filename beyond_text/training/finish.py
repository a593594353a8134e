"""Ends a run: saves its model, measures it, and writes results; metrics.json comes last."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import TensorBoardLogger

from beyond_text.config.compare import flatten
from beyond_text.config.settings import Config
from beyond_text.config.urls import without_credentials
from beyond_text.config.views import View
from beyond_text.metrics.history import name_in, read_history, save_history
from beyond_text.metrics.results import Metrics, write_results
from beyond_text.models.checkpoint import save_model
from beyond_text.models.precision import precision_of
from beyond_text.models.two_tower import TwoTower
from beyond_text.training.callbacks import Retrieval
from beyond_text.training.checkpoints import CHECKPOINTS
from beyond_text.training.inputs import shares_dev
from beyond_text.training.module import ContrastiveModule


def finish(
    trainer: pl.Trainer, module: ContrastiveModule, retrieval: Retrieval, seconds: float
) -> dict[str, Any]:
    """Saves and measures a trained model; writes and returns its metrics.

    `seconds` is the time that the training took. Checkpoints are deleted at the end. All processes
    measure; the others than the first return nothing.
    """
    config = module.config
    run = Path(config.run)
    if retrieval.share.is_first:
        save_model(module.model, retrieval.tokenizer, run)
    # Lightning leaves the model on the CPU.
    module.to(trainer.strategy.root_device)
    measured = retrieval.measure_and_log(trainer, module)
    if measured is None:
        return {}
    _add_to_history(config, measured.by_view)
    training = _facts(config, module.model, seconds)
    _log_final(trainer, config, measured.metrics)
    if measured.by_width:
        training["widths"] = measured.by_width
    metrics = {**measured.metrics, "training": training}
    query_set = retrieval.dev.query_set
    write_results(run, metrics, measured.ranking, query_set.queries, query_set.qrels)
    shutil.rmtree(run / CHECKPOINTS, ignore_errors=True)
    return metrics


def _add_to_history(config: Config, by_view: dict[View, Any]) -> None:
    """Appends the run's metrics to the history of the runs before it, if that is of one shop."""
    run, start = Path(config.run), config.start
    history: dict[str, dict[View, Any]] = {}
    if not start or shares_dev(config):
        history = read_history(Path(start) if start else run)
    name = name_in(history, run) if start else run.name
    # A run killed between writing history.json and metrics.json finishes twice and is listed once.
    save_history(run, {**history, name: by_view})


def _facts(config: Config, model: TwoTower, seconds: float) -> dict[str, Any]:
    """Returns what metrics.json says about the training itself."""
    return {
        "seconds": round(seconds, 1),
        "steps": config.total_steps,
        # What `auto` meant on this machine.
        "precision": precision_of(config.precision),
        "parameters": sum(p.numel() for p in model.parameters()),
        "fusion_parameters": sum(p.numel() for p in model.fusion.parameters()),
    }


def _log_final(trainer: pl.Trainer, config: Config, metrics: Metrics) -> None:
    """Writes the settings and the final nDCG@10 of each kind of query to TensorBoard."""
    assert isinstance(trainer.logger, TensorBoardLogger)
    finals = {
        f"final/{kind}": block["ndcg@10"] for kind, block in metrics.items() if "ndcg@10" in block
    }
    trainer.logger.log_hyperparams(flatten(asdict(without_credentials(config))), finals)
    trainer.logger.finalize("success")
