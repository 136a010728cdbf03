"""Image files opened within limits, before Pillow decodes a pixel.

What cannot be an honest image is refused before it is decoded: anything but a regular file, more pixels than are read, a PNG
that is too short for what it promises or in which a checksum is wrong.
"""

from __future__ import annotations

import io
import math
import os
import stat
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image, ImageFile

from maskwright.data import png
from maskwright.data.files import reason_of
from maskwright.data.tiff import MOST_PAGES
from maskwright.errors import DataError

MAX_PIXELS = 200_000_000
"""An image of more pixels than this is refused before it is decoded."""

MAX_SIDE = 1_000_000
"""So is one of a longer side: a decoder works row by row, and a million rows of a few pixels take it minutes."""

_MOST_PIXELS = {"JPEG2000": 100_000_000, "WEBP": 100_000_000, "AVIF": 100_000_000, "16-bit PNG": 100_000_000}
# Their decoders hold several copies of all pixels, some of them with four bytes for each colour. A 16-bit PNG is one of colours.

IMAGE_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF", "PPM", "JPEG2000", "AVIF")
"""Pillow's names of the formats that are read. Formats that run other programs or hold no pixels are left out."""

IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".bmp", ".webp", ".gif"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".avif"}
)

DAMAGE = (OSError, SyntaxError, ValueError, IndexError, KeyError, TypeError, struct.error, zlib.error, RuntimeError)
_quiet = threading.Lock()


_ORIENTATION_TAG = 0x0112
# What Pillow's readers warn of in damaged metadata is harmless or ends in an error that names the file.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.\w*ImagePlugin")

LARGE = 25_000_000
"""An image of more pixels than this is decoded by one thread at a time, see :func:`turn`."""
_one_large = threading.Lock()


@contextmanager
def regular_file(path: Path) -> Iterator[BinaryIO]:
    """A file opened for reading. Raises DataError for all else, and for what the system refuses while it is read."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            if stat.S_ISDIR(status.st_mode):
                raise IsADirectoryError(0, "Is a directory")
            raise DataError([f"{path}: is no regular file; replace it by an image"])
        with path.open("rb") as file:
            yield file
    except FileNotFoundError:
        raise DataError([f"{path}: missing; restore the file or remove it from the dataset"]) from None
    except OSError as error:
        raise DataError([f"{path}: unreadable ({reason_of(error)}); check the file and its permissions"]) from None
    except ValueError:  # a zero byte in the path
        raise DataError([f"{path}: is no path of a file; correct it"]) from None


@contextmanager
def opened(path: Path) -> Iterator[ImageFile.ImageFile]:
    """The image with its header read and its size checked; its pixels are not decoded yet. Raises DataError."""
    with regular_file(path) as file:
        yield identified(file, path)


def identified(file: BinaryIO, path: Path) -> ImageFile.ImageFile:
    """The same of a file that is open."""
    file.seek(0)
    image = _identify(file, path)
    refuse_size(*image.size, image.format or "", path)
    place = file.tell()
    length = os.fstat(file.fileno()).st_size
    file.seek(0)
    if png.cannot_hold(file.read(33), length):
        what = f"{image.width} x {image.height} pixels cannot be in {length:,} bytes"
        raise DataError([f"{path}: damaged PNG file ({what}); replace or remove it"])
    file.seek(place)
    return image


def refuse_size(width: int, height: int, kind: str, path: Path) -> None:
    """Raise DataError for an image that is too large for its format ``kind``."""
    if width * height > _MOST_PIXELS.get(kind, MAX_PIXELS):
        raise _too_large(path, f"{width} x {height} pixels", kind)
    if max(width, height) > MAX_SIDE:
        what = f"{width} x {height} pixels: a side is longer than the {MAX_SIDE:,} that are read"
        raise DataError([f"{path}: {what}; cut the image into tiles"])


def _identify(file: BinaryIO, path: Path) -> ImageFile.ImageFile:
    # Pillow's own Image.open warns or fails by its process-wide limit without naming the size; the plugins do not.
    Image.init()
    prefix = file.read(16)
    for name in IMAGE_FORMATS:
        if name not in Image.OPEN:
            continue
        factory, accept = Image.OPEN[name]
        accepted = accept(prefix) if accept else False
        if accepted and not isinstance(accepted, str):
            file.seek(0)
            try:
                return factory(file, str(path))
            except Image.DecompressionBombError:
                raise _too_large(path, "far too many pixels") from None
            except DAMAGE as error:
                raise DataError([f"{path}: damaged {name} file ({reason_of(error)}); replace or remove it"]) from None
    what = "empty file" if not prefix else "no image format that is read"
    raise DataError([f"{path}: {what}; replace it, or save it as PNG or JPEG"])


def pages_of(image: ImageFile.ImageFile) -> int:
    """How many pages or frames Pillow sees, previews included; counted up to ``MOST_PAGES``."""
    if image.format not in ("TIFF", "GIF", "WEBP", "AVIF", "PNG"):
        return 1
    try:
        if image.format != "TIFF":
            return int(getattr(image, "n_frames", 1))
        pages = 1
        while pages < MOST_PAGES:  # Page by page: a crafted file may promise any number.
            image.seek(pages)
            pages += 1
        return pages
    except EOFError:
        return pages
    except DAMAGE:
        return 1  # Damage behind the first page does not concern the pixels that are read.
    finally:
        with suppress(*DAMAGE, EOFError):
            image.seek(0)


def turn_to(image: ImageFile.ImageFile, page: int, path: Path) -> None:
    """Read the header of another page or frame, as Pillow counts them from 0. Raises DataError where there is none."""
    if page == 0:
        return
    try:
        image.seek(page)
    except (EOFError, *DAMAGE):
        raise DataError([f"{path}: has no page {page} (counted from 0); name another"]) from None
    refuse_size(*image.size, image.format or "", path)


def raw_modes(image: Image.Image) -> list[str]:
    """How the pixels are stored in the file, as Pillow names it: ``L;4``, ``RGB;16B``, ..."""
    tiles = image.tile  # type: ignore[attr-defined]
    return [str(part) for tile in tiles for part in (tile.args if isinstance(tile.args, tuple) else (tile.args,))]


def load(image: ImageFile.ImageFile, path: Path) -> None:
    """Decode all pixels, and compare every checksum of a PNG. Raises DataError for a damaged file."""
    try:
        if image.format == "PNG" and isinstance(image.fp, io.BufferedReader):
            place = image.fp.tell()
            if reason := png.fault(image.fp):
                raise DataError([f"{path}: truncated or damaged ({reason}); replace or remove it"])
            image.fp.seek(place)
        with without_pillows_limit(image):
            image.load()
    except DAMAGE as error:
        raise DataError([f"{path}: truncated or damaged ({reason_of(error)}); replace or remove it"]) from None


@contextmanager
def without_pillows_limit(image: Image.Image) -> Iterator[None]:
    """Decode within our own limit of pixels alone: Pillow has one more for TIFF, of 89 and 179 million."""
    if image.format != "TIFF" or image.width * image.height < 89_000_000:
        yield
        return
    with _quiet:  # It is a variable of the process.
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def orientation_of(image: Image.Image) -> int:
    """1..8, as the EXIF data say: how the stored pixels are to be turned."""
    if image.format == "TIFF":
        return 1  # Pillow applies a TIFF's orientation itself, to the size and to the pixels.
    try:
        # The base class's method: PNG's own would decode all pixels to look for EXIF data behind them.
        return int(Image.Image.getexif(image).get(_ORIENTATION_TAG, 1))
    except DAMAGE:
        return 1  # Viewers show an image with broken EXIF data as it is stored; so do we.


def turn(size: tuple[int, int]) -> AbstractContextManager[Any]:
    """A lock that a thread holds while it decodes all pixels of an image of ``(width, height)``.

    Only one thread at a time decodes an image of more than ``LARGE`` pixels, for whatever purpose, so that memory holds
    one of them and not one for each thread. A thread that holds the lock must not take it again. Smaller images need no
    lock: for them it does nothing.
    """
    return _one_large if math.prod(size) > LARGE else nullcontext()


def _too_large(path: Path, size: str, kind: str = "") -> DataError:
    most, remedy = _MOST_PIXELS.get(kind), "cut the image into tiles or downscale it"
    remedy += ", or predict it by windows with --write tiff" if kind == "TIFF" else ""
    limit = f"{most:,} that are read of {kind}" if most else f"{MAX_PIXELS:,} that are read"
    return DataError([f"{path}: {size} are more than the {limit}; {remedy}"])
