"""How a mask file says "here is the object": 1, white, half white, or white with grey edges. And what cannot be told.

Masks of one category come in many conventions, as tools and image formats have their own: 0 and 1, 0 and 255, 0 and 128,
and with greys in between where a mask was drawn with soft edges, resized or saved as JPEG. A mask of one convention says
what it means; greys mean "half way along an edge" only where they lie on one. This module tells them apart; nothing is
changed here.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from maskwright.data.labels import IGNORE

WHITES = (127, 128, 254, 255, 65535)
"""Values that tools write for "here", besides 1. Edges aside, a mask holds one of them."""

_NEAR = 4  # Pixels. Soft edges are narrower than this to each side; greys farther from white are no edge.
_FLAT = 4  # Pixels of even grey that JPEG may leave beside an edge.


@dataclass(frozen=True)
class Convention:
    """How one mask is written.

    Attributes:
        name: ``empty``; ``0/1``, ``0/255`` and so on; ``grey`` (two levels with greys along the edges); ``ids`` for
            anything else, which may be category or instance ids.
        white: the value that stands for the object; 0 where there is none or it cannot be told.
        why: of ``ids``: what speaks against two levels, for a message; may be empty.
    """

    name: str
    white: int = 0
    why: str = ""

    @property
    def two_levels(self) -> bool:
        """Whether the mask says "object or not" and nothing else."""
        return self.name != "ids"


def convention_of(values: NDArray[Any]) -> Convention:
    """The convention of a mask's pixels ``(H, W)``, integers from 0."""
    present, counts = np.unique(values, return_counts=True)
    marks = present[present > 0]
    if not len(marks):
        return Convention("empty")
    if len(marks) == 1 and (marks[0] == 1 or marks[0] in WHITES):
        return Convention(f"0/{marks[0]}", int(marks[0]))
    # JPEG goes beyond white, and small objects with soft edges hardly reach it: most of the bright pixels tell what it was.
    bright = present > marks[-1] / 2
    level = present[bright][counts[bright].argmax()]
    white = next((white for white in (128, 255, 65535) if 0.8 * white <= level <= 1.2 * white), 0)
    if not white or len(marks) < 4:
        return Convention("ids")
    if not _one_level(present, counts, white):
        return Convention("ids", why="its bright pixels have no common level")
    if reason := _more_than_edges(values, white):
        return Convention("ids", why=reason)
    return Convention("grey", white)


def to_object(values: NDArray[Any], convention: Convention, threshold: float = 0.5) -> tuple[NDArray[np.uint8], int]:
    """A mask of two levels as 0 and 1.

    Args:
        values: ``(H, W)``.
        convention: that of these values.
        threshold: share 0..1 of white from which a pixel is the object's.

    Returns:
        ``(H, W)`` uint8; and how many pixels were neither 0 nor white, and so moved to one of them.

    Raises:
        ValueError: the convention is ``ids``.
    """
    if not convention.two_levels:
        raise ValueError("ids have no threshold")
    if convention.name == "empty":
        return np.zeros(values.shape, np.uint8), 0
    inside = values >= max(1.0, threshold * convention.white)
    between = (values != 0) & (values != convention.white) if convention.name == "grey" else np.zeros(1, bool)
    return inside.astype(np.uint8), int(np.count_nonzero(between))


def mixed(names: Counter[str]) -> bool:
    """Whether masks of one dataset, counted by the names of their conventions, write the object in several ways."""
    return len([name for name in names if name not in ("empty", "ids")]) > 1


def ignores_and_marks(values: NDArray[Any]) -> bool:
    """Whether a mask holds 255 beside ids, so that 255 must mean "ignore" in it."""
    present = np.unique(values)
    return IGNORE in present and bool(((present > 0) & (present != IGNORE)).any())


def _one_level(present: NDArray[Any], counts: NDArray[np.int64], white: int) -> bool:
    """Whether most pixels that are brighter than half of white are near it, and hardly any far beyond."""
    bright = int(counts[present > white / 2].sum())
    near = counts[np.abs(present - float(white)) <= 0.25 * white].sum()
    beyond = counts[present > 1.35 * white].sum()
    return bool(near >= 0.5 * bright and beyond <= 0.05 * bright)


def _more_than_edges(values: NDArray[Any], white: int) -> str:
    """What greys there are that no soft edge explains; empty if there are none."""
    low, high = values <= white / 4, values >= white * 3 / 4
    middle = ~(low | high)
    objects = int(np.count_nonzero(high))
    if np.count_nonzero(middle) > max(objects, np.count_nonzero(low)):
        return "most of its pixels are grey"
    tolerance = max(2, white // 64)
    smooth = values.astype(np.int32)
    spread = ndimage.maximum_filter(smooth, 3) - ndimage.minimum_filter(smooth, 3)
    flat = middle & (spread <= tolerance)
    if np.count_nonzero(flat) > max(_FLAT, objects // 100):
        level = int(np.median(values[flat]))
        return (
            f"{int(np.count_nonzero(flat)):,} pixels lie in even areas of grey (about {level}), as of a second category"
        )
    # An edge lies between black and white; grey lines and spots of their own do not.
    apart = middle & (ndimage.maximum_filter(high, 2 * _NEAR + 1) == 0)
    if np.count_nonzero(apart) > max(_FLAT, objects // 20):
        return f"{int(np.count_nonzero(apart)):,} grey pixels lie apart from every white area"
    # Levels far below white, as ids 1, 2, 3 beside 255 are, are no soft edges either: those have all levels.
    few = np.unique(values[low & (values > 0)])
    if np.count_nonzero(middle) == 0 and len(few) and few.max() < white / 32 and not _is_noise(values, white):
        return "its smallest values look like ids"
    return ""


def _is_noise(values: NDArray[Any], white: int) -> bool:
    """Whether the small values are what JPEG leaves: around edges, and next to other small values of all sizes."""
    small = (values > 0) & (values <= white / 4)
    edges = ndimage.maximum_filter(values >= white * 3 / 4, 17)  # JPEG's blocks have 8 x 8 pixels.
    return bool(np.count_nonzero(small & (edges == 0)) <= np.count_nonzero(small) // 20)
