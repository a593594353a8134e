"""Maps a function over many small items by threads, many items at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
# To hand over an item costs as much as to hash a small picture.
TOGETHER = 256


def map_in_threads(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int | None = None
) -> Iterator[Result]:
    """Yields the result of each item, in order."""
    parts = (items[first : first + TOGETHER] for first in range(0, len(items), TOGETHER))
    with ThreadPoolExecutor(workers) as threads:
        for results in threads.map(lambda part: [function(each) for each in part], parts):
            yield from results
