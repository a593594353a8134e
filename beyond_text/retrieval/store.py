"""Keeps the vectors of a catalogue on disk, with what a result shows of each product.

    vectors.npy       float32 [products, dim], mapped into memory
    products.jsonl    a line for each product: id, text and place of the picture
    lines.npy         where each line begins
    made_of.json      what it was made from, and checksums; written last

It is a cache: a folder that is damaged, or made from something else, is not used. It is read by
parsers of plain data alone, so one that a stranger sent along can do no more than find wrongly.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, overload

import msgspec
import numpy as np

from beyond_text.config.names import IndexKind
from beyond_text.files import atomic_write, write_json
from beyond_text.retrieval.index import ProductIndex, Vectors
from beyond_text.retrieval.nearest import Nearest
from beyond_text.retrieval.shown import Shown
from beyond_text.shards.manifest import sha256_of

VERSION = 1
MADE_OF = "made_of.json"
FILES = ("vectors.npy", "products.jsonl", "lines.npy")
LINE = msgspec.json.Decoder(Shown)


class Products(Sequence[str]):
    """The product_ids of a store, and what is shown of each product; reads only those asked for."""

    def __init__(self, lines: np.ndarray, content: Any) -> None:
        self.lines = lines
        self.content = content
        # Of the products that were asked for, which a search does before it shows them.
        self._numbers: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.lines) - 1

    def shown(self, number: int) -> Shown:
        """Returns what is shown of the number-th product."""
        return LINE.decode(self.content[int(self.lines[number]) : int(self.lines[number + 1])])

    @overload
    def __getitem__(self, number: int) -> str: ...
    @overload
    def __getitem__(self, number: slice) -> list[str]: ...
    def __getitem__(self, number: int | slice) -> str | list[str]:
        if isinstance(number, slice):
            return [self.shown(each).product_id for each in range(*number.indices(len(self)))]
        product_id = self.shown(number).product_id
        self._numbers[product_id] = number
        return product_id

    def found(self, product_id: str) -> Shown:
        """Returns what is shown of a product whose id was read by its number before."""
        return self.shown(self._numbers[product_id])


class Store:
    """Vectors of a catalogue, and what is shown of its products."""

    def __init__(self, vectors: Vectors, products: Products, digest: str) -> None:
        self.vectors = vectors
        self.products = products
        self.digest = digest

    def index(self, kind: IndexKind) -> ProductIndex:
        """Returns an index over the vectors; its lists are kept in the user's cache."""
        return ProductIndex(self.products, _cached_index(kind, self.vectors, self.digest))

    @classmethod
    def load(cls, folder: Path, made_of: Mapping[str, Any]) -> Store | None:
        """Opens a store; None where there is none, it is damaged or was made from something else.

        `made_of` are values that must be those it was written with.
        """
        try:
            written = msgspec.json.decode((folder / MADE_OF).read_bytes(), type=dict[str, Any])
            if written.get("version") != VERSION or written.get("made_of") != dict(made_of):
                return None
            if any(written["sha256"][name] != sha256_of(folder / name) for name in FILES):
                return None
            vectors = np.load(folder / "vectors.npy", mmap_mode="r", allow_pickle=False)
            lines = np.load(folder / "lines.npy", allow_pickle=False)
            with (folder / "products.jsonl").open("rb") as file:
                content = mmap(file.fileno(), 0, access=ACCESS_READ)
        except (OSError, ValueError, KeyError, TypeError, EOFError):
            return None
        fits = (
            vectors.ndim == 2
            and vectors.dtype == np.float32
            and lines.dtype == np.int64
            and lines.shape == (len(vectors) + 1,)
            and len(vectors) > 0
            and bool((np.diff(lines) > 0).all() and lines[0] == 0 and lines[-1] == len(content))
            and bool(np.isfinite(vectors).all())
        )
        if not fits:
            return None
        return cls(vectors, Products(lines, content), written["sha256"]["vectors.npy"])

    @classmethod
    def save(
        cls,
        folder: Path,
        vectors: Vectors,
        shown: Iterable[Shown],
        made_of: Mapping[str, Any],
    ) -> None:
        """Writes a store; `shown` are the products of the vectors, in order.

        Raises:
            OSError: it cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        # Written last, so a store that is cut short is none.
        (folder / MADE_OF).unlink(missing_ok=True)
        lines = [0]
        with atomic_write(folder / "products.jsonl", binary=True) as file:
            for product in shown:
                line = msgspec.json.encode(product) + b"\n"
                file.write(line)
                lines.append(lines[-1] + len(line))
        arrays = {"vectors.npy": vectors, "lines.npy": np.array(lines, dtype=np.int64)}
        for name, array in arrays.items():
            with atomic_write(folder / name, binary=True) as file:
                np.save(file, array, allow_pickle=False)
        checksums = {name: sha256_of(folder / name) for name in FILES}
        write_json(folder / MADE_OF, {"version": VERSION, "made_of": made_of, "sha256": checksums})


def user_cache() -> Path:
    """Returns the folder in which this user's programs keep what they can make again."""
    home = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(home) / "beyond-text"


def _cached_index(kind: IndexKind, vectors: Vectors, digest: str) -> Nearest:
    """Returns an index of the vectors, with lists from the user's cache, or built.

    FAISS's parser trusts its files, so none is read but from this user's own folder.
    """
    path = user_cache() / f"{kind}-{digest}.faiss"
    check = path.with_suffix(".sha256")
    if path.is_file() and check.is_file() and path.stat().st_uid == os.getuid():
        if sha256_of(path) == check.read_text(encoding="utf-8"):
            return Nearest.load(kind, path, vectors)
    nearest = Nearest.build(kind, vectors)
    if nearest.lists is None:
        return nearest
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Written under another name: a search beside this one may have mapped the file.
        spare = path.with_name(f"{path.name}.{os.getpid()}")
        nearest.save(spare)
        digest = sha256_of(spare)
        spare.replace(path)
        check.write_text(digest, encoding="utf-8")
    except (OSError, RuntimeError):
        # Only the next search is slower for it.
        pass
    return nearest


def store_folder(run: Path, name: str) -> Path:
    """Returns where a store lies: in RUN/index, or in the user's cache if RUN is read-only."""
    if os.access(run, os.W_OK):
        return run / "index" / name
    key = hashlib.sha256(str(run.resolve()).encode()).hexdigest()[:16]
    return user_cache() / key / name


def spare_folder() -> Path:
    """Makes a folder for a store that cannot be kept."""
    return Path(tempfile.mkdtemp(prefix="beyond-text-"))
