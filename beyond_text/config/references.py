"""Checks the settings that hold a model near another: near its own start, or a teacher."""

from __future__ import annotations

from beyond_text.config.settings import Config, ConfigError


def check_start_penalty(config: Config) -> None:
    """Checks that the pull towards the start has weights to pull, and does not overshoot it.

    Raises:
        ConfigError: no encoder is trained, or the penalty is too large.
    """
    if not config.start_penalty:
        return
    rates = [config.rates.text_encoder, config.rates.image_encoder]
    if not config.share_text_encoder:
        rates.append(config.rates.query_encoder)
    if not max(rates):
        raise ConfigError("start_penalty: it pulls trained encoders, and the rate of each is 0")
    if max(rates) * config.start_penalty > 1:
        raise ConfigError(
            f"start_penalty: expected at most {1 / max(rates):g}, 1 / the largest learning rate of "
            f"an encoder, got {config.start_penalty:g}: a step would leap over the start"
        )


def check_teacher(config: Config) -> None:
    """Checks that a teacher and the weight of its loss come together.

    Raises:
        ConfigError: one stands without the other, or beside a cache.
    """
    if bool(config.teacher) != bool(config.losses.teacher):
        raise ConfigError(
            "teacher: a run folder and a weight for losses.teacher come together, got "
            f"teacher={config.teacher!r} and losses.teacher={config.losses.teacher:g}"
        )
    if config.teacher_temperature is not None and not config.teacher:
        raise ConfigError("teacher_temperature: only a teacher uses it; expected null")
    if config.teacher and config.cache:
        raise ConfigError(
            "cache: it holds what the model's own frozen encoders make of pictures, and a teacher "
            "needs the pictures; expected ''"
        )
