"""CVAT for images 1.1: ``annotations.xml`` with masks, polygons, ellipses, boxes, polylines, points and tags.

Read are the file, or a folder with one; images lie in ``images/``, ``images/<subset>/``, or beside the file. How shapes
become labels:

- ``mask``, ``polygon`` and ``ellipse`` become the instance mask. In front is what has the higher ``z_order``, then the
  smaller object.
- ``box`` becomes a Box, a turned one the upright Box around it; ``polyline`` a Scribble; each of ``points`` a Point; ``tag`` a Tag.
- Cuboids and skeletons are left out, with a warning that counts them. Attributes of shapes are not read.
- An image without any shape is unlabelled, unless it says ``labelled="1"``, as files that are written here do.

The order of ``<labels>`` gives the ids of the categories; a label called ``background`` is category 0.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal
from xml.etree.ElementTree import Element

import numpy as np

from maskwright.data.fields import Fields, shown
from maskwright.data.formats import rle
from maskwright.data.formats.cvat_writer import loss, write
from maskwright.data.formats.objects import (
    Entry,
    Outlined,
    box_inside,
    category_ids,
    checked_size,
    ellipse,
    points_inside,
    samples_of,
    turned,
)
from maskwright.data.formats.rle import Part
from maskwright.data.formats.safe_xml import read_xml, root_tag
from maskwright.data.formats.segmentations import clean, draw
from maskwright.data.formats.splits import split_of
from maskwright.data.labels import Box, Point, Samples, Scribble, Tag
from maskwright.data.paths import Files, resolve
from maskwright.data.reading import STRICT, Reading
from maskwright.errors import DataError

__all__ = ["LAYOUT", "detect", "loss", "read", "write"]

LAYOUT = "CVAT for images 1.1: annotations.xml, alone or in a folder"
NAME = "annotations.xml"
_NOT_READ = ("cuboid", "skeleton")


def detect(path: Path, document: Any) -> bool:
    """Whether a folder holds CVAT's ``annotations.xml``, or a file is one."""
    file = path / NAME if path.is_dir() else path
    return file.suffix.lower() == ".xml" and root_tag(file) == "annotations"


def read(path: str | Path, reading: Reading = STRICT) -> Samples:
    """Read CVAT's XML (see the module's docstring).

    Raises:
        DataError: every structural problem at once, with line of shapes' images and what is wrong; XML that is not safe.
    """
    path = Path(path)
    file = path / NAME if path.is_dir() else path
    root = read_xml(file)
    if root.tag != "annotations":
        raise DataError([f"{file}: is no CVAT file, its root is {shown(root.tag)}; check the path"])
    if root.find("track") is not None:
        raise DataError([f"{file}: is CVAT for video (with tracks), which is not read; export CVAT for images 1.1"])
    parse = _Parse(file.parent, reading, path)
    parse.categories(root)
    entries = [entry for i, row in enumerate(root.iterfind("image")) if (entry := parse.image(row, i))]
    if not entries and not parse.problems:
        parse.note(file.name, "has no image; export the task with its annotations")
    samples = samples_of(parse, file.parent, entries)
    if parse.problems:
        raise DataError(parse.problems, str(path))
    parse.tell_left_out()
    return Samples(file.parent, tuple(parse.ids), samples, str(path), "CVAT for images", tuple(parse.warnings))


class _Parse(Fields):
    def __init__(self, root: Path, reading: Reading, data: Path) -> None:
        super().__init__(reading, data)
        self.root, self.files = root, Files(root)
        self.ids: dict[str, int] = {"background": 0}
        self.left_out: Counter[str] = Counter()
        self.first: dict[str, str] = {}
        self.shapes: dict[str, Callable[[Element, str, int, Entry], None]] = {
            "mask": self.mask,
            "polygon": self.polygon,
            "ellipse": self.ellipse,
            "box": self.box,
            "polyline": self.polyline,
            "points": self.points,
            "tag": self.tag,
        }

    def categories(self, root: Element) -> None:
        """Those that the task names, then those that shapes have beyond them."""
        named = [
            ("meta.labels", (label.findtext("name") or "").strip())
            for meta in root.iterfind("meta")
            for label in meta.iter("label")
            if label.find("parent") is None  # The parts of a skeleton are not categories.
        ]
        used = [
            (f"image {shown(image.get('name', ''))}: {shape.tag}", shape.get("label", ""))
            for image in root.iterfind("image")
            for shape in image
            if shape.tag in self.shapes
        ]
        for place, name in used:
            if not name:
                self.note(place, "has no label; give it one")
        self.ids = category_ids(self, [*named, *((place, name) for place, name in used if name)])

    def image(self, row: Element, number: int) -> Entry | None:
        name = row.get("name", "")
        place = f"image {shown(name)}" if name else f"images[{number}]"
        subset = row.get("subset") or ""
        if not name:
            self.note(f"{place}.name", "is missing; add it")
            return None
        width, height = (self.number(row, key, place, whole=True) for key in ("width", "height"))
        folders = [f"images/{subset}/", "images/", f"{subset}/", ""] if subset.strip("./\\") else ["images/", ""]
        path = resolve(self, self.files, name, f"{place}.name", folders)
        if width is None or height is None or path is None:
            return None
        size = checked_size(self, int(width), int(height), place)
        if size is None:
            return None
        labelled = row.get("labelled", "0")
        if labelled not in ("0", "1"):
            self.note(f"{place}.labelled", f"must be 0 or 1, found {shown(labelled)}; correct it")
        entry = Entry(place, path, name, split_of(subset), size, labelled == "1")
        counts: Counter[str] = Counter()
        for shape in row:
            at = f"{place}: {shape.tag} {counts[shape.tag]}"
            counts[shape.tag] += 1
            category = self.ids.get(shape.get("label", ""))
            if shape.tag in _NOT_READ:
                self.leave_out(f"{shape.tag}s", at)
            elif shape.tag not in self.shapes:
                self.note(at, f"is no shape of CVAT's; known are {', '.join(self.shapes)}; remove it")
            elif category == 0 and shape.tag not in ("points", "polyline"):
                self.leave_out("shapes of the label background", at)
            elif category is not None:
                self.shapes[shape.tag](shape, at, category, entry)
        return entry

    def leave_out(self, what: str, place: str) -> None:
        self.left_out[what] += 1
        self.first.setdefault(what, place)

    def tell_left_out(self) -> None:
        for what, count in self.left_out.items():
            self.warn("", f"{count} {what} are left out, such as {self.first[what]}", "left-out")

    # ------------------------------------------------------------------------------------------------------- shapes

    def mask(self, row: Element, place: str, category: int, entry: Entry) -> None:
        left, top, width, height = (
            self.number(row, key, place, whole=True) for key in ("left", "top", "width", "height")
        )
        counts = self.numbers_in(row.get("rle"), f"{place}.rle", ",", whole=True)
        if left is None or top is None or width is None or height is None or counts is None:
            return
        if min(left, top) < 0 or min(width, height) < 1 or left + width > entry.size[0] or top + height > entry.size[1]:
            where = shown([int(v) for v in (left, top, width, height)])
            what = (
                f"its left, top, width and height {where} are not inside the image of {entry.size[0]} x {entry.size[1]}"
            )
            self.note(place, f"{what}; correct or remove it", "run-lengths")
            return
        shape = ["mask", int(left), int(top), int(width), int(height), [int(v) for v in counts]]
        entry.outlined.append(Outlined(f"{place}.rle", category, shape, draw_mask, self.layer(row, place)))

    def polygon(self, row: Element, place: str, category: int, entry: Entry) -> None:
        flat = self.coordinates(row, place)
        parts = clean(self, [flat], f"{place}.points", entry.size) if flat is not None else None
        if parts is not None:
            entry.outlined.append(Outlined(f"{place}.points", category, parts, draw, self.layer(row, place)))

    def ellipse(self, row: Element, place: str, category: int, entry: Entry) -> None:
        values = [self.number(row, key, place) for key in ("cx", "cy", "rx", "ry")]
        turn = self.number(row, "rotation", place, default=0.0)
        if turn is None or any(value is None for value in values):
            return
        cx, cy, rx, ry = (value for value in values if value is not None)
        if min(rx, ry) <= 0:
            self.note(place, f"its radii {shown([rx, ry])} must be positive; correct or remove it", "polygon")
            return
        parts = clean(self, [ellipse(cx, cy, rx, ry, turn)], place, entry.size)
        if parts is not None:
            entry.outlined.append(Outlined(place, category, parts, draw, self.layer(row, place)))

    def box(self, row: Element, place: str, category: int, entry: Entry) -> None:
        values = [self.number(row, key, place) for key in ("xtl", "ytl", "xbr", "ybr")]
        turn = self.number(row, "rotation", place, default=0.0)
        if turn is None or any(value is None for value in values):
            return
        x0, y0, x1, y1 = (value for value in values if value is not None)
        if turn % 180:
            x, y = turned(np.array([x0, x1, x1, x0]) - (x0 + x1) / 2, np.array([y0, y0, y1, y1]) - (y0 + y1) / 2, turn)
            across, down = float(x.max()), float(y.max())
            x0, x1 = (x0 + x1) / 2 - across, (x0 + x1) / 2 + across
            y0, y1 = (y0 + y1) / 2 - down, (y0 + y1) / 2 + down
            self.warn(place, "is turned: read as the upright box around it", "turned-box")
        corners = box_inside(self, (x0, y0, x1, y1), place, entry.size)
        if corners is not None:
            entry.boxes.append(Box(*corners, category=category))

    def polyline(self, row: Element, place: str, category: int, entry: Entry) -> None:
        points = points_inside(self, self.coordinates(row, place), f"{place}.points", entry.size)
        if points:
            entry.scribbles.append(Scribble(tuple(points), category))

    def points(self, row: Element, place: str, category: int, entry: Entry) -> None:
        for x, y in points_inside(self, self.coordinates(row, place), f"{place}.points", entry.size):
            entry.points.append(Point(x, y, category))

    def tag(self, row: Element, place: str, category: int, entry: Entry) -> None:
        entry.tags.append(Tag(category))

    # ------------------------------------------------------------------------------------------------------ numbers

    def layer(self, row: Element, place: str) -> int:
        return int(self.number(row, "z_order", place, whole=True, default=0.0) or 0)

    def coordinates(self, row: Element, place: str) -> list[float] | None:
        """``x,y;x,y`` as x, y, x, y, ..."""
        text = row.get("points")
        if text is not None and not all(pair.count(",") == 1 for pair in text.split(";")):
            self.note(f"{place}.points", f"must be x,y;x,y;..., found {shown(text)}; correct it", "polygon")
            return None
        return self.numbers_in(None if text is None else text.replace(";", ","), f"{place}.points", ",")

    def number(
        self, row: Element, key: str, place: str, *, whole: bool = False, default: float | None = None
    ) -> float | None:
        """A finite number of an attribute, or None where it is none (noted)."""
        text = row.get(key)
        if text is None and default is not None:
            return default
        values = self.numbers_in(text, f"{place}.{key}", None, whole=whole)
        return values[0] if values else None

    def numbers_in(
        self, text: str | None, place: str, separator: Literal[","] | None, *, whole: bool = False
    ) -> list[float] | None:
        """The finite numbers of a text, or None where they are none (noted)."""
        if text is None:
            self.note(place, "is missing; add it")
            return None
        parts: Sequence[str] = text.split(separator) if separator else [text]
        try:
            values = [math.nan if "_" in part else float(part) for part in parts]
        except ValueError:
            values = [math.nan]
        if not all(math.isfinite(value) and abs(value) < 1e9 and (not whole or value.is_integer()) for value in values):
            what = "whole numbers" if whole else "finite numbers"
            self.note(place, f"must hold {what}, found {shown(text)}; correct it")
            return None
        return values


def draw_mask(shape: Any, size: tuple[int, int]) -> Part:
    """What CVAT's run lengths fill: row by row in a rectangle of the image, zeros first.

    Args:
        shape: "mask", left, top, width, height, counts.
        size: (height, width) of the image.

    Raises:
        ValueError: run lengths that do not fill the rectangle.
    """
    _, left, top, width, height, counts = shape
    turned = rle.decode_part(counts, (width, height))  # COCO's code goes along columns.
    return Part(top + turned.left, left + turned.top, turned.mask.T)
