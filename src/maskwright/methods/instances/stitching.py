"""Joins the detections of overlapping tiles: each object counts once, and is whole where the borders of tiles cut it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from maskwright.methods.instances.coco import Detection, cut

SAME = 0.5
"""IoU, within the area that two tiles share, above which two detections of one category are one object."""

Rectangle = tuple[int, int, int, int]
"""``x0 y0 x1 y1`` in pixels of the image, half-open."""


@dataclass(frozen=True)
class Sighting:
    """An object as one tile shows it.

    Attributes:
        detection: in the image's pixels.
        tile: the part of the image that the tile shows.
        is_cut: whether the object reaches a border of the tile that is not the image's.
    """

    detection: Detection
    tile: Rectangle
    is_cut: bool


def stitched(sightings: Iterable[Sighting]) -> list[Detection]:
    """One detection for each object, the surest first; its score is that of the surest sighting.

    Two sightings in different tiles are one object if their masks agree in the area that both tiles show. If a tile shows the object whole,
    its mask is taken; else the parts are joined.
    """
    # Whole objects first, so that parts are compared with them; within each sort by descending score.
    order = sorted(sightings, key=lambda one: (one.is_cut, -one.detection.score))
    objects: list[_Object | None] = []
    boxes = np.zeros(
        (len(order), 5), np.int64
    )  # x0 y0 x1 y1 and category; zeros where an object became part of another
    for one in order:
        x0, y0, x1, y1 = one.detection.box
        others = boxes[: len(objects)]
        near = (others[:, 0] < x1) & (others[:, 2] > x0) & (others[:, 1] < y1) & (others[:, 3] > y0)
        near &= others[:, 4] == one.detection.category
        alike = []
        for place in np.flatnonzero(near).tolist():
            each = objects[place]
            if each is not None and one.tile not in each.tiles and (agreement := each.agreement(one)) > SAME:
                alike.append((agreement, place, each))
        _, place, mine = max(alike, key=lambda entry: entry[:2], default=(0.0, len(objects), None))
        if mine is None:
            mine = _Object(one.detection, [one.tile], one.is_cut)
            objects.append(mine)
        else:
            mine.join(one.detection, [one.tile])
            # This part may connect parts that do not touch each other.
            for _, other, each in alike:
                if mine.is_cut and each.is_cut and each is not mine:
                    mine.join(each.detection, each.tiles)
                    objects[other], boxes[other] = None, 0
        boxes[place] = *mine.detection.box, mine.detection.category
    return sorted((each.detection for each in objects if each is not None), key=lambda detection: -detection.score)


@dataclass
class _Object:
    """An object joined from its sightings so far; ``tiles`` are those that show it."""

    detection: Detection
    tiles: list[Rectangle]
    is_cut: bool

    def agreement(self, one: Sighting) -> float:
        """IoU of the masks within the area that both show; 0 where they share nothing."""
        mine, other = self.detection, one.detection
        common = _part(mine, other.box) & _part(other, mine.box)
        visible = np.zeros(other.mask.shape, bool)
        for x0, y0, x1, y1 in self.tiles:
            rows = slice(max(0, y0 - other.top), max(0, y1 - other.top))
            visible[rows, max(0, x0 - other.left) : max(0, x1 - other.left)] = True
        shared = int(common.sum())
        either = int(_part(mine, one.tile).sum()) + int((other.mask & visible).sum()) - shared
        return shared / either if either else 0.0

    def join(self, other: Detection, tiles: Sequence[Rectangle]) -> None:
        """Add a sighting in these tiles: joined to the mask, unless the object is whole already."""
        mine = self.detection
        self.tiles += tiles
        score = max(mine.score, other.score)
        if not self.is_cut:
            self.detection = replace(mine, score=score)
            return
        left, top = min(mine.left, other.left), min(mine.top, other.top)
        right, bottom = max(mine.box[2], other.box[2]), max(mine.box[3], other.box[3])
        mask = np.zeros((bottom - top, right - left), bool)
        for part in (mine, other):
            x0, y0, x1, y1 = part.box
            mask[y0 - top : y1 - top, x0 - left : x1 - left] |= part.mask
        joined = cut(mask, mine.category, score, left, top)
        assert joined is not None
        self.detection = joined


def _part(detection: Detection, area: Rectangle) -> NDArray[np.bool_]:
    """The mask of a detection within an area of the image; empty where they do not meet."""
    x0, y0, x1, y1 = area
    left, top = detection.left, detection.top
    return detection.mask[max(0, y0 - top) : max(0, y1 - top), max(0, x0 - left) : max(0, x1 - left)]


def touching(
    boxes: NDArray[np.float64], tile: NDArray[np.float64], size: NDArray[np.int64], reach: float
) -> NDArray[np.bool_]:
    """Which boxes (K, 4) come within ``reach`` pixels of a border of their tile ``x0 y0 x1 y1`` that is not the border of the image."""
    low = np.where(tile[:2] > 0, tile[:2] + reach, -np.inf)
    high = np.where(tile[2:] < size, tile[2:] - reach, np.inf)
    return np.asarray(((boxes[:, :2] < low) | (boxes[:, 2:] > high)).any(1))
