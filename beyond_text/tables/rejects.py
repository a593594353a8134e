"""Counts and lists the rows that are rejected, and stops where they are too many.

Whoever reads tables, to build shards or to measure, counts by this one limit.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path

import pandas as pd

from beyond_text.tables.checks import URL_PICTURE
from beyond_text.tables.layouts import Reject, TableFile

# Largest share of any one file's rows.
MAX_REJECTED = 0.05


# What to do about rows that are rejected for one reason.
ADVICE = {
    URL_PICTURE: "{count} pictures are URLs: fetch them first with `python -m data_prep.pictures "
    "TABLES OUT{layout}` and use OUT, or give --absent-pictures to go on by the texts",
}


class RejectError(ValueError):
    """A file has lost too large a share of its rows; the message counts the reasons."""


class Rejects:
    """All rejects of some tables, and the largest share of a file's rows that may be rejected.

    The first of `files` is checked first: what is wrong there may be the cause of the rest.
    `list_path` is where the list is written if too many are, and `layout` the name of the layout
    that was given, for advice.
    """

    def __init__(
        self,
        rejects: Iterable[Reject],
        files: Iterable[TableFile],
        max_share: float,
        list_path: Path | None = None,
        layout: str = "",
    ) -> None:
        if not 0 <= max_share <= 1:
            raise RejectError(
                f"expected a share from 0 to 1 of rows that may be rejected, got {max_share:g}"
            )
        self.rejects = dict.fromkeys(rejects)
        self.files = list(dict.fromkeys(files))
        self.bad_rows = {file.name: set[int]() for file in self.files}
        self.max_share = max_share
        self.list_path = list_path
        self.layout = layout
        self.add(*self.rejects)

    def add(self, *rejects: Reject) -> None:
        """Counts rejects; the same picture met in two splits counts once."""
        for reject in rejects:
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
                + f"; the first:{examples}{self._advice()}"
            )

    def _advice(self) -> str:
        """Says what to do about the reasons for which there is advice."""
        counts = self.by_reason()
        layout = f" --layout {self.layout}" if self.layout else ""
        return "".join(
            "\n" + advice.format(count=counts[reason], layout=layout)
            for reason, advice in ADVICE.items()
            if reason in counts
        )

    def write(self, path: Path) -> None:
        """Writes rejects.csv."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(Reject._fields)
            writer.writerows(self.rejects)


def drop_judgments(
    qrels: pd.DataFrame, unused: Collection[str], column: str, rejects: Rejects
) -> pd.DataFrame:
    """Returns the judgments whose product or query (`column`) is used; lists the others."""
    orphaned = qrels[column].isin(unused)
    name = column.removesuffix("_id")
    for record in qrels[orphaned].to_dict("records"):
        identity = f"{record['query_id']} {record['product_id']}"
        detail = f"expected a {name} that was not rejected"
        rejects.add(Reject(record["file"], int(record["row"]), identity, f"unknown {name}", detail))
    return qrels[~orphaned]
