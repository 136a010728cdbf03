"""Objects of an image from what was seen in overlapping tiles: each once, and whole where tiles' borders cut it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from maskwright.methods.instances.coco import Detection, cut

SAME = 0.5
"""IoU, within what two tiles both show, above which objects of one category are one."""

Rectangle = tuple[int, int, int, int]
"""``x0 y0 x1 y1`` in pixels of the image, half-open."""


@dataclass(frozen=True)
class Sighting:
    """An object as one tile shows it.

    Attributes:
        found: its mask in the image's pixels.
        tile: what the tile shows of the image.
        is_cut: it reaches a border of the tile that is not the image's.
    """

    found: Detection
    tile: Rectangle
    is_cut: bool


def stitched(sightings: Iterable[Sighting]) -> list[Detection]:
    """One detection for each object, the surest first; its score is that of the surest sighting.

    Two sightings in different tiles are one object if their masks agree on what both tiles show. Where some tile shows it whole, that
    mask is taken; else the parts are joined.
    """
    # What is whole comes first, so that parts meet it; among equals the surest.
    order = sorted(sightings, key=lambda one: (one.is_cut, -one.found.score))
    objects: list[_Object | None] = []
    boxes = np.zeros(
        (len(order), 5), np.int64
    )  # x0 y0 x1 y1 and category; zeros where an object became part of another
    for one in order:
        x0, y0, x1, y1 = one.found.box
        known = boxes[: len(objects)]
        near = (known[:, 0] < x1) & (known[:, 2] > x0) & (known[:, 1] < y1) & (known[:, 3] > y0)
        near &= known[:, 4] == one.found.category
        alike = []
        for place in np.flatnonzero(near).tolist():
            each = objects[place]
            if each is not None and one.tile not in each.tiles and (agreement := each.agreement(one)) > SAME:
                alike.append((agreement, place, each))
        _, place, mine = max(alike, key=lambda entry: entry[:2], default=(0.0, len(objects), None))
        if mine is None:
            mine = _Object(one.found, [one.tile], one.is_cut)
            objects.append(mine)
        else:
            mine.join(one.found, [one.tile])
            # A part may be what connects parts that had nothing in common.
            for _, other, each in alike:
                if mine.is_cut and each.is_cut and each is not mine:
                    mine.join(each.found, each.tiles)
                    objects[other], boxes[other] = None, 0
        boxes[place] = *mine.found.box, mine.found.category
    return sorted((each.found for each in objects if each is not None), key=lambda found: -found.score)


@dataclass
class _Object:
    """What is known of an object so far; ``tiles`` are those that show it."""

    found: Detection
    tiles: list[Rectangle]
    is_cut: bool

    def agreement(self, one: Sighting) -> float:
        """IoU of the masks within what both have seen; 0 where they share nothing."""
        mine, other = self.found, one.found
        common = _part(mine, other.box) & _part(other, mine.box)
        seen = np.zeros(other.mask.shape, bool)
        for x0, y0, x1, y1 in self.tiles:
            rows = slice(max(0, y0 - other.top), max(0, y1 - other.top))
            seen[rows, max(0, x0 - other.left) : max(0, x1 - other.left)] = True
        shared = int(common.sum())
        either = int(_part(mine, one.tile).sum()) + int((other.mask & seen).sum()) - shared
        return shared / either if either else 0.0

    def join(self, other: Detection, tiles: Sequence[Rectangle]) -> None:
        """Take what these tiles show as part of this object, or as a part of what is known as a whole."""
        mine = self.found
        self.tiles += tiles
        score = max(mine.score, other.score)
        if not self.is_cut:
            self.found = replace(mine, score=score)
            return
        left, top = min(mine.left, other.left), min(mine.top, other.top)
        right, bottom = max(mine.box[2], other.box[2]), max(mine.box[3], other.box[3])
        mask = np.zeros((bottom - top, right - left), bool)
        for part in (mine, other):
            x0, y0, x1, y1 = part.box
            mask[y0 - top : y1 - top, x0 - left : x1 - left] |= part.mask
        joined = cut(mask, mine.category, score, left, top)
        assert joined is not None
        self.found = joined


def _part(found: Detection, area: Rectangle) -> NDArray[np.bool_]:
    """The mask of a detection within an area of the image; empty where they do not meet."""
    x0, y0, x1, y1 = area
    left, top = found.left, found.top
    return found.mask[max(0, y0 - top) : max(0, y1 - top), max(0, x0 - left) : max(0, x1 - left)]


def touching(
    boxes: NDArray[np.float64], tile: NDArray[np.float64], size: NDArray[np.int64], reach: float
) -> NDArray[np.bool_]:
    """Which boxes (K, 4) come within ``reach`` pixels of a border of their tile ``x0 y0 x1 y1`` that is not the border of the image."""
    low = np.where(tile[:2] > 0, tile[:2] + reach, -np.inf)
    high = np.where(tile[2:] < size, tile[2:] - reach, np.inf)
    return np.asarray(((boxes[:, :2] < low) | (boxes[:, 2:] > high)).any(1))
