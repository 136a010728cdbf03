"""COCO's ``segmentation`` in all the forms that tools write: what can be drawn of it, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskwright.data.fields import Fields, shown
from maskwright.data.formats import rle

OVERHANG = 0.02
"""Share of the image's side by which outlines and boxes may reach over its border: they are cut off there, with a warning."""

HAIR = 0.01
"""Pixels by which they may do so without a word: COCO rounds to two decimals."""

_FEW = "a polygon needs x and y of at least three vertices"


def clean(fields: Fields, value: Any, place: str, size: tuple[int, int] | None) -> Any:
    """A segmentation without what cannot be drawn, in one of the two forms that :func:`draw` takes; None if nothing is left.

    Args:
        fields: takes the faults and warnings.
        value: not empty.
        place: of the segmentation, for messages.
        size: (width, height) of the image, None where it is not known.

    Returns:
        A list of polygons; or an object with ``size`` and ``counts``.
    """
    if isinstance(value, dict):
        return _checked_run_lengths(fields, value, place, size)
    if not isinstance(value, list):
        fields.note(place, "is neither a list of polygons nor an object with size and counts; correct or remove it")
        return None
    if all(_is_number(v) for v in value):
        fields.warn(place, "is a flat list of numbers: read as one polygon", "flat-polygon")
        value = [value]
    if not all(isinstance(part, list) and all(_is_number(v) for v in part) for part in value):
        fields.note(place, "a polygon must be a list of numbers x, y, x, y, ...; correct or remove it", "polygon")
        return None
    parts = [part for part in value if len(part) >= 6 and len(part) % 2 == 0]
    if not parts:
        fields.mendable(place, f"{_FEW}; draw it anew or remove it", "degenerate-polygon", "the annotation is left out")
        return None
    if left := len(value) - len(parts):
        what = f"{left} of its {len(value)} polygons have no area ({_FEW}): left out"
        fields.warn(place, what, "degenerate-part")
    return parts if size is None or _inside(fields, parts, place, size) else None


def _checked_run_lengths(fields: Fields, value: dict[str, Any], place: str, size: tuple[int, int] | None) -> Any:
    if not isinstance(value.get("counts"), (list, str)):
        fields.note(place, "is neither a list of polygons nor an object with size and counts; correct or remove it")
        return None
    stated = value.get("size")
    if size is not None and (not isinstance(stated, list) or stated != [size[1], size[0]]):
        swapped = " (height comes first)" if stated == list(size) and size[0] != size[1] else ""
        what = f"its size {shown(stated)} is not that of the image, {[size[1], size[0]]}{swapped}"
        fields.note(place, f"{what}; correct or remove it", "run-lengths")
        return None
    return {"size": stated, "counts": value["counts"]}


def _inside(fields: Fields, parts: Sequence[Sequence[float]], place: str, size: tuple[int, int]) -> bool:
    """Whether polygons lie in the image, or little enough outside to be cut off; what is more is noted."""
    over = max(overhang(part[0::2], size[0]) / size[0] for part in parts)
    over = max(over, *(overhang(part[1::2], size[1]) / size[1] for part in parts))
    if over <= HAIR / max(size):
        return True
    what = f"reaches outside the image of {size[0]} x {size[1]}"
    if over <= OVERHANG:
        fields.warn(place, f"{what} by up to {over:.1%} of its side: cut off there", "outline-outside")
        return True
    what = f"{what} by {over:.0%} of its side" if over < 100 else f"{what} by far"
    problem = f"{what}; correct or remove it"
    if over > 1:  # Too far to be this image's outline drawn over its border.
        fields.note(place, problem, "outline-outside")
        return False
    return fields.mendable(place, problem, "outline-outside", "cut off there")


def overhang(values: Sequence[float], limit: int) -> float:
    """By how much the farthest of some coordinates lies outside of 0..limit; infinity where one is not finite."""
    low, high = min(values), max(values)
    if any(v != v for v in values):
        return float("inf")
    try:
        return max(0.0, -float(low), float(high) - limit)
    except OverflowError:
        return float("inf")


def draw(segmentation: Any, size: tuple[int, int]) -> rle.Part:
    """What a clean segmentation fills, equal to pycocotools' ``annToMask``.

    Args:
        segmentation: a list of polygons, or an object with counts, as :func:`clean` leaves it.
        size: (height, width).

    Raises:
        ValueError: run lengths that do not fill the size, or a polygon that cannot be drawn.
    """
    if isinstance(segmentation, list):
        return rle.Part.union([rle.polygon_part(vertices, size) for vertices in segmentation])
    counts = segmentation["counts"]
    if len(counts) > 7 * (size[0] * size[1] + 2):
        raise ValueError(f"it has more run lengths than {size[0]} x {size[1]} pixels")
    return rle.decode_part(rle.decompress(counts) if isinstance(counts, str) else counts, size)


def rasterize(segmentation: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask ``(H, W)`` bool of a COCO ``segmentation`` in any of its forms; ``size`` is (H, W). Raises ValueError."""
    fields = Fields()
    cleaned = clean(fields, segmentation, "it", None)
    if cleaned is None:
        raise ValueError(fields.problems[0].message)
    if isinstance(cleaned, dict) and cleaned["size"] != list(size):
        raise ValueError(f"its size {shown(cleaned['size'])} is not that of the image, {list(size)}")
    return draw(cleaned, size).whole(size)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)
