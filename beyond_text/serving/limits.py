"""What a request may ask for at most."""

from __future__ import annotations

from dataclasses import dataclass

MAX_TEXT = 2_000
MAX_TOP = 200
MAX_FILTERS = 20
MAX_FILTER = 2_000


@dataclass(frozen=True)
class Limits:
    """Limits that a command line may set.

    Attributes:
        body: bytes of a request's body.
        pixels: width x height of a query's picture.
        seconds: from a request's head to the end of its answer.
        requests: that are worked on at a time.
    """

    body: int = 8_000_000
    pixels: int = 25_000_000
    seconds: float = 10.0
    requests: int = 256
