"""LabelMe: a JSON file with shapes beside each image.

Read is a folder with such files, at any depth; images without one are unlabelled. How shapes become labels:

- ``mask``, ``polygon`` and ``circle`` become the instance mask; of two the smaller object lies in front. Shapes with one
  label and one ``group_id`` are one object.
- ``rectangle`` becomes a Box; ``line`` and ``linestrip`` a Scribble; ``point`` and each of ``points`` a Point. Other
  shapes, and the label ``__ignore__``, are left out with a warning that counts them.
- Flags of the image that are true are Tags.
- A file without shapes and flags says that there is no object.

The order of ``labels.txt``, where there is one, gives the ids of the categories, else the order in which they come; the
label ``_background_`` or ``background`` is category 0. A folder that is called ``train``, ``val``, ``test`` (or the like)
at the top is the split, else all is ``train``.
"""

from __future__ import annotations

import base64
import binascii
import math
import os
import posixpath
from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from maskwright.data.fields import Fields, is_name, leaves_folder, read_json, shown
from maskwright.data.formats.labelme_writer import BACKGROUND, IGNORED, NAMES, loss, write
from maskwright.data.formats.objects import (
    Entry,
    Outlined,
    box_inside,
    category_ids,
    checked_size,
    ellipse,
    points_inside,
    samples_of,
)
from maskwright.data.formats.rle import Part
from maskwright.data.formats.segmentations import clean, draw
from maskwright.data.formats.splits import split_of
from maskwright.data.image_files import IMAGE_SUFFIXES
from maskwright.data.images import image_size
from maskwright.data.labels import Box, Point, Samples, Scribble, Tag
from maskwright.data.mask_files import decode_mask
from maskwright.data.paths import Files, resolve
from maskwright.data.reading import STRICT, Reading
from maskwright.errors import DataError

__all__ = ["LAYOUT", "detect", "loss", "read", "write"]

LAYOUT = "LabelMe: a folder with images and a JSON file of shapes beside each"
_LOOKED_AT = 20
_SPLITS = ("train", "val", "test")
_MOST_BYTES = 200_000_000  # Of one file: LabelMe keeps a copy of the image in it.


def detect(path: Path, document: Any) -> bool:
    """Whether a folder holds LabelMe's files, or the parsed JSON of a file is one."""
    if not path.is_dir():
        return is_labelme(document)
    files = [*islice(path.glob("*.json"), _LOOKED_AT), *islice(path.glob("*/*.json"), _LOOKED_AT)]
    return any(is_labelme(_json(file)) for file in files)


def is_labelme(document: Any) -> bool:
    """Whether parsed JSON is a file of LabelMe's."""
    return isinstance(document, dict) and "shapes" in document and "imagePath" in document


def _json(path: Path) -> Any:
    try:
        return read_json(path) if path.is_file() and path.stat().st_size < _MOST_BYTES else None
    except DataError:  # Some JSON beside images, which may be anything.
        return None


def read(path: str | Path, reading: Reading = STRICT) -> Samples:
    """Read LabelMe's files (see the module's docstring).

    Args:
        path: the folder, or one of its files, which is read alone.

    Raises:
        DataError: every structural problem at once, with the file and the shape.
    """
    path = Path(path)
    root = path if path.is_dir() else path.parent
    parse = _Parse(root, reading, path)
    entries = parse.files_of([path.name] if not path.is_dir() else parse.find(".json"), alone=not path.is_dir())
    samples = samples_of(parse, root, entries)
    if parse.problems:
        raise DataError(parse.problems, str(path))
    parse.tell()
    return Samples(root, tuple(parse.ids), samples, str(path), "LabelMe", tuple(parse.warnings))


class _Parse(Fields):
    def __init__(self, root: Path, reading: Reading, data: Path) -> None:
        super().__init__(reading, data)
        self.root, self.files = root, Files(root)
        self.ids: dict[str, int] = {"background": 0}
        self.told: Counter[str] = Counter()
        self.first: dict[str, str] = {}
        self.shapes: dict[str, Callable[[dict[str, Any], str, int, Entry], None]] = {
            "mask": self.mask,
            "polygon": self.polygon,
            "circle": self.circle,
            "rectangle": self.rectangle,
            "line": self.line,
            "linestrip": self.line,
            "point": self.points,
            "points": self.points,
        }

    def find(self, *suffixes: str) -> list[str]:
        """Paths, relative to the root, of files with a suffix, at any depth, sorted."""
        found = []
        for parent, folders, files in os.walk(self.root):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            base = Path(parent).relative_to(self.root)
            found += [(base / name).as_posix() for name in files if Path(name).suffix.lower() in suffixes]
        return sorted(found)

    def leave_out(self, what: str, place: str) -> None:
        self.told[what] += 1
        self.first.setdefault(what, place)

    def tell(self) -> None:
        for what, count in self.told.items():
            self.warn("", f"{count} {what} are left out, such as {self.first[what]}", "left-out")

    # -------------------------------------------------------------------------------------------------------- files

    def files_of(self, names: list[str], *, alone: bool) -> list[Entry]:
        documents = {}
        for name in names:
            if (reason := leaves_folder(self.root, name)) is not None:
                self.note(name, reason)
                continue
            try:
                document = read_json(self.root / name)
            except DataError as error:
                self.problems += error.problems
                continue
            if is_labelme(document):
                documents[name] = document
            else:
                self.leave_out("JSON files without shapes", name)
        self.categories(documents)
        entries = [entry for name, document in documents.items() if (entry := self.document(name, document))]
        known = {entry.path for entry in entries} | {
            PurePosixPath(name).with_suffix("").as_posix() for name in documents
        }
        for path in [] if alone else self.find(*IMAGE_SUFFIXES):
            if path in known or PurePosixPath(path).with_suffix("").as_posix() in known:
                continue
            if leaves_folder(self.root, path) is None:
                try:
                    entries.append(
                        Entry(path, path, path, self.split(path), image_size(self.root / path, self.reading.image.page))
                    )
                except DataError as error:
                    self.problems += error.problems
        return entries

    def split(self, path: str) -> str:
        first, _, rest = path.partition("/")
        found = split_of(first) if rest else "train"
        return found if found in _SPLITS else "train"

    def categories(self, documents: dict[str, dict[str, Any]]) -> None:
        names: list[tuple[str, str]] = []
        if (self.root / NAMES).is_file():
            try:
                lines = (self.root / NAMES).read_text("utf-8-sig").splitlines()
                names += [(NAMES, line.strip()) for line in lines if line.strip()]
            except (OSError, UnicodeDecodeError) as error:
                self.note(NAMES, f"cannot be read ({error}); correct it")
        for file, document in documents.items():
            shapes = document["shapes"] if isinstance(document["shapes"], list) else []
            names += [
                (file, one["label"]) for one in shapes if isinstance(one, dict) and isinstance(one.get("label"), str)
            ]
            flags = document.get("flags")
            names += [
                (file, name) for name, value in (flags if isinstance(flags, dict) else {}).items() if value is True
            ]
        self.ids = category_ids(self, [pair for pair in names if pair[1] not in (IGNORED, BACKGROUND)])

    def document(self, name: str, document: dict[str, Any]) -> Entry | None:
        types = {"shapes": list, "imagePath": str, "imageHeight": int, "imageWidth": int, "flags": dict}
        fields = self.fields(document, name, types, required=("shapes", "imagePath"), extra=True)
        if "shapes" not in fields or "imagePath" not in fields:
            return None
        path = self.image(name, fields["imagePath"])
        if path is None:
            return None
        size = self.size(fields, name, path)
        if size is None:
            return None
        entry = Entry(name, path, path, self.split(name), size)
        groups: dict[tuple[int, Any], list[Outlined]] = defaultdict(list)
        for i, row in enumerate(fields["shapes"]):
            place = f"{name}: shapes[{i}]"
            before = len(entry.outlined)
            self.shape(row, place, entry)
            if len(entry.outlined) > before and isinstance(row.get("group_id"), int):
                outlined = entry.outlined.pop()
                groups[outlined.category, row["group_id"]].append(outlined)
        entry.outlined += [_joined(parts) for parts in groups.values()]
        for flag, value in fields.get("flags", {}).items():
            if value is True and self.ids.get(flag):
                entry.tags.append(Tag(self.ids[flag]))
        entry.labelled = not fields["shapes"] and not entry.tags
        return entry

    def image(self, name: str, written: str) -> str | None:
        """The image that a file names relative to itself; or else the one beside it that has its name."""
        folder = posixpath.dirname(name)
        path = posixpath.normpath(posixpath.join(folder, written.replace("\\", "/")))
        if leaves_folder(self.root, path) is None and self.files.is_file(path):
            return path
        for suffix in IMAGE_SUFFIXES:
            beside = f"{name.removesuffix('.json')}{suffix}"
            if self.files.is_file(beside) and leaves_folder(self.root, beside) is None:
                self.warn(
                    f"{name}.imagePath", f"path {shown(written)} is not there: {beside} is read", "path-elsewhere"
                )
                return beside
        return resolve(self, self.files, written, f"{name}.imagePath", [f"{folder}/" if folder else ""])

    def size(self, fields: dict[str, Any], name: str, path: str) -> tuple[int, int] | None:
        width, height = fields.get("imageWidth"), fields.get("imageHeight")
        if width is not None and height is not None:
            return checked_size(self, width, height, name)
        try:
            return image_size(self.root / path, self.reading.image.page)
        except DataError as error:
            self.problems += error.problems
            return None

    # ------------------------------------------------------------------------------------------------------- shapes

    def shape(self, row: Any, place: str, entry: Entry) -> None:
        types = {"label": str, "shape_type": str, "points": list, "mask": str}
        fields = self.fields(row, place, types, required=("label", "points"), extra=True)
        if "label" not in fields or "points" not in fields:
            return
        kind, label = fields.get("shape_type", "polygon"), fields["label"]
        if kind not in self.shapes:
            self.leave_out(f"shapes of type {shown(kind)}", place)
        elif label == IGNORED:
            self.leave_out(f"shapes with the label {IGNORED}", place)
        elif is_name(label):
            category = 0 if label == BACKGROUND else self.ids[label]
            if category == 0 and self.shapes[kind] not in (self.line, self.points):
                self.leave_out("shapes of the background", place)
            else:
                self.shapes[kind](fields, place, category, entry)

    def coordinates(self, fields: dict[str, Any], place: str, count: int | None = None) -> list[float] | None:
        """The points as x, y, x, y, ...; ``count`` of them where given."""
        rows = [self.numbers(pair, f"{place}.points[{i}]", 2) for i, pair in enumerate(fields["points"])]
        if count is not None and len(rows) != count:
            self.note(f"{place}.points", f"must be {count} points, found {len(rows)}; correct or remove it", "polygon")
            return None
        flat = [value for row in rows if row for value in row]
        return flat if len(flat) == 2 * len(rows) else None

    def mask(self, fields: dict[str, Any], place: str, category: int, entry: Entry) -> None:
        flat = self.coordinates(fields, place, 2)
        if flat is None:
            return
        if "mask" not in fields:
            self.note(f"{place}.mask", "is missing; add it or remove the shape", "run-lengths")
            return
        corners = [math.floor(value) if abs(value) < 1e9 else -1 for value in flat]
        left, top, right, bottom = corners
        if not (0 <= left <= right < entry.size[0] and 0 <= top <= bottom < entry.size[1]):
            what = f"its corners {shown(flat)} are not inside the image of {entry.size[0]} x {entry.size[1]}"
            self.note(f"{place}.points", f"{what}; correct or remove it", "outline-outside")
            return
        shape = ["mask", left, top, right, bottom, fields["mask"]]
        entry.outlined.append(Outlined(f"{place}.mask", category, shape, draw_mask))

    def polygon(self, fields: dict[str, Any], place: str, category: int, entry: Entry) -> None:
        self.outline(self.coordinates(fields, place), f"{place}.points", category, entry)

    def circle(self, fields: dict[str, Any], place: str, category: int, entry: Entry) -> None:
        flat = self.coordinates(fields, place, 2)
        if flat is not None:
            radius = math.dist(flat[:2], flat[2:])
            self.outline(ellipse(flat[0], flat[1], radius, radius, 0), f"{place}.points", category, entry)

    def outline(self, flat: list[float] | None, place: str, category: int, entry: Entry) -> None:
        parts = clean(self, [flat], place, entry.size) if flat is not None else None
        if parts is not None:
            entry.outlined.append(Outlined(place, category, parts, draw))

    def rectangle(self, fields: dict[str, Any], place: str, category: int, entry: Entry) -> None:
        flat = self.coordinates(fields, place, 2)
        if flat is None:
            return
        x, y = sorted(flat[0::2]), sorted(flat[1::2])
        corners = box_inside(self, (x[0], y[0], x[1], y[1]), f"{place}.points", entry.size)
        if corners is not None:
            entry.boxes.append(Box(*corners, category=category))

    def line(self, fields: dict[str, Any], place: str, category: int, entry: Entry) -> None:
        points = points_inside(self, self.coordinates(fields, place), f"{place}.points", entry.size)
        if points:
            entry.scribbles.append(Scribble(tuple(points), category))

    def points(self, fields: dict[str, Any], place: str, category: int, entry: Entry) -> None:
        for x, y in points_inside(self, self.coordinates(fields, place), f"{place}.points", entry.size):
            entry.points.append(Point(x, y, category))


def draw_mask(shape: Any, size: tuple[int, int]) -> Part:
    """What a shape of type ``mask`` fills: a PNG as base64 between two corners, both included. Raises ValueError."""
    _, left, top, right, bottom, text = shape
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("its mask is no base64 text") from None
    return Part(top, left, decode_mask(content, (bottom - top + 1, right - left + 1)))


def _joined(parts: list[Outlined]) -> Outlined:
    """Several shapes that are one object."""
    if len(parts) == 1:
        return parts[0]

    def draw_all(_: Any, size: tuple[int, int]) -> Part:
        return Part.union([part.draw(part.shape, size) for part in parts])

    shapes = [part.shape for part in parts]
    return Outlined(parts[0].place, parts[0].category, shapes, draw_all)
