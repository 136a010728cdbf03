"""Opens any image to be read by windows, by what its file is."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from maskwright.data import tiff
from maskwright.data.files import require_there
from maskwright.data.image_files import IMAGE_SUFFIXES, MAX_PIXELS, regular_file
from maskwright.data.image_reading import PLAIN, ImageReading
from maskwright.data.images import read_image
from maskwright.data.large.geo_image import GeoImage
from maskwright.data.large.image import LargeImage, Level, Rectangle
from maskwright.data.large.tiff_image import TiffImage
from maskwright.data.large.zarr_image import ZarrImage
from maskwright.errors import DataError

SUFFIXES = frozenset({*IMAGE_SUFFIXES, ".svs", ".ndpi", ".zarr", ".vrt"})
"""Of what is looked for in folders. A zarr store is a folder itself."""

_GEO_KEYS, _PIXEL_SCALE, _TIE_POINTS, _TRANSFORMATION = 34735, 33550, 33922, 34264


class WholeImage(LargeImage):
    """An ordinary image, decoded once in whole when its first window is read; see :class:`LargeImage`."""

    def __init__(self, path: Path, reading: ImageReading = PLAIN) -> None:
        super().__init__(path, reading)
        self._pixels = read_image(path, reading)
        self.levels = (Level(self._pixels.shape[1], self._pixels.shape[0]),)

    def read(self, window: Rectangle, level: int = 0) -> NDArray[Any]:
        return self.samples(window, level)

    def _samples(self, window: Rectangle, level: int) -> NDArray[Any]:
        x0, y0, x1, y1 = window
        return self._pixels[y0:y1, x0:x1]


def open_large(path: str | Path, reading: ImageReading = PLAIN) -> LargeImage:
    """An image to be read by windows: a TIFF of any kind, a zarr store, or an ordinary image, which is decoded in whole.

    Args:
        path: a file, or the folder of a zarr store.
        reading: its page, channels and range of intensity, where the file leaves a choice.

    Raises:
        DataError: missing, unreadable, or it says what cannot be.
        MissingPackageError: the extra ``large`` (TIFF, zarr) or ``geo`` (georeferenced TIFF) is not installed.
    """
    path = Path(path)
    require_there(path)
    if path.is_dir():
        if is_zarr(path):
            return ZarrImage(path, reading)
        raise DataError([f"{path}: is a folder, and no zarr store; give an image"])
    if path.suffix.lower() == ".vrt":
        return GeoImage(path, reading)
    with regular_file(path) as file:
        if not tiff.is_tiff(file.read(4)):
            return WholeImage(path, reading)
        tags = tiff.first_tags(file)
    if tags & {_GEO_KEYS, _PIXEL_SCALE, _TIE_POINTS, _TRANSFORMATION}:
        return GeoImage(path, reading)
    return TiffImage(path, reading)


def is_zarr(path: Path) -> bool:
    """Whether a folder is a zarr store, of either version."""
    return any((path / name).is_file() for name in ("zarr.json", ".zarray", ".zgroup"))


def needs_windows(path: Path) -> bool:
    """Whether an image can be read by windows alone: a zarr store, or a TIFF of more pixels than are decoded at once."""
    if path.is_dir() or path.suffix.lower() in (".svs", ".ndpi", ".vrt"):
        return True
    with regular_file(path) as file:
        if not tiff.is_tiff(file.read(4)):
            return False
        pages = tiff.read_pages(file, os.fstat(file.fileno()).st_size)
    return bool(pages) and math.prod(pages[0].size) > MAX_PIXELS
