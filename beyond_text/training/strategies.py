"""Names the ways in which Lightning may share a run among processes, and refuses the others."""

from __future__ import annotations

from typing import Any

from beyond_text.config.settings import ConfigError

DDP = ("ddp", "ddp_find_unused_parameters_true", "ddp_find_unused_parameters_false")
ACCEPTED = ("auto", *DDP)
_PARTS = (
    "keeps only a part of each weight in a process, where losses over all processes, the average "
    "of the weights and the files of a run need whole ones; for a large encoder take "
    "strategy=ddp with text_encoder.lora.rank=16, chunk_size=128 or lr.text_encoder=0"
)
_FORKS = (
    "starts processes out of one that has begun to work, and these cannot read what it has open; "
    "take strategy=ddp"
)
# Why a strategy is refused, by how its name begins.
REFUSED = {
    "fsdp": _PARTS,
    "model_parallel": _PARTS,
    "deepspeed": _PARTS,
    "ddp_spawn": _FORKS,
    "ddp_fork": _FORKS,
    "ddp_notebook": _FORKS,
}


def check_strategy(settings: dict[str, Any]) -> None:
    """Refuses a `trainer.strategy` that a run cannot work with.

    Raises:
        ConfigError: names the strategy, why, and what to take instead.
    """
    strategy = settings.get("strategy", "auto")
    if strategy in ACCEPTED:
        return
    for start, why in REFUSED.items():
        if str(strategy).startswith(start):
            raise ConfigError(f"trainer.strategy: {strategy} {why}")
    raise ConfigError(f"trainer.strategy: expected one of {', '.join(ACCEPTED)}, got {strategy!r}")
