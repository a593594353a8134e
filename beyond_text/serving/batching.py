"""Searches for queries that wait together in one call, and never makes one wait for company.

A query that finds a thread free is worked on at once, alone. Those that come while all threads are
busy are the next batch.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from beyond_text.encoding.model import Precision
from beyond_text.indexing.index import Hit, Index
from beyond_text.serving.measures import Measures


@dataclass(frozen=True, slots=True)
class Query:
    """One search: words, a picture or both, in an index."""

    index: Index
    text: str
    picture: bytes | None
    top: int
    where: tuple[str, ...] = ()
    weight: float | None = None


class Found(NamedTuple):
    """The hits of a query, and the seconds that its batch took."""

    hits: list[Hit]
    encoding: float
    searching: float


Outcome = Found | Exception


class Batcher:
    """Hands waiting queries to threads, at most `most` at a time to each."""

    def __init__(
        self, answer: Callable[[Sequence[Query]], list[Outcome]], threads: int = 1, most: int = 32
    ) -> None:
        self._answer = answer
        self._most = most
        self._free = threads
        self._waiting: deque[tuple[Query, asyncio.Future[Found]]] = deque()
        self._threads = ThreadPoolExecutor(threads, "search")

    async def search(self, query: Query) -> Found:
        """Returns what is found for a query.

        Raises:
            ValueError: the query cannot be answered: its picture is none, a filter is wrong ...
        """
        future: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
        self._waiting.append((query, future))
        self._start()
        return await future

    def close(self) -> None:
        """Waits for what is being searched."""
        self._threads.shutdown()

    def _start(self) -> None:
        while self._free and self._waiting:
            taken = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
            # Who gave up waiting is not searched for.
            batch = [(query, future) for query, future in taken if not future.done()]
            if not batch:
                continue
            self._free -= 1
            queries = [query for query, _ in batch]
            work = asyncio.get_running_loop().run_in_executor(self._threads, self._answer, queries)
            futures = [future for _, future in batch]
            work.add_done_callback(partial(self._finish, futures))

    def _finish(
        self, futures: Sequence[asyncio.Future[Found]], done: asyncio.Future[list[Outcome]]
    ) -> None:
        self._free += 1
        failed = done.exception()
        outcomes: Sequence[Outcome | BaseException]
        outcomes = [failed] * len(futures) if failed else done.result()
        for future, outcome in zip(futures, outcomes, strict=True):
            if future.done():
                continue
            if isinstance(outcome, BaseException):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)
        self._start()


def search_batch(
    queries: Sequence[Query], measures: Measures, precision: Precision = "float32"
) -> list[Outcome]:
    """Returns what is found for each query, or why nothing can be.

    Queries of one index are encoded together, texts apart from pictures, and searched together
    where they ask for the same filters, weight and number of products. A picture that cannot be
    used is no fault of the others of its batch.
    """
    measures.batches.observe(len(queries))
    outcomes: dict[int, Outcome] = {}
    for together in _groups(range(len(queries)), lambda n: _encoded_together(queries[n])):
        outcomes |= _search_group({n: queries[n] for n in together}, measures, precision)
    return [outcomes[number] for number in range(len(queries))]


def _encoded_together(query: Query) -> Hashable:
    return id(query.index), query.picture is not None, bool(query.text)


def _searched_together(query: Query) -> Hashable:
    return query.top, query.where, query.weight


def _groups(numbers: Iterable[int], key: Callable[[int], Hashable]) -> list[list[int]]:
    """Returns the numbers of each key, in their order."""
    groups: dict[Hashable, list[int]] = {}
    for number in numbers:
        groups.setdefault(key(number), []).append(number)
    return list(groups.values())


def _search_group(
    queries: dict[int, Query], measures: Measures, precision: Precision
) -> dict[int, Outcome]:
    """Encodes queries of one index in one call; each alone, where that fails."""
    began = time.perf_counter()
    rows = list(queries.values())
    index, has_text, has_picture = rows[0].index, bool(rows[0].text), rows[0].picture is not None
    try:
        vectors = index.encode(
            texts=[query.text for query in rows] if has_text else None,
            images=[query.picture for query in rows] if has_picture else None,
            precision=precision,
        )
    except ValueError as error:
        if len(queries) == 1:
            return dict.fromkeys(queries, error)
        alone = [_search_group({n: q}, measures, precision) for n, q in queries.items()]
        return {number: outcome for one in alone for number, outcome in one.items()}
    encoding = time.perf_counter() - began
    measures.encoding.observe(encoding)
    numbers = list(queries)
    outcomes: dict[int, Outcome] = {}
    for together in _groups(range(len(rows)), lambda n: _searched_together(rows[n])):
        began = time.perf_counter()
        first = rows[together[0]]
        try:
            found = index.search_vectors(
                vectors[together],
                [rows[n].text for n in together] if has_text else None,
                top=first.top,
                where=first.where,
                weight=first.weight,
            )
        except ValueError as error:
            outcomes |= {numbers[n]: error for n in together}
            continue
        searching = time.perf_counter() - began
        measures.searching.observe(searching)
        outcomes |= {
            numbers[n]: Found(hits, encoding, searching)
            for n, hits in zip(together, found, strict=True)
        }
    return outcomes
