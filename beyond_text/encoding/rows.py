"""Checks the texts and pictures that a caller hands over, and makes rows of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

from beyond_text.tables.pictures import PictureError, read_picture

# A picture's file: its content, or where it lies.
Picture: TypeAlias = bytes | Path
Pictures: TypeAlias = Picture | Sequence[Picture] | None


class Row(NamedTuple):
    """A query or a product: its text, "" for none, and its pictures."""

    number: int
    text: str
    pictures: tuple[Picture, ...]

    def read(self, picture: Picture) -> bytes:
        """Returns the bytes of one of its pictures.

        Raises:
            PictureError: there is no such file; names the row.
        """
        try:
            return picture if isinstance(picture, bytes) else read_picture(Path(picture))
        except PictureError as error:
            raise self.named(picture, error) from error

    def named(self, picture: Picture, error: PictureError) -> PictureError:
        """Returns an error of one of its pictures with the row and the file in it."""
        place = "" if isinstance(picture, bytes) else f" ({picture})"
        return PictureError(error.reason, f"row {self.number}{place}: {error.detail}")


def rows_of(
    texts: Sequence[str] | None, images: Sequence[Pictures] | None, most_pictures: int | None
) -> list[Row]:
    """Returns a row for each text and the pictures beside it; a blank text is none.

    Raises:
        ValueError: the two are not of one length, not lists of texts and of pictures, or a row has
            neither, or more than `most_pictures`; names the row, counted from 0.
    """
    for name, given in (("texts", texts), ("images", images)):
        if isinstance(given, str | bytes | os.PathLike):
            raise ValueError(f"{name}: expected a list, got one {type(given).__name__}")
    lengths = [len(column) for column in (texts, images) if column is not None]
    if len(set(lengths)) != 1:
        raise ValueError(f"expected as many texts as images, got {lengths or 'neither'}")
    rows = []
    for number in range(lengths[0]):
        text = _text(number, texts[number] if texts is not None else "")
        pictures = _pictures(number, images[number] if images is not None else None)
        if not (text or pictures):
            raise ValueError(f"row {number}: expected a text or a picture, got neither")
        if most_pictures is not None and len(pictures) > most_pictures:
            raise ValueError(f"row {number}: {len(pictures)} pictures, expected {most_pictures}")
        rows.append(Row(number, text, pictures))
    return rows


def _text(number: int, text: object) -> str:
    if not isinstance(text, str):
        raise ValueError(f"row {number}: expected a text, got {type(text).__name__}")
    return text if text.strip() else ""


def _pictures(number: int, given: Pictures) -> tuple[Picture, ...]:
    if given is None:
        return ()
    several = (given,) if isinstance(given, bytes | os.PathLike) else given
    if isinstance(several, str) or not isinstance(several, Sequence):
        several = (several,)  # type: ignore[assignment]
    for picture in several:
        if not isinstance(picture, bytes | os.PathLike):
            kind = type(picture).__name__
            raise ValueError(f"row {number}: expected a picture's bytes or Path, got {kind}")
    return tuple(several)
