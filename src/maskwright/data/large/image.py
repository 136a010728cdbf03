"""What a large image is, whatever file it lies in: its size, its levels, its scale in the world, and its pixels by windows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from maskwright.data.image_reading import PLAIN, ImageReading
from maskwright.data.images import raster_of
from maskwright.data.raster import Extent, intensity_of, together
from maskwright.errors import DataError

Rectangle: TypeAlias = tuple[int, int, int, int]
"""``x0 y0 x1 y1`` in pixels, half-open."""

LONGEST_SIDE = 2_000_000
"""Pixels along a side that any large image has at most."""

_NAMED = 256
# Pixels along a side of the part that is named where a window is damaged.

_MEASURED = 2048
# Pixels along a side of the level, or of the parts of an image, that tell its range of intensity.


@dataclass(frozen=True)
class Level:
    """One resolution of an image.

    Attributes:
        width, height: in its own pixels.
        scale: pixels of level 0 along one of its pixels; 1 at level 0.
    """

    width: int
    height: int
    scale: float = 1.0


@dataclass(frozen=True)
class Georeference:
    """Where an image lies on the earth.

    Attributes:
        transform: ``a b c d e f`` of level 0: x = a column + b row + c, y = d column + e row + f, in units of the CRS.
        crs: its coordinate reference system as WKT; empty where the file names none.
    """

    transform: tuple[float, float, float, float, float, float]
    crs: str = ""

    def scaled(self, scale: float) -> Georeference:
        """The same of a level whose pixels are ``scale`` pixels of level 0 wide."""
        a, b, c, d, e, f = self.transform
        return replace(self, transform=(a * scale, b * scale, c, d * scale, e * scale, f))


class LargeImage(ABC):
    """An image that is read by windows. Made by :func:`maskwright.data.large.opening.open_large`; a context manager.

    Attributes:
        path: of the file, or of the folder of a zarr store.
        reading: which channels are read, and which numbers are black and white.
        levels: from the finest on, at least one.
        mpp: micrometres along a pixel of level 0, where the file says so.
        geo: where it lies on the earth, where the file says so.
    """

    levels: tuple[Level, ...]
    mpp: float | None = None
    geo: Georeference | None = None

    def __init__(self, path: Path, reading: ImageReading = PLAIN) -> None:
        self.path, self.reading = path, reading

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of level 0."""
        return self.levels[0].width, self.levels[0].height

    def read(self, window: Rectangle, level: int = 0) -> NDArray[np.uint8]:
        """The pixels of a window ``x0 y0 x1 y1`` of a level, as ``(h, w, 3)`` uint8 RGB.

        Raises:
            DataError: this part of the file is damaged, holds NaN, or has channels of which none were chosen.
            ValueError: a window that does not lie in the level.
        """
        samples = self.samples(window, level)
        name = f"{self.path}: {_place(window, level)}"
        return raster_of(samples, name, self.reading.channels).rgb(
            self.intensity if samples.dtype != np.uint8 else None
        )

    def samples(self, window: Rectangle, level: int = 0) -> NDArray[Any]:
        """The numbers of a window as they are stored, ``(h, w, C)``; arguments and errors as of :meth:`read`."""
        x0, y0, x1, y1 = window
        one = self.levels[level]
        if not (0 <= x0 < x1 <= one.width and 0 <= y0 < y1 <= one.height):
            raise ValueError(f"window {window} does not lie in {one.width} x {one.height} pixels")
        try:
            pixels = self._samples(window, level)
        except DataError:
            self._name_damage(window, level)
            raise
        if pixels.shape[:2] != (y1 - y0, x1 - x0):
            raise self.damaged(window, level, "it holds fewer pixels than it should")
        return pixels.astype(np.float32) if pixels.dtype == np.float16 else pixels

    def _name_damage(self, window: Rectangle, level: int) -> None:
        """Raise the DataError of the first small part of a large window that cannot be read; nothing where all can."""
        x0, y0, x1, y1 = window
        if max(x1 - x0, y1 - y0) <= _NAMED:
            return
        for y in range(y0 // _NAMED * _NAMED, y1, _NAMED):
            for x in range(x0 // _NAMED * _NAMED, x1, _NAMED):
                self._samples((max(x, x0), max(y, y0), min(x + _NAMED, x1), min(y + _NAMED, y1)), level)

    @cached_property
    def intensity(self) -> tuple[float, ...]:
        """The numbers that become black and white in the whole image: those given, or measured on a coarse level or on parts."""
        if self.reading.intensity is not None:
            return self.reading.intensity
        return (0.0, 255.0) if self.extent is None else intensity_of(self.extent)

    @cached_property
    def extent(self) -> Extent | None:
        """Lowest and highest number on a coarse level, or on parts of the image; None of 8 bits. Raises DataError."""
        parts = (raster_of(self.samples(*part), str(self.path), self.reading.channels).extent for part in self._parts())
        return together(extent for extent in parts if extent is not None)

    def _parts(self) -> list[tuple[Rectangle, int]]:
        """Windows that together tell the range of the numbers: a coarse level, or nine places of the finest."""
        last = len(self.levels) - 1
        coarse = self.levels[last]
        if max(coarse.width, coarse.height) <= 2 * _MEASURED:
            return [((0, 0, coarse.width, coarse.height), last)]
        width, height = self.size
        side = _MEASURED // 3
        columns = [round(place * max(0, width - side)) for place in (0, 0.5, 1)]
        rows = [round(place * max(0, height - side)) for place in (0, 0.5, 1)]
        return [((x, y, min(x + side, width), min(y + side, height)), 0) for y in rows for x in columns]

    def level_for(self, mpp: float | None) -> int:
        """The coarsest level that is not coarser than ``mpp`` micrometres a pixel (within 1 %); None: the finest.

        Raises:
            DataError: the file does not say how large its pixels are.
        """
        if mpp is None:
            return 0
        if self.mpp is None:
            what, remedy = "does not say how many micrometres a pixel is", "leave out --mpp"
            raise DataError([f"{self.path}: {what}; {remedy}"])
        fitting = [i for i, level in enumerate(self.levels) if level.scale * self.mpp <= 1.01 * mpp]
        return max(fitting, default=0)

    def damaged(self, window: Rectangle, level: int, reason: str) -> DataError:
        """The error to raise where a window cannot be read."""
        return DataError([f"{self.path}: {_place(window, level)} is damaged ({reason}); restore the file"])

    @abstractmethod
    def _samples(self, window: Rectangle, level: int) -> NDArray[Any]:
        """The numbers ``(h, w, C)`` of a window that lies in the level. Raises DataError where they cannot be read."""

    def close(self) -> None:  # noqa: B027 (an image in memory has nothing to close)
        """Close the file."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def require_levels(path: Path, sizes: Sequence[tuple[int, int]]) -> tuple[Level, ...]:
    """Levels of these (width, height), checked. Raises DataError for sizes that no image has."""
    width, height = sizes[0]
    if min(width, height) < 1:
        raise DataError([f"{path}: has {width} x {height} pixels; replace it"])
    if max(width, height) > LONGEST_SIDE:
        what = f"{width:,} x {height:,} pixels: a side is longer than the {LONGEST_SIDE:,} that are read"
        raise DataError([f"{path}: {what}; cut the image"])
    levels = [Level(*size, scale=width / size[0]) for size in sizes if min(size) >= 1]
    return tuple(sorted(levels, key=lambda level: level.scale))


def _place(window: Rectangle, level: int) -> str:
    x0, y0, x1, y1 = window
    where = f"the window x {x0}..{x1}, y {y0}..{y1}"
    return f"{where} of level {level}" if level else where
