"""The XML files of Pascal VOC: names and boxes of an image's objects."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree.ElementTree import Element

from maskwright.data.fields import Fields, is_name, shown
from maskwright.data.formats.objects import Corners, box_inside, checked_size
from maskwright.data.formats.safe_xml import read_xml
from maskwright.data.labels import Box
from maskwright.errors import DataError

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class Named:
    """An object of an XML file."""

    place: str
    name: str
    corners: Corners


@dataclass
class Described:
    """What an XML file says.

    Attributes:
        size: (width, height) where it is stated.
        objects: all that have a name, in their order.
        outlines: how many objects have a polygon, which is not read.
    """

    file: str
    size: tuple[int, int] | None = None
    objects: list[Named] = field(default_factory=list)
    outlines: int = 0


def described(fields: Fields, root: Path, file: str) -> Described | None:
    """Read an XML file of a dataset's folder; None where it cannot be (noted)."""
    try:
        document = read_xml(root / file)
    except DataError as error:
        fields.problems += error.problems
        return None
    if document.tag != "annotation":
        fields.note(file, f"is no annotation of Pascal VOC, its root is {shown(document.tag)}; remove it")
        return None
    found = Described(file, _size(fields, document, file))
    for number, row in enumerate(document.iterfind("object")):
        place = f"{file}: object[{number}]"
        name = (row.findtext("name") or "").strip()
        corners = _corners(fields, row, place)
        found.outlines += row.find("polygon") is not None
        if not is_name(name):
            fields.note(f"{place}.name", f"{shown(name)} is no category's name; write a text on one line")
        elif corners is not None:
            found.objects.append(Named(place, name, corners))
    return found


def counted_from_one(files: list[Described]) -> bool:
    """Whether corners are pixels counted from 1, the last included, as VOC's own are: all are whole, and none is 0.

    Most tools write the coordinates of this package instead.
    """
    values = [value for file in files for one in file.objects for value in one.corners]
    return bool(values) and all(value.is_integer() and value >= 1 for value in values)


def boxes(fields: Fields, file: Described, ids: dict[str, int], size: tuple[int, int], *, from_one: bool) -> list[Box]:
    """The boxes of an image (width, height), cut off at its border."""
    found = []
    for one in file.objects:
        x0, y0, x1, y1 = one.corners
        shift = 1 if from_one else 0
        inside = box_inside(fields, (x0 - shift, y0 - shift, x1, y1), one.place, size)
        if inside is not None and ids[one.name]:
            found.append(Box(*inside, category=ids[one.name]))
    return found


def _size(fields: Fields, document: Element, file: str) -> tuple[int, int] | None:
    """The stated size; None where there is none, or it says 0, as some tools do."""
    row = document.find("size")
    if row is None:
        return None
    sides = [_number(fields, row, key, f"{file}: size") for key in ("width", "height")]
    if None in sides or sides == [0, 0]:
        return None
    width, height = (side or 0 for side in sides)
    return checked_size(fields, int(width), int(height), f"{file}: size")


def _corners(fields: Fields, row: Element, place: str) -> Corners | None:
    box = row.find("bndbox")
    if box is None:
        fields.note(f"{place}.bndbox", "is missing; add it or remove the object", "no-shape")
        return None
    values = [_number(fields, box, key, f"{place}.bndbox") for key in _CORNERS]
    if any(value is None for value in values):
        return None
    x0, y0, x1, y1 = (value for value in values if value is not None)
    return x0, y0, x1, y1


def _number(fields: Fields, row: Element, key: str, place: str) -> float | None:
    text = (row.findtext(key) or "").strip()
    try:
        value = math.nan if "_" in text else float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or abs(value) > 1e9:
        fields.note(f"{place}.{key}", f"must be a finite number, found {shown(text)}; correct it")
        return None
    return value
