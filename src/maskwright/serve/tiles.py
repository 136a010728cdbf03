"""Images cut up for the page: level 0 is the image itself, each next level half of it, and each level is cut into tiles."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from maskwright.data.image_reading import PLAIN, ImageReading
from maskwright.data.images import read_image
from maskwright.data.large.opening import needs_windows
from maskwright.errors import DataError
from maskwright.serve.large_tiles import LargePicture
from maskwright.serve.wire import Size, WireError

TILE = 512
"""Pixels along a tile."""

LOSSLESS = 4_000_000
"""Images of at most so many pixels are sent as PNG, so that what is labelled is what is in the file."""

THUMBNAIL = 160
"""Longer side of a thumbnail in pixels."""

Pixels = NDArray[np.uint8]


class Pictures:
    """The pixels of the images that are being looked at, the latest ones kept in memory.

    Args:
        memory: bytes of pixels that are kept; one image at least.
        reading: which page, channels and numbers of the files are shown; without a range of intensity each image has its own.
    """

    def __init__(self, memory: int = 600_000_000, reading: ImageReading = PLAIN) -> None:
        self.memory, self.reading = memory, reading
        self._mutex = threading.Lock()
        self._levels: OrderedDict[Path, list[Pixels]] = OrderedDict()
        self._large: dict[Path, LargePicture | None] = {}

    def pixels(self, path: Path) -> Pixels:
        """(H, W, 3) uint8, as the image is displayed. Raises DataError where the file cannot be read, or is read by windows alone."""
        if large := self.large(path):
            what = f"{large.size[0]:,} x {large.size[1]:,} pixels are too many for SAM and for models here"
            raise DataError([f"{path}: {what}; label it by hand, with boxes, scribbles, points and tags"])
        return self.levels(path)[0]

    def large(self, path: Path) -> LargePicture | None:
        """An image that is too large to be decoded at once; None for all others. Raises DataError where it cannot be read."""
        with self._mutex:
            if path not in self._large:
                self._large[path] = LargePicture(path, self.reading) if needs_windows(path) else None
            return self._large[path]

    def levels(self, path: Path) -> list[Pixels]:
        """The image, its half, its quarter, ... down to what fits into a tile."""
        with self._mutex:
            if path not in self._levels:
                self._levels[path] = _pyramid(read_image(path, self.reading))
                while len(self._levels) > 1 and self._bytes() > self.memory:
                    self._levels.popitem(last=False)
            self._levels.move_to_end(path)
            return self._levels[path]

    def _bytes(self) -> int:
        return sum(level.nbytes for levels in self._levels.values() for level in levels)

    def tile(self, path: Path, level: int, column: int, row: int) -> tuple[bytes, str]:
        """A tile's file and its media type. Raises WireError for one that is not there."""
        if large := self.large(path):
            return _file(_large_tile(large, level, column, row), lossless=False)
        levels = self.levels(path)
        if not (0 <= level < len(levels) and column >= 0 and row >= 0):
            raise WireError("there is no such tile", 404)
        cut = levels[level][row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE]
        if not cut.size:
            raise WireError("there is no such tile", 404)
        return _file(cut, lossless=levels[0][..., 0].size <= LOSSLESS)

    def thumbnail(self, path: Path) -> tuple[bytes, str]:
        """A small picture, not kept in memory."""
        if large := self.large(path):
            small = Image.fromarray(large.overview())
            small.thumbnail((THUMBNAIL, THUMBNAIL))
            return _file(np.asarray(small), lossless=False)
        with self._mutex:
            known = self._levels.get(path)
        pixels = known[-1] if known else read_image(path, self.reading)
        small = Image.fromarray(pixels)
        small.thumbnail((THUMBNAIL, THUMBNAIL))
        return _file(np.asarray(small), lossless=False)


def _large_tile(image: LargePicture, level: int, column: int, row: int) -> Pixels:
    """A tile of an image that is read by windows. Raises WireError for one that is not there."""
    sizes = level_sizes(image.size)
    if not (0 <= level < len(sizes) and column >= 0 and row >= 0):
        raise WireError("there is no such tile", 404)
    (width, height), scale = sizes[level], 2**level
    x0, y0 = column * TILE, row * TILE
    x1, y1 = min(x0 + TILE, width), min(y0 + TILE, height)
    if x1 <= x0 or y1 <= y0:
        raise WireError("there is no such tile", 404)
    box = x0 * scale, y0 * scale, min(x1 * scale, image.size[0]), min(y1 * scale, image.size[1])
    return image.part(scale, box, (x1 - x0, y1 - y0))


def level_sizes(size: Size) -> list[Size]:
    """(width, height) of each level of an image."""
    sizes = [size]
    while max(sizes[-1]) > TILE:
        width, height = sizes[-1]
        sizes.append((max(1, (width + 1) // 2), max(1, (height + 1) // 2)))
    return sizes


def describe(size: Size) -> dict[str, Any]:
    """What the page needs to know to ask for tiles."""
    levels = [
        {"scale": 2.0**-number, "width": width, "height": height}
        for number, (width, height) in enumerate(level_sizes(size))
    ]
    return {"width": size[0], "height": size[1], "levels": levels, "tile": TILE}


def _pyramid(pixels: Pixels) -> list[Pixels]:
    levels = [pixels]
    for size in level_sizes((pixels.shape[1], pixels.shape[0]))[1:]:
        levels.append(np.asarray(Image.fromarray(levels[-1]).resize(size, Image.Resampling.BOX)))
    return levels


def _file(pixels: Pixels, *, lossless: bool) -> tuple[bytes, str]:
    buffer = io.BytesIO()
    save: Callable[..., None] = Image.fromarray(np.ascontiguousarray(pixels)).save
    if lossless:
        save(buffer, "PNG", compress_level=1)
        return buffer.getvalue(), "image/png"
    save(buffer, "JPEG", quality=92, subsampling=0)
    return buffer.getvalue(), "image/jpeg"
