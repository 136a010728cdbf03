"""The objects of an image that is looked at area by area: each area with what lies around it, then all joined across the seams.

An object that an area's view shows whole is taken by the area in which its middle lies. One that the view's border cuts is a part,
and joined with the other areas' parts of it; see ``stitching``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskwright.data.geometry import Size
from maskwright.data.large.image import Rectangle
from maskwright.engine.sliding import Slide
from maskwright.methods.instances.coco import Detection
from maskwright.methods.instances.stitching import Sighting, stitched, touching

AREA = 1536
"""Pixels along the side of an area: finding objects takes some 250 bytes for each pixel of its view."""

REACH = 2
"""Pixels from a view's border at which an object counts as cut."""

SLACK = 8
"""Pixels beyond its area in which an area still takes an object: two views may see its middle a little differently."""


def view_of(area: Rectangle, slide: Slide) -> Rectangle:
    """An area with half a window around it, inside the image."""
    (x0, y0, x1, y1), margin, (width, height) = area, slide.side // 2, slide.size
    return max(0, x0 - margin), max(0, y0 - margin), min(width, x1 + margin), min(height, y1 + margin)


def packed(found: Sequence[Detection], view: Rectangle, area: Rectangle, size: Size) -> dict[str, NDArray[Any]]:
    """What an area keeps of the objects that its view shows, as arrays.

    Args:
        found: in pixels of the view.
        view, area: in pixels of the image of this ``size``.

    Returns:
        ``boxes`` (n, 4) in pixels of the image, ``categories``, ``scores``, ``is_cut`` and ``at_seam`` (n,), ``view`` (4,), and
        ``bits``: the masks, one after the other, eight pixels a byte.
    """
    boxes = np.array([one.box for one in found], np.int64).reshape(-1, 4) + np.array([*view[:2], *view[:2]])
    is_cut = touching(boxes.astype(np.float64), np.array(view, np.float64), np.array(size), REACH)
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    low, high = np.array(area[:2]), np.array(area[2:])
    mine = ((middle >= low - SLACK) & (middle < high + SLACK)).all(1)
    meets = ((boxes[:, :2] < high) & (boxes[:, 2:] > low)).all(1)
    kept: list[int] = np.flatnonzero(np.where(is_cut, meets, mine)).tolist()
    # Objects that no other area can have seen too need not be compared with any.
    inner_low = np.where(low > 0, low + (low - np.array(view[:2])) + SLACK, -1)
    inner_high = np.where(high < np.array(size), high - (np.array(view[2:]) - high) - SLACK, np.array(size) + 1)
    at_seam = ((boxes[:, :2] < inner_low) | (boxes[:, 2:] > inner_high)).any(1) | is_cut
    bits = [np.packbits(found[i].mask.reshape(-1)) for i in kept]
    return {
        "view": np.array(view),
        "boxes": boxes[kept],
        "categories": np.array([found[i].category for i in kept], np.int64),
        "scores": np.array([found[i].score for i in kept], np.float64),
        "is_cut": is_cut[kept],
        "at_seam": at_seam[kept],
        "bits": np.concatenate(bits) if bits else np.zeros(0, np.uint8),
    }


def joined(areas: Iterable[Mapping[str, NDArray[Any]]]) -> list[Detection]:
    """One detection for each object of an image, from what all of its areas :func:`packed`; from top to bottom."""
    whole: list[Detection] = []
    sightings: list[Sighting] = []
    for area in areas:
        x0, y0, x1, y1 = (int(value) for value in area["view"])
        start = 0
        for number, (left, top, right, bottom) in enumerate(area["boxes"].tolist()):
            count = (right - left) * (bottom - top)
            size = (count + 7) // 8
            mask = np.unpackbits(area["bits"][start : start + size], count=count).astype(bool)
            start += size
            category, score = int(area["categories"][number]), float(area["scores"][number])
            detection = Detection(category, score, left, top, mask.reshape(bottom - top, right - left))
            if area["at_seam"][number]:
                sightings.append(Sighting(detection, (x0, y0, x1, y1), bool(area["is_cut"][number])))
            else:
                whole.append(detection)
    return sorted([*whole, *stitched(sightings)], key=lambda one: (one.top, one.left))
