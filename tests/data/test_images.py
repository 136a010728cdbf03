"""Images of every mode, limits, damage, and masks bit for bit."""

import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageOps

from maskwright.data.files import place_file, write_atomic
from maskwright.data.images import image_size, read_image
from maskwright.data.mask_files import cached_mask, count_values, mask_bits, read_mask, write_mask
from maskwright.errors import DataError

RGB = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)
ORIENTATION = 0x0112


def chunk(name: bytes, data: bytes) -> bytes:
    """A part of a PNG file."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_header(width: int, height: int) -> bytes:
    """A PNG of any claimed size with almost no data in it."""

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "HSV"])
def test_modes_convert_as_pillow_converts_them(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(RGB).convert(mode)
    path = tmp_path / "a.tif" if mode in ("CMYK", "YCbCr") else tmp_path / "a.png"
    if mode == "HSV":
        image = image.convert("RGB")
    image.save(path)
    np.testing.assert_array_equal(read_image(path), np.asarray(image.convert("RGB")))
    assert image_size(path) == (20, 12)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparency_is_laid_over_white(tmp_path: Path, mode: str) -> None:
    grey = np.full((4, 4), 100, np.uint8)
    alpha = np.array([[0, 255, 51, 255]] * 4, np.uint8)
    image = Image.merge(mode, [Image.fromarray(grey)] * (len(mode) - 1) + [Image.fromarray(alpha)])
    image.save(tmp_path / "a.png")
    expected = [255, 100, 224, 100]  # 51/255 = 0.2 of 100 and 0.8 of 255
    np.testing.assert_array_equal(read_image(tmp_path / "a.png")[0, :, 0], expected)


def test_a_palette_with_a_transparent_colour_is_laid_over_white(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "L").convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.save(tmp_path / "a.png", transparency=0)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png")[0], [[255, 255, 255], [40, 50, 60]])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 65535], [257, 32896]], np.uint16), [[0, 255], [1, 128]]),  # 16 bits: an 8-bit image times 257
        (np.array([[0, 4095], [2048, 16]], np.uint16), [[0, 255], [128, 1]]),  # a 12-bit camera
        (np.array([[0, 200], [3, 255]], np.uint16), [[0, 200], [3, 255]]),  # 8 bits in a 16-bit file
        (np.array([[-100, 100], [0, 0]], np.int32), [[0, 255], [128, 128]]),
        (np.array([[0.0, 1.0], [0.5, 0.2]], np.float32), [[0, 255], [128, 51]]),
        (np.array([[0.0, 200.0], [3.4, 255.0]], np.float32), [[0, 200], [3, 255]]),
        (np.array([[1000.0, 3000.0], [2000.0, 1000.0]], np.float32), [[0, 255], [128, 0]]),
    ],
)
def test_deeper_images_are_scaled_to_8_bits(tmp_path: Path, values: np.ndarray, expected: list[list[int]]) -> None:
    Image.fromarray(values).save(tmp_path / "a.tif")
    rgb = read_image(tmp_path / "a.tif")
    assert rgb.shape == (2, 2, 3)
    for channel in range(3):
        np.testing.assert_allclose(rgb[..., channel], expected, atol=1)


def test_float_images_with_nan_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.array([[np.nan, 1]], np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"a\.tif: holds NaN.*replace"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied_to_pixels_and_size(tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(RGB).save(path, exif=exif, **({"lossless": True} if suffix == "webp" else {}))
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    np.testing.assert_array_equal(read_image(path), expected)
    assert image_size(path) == (expected.shape[1], expected.shape[0]) == ((20, 12) if orientation < 5 else (12, 20))


@pytest.mark.parametrize("read", [read_image, read_mask, image_size])
def test_an_enormous_image_is_refused_before_it_is_decoded(tmp_path: Path, read) -> None:
    (tmp_path / "a.png").write_bytes(png_header(20_000, 20_000))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DataError) as error:
            read(tmp_path / "a.png")
    assert error.value.problems == [
        f"{tmp_path}/a.png: 20000 x 20000 pixels are more than the 200,000,000 that are read; "
        "cut the image into tiles or downscale it"
    ]


@pytest.mark.parametrize("suffix", ["tif", "bmp", "ppm", "gif"])
def test_an_image_beyond_pillows_warning_is_sized_without_a_warning(tmp_path: Path, suffix: str) -> None:
    Image.new("1" if suffix != "gif" else "P", (10_000, 12_000)).save(tmp_path / f"a.{suffix}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert image_size(tmp_path / f"a.{suffix}") == (10_000, 12_000)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "gif", "webp", "bmp"])
def test_a_truncated_image_is_named_with_a_remedy(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=rf"a\.{suffix}: (truncated|damaged).*; replace or remove it"):
        read_image(path)


@given(junk=st.binary(max_size=200), keep=st.integers(0, 60))
@settings(max_examples=60, deadline=None)
def test_any_bytes_give_an_image_or_a_data_error(tmp_path_factory, junk: bytes, keep: int) -> None:
    path = tmp_path_factory.getbasetemp() / "junk.png"
    Image.fromarray(RGB).save(path)
    path.write_bytes(path.read_bytes()[:keep] + junk)
    for read in (read_image, image_size, read_mask):
        lines = ["fine"]
        try:
            read(path)
        except DataError as error:
            lines = error.problems
        assert len(lines) == 1
        assert "\n" not in lines[0]


def test_missing_and_foreign_files_are_data_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="missing"):
        read_image(tmp_path / "no.png")
    with pytest.raises(DataError, match="unreadable"):
        read_image(tmp_path)
    (tmp_path / "empty.png").touch()
    with pytest.raises(DataError, match="empty file"):
        read_image(tmp_path / "empty.png")
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(DataError, match="no image format"):
        read_image(tmp_path / "text.png")


@given(mask=arrays(st.sampled_from([np.uint8, np.uint16]), st.tuples(st.integers(1, 9), st.integers(1, 9))))
@settings(max_examples=40, deadline=None)
def test_masks_survive_a_round_trip(tmp_path_factory, mask: np.ndarray) -> None:
    path = write_mask(tmp_path_factory.getbasetemp() / "mask.png", mask)
    again = read_mask(path)
    assert again.dtype == mask.dtype
    np.testing.assert_array_equal(again, mask)
    assert mask_bits(path) == mask.dtype.itemsize * 8
    counts = count_values(again)
    assert dict(zip(*np.unique(mask, return_counts=True))) == {v: counts[v] for v in np.flatnonzero(counts)}


def test_masks_of_other_pngs(tmp_path: Path) -> None:
    ids = np.array([[0, 1], [2, 3]], np.uint8)
    palette = Image.fromarray(ids).convert("P")
    palette.putdata(ids.ravel().tolist())
    palette.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0, 0, 0, 200])
    palette.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "palette.png"), ids)
    Image.fromarray(ids > 0).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "bits.png"), ids > 0)
    assert read_mask(tmp_path / "bits.png").dtype == np.uint8


@pytest.mark.parametrize("bits", [2, 4])
def test_grey_pngs_of_few_bits_keep_their_values(tmp_path: Path, bits: int) -> None:
    values = [0, 1, 2, 3]
    packed = sum(v << (4 * bits - bits * (i + 1)) for i, v in enumerate(values)).to_bytes(bits // 2, "big")
    head = struct.pack(">IIBBBBB", 4, 1, bits, 0, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" + packed)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), [values])


def test_masks_in_colour_or_lossy_formats_are_refused(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png: .*one channel of ids.*RGB with colours; replace every colour"):
        read_mask(tmp_path / "a.png")
    Image.fromarray(RGB[..., 0]).save(tmp_path / "a.jpg")
    with pytest.raises(DataError, match=r"a\.jpg: a mask must be a PNG or TIFF.*; save it as PNG"):
        read_mask(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match="int64"):
        write_mask(tmp_path / "b.png", np.zeros((2, 2), np.int64))


def test_writing_leaves_no_half_file_behind(tmp_path: Path) -> None:
    path = write_atomic(tmp_path / "deep" / "a.txt", "old")
    write_atomic(path, "new")
    assert path.read_text() == "new"
    assert os.listdir(path.parent) == ["a.txt"]
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be written"):
        write_atomic(tmp_path / "file" / "a.txt", "x")


def test_place_file_links_or_copies_and_replaces(tmp_path: Path) -> None:
    source = write_atomic(tmp_path / "a", "content")
    target = place_file(source, tmp_path / "b" / "a")
    assert target.read_text() == "content"
    write_atomic(target, "other")  # Replaced by rename, so the original keeps its content even if it was linked.
    assert source.read_text() == "content"
    assert place_file(source, target).read_text() == "content"
    with pytest.raises(DataError, match="missing"):
        place_file(tmp_path / "no", target)


def test_a_cached_mask_is_made_once_for_each_key(tmp_path: Path) -> None:
    made = []

    def make() -> np.ndarray:
        made.append(1)
        return np.full((2, 2), len(made), np.uint8)

    first = cached_mask(tmp_path, "a", b"1", make)
    assert cached_mask(tmp_path, "a", b"1", make) == first
    second = cached_mask(tmp_path, "a", b"2", make)
    assert [int(read_mask(tmp_path / path)[0, 0]) for path in (first, second)] == [1, 2]
