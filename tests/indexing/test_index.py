"""An index finds what brute force finds, and is nothing but what its files should be."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from beyond_text.files import sha256_of
from beyond_text.indexing.arrow_files import write_arrow
from beyond_text.indexing.build import write_state
from beyond_text.indexing.columns import typed
from beyond_text.indexing.facts import Facts, File, IndexFormatError, KeptModel, Source
from beyond_text.indexing.generation import Generation, words_of_products
from beyond_text.indexing.index import Index
from beyond_text.retrieval.described import Described, Place
from tests import ROOT

COLOURS = ("red", "blue", "green")


def write_index(
    folder: Path,
    vectors: np.ndarray,
    names: list[str] | None = None,
    old: Generation | None = None,
    **facts: Any,
) -> Path:
    """Writes an index of these vectors; products have a price, a colour and a stock."""
    products, dim = vectors.shape
    names = names or [f"p{number:04}" for number in range(products)]
    order = sorted(range(products), key=lambda number: names[number], reverse=True)
    described = [
        Described(
            names[number],
            f"a {COLOURS[number % 3]} rug of size {number}",
            {
                "title": f"rug {names[number]}",
                "colour": COLOURS[number % 3],
                "price": f"{number}.25",
                "in_stock": "yes" if number % 2 else "no",
            },
            (Place(f"{number}.jpg"),),
        )
        for number in order
    ]
    given: dict[str, Any] = {
        "version": 1,
        "generation": 1,
        "model": "0" * 64,
        "model_dim": dim,
        "dim": dim,
        "kind": "exact",
        "recall_at_10": 1.0,
        "weight": 1.0,
        "products": products,
        "columns": {},
        "source": Source(str(folder / "source"), "source", "", "0" * 64),
        "copied": False,
        "query_model": KeptModel("", {}),
        "files": {},
    }
    kept = np.ascontiguousarray(vectors[order].astype(np.float16))
    hashes = [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in kept]
    digests = np.frombuffer(b"".join(hashes), dtype=np.uint8).reshape(-1, 16)
    words = words_of_products(described)
    facts_of = Facts(**{**given, **facts})
    write_state(folder, facts_of, described, kept, (digests, digests), words, old)
    return folder


def random_vectors(products: int, dim: int = 8, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(products, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def brute_force(
    vectors: np.ndarray, names: list[str], query: np.ndarray, k: int
) -> list[tuple[str, float]]:
    scores = vectors.astype(np.float16).astype(np.float32) @ query
    best = sorted(zip(scores.tolist(), names, strict=True), reverse=True)[:k]
    return [(name, score) for score, name in best]


@pytest.mark.parametrize(("products", "top"), [(50, 1), (50, 10), (50, 50), (50, 99), (1, 3)])
def test_search_equals_brute_force(products: int, top: int, tmp_path: Path) -> None:
    vectors, queries = random_vectors(products), random_vectors(7, seed=1)
    names = [f"å{number}" for number in np.random.default_rng(2).permutation(products)]
    index = Index.open(write_index(tmp_path, vectors, names))
    assert len(index) == products
    for hits, query in zip(index.search_vectors(queries, top=top), queries, strict=True):
        expected = brute_force(vectors, names, query, top)
        assert [hit.product_id for hit in hits] == [name for name, _ in expected]
        assert [hit.score for hit in hits] == pytest.approx([s for _, s in expected], abs=1e-5)
        assert all(hit.vector == hit.score and hit.lexical is None for hit in hits)


@pytest.mark.parametrize("top", [1, 3, 10, 33, 64])
def test_equal_scores_come_by_product_id_descending_also_at_the_cut(
    top: int, tmp_path: Path
) -> None:
    # Whole numbers, so equal inner products are equal to the last bit.
    random = np.random.default_rng(top)
    vectors = random.integers(0, 2, (64, 3)).astype(np.float32)
    names = [f"p{number:02}" for number in random.permutation(64)]
    queries = random.integers(1, 3, (20, 3)).astype(np.float32)
    index = Index.open(write_index(tmp_path, vectors, names))
    for weight in (None, 0.5):
        # Nobody's words: the vectors' order stays.
        texts = None if weight is None else ["nothing"] * 20
        found = index.search_vectors(queries, texts, top=top, weight=weight)
        for hits, query in zip(found, queries, strict=True):
            expected = brute_force(vectors, names, query, top)
            assert [hit.product_id for hit in hits] == [name for name, _ in expected]


def test_conditions_hold_for_every_hit_at_any_selectivity(tmp_path: Path) -> None:
    vectors, query = random_vectors(300), random_vectors(1, seed=3)
    index = Index.open(write_index(tmp_path, vectors))
    names = [f"p{number:04}" for number in range(300)]
    conditions: dict[str, Callable[[int], bool]] = {
        "price<50": lambda n: n + 0.25 < 50,
        "price>=299": lambda n: n == 299,
        "colour=red|blue": lambda n: n % 3 < 2,
        "in_stock": lambda n: n % 2 == 1,
        "product_id=p0007": lambda n: n == 7,
        "price<0": lambda n: False,
    }
    for where, holds in conditions.items():
        rows = [n for n in range(300) if holds(n)]
        expected = brute_force(vectors[rows], [names[n] for n in rows], query[0], 10)
        for weight in (None, 0.5):
            texts = None if weight is None else ["nothing"]
            (hits,) = index.search_vectors(query, texts, where=[where], weight=weight)
            assert [hit.product_id for hit in hits] == [name for name, _ in expected]
    (hits,) = index.search_vectors(query, where=["price<50", "in_stock"], top=300)
    assert len(hits) == 25
    with pytest.raises(ValueError, match=r"prices<50.*price"):
        index.search_vectors(query, where=["prices<50"])


def test_words_weigh_as_much_as_they_are_given(tmp_path: Path) -> None:
    vectors, query = random_vectors(90), random_vectors(1, seed=5)
    index = Index.open(write_index(tmp_path, vectors))
    (nearest,) = index.search_vectors(query, top=90)
    cosine = {hit.product_id: hit.vector for hit in nearest}
    for weight in (0.0, 0.3, 0.9):
        (hits,) = index.search_vectors(query, ["red 0042"], top=90, weight=weight)
        # Words alone find what has one of them.
        assert len(hits) == (90 if weight else 30)
        for hit in hits:
            assert hit.lexical is not None
            assert hit.vector == pytest.approx(cosine[hit.product_id], abs=1e-6)
            assert hit.score == pytest.approx(
                weight * hit.vector + (1 - weight) * hit.lexical, abs=1e-6
            )
        scores = [hit.score for hit in hits]
        assert scores == sorted(scores, reverse=True)
        share = {hit.product_id: hit.lexical for hit in hits}
        # The number in its id is a word of one product, and red one of every third.
        assert share["p0042"] == 1.0
        assert {name for name, each in share.items() if each} == {
            f"p{number:04}" for number in range(0, 90, 3)
        }


def test_words_alone_find_what_has_one_of_them(tmp_path: Path) -> None:
    index = Index.open(write_index(tmp_path, random_vectors(9)))
    query = random_vectors(1, seed=5)
    (found,) = index.search_vectors(query, ["red"], weight=0.0)
    assert [hit.product_id for hit in found] == ["p0006", "p0003", "p0000"]
    assert index.search_vectors(query, ["xyzzy"], weight=0.0) == [[]]
    assert len(index.search_vectors(query, ["xyzzy"], weight=0.1)[0]) == 9


def test_another_index_in_the_place_of_one_is_not_current(tmp_path: Path) -> None:
    """As where each build has a folder of its own behind a link, all of generation 1."""
    one, other = (
        write_index(tmp_path / str(seed), random_vectors(9, seed=seed)) for seed in (1, 2)
    )
    (tmp_path / "now").symlink_to(one)
    index = Index.open(tmp_path / "now")
    assert index.is_current()
    (tmp_path / "now").unlink()
    (tmp_path / "now").symlink_to(other)
    assert not index.is_current()


def test_the_weight_of_an_index_holds_where_a_search_names_none(tmp_path: Path) -> None:
    vectors, query = random_vectors(9), random_vectors(1, seed=5)
    index = Index.open(write_index(tmp_path, vectors, weight=0.25))
    assert index.search_vectors(query, ["red"]) == index.search_vectors(query, ["red"], weight=0.25)
    assert index.search_vectors(query, ["red"], weight=1.0) == index.search_vectors(query)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"vectors": np.ones((1, 3))}, r"shape \(1, 3\), expected \[queries, 8\]"),
        ({"vectors": np.ones(8)}, r"shape \(8,\)"),
        ({"vectors": np.array([[1.0] * 8, [np.nan] * 8])}, "query 1 is not finite"),
        ({"top": 0}, "top: expected at least 1, got 0"),
        ({"weight": 1.5}, "expected 0"),
        ({"weight": float("nan")}, "expected 0"),
        ({"weight": 0.5}, "expected texts too"),
        ({"texts": ["a", "b"]}, "2 texts for 1 vectors"),
        ({"where": "price<50"}, "where: expected a list of filters, got one str 'price<50'"),
    ],
)
def test_what_cannot_be_searched_is_said(
    arguments: dict[str, Any], said: str, tmp_path: Path
) -> None:
    index = Index.open(write_index(tmp_path, random_vectors(5)))
    vectors = arguments.pop("vectors", np.ones((1, 8)))
    with pytest.raises(ValueError, match=said):
        index.search_vectors(vectors, arguments.pop("texts", None), **arguments)


def test_facets_count_values_of_what_is_left(tmp_path: Path) -> None:
    index = Index.open(write_index(tmp_path, random_vectors(2000)))
    # A title and a price of its own are no facet.
    assert index.facets() == {
        "colour": [("blue", 667), ("red", 667), ("green", 666)],
        "in_stock": [(False, 1000), (True, 1000)],
    }
    assert index.facets(["price<10"])["colour"] == [("red", 4), ("blue", 3), ("green", 3)]
    assert index.facets(["price<10"], most=1)["in_stock"] == [(False, 5)]


def test_many_threads_search_one_index(tmp_path: Path) -> None:
    index = Index.open(write_index(tmp_path, random_vectors(3000)))
    queries = random_vectors(40, seed=9)

    def search(number: int) -> Any:
        query = queries[number : number + 1]
        return index.search_vectors(query, ["red rug"], weight=number % 2 / 2, where=["price<999"])

    alone = [search(number) for number in range(40)]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(search, range(40))) == alone


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        (["1", "2", None], "number", [1, 2, None]),
        (["1.50", "-2", "0.5"], "number", [1.5, -2.0, 0.5]),
        (["1e-05", "1.2E+3"], "number", [1e-05, 1200.0]),
        (["007", "12"], "text", ["007", "12"]),
        (["12E4", "5"], "text", ["12E4", "5"]),
        (["1_000", "5"], "text", ["1_000", "5"]),
        (["nan", "5"], "text", ["nan", "5"]),
        (["\u0661", "5"], "text", ["\u0661", "5"]),
        (["12345678901234567890", "5"], "text", ["12345678901234567890", "5"]),
        (["Yes", "no", ""], "boolean", [True, False, None]),
        (["TRUE", "false"], "boolean", [True, False]),
        (["true", "maybe"], "text", ["true", "maybe"]),
        (["1e+999", "5"], "text", ["1e+999", "5"]),
    ],
)
def test_columns_have_the_type_of_all_their_values(
    values: list[str | None], kind: str, expected: list[Any]
) -> None:
    found, array = typed(values)
    assert found == kind
    assert array.to_pylist() == expected


def generation_file(name: str) -> Callable[[Path], Path]:
    return lambda index: index / "generations" / "1" / name


def replaced(index: Path, name: str, write: Callable[[Path], None]) -> None:
    """Writes another file, and its true checksum into index.json, as an attacker would."""
    path = index / "generations" / "1" / name
    write(path)
    facts = json.loads((index / "index.json").read_text())
    facts["files"][name] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    (index / "index.json").write_text(json.dumps(facts))


def said_of(index: Path, **facts: Any) -> None:
    content = json.loads((index / "index.json").read_text())
    (index / "index.json").write_text(json.dumps({**content, **facts}))


def objects(path: Path) -> None:
    np.save(path, np.array([{"a": 1}] * 20, dtype=object), allow_pickle=True)


def nan(path: Path) -> None:
    vectors = np.load(path)
    vectors[3, 2] = np.nan
    np.save(path, vectors)


def columns_of(**changes: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with pa.OSFile(str(path)) as file:
            table = pa.ipc.open_file(file).read_all()
        arrays = {name: table[name] for name in table.column_names} | changes
        write_arrow(path, pa.table({n: a for n, a in arrays.items() if a is not None}))

    return write


def compressed(path: Path) -> None:
    table = pa.table({"colour": pa.array(["x" * 10_000_000] * 20)})
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with (
        pa.OSFile(str(path), "wb") as file,
        pa.ipc.new_file(file, table.schema, options=options) as writer,
    ):
        writer.write_table(table)


def wild_offsets(path: Path) -> None:
    """Lets a text begin far outside the file."""
    content = bytearray(path.read_bytes())
    # Of three colours, in whatever order and whether or not a fourth offset follows.
    orders = ([0, 4, 7, 12], [0, 5, 9, 12], [0, 3, 8, 12], [0, 4, 7], [0, 5, 9], [0, 3, 7])
    place = max(content.find(np.array(each, "<i4").tobytes()) for each in orders)
    assert place > 0
    content[place + 4 : place + 8] = np.array([2**31 - 1], "<i4").tobytes()
    path.write_bytes(bytes(content))


HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "no facts": (lambda i: (i / "index.json").unlink(), "no index.json"),
    "empty facts": (lambda i: (i / "index.json").write_bytes(b""), "not the facts"),
    "null": (lambda i: (i / "index.json").write_bytes(b"null"), "not the facts"),
    "not text": (lambda i: (i / "index.json").write_bytes(b"\xff\xfe"), "not the facts"),
    "deep": (lambda i: (i / "index.json").write_text("[" * 100_000), "not the facts"),
    "newer": (lambda i: said_of(i, version=99), "newer"),
    "other count": (lambda i: said_of(i, products=19), "expected"),
    "no products": (lambda i: said_of(i, products=0), "not the facts"),
    "huge count": (lambda i: said_of(i, products=10**15), "expected"),
    "other width": (lambda i: said_of(i, dim=7), "expected"),
    "wider than model": (lambda i: said_of(i, model_dim=4), "of a model of 4"),
    "unknown kind": (lambda i: said_of(i, kind="pickle"), "not the facts"),
    "path up": (
        lambda i: said_of(i, files={"../../../secret": {"bytes": 1, "sha256": "0" * 64}}),
        "not the facts",
    ),
    "model path up": (
        lambda i: said_of(i, query_model={"name": "../..", "files": {}}),
        "not the facts",
    ),
    "no files": (lambda i: said_of(i, files={}), "lists no"),
    "no vectors": (lambda i: generation_file("vectors.npy")(i).unlink(), "no such file"),
    "a pipe": (
        lambda i: (
            generation_file("vectors.npy")(i).unlink(),
            os.mkfifo(generation_file("vectors.npy")(i)),
        ),
        "no such file",
    ),
    "objects": (lambda i: replaced(i, "vectors.npy", objects), "not an array"),
    "no array": (lambda i: replaced(i, "vectors.npy", lambda p: p.write_bytes(b"x")), "not an"),
    "nothing": (lambda i: replaced(i, "vectors.npy", lambda p: p.write_bytes(b"")), "not an array"),
    "float64": (
        lambda i: replaced(i, "vectors.npy", lambda p: np.save(p, np.ones((20, 8)))),
        "expected float16",
    ),
    "columns first": (
        lambda i: replaced(
            i, "vectors.npy", lambda p: np.save(p, np.ones((8, 20), dtype=np.float16).T)
        ),
        "one after the other",
    ),
    "not finite": (lambda i: replaced(i, "vectors.npy", nan), "not finite"),
    "no table": (
        lambda i: replaced(i, "products.arrow", lambda p: p.write_bytes(b"ARROW1")),
        "not",
    ),
    "fewer rows": (
        lambda i: replaced(
            i, "columns.arrow", lambda p: write_arrow(p, pa.table({"colour": ["red"]}))
        ),
        "1 rows, expected 20",
    ),
    "another column": (
        lambda i: replaced(i, "columns.arrow", columns_of(more=pa.array(["x"] * 20))),
        "other columns",
    ),
    "odd type": (
        lambda i: replaced(i, "columns.arrow", columns_of(price=pa.array([[1]] * 20))),
        "is of type list",
    ),
    "compressed": (lambda i: replaced(i, "columns.arrow", compressed), "not a table"),
    "wild offsets": (lambda i: replaced(i, "columns.arrow", wild_offsets), "not a table"),
    "unsorted": (
        lambda i: replaced(
            i, "products.arrow", columns_of(product_id=pa.array([f"p{n}" for n in range(20)]))
        ),
        "falling order",
    ),
    "missing ids": (
        lambda i: replaced(
            i, "products.arrow", columns_of(product_id=pa.array([None] * 20, pa.string()))
        ),
        "falling order",
    ),
    "no words": (
        lambda i: replaced(i, "lexical/facts.json", lambda p: p.write_text("{}")),
        "no words of an index",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_an_index_that_is_damaged_or_hostile_is_refused_in_one_line(
    name: str, tmp_path: Path
) -> None:
    index = write_index(tmp_path / "index", random_vectors(20))
    Index.open(index)
    harm, said = HOSTILE[name]
    harm(index)
    with pytest.raises(IndexFormatError, match=said) as caught:
        Index.open(index)
    assert "\n" not in str(caught.value)


def test_a_bit_that_flipped_is_found(tmp_path: Path) -> None:
    index = write_index(tmp_path / "index", random_vectors(20))
    files = [path for path in (index / "generations").rglob("*") if path.is_file()]
    assert len(files) == 8
    for path in files:
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(IndexFormatError, match="damaged"):
            Index.open(index)
        path.write_bytes(content)
    Index.open(index)


@pytest.mark.parametrize("file", ["../secret.jpg", "/etc/hostname", "a/../../secret.jpg", "a\0b"])
def test_a_strangers_picture_place_leads_nowhere_else(file: str, tmp_path: Path) -> None:
    Image.new("RGB", (3, 3)).save(tmp_path / "secret.jpg")
    (tmp_path / "index" / "source" / "a").mkdir(parents=True)
    write_index(tmp_path / "index", random_vectors(1))
    replaced(tmp_path / "index", "products.arrow", columns_of(file=pa.array([file])))
    index = Index.open(tmp_path / "index")
    assert index.picture("p0000") is None


def test_a_file_that_is_no_picture_is_not_shown_as_one(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    index = Index.open(write_index(tmp_path, random_vectors(2)))
    (source / "0.jpg").write_text("root:x:0:0:root:/root:/bin/bash")
    Image.new("RGB", (3, 3)).save(source / "1.jpg")
    assert index.picture("p0000") is None
    assert index.picture("p0001") == (source / "1.jpg").read_bytes()


def test_an_index_without_a_model_says_so(tmp_path: Path) -> None:
    index = Index.open(write_index(tmp_path, random_vectors(2)))
    with pytest.raises(IndexFormatError, match="no model in it"):
        index.search(["red"])


def test_searching_imports_no_torch(tmp_path: Path) -> None:
    write_index(tmp_path, random_vectors(20))
    code = (
        "import sys; import numpy as np\n"
        "from beyond_text.indexing.index import Index\n"
        f"index = Index.open({str(tmp_path)!r})\n"
        "index.search_vectors(np.ones((1, 8)), ['red'], where=['price<9'], weight=0.5)\n"
        "index.facets(); index.product('p0001')\n"
        "print('slow:', [n for n in ('torch', 'transformers', 'scipy') "
        "if n in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout == "slow: []\n"


def test_an_index_is_opened_while_another_process_updates_it(tmp_path: Path) -> None:
    index = write_index(tmp_path / "index", random_vectors(20))
    before = Index.open(index)
    write_index(index, random_vectors(30), generation=2)
    shutil.rmtree(index / "generations" / "1")
    assert not before.is_current()
    assert len(before.search_vectors(np.ones((1, 8)), ["red"], top=99, weight=0.5)[0]) == 20
    assert before.product("p0003").columns["colour"] == "red"
    assert len(before.facets()["colour"]) == 3
    assert len(Index.open(index)) == 30
    assert msgspec.json.decode((index / "index.json").read_bytes())["generation"] == 2


def test_files_are_listed_with_their_sizes(tmp_path: Path) -> None:
    index = Index.open(write_index(tmp_path, random_vectors(20)))
    for name, file in index.facts.files.items():
        path = tmp_path / "generations" / "1" / name
        assert file == File(path.stat().st_size, sha256_of(path))
