"""What the page and the server send each other: masks as run lengths, objects as JSON, and the bounds of both.

A mask on the wire is ``{"box": [x, y, w, h], "counts": [zeros, ones, zeros, ...]}``: run lengths, row by row, within a box of whole
pixels of the image; the first run is one of zeros and may be empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskwright.data.labels import IGNORE

Size = tuple[int, int]
"""(width, height) of an image in pixels."""

MAX_OBJECTS = 5_000
"""Objects of an image."""

MAX_RUNS = 4_000_000
"""Runs of a mask."""

MAX_POINTS = 20_000
"""Points of a scribble, and clicks of a question to SAM."""

SOURCES = ("brush", "polygon", "sam", "proposal", "file", "hand")
"""How an object came about."""


class WireError(Exception):
    """A request that cannot be answered.

    Attributes:
        status: the HTTP status that says so.
    """

    def __init__(self, message: str, status: int = 422) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Runs:
    """A mask within a box of an image.

    Attributes:
        box: x, y, width and height in pixels of the image.
        counts: lengths of the runs of zeros and ones in turn, row by row; their sum is width x height.
    """

    box: tuple[int, int, int, int]
    counts: tuple[int, ...]

    @classmethod
    def of_mask(cls, mask: NDArray[np.bool_], offset: tuple[int, int] = (0, 0)) -> Runs | None:
        """The runs of a mask (H, W), which lies at ``offset`` (x, y) of its image; None where nothing is set."""
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if not len(rows):
            return None
        y0, y1, x0, x1 = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
        flat = mask[y0:y1, x0:x1].reshape(-1)
        changes = (flat[1:] != flat[:-1]).nonzero()[0] + 1
        edges = np.concatenate([[0], changes, [len(flat)]])
        counts = np.diff(edges).tolist()
        return cls((x0 + offset[0], y0 + offset[1], x1 - x0, y1 - y0), tuple([0, *counts] if flat[0] else counts))

    def part(self) -> NDArray[np.bool_]:
        """The mask within its box, (h, w) bool."""
        _, _, width, height = self.box
        values = np.arange(len(self.counts)) % 2 == 1
        return np.repeat(values, self.counts).reshape(height, width)

    def whole(self, size: Size) -> NDArray[np.float32]:
        """The mask on an image of (width, height): (H, W), 0 or 1."""
        values = np.zeros((size[1], size[0]), np.float32)
        self.paint(values, 1)
        return values

    def paint(self, values: NDArray[Any], value: int) -> None:
        """Set the pixels of a map (H, W) that the mask covers."""
        x, y, width, height = self.box
        values[y : y + height, x : x + width][self.part()] = value

    def as_json(self) -> dict[str, Any]:
        return {"box": list(self.box), "counts": list(self.counts)}

    @classmethod
    def of_checked(cls, value: Mapping[str, Any]) -> Runs:
        """Of what :meth:`as_json` gave, or :meth:`of_json` has let through before."""
        return cls(tuple(value["box"]), tuple(value["counts"]))

    @classmethod
    def of_json(cls, value: Any, size: Size, where: str = "mask") -> Runs:
        """Raises WireError for anything but a mask that lies within an image of ``size``."""
        entry = _mapping(value, where, {"box", "counts"})
        box, counts = entry["box"], entry["counts"]
        if not _whole(box, 4) or box[0] < 0 or box[1] < 0 or box[2] < 1 or box[3] < 1:
            raise WireError(f"{where}: box must be four whole numbers x, y, width, height, with at least one pixel")
        if box[0] + box[2] > size[0] or box[1] + box[3] > size[1]:
            raise WireError(f"{where}: box {box} reaches beyond the image's {size[0]} x {size[1]} pixels")
        if not isinstance(counts, list) or len(counts) > MAX_RUNS or not _whole(counts, len(counts)):
            raise WireError(f"{where}: counts must be a list of at most {MAX_RUNS} whole numbers")
        lengths = np.array(counts, np.float64)
        if (lengths < 0).any() or lengths.sum() != box[2] * box[3]:
            raise WireError(f"{where}: counts must be positive and add up to the {box[2] * box[3]} pixels of the box")
        return cls((box[0], box[1], box[2], box[3]), tuple(counts))


def checked_object(value: Any, size: Size, categories: int) -> dict[str, Any]:
    """An object that the page sent, checked and without anything else.

    Args:
        size: (width, height) of the image.
        categories: how many there are, background among them.

    Raises:
        WireError: names the field that is wrong.
    """
    if not isinstance(value, dict):
        raise WireError("object: must be a JSON object")
    kind = value.get("kind")
    places = {"mask": "mask", "box": "xyxy", "scribble": "points", "point": "xy"}
    if not isinstance(kind, str) or kind not in places:
        raise WireError(f"object: kind {kind!r} is none of {', '.join(places)}")
    name, source = checked_id(value.get("id")), value.get("source", "hand")
    category: Any = value.get("category")
    lowest = 0 if kind in ("scribble", "point") else 1
    may_be_unknown = kind == "mask" and category == IGNORE
    if not is_whole(category) or not (lowest <= category < categories or may_be_unknown):
        raise WireError(f"object {name}: category {category!r} must be {lowest}..{categories - 1}")
    if source not in SOURCES:
        raise WireError(f"object {name}: source {source!r} is none of {', '.join(SOURCES)}")
    place = value.get(places[kind])
    where = f"object {name}, {places[kind]}"
    if kind == "mask":
        place = Runs.of_json(place, size, where).as_json()
    elif kind == "box":
        place = checked_box(place, size, where)
    elif kind == "point":
        place = checked_points([place], size, where)[0]
    else:
        place = checked_points(place, size, where)
        if not place:
            raise WireError(f"{where}: a scribble has at least one point")
    return {"id": name, "kind": kind, "category": category, "source": source, places[kind]: place}


def checked_id(value: Any) -> str:
    """The name that the page gives an object, an operation or itself."""
    if not isinstance(value, str) or not 1 <= len(value) <= 64 or not value.isascii() or not value.isprintable():
        raise WireError("id: must be a text of 1 to 64 printable characters")
    return value


def checked_box(value: Any, size: Size, where: str) -> list[float]:
    if not isinstance(value, list) or len(value) != 4 or not all(map(_is_number, value)):
        raise WireError(f"{where}: must be four numbers x0, y0, x1, y1")
    x0, y0, x1, y1 = value
    if not (0 <= x0 < x1 <= size[0] and 0 <= y0 < y1 <= size[1]):
        raise WireError(f"{where}: {value} must lie in the image, with x0 < x1 and y0 < y1")
    return value


def checked_points(value: Any, size: Size, where: str, numbers: int = 2) -> list[list[float]]:
    """Points x, y within the image; with ``numbers`` 3 each has 1 or 0 besides, on or off the object."""
    if not isinstance(value, list) or len(value) > MAX_POINTS:
        raise WireError(f"{where}: must be a list of at most {MAX_POINTS} points")
    for point in value:
        if not isinstance(point, list) or len(point) != numbers or not all(map(_is_number, point)):
            raise WireError(f"{where}: each point must be {numbers} numbers")
        if not (0 <= point[0] <= size[0] and 0 <= point[1] <= size[1]):
            raise WireError(f"{where}: {point[:2]} lies outside of the image's {size[0]} x {size[1]} pixels")
        if numbers == 3 and point[2] not in (0, 1):
            raise WireError(f"{where}: the third number is 1 on the object and 0 off it, not {point[2]!r}")
    return value


def _mapping(value: Any, where: str, keys: set[str]) -> Mapping[str, Any]:
    if not isinstance(value, dict) or value.keys() != keys:
        raise WireError(f"{where}: must be a JSON object with {', '.join(sorted(keys))}")
    return value


def _whole(values: Any, count: int) -> bool:
    return isinstance(values, list) and len(values) == count and all(map(is_whole, values))


def is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53


def _is_number(value: Any) -> bool:
    # Compared, not converted: a whole number of JSON may be too long for a float.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**53
