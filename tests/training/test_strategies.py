"""Which of Lightning's strategies a run takes, and what is said of the others."""

from __future__ import annotations

from pathlib import Path

import pytest
from pytorch_lightning.plugins.environments import SLURMEnvironment
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from beyond_text.config.load import load_config
from beyond_text.config.settings import ConfigError
from beyond_text.training.launch import check_processes, workers_of
from beyond_text.training.strategies import check_strategy
from beyond_text.training.trainer import make_trainer


@pytest.mark.parametrize(
    ("strategy", "said"),
    [
        ("fsdp", "keeps only a part of each weight .* text_encoder.lora.rank=16, chunk_size=128"),
        ("fsdp_cpu_offload", "keeps only a part"),
        ("model_parallel", "keeps only a part"),
        ("deepspeed_stage_2_offload", "keeps only a part"),
        ("ddp_spawn", "starts processes out of one .* take strategy=ddp"),
        ("ddp_fork_find_unused_parameters_false", "starts processes out of one"),
        ("ddp_notebook", "starts processes out of one"),
        ("dpp", "expected one of auto, ddp, .* got 'dpp'"),
        ("xla", "expected one of auto, ddp, .* got 'xla'"),
        ({"name": "ddp"}, "expected one of auto, ddp, .* got {'name'"),
    ],
)
def test_a_strategy_that_a_run_cannot_work_with_is_refused_in_a_sentence(
    strategy: object, said: str
) -> None:
    with pytest.raises(ConfigError, match=rf"^trainer\.strategy: .*{said}"):
        check_strategy({"strategy": strategy})


@pytest.mark.parametrize("strategy", ["ddp", "auto", "ddp_find_unused_parameters_true"])
def test_ddp_is_taken(strategy: str, tmp_path: Path) -> None:
    words = [f"trainer.strategy={strategy}", "trainer.accelerator=cpu", "trainer.devices=2"]
    trainer = make_trainer(load_config([], [f"run={tmp_path}", *words]), [])
    assert trainer.world_size == 2


def test_a_job_of_slurm_goes_on_from_the_checkpoints_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Lightning keeps a process's rank there; later tests of this process are of rank 0 again.
    monkeypatch.setattr(rank_zero_only, "rank", 0)
    job = {"NTASKS": "2", "NTASKS_PER_NODE": "2", "NODEID": "0", "PROCID": "1", "LOCALID": "1"}
    for name, value in (job | {"JOB_NAME": "train"}).items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    words = ["trainer.accelerator=cpu", "trainer.devices=2", "trainer.strategy=ddp"]
    trainer = make_trainer(load_config([], [f"run={tmp_path}", *words]), [])
    assert (trainer.world_size, trainer.global_rank) == (2, 1)
    environment = trainer.strategy.cluster_environment  # type: ignore[attr-defined]
    assert isinstance(environment, SLURMEnvironment)
    assert not environment.auto_requeue
    assert Path(trainer.default_root_dir) == tmp_path


def test_the_trainer_refuses_what_the_table_refuses(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^trainer\.strategy: fsdp keeps"):
        make_trainer(load_config([], [f"run={tmp_path}", "trainer.strategy=fsdp"]), [])


@pytest.mark.parametrize(("batch", "processes"), [(8, 1), (8, 4), (8, 8)])
def test_processes_share_a_batch_that_they_divide(batch: int, processes: int) -> None:
    check_processes(load_config([], [f"batch_size={batch}"]), processes)


@pytest.mark.parametrize(("batch", "processes"), [(8, 3), (8, 16)])
def test_others_are_refused_with_both_numbers(batch: int, processes: int) -> None:
    with pytest.raises(
        ConfigError, match=rf"^batch_size: .* {processes} processes .* got {batch}$"
    ):
        check_processes(load_config([], [f"batch_size={batch}"]), processes)


@pytest.mark.parametrize(
    ("cores", "processes", "workers"),
    [(1, 1, 1), (2, 1, 1), (4, 1, 3), (64, 8, 7), (224, 8, 8), (8, 8, 1)],
)
def test_loaders_have_the_cores_that_training_leaves(
    cores: int, processes: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)))
    assert workers_of(load_config([], []), processes) == workers
    assert workers_of(load_config([], ["data.workers=0"]), processes) == 0
    assert workers_of(load_config([], ["data.workers=5"]), processes) == 5


@pytest.mark.parametrize(
    ("cores", "of_task", "tasks", "workers"),
    [
        # Eight tasks of eight cores each; the same where SLURM binds none; torchrun in one task.
        (8, "8", "8", 7),
        (64, "8", "8", 7),
        (64, "64", "1", 7),
        (16, "16", "1", 1),
        (8, "", "8", 1),
    ],
)
def test_cores_that_slurm_gives_each_task_are_not_parted_again(
    cores: int, of_task: str, tasks: str, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", of_task)
    monkeypatch.setenv("SLURM_NTASKS", tasks)
    assert workers_of(load_config([], []), 8) == workers
