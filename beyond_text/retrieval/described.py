"""Defines what is known of a product without a model: its text, columns, and pictures' places."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from beyond_text.shards.store import Folder

# How shops write truth values, in lower case.
BOOLEANS = {"true": True, "yes": True, "false": False, "no": False}


class Place(NamedTuple):
    """Where a picture lies, in a folder of products.

    In a shard, the file, it is the `size` bytes from `offset`; with size 0 it is the whole file.
    """

    file: str
    offset: int = 0
    size: int = 0

    def __str__(self) -> str:
        """Returns the place in words."""
        return f"{self.file}:{self.offset}+{self.size}" if self.size else self.file

    def read(self, folder: Folder) -> bytes:
        """Reads the picture's bytes.

        Raises:
            PictureError: it cannot be read.
            ValueError: the place is outside the folder.
        """
        from beyond_text.tables.pictures import MAX_BYTES, PictureError, read_picture

        inside = PurePosixPath(self.file)
        if inside.is_absolute() or ".." in inside.parts or "\0" in self.file:
            raise ValueError(f"{self.file}: a picture outside {folder}")
        path = folder / inside if isinstance(folder, Path) else folder.path_of(self.file)
        if path and not self.size:
            return read_picture(path)
        lacking = f"{where(folder, self.file)}: no {self.size} bytes at {self.offset}"
        if not (path and path.is_file() and self.offset >= 0 and 0 < self.size <= MAX_BYTES):
            raise PictureError("picture missing", lacking)
        try:
            with path.open("rb") as file:
                file.seek(self.offset)
                data = file.read(self.size)
        except OSError as error:
            raise PictureError("picture unreadable", str(error.strerror)) from error
        if len(data) < self.size:
            raise PictureError("picture missing", lacking)
        return data


def check_there(path: Path) -> None:
    """Checks that a picture of tables is still where it was when these were read.

    Its product would have a vector of the text alone, until its tables change.

    Raises:
        PictureError: it is not.
    """
    from beyond_text.tables.pictures import PictureError

    if not path.is_file():
        detail = f"{path}: gone since the tables were read: give the command again"
        raise PictureError("picture missing", detail)


def where(folder: Folder, file: object) -> str:
    """Returns the name of a file of a folder in messages."""
    return str(folder / str(file)) if isinstance(folder, Path) else folder.where(str(file))


def place_of_file(path: str, folder: Path) -> Place:
    """Returns the place of a file whose path begins with that of the folder."""
    # By text, as paths' own arithmetic takes most of the time of reading a table.
    inside = path.removeprefix(str(folder)).lstrip("/")
    return Place(inside if os.sep == "/" else Path(path).relative_to(folder).as_posix())


class Described(NamedTuple):
    """A product as a result shows it.

    Attributes:
        product_id: its id.
        text: what the model reads of it.
        columns: its title, category and further columns, where they are not empty.
        pictures: their places, the main one first.
    """

    product_id: str
    text: str
    columns: dict[str, str]
    pictures: tuple[Place, ...] = ()


def described(fields: Mapping[str, Any], text: str, pictures: tuple[Place, ...]) -> Described:
    """Returns a product with its title, category and further columns."""
    columns = {name: fields[name] for name in ("title", "category") if fields.get(name)}
    columns |= fields.get("further") or {}
    return Described(fields["product_id"], text, columns, pictures)
