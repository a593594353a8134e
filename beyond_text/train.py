"""The command that trains one stage: `python -m beyond_text.train RECIPE... [key=value ...]`.

    python -m beyond_text.train recipes/base.yaml recipes/stage1.yaml run=runs/stage1

A run folder holds config.yaml, TensorBoard events, checkpoints/ while it trains, model/ (see
`beyond_text.models.checkpoint`), run.trec, qrels.trec and, last of all, metrics.json. A run without
that file is not finished, and with `resume=auto` the same command goes on from its last whole
checkpoint. However often it was stopped, it ends with the weights of a run that never was: bit by
bit on a CPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beyond_text.config.load import load_config
from beyond_text.files import errors_name
from beyond_text.terminal import check_writable, errors_in_one_line, split_settings

if TYPE_CHECKING:
    from beyond_text.config.settings import Config

# What imports torch is imported in the functions, so that --help and a mistake cost no wait.


def train(config: Config) -> dict[str, Any]:
    """Trains a run to its end and returns its metrics; of a finished run, returns them at once.

    Of several processes, only the first returns metrics; the others return an empty dictionary.

    Raises:
        ConfigError: settings that cannot work together, or differ from those the run began with.
        CheckpointError, ShardError, TableError: what the run reads is missing or damaged.
        FileNotFoundError: an encoder does not exist.
        TrainingError: the loss became NaN, too many samples were unreadable, or a loader's worker
            was killed.
        OSError: the disk is full; names the file, or else the run.
    """
    with errors_name(Path(config.run)):
        from beyond_text.training.resume import finished_metrics

        metrics = finished_metrics(config)
        return _train(config) if metrics is None else metrics


def _train(config: Config) -> dict[str, Any]:
    from beyond_text.models.cpu.memory import keep_freed_memory
    from beyond_text.models.precision import uses_bf16
    from beyond_text.retrieval.encode import Encoder
    from beyond_text.training.alignment import align_pictures
    from beyond_text.training.build import build
    from beyond_text.training.callbacks import Retrieval, Throughput
    from beyond_text.training.datamodule import ShardData
    from beyond_text.training.finish import finish
    from beyond_text.training.inputs import write_inputs
    from beyond_text.training.module import ContrastiveModule, TrainingError
    from beyond_text.training.resume import begin_or_resume, check_processes
    from beyond_text.training.trainer import explain_killed_workers, make_trainer

    checkpoint = begin_or_resume(config)
    keep_freed_memory()
    model, tokenizer = build(config)
    module = ContrastiveModule(model, config)
    data = ShardData(config, model.settings, tokenizer, model.text_tower.fixed_length)
    retrieval = Retrieval.from_config(config, model.settings, tokenizer)
    if checkpoint is None and not config.start:
        encoder = Encoder(model, tokenizer, uses_bf16(config.precision), config.data.workers)
        align_pictures(encoder, [source.split for source in data.sources.values()], config)
    if checkpoint is None:
        # Only now, when every input has been read.
        write_inputs(config)
    trainer = make_trainer(config, [Throughput(), retrieval])
    # Before `fit` starts further processes, each of which would raise the same error.
    data.check_shares(trainer.world_size)
    if checkpoint:
        check_processes(checkpoint, trainer.world_size)
    with explain_killed_workers(trainer):
        path = checkpoint.path if checkpoint else None
        trainer.fit(module, data, ckpt_path=path, weights_only=True)
        seconds = module.seconds
        if trainer.global_step < config.total_steps:
            raise TrainingError(f"stopped at step {trainer.global_step} of {config.total_steps}")
        return finish(trainer, module, retrieval, seconds) if trainer.is_global_zero else {}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m beyond_text.train", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("recipe", nargs="+", help="recipe files, then key=value overrides")
    files, overrides = split_settings(parser.parse_args(argv).recipe)
    # A stopped training is a RuntimeError.
    with errors_in_one_line(RuntimeError):
        config = load_config(files, overrides)
        check_writable(Path(config.run))
        if train(config):
            from beyond_text.metrics.history import print_history

            print_history(Path(config.run))


if __name__ == "__main__":
    main()
