"""Opens DuckDB, which sorts, joins and adds up what may be more than memory holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from beyond_text.terminal import first_line

# Memory of a sort or a join; what takes more goes to disk.
MEMORY = "512MB"


@contextmanager
def sorter(folder: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Yields a connection that holds and sorts tables within MEMORY, and beyond it in the folder.

    Raises:
        OSError: the disk is full, or memory is.
    """
    settings = {"memory_limit": MEMORY, "temp_directory": str(folder / "spill"), "threads": 2}
    try:
        with duckdb.connect(config=settings) as connection:  # type: ignore[arg-type]
            yield connection
    except (duckdb.IOException, duckdb.OutOfMemoryException) as error:
        raise OSError(f"{folder}: {first_line(error)}") from error
