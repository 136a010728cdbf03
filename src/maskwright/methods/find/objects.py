"""Objects of one category in a mask, parted where they touch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from maskwright.data.geometry import resize_matrix, warp_mask
from maskwright.methods.instances.coco import Detection

operations: Any = ndimage

_APART = 0.6
# Centres of two objects are at least so many usual diameters apart.
_LEAST = 0.08
# Share of a usual object's area that a part must have.


def separate(mask: NDArray[np.bool_], diameter: float) -> NDArray[np.int32]:
    """Ids from 1 of the objects in a mask (h, w); 0 elsewhere, and where a part is too small to be an object.

    Each local maximum of the distance from the border is the centre of one, with that distance as its radius. A pixel belongs to the
    centre of its connected part with the least power distance, d² - r²: borders lie where two discs would touch.

    Args:
        diameter: that objects of this category usually have, in pixels.
    """
    distance = operations.distance_transform_edt(mask)
    smooth = operations.gaussian_filter(distance, max(0.5, diameter / 10))
    reach = 2 * max(1, round(_APART * diameter / 2)) + 1
    peaks, _ = operations.label(
        (smooth == operations.maximum_filter(smooth, size=reach)) & mask, structure=np.ones((3, 3))
    )
    parts, _ = operations.label(mask, structure=np.ones((3, 3)))
    least = max(1.0, _LEAST * np.pi * (diameter / 2) ** 2)
    ids, count = np.zeros(mask.shape, np.int32), 0
    for number, place in enumerate(operations.find_objects(parts), 1):
        inside = parts[place] == number
        own = np.unique(peaks[place][inside & (peaks[place] > 0)])
        centres = np.array(operations.center_of_mass(peaks[place] > 0, peaks[place], own)).reshape(-1, 2)
        radii = operations.maximum(distance[place], peaks[place], own)
        pixels = np.argwhere(inside)
        power = ((pixels[:, None] - centres) ** 2).sum(2) - np.square(radii)
        nearest = power.argmin(1)
        for one in range(len(own)):
            chosen = pixels[nearest == one]
            if len(chosen) >= least:
                count += 1
                ids[place][tuple(chosen.T)] = count
    return ids


def objects_of(
    mask: NDArray[np.uint8], side: int, diameters: Mapping[int, float], sureness: Mapping[int, float]
) -> list[Detection]:
    """The objects of a mask (H, W) of category ids, the surest first.

    Args:
        side: of the square canvas on which they are parted; ``diameters`` of each category are in its pixels.
        sureness: 0..1 of each category; objects of one category are ordered by their area.
    """
    height, width = mask.shape
    matrix = resize_matrix((width, height), side)
    rows, columns = (np.minimum(np.arange(n) * side // n, side - 1) for n in (height, width))
    found: list[Detection] = []
    for category in np.unique(mask[mask > 0]).tolist():
        whole = mask == category
        small = warp_mask(whole.astype(np.uint8), matrix, side, fill=0) > 0
        ids = separate(small, diameters.get(category, side / 4))
        if not ids.any():
            continue
        # Each pixel of the mask gets the id that is nearest on the canvas.
        nearest = operations.distance_transform_edt(ids == 0, return_distances=False, return_indices=True)
        full = ids[tuple(nearest)][rows[:, None], columns[None]] * whole
        for id, place in enumerate(operations.find_objects(full), 1):
            if place is not None:
                inside = full[place] == id
                found.append(Detection(category, sureness.get(category, 0.0), place[1].start, place[0].start, inside))
    return sorted(found, key=lambda one: (-one.score, -one.area))
