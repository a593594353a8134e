"""Tests that words of every script are found, scored by BM25 and read from plain files."""

from __future__ import annotations

import json
import math
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beyond_text.retrieval.lexical import K1, TRUST, B, Lexical
from beyond_text.retrieval.words import LONGEST_WORD, words_of

WORDS = {
    "A red, striped cushion!": ["a", "red", "striped", "cushion"],
    "WH-1000XM5": ["wh1000xm5", "wh", "1000xm5", "1000", "xm", "5"],
    "bt-00123": ["bt00123", "bt", "00123"],
    "AB/12_34.X": ["ab1234x", "ab", "12", "34", "x"],
    "60x60cm": ["60x60cm", "60", "x", "60", "cm"],
    "12.5 kg": ["12.5", "12", "5", "kg"],
    "1,000": ["1", "000"],
    "T-shirt": ["tshirt", "t", "shirt"],
    "H&M children's": ["hm", "h", "m", "childrens", "children", "s"],
    "L\u2019Or\u00e9al": ["loreal", "l", "oreal"],
    "Stra\u00dfe \uff21\uff22\uff23 Cafe\u0301": ["strasse", "abc", "cafe"],
    "S\u00d8STRENE Wa\u0142ek": ["sostrene", "walek"],
    "K\u0131rm\u0131z\u0131 \u0130stanbul": ["kirmizi", "istanbul"],
    "\u0401\u043b\u043a\u0430": ["\u0435\u043b\u043a\u0430"],
    "\u0661\u0662 \u0967": ["12", "1"],
    "m\u00b2": ["m2", "m", "2"],
    "soft\u00adware": ["software"],
    "\u8d64\u3044\u6905\u5b50": ["\u8d64", "\u3044", "\u6905", "\u5b50",
                                 "\u8d64\u3044", "\u3044\u6905", "\u6905\u5b50"],
    "\ube68\uac04 \ucfe0\uc158": ["\ube68\uac04", "\ucfe0\uc158"],
    "\u0939\u093f\u0928\u094d\u0926\u0940": ["\u0939\u093f\u0928\u094d\u0926\u0940"],
    "\u0e2a\u0e35\u0e41\u0e14\u0e07": ["\u0e2a\u0e35", "\u0e41", "\u0e14", "\u0e07",
                                       "\u0e2a\u0e35\u0e41", "\u0e41\u0e14", "\u0e14\u0e07"],
    "\u05e9\u05b8\u05dc\u05d5\u05b9\u05dd": ["\u05e9\u05dc\u05d5\u05dd"],
    "\u30bd\u30d5\u30a1ABC-12": ["\u30bd", "\u30d5", "\u30a1", "\u30bd\u30d5",
                                "\u30d5\u30a1", "abc12", "abc", "12"],
    "-- ... !": [],
    "": [],
}  # fmt: skip


@pytest.mark.parametrize("text", WORDS)
def test_a_text_is_parted_into_words(text: str) -> None:
    assert words_of(text) == WORDS[text]


@settings(deadline=None)
@given(st.text(max_size=40))
def test_words_are_equal_whatever_the_case_and_the_form_of_a_text(text: str) -> None:
    words = words_of(text)
    assert all(0 < len(word) <= LONGEST_WORD for word in words)
    # A word that is parted again has itself among its words.
    assert all(word in words_of(word) for word in words)


def test_a_long_word_is_cut() -> None:
    assert words_of("x" * 100_000) == ["x" * LONGEST_WORD]


def brute_force(texts: list[str], query: str) -> list[float]:
    """Returns BM25 beside the best, times the trust in the query's words."""
    documents = [Counter(words_of(text)) for text in texts]
    mean = sum(sum(document.values()) for document in documents) / len(documents)
    scores, shared, asked = [0.0] * len(texts), [0.0] * len(texts), 0.0
    for word in set(words_of(query)):
        having = sum(word in document for document in documents)
        idf = math.log(1 + (len(texts) - having + 0.5) / (having + 0.5))
        asked += idf
        for number, document in enumerate(documents):
            if count := document[word]:
                shared[number] += idf
                length = sum(document.values()) / mean
                scores[number] += idf * count / (count + K1 * (1 - B + B * length))
    if not any(scores):
        return scores
    trust = (max(shared) / asked) ** TRUST
    return [score / max(scores) * trust for score in scores]


TEXTS = st.lists(st.text("ab c-1\u00e9\u8d64", max_size=12), min_size=1, max_size=8)


@settings(max_examples=200, deadline=None)
@given(TEXTS, st.text("ab c-1\u00e9\u8d64", max_size=8))
def test_scores_are_those_of_the_formula(texts: list[str], query: str) -> None:
    lexical = Lexical.build(texts)
    assert len(lexical) == len(texts)
    scores = lexical.scores(query)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, brute_force(texts, query), rtol=1e-5)


CATALOGUE = [
    "Halvard Fjord cushion. sku HF-2001-B",
    "Halvard Tuva vase. sku HT-2001-A",
    "Norrby Linnea cushion. sku NL-3100-C",
    "",
    "Norrby Otto rug rug rug. sku NO-0007-A",
]


@pytest.mark.parametrize(
    ("query", "best"),
    [
        ("HF-2001-B", 0), ("hf2001b", 0), ("hf 2001 b", 0), ("ht-2001-a", 1), ("3100", 2),
        ("norrby cushion", 2), ("NO 0007", 4), ("RUG", 4),
    ],
)  # fmt: skip
def test_the_product_that_is_named_comes_first(query: str, best: int) -> None:
    scores, rows = Lexical.build(CATALOGUE).top(query, 3)
    assert rows[0] == best
    assert (np.diff(scores) <= 0).all()
    assert (scores > 0).all()


def test_words_are_trusted_as_far_as_a_product_has_them() -> None:
    lexical = Lexical.build(CATALOGUE)
    # All words of a number stand in one product; no product is red, nor striped.
    assert lexical.scores("HF-2001-B").max() == pytest.approx(1)
    assert lexical.scores("Norrby cushion").max() == pytest.approx(1)
    assert lexical.scores("cushion").max() == pytest.approx(1)
    assert lexical.scores("red striped cushion").max() < 0.05
    # Both words are known, but not of one product.
    assert lexical.scores("vase rug").max() < 0.5
    # The order among products is that of BM25.
    assert np.argsort(lexical.scores("cushion norrby"))[-1] == 2
    assert np.argsort(lexical.scores("cushion norrby striped"))[-1] == 2


def test_a_word_that_a_query_repeats_counts_once() -> None:
    lexical = Lexical.build(CATALOGUE)
    assert lexical.scores("rug").tolist() == lexical.scores("rug rug RUG").tolist()


@pytest.mark.parametrize("query", ["", "zebra", "!!", "\u0301"])
def test_without_a_common_word_nothing_is_found(query: str) -> None:
    lexical = Lexical.build(CATALOGUE)
    assert not lexical.scores(query).any()
    scores, rows = lexical.top(query, 3)
    assert (len(scores), len(rows)) == (0, 0)


def test_only_allowed_products_are_found_and_equal_scores_come_by_position() -> None:
    lexical = Lexical.build(["a b", "a", "a", "a", "c"])
    scores, rows = lexical.top("a", 2)
    assert rows.tolist() == [1, 2]
    scores, rows = lexical.top("a", 9, np.array([0, 3, 4]))
    assert rows.tolist() == [3, 0]
    assert scores.tolist() == lexical.scores("a")[[3, 0]].tolist()
    assert len(lexical.top("a", 0)[1]) == 0


@pytest.mark.parametrize("texts", [CATALOGUE, ["", "  "], []])
@pytest.mark.parametrize("mmap", [True, False])
def test_what_is_saved_is_loaded_and_is_plain_data(
    tmp_path: Path, texts: list[str], mmap: bool
) -> None:
    built = Lexical.build(texts)
    built.save(tmp_path / "a")
    loaded = Lexical.load(tmp_path / "a", mmap=mmap)
    assert len(loaded) == len(texts)
    for query in ("halvard cushion", "NO-0007", "", "zebra"):
        assert loaded.scores(query).tolist() == built.scores(query).tolist()
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["data.npy", "facts.json", "indices.npy", "indptr.npy", "vocabulary.arrow"]
    # The same products give the same bytes.
    Lexical.build(texts).save(tmp_path / "b")
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def damage(folder: Path, name: str) -> None:
    path = folder / name
    if name == "facts.json":
        path.write_text(json.dumps({"version": 99, "products": 5}))
    elif name == "indptr.npy":
        array = np.load(path)
        np.save(path, array[::-1].copy())
    elif name == "data.npy":
        np.save(path, np.load(path)[:-1])
    elif name == "indices.npy":
        with path.open("wb") as file:
            np.save(file, np.array([{"an": "object"}], dtype=object), allow_pickle=True)
    else:
        path.write_bytes(b"no Arrow file")


@pytest.mark.parametrize(
    "name", ["data.npy", "indices.npy", "indptr.npy", "vocabulary.arrow", "facts.json"]
)
@pytest.mark.parametrize("mmap", [True, False])
def test_damaged_files_are_refused_in_one_line(tmp_path: Path, name: str, mmap: bool) -> None:
    Lexical.build(CATALOGUE).save(tmp_path)
    damage(tmp_path, name)
    with pytest.raises(ValueError, match="not an index of words") as refused:
        Lexical.load(tmp_path, mmap=mmap)
    assert str(tmp_path) in str(refused.value)
    (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError):
        Lexical.load(tmp_path, mmap=mmap)


class Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["data.npy", "indices.npy", "indptr.npy", "vocabulary.arrow"])
def test_nothing_is_unpickled(tmp_path: Path, name: str) -> None:
    Lexical.build(CATALOGUE).save(tmp_path)
    (tmp_path / name).write_bytes(pickle.dumps(Touch(tmp_path / "ran")))
    with pytest.raises(ValueError, match="not an index of words"):
        Lexical.load(tmp_path)
    assert not (tmp_path / "ran").exists()
