"""TIFFs that Pillow does not read in full: every layout against the array that was written, pages, channels, crafted files."""

from __future__ import annotations

import base64
import itertools
import resource
import struct
import time
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from maskwright.data import tiff as structure
from maskwright.data.image_reading import PLAIN, ImageReading
from maskwright.data.images import decode, has_depth, image_size, page_count, read_image
from maskwright.data.mask_files import read_mask
from maskwright.errors import DataError
from tests.data.tiffs import tiff, write_tiff

ORIENTATION = 274
LAYOUTS = [
    layout
    for layout in itertools.product(
        ("u1", "u2", "u4", "i2", "f4", "f8"),
        (2, 3, 5),
        (False, True),
        (1, 2, 3),
        (None, (16, 16)),
        ("<", ">"),
        (False, True),
    )
    if not (layout[3] == 3 and layout[0][0] != "f") and not (layout[3] == 2 and layout[0][0] == "f")
]


def numbers(kind: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    if kind[0] == "f":
        return random.normal(0, 100, shape).astype(kind)
    info = np.iinfo(kind)
    return random.integers(info.min, info.max, shape, kind, endpoint=True)


def samples(path: Path, reading: ImageReading = PLAIN) -> np.ndarray:
    pixels = decode(path, reading).pixels
    return (
        np.asarray(pixels)[:, :, None]
        if isinstance(pixels, Image.Image) and pixels.mode != "RGB"
        else np.asarray(pixels)
    )


def test_every_layout_gives_the_samples_that_were_written(tmp_path: Path) -> None:
    for kind, channels, planar, predictor, tile, order, big in LAYOUTS:
        pixels = numbers(kind, (23, 19, channels))
        options = {
            "planar": planar,
            "predictor": predictor,
            "deflate": predictor > 1 or big,
            "order": order,
            "big": big,
        }
        path = write_tiff(tmp_path / "a.tif", pixels, tile=tile, **options)
        for chosen in ((1,), (1, 0, 1)):
            found = samples(path, ImageReading(channels=chosen))
            np.testing.assert_array_equal(
                found, pixels[:, :, list(chosen)], err_msg=f"{kind} {channels} {options} {tile}"
            )


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_size_is_read_back(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    height, width, channels = (data.draw(st.integers(1, most)) for most in (40, 40, 6))
    planar, deflate = data.draw(st.booleans()), data.draw(st.booleans())
    tile = data.draw(st.sampled_from([None, (16, 16), (32, 16), (48, 48)]))
    pixels = numbers("u2", (height, width, max(channels, 2)), seed=height)
    path = write_tiff(
        tmp_path_factory.mktemp("any") / "a.tif",
        pixels,
        planar=planar,
        deflate=deflate,
        tile=tile,
        rows=data.draw(st.integers(1, 50)),
    )
    chosen = data.draw(st.integers(0, pixels.shape[2] - 1))
    np.testing.assert_array_equal(samples(path, ImageReading(channels=(chosen,))), pixels[:, :, [chosen]])
    assert image_size(path) == (width, height)


# Written by tifffile 2026.3.3, the reference of the field, with imagecodecs.
LZW = (
    "SUkqAAgAAAAPAAABBAABAAAAAwAAAAEBBAABAAAABAAAAAIBAwAFAAAAwgAAAAMBAwABAAAABQAAAAYBAwABAAAAAQAAABEBBAAC"
    "AAAAzAAAABUBAwABAAAABQAAABYBBAABAAAAAwAAABcBAwACAAAANwAXABoBBQABAAAA1AAAABsBBQABAAAA3AAAABwBAwABAAAA"
    "AQAAACgBAwABAAAAAQAAAD0BAwABAAAAAgAAAFIBAwAEAAAA5AAAAAAAAAAQABAAEAAQABAA8AAAACcBAAABAAAAAQAAAAEAAAAB"
    "AAAAAAAAAAAAAAAAAAAAgAAADoAbQA64BagB6ICcMh0NiEPh6YHSAHxoIRQIw4JUSiMfjwwOoYPIAProQDQQkelkgCcBAIAyFesF"
    "mmFugF2aF+iAnDIdDYhD4fAQ"
)
FLOATS = (
    "TU0AKgAAAAgADwEAAAQAAAABAAAAAwEBAAQAAAABAAAABAECAAMAAAADAAAAwgEDAAMAAAABgLIAAAEGAAMAAAABAAIAAAERAAQA"
    "AAABAAAA4AEVAAMAAAABAAMAAAEWAAQAAAABAAAABAEXAAQAAAABAAAAhAEaAAUAAAABAAAAyAEbAAUAAAABAAAA0AEcAAMAAAAB"
    "AAEAAAEoAAMAAAABAAEAAAE9AAMAAAABAAMAAAFTAAMAAAADAAAA2AAAAAAAIAAgACAAAAABAAAAAQAAAAEAAAABAAMAAwADAAB4"
    "nB3KIQLCMAyF4XCFWSaJRW6ODtxyhl2hOUMtttUcAUscne0suCC5A7gS9j35/jnnCn/HfVvMItw1OzQqSjHZOOd7racQDt/nZQIM"
    "QYtEhgTg8UUCI4A452D1+LQ8jV3fpyYKo6oSkVrv2Q3DZm2uc8Gtac/LO3l7GDGSyE3kB3qMO94="
)
ZSTANDARD = (
    "SUkqAAgAAAANAAABBAABAAAAAwAAAAEBBAABAAAABAAAAAIBAwADAAAAqgAAAAMBAwABAAAAUMMAAAYBAwABAAAAAgAAABEBBAAD"
    "AAAAsAAAABUBAwABAAAAAwAAABYBBAABAAAABAAAABcBAwADAAAAvAAAABoBBQABAAAAwgAAABsBBQABAAAAygAAABwBAwABAAAA"
    "AgAAACgBAwABAAAAAQAAAAAAAAAQABAAEADgAAAAAQEAACIBAAAhACEAIQABAAAAAQAAAAEAAAABAAAAAAAAAAAAAAAAAAAAAAAo"
    "tS/9IBjBAAAAAOcDzge1C5wPgxNqF1EbOB8fIwYn7SootS/9IBjBAADULrsyojaJOnA+V0I+RiVKDE7zUdpVwVkotS/9IBjBAACo"
    "XY9hdmVdaURtK3ESdfl44HzHgK6ElYg="
)
PACK_BITS = (
    "SUkrAAgAAAAQAAAAAAAAAA8AAAAAAAAAAAEEAAEAAAAAAAAAAwAAAAAAAAABAQQAAQAAAAAAAAAEAAAAAAAAAAIBAwACAAAAAAAA"
    "ABAAEAAAAAAAAwEDAAEAAAAAAAAABYAAAAAAAAAGAQMAAQAAAAAAAAABAAAAAAAAABEBEAABAAAAAAAAAFABAAAAAAAAFQEDAAEA"
    "AAAAAAAAAgAAAAAAAAAWAQQAAQAAAAAAAAAEAAAAAAAAABcBEAABAAAAAAAAADQAAAAAAAAAGgEFAAEAAAAAAAAAAQAAAAEAAAAb"
    "AQUAAQAAAAAAAAABAAAAAQAAABwBAwABAAAAAAAAAAEAAAAAAAAAKAEDAAEAAAAAAAAAAQAAAAAAAABSAQMAAQAAAAAAAAAAAAAA"
    "AAAAAFMBAwACAAAAAAAAAAIAAgAAAAAAAAAAAAAAAAAAAAAACwAA5wPOB7ULnA+DEwtqF1EbOB8fIwYn7SoL1C67MqI2iTpwPldC"
    "Cz5GJUoMTvNR2lXBWQ=="
)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(
            LZW, (np.arange(60).reshape(4, 3, 5) * 1000 % 65521).astype(np.uint16), id="LZW, differences, 5 channels"
        ),
        pytest.param(
            FLOATS, (np.arange(36).reshape(4, 3, 3) / 7 - 2).astype(np.float32), id="Deflate, float predictor, MM"
        ),
        pytest.param(
            ZSTANDARD, np.moveaxis(np.arange(36).reshape(3, 4, 3) * 999, 0, 2).astype(np.uint16), id="planar, Zstandard"
        ),
        pytest.param(
            PACK_BITS, (np.arange(24).reshape(4, 3, 2) * 999).astype(np.int16), id="PackBits, BigTIFF, 2 channels"
        ),
    ],
)
def test_what_another_program_wrote(tmp_path: Path, content: str, expected: np.ndarray) -> None:
    (tmp_path / "a.tif").write_bytes(base64.b64decode(content))
    for channel in range(expected.shape[2]):
        np.testing.assert_array_equal(
            samples(tmp_path / "a.tif", ImageReading(channels=(channel,))), expected[:, :, [channel]]
        )


def test_strips_that_libtiff_unpacks_are_those_of_pillow(tmp_path: Path) -> None:
    """LZW from Pillow: its strips hold rows of bytes, which are samples of 16 bits as well."""
    pixels = numbers("u2", (9, 7, 3))
    Image.fromarray(pixels.view(np.uint8).reshape(9, -1)).save(tmp_path / "bytes.tif", compression="tiff_lzw")
    content = (tmp_path / "bytes.tif").read_bytes()
    (page,) = structure.read_pages(BytesIO(content), len(content))
    (at,), (length,) = page.offsets, page.lengths
    compressed = content[at : at + length]
    plain = tiff(pixels, rows=9, tags={259: 5, 273: [0], 279: [length]})
    moved = tiff(pixels, rows=9, tags={259: 5, 273: [len(plain)], 279: [length]}) + compressed
    (tmp_path / "a.tif").write_bytes(moved)
    np.testing.assert_array_equal(samples(tmp_path / "a.tif"), pixels)


# ------------------------------------------------------------------------------------------------------------ depths


def test_16_bit_colours_keep_all_their_bits(tmp_path: Path) -> None:
    pixels = np.array([[[0, 1, 2], [257, 4095, 16]]], np.uint16)
    path = write_tiff(tmp_path / "a.tif", pixels)
    np.testing.assert_array_equal(read_image(path), np.rint(pixels / 4095 * 255).astype(np.uint8))
    np.testing.assert_array_equal(
        read_image(path, ImageReading(intensity=(1, 257))), np.rint(np.clip((pixels - 1.0) / 256, 0, 1) * 255)
    )
    assert has_depth(path)


@pytest.mark.parametrize(("extra", "premultiplied"), [(2, False), (1, True)])
def test_alpha_of_16_bits_is_laid_over_white(tmp_path: Path, extra: int, premultiplied: bool) -> None:
    alpha = np.array([0, 13107, 65535])
    colour = np.array([65535, 10000, 40000])
    stored = np.rint(colour * alpha / 65535) if premultiplied else colour
    pixels = np.stack([stored, stored, stored, alpha], -1)[None].astype(np.uint16)
    path = write_tiff(tmp_path / "a.tif", pixels, extra=(extra,))
    share = alpha / 65535
    expected = np.rint(255 * (colour / 65535 * share + 1 - share))
    found = read_image(path, ImageReading(intensity=(0, 65535)))
    np.testing.assert_allclose(found[0, :, 0], expected, atol=1 if premultiplied else 0)
    # Asked for by its number, alpha is a channel like the others.
    np.testing.assert_array_equal(
        read_image(path, ImageReading(channels=(3,), intensity=(0, 65535)))[0, :, 0], [0, 51, 255]
    )


@pytest.mark.parametrize("kind", ["u4", "f8", "i1", "f2"])
def test_grey_of_unusual_depth(tmp_path: Path, kind: str) -> None:
    pixels = np.array([[[0], [60], [100]]], kind)
    path = write_tiff(tmp_path / "a.tif", pixels)
    assert read_image(path, ImageReading(intensity=(0, 100)))[0, :, 0].tolist() == [0, 153, 255]


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_pixels_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    pixels = np.ones((3, 3, 3))
    pixels[1, 1, 2] = value
    with pytest.raises(DataError, match=r"a\.tif: holds NaN or infinite pixels; replace them by numbers"):
        read_image(write_tiff(tmp_path / "a.tif", pixels))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_turns_as_pillow_turns(tmp_path: Path, orientation: int) -> None:
    pixels = numbers("u1", (7, 5, 3))
    path = write_tiff(tmp_path / "a.tif", pixels.astype(np.uint16), tags={ORIENTATION: orientation})
    image = Image.fromarray(pixels)
    image.getexif()[ORIENTATION] = orientation
    expected = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(read_image(path, ImageReading(intensity=(0, 255))), expected)
    assert image_size(path) == (expected.shape[1], expected.shape[0])


# ---------------------------------------------------------------------------------------------- pages and channels


def test_pages(tmp_path: Path) -> None:
    pages = [np.full((4 + page, 6, 1), 1000 * page, np.uint16) for page in range(3)]
    path = write_tiff(tmp_path / "a.tif", *pages)
    assert page_count(path) == 3
    with pytest.raises(DataError, match=r"has 3 pages; say which to read, counted from 0, with --page 0") as caught:
        read_image(path)
    assert caught.value.problems[0].kind == "pages"
    for number, page in enumerate(pages):
        reading = ImageReading(page=number, intensity=(0, 2000))
        np.testing.assert_array_equal(read_image(path, reading)[:, :, 0], np.rint(page[:, :, 0] / 2000 * 255))
        assert image_size(path, number) == (6, 4 + number)
    with pytest.raises(DataError, match=r"has 3 pages, and no page 3, as they are counted from 0; name one of 0\.\.2"):
        read_image(path, ImageReading(page=3))
    one = write_tiff(tmp_path / "one.tif", pages[1])
    np.testing.assert_array_equal(read_image(one, ImageReading(page=2)), read_image(one))


def test_previews_and_masks_are_no_pages(tmp_path: Path) -> None:
    first, second = (np.full((6, 8, 3), value, np.uint16) for value in (10, 20))
    small = np.zeros((3, 4, 3), np.uint16)
    path = write_tiff(tmp_path / "a.tif", first, small, second, small, subfiles=(0, 1, 0, 4))
    assert page_count(path) == 2
    assert samples(path, ImageReading(page=1))[0, 0, 0] == 20
    alone = write_tiff(tmp_path / "b.tif", first, small, subfiles=(0, 1))
    assert samples(alone)[0, 0, 0] == 10


def test_pages_of_8_bits_are_found_behind_previews_too(tmp_path: Path) -> None:
    pages = [np.full((6, 8, 3), value, np.uint8) for value in (10, 77, 20)]
    path = write_tiff(tmp_path / "a.tif", *pages, subfiles=(0, 1, 0))
    assert read_image(path, ImageReading(page=1))[0, 0, 0] == 20


def test_an_animation_keeps_its_first_frame_and_takes_a_page(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), (grey, grey, grey)) for grey in (10, 200)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    assert read_image(tmp_path / "a.webp")[0, 0, 0] == 10
    assert read_image(tmp_path / "a.webp", ImageReading(page=1))[0, 0, 0] == 200
    with pytest.raises(DataError, match="has no page 2"):
        read_image(tmp_path / "a.webp", ImageReading(page=2))


@pytest.mark.parametrize("kind", ["u1", "u2", "f4"])
@pytest.mark.parametrize("channels", [2, 4, 5, 9])
@pytest.mark.parametrize("planar", [False, True])
def test_channels(tmp_path: Path, kind: str, channels: int, planar: bool) -> None:
    pixels = numbers("u1", (5, 4, channels)).astype(kind)
    path = write_tiff(tmp_path / "a.tif", pixels, planar=planar)
    with pytest.raises(DataError, match=rf"has {channels} channels, and three are read; .*--channels 0,1,2") as caught:
        read_image(path)
    assert caught.value.problems[0].kind == "channels"
    found = read_image(path, ImageReading(channels=(1, 0, channels - 1), intensity=(0, 255)))
    np.testing.assert_array_equal(found, pixels[:, :, [1, 0, channels - 1]])
    grey = read_image(path, ImageReading(channels=(1,), intensity=(0, 255)))
    np.testing.assert_array_equal(grey, np.repeat(pixels[:, :, [1]], 3, axis=2))
    with pytest.raises(
        DataError, match=rf"has {channels} channels, and channel {channels} is asked for, counted from 0"
    ):
        read_image(path, ImageReading(channels=(channels,)))


def test_three_grey_channels_are_red_green_and_blue(tmp_path: Path) -> None:
    pixels = numbers("u2", (4, 4, 3))
    path = write_tiff(tmp_path / "a.tif", pixels, photometric=1)
    np.testing.assert_array_equal(samples(path), pixels)


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif"])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "LA"])
def test_channels_of_other_files(tmp_path: Path, name: str, mode: str) -> None:
    pixels = Image.fromarray(numbers("u1", (5, 4, 3 if mode == "P" else 4))).convert(mode)
    if (name, mode) in (("a.bmp", "LA"), ("a.bmp", "RGBA")):
        pytest.skip("BMP has no alpha that Pillow reads back")
    pixels.save(tmp_path / name)
    bands = np.asarray(pixels.convert("RGB") if mode == "P" else pixels).reshape(5, 4, -1)
    last = bands.shape[2] - 1
    np.testing.assert_array_equal(
        read_image(tmp_path / name, ImageReading(channels=(last, 0, 0))), bands[:, :, [last, 0, 0]]
    )
    with pytest.raises(DataError, match=rf"has {last + 1} channels?, and channel 7 is asked for"):
        read_image(tmp_path / name, ImageReading(channels=(7,)))


# ------------------------------------------------------------------------------------------------------ not read


@pytest.mark.parametrize(
    ("tags", "says"),
    [
        ({259: 34712}, "compression 34712 with samples of this kind is not read; save it without compression"),
        ({258: [12, 12, 12]}, "samples of 12 bits of this type are not read; save it with 8 or 16 bits or float32"),
        ({258: [16, 16, 8]}, "samples of 8, 16 bits of this type are not read"),
        ({339: [5, 5, 5]}, "samples of 16 bits of this type are not read"),
        ({262: 8}, r"has 3 channels of a colour space that is not RGB \(photometric 8\)"),
        ({266: 2}, r"fill order 2\) are not read"),
        ({259: 8, 317: 7}, "predictor 7 is not read"),
        (
            {256: 14_000, 257: 14_000, 277: 4, 338: [2], 258: [32] * 4},
            "14000 x 14000 pixels of 4 samples of 32 bits take more",
        ),
        ({256: 20_000, 257: 20_000}, "20000 x 20000 pixels are more than the 200,000,000 that are read"),
        ({257: 900_000, 278: 1}, "900,000 strips or tiles are not read; save it with larger ones"),
        ({273: [100, 10_000_000], 278: 5}, r"truncated or damaged \(a strip or tile is cut off\)"),
        ({273: [8], 279: [8]}, r"truncated or damaged \(strips or tiles are missing\)"),
        ({322: 1 << 30, 323: 1 << 30, 324: [8], 325: [8]}, r"truncated or damaged \(tiles that are much larger"),
    ],
)
def test_what_is_not_read_is_named(tmp_path: Path, tags: dict[int, object], says: str) -> None:
    path = write_tiff(tmp_path / "a.tif", numbers("u2", (9, 8, 3)), tags=tags)
    with pytest.raises(DataError, match=rf"a\.tif: .*{says}"):
        read_image(path)


def test_crafted_files_take_neither_time_nor_memory(tmp_path: Path) -> None:
    """Each tag that says how large something is, made enormous; and directories that lead back to themselves."""
    base = tiff(numbers("u2", (9, 8, 5)), numbers("u2", (9, 8, 5)), deflate=True)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    hostile = [
        tiff(numbers("u2", (9, 8, 5)), tags={tag: value})
        for tag in (256, 257, 277, 278, 322)
        for value in (0, 2**31, 2**32 - 1)
    ]
    hostile += [base[:4] + struct.pack("<I", at) + base[8:] for at in range(0, len(base), 3)]
    (first,) = struct.unpack("<I", base[4:8])
    (count,) = struct.unpack("<H", base[first : first + 2])
    link = first + 2 + 12 * count
    hostile.append(base[:link] + struct.pack("<I", first) + base[link + 4 :])
    path = tmp_path / "a.tif"
    for content in hostile:
        path.write_bytes(content)
        for reading in (PLAIN, ImageReading(page=0, channels=(0, 1, 4))):
            with suppress(DataError):
                read_image(path, reading)
    assert time.monotonic() - start < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000


def test_a_mask_of_several_pages_stays_refused(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", numbers("u1", (4, 4, 1)), numbers("u1", (4, 4, 1)))
    with pytest.raises(DataError, match="a mask has one page, this has several"):
        read_mask(path)
