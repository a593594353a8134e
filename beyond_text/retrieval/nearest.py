"""Finds the vectors of largest inner product with a query: by a scan, or by lists and a scan.

An approximate kind only proposes candidates: lists around centroids hold the vectors in few bits,
and a search reads the lists nearest to the query. The candidates' scores are then computed from
the vectors themselves. So scores are exact with every kind; only products can be missed.

    kind      bytes a product at 384 numbers    how the lists hold a vector
    exact       0                               (no lists)
    ivf_sq8   384 + 8                           a byte a number
    rabitq    212 + 8                           4 bits a number, RaBitQ (arXiv 2409.09913)

Notable: with `allowed` every kind scans the allowed rows. A filter may leave the lists that are
read empty, so a search by lists would lose what it should find. Vectors are never copied: they
stay where they are, in a mapped file too (`scan.py`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
from jaxtyping import Float, Float32, Int64

from beyond_text.config.names import IndexKind as IndexKind
from beyond_text.retrieval.scan import Found, Scan

if sys.platform == "darwin":
    # The wheels of FAISS and torch each bring an OpenMP there; two thread pools in a process crash.
    faiss.omp_set_num_threads(1)

# A scan of fewer rows is as fast as lists of them.
FEWEST_ROWS = 5_000
# Vectors that a centroid is learned from, and passes over them; FAISS asks for 39 at least.
POINTS_PER_CENTROID = 64
PASSES = 10
MIN_POINTS_PER_CENTROID = 39
# Rows that are added at a time, in float32.
ADDED_ROWS = 50_000
# Lists of at least so many times the rows that are asked for are read.
ROWS_READ = 16
# The recall@10 for which lists are read, and the numbers of lists that are tried.
SURE, TEN = 0.97, 10
LISTS_READ = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)


# At 10^6 vectors of 384 numbers, on one busy core, a query took 0.55 ms with SQ8, 1.8 ms with 4
# bits of RaBitQ (its fast-scan layout is slower at this many lists), and 0.45 ms with 1 bit, which
# even with 80 candidates for 10 found 0.75. SQ8 needs 2 candidates for each row, RaBitQ 4.
class Code(NamedTuple):
    """How lists hold vectors: FAISS's name of it, and candidates for each row asked for."""

    name: str
    candidates: int


CODES: dict[IndexKind, Code] = {"ivf_sq8": Code("SQ8", 2), "rabitq": Code("RaBitQ4", 4)}
KINDS: tuple[IndexKind, ...] = ("exact", *CODES)


class Nearest:
    """Searches float16 or float32 vectors, which may be mapped from a file."""

    def __init__(self, kind: IndexKind, vectors: Float[np.ndarray, "rows dim"], lists: Any) -> None:
        self.kind = kind
        self.vectors = vectors
        self.dim = vectors.shape[1]
        self.scan = Scan(vectors)
        # FAISS's index of lists; None where every search is a scan.
        self.lists = lists
        self._refined: Any = lists and faiss.IndexRefine(lists, self.scan.in_place)

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def nbytes(self) -> int:
        """The size in bytes of what is searched: the lists, and the vectors in their precision."""
        lists = 0 if self.lists is None else len(self) * (self.lists.code_size + 8)
        return self.vectors.nbytes + lists

    @classmethod
    def build(
        cls,
        kind: IndexKind,
        vectors: Float[np.ndarray, "rows dim"],
        seed: int = 0,
        queries: Float32[np.ndarray, "queries dim"] | None = None,
    ) -> Nearest:
        """Learns the lists of a kind and fills them; few vectors have none.

        As many lists are read as `queries` need, which must be like those that will be asked: with
        some models a product finds its like in fewer lists than a text finds products.

        Raises:
            ValueError: no vector, or not float16 or float32.
        """
        Scan(vectors)
        if kind == "exact" or len(vectors) < FEWEST_ROWS:
            return cls(kind, vectors, None)
        lists = _trained(CODES[kind], vectors, seed)
        for first in range(0, len(vectors), ADDED_ROWS):
            lists.add(vectors[first : first + ADDED_ROWS].astype(np.float32))
        nearest = cls(kind, vectors, lists)
        # FAISS's file of the lists keeps it.
        lists.nprobe = _lists_to_read(nearest, queries)
        return nearest

    def search(
        self,
        queries: Float32[np.ndarray, "queries dim"],
        k: int,
        allowed: Int64[np.ndarray, " allowed"] | None = None,
    ) -> Found:
        """Returns the scores and rows of the k best for each query, best first.

        Where fewer rows are there, or allowed, there are as many columns as rows.

        Args:
            queries: not normalised here.
            k: how many are wanted.
            allowed: the rows that may be found, ascending; None for all. These are searched
                exactly with every kind.

        Raises:
            ValueError: k below 1, queries of another dim, or allowed rows that are not there.
        """
        if k < 1:
            raise ValueError(f"k: expected at least 1, got {k}")
        if queries.shape[1] != self.dim:
            raise ValueError(f"query vectors of dim {queries.shape[1]}, index of {self.dim}")
        if allowed is not None and len(allowed) and not 0 <= allowed[0] <= allowed[-1] < len(self):
            raise ValueError(f"allowed rows {allowed[0]} to {allowed[-1]} of {len(self)}")
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        k = min(k, len(self))
        if self.lists is None or allowed is not None or ROWS_READ * k > len(self):
            return self.scan.search(queries, k, allowed)
        scores, rows = self._by_lists(queries, k)
        # The lists that were read may hold fewer than k.
        short = rows[:, -1] < 0
        if short.any():
            scores[short], rows[short] = self.scan.search(queries[short], k)
        return scores, rows

    def _by_lists(self, queries: np.ndarray, k: int) -> Found:
        """Searches the lists nearest to each query; a row of -1 stands where there are too few."""
        count = self.lists.nlist
        probed = max(self.lists.nprobe, -(-ROWS_READ * k * count // len(self)))
        library: Any = faiss
        parameters = library.IndexRefineSearchParameters(
            k_factor=float(CODES[self.kind].candidates),
            base_index_params=library.SearchParametersIVF(nprobe=min(probed, count)),
        )
        return self._refined.search(queries, k, params=parameters)

    def save(self, file: Path) -> None:
        """Writes the lists; where every search is a scan there are none, and no file is made."""
        if self.lists is not None:
            faiss.write_index(self.lists, str(file))

    @classmethod
    def load(cls, kind: IndexKind, file: Path, vectors: Float[np.ndarray, "rows dim"]) -> Nearest:
        """Maps the lists that `save` wrote, which are those of the vectors.

        FAISS's parser trusts its files: give it none that a stranger may have written.

        Raises:
            ValueError: no such lists there, or those of other vectors.
        """
        if kind == "exact" or len(vectors) < FEWEST_ROWS:
            return cls(kind, vectors, None)
        try:
            lists: Any = faiss.read_index(str(file), faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as error:
            raise ValueError(f"{file}: no index that can be read") from error
        expected, found = vectors.shape, (lists.ntotal, lists.d)
        if found != expected:
            raise ValueError(f"{file}: an index of {found} vectors, expected {expected}")
        return cls(kind, vectors, lists)

    def updated(
        self,
        vectors: Float[np.ndarray, "rows dim"],
        old: Int64[np.ndarray, " rows"],
        seed: int = 0,
        queries: Float32[np.ndarray, "queries dim"] | None = None,
    ) -> Nearest:
        """Returns the index of other vectors, of which most are the same.

        What was learned is kept, unless the number of rows has halved or doubled since.

        Args:
            vectors: of all rows.
            old: the row here whose vector each row has; -1 where it is new or has changed.
            seed: of what is learned again.
            queries: as in `build`, where it is.
        """
        if self.lists is None or not len(self) / 2 <= len(vectors) <= 2 * len(self):
            return self.build(self.kind, vectors, seed, queries)
        new_row = np.full(len(self), -1, dtype=np.int64)
        kept = np.flatnonzero(old >= 0)
        new_row[old[kept]] = kept
        lists = _moved(self.lists, new_row)
        is_new = np.ones(len(vectors), dtype=bool)
        is_new[new_row[new_row >= 0]] = False
        new = np.flatnonzero(is_new)
        for first in range(0, len(new), ADDED_ROWS):
            rows = new[first : first + ADDED_ROWS]
            lists.add_with_ids(vectors[rows].astype(np.float32), rows)
        lists.ntotal = len(vectors)
        return Nearest(self.kind, vectors, lists)


def settled(
    search: Callable[[Float32[np.ndarray, "queries dim"], int], Found],
    queries: Float32[np.ndarray, "queries dim"],
    k: int,
    most: int,
) -> Iterator[tuple[int, Float32[np.ndarray, " found"], Int64[np.ndarray, " found"]]]:
    """Yields each query's number, with scores and rows of its k best and of all that tie with them.

    A search cuts equal scores by position. So one product more than the k-th is asked for, and
    twice as many again, until a product beyond the k-th has a smaller score.

    Args:
        search: returns scores and rows of as many of the best as it is given.
        queries: their vectors.
        k: how many are wanted, at most `most`.
        most: how many there are.
    """
    unsettled, width = np.arange(len(queries)), min(k + 1, most)
    while len(unsettled):
        scores, rows = search(queries[unsettled], width)
        done = (scores[:, -1] < scores[:, k - 1]) | (width == most)
        for at in done.nonzero()[0]:
            yield int(unsettled[at]), scores[at], rows[at]
        unsettled, width = unsettled[~done], min(2 * width, most)


def recall(nearest: Nearest, queries: Float32[np.ndarray, "queries dim"], k: int = 10) -> float:
    """Returns the share of each query's k best vectors that a search finds, averaged."""
    _, best = nearest.scan.search(queries, k)
    return _share(best, nearest.search(queries, k)[1])


def lists_for(rows: int) -> int:
    """Returns the number of lists: 4 sqrt(rows), unless that leaves centroids too few points."""
    return max(1, min(int(4 * rows**0.5), rows // MIN_POINTS_PER_CENTROID))


def _lists_to_read(nearest: Nearest, queries: Float32[np.ndarray, "queries dim"] | None) -> int:
    """Returns how many lists a search reads: the fewest by which it finds SURE of the best.

    How many that takes differs with the model and the catalogue. Without queries it is enough for
    any that was tried.
    """
    count = nearest.lists.nlist
    if queries is None:
        return min(max(48, round(0.75 * count**0.5)), count)
    _, best = nearest.scan.search(queries, TEN)
    for read in LISTS_READ:
        nearest.lists.nprobe = min(read, count)
        if read >= count or _share(best, nearest.search(queries, TEN)[1]) >= SURE:
            break
    return nearest.lists.nprobe


def _share(best: np.ndarray, found: np.ndarray) -> float:
    """Returns the share of each query's best rows that are among those found, averaged."""
    return float(np.mean([np.isin(row, own).mean() for row, own in zip(best, found, strict=True)]))


def _trained(code: Code, vectors: np.ndarray, seed: int) -> Any:
    """Learns the centroids of an empty index of lists from a sample of the vectors."""
    rows, dim = vectors.shape
    count = lists_for(rows)
    index: Any = faiss.index_factory(dim, f"IVF{count},{code.name}", faiss.METRIC_INNER_PRODUCT)
    index.cp.niter = PASSES
    index.cp.seed = seed
    index.cp.max_points_per_centroid = POINTS_PER_CENTROID
    random = np.random.default_rng(seed)
    sample = random.choice(rows, min(rows, POINTS_PER_CENTROID * count), replace=False)
    # In order, so that a mapped file is read once from its start to its end.
    index.train(vectors[np.sort(sample)].astype(np.float32))
    return index


def _moved(index: Any, new_row: np.ndarray) -> Any:
    """Returns what an index has learned, with its codes under their new rows; -1 for none."""
    moved: Any = faiss.clone_index(index)
    size = index.code_size
    lists: Any = faiss.ArrayInvertedLists(index.nlist, size)
    lists.this.disown()
    # Emptied by others in their place: lists that are mapped from a file cannot be changed.
    moved.replace_invlists(lists, True)
    moved.ntotal = 0
    for number in range(index.nlist):
        if not (length := index.invlists.list_size(number)):
            continue
        held = faiss.rev_swig_ptr(index.invlists.get_ids(number), length)
        codes = faiss.rev_swig_ptr(index.invlists.get_codes(number), length * size)
        rows = new_row[held]
        kept_rows = np.ascontiguousarray(rows[rows >= 0])
        kept_codes = np.ascontiguousarray(codes.reshape(length, size)[rows >= 0])
        if len(kept_rows):
            lists.add_entries(
                number, len(kept_rows), faiss.swig_ptr(kept_rows), faiss.swig_ptr(kept_codes)
            )
    return moved
