"""Counts and lists the rows that are rejected, and stops where they are too many.

Whoever reads tables, to build shards or to measure, counts by this one limit.
"""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

from beyond_text.tables.layouts import Reject
from beyond_text.tables.read import Tables

# Largest share of any one file's rows.
MAX_REJECTED = 0.05


class RejectError(ValueError):
    """A file has lost too large a share of its rows; the message counts the reasons."""


class Rejects:
    """All rejects of some tables, and the largest share of a file's rows that may be rejected.

    `list_path` is where the list is written if too many are.
    """

    def __init__(self, tables: Tables, max_share: float, list_path: Path | None = None) -> None:
        self.rejects = dict.fromkeys(tables.rejects)
        self.files = sorted(set(tables.files.values()))
        self.bad_rows = {file.name: set[int]() for file in self.files}
        self.max_share = max_share
        self.list_path = list_path
        for reject in tables.rejects:
            self.bad_rows[reject.file].add(reject.row)

    def add(self, reject: Reject) -> None:
        """Counts one reject; the same picture met in two splits counts once."""
        self.rejects[reject] = None
        self.bad_rows[reject.file].add(reject.row)

    def by_reason(self) -> dict[str, int]:
        """Counts the rejects of each reason, the most frequent first."""
        return dict(Counter(reject.reason for reject in self.rejects).most_common())

    def check(self) -> None:
        """Raises RejectError, and leaves the list behind, if a file has lost too large a share."""
        for file in self.files:
            bad = len(self.bad_rows[file.name])
            if bad <= self.max_share * file.rows:
                continue
            if self.list_path:
                self.write(self.list_path)
            of_file = [reject for reject in self.rejects if reject.file == file.name]
            counts = Counter(reject.reason for reject in of_file).most_common()
            examples = "".join(
                f"\n  row {each.row} ({each.id}): {each.reason}: {each.detail}"
                for each in of_file[:5]
            )
            raise RejectError(
                f"{file.name}: {bad} of {file.rows} rows rejected, expected at most a share of "
                f"{self.max_share:g}: "
                + ", ".join(f"{count} {reason}" for reason, count in counts)
                + (f"; all are listed in {self.list_path}" if self.list_path else "")
                + f"; the first:{examples}"
            )

    def write(self, path: Path) -> None:
        """Writes rejects.csv."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(Reject._fields)
            writer.writerows(self.rejects)
