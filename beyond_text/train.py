"""The command that trains one stage: `python -m beyond_text.train RECIPE... [key=value ...]`.

    python -m beyond_text.train recipes/base.yaml recipes/stage1.yaml run=runs/stage1

A run folder holds config.yaml, TensorBoard events, checkpoints/ while it trains, model/ (see
`beyond_text.models.checkpoint`), run.trec, qrels.trec and, last of all, metrics.json. A run without
that file is not finished, and with `resume=auto` the same command goes on from its last whole
checkpoint. However often it was stopped, it ends with the weights of a run that never was: bit by
bit on a CPU.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beyond_text.config.load import load_config
from beyond_text.files import errors_name
from beyond_text.tasks.lock import locked
from beyond_text.terminal import check_writable, command_parser, errors_in_one_line, split_settings
from beyond_text.training.started import is_first, is_started

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

    from beyond_text.config.settings import Config
    from beyond_text.retrieval.shares import Share
    from beyond_text.training.callbacks import Retrieval
    from beyond_text.training.datamodule import ShardData
    from beyond_text.training.module import ContrastiveModule

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
        ProcessError: another process failed.
        OSError: the disk is full; names the file, or else the run. Another process trains it.
    """
    with errors_name(Path(config.run)):
        from beyond_text.training.resume import finished_metrics
        from beyond_text.training.steps import with_steps

        config = with_steps(config)
        # Of several processes the first one looks, when they are together.
        metrics = None if is_started() else finished_metrics(config)
        if metrics is not None:
            return metrics
        with _held(Path(config.run)):
            return _train(config)


@contextmanager
def _held(run: Path) -> Iterator[None]:
    """Holds a run against a second training of it, which would replace its checkpoints.

    Raises:
        BlockingIOError: another process trains it.
    """
    if not is_first():
        yield
        return
    run.mkdir(parents=True, exist_ok=True)
    with locked(run / ".lock", f"{run}: another process trains this run"):
        yield


def _train(config: Config) -> dict[str, Any]:
    from beyond_text.models.cpu.memory import keep_freed_memory
    from beyond_text.training.alignment import align_pictures
    from beyond_text.training.callbacks import Retrieval, Throughput
    from beyond_text.training.embedding_cache import EmbeddingCache
    from beyond_text.training.finish import finish
    from beyond_text.training.inputs import write_inputs
    from beyond_text.training.launch import join
    from beyond_text.training.module import TrainingError
    from beyond_text.training.resume import Begun, begin, check_view, finished_metrics
    from beyond_text.training.trainer import explain_killed_workers, make_trainer

    retrieval = Retrieval(config)
    trainer = make_trainer(config, [Throughput(), retrieval])
    decide = cache(partial(begin, config, trainer.world_size))
    if not is_started():
        # A mistake is told before other processes are started, each of which would make it too.
        decide()
    share = join(trainer)
    begun = share.first(decide, Begun)
    if begun.finished:
        return (finished_metrics(config) or {}) if share.is_first else {}
    share.together(partial(check_view, begun, config))
    if trainer.strategy.root_device.type == "cpu":
        keep_freed_memory()
    module, data = share.together(partial(_read, config, trainer, retrieval, share))
    with share.named(), explain_killed_workers(trainer):
        module.to(trainer.strategy.root_device)
        if config.cache:
            EmbeddingCache(config.cache).use(module, data, retrieval)
        if not begun.checkpoint:
            if not config.start:
                splits = [source.split for source in data.sources.values()]
                align_pictures(retrieval.encoder(module), splits, config, data.cached)
            # Only now, when every input has been read.
            share.first(partial(write_inputs, config), type(None))
        # Else the garbage collector visits all that was loaded, within steps: 0.1 s each time. What
        # an earlier run of this process has left goes first.
        gc.collect()
        gc.freeze()
        try:
            trainer.fit(module, data, ckpt_path=begun.checkpoint or None, weights_only=True)
        finally:
            gc.unfreeze()
        seconds = module.seconds
        if trainer.global_step < config.total_steps:
            raise TrainingError(f"stopped at step {trainer.global_step} of {config.total_steps}")
        # No process goes on, to another run perhaps, before the first has written the results.
        return share.together(partial(finish, trainer, module, retrieval, seconds))


def _read(
    config: Config, trainer: Trainer, retrieval: Retrieval, share: Share
) -> tuple[ContrastiveModule, ShardData]:
    """Reads all of a run's inputs, which any of its processes may find missing or damaged."""
    from beyond_text.training.build import build, build_teacher
    from beyond_text.training.datamodule import ShardData
    from beyond_text.training.module import ContrastiveModule
    from beyond_text.training.unused import tell_unused

    model, tokenizer = build(config)
    module = ContrastiveModule(model, config, build_teacher(config, model, tokenizer))
    data = ShardData(config, model.settings, tokenizer, model.text_tower.fixed_length)
    data.check_shares(trainer.world_size)
    if trainer.local_rank == 0:
        # What is read here is remembered; in `fit` the others would not wait as long as it takes.
        data.prepare_data()
    retrieval.read(model.settings, tokenizer, share, trainer.num_devices)
    tell_unused(trainer, module, data)
    return module, data


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    parser = command_parser("beyond_text.train", __doc__)
    parser.add_argument("recipe", nargs="+", help="recipe files, then key=value overrides")
    files, overrides = split_settings(parser.parse_args(argv).recipe)
    # A stopped training is a RuntimeError.
    with errors_in_one_line(RuntimeError):
        config = load_config(files, overrides)
        if not is_started():
            # Of several processes the first one checks it, when they are together.
            check_writable(Path(config.run))
        if train(config):
            from beyond_text.metrics.history import print_history

            print_history(Path(config.run))


if __name__ == "__main__":
    main()
