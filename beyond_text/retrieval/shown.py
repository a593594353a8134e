"""Defines what a search result shows of a product, and where its picture lies."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Shown(NamedTuple):
    """A product's id, its text, and the place of its picture.

    `file` is "" where there is none: a shard of the folder, in which the picture is the `size`
    bytes from `offset`, or with size 0 the picture's own file.
    """

    product_id: str
    text: str
    file: str = ""
    offset: int = 0
    size: int = 0

    @property
    def place(self) -> str:
        """Where the picture lies, in words."""
        return f"{self.file}:{self.offset}+{self.size}" if self.size else self.file

    def read(self, folder: Path) -> bytes | None:
        """Reads the picture's bytes from a folder of products; None where there is no picture.

        Raises:
            PictureError: it cannot be read.
            ValueError: its place is outside the folder.
        """
        from beyond_text.tables.pictures import MAX_BYTES, PictureError, read_picture

        if not self.file:
            return None
        path = (folder / self.file).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise ValueError(f"{path}: a picture outside {folder}")
        if not self.size:
            return read_picture(path)
        if not (self.offset >= 0 and 0 < self.size <= MAX_BYTES and path.is_file()):
            raise PictureError("picture missing", f"{path}: no {self.size} bytes at {self.offset}")
        with path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)
