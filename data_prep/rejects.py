"""What a build refuses: rows, counted and listed with reasons, and at last the whole."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

from beyond_text.tables.layouts import Reject
from beyond_text.tables.read import Tables


class BuildError(ValueError):
    """Shards that were not written; the message says what was wrong and what to do."""


class Rejects:
    """Every reject of a build, and the limit on them."""

    def __init__(self, tables: Tables, max_share: float, left_at: Path) -> None:
        self.rejects = dict.fromkeys(tables.rejects)
        self.files = sorted(set(tables.files.values()))
        self.bad_rows = {file.name: set[int]() for file in self.files}
        self.max_share = max_share
        self.left_at = left_at
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
        """Raises BuildError, and leaves the list behind, if a file has lost too large a share."""
        for file in self.files:
            bad = len(self.bad_rows[file.name])
            if bad <= self.max_share * file.rows:
                continue
            self.write(self.left_at)
            here = [reject for reject in self.rejects if reject.file == file.name]
            counts = Counter(reject.reason for reject in here).most_common()
            examples = "".join(
                f"\n  row {each.row} ({each.id}): {each.reason}: {each.detail}" for each in here[:5]
            )
            raise BuildError(
                f"{file.name}: {bad} of {file.rows} rows rejected, expected at most a share of "
                f"{self.max_share:g}: "
                + ", ".join(f"{count} {reason}" for reason, count in counts)
                + f"; all are listed in {self.left_at}; the first:{examples}"
            )

    def write(self, path: Path) -> None:
        """Writes rejects.csv."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(Reject._fields)
            writer.writerows(self.rejects)
