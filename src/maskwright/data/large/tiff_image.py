"""Large TIFF files through tifffile: tiles or strips, pyramids, OME-TIFF and the slides that are TIFF inside."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskwright.data.files import reason_of
from maskwright.data.image_reading import PLAIN, ImageReading
from maskwright.data.large import packages
from maskwright.data.large.image import LargeImage, Rectangle, require_levels
from maskwright.errors import DataError
from maskwright.problems import Problem

MOST_IN_A_PIECE = 1 << 28
"""Bytes of one strip or tile, unpacked, that are read: a window needs all of each that it touches."""

_UNPACKED = {1: 1.0, 8: 1032.0, 32946: 1032.0}
# How many times longer than its data a strip or tile can be at most; of other compressions a generous guess.
_GUESS = 20_000.0
_MICROMETRES = {"µm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6, "inch": 25_400.0}
_UNIT_OF_RESOLUTION = {2: 25_400.0, 3: 10_000.0}


class TiffImage(LargeImage):
    """A TIFF whose windows are read tile by tile; see :class:`LargeImage`.

    Raises:
        DataError: no TIFF that can be read, one that says more than it holds, pyramid levels that are missing, several
            pages of which none is chosen, strips too large to read a part of.
        MissingPackageError: the extra ``large`` is not installed.
    """

    def __init__(self, path: Path, reading: ImageReading = PLAIN) -> None:
        super().__init__(path, reading)
        tifffile, zarr = packages.tifffile(), packages.zarr()
        try:
            self._file = tifffile.TiffFile(path)
            series = self._file.series[0]
            pyramid = list(series.levels)
        except Exception as error:  # tifffile raises whatever a damaged file makes of it
            raise DataError([f"{path}: damaged TIFF file ({reason_of(error)}); replace it"]) from error
        try:
            self._index = _index(series.axes, series.shape, reading.page, path)
            for level in pyramid:
                _refuse_lies(path, level.keyframe, len(level.pages), os.path.getsize(path))
            _refuse_missing_levels(path, series, pyramid)
            y, x = series.axes.index("Y"), series.axes.index("X")
            found = require_levels(path, [(level.shape[x], level.shape[y]) for level in pyramid])
            self.levels = found
            self._axes = series.axes
            self._arrays = [zarr.open(series.aszarr(level=i), mode="r") for i in range(len(pyramid))]
            self.mpp = _micrometres(self._file, series)
        except BaseException:
            self._file.close()
            raise

    def _samples(self, window: Rectangle, level: int) -> NDArray[Any]:
        try:
            return picked(self._arrays[level], self._axes, self._index, window)
        except DataError:
            raise
        except Exception as error:  # the codecs' errors have no common class
            raise self.damaged(window, level, reason_of(error)) from error

    def close(self) -> None:
        self._file.close()


def picked(array: Any, axes: str, index: dict[str, int], window: Rectangle) -> NDArray[Any]:
    """A window ``(h, w, C)`` of an array-like with named axes; those beyond rows, columns and channels are fixed by ``index``."""
    x0, y0, x1, y1 = window
    spans: dict[str, Any] = {"Y": slice(y0, y1), "X": slice(x0, x1), **index}
    found = np.asarray(array[tuple(spans.get(axis, slice(None)) for axis in axes)])
    left = [axis for axis in axes if axis not in index]
    order = [left.index("Y"), left.index("X"), *(i for i, axis in enumerate(left) if axis not in "YX")]
    return found.transpose(order).reshape(y1 - y0, x1 - x0, -1)


def _index(axes: str, shape: tuple[int, ...], page: int | None, path: Path) -> dict[str, int]:
    """Which one of each axis that is neither rows, columns nor channels is read. Raises DataError where that is not said."""
    if "X" not in axes or "Y" not in axes:
        raise DataError([f"{path}: has the axes {axes}, and no rows and columns; save it as an image"])
    others = [(axis, n) for axis, n in zip(axes, shape) if axis not in "YXSC"]
    several = [axis for axis, n in others if n > 1]
    if len(several) > 1:
        raise DataError(
            [f"{path}: has the axes {axes}, of which {', '.join(several)} are left; save one plane of them"]
        )
    count = next((n for _, n in others if n > 1), 1)
    if several and page is None:
        what, remedy = f"has {count:,} pages", "say which to read, counted from 0, with --page 0"
        raise DataError([Problem(what, kind="pages", file=path, remedy=remedy)])
    if (page or 0) >= count:
        what, remedy = f"has {count:,} pages, and no page {page}", f"name one of 0..{count - 1} with --page"
        raise DataError([Problem(what, kind="pages", file=path, remedy=remedy)])
    return {axis: (page or 0) if axis in several else 0 for axis, _ in others}


def _refuse_lies(path: Path, page: Any, pages: int, length: int) -> None:
    """Raise DataError for a page that promises more than its file of ``length`` bytes can hold, before memory is taken."""
    size = f"{page.imagewidth:,} x {page.imagelength:,} pixels"
    if getattr(page, "tags", None) is not None and (turned := page.tags.valueof(274, 1)) not in (1, None):
        raise DataError(
            [f"{path}: is stored turned (orientation {turned}), which large files may not be; save it upright"]
        )
    wide, high = (page.tilewidth, page.tilelength) if page.is_tiled else (page.imagewidth, page.rowsperstrip)
    wide, high = max(1, wide), max(1, min(high, page.imagelength))
    pieces = math.ceil(page.imagewidth / wide) * math.ceil(page.imagelength / high)
    pieces *= page.samplesperpixel if page.planarconfig == 2 else 1
    counts = np.asarray(page.databytecounts, np.int64)
    if len(counts) < pieces or len(page.dataoffsets) < pieces:
        raise DataError([f"{path}: claims {size} and lists {len(counts):,} of their {pieces:,} tiles; replace it"])
    beyond = np.flatnonzero(np.asarray(page.dataoffsets, np.int64)[:pieces] + counts[:pieces] > length)
    if len(beyond):
        what = f"is cut off: {len(beyond):,} of the {pieces:,} tiles of its {size} lie beyond its end"
        raise DataError([f"{path}: {what}; restore the file"])
    samples = 1 if page.planarconfig == 2 else page.samplesperpixel
    bytes_each = wide * high * samples * max(1, page.bitspersample // 8)
    if bytes_each > MOST_IN_A_PIECE:
        what = f"has strips or tiles of {bytes_each:,} bytes, of which no part can be read alone"
        raise DataError([f"{path}: {what}; save it with tiles, such as of 512 x 512 pixels"])
    # Tiles without data are those that a writer left out; not all of an image are.
    if not counts[:pieces].any() or bytes_each * pieces > _UNPACKED.get(page.compression, _GUESS) * length + bytes_each:
        raise DataError([f"{path}: claims {size}, which cannot be in {length:,} bytes; replace it"])


def _refuse_missing_levels(path: Path, series: Any, pyramid: list[Any]) -> None:
    said = series.keyframe.subifds
    if said and len(pyramid) < 1 + len(said):
        what = (
            f"names {len(said)} smaller pyramid levels, of which {1 + len(said) - len(pyramid)} are missing or damaged"
        )
        raise DataError([f"{path}: {what}; restore the file, or save it without a pyramid"])


def _micrometres(file: Any, series: Any) -> float | None:
    """Micrometres along a pixel, by OME's metadata, by Aperio's, or by the TIFF's resolution in units of length."""
    if file.is_ome and (text := file.ome_metadata):
        size = re.search(r'PhysicalSizeX="([0-9.eE+-]+)"', text)
        unit = re.search(r'PhysicalSizeXUnit="([^"]+)"', text)
        if size:
            return float(size[1]) * _MICROMETRES.get(unit[1] if unit else "µm", math.nan) or None
    page = series.keyframe
    if said := re.search(r"MPP\s*=\s*([0-9.]+)", str(page.description)):
        return float(said[1])
    resolution, unit = page.tags.valueof(282), page.tags.valueof(296)
    if not resolution or int(unit or 1) not in _UNIT_OF_RESOLUTION or not resolution[0] or not resolution[1]:
        return None
    mpp = _UNIT_OF_RESOLUTION[int(unit)] * resolution[1] / resolution[0]
    # 72 and 96 dots an inch are what programs write that know nothing of the size.
    return mpp if mpp < 100 else None
