"""What a brush and a polygon cover, worked out anew and in whole numbers: the page's own answers are compared with these."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Point = tuple[float, float]


def brush(points: Sequence[Point], size: int, width: int, height: int) -> NDArray[np.bool_]:
    """The pixels whose centres are nearer than half of ``size`` to the way through ``points``, (height, width) bool.

    A brush of an odd size sits on pixel centres, one of an even size on corners. All places are doubled, so that they are whole numbers.
    """
    places = [tuple(_doubled(value, size) for value in point) for point in points]
    x, y = 2 * np.arange(width, dtype=np.int64) + 1, 2 * np.arange(height, dtype=np.int64)[:, None] + 1
    covered = np.zeros((height, width), bool)
    for (ax, ay), (bx, by) in zip(places[:1] + places[:-1], places):
        dx, dy = bx - ax, by - ay
        length, along = dx * dx + dy * dy, (x - ax) * dx + (y - ay) * dy
        at_start = (x - ax) ** 2 + (y - ay) ** 2 < size * size
        at_end = (x - bx) ** 2 + (y - by) ** 2 < size * size
        across = (x - ax) * dy - (y - ay) * dx
        between = (along >= 0) & (along <= length) & (across**2 < size * size * length)
        covered |= at_start | at_end | between
    return covered


def _doubled(value: float, size: int) -> int:
    return 2 * math.floor(value) + 1 if size % 2 else 2 * math.floor(value + 0.5)


def polygon(points: Sequence[Point], width: int, height: int) -> NDArray[np.bool_]:
    """The pixels whose centres lie inside by the even-odd rule, (height, width) bool; corners are given to a tenth of a pixel.

    A centre on an edge belongs to the polygon on its right and below. All places are counted in tenths.
    """
    places = [(round(10 * x), round(10 * y)) for x, y in points]
    x, y = 10 * np.arange(width, dtype=np.int64) + 5, 10 * np.arange(height, dtype=np.int64)[:, None] + 5
    inside = np.zeros((height, width), bool)
    for (ax, ay), (bx, by) in zip(places, places[1:] + places[:1]):
        if ay > by:
            (ax, ay), (bx, by) = (bx, by), (ax, ay)
        crosses = (ay <= y) & (y < by)
        # The edge meets the row at ax + (y - ay) (bx - ax) / (by - ay), which is at most x.
        is_left = (y - ay) * (bx - ax) <= (x - ax) * (by - ay)
        inside ^= crosses & is_left
    return inside
