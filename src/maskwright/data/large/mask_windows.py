"""The masks of large images, read by windows as their images are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskwright.data.large.image import LargeImage, Rectangle
from maskwright.data.large.opening import needs_windows, open_large
from maskwright.data.mask_files import read_mask
from maskwright.errors import DataError

_ROWS = 1024


class MaskWindows:
    """A mask that is read by windows, where its file allows it.

    Args:
        path: its file.
        size: (width, height) of its image, where that is known.

    Raises:
        DataError: the file cannot be read, or has another size than its image.
    """

    def __init__(self, path: Path, size: tuple[int, int] | None) -> None:
        self.path = path
        self._image: LargeImage | None = None
        self._whole: NDArray[Any] | None = None
        if needs_windows(path):
            self._image = open_large(path)
            mine = self._image.size
        else:
            self._whole = read_mask(path)
            mine = self._whole.shape[1], self._whole.shape[0]
        self.size: tuple[int, int] = mine
        if size is not None and mine != size:
            sizes = f"the mask has {mine[0]}x{mine[1]} pixels, its image {size[0]}x{size[1]}"
            raise DataError([f"{path}: {sizes}; make them equal"])

    def read(self, window: Rectangle) -> NDArray[Any]:
        """The values ``(h, w)`` uint8 or uint16 of a window ``x0 y0 x1 y1``. Raises DataError for values beyond."""
        x0, y0, x1, y1 = window
        if self._whole is not None:
            return np.ascontiguousarray(self._whole[y0:y1, x0:x1])
        assert self._image is not None
        values = self._image.samples(window)
        if values.shape[2] != 1 or values.dtype not in (np.uint8, np.uint16):
            what = f"a large mask must have one channel of 8 or 16 bits, this has {values.shape[2]} of {values.dtype}"
            raise DataError([f"{self.path}: {what}; save it so"])
        return values[..., 0]

    def strips(self) -> list[Rectangle]:
        """Windows that make the whole mask, of whole rows."""
        width, height = self.size
        return [(0, top, width, min(top + _ROWS, height)) for top in range(0, height, _ROWS)]
