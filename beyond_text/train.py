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
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import TensorBoardLogger

from beyond_text.config.load import load_config, to_yaml
from beyond_text.config.settings import Config, ConfigError
from beyond_text.files import errors_name, write_text
from beyond_text.metrics.history import read_history, report, save_history
from beyond_text.metrics.results import METRICS, write_results
from beyond_text.models.checkpoint import save_model
from beyond_text.models.cpu.memory import keep_freed_memory
from beyond_text.models.precision import precision_of
from beyond_text.retrieval.read_split import read_split
from beyond_text.training.build import build
from beyond_text.training.callbacks import Retrieval, Throughput
from beyond_text.training.checkpoints import (
    CHECKPOINTS,
)
from beyond_text.training.datamodule import ShardData
from beyond_text.training.module import ContrastiveModule, TrainingError
from beyond_text.training.resume import (
    check_inputs,
    checkpoint_to_resume,
    delete_once,
    flat,
    refuse_other_settings,
    write_inputs,
)
from beyond_text.training.trainer import explain_killed_workers, make_trainer


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
    with errors_name(Path(config.run)):
        return _train(config)


def _train(config: Config) -> dict[str, Any]:
    run = Path(config.run)
    found = None
    if config.resume == "auto":
        if (run / METRICS).is_file():
            refuse_other_settings(load_config([run / "config.yaml"]), config, run)
            check_inputs(config)
            return json.loads((run / METRICS).read_text(encoding="utf-8"))
        # A run that failed before its first checkpoint may begin again with anything.
        found = checkpoint_to_resume(config)
    else:
        delete_once(run / METRICS, *(run / CHECKPOINTS).glob("*"))
    if not config.data.dev:
        raise ConfigError("data.dev: expected a folder of shards to measure retrieval on, got ''")
    run.mkdir(parents=True, exist_ok=True)
    write_text(run / "config.yaml", to_yaml(config))

    keep_freed_memory()
    model, tokenizer = build(config)
    settings = model.settings
    module = ContrastiveModule(model, config)
    data = ShardData(config, settings, tokenizer, model.text_tower.fixed_length)
    catalogue, query_set = read_split(
        Path(config.data.dev), config.data.dev_split, settings.text_fields, settings.image_size
    )
    if found is None:
        # All that it names has been read by now.
        write_inputs(config)
    bf16 = precision_of(config.precision) == "bf16-mixed"
    retrieval = Retrieval(catalogue, query_set, tokenizer, config.evaluate_every, bf16)
    trainer = make_trainer(config, [Throughput(), retrieval])
    # Here, before processes are started that would each say it.
    data.check_shares(trainer.world_size)
    if found and found[1].processes != trainer.world_size:
        raise ConfigError(
            f"{found[0]} was begun with another number of processes, which share each batch: "
            f"asked {trainer.world_size}, found {found[1].processes}"
        )
    with explain_killed_workers(trainer):
        trainer.fit(module, data, ckpt_path=found[0] if found else None, weights_only=True)
        seconds = module.seconds
        if trainer.global_step < config.total_steps:
            raise TrainingError(f"stopped at step {trainer.global_step} of {config.total_steps}")
        if not trainer.is_global_zero:
            return {}
        return _finish(config, module, trainer, retrieval, tokenizer, seconds)


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
    query_set = retrieval.query_set
    write_results(run, metrics, rankings["product"], query_set.queries, query_set.qrels)
    shutil.rmtree(run / CHECKPOINTS, ignore_errors=True)
    return metrics


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
