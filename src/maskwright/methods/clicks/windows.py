"""Where a click agent that learnt from crops looks: a square about what a user marked, or about each object of a mask."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from maskwright.data.geometry import Size
from maskwright.data.large.image import Rectangle

ROOM = 1.25
"""How many times longer than what is marked a square is at least; longer than a crop only where it must be."""


def window_about(box: Sequence[float], size: Size, crop: float) -> Rectangle:
    """The square of ``crop`` pixels, or more where the box ``x0 y0 x1 y1`` needs it, about its middle and inside the image."""
    side = round(max(crop, ROOM * (box[2] - box[0]), ROOM * (box[3] - box[1])))
    spans = []
    for low, high, length in ((box[0], box[2], size[0]), (box[1], box[3], size[1])):
        wide = min(side, length)
        begin = int(min(max(round((low + high - wide) / 2), 0), length - wide))
        spans.append((begin, begin + wide))
    (x0, x1), (y0, y1) = spans
    return x0, y0, x1, y1


def objects_of(mask: NDArray[np.uint8], crop: float) -> Iterator[tuple[Rectangle, NDArray[np.uint8]]]:
    """Each connected part of each category of a mask ``(H, W)``: its square, and the mask there with nothing but that part."""
    size = mask.shape[1], mask.shape[0]
    for category in np.unique(mask[mask > 0]).tolist():
        labelled: Any = ndimage.label(mask == category)
        for number, place in enumerate(ndimage.find_objects(labelled[0]), start=1):
            box = place[1].start, place[0].start, place[1].stop, place[0].stop
            x0, y0, x1, y1 = window = window_about(box, size, crop)
            yield window, ((labelled[0][y0:y1, x0:x1] == number) * np.uint8(category)).astype(np.uint8)
