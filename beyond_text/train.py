"""The command that trains one stage: `python -m beyond_text.train RECIPE... [key=value ...]`.

    python -m beyond_text.train recipes/base.yaml recipes/stage1.yaml run=runs/stage1

A run folder holds config.yaml, TensorBoard events, checkpoints/last.ckpt while it trains, model/
(see `beyond_text.checkpoint`), run.trec, qrels.trec and, last of all, metrics.json: a run without
that file is not finished and `resume=auto` goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint, RichProgressBar
from pytorch_lightning.loggers import TensorBoardLogger
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer

from beyond_text.callbacks import Retrieval, Throughput, read_history, save_history
from beyond_text.checkpoint import CheckpointError, save_model, warm_start
from beyond_text.config import Config, ConfigError, load_config, to_yaml
from beyond_text.corpus import read_corpus
from beyond_text.datamodule import ShardData
from beyond_text.evaluate import bf16_is_fast, write_results
from beyond_text.model import TwoTower, build_model, settings_of
from beyond_text.module import ContrastiveModule, TrainingError
from beyond_text.shards import ShardError, read_manifest
from beyond_text.tables import TableError

METRICS = "metrics.json"
# What may differ between a run and its resumption.
HOW_NOT_WHAT = ("resume", "trainer", "data.workers", "checkpoint_every", "evaluate_every")


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
        settings, config.text_encoder.path, config.image_encoder.path, pretrained=True
    )
    if config.start:
        warm_start(model, config.start)
    model.text_tower.add_lora(config.text_encoder.lora)
    if model.own_query_tower is not None:
        model.own_query_tower.add_lora(config.text_encoder.lora)
    model.image_tower.add_lora(config.image_encoder.lora)
    return model, AutoTokenizer.from_pretrained(config.text_encoder.path)


def precision_of(config: Config) -> str:
    """Lightning's precision; `auto` is bfloat16 autocast where the device computes it natively."""
    if config.precision != "auto":
        return config.precision
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return "bf16-mixed" if bf16_is_fast(device) else "32-true"


def _check_resumable(config: Config, run: Path) -> None:
    """Refuses to go on with other settings than the run began with."""
    path = run / "config.yaml"
    if not path.is_file():
        return
    before = _flat(asdict(load_config([path])))
    now = _flat(asdict(config))
    differing = sorted(
        name
        for name in before.keys() | now.keys()
        if before.get(name) != now.get(name) and not name.startswith(HOW_NOT_WHAT)
    )
    if differing:
        name = differing[0]
        raise ConfigError(
            f"{run} was begun with other settings: {', '.join(differing)} ({name} was "
            f"{before.get(name)!r}, is now {now.get(name)!r}); take another run folder, "
            "delete this one, or say resume=never to begin again"
        )


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def train(config: Config) -> dict[str, Any]:
    """Trains a run to its end, or returns the metrics of one that is finished.

    Raises:
        ConfigError: settings that cannot work together, or differ from those the run began with.
        CheckpointError, ShardError, TableError: what the run reads is not there or not whole.
        TrainingError: the loss became NaN, or too many samples were unreadable.
    """
    run = Path(config.run)
    if config.resume == "auto":
        _check_resumable(config, run)
        if (run / METRICS).is_file():
            return json.loads((run / METRICS).read_text(encoding="utf-8"))
    else:
        (run / METRICS).unlink(missing_ok=True)
    if not config.data.dev:
        raise ConfigError("data.dev: expected a folder of shards to measure retrieval on, got ''")
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.yaml").write_text(to_yaml(config), encoding="utf-8")

    model, tokenizer = build(config)
    settings = model.settings
    module = ContrastiveModule(model, config)
    data = ShardData(config, settings, tokenizer, model.text_tower.fixed_length)
    corpus = read_corpus(
        Path(config.data.dev), config.data.dev_split, settings.text_fields, settings.image_size
    )
    precision = precision_of(config)
    retrieval = Retrieval(corpus, tokenizer, config.evaluate_every, precision == "bf16-mixed")
    last = run / "checkpoints" / "last.ckpt"
    resuming = config.resume == "auto" and last.is_file()
    trainer = pl.Trainer(
        max_steps=config.total_steps,
        accumulate_grad_batches=config.accumulate,
        precision=precision,  # type: ignore[arg-type]
        logger=TensorBoardLogger(run, name="", version="", default_hp_metric=False),
        callbacks=[
            ModelCheckpoint(
                run / "checkpoints",
                save_last=True,
                save_top_k=0,
                every_n_train_steps=config.checkpoint_every,
                save_on_exception=False,
            ),
            LearningRateMonitor("step"),
            Throughput(),
            retrieval,
            *([RichProgressBar()] if config.trainer.get("enable_progress_bar", True) else []),
        ],
        log_every_n_steps=5,
        enable_model_summary=False,
        use_distributed_sampler=False,
        limit_val_batches=0,
        **config.trainer,
    )
    began = time.perf_counter()
    trainer.fit(module, data, ckpt_path=last if resuming else None, weights_only=True)
    seconds = time.perf_counter() - began
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
    by_view, rankings = retrieval.measure_and_log(trainer, module)
    history = read_history(Path(config.start)) if config.start else read_history(run)
    # A run that is finished again, after a kill between the two files, is in it once.
    save_history(run, {**history, run.name: by_view})
    training = {
        "seconds": round(seconds, 1),
        "steps": config.total_steps,
        "parameters": sum(p.numel() for p in module.model.parameters()),
        "fusion_parameters": sum(p.numel() for p in module.model.fusion.parameters()),
    }
    assert isinstance(trainer.logger, TensorBoardLogger)
    finals = {f"final/{kind}": block["ndcg@10"] for kind, block in by_view["product"].items()}
    trainer.logger.log_hyperparams(_flat(asdict(config)), finals)
    trainer.logger.finalize("success")
    metrics = {**by_view["product"], "training": training}
    write_results(run, metrics, rankings["product"], retrieval.corpus)
    shutil.rmtree(run / "checkpoints", ignore_errors=True)
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
        for kind in history[run.name][view]:
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
        train(config)
    except (ConfigError, CheckpointError, ShardError, TableError, TrainingError,
            FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    report(Path(config.run))


if __name__ == "__main__":
    main()
