"""Arrow files of columns, mapped into memory and checked a part at a time, when it is first read.

So a file of any size costs a process nothing that others do not share, and a damaged one an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int64

from beyond_text.shards.manifest import ShardError
from beyond_text.terminal import one_line

# The most rows that are written as one part.
ROWS = 2**17
# Says what is wrong with a part whose first row has a number, or nothing.
Check = Callable[[pa.RecordBatch, int], str]


def write_columns(
    path: Path, schema: pa.Schema, parts: Iterable[pa.RecordBatch], size: int = ROWS
) -> None:
    """Writes a file of columns, which depends on the rows alone, whatever parts they come in.

    It has parts of `size` rows, and a last one of the rest.
    """
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for part in _parts(schema, parts, size):
            writer.write_batch(_exact(part))


def _parts(
    schema: pa.Schema, parts: Iterable[pa.RecordBatch], size: int
) -> Iterator[pa.RecordBatch]:
    """Cuts rows into parts of a size."""
    waiting = pa.Table.from_batches([], schema)
    for part in parts:
        waiting = pa.concat_tables([waiting, pa.Table.from_batches([part], schema)])
        while len(waiting) >= size:
            yield from waiting[:size].combine_chunks().to_batches()
            waiting = waiting[size:]
    yield from waiting.combine_chunks().to_batches()


def _exact(part: pa.RecordBatch) -> pa.RecordBatch:
    """Returns the rows with nothing beyond their last one, where Arrow leaves what it finds."""
    columns = [
        pa.array(column.to_numpy(zero_copy_only=False), pa.bool_())
        if pa.types.is_boolean(column.type)
        else column
        for column in part.columns
    ]
    return pa.RecordBatch.from_arrays(columns, schema=part.schema)


class Columns:
    """The columns of a file of a schema, in its parts; parts without rows are left out.

    Raises:
        ShardError: it is no such file, or a part that is read is not what it should be; names the
            file.
    """

    def __init__(self, path: Path, schema: pa.Schema, check: Check) -> None:
        self.path = path
        self._check = check
        self._checked: dict[int, pa.RecordBatch] = {}
        with _errors_name(path):
            self._reader = pa.ipc.open_file(pa.memory_map(str(path)))
            if not self._reader.schema.equals(schema):
                wanted, got = (
                    ", ".join(f"{field.name}: {field.type}" for field in each)
                    for each in (schema, self._reader.schema)
                )
                raise ShardError(f"{path}: expected columns {wanted}; got {got:.500}")
            sizes = [self._read(n).num_rows for n in range(self._reader.num_record_batches)]
        self._numbers = np.flatnonzero(sizes).tolist()
        self.starts: Int64[np.ndarray, " parts"] = np.cumsum([0, *(n for n in sizes if n)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Yields the parts, checked."""
        return map(self.part, range(len(self._numbers)))

    def ends(self, column: int) -> Int64[np.ndarray, "parts 2"]:
        """Returns the first and the last number of each part in a column of numbers."""
        parts = (self._read(number)[column] for number in self._numbers)
        ends = [(part[0].as_py(), part[-1].as_py()) for part in parts]
        return np.array([(0 if a is None else a, 0 if b is None else b) for a, b in ends] or
                        np.zeros((0, 2)), dtype=np.int64)  # fmt: skip

    def part(self, number: int) -> pa.RecordBatch:
        """Returns a part, checked."""
        if number not in self._checked:
            with _errors_name(self.path):
                part = self._read(self._numbers[number])
                part.validate(full=True)
                lacks = [field.name for field, column in zip(part.schema, part.columns, strict=True)
                         if column.null_count]  # fmt: skip
                wrong = f"expected no nulls, got some in {lacks[0]!r:.200}" if lacks else ""
                wrong = wrong or self._check(part, int(self.starts[number]))
            if wrong:
                raise ShardError(f"{self.path}: {wrong}")
            self._checked[number] = part
        return self._checked[number]

    def rows(self, numbers: Int64[np.ndarray, " rows"]) -> list[tuple[Any, ...]]:
        """Returns the values of rows, in the order of their numbers as these are given.

        Raises:
            IndexError: there is none of a number.
        """
        for number in numbers[(numbers < 0) | (numbers >= len(self))]:
            raise IndexError(int(number))
        found: list[tuple[Any, ...]] = [()] * len(numbers)
        of_rows = np.searchsorted(self.starts, numbers, side="right") - 1
        for number in np.unique(of_rows):
            places = np.flatnonzero(of_rows == number)
            taken = self.part(number).take(pa.array(numbers[places] - self.starts[number]))
            values = zip(*(column.to_pylist() for column in taken.columns), strict=True)
            for place, row in zip(places.tolist(), values, strict=True):
                found[place] = row
        return found

    def _read(self, number: int) -> pa.RecordBatch:
        """Maps a part, and checks that its columns are as long as it says."""
        part = self._reader.get_batch(number)
        part.validate()
        return part


@contextmanager
def _errors_name(path: Path) -> Iterator[None]:
    """Turns what Arrow says of a damaged file into an error that names the file."""
    try:
        yield
    except (pa.ArrowException, OSError, OverflowError) as error:
        raise ShardError(f"{path}: not readable columns: {one_line(error):.300}") from error
