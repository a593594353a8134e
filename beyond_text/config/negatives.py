"""Checks the settings of hard negatives against the others."""

from __future__ import annotations

from beyond_text.config.settings import Config, ConfigError
from beyond_text.config.views import OBJECTIVE_VIEWS, uses_queries


def check_hard_negatives(config: Config) -> None:
    """Refuses hard negatives that no loss uses or no batch has room for, and unread folders.

    Raises:
        ConfigError: names the setting, what was expected and what was got.
    """
    data = config.data
    with_queries = [name for name in OBJECTIVE_VIEWS if uses_queries([name])]
    if data.hard_negatives and not any(getattr(config.losses, name) for name in with_queries):
        raise ConfigError(
            "data.hard_negatives: only losses with queries use it; expected 0, or a weight for one "
            f"of {', '.join(with_queries)} in losses"
        )
    if data.hard_negatives and not data.negatives:
        raise ConfigError(
            "data.hard_negatives: data.negatives, the share of a batch for them, is 0"
        )
    if data.hard_negatives and int(data.negatives * config.batch_size) < 1:
        raise ConfigError(
            f"data.hard_negatives: data.negatives={data.negatives:g} of a batch of "
            f"{config.batch_size} (batch_size) is no whole product; expected room for one"
        )
    for name, source in data.sources.items():
        if source.mined and not data.hard_negatives:
            raise ConfigError(
                f"data.sources.{name}.mined: only data.hard_negatives reads it, which is 0"
            )
        if source.mined and (source.weight == 0 or not uses_queries(source.losses or with_queries)):
            why = "its losses have no queries" if source.weight else "its weight is 0"
            raise ConfigError(f"data.sources.{name}.mined: not read, for {why}")
