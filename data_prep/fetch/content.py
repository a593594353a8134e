"""Tells pictures by their bytes, whatever a URL or a server calls them."""

from __future__ import annotations

from io import BytesIO

from PIL import Image, UnidentifiedImageError

from beyond_text.tables.pictures import FORMATS, PictureError, decode_picture
from data_prep.fetch.errors import FetchError

EXTENSIONS = {
    "JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "GIF": ".gif", "BMP": ".bmp", "TIFF": ".tif",
}  # fmt: skip
# What comes instead of a picture, by what the first bytes hold, in lower case.
OTHERS = {
    b"<svg": "an SVG drawing",
    b"<html": "an HTML page",
    b"<!doctype html": "an HTML page",
    b"ftypavif": "an AVIF picture",
    b"ftypheic": "a HEIC picture",
    b"%pdf-": "a PDF file",
    b'{"': "JSON",
    b"<?xml": "XML",
}


def check_picture(data: bytes, max_pixels: int) -> str:
    """Decodes a picture to its end and returns the extension of its format.

    The number of pixels is read from the header first.

    Raises:
        FetchError: "not a picture", "picture too large" or "picture unreadable".
    """
    try:
        # At a reduced scale, as the shards' builder decodes it.
        decode_picture(data, max_pixels, reduce_to=256)
    except PictureError as error:
        if isinstance(error.__cause__, UnidentifiedImageError):
            raise FetchError("not a picture", f"{error.detail} but {_kind(data)}") from error
        raise FetchError(error.reason, error.detail) from error
    with Image.open(BytesIO(data), formats=FORMATS) as image:
        # A JPEG may hold several frames, which Pillow calls MPO.
        return EXTENSIONS.get(image.format or "", ".jpg")


def _kind(data: bytes) -> str:
    """Names what bytes that are no picture are."""
    if not data:
        return "an empty body"
    start = data[:1024].lower()
    kinds = (name for mark, name in OTHERS.items() if mark in start)
    return next(kinds, f"{len(data)} bytes that begin with {data[:16]!r}")
