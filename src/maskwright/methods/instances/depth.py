"""How deep inside its object each pixel lies: what a dense segmenter learns, and what the objects it draws are judged by."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


def depths(ids: NDArray[np.integer]) -> NDArray[np.float32]:
    """Distance (H, W) of every pixel of an object to the object's border, divided by the object's largest; 0 on the background.

    The distance of a pixel that touches another object, or the background, is 1. What the map cuts off is no border.

    Args:
        ids: (H, W), 0 = background.
    """
    at_border = np.zeros(ids.shape, bool)
    for a, b in (
        ((slice(None), slice(None, -1)), (slice(None), slice(1, None))),
        ((slice(None, -1),), (slice(1, None),)),
    ):
        differs = ids[a] != ids[b]
        at_border[a] |= differs
        at_border[b] |= differs
    at_border &= ids > 0
    if not at_border.any():
        return (ids > 0).astype(np.float32)
    to_border: Any = ndimage.distance_transform_edt(~at_border)
    distance = np.where(ids > 0, to_border + 1, 0)
    largest = np.zeros(int(ids.max()) + 1)
    np.maximum.at(largest, ids.reshape(-1), distance.reshape(-1))
    return (distance / np.maximum(largest, 1)[ids]).astype(np.float32)
