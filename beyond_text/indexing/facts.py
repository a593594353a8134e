"""Defines what index.json says of an index folder, and reads and writes it.

INDEX/index.json                    written last, whole
INDEX/models/DIGEST/                what encodes queries
INDEX/generations/NUMBER/           vectors.npy, asked.npy, products.arrow, columns.arrow, lexical/
INDEX/pictures/                     pictures that were copied, by the digests of their bytes
INDEX/building/                     vectors of a build that goes on after a kill
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from beyond_text.config.names import INDEX_FILE as FILE
from beyond_text.config.names import IndexKind
from beyond_text.files import MALFORMED, sha256_of, write_text

VERSION = 1
GENERATIONS = "generations"
# Files up to this size, in bytes, are compared with their checksums whenever an index is opened.
CHECKED = 256 * 2**20
Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{16,64}\Z")]
# A file, in its folder or in one below: never a path that leads out.
_PART = r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}"
Name = Annotated[str, Meta(pattern=rf"^{_PART}(/{_PART}){{0,3}}\Z")]
ColumnType = Literal["number", "boolean", "text"]


class IndexFormatError(ValueError):
    """An index folder that is missing, damaged, or of a newer version."""


class File(Struct, frozen=True):
    """Size and checksum of a file."""

    bytes: Count
    sha256: Digest


class Source(Struct, frozen=True):
    """Where the products come from.

    Attributes:
        folder: shards or tables, absolute; a picture's place is in it.
        beside: the same folder as seen from the index.
        split: whose products they are; "" for those of every split.
        digest: of the manifest or of the tables.
        shards: the checksum of each shard.
    """

    folder: str
    beside: str
    split: str
    digest: str
    shards: dict[str, str] = {}


class KeptModel(Struct, frozen=True):
    """What encodes queries: a folder in INDEX/models, "" for none, and its files."""

    name: Annotated[str, Meta(pattern=rf"^({_PART})?\Z")]
    files: dict[Name, File]


class Facts(Struct, frozen=True):
    """What index.json says.

    Attributes:
        generation: number of the folder that holds the files.
        model: digest of the model, and `model_dim` the width of its vectors.
        dim: width of the vectors that are kept, the first of the model's.
        recall_at_10: share of the 10 nearest that `kind` finds, beside exact search.
        weight: of the vectors' scores where a search names none.
        copied: whether the pictures lie in the index.
        query_model: what encodes queries.
        files: those of the generation.
    """

    version: Positive
    generation: Positive
    model: Digest
    model_dim: Positive
    dim: Positive
    kind: IndexKind
    recall_at_10: Annotated[float, Meta(ge=0, le=1)]
    weight: Annotated[float, Meta(ge=0, le=1)]
    products: Positive
    columns: dict[str, ColumnType]
    source: Source
    copied: bool
    query_model: KeptModel
    files: dict[Name, File]

    @property
    def place(self) -> str:
        """The folder of the generation, as seen from the index."""
        return f"{GENERATIONS}/{self.generation}"


class _Versioned(Struct):
    version: Positive


_FACTS = msgspec.json.Decoder(Facts)
_VERSIONED = msgspec.json.Decoder(_Versioned)


def read_facts(index: Path) -> Facts:
    """Reads INDEX/index.json.

    Raises:
        IndexFormatError: there is none, it is damaged, or a newer version wrote it.
    """
    path = index / FILE
    if not path.is_file():
        raise IndexFormatError(
            f"{index}: no {FILE}: not an index; make one with "
            "`python -m beyond_text.index PRODUCTS INDEX --model RUN`"
        )
    try:
        data = path.read_bytes()
        version = _VERSIONED.decode(data).version
        if version > VERSION:
            raise IndexFormatError(
                f"{path}: of version {version}, expected at most {VERSION}: "
                "a newer beyond_text wrote it"
            )
        facts = _FACTS.decode(data)
    except (*MALFORMED, OSError) as error:
        raise IndexFormatError(f"{path}: not the facts of an index: {error}") from error
    if facts.dim > facts.model_dim:
        raise IndexFormatError(f"{path}: dim {facts.dim} of a model of {facts.model_dim}")
    return facts


def write_facts(index: Path, facts: Facts) -> None:
    """Writes INDEX/index.json, completely or not at all."""
    text = msgspec.json.format(msgspec.json.encode(facts), indent=1)
    write_text(index / FILE, text.decode() + "\n")


def files_of(folder: Path) -> dict[str, File]:
    """Returns size and checksum of every file in a folder and in those below."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): file_of(path) for path in paths}


def file_of(path: Path) -> File:
    """Returns size and checksum of a file."""
    return File(path.stat().st_size, sha256_of(path))


def check_files(folder: Path, files: Mapping[str, File], checked: int = CHECKED) -> None:
    """Compares files with index.json: sizes, and checksums of those of at most `checked` bytes.

    Raises:
        IndexFormatError: one is missing or another.
    """
    for name, file in files.items():
        path = folder / name
        try:
            # Reading a pipe would never end.
            if not path.is_file():
                raise IndexFormatError(f"{path}: no such file, {FILE} lists it")
            size = path.stat().st_size
            if size != file.bytes:
                raise IndexFormatError(f"{path}: {size} bytes, {FILE} says {file.bytes}")
            if size <= checked and sha256_of(path) != file.sha256:
                raise IndexFormatError(f"{path}: damaged: its SHA-256 is not that of {FILE}")
        except OSError as error:
            raise IndexFormatError(f"{path}: not readable: {error.strerror}") from error
