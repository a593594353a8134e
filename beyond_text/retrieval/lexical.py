"""Scores products by the words that they share with a query: BM25, by bm25s, from mapped files.

    data.npy, indices.npy   the BM25 of each word in each product that has it, float32 and int32
    indptr.npy              where each word's scores begin, int64
    vocabulary.arrow        the words, sorted
    facts.json              how many products there are

They are read by parsers of plain data alone; nothing is unpickled. BM25 is Lucene's (Kamphuis, de
Vries, Boytsov and Lin 2020): the sum over the query's words of
idf x tf / (tf + k1 (1 - b + b length / mean length)), idf = ln(1 + (N - n + 0.5) / (n + 0.5)).
A word that a query repeats counts once.

A score is BM25 / the query's best BM25 x trust, from 0 to 1. The trust is that of the query, so it
changes no order among words: the largest share of the query's words, each by its idf, that one
product has, to the power of 8. It is 1 where a product has them all, as for an article's number,
and small where products have only what is beside the point: `red striped cushion` in a shop whose
texts name no colour. Without it, what words find there would outweigh what pictures show.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypedDict

import msgspec
import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Int64

from beyond_text.files import MALFORMED, atomic_write, write_json
from beyond_text.retrieval.described import BOOLEANS
from beyond_text.retrieval.words import words_of

K1, B = 1.5, 0.75
# Chosen on train and dev queries of the built-in catalogue. With 4, words win as much as with 8 (by
# articles' numbers 0.98 against 0.92), but cost queries of attributes 0.005; with 6 they still do
# so in a smaller catalogue, where more words are rare.
TRUST = 8
# Full trust in a word that few products have was tried: in another, smaller catalogue, where more
# words are rare, it cost queries of attributes 0.03.
VERSION = 1
FACTS = "facts.json"
VOCABULARY = "vocabulary.arrow"
ARRAYS = ("data", "indices", "indptr")
LEAST_DIGITS = 6
AMOUNT = re.compile(rf"[+-]?(?:[0-9]{{1,{LEAST_DIGITS - 1}}}|[0-9]*[.,][0-9]+)")
TYPES = {"data": np.float32, "indices": np.int32, "indptr": np.int64}


class Facts(TypedDict):
    """What facts.json holds; the version is that of words and files."""

    version: int
    products: int


class Lexical:
    """BM25 of the words of every product."""

    def __init__(self, arrays: dict[str, np.ndarray], vocabulary: Any, products: int) -> None:
        self._arrays = arrays
        self._vocabulary = vocabulary
        self._products = products

    def __len__(self) -> int:
        return self._products

    @classmethod
    def build(cls, texts: Iterable[str]) -> Lexical:
        """Builds it from the products' texts, in order; one without a word is found by no query."""
        from bm25s import BM25

        numbers: dict[str, int] = {}
        documents = [
            [numbers.setdefault(word, len(numbers)) for word in words_of(text)] for text in texts
        ]
        if not numbers:
            arrays = {name: np.zeros(int(name == "indptr"), TYPES[name]) for name in ARRAYS}
            return cls(arrays, pa.array([], pa.large_string()), len(documents))
        # Sorted, so that the same products give the same bytes, and a word is found by bisection.
        words = sorted(numbers)
        place = np.empty(len(words), dtype=np.int64)
        place[[numbers[word] for word in words]] = np.arange(len(words))
        places = place.tolist()
        for number, document in enumerate(documents):
            documents[number] = [places[word] for word in document]
        bm25 = BM25(k1=K1, b=B, method="lucene", dtype="float32", int_dtype="int32")
        vocabulary = {word: number for number, word in enumerate(words)}
        bm25.index((documents, vocabulary), create_empty_token=False, show_progress=False)
        arrays = {name: bm25.scores[name].astype(TYPES[name], copy=False) for name in ARRAYS}
        return cls(arrays, pa.array(words, pa.large_string()), len(documents))

    def scores(self, query: str) -> Float32[np.ndarray, " products"]:
        """Returns the score of every product, 0 to 1; 0 where it has none of the query's words."""
        data, indices, indptr = (self._arrays[name] for name in ARRAYS)
        bm25, shared = np.zeros((2, self._products), dtype=np.float32)
        asked = 0.0
        for word in dict.fromkeys(words_of(query)):
            number = bisect_left(self._vocabulary, word, key=_text)
            known = number < len(self._vocabulary) and _text(self._vocabulary[number]) == word
            part = slice(indptr[number], indptr[number + 1]) if known else slice(0)
            rows = indices[part]
            idf = math.log1p((self._products - len(rows) + 0.5) / (len(rows) + 0.5))
            asked += idf
            # A product comes once for a word.
            bm25[rows] += data[part]
            shared[rows] += np.float32(idf)
        if not (best := bm25.max(initial=0)):
            return bm25
        trust = (float(shared.max()) / asked) ** TRUST
        return bm25 * np.float32(min(trust, 1.0) / best)

    def top(
        self, query: str, k: int, allowed: Int64[np.ndarray, " rows"] | None = None
    ) -> tuple[Float32[np.ndarray, " found"], Int64[np.ndarray, " found"]]:
        """Returns scores and positions of the k best products that have a word of the query.

        Best first, equal scores by position. `allowed` are positions; no other is returned.
        """
        scores = self.scores(query)
        if allowed is None:
            return best_of(scores, np.flatnonzero(scores), k)
        return best_of(scores, allowed[scores[allowed] > 0], k)

    def save(self, folder: Path) -> None:
        """Writes the files; the folder is made where it is not there.

        Raises:
            OSError: they cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FACTS).unlink(missing_ok=True)
        for name in ARRAYS:
            with atomic_write(folder / f"{name}.npy", binary=True) as file:
                np.save(file, self._arrays[name], allow_pickle=False)
        table = pa.table({"word": self._vocabulary})
        with (
            atomic_write(folder / VOCABULARY, binary=True) as file,
            pa.ipc.new_file(file, table.schema) as writer,
        ):
            writer.write_table(table)
        # Written last, so that a folder that is cut short is none.
        write_json(folder / FACTS, Facts(version=VERSION, products=self._products))

    @classmethod
    def load(cls, folder: Path, mmap: bool = True) -> Lexical:
        """Opens what `save` wrote; with `mmap` the files are mapped, and read where asked for.

        Raises:
            OSError: a file is missing or cannot be read.
            ValueError: the files are not what they should be, or of another version.
        """
        try:
            facts = msgspec.json.decode((folder / FACTS).read_bytes(), type=Facts)
            mode: Any = "r" if mmap else None
            arrays = {
                # As plain arrays, whose slices cost less; the file stays mapped.
                name: np.asarray(np.load(folder / f"{name}.npy", mode, allow_pickle=False))
                for name in ARRAYS
            }
            source = pa.memory_map(str(folder / VOCABULARY)) if mmap else folder / VOCABULARY
            table = pa.ipc.open_file(source).read_all()
            table.validate(full=True)
            words = table.column("word").combine_chunks()
        except (*MALFORMED, ValueError, EOFError, KeyError) as error:
            raise ValueError(f"{folder}: not an index of words: {error}") from error
        _check(folder, facts, arrays, words)
        return cls(arrays, words, facts["products"])


def searched_text(product_id: str, text: str, columns: Mapping[str, str]) -> str:
    """Returns what words are searched in: a product's id, its text and its columns.

    Of these, what the text says and truth values are left out, and numbers of fewer than
    LEAST_DIGITS digits, which are amounts rather than names: nobody means a price by `20`.
    """
    words: set[str] = set()

    def is_in_text(value: str) -> bool:
        # "red" stands in "covered", and is no word of it.
        if value.strip(" .") not in text:
            return False
        words.update(words or words_of(text))
        return words.issuperset(words_of(value))

    named = [
        value
        for value in columns.values()
        if value.lower() not in BOOLEANS and not AMOUNT.fullmatch(value) and not is_in_text(value)
    ]
    return "\n".join([product_id, text, *named])


def best_of(
    scores: Float32[np.ndarray, " products"], rows: Int64[np.ndarray, " rows"], k: int
) -> tuple[Float32[np.ndarray, " best"], Int64[np.ndarray, " best"]]:
    """Returns the k highest of the scores at these positions, ascending, and where they stand.

    Best first, equal scores by position.
    """
    found = scores[rows]
    if 0 < k < len(rows):
        # All that share the k-th score go on, so that their positions decide.
        kept = found >= np.partition(found, len(found) - k)[len(found) - k]
        rows, found = rows[kept], found[kept]
    order = np.argsort(-found, kind="stable")[:k]
    return found[order], rows[order]


def _text(word: Any) -> str:
    """Returns a word of the vocabulary as Python's text."""
    return word.as_py()


def _check(folder: Path, facts: Facts, arrays: dict[str, np.ndarray], words: Any) -> None:
    """Checks that the files fit each other, so that no query reads outside them.

    Raises:
        ValueError: they do not.
    """
    data, indices, indptr = (arrays[name] for name in ARRAYS)
    fits = (
        facts["version"] == VERSION
        and facts["products"] >= 0
        and all(arrays[name].dtype == TYPES[name] and arrays[name].ndim == 1 for name in ARRAYS)
        and pa.types.is_large_string(words.type)
        and words.null_count == 0
        and len(indptr) == len(words) + 1
        and len(data) == len(indices) == indptr[-1]
        and indptr[0] == 0
        and bool((np.diff(indptr) >= 0).all())
    )
    if not fits:
        raise ValueError(f"{folder}: not an index of words of version {VERSION}")
