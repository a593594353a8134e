"""Checks the pictures that are sent, so that a browser gets none that is something else."""

from __future__ import annotations

import hashlib
from io import BytesIO
from typing import NamedTuple

from PIL import Image

from beyond_text.tables.pictures import (
    FORMATS,
    MAX_PIXELS,
    decode_picture,
    reduce_picture,
)

# What every browser shows, with the type that it goes by.
SENT = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "GIF": "image/gif"}
# Longest side in pixels; larger ones are reduced.
SIDE = 1024


class Sent(NamedTuple):
    """A picture as it is sent."""

    content: bytes
    media_type: str
    etag: str


def checked(data: bytes) -> Sent:
    """Returns a picture that was decoded, as it came or as a JPEG of at most SIDE pixels a side.

    Raises:
        PictureError: it cannot be decoded.
    """
    with Image.open(BytesIO(data), formats=FORMATS) as image:
        media_type, longest = SENT.get(image.format or ""), max(image.size)
    if media_type is None or longest > SIDE:
        data, media_type = reduce_picture(data, SIDE), "image/jpeg"
    else:
        decode_picture(data, MAX_PIXELS)
    return sent(data, media_type)


def sent(content: bytes, media_type: str) -> Sent:
    """Returns content as it is sent, with an ETag of its bytes."""
    return Sent(content, media_type, f'"{hashlib.sha256(content).hexdigest()[:32]}"')
