"""The error of a build; what it rejects is counted by `beyond_text.tables.rejects`."""

from __future__ import annotations

from beyond_text.tables.pictures import MOST_PIXELS


class BuildError(ValueError):
    """Shards were not written; the message says what was wrong and what to do."""


def check_max_pixels(number: int) -> None:
    """Checks a limit of the pixels of pictures.

    Raises:
        BuildError: it is not positive, or above what Pillow opens at all.
    """
    if not 1 <= number <= MOST_PIXELS:
        raise BuildError(f"max_pixels: expected 1 to {MOST_PIXELS}, got {number}")
