"""Tests that pictures of allowed formats come out upright, RGB and reduced; others say why not."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from beyond_text.tables.pictures import PictureError, decode_picture, decode_pixels, reduce_picture


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def bomb(width: int, height: int) -> bytes:
    """Makes a few bytes of PNG whose header announces width x height."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_every_allowed_format_decodes_to_its_colour(kind: str) -> None:
    image = decode_picture(encode(Image.new("RGB", (24, 16), (200, 40, 40)), kind))
    assert (image.mode, image.size) == ("RGB", (24, 16))
    # Lossy formats miss a flat colour by a few steps of 256.
    assert np.abs(np.asarray(image, int) - (200, 40, 40)).max() <= 8


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("reduce_to", [None, 20, 60])
def test_pixels_are_those_of_the_picture(kind: str, mode: str, reduce_to: int | None) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (90, 50, 3), np.uint8)
    data = encode(Image.fromarray(noise).convert(mode), kind)
    pixels = decode_pixels(data, reduce_to=reduce_to)
    expected = np.asarray(decode_picture(data, reduce_to=reduce_to))
    assert np.array_equal(pixels.permute(1, 2, 0).numpy(), expected)
    assert pixels.stride(0) == 1


XMP = b'<x:xmpmeta xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"></x:xmpmeta>'


@pytest.mark.parametrize("said", ["exif", "xmp"])
def test_pixels_of_a_turned_jpeg_are_upright(said: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    where = {"exif": exif} if said == "exif" else {"xmp": XMP}
    data = encode(Image.new("RGB", (30, 20)), "JPEG", **where)
    assert decode_pixels(data).shape == (3, 30, 20)


@pytest.mark.parametrize("cut", [0.02, 0.5, 0.999])
def test_pixels_of_a_cut_or_giant_jpeg_are_a_picture_error(cut: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    data = encode(Image.fromarray(noise), "JPEG")
    with pytest.raises(PictureError, match="picture unreadable"):
        decode_pixels(data[: int(cut * len(data))])
    with pytest.raises(PictureError, match="64x64 is 4096 pixels, expected <= 4095"):
        decode_pixels(data, max_pixels=4095)


def test_a_format_off_the_list_is_refused() -> None:
    with pytest.raises(PictureError, match="unreadable"):
        decode_picture(encode(Image.new("RGB", (8, 8)), "PPM"))


def test_the_pixel_limit_is_read_from_the_header_and_inclusive() -> None:
    assert decode_picture(encode(Image.new("RGB", (10, 10))), max_pixels=100).size == (10, 10)
    with pytest.raises(PictureError) as caught:
        decode_picture(bomb(9000, 9000))
    assert caught.value.reason == "picture too large"
    assert "9000x9000 is 81000000 pixels, expected <= 64000000" in caught.value.detail
    with pytest.raises(PictureError, match="too large"):
        decode_picture(bomb(60000, 60000))


@pytest.mark.parametrize("data", [b"", b"no picture", encode(Image.new("RGB", (64, 64)))[:60]])
def test_damaged_bytes_are_a_picture_error(data: bytes) -> None:
    with pytest.raises(PictureError) as caught:
        decode_picture(data)
    assert caught.value.reason == "picture unreadable"
    assert "0x" not in caught.value.detail, "a place in memory, so no build equals another"


def test_a_truncated_jpeg_is_an_error_and_no_half_grey_picture() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    data = encode(Image.fromarray(noise), "JPEG")
    with pytest.raises(PictureError, match="unreadable"):
        decode_picture(data[: len(data) // 2])


def test_exif_orientation_six_turns_the_left_column_to_the_top() -> None:
    pixels = np.zeros((2, 3, 3), np.uint8)
    pixels[:, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = np.asarray(decode_picture(encode(Image.fromarray(pixels), exif=exif)))
    assert turned.shape == (3, 2, 3)
    assert (turned[0] == 255).all()
    assert (turned[1:] == 0).all()


def test_alpha_is_composed_on_white() -> None:
    image = decode_picture(encode(Image.new("RGBA", (2, 2), (255, 0, 0, 51))))
    # 0.2 of red over 0.8 of white.
    assert image.getpixel((0, 0)) == (255, 204, 204)


def test_a_transparent_palette_entry_is_white() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([0, 0, 255, 0, 255, 0])
    palette.putpixel((1, 0), 1)
    image = decode_picture(encode(palette, transparency=0))
    assert [image.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (0, 255, 0)]


def test_sixteen_bit_grey_keeps_its_upper_eight_bits() -> None:
    grey = Image.fromarray(np.array([[0, 0x80FF, 0xFFFF]], np.uint16))
    image = decode_picture(encode(grey))
    assert [image.getpixel((x, 0)) for x in range(3)] == [(v, v, v) for v in (0, 0x80, 0xFF)]


def test_floating_point_pixels_are_refused() -> None:
    with pytest.raises(PictureError, match="no known range"):
        decode_picture(encode(Image.new("F", (4, 4), 0.5), "TIFF"))


def test_cmyk_and_one_bit_become_rgb() -> None:
    cyan = decode_picture(encode(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "JPEG"))
    assert np.abs(np.array(cyan.getpixel((4, 4))) - (0, 255, 255)).max() <= 4
    assert decode_picture(encode(Image.new("1", (8, 8), 1))).getpixel((0, 0)) == (255, 255, 255)


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode_picture(data).getpixel((0, 0)) == (255, 0, 0)


def test_reduce_to_decodes_a_jpeg_at_a_fraction_no_side_falling_below() -> None:
    data = encode(Image.new("RGB", (800, 400)), "JPEG")
    assert decode_picture(data, reduce_to=100).size == (200, 100)
    assert decode_picture(data, reduce_to=101).size == (400, 200)


@pytest.mark.parametrize(
    ("size", "expected"), [((200, 100), (64, 32)), ((100, 200), (32, 64)), ((64, 10), (64, 10)),
                           ((10, 12), (10, 12)), ((1000, 1), (64, 1))]
)  # fmt: skip
def test_reduced_pictures_keep_their_shape_and_never_grow(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert decode_picture(reduce_picture(encode(Image.new("RGB", size)), 64)).size == expected


def test_reducing_gives_the_same_jpeg_each_time_without_metadata() -> None:
    exif = Image.Exif()
    exif[0x010F] = "camera"
    data = encode(Image.new("RGB", (90, 90), "teal"), "JPEG", exif=exif, comment=b"secret")
    reduced = reduce_picture(data, 64)
    assert reduced == reduce_picture(data, 64)
    assert b"camera" not in reduced
    assert b"secret" not in reduced
    with Image.open(BytesIO(reduced)) as image:
        assert image.format == "JPEG"


def test_a_picture_size_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        reduce_picture(encode(Image.new("RGB", (8, 8))), 0)
