"""Compares the settings of two runs: which of those that differ would change the numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from beyond_text.config.settings import Config
from beyond_text.config.urls import without_credentials

# How and where a run is carried out: these settings do not change its numbers.
SETTINGS_WITHOUT_EFFECT = (
    "run",
    "resume",
    "trainer",
    "data.workers",
    "data.cache_dir",
    "data.cache_gb",
    "checkpoint_every",
    "evaluate_every",
    # A run keeps the steps that the rule has given.
    "auto_steps",
)


def differences(before: Config, now: Config) -> list[str]:
    """Returns the settings that would change a run's numbers, sorted, as "key (asked, found)"."""
    found, asked = (
        flatten(dataclasses.asdict(without_credentials(config))) for config in (before, now)
    )
    # The order of the sources matters: each one's samples are shuffled by its position.
    for settings, config in ((found, before), (asked, now)):
        settings["data.sources"] = ", ".join(config.data.sources)
    return [
        f"{key} (asked {asked.get(key)!r}, found {found.get(key)!r})"
        for key in sorted(found.keys() | asked.keys())
        if asked.get(key) != found.get(key)
        and not any(f"{key}.".startswith(f"{name}.") for name in SETTINGS_WITHOUT_EFFECT)
    ]


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested settings by dotted key."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        nested = isinstance(value, Mapping) and value
        flat |= flatten(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return flat
