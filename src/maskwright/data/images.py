"""Images as 8-bit RGB, of files of any mode and depth.

How an image becomes 8-bit RGB (:func:`read_image`):

- The EXIF rotation is applied (for PNG the ``eXIf`` chunk counts if it stands before the pixels, as Pillow writes it).
- Transparent pixels are laid over white, then alpha is dropped.
- Images of 8 bits and less keep their values. Numbers of other kinds are scaled linearly from a range, ``intensity`` of the
  :class:`~maskwright.data.image_reading.ImageReading`; where none is given, from that of the image alone, see
  :func:`maskwright.data.raster.intensity_of`. A training has one range for all of its images (``data.intensity``).
- Of an animation the first frame counts, or ``page``; a TIFF of several pages without ``page`` is refused.
- More than three channels are refused unless ``channels`` says which of them are red, green and blue.

What cannot be an honest image is refused before it is decoded, see ``image_files``. Decoding takes at most twelve bytes for
each pixel, and 1.2 GB.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from maskwright.data import png, tiff, tiff_pixels
from maskwright.data.files import reason_of
from maskwright.data.image_files import (
    DAMAGE,
    identified,
    load,
    orientation_of,
    pages_of,
    raw_modes,
    refuse_size,
    regular_file,
    turn_to,
)
from maskwright.data.image_reading import PLAIN, ImageReading
from maskwright.data.raster import Raster, refuse_channels, require_channels
from maskwright.errors import DataError
from maskwright.problems import Problem

_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(path: str | Path, reading: ImageReading = PLAIN) -> NDArray[np.uint8]:
    """The pixels of an image file as ``(H, W, 3)`` uint8 RGB, as displayed (see the module's docstring).

    Args:
        path: an image file.
        reading: its page, channels and range of intensity, where the file leaves a choice.

    Raises:
        DataError: missing, unreadable or truncated file, more pixels than are read, several pages or more than three channels
            of which none were chosen, pixels that are not finite, or a mode that has no RGB.
    """
    return decode(path, reading).rgb(reading.intensity)


def decode(path: str | Path, reading: ImageReading = PLAIN) -> Raster:
    """The same before it is scaled: the chosen page and channels as they are stored, EXIF rotation applied. Raises DataError."""
    path = Path(path)
    with regular_file(path) as file:
        pages, place = _tiff_pages(file), reading.page or 0
        if pages:
            page = _chosen(pages, reading.page, path)
            refuse_size(page.width, page.height, "TIFF", path)
            if not page.is_for_pillow:
                return _of_tiff(file, page, reading.channels, path)
            place = page.place
        image = identified(file, path)
        if pages or (place and pages_of(image) > 1):
            turn_to(image, place, path)
        orientation = orientation_of(image)
        if _is_deep_colour(image):
            raster = _of_deep_png(file, image, orientation, path)
        else:
            load(image, path)
            clear = image.info.get("transparency")
            turned = image.transpose(_TRANSPOSE[orientation]) if orientation in _TRANSPOSE else image
            raster = Raster(turned, str(path))
            if raster.is_deep and isinstance(clear, int):
                raster = Raster(np.asarray(turned)[:, :, None], str(path), clear=(clear,))
    return raster if reading.channels is None else raster.select(reading.channels)


def open_verified(path: str | Path) -> Image.Image:
    """The fully decoded image in its own mode, EXIF rotation applied.

    Raises:
        DataError: as :func:`read_image`; or its samples are of a kind that Pillow has no mode for.
    """
    pixels = decode(path).pixels
    if isinstance(pixels, Image.Image):
        return pixels
    raise DataError(
        [f"{path}: {pixels.shape[2]} channels of {pixels.dtype} are no mask; save it with one channel of ids"]
    )


def page_as_image(path: str | Path, page: int) -> Image.Image | None:
    """A page or frame in its own mode, counted from 0; None where Pillow has no mode for its samples. Raises DataError."""
    with regular_file(Path(path)) as file:
        pages = _tiff_pages(file)
    if pages and not _chosen(pages, page, Path(path)).is_for_pillow:
        return None
    pixels = decode(path, ImageReading(page=page)).pixels
    return pixels if isinstance(pixels, Image.Image) else None


def raster_of(image: Image.Image | NDArray[Any], name: str, channels: tuple[int, ...] | None = None) -> Raster:
    """An image in memory, by the same rules.

    Args:
        image: as displayed; a Pillow image of any mode, or an array ``(H, W)`` or ``(H, W, C)`` of bool, integers or floats.
            Four channels are RGB with an alpha.
        name: what a message calls it.
        channels: which of them are read, counted from 0.

    Raises:
        DataError: no such channels, or more than are read.
    """
    if isinstance(image, Image.Image):
        raster = Raster(image, name)
    else:
        pixels = image[:, :, None] if image.ndim == 2 else image
        if pixels.dtype == np.bool_:
            pixels = pixels.astype(np.uint8) * np.uint8(255)
        if channels is None and pixels.shape[2] not in (1, 3, 4):
            refuse_channels(pixels.shape[2], name)
        raster = Raster(pixels, name, "straight" if pixels.shape[2] == 4 else "")
    return raster if channels is None else raster.select(channels)


def page_count(path: str | Path) -> int:
    """How many pages or frames an image file has, previews left out; counted up to ``tiff.MOST_PAGES``. Raises DataError."""
    with regular_file(Path(path)) as file:
        return len(_tiff_pages(file)) or pages_of(identified(file, Path(path)))


def image_size(path: str | Path, page: int | None = None) -> tuple[int, int]:
    """``(width, height)`` as displayed, EXIF rotation applied, from the file's header alone.

    Args:
        path: an image file.
        page: which page of a file that has several, from 0; left out, the first.

    Raises:
        DataError: missing or unreadable file, more pixels than are read, or no such page.
    """
    path = Path(path)
    with regular_file(path) as file:
        if pages := _tiff_pages(file):
            chosen = _chosen(pages, page or 0, path)
            refuse_size(chosen.width, chosen.height, "TIFF", path)
            return chosen.size
        image = identified(file, path)
        if page and pages_of(image) > 1:
            turn_to(image, page, path)
        width, height = image.size
        return (height, width) if orientation_of(image) >= 5 else (width, height)


def has_depth(path: str | Path, page: int | None = None) -> bool:
    """Whether the numbers of an image have to be scaled to 8 bits, from the file's header alone. Raises DataError."""
    path = Path(path)
    with regular_file(path) as file:
        pages, place = _tiff_pages(file), page or 0
        if pages:
            chosen = _chosen(pages, place, path)
            if not chosen.is_for_pillow:
                return chosen.kind != "u" or max(chosen.bits) > 8
            place = chosen.place
        image = identified(file, path)
        if pages or (place and pages_of(image) > 1):
            turn_to(image, place, path)
        return Raster(image, str(path)).is_deep or _is_deep_colour(image)


def mode_of(path: str | Path) -> str:
    """Pillow's name of the kind of pixels, from the file's header alone; empty for what it has no mode for. Raises DataError."""
    path = Path(path)
    with regular_file(path) as file:
        pages = _tiff_pages(file)
        if pages and not pages[0].is_for_pillow:
            return ""
        image = identified(file, path)
        return "" if _is_deep_colour(image) else image.mode


# ------------------------------------------------------------------------------------------------------------- TIFF


def _tiff_pages(file: BinaryIO) -> list[tiff.Page]:
    file.seek(0)
    if not tiff.is_tiff(file.read(4)):
        return []
    return tiff.read_pages(file, os.fstat(file.fileno()).st_size)


def _chosen(pages: list[tiff.Page], page: int | None, path: Path) -> tiff.Page:
    """The page to read. Raises DataError where there are several and none is named, or not that one."""
    if len(pages) == 1:
        return pages[0]
    if page is None:
        what, remedy = f"has {len(pages):,} pages", "say which to read, counted from 0, with --page 0"
        raise DataError([Problem(what, kind="pages", file=path, remedy=remedy)])
    if page >= len(pages):
        what = f"has {len(pages):,} pages, and no page {page}, as they are counted from 0"
        raise DataError([Problem(what, kind="pages", file=path, remedy=f"name one of 0..{len(pages) - 1} with --page")])
    return pages[page]


def _of_tiff(file: BinaryIO, page: tiff.Page, channels: tuple[int, ...] | None, path: Path) -> Raster:
    """The samples of a TIFF that Pillow does not read, or not in full."""
    alpha = page.alpha if channels is None else ""
    if channels is None:
        if page.photometric not in (*tiff.GREY, tiff.RGB):
            refuse_channels(
                page.samples, str(path), f" of a colour space that is not RGB (photometric {page.photometric})"
            )
        if not alpha and page.samples not in (1, 3):
            refuse_channels(page.samples, str(path))
        channels = tuple(range(page.samples))
    else:
        require_channels(channels, page.samples, str(path))
    try:
        samples = tiff_pixels.decode(file, page, channels)
    except tiff_pixels.NotReadError as error:
        raise DataError([f"{path}: {error}"]) from None
    except DAMAGE as error:
        raise DataError([f"{path}: truncated or damaged ({reason_of(error)}); replace or remove it"]) from None
    return Raster(_turned(samples, page.orientation), str(path), alpha)


# -------------------------------------------------------------------------------------------------------------- PNG


def _is_deep_colour(image: Image.Image) -> bool:
    """Whether Pillow would cut the 16 bits of a colour to the upper 8, which leaves little of a 12-bit image."""
    deep = any(";16" in mode for mode in raw_modes(image))
    return deep and image.mode not in ("I", "F") and not image.mode.startswith("I;16")


def _of_deep_png(file: BinaryIO, image: ImageFile.ImageFile, orientation: int, path: Path) -> Raster:
    """All bits of a PNG with several channels of 16 bits each. Raises DataError."""
    if image.format != "PNG" or pages_of(image) > 1:
        what = "an animation" if image.format == "PNG" else image.format
        raise DataError([f"{path}: 16 bits for each colour are not read of {what}; save it as a plain PNG or TIFF"])
    refuse_size(image.width, image.height, "16-bit PNG", path)
    if reason := png.fault(file):
        raise DataError([f"{path}: truncated or damaged ({reason}); replace or remove it"])
    try:
        pixels = png.deep_colours(file)
    except DAMAGE as error:
        raise DataError([f"{path}: truncated or damaged ({reason_of(error)}); replace or remove it"]) from None
    clear = image.info.get("transparency")
    alpha = "straight" if pixels.shape[2] in (2, 4) else ""
    colour = tuple(clear) if isinstance(clear, tuple) and not alpha else ()
    return Raster(_turned(pixels, orientation), str(path), alpha, colour)


def _turned(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """An array ``(H, W, C)`` turned as an EXIF orientation says."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    across, down = orientation in (2, 3, 6, 7), orientation in (3, 4, 7, 8)
    return pixels[:: -1 if down else 1, :: -1 if across else 1]
