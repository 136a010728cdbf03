"""Regions of a label map: connected parts, outlines, and where they lie."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from maskwright.data.labels import IGNORE

Map = NDArray[np.uint8]
"""(H, W) category ids, 255 = unknown."""

Region = NDArray[np.bool_]
"""(H, W)."""

SMALLEST = 12
"""Cells of a part, at least."""

operations: Any = ndimage
"""SciPy's, whose types say less than their documentation."""


def objects_of(labels: Map, most: int = 8) -> list[tuple[int, Region]]:
    """The connected parts of each category in a map (H, W), largest first: (category, region)."""
    found: list[tuple[int, Region]] = []
    for category in np.unique(labels):
        if category in (0, IGNORE):
            continue
        found += [(int(category), part) for part in parts_of(labels == category)]
    found.sort(key=lambda item: -int(item[1].sum()))
    return found[:most]


def parts_of(region: Region) -> list[Region]:
    """The connected parts of a region, diagonals included, but for the smallest."""
    parts, count = operations.label(region, structure=np.ones((3, 3)))
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    return [parts == part for part in range(1, count + 1) if sizes[part] >= SMALLEST]


def rectangle(region: Region, margin: int = 0) -> tuple[int, int, int, int]:
    """y0, y1, x0, x1 of a region that is not empty, half-open, and ``margin`` cells around it within the map."""
    rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
    height, width = region.shape
    return (
        max(0, int(rows[0]) - margin),
        min(height, int(rows[-1]) + 1 + margin),
        max(0, int(columns[0]) - margin),
        min(width, int(columns[-1]) + 1 + margin),
    )


def inner_border(region: Region, cells: int = 1) -> Region:
    """The cells of a region within a distance of its outline. The map's own border is no outline."""
    return region & ~operations.binary_erosion(region, iterations=cells, border_value=1)


def iou(a: Region, b: Region) -> float:
    """Of two regions; 1 where both are empty."""
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0


def moved(region: NDArray, down: int, right: int) -> NDArray:
    """A map (..., H, W) moved by whole cells; what comes in from outside is 0."""
    result = np.zeros_like(region)
    height, width = region.shape[-2:]
    to_y, to_x = slice(max(0, down), height + min(0, down)), slice(max(0, right), width + min(0, right))
    from_y, from_x = slice(max(0, -down), height - max(0, down)), slice(max(0, -right), width - max(0, right))
    result[..., to_y, to_x] = region[..., from_y, from_x]
    return result
