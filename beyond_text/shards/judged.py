"""The queries of a split and their judgments, as columns in files beside its shards.

    asked-SPLIT.arrow     a row a query, in the order of query_id
    judged-SPLIT.arrow    a row a pair of sample and query, in their order, with a grade a column

A query is known by its row, and the judgments of a sample are found by bisection.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float, Int64

from beyond_text.shards.columns import Columns
from beyond_text.shards.manifest import ShardError

# picture: its number among the pictures of the split's queries, -1: none. product_id: of the query
# that is itself a product, "": none. seen: a query of train has its words or its picture.
ASKED = pa.schema(
    [
        ("query_id", pa.string()),
        ("query", pa.string()),
        ("kind", pa.string()),
        ("picture", pa.int32()),
        ("product_id", pa.string()),
        ("seen", pa.bool_()),
    ]
)
# own: the query is the product itself; such a row has grades of 0.
PAIR = (("sample", pa.uint32()), ("query", pa.uint32()), ("own", pa.bool_()))


def judged_schema(grades: Sequence[str]) -> pa.Schema:
    """Returns the columns of judged-SPLIT.arrow: those of a pair, then the grades."""
    return pa.schema([*PAIR, *((name, pa.float32()) for name in grades)])


class Pairs(NamedTuple):
    """Judgments as columns: sample, row of the query, whether it is the product itself, grades."""

    sample: Int64[np.ndarray, " judgments"]
    query: Int64[np.ndarray, " judgments"]
    own: Bool[np.ndarray, " judgments"]
    grades: Float[np.ndarray, "grades judgments"]


class Query(NamedTuple):
    """A row of asked-SPLIT.arrow."""

    query_id: str
    query: str
    kind: str
    picture: int
    product_id: str
    seen: bool


class Asked:
    """The queries of a split."""

    def __init__(self, path: Path) -> None:
        self.columns = Columns(path, ASKED, _wrong_query)

    def __len__(self) -> int:
        return len(self.columns)

    def __getitem__(self, row: int) -> Query:
        """Returns the query of a row."""
        return self.of(np.array([row]))[0]

    def of(self, rows: Int64[np.ndarray, " rows"]) -> list[Query]:
        """Returns the queries of rows."""
        return list(map(Query._make, self.columns.rows(rows)))

    def table(self) -> pa.Table:
        """Returns all queries, which stay in the file."""
        return pa.Table.from_batches(self.columns, ASKED)


def _wrong_query(part: pa.RecordBatch, first: int) -> str:
    """Says what is wrong with the first row of queries that is, or nothing."""
    ids = part["query_id"]
    # Each but the last is compared with the next one.
    unsorted = pc.greater_equal(ids[:-1], ids[1:]) if len(ids) > 1 else pa.array([], pa.bool_())
    rules = {
        "a query_id": pc.equal(ids, ""),
        "a query_id before that of the next row": unsorted,
        "a picture of -1 or more": pc.less(part["picture"], -1),
    }
    for expected, wrong in rules.items():
        row = pc.index(wrong, True).as_py()
        if row >= 0:
            return f"row {first + row}: expected {expected}, got {part.slice(row, 1).to_pylist()}"
    return ""


class Judged:
    """The judgments of a split of `samples` samples and `queries` queries.

    `highest` is the highest grade of each column. Of queries that are not `kept`, where that is
    given, only those pairs are read in which the query is the product itself.
    """

    def __init__(
        self, path: Path, highest: Mapping[str, float], samples: int, queries: int
    ) -> None:
        self.kept: Bool[np.ndarray, " queries"] | None = None
        self.highest = np.array(list(highest.values()), dtype=np.float32)[:, None]
        self.samples = samples
        self.queries = queries
        self.columns = Columns(path, judged_schema(list(highest)), self._wrong)
        ends = self.columns.ends(0)
        self._last = ends[:, 1]
        if (ends[1:, 0] < ends[:-1, 1]).any():
            raise ShardError(f"{path}: expected pairs in the order of sample and query")

    def __len__(self) -> int:
        return len(self.columns)

    def __iter__(self) -> Iterator[Pairs]:
        """Yields all judgments, in parts."""
        return map(self._kept, map(_pairs, self.columns))

    def of(self, sample: int) -> Pairs:
        """Returns the judgments of a sample."""
        found = []
        for number in range(int(np.searchsorted(self._last, sample)), len(self._last)):
            part = self.columns.part(number)
            column = part[0].to_numpy()
            # Of the column's own type, or NumPy would copy the column.
            wanted = column.dtype.type(sample)
            start, stop = (np.searchsorted(column, wanted, side) for side in ("left", "right"))
            if stop > start:
                found.append(self._kept(_pairs(part.slice(start, stop - start))))
            if stop < len(column):
                break
        if len(found) != 1:
            none = np.zeros(0, np.int64)
            found.append(Pairs(none, none, none.astype(bool), np.zeros((len(self.highest), 0))))
        return found[0] if len(found) == 1 else Pairs(
            *(np.concatenate(each, axis=-1) for each in zip(*found, strict=True))
        )  # fmt: skip

    def _kept(self, pairs: Pairs) -> Pairs:
        """Returns the judgments of queries that are kept."""
        if self.kept is None:
            return pairs
        keep = pairs.own | self.kept[pairs.query]
        return Pairs(*(column[..., keep] for column in pairs))

    def _wrong(self, part: pa.RecordBatch, first: int) -> str:
        """Says what is wrong with the first judgment that is, or nothing."""
        pairs = _pairs(part)
        place = pairs.sample * self.queries + pairs.query
        unsorted = np.diff(place, prepend=-1) <= 0
        with np.errstate(invalid="ignore"):
            graded = ((pairs.grades >= 0) & (pairs.grades <= self.highest)).all(axis=0)
        rules = {
            f"a sample below {self.samples}": pairs.sample >= self.samples,
            f"a query below {self.queries}": pairs.query >= self.queries,
            "pairs in the order of sample and query": unsorted,
            f"grades from 0 to {self.highest.ravel().tolist()}": ~graded,
        }
        for expected, wrong in rules.items():
            if wrong.any():
                row = int(wrong.argmax())
                found = [column[row].as_py() for column in part.columns]
                return f"row {first + row}: expected {expected}, got {found}"
        return ""


def _pairs(part: pa.RecordBatch) -> Pairs:
    """Returns the judgments of a part as arrays."""
    sample, query, own, *grades = (column.to_numpy(zero_copy_only=False) for column in part.columns)
    shape = len(grades), part.num_rows
    return Pairs(
        sample.astype(np.int64),
        query.astype(np.int64),
        own,
        np.array(grades, dtype=np.float64).reshape(shape),
    )
