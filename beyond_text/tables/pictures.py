"""Decodes the bytes of a picture to upright RGB pixels, or raises a PictureError that says why not.

The formats are an allow-list, and the number of pixels is read from the header: a file that merely
claims to be a picture reaches neither a rare decoder nor, as a decompression bomb, the memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from simplejpeg import decode_jpeg, decode_jpeg_header

if TYPE_CHECKING:
    from torch import Tensor

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
MAX_PIXELS = 64_000_000
# Pillow refuses pictures above twice its own limit.
MOST_PIXELS = 2 * 89_478_485
# MAX_PIXELS of eight bytes each: no picture in use is larger.
MAX_BYTES = 8 * MAX_PIXELS
JPEG_QUALITY = 90


class PictureError(ValueError):
    """A picture cannot be used: `reason` is a short name to count by, `detail` explains."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        """Returns reason and detail as one text."""
        return f"{self.reason}: {self.detail}"


def read_picture(path: Path) -> bytes:
    """Reads a picture's file of at most MAX_BYTES.

    Raises:
        PictureError: "picture missing", "picture too large" or "picture unreadable".
    """
    try:
        # Reading a pipe or a device would never end.
        if not path.is_file():
            raise PictureError("picture missing", "expected a file, found none")
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise PictureError("picture too large", f"{size} bytes, expected <= {MAX_BYTES}")
        return path.read_bytes()
    except OSError as error:
        raise PictureError("picture unreadable", str(error.strerror)) from error


def digest_of(path: Path) -> str:
    """Computes the SHA-256 of a picture's file, in hexadecimal.

    Raises:
        PictureError: as `read_picture`.
    """
    return hashlib.sha256(read_picture(path)).hexdigest()


@contextmanager
def _opened(data: bytes, max_pixels: int) -> Iterator[Image.Image]:
    """Opens a picture by its header; turns every error within the block into a PictureError."""
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            pixels = image.width * image.height
            if pixels > max_pixels:
                raise PictureError(
                    "picture too large",
                    f"{image.width}x{image.height} is {pixels} pixels, expected <= {max_pixels}",
                )
            yield image
    except PictureError:
        raise
    except Image.DecompressionBombError as error:
        raise PictureError("picture too large", str(error)) from error
    except UnidentifiedImageError as error:
        # Pillow's message holds a memory address, which differs in each run.
        expected = f"expected {', '.join(FORMATS)}, got none of these"
        raise PictureError("picture unreadable", expected) from error
    except Exception as error:
        # Damaged files leave the decoders as OSError, SyntaxError, struct.error, RuntimeError ...
        raise PictureError("picture unreadable", f"{type(error).__name__}: {error}") from error


def check_size(data: bytes, max_pixels: int) -> None:
    """Checks by its header that a picture is of a known format and not too large.

    Raises:
        PictureError: "picture too large" or "picture unreadable".
    """
    with _opened(data, max_pixels):
        pass


def decode_picture(
    data: bytes, max_pixels: int = MAX_PIXELS, reduce_to: int | None = None
) -> Image.Image:
    """Decodes the first frame as RGB, upright by its EXIF orientation, transparency over white.

    16-bit grey keeps its upper eight bits; CMYK and palettes are converted.

    Args:
        data: the file's bytes: JPEG, PNG, WebP, GIF, BMP or TIFF.
        max_pixels: most pixels (width x height) the header may announce.
        reduce_to: lets a JPEG be decoded at 1/2, 1/4 or 1/8 scale, as far as neither side falls
            below this many pixels; other formats come at full size.

    Raises:
        PictureError: "picture too large" or "picture unreadable".
    """
    with _opened(data, max_pixels) as image:
        if reduce_to is not None:
            image.draft(None, (reduce_to, reduce_to))
        return _upright(image)


def decode_array(
    data: bytes, max_pixels: int = MAX_PIXELS, reduce_to: int | None = None
) -> UInt8[np.ndarray, "height width 3"]:
    """Decodes a picture to the pixels of `decode_picture`, without torch.

    A plain JPEG of full size, as shards hold it, comes from simplejpeg: the same bits in a third
    of Pillow's time.

    Raises:
        PictureError: as `decode_picture`.
    """
    # Where simplejpeg fails, Pillow decides.
    with suppress(ValueError):
        if _plain_jpeg(data, max_pixels, reduce_to):
            return decode_jpeg(data)
    return np.array(decode_picture(data, max_pixels, reduce_to))


def decode_pixels(
    data: bytes, max_pixels: int = MAX_PIXELS, reduce_to: int | None = None
) -> UInt8[Tensor, "3 height width"]:
    """Decodes a picture to the pixels of `decode_array`, channels last in memory.

    Raises:
        PictureError: as `decode_picture`.
    """
    import torch

    return torch.from_numpy(decode_array(data, max_pixels, reduce_to)).permute(2, 0, 1)


def _plain_jpeg(data: bytes, max_pixels: int, reduce_to: int | None) -> bool:
    """Says whether the bytes are a colour JPEG, upright, that is decoded at full size.

    Raises:
        ValueError: the bytes are not a JPEG.
    """
    height, width, colours, _ = decode_jpeg_header(data)
    full_size = reduce_to is None or min(height, width) < 2 * reduce_to
    # Exif or XMP may hold an orientation.
    turned = b"Exif" in data or b"Orientation" in data
    return colours == "YCbCr" and height * width <= max_pixels and full_size and not turned


def reduce_picture(data: bytes, size: int, max_pixels: int = MAX_PIXELS) -> bytes:
    """Encodes a picture as an RGB JPEG of at most `size` pixels a side; never enlarges.

    The same bytes give the same bytes (under one version of Pillow), without any metadata.

    Raises:
        PictureError: as `decode_picture`.
        ValueError: `size` is not positive.
    """
    if size < 1:
        raise ValueError(f"picture size {size}, expected at least 1")
    image = decode_picture(data, max_pixels, reduce_to=size)
    scale = size / max(image.size)
    if scale < 1:
        width, height = (max(1, round(side * scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    encoded = BytesIO()
    # A bare copy of the pixels: Pillow would carry comments and colour profiles over.
    bare = Image.new("RGB", image.size)
    bare.paste(image)
    bare.save(encoded, "JPEG", quality=JPEG_QUALITY)
    return encoded.getvalue()


def is_reduced(data: bytes, size: int) -> bool:
    """Says whether a picture is what `reduce_picture` writes: reduced again, it would lose detail.

    That is a bare RGB JPEG of our quality, of at most `size` pixels a side.
    """
    try:
        with Image.open(BytesIO(data), formats=("JPEG",)) as image:
            return max(image.size) <= size and _traits(image) == _traits_of_reduced()
    except Exception:
        # What is wrong with it, the decoder says.
        return False


def _traits(image: Any) -> tuple[Any, ...]:
    """Returns how a JPEG is encoded, and what stands in it beside the picture."""
    extras = sorted(image.info), [name for name, _ in image.applist], image.layer
    return image.mode, image.quantization, *extras


@cache
def _traits_of_reduced() -> tuple[Any, ...]:
    encoded = BytesIO()
    Image.new("RGB", (16, 16)).save(encoded, "JPEG", quality=JPEG_QUALITY)
    with Image.open(encoded) as image:
        return _traits(image)


def _upright(image: Image.Image) -> Image.Image:
    """Turns a picture by its EXIF orientation and converts it to RGB."""
    image.load()
    # Pillow copies even pictures that it need not turn.
    turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    return _to_rgb(ImageOps.exif_transpose(image) if turned else image)


def _to_rgb(image: Image.Image) -> Image.Image:
    """Converts a picture of any mode to RGB, with transparency over white."""
    if image.mode == "F":
        raise PictureError("picture unreadable", "floating point pixels have no known range")
    if image.mode == "I" or image.mode.startswith("I;16"):
        # Pillow's own conversion clips at 255 and turns such a picture white.
        samples = np.asarray(image).clip(0, 65535).astype(np.uint16)
        return Image.fromarray((samples >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
