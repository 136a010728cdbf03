"""Tiles of images too large for memory, read by windows: from the level of their own pyramid that fits, or reduced strip by strip."""

from __future__ import annotations

import math
import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from maskwright.data.image_reading import PLAIN, ImageReading
from maskwright.data.large.image import LargeImage
from maskwright.data.large.opening import open_large
from maskwright.serve.wire import Size

OVERVIEW = 2048
"""Longer side in pixels of what is kept in memory of a whole image."""

AT_ONCE = 24_000_000
"""Pixels of a level that are read for one tile, at most; what needs more comes from the overview."""

Pixels = NDArray[np.uint8]


class LargePicture:
    """A large image that is being looked at. Its file is opened for each window, so threads need not share it.

    Args:
        path: of a TIFF or zarr store.
        reading: which page, channels and numbers are shown.
    """

    def __init__(self, path: Path, reading: ImageReading = PLAIN) -> None:
        self.path, self.reading = path, reading
        self._overview: Pixels | None = None
        self._mutex = threading.Lock()
        with self._open() as image:
            self.size: Size = image.size
            # Measured once: each tile by itself would have other black and white.
            intensity = None if image.extent is None else image.intensity
        self.reading = ImageReading(intensity=intensity).over(reading)

    def _open(self) -> LargeImage:
        return open_large(self.path, self.reading)

    def part(self, scale: float, box: tuple[float, float, float, float], size: Size) -> Pixels:
        """A part of the image as ``(h, w, 3)`` of this ``size``.

        Args:
            scale: pixels of the image along a pixel of the part.
            box: ``x0 y0 x1 y1`` in pixels of the image.

        Raises:
            DataError: this part of the file is damaged.
        """
        with self._open() as image:
            number = max(i for i, level in enumerate(image.levels) if level.scale <= 1.01 * scale or i == 0)
            level = image.levels[number]
            x0, y0 = (math.floor(edge / level.scale) for edge in box[:2])
            x1, y1 = (
                min(level.width, math.ceil(box[2] / level.scale)),
                min(level.height, math.ceil(box[3] / level.scale)),
            )
            if (x1 - x0) * (y1 - y0) <= AT_ONCE:
                pixels = image.read((x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)), number)
                return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))
        small = self.overview()
        factor = small.shape[1] / self.size[0], small.shape[0] / self.size[1]
        place = box[0] * factor[0], box[1] * factor[1], box[2] * factor[0], box[3] * factor[1]
        place = place[0], place[1], min(place[2], small.shape[1]), min(place[3], small.shape[0])
        return np.asarray(Image.fromarray(small).resize(size, Image.Resampling.BILINEAR, box=place))

    def overview(self) -> Pixels:
        """The whole image with at most ``OVERVIEW`` pixels along its longer side; made once, and then kept."""
        with self._mutex:
            if self._overview is None:
                with self._open() as image:
                    self._overview = _overview(image)
            return self._overview


def _overview(image: LargeImage) -> Pixels:
    """From the coarsest level that is not too coarse, in strips, so that no level is in memory as a whole."""
    scale = max(1.0, max(image.size) / OVERVIEW)
    number = max(i for i, level in enumerate(image.levels) if level.scale <= scale or i == 0)
    level = image.levels[number]
    wide, high = max(1, round(image.size[0] / scale)), max(1, round(image.size[1] / scale))
    rows = max(1, AT_ONCE // level.width * high // level.height)
    parts = []
    for top in range(0, high, rows):
        bottom = min(top + rows, high)
        y0, y1 = math.floor(top * level.height / high), math.ceil(bottom * level.height / high)
        pixels = image.read((0, y0, level.width, min(y1, level.height)), number)
        parts.append(np.asarray(Image.fromarray(pixels).resize((wide, bottom - top), Image.Resampling.BOX)))
    return np.concatenate(parts)
