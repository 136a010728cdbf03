"""PNGs with several channels of 16 bits: written here by hand, filter by filter, and read back to the last bit."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from maskwright.data.image_reading import PLAIN, ImageReading
from maskwright.data.images import decode, has_depth, image_size, read_image
from maskwright.data.salvage import salvaged
from maskwright.errors import DataError

COLOURS = {2: 4, 3: 2, 4: 6}
"""Channels → colour type."""
ADAM7 = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
FULL = ImageReading(intensity=(0, 65535))


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(pixels: np.ndarray, filters: list[int] | None = None, interlaced: bool = False, parts: bytes = b"") -> bytes:
    """Pixels ``(H, W, C)`` uint16 as a PNG, its rows filtered by ``filters`` in turn (W3C PNG, section 9)."""
    height, width, channels = pixels.shape
    head = struct.pack(">IIBBBBB", width, height, 16, COLOURS[channels], 0, 0, int(interlaced))
    passes = [pixels[top::down, left::across] for top, left, down, across in ADAM7] if interlaced else [pixels]
    data = b"".join(filtered(part, filters or [0]) for part in passes if part.size)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + parts + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    )


def filtered(pixels: np.ndarray, filters: list[int]) -> bytes:
    step = 2 * pixels.shape[2]
    rows = np.frombuffer(pixels.astype(">u2").tobytes(), np.uint8).reshape(len(pixels), -1).astype(int)
    out = bytearray()
    for y, row in enumerate(rows):
        above = rows[y - 1] if y else np.zeros_like(row)
        left, corner = (np.concatenate([np.zeros(step, int), line[:-step]]) for line in (row, above))
        kind = filters[y % len(filters)]
        guess = (0 * row, left, above, (left + above) // 2, paeth(left, above, corner))[kind]
        out += bytes([kind]) + ((row - guess) % 256).astype(np.uint8).tobytes()
    return bytes(out)


def paeth(left: np.ndarray, above: np.ndarray, corner: np.ndarray) -> np.ndarray:
    estimate = left + above - corner
    distances = [abs(estimate - each) for each in (left, above, corner)]
    first = (distances[0] <= distances[1]) & (distances[0] <= distances[2])
    return np.where(first, left, np.where(distances[1] <= distances[2], above, corner))


def numbers(height: int, width: int, channels: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 65536, (height, width, channels), np.uint16)


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    channels=st.sampled_from([2, 3, 4]),
    filters=st.lists(st.integers(0, 4), min_size=1, max_size=6),
    interlaced=st.booleans(),
    seed=st.integers(0, 9),
)
def test_every_bit_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    size: tuple[int, int],
    channels: int,
    filters: list[int],
    interlaced: bool,
    seed: int,
) -> None:
    pixels = numbers(*size, channels, seed)
    path = tmp_path_factory.mktemp("deep") / "a.png"
    path.write_bytes(png(pixels, filters, interlaced))
    found = decode(path).pixels
    assert isinstance(found, np.ndarray)
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, pixels)
    # An independent decoder agrees on the upper bytes, which are all that it keeps.
    with Image.open(path) as image:
        upper = np.asarray(image)
        np.testing.assert_array_equal(upper[:, :, [0, -1]] if channels == 2 else upper, pixels >> 8)
    assert image_size(path) == size[::-1]
    assert has_depth(path)


def test_12_bit_colours_are_not_black(tmp_path: Path) -> None:
    pixels = np.array([[[0, 4095, 16], [2000, 1, 4000]]], np.uint16)
    (tmp_path / "a.png").write_bytes(png(pixels))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.rint(pixels / 4095 * 255))


@pytest.mark.parametrize("channels", [2, 4])
def test_alpha_is_laid_over_white(tmp_path: Path, channels: int) -> None:
    pixels = np.full((1, 3, channels), 10000, np.uint16)
    pixels[0, :, -1] = [0, 13107, 65535]
    (tmp_path / "a.png").write_bytes(png(pixels))
    share = np.array([0, 0.2, 1])
    expected = np.rint(255 * (10000 / 65535 * share + 1 - share))
    assert read_image(tmp_path / "a.png", FULL)[0, :, 0].tolist() == expected.tolist()
    alone = read_image(tmp_path / "a.png", ImageReading(channels=(channels - 1,), intensity=(0, 65535)))
    assert alone[0, :, 0].tolist() == [0, 51, 255]


def test_a_transparent_colour_is_white(tmp_path: Path) -> None:
    pixels = np.array([[[1, 2, 3], [1, 2, 4]]], np.uint16)
    (tmp_path / "a.png").write_bytes(png(pixels, parts=chunk(b"tRNS", struct.pack(">HHH", 1, 2, 3))))
    assert read_image(tmp_path / "a.png", FULL)[0].tolist() == [[255, 255, 255], [0, 0, 0]]


def test_a_transparent_grey_of_16_bits_is_white(tmp_path: Path) -> None:
    Image.fromarray(np.array([[500, 501]], np.uint16)).save(tmp_path / "a.png", transparency=500)
    assert read_image(tmp_path / "a.png", FULL)[0, :, 0].tolist() == [255, 2]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(tmp_path: Path, orientation: int) -> None:
    pixels = numbers(5, 7, 3)
    buffer = BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (1, 1)).save(buffer, "PNG", exif=exif)
    content = buffer.getvalue()
    at = content.index(b"eXIf") - 4
    (length,) = struct.unpack(">I", content[at : at + 4])
    (tmp_path / "a.png").write_bytes(png(pixels, parts=content[at : at + 12 + length]))
    upper = Image.fromarray((pixels >> 8).astype(np.uint8))
    upper.getexif()[0x0112] = orientation
    np.testing.assert_array_equal(
        np.asarray(decode(tmp_path / "a.png").pixels) >> 8, np.asarray(ImageOps.exif_transpose(upper))
    )


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_a_flipped_bit_is_found_and_never_read(tmp_path: Path, channels: int) -> None:
    pixels = numbers(6, 5, channels)
    content = png(pixels, [1, 2, 3, 4])
    for bit in range(0, 8 * len(content), 7):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << (bit % 8)
        (tmp_path / "a.png").write_bytes(damaged)
        with pytest.raises(DataError, match=r"a\.png: "):
            read_image(tmp_path / "a.png")


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.95])
def test_a_truncated_file_is_refused(tmp_path: Path, keep: float) -> None:
    content = png(numbers(30, 30, 3))
    (tmp_path / "a.png").write_bytes(content[: int(keep * len(content))])
    with pytest.raises(DataError, match=r"a\.png: truncated or damaged"):
        read_image(tmp_path / "a.png")


def test_too_many_pixels_are_refused_by_the_header(tmp_path: Path) -> None:
    head = struct.pack(">IIBBBBB", 12_000, 12_000, 16, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"\0" * 900_000) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(
        DataError, match="12000 x 12000 pixels are more than the 100,000,000 that are read of 16-bit PNG"
    ):
        read_image(tmp_path / "a.png")


def test_damage_around_the_pixels_is_mended(tmp_path: Path) -> None:
    pixels = numbers(6, 5, 4)
    content = png(pixels)
    (tmp_path / "a.png").write_bytes(content[:-12])
    mended = salvaged(tmp_path / "a.png")
    assert mended is not None
    (tmp_path / "a.png").write_bytes(mended)
    np.testing.assert_array_equal(np.asarray(decode(tmp_path / "a.png", PLAIN).pixels), pixels)
