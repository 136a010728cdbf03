"""Label Studio's JSON: a list of tasks with annotations or predictions.

Read is the export "JSON" (not "JSON-MIN"), alone or in a folder beside ``images/``. How regions become labels:

- ``brush``, ``polygon`` and ``ellipse`` become the instance mask; of two the smaller object lies in front.
- ``rectangle`` becomes a Box, a turned one the upright Box around it; ``keypoint`` a Point; each of ``choices`` a Tag.
- Whatever else there is (texts, ratings, relations, videos) is left out, with a warning that counts it.
- Of several annotations of a task, the one marked as ground truth is read, else the one that was changed last, with a
  warning. Cancelled ones are not read.
- Predictions are read where no task has an annotation, with a warning.
- A task without annotations is unlabelled; an annotation without any region says that there is no object.

An image is named by a link to Label Studio's own store (``/data/upload/1/0a1b2c3d-a.jpg``, ``/data/local-files/?d=images/a.jpg``)
or another; it is looked for by that path, and then by its last name, also without the eight digits that Label Studio puts
before it, in the folder and its ``images/``. A labelling interface ``label_config.xml`` beside the tasks gives the order
of the categories, else the tasks do; a label ``background`` is category 0. ``data.split`` is the split, else ``train``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from maskwright.data.fields import Fields, leaves_folder, read_json, shown
from maskwright.data.formats import brush
from maskwright.data.formats.label_studio_writer import CONFIG, loss, write
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
from maskwright.data.formats.safe_xml import read_xml
from maskwright.data.formats.segmentations import clean, draw
from maskwright.data.formats.splits import split_of
from maskwright.data.images import image_size
from maskwright.data.labels import Box, Point, Samples, Tag
from maskwright.data.paths import Files
from maskwright.data.reading import STRICT, Reading
from maskwright.errors import DataError

__all__ = ["LAYOUT", "detect", "loss", "read", "write"]

LAYOUT = "Label Studio: a JSON file with a list of tasks (the export JSON), alone or in a folder"
_UPLOADED = re.compile(r"^[0-9a-f]{8}-(?=.)")
_DIGITS = 6  # Of a pixel's coordinate; shares of the image are written with more.
_LOOKED_AT = 50


def detect(path: Path, document: Any) -> bool:
    """Whether a folder holds a file of tasks, or the parsed JSON of a file is one."""
    return bool(_find(path)) if path.is_dir() else is_tasks(document)


def is_tasks(document: Any) -> bool:
    """Whether parsed JSON is a list of tasks, of the export JSON or JSON-MIN."""
    if not isinstance(document, list) or not document or not isinstance(document[0], dict):
        return False
    keys = document[0].keys()
    return ("data" in keys and bool(keys & {"annotations", "predictions", "completions"})) or _is_minimal(keys)


def _is_minimal(keys: Any) -> bool:
    return {"annotation_id", "annotator", "lead_time"} <= set(keys)


def _find(folder: Path) -> list[Path]:
    return [
        path for path in sorted(folder.glob("*.json"))[:_LOOKED_AT] if _begins_a_list(path) and is_tasks(_json(path))
    ]


def _begins_a_list(path: Path) -> bool:
    """Whether the first sign of a file opens a list: that spares reading the large files of other tools."""
    try:
        with path.open("rb") as file:
            return path.is_file() and file.read(100).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["
    except OSError:
        return False


def _json(path: Path) -> Any:
    try:
        return read_json(path)
    except DataError:  # Some JSON beside images, which may be anything.
        return None


def read(path: str | Path, reading: Reading = STRICT) -> Samples:
    """Read Label Studio's tasks (see the module's docstring).

    Raises:
        DataError: every structural problem at once, with the task and the region; several files of tasks in a folder.
    """
    path = Path(path)
    files = _find(path) if path.is_dir() else [path]
    if len(files) > 1:
        raise DataError(
            [f"{path}: holds several files of tasks ({', '.join(f.name for f in files)}); name one of them"]
        )
    if not files:
        raise DataError([f"{path}: no file of Label Studio's tasks; check the path"])
    document = read_json(files[0])
    if not is_tasks(document):
        raise DataError([f"{files[0]}: is no list of Label Studio's tasks; export JSON there"])
    if _is_minimal(document[0]) and "data" not in document[0]:
        raise DataError([f"{files[0]}: is Label Studio's JSON-MIN, which is not read; export JSON there"])
    root = files[0].parent
    parse = _Parse(root, reading, path)
    entries = parse.tasks(document)
    samples = samples_of(parse, root, entries)
    if parse.problems:
        raise DataError(parse.problems, str(path))
    parse.tell()
    return Samples(root, tuple(parse.ids), samples, str(path), "Label Studio", tuple(parse.warnings))


class _Parse(Fields):
    def __init__(self, root: Path, reading: Reading, data: Path) -> None:
        super().__init__(reading, data)
        self.root, self.files = root, Files(root)
        self.ids: dict[str, int] = {"background": 0}
        self.told: Counter[str] = Counter()
        self.first: dict[str, str] = {}
        self.shapes: dict[str, Callable[[dict[str, Any], str, int, Entry], None]] = {
            "brush": self.brush,
            "polygon": self.polygon,
            "ellipse": self.ellipse,
            "rectangle": self.rectangle,
            "keypoint": self.keypoint,
        }

    def tell_later(self, what: str, place: str) -> None:
        """A warning that is said once, with its count: ``{count} tasks ...``."""
        self.told[what] += 1
        self.first.setdefault(what, place)

    def tell(self) -> None:
        for what, count in self.told.items():
            self.warn("", f"{count} {what}, such as {self.first[what]}", "left-out" if "left out" in what else "chosen")

    # -------------------------------------------------------------------------------------------------------- tasks

    def tasks(self, document: list[Any]) -> list[Entry]:
        annotated = any(isinstance(task, dict) and task.get("annotations") for task in document)
        rows = []
        for i, task in enumerate(document):
            id = task.get("id") if isinstance(task, dict) else None
            place = f"tasks[{i}]" + ("" if id is None else f" (id {shown(id)})")
            types = {"data": dict, "annotations": list, "predictions": list}
            fields = self.fields(task, place, types, required=("data",), extra=True)
            if "data" in fields:
                rows.append((place, fields["data"], self.chosen(fields, place, annotated)))
        self.categories([(place, results) for place, _, results in rows if results is not None])
        return [entry for row in rows if (entry := self.task(*row)) is not None]

    def chosen(self, task: dict[str, Any], place: str, annotated: bool) -> list[Any] | None:
        """The regions of the annotation that is read; None where there is none."""
        key = "annotations" if annotated else "predictions"
        known = {"result": list, "was_cancelled": bool, "ground_truth": bool, "updated_at": str}
        found = []
        for i, row in enumerate(task.get(key) or []):
            fields = self.fields(row, f"{place}.{key}[{i}]", known, extra=True)
            if fields.get("was_cancelled"):
                self.tell_later("cancelled annotations are left out", f"{place}.{key}[{i}]")
            elif "result" in fields:
                found.append(fields)
            elif isinstance(row, dict):
                self.note(f"{place}.{key}[{i}].result", "is missing; add it or remove the annotation")
        if not found:
            return None
        if not annotated:
            self.tell_later("tasks have predictions and no annotations: the predictions are read", place)
        if len(found) > 1:
            what = "the one marked as ground truth, else the one changed last, is read"
            self.tell_later(f"tasks have several {key}: {what}", place)
        best = max(range(len(found)), key=lambda i: (_is_truth(found[i]), found[i].get("updated_at", ""), i))
        return [
            {**row, "place": f"{place}.{key}.result[{i}]"} if isinstance(row, dict) else row
            for i, row in enumerate(found[best]["result"])
        ]

    def categories(self, rows: Sequence[tuple[str, list[Any]]]) -> None:
        """Those of the labelling interface, then those that regions have beyond them."""
        names: list[tuple[str, str]] = []
        if (self.root / CONFIG).is_file():
            config = read_xml(self.root / CONFIG)
            names += [(CONFIG, row.get("value", "")) for row in config.iter() if row.tag in ("Label", "Choice")]
        for _, results in rows:
            for row in results:
                if isinstance(row, dict) and isinstance(row.get("value"), dict):
                    names += [(row["place"], name) for name in _names(row) if isinstance(name, str)]
        self.ids = category_ids(self, names)

    def task(self, place: str, data: dict[str, Any], results: list[Any] | None) -> Entry | None:
        path = self.image(data, place)
        rows = []
        for row in results or []:
            at = row["place"] if isinstance(row, dict) else f"{place}.result"
            types = {"type": str, "value": dict, "original_width": int, "original_height": int}
            fields = self.fields(row, at, types, required=("type", "value"), extra=True)
            if "type" in fields and "value" in fields:
                fields |= {"id": row["id"]} if isinstance(row.get("id"), str) else {}
                rows.append((at, fields, row.get("image_rotation", 0)))
        size = self.size(rows, path, place) if path else None
        if path is None or size is None:
            return None
        split = data.get("split")
        if split is not None and (not isinstance(split, str) or not split):
            self.note(f"{place}.data.split", f"must be a name, found {shown(split)}; correct it")
            return None
        entry = Entry(place, path, path, split_of(split or ""), size, results == [] or data.get("labelled") is True)
        labels = _labels_by_region([fields for _, fields, _ in rows])
        for at, fields, turn in rows:
            self.region(at, fields, turn, labels, entry)
        return entry

    def region(self, place: str, row: dict[str, Any], turn: Any, labels: dict[str, list[Any]], entry: Entry) -> None:
        kind = row["type"].removesuffix("labels")
        if row["type"] == "choices":
            for name in _names(row):
                if self.category(name, place):
                    entry.tags.append(Tag(self.ids[name]))
        elif kind in self.shapes:
            names = _names(row) or labels.get(row.get("id", ""), [])
            if turn not in (0, None):
                self.note(
                    place, f"its image was turned by {shown(turn)} degrees, which is not read; turn the image itself"
                )
            elif not names:
                self.tell_later("regions without a label are left out", place)
            elif (category := self.category(names[0], place)) is not None:
                if len(names) > 1:
                    self.tell_later("regions have several labels: the first is read", place)
                if category == 0 and kind != "keypoint":
                    self.tell_later("regions of the label background are left out", place)
                else:
                    self.shapes[kind](row["value"], place, category, entry)
        elif row["type"] != "labels":
            self.tell_later(f"results of type {shown(row['type'])} are left out", place)

    def category(self, name: Any, place: str) -> int | None:
        if not isinstance(name, str) or name not in self.ids:
            self.note(place, f"its label {shown(name)} is no text; correct it")
            return None
        return self.ids[name]

    # ------------------------------------------------------------------------------------------------------- images

    def image(self, data: dict[str, Any], place: str) -> str | None:
        """The image of a task, relative to the folder, or None where it is not there (noted)."""
        texts = {key: value for key, value in data.items() if isinstance(value, str) and key not in ("split", "id")}
        written = texts.get("image")
        if written is None:
            pictures = [value for value in texts.values() if PurePosixPath(_path_of(value)).suffix]
            if len(pictures) != 1:
                self.note(f"{place}.data", "has no image; name its image in the key image")
                return None
            written = pictures[0]
        for name in names_of_file(written):
            for base in ("", "images/"):
                path = f"{base}{name}"
                if leaves_folder(self.root, path) is None and (found := self.found(path)):
                    if path != written:
                        self.tell_later(
                            "images are taken for files by the end of their links", f"{shown(written)}: {found}"
                        )
                    return found
        what = f"image {shown(written)} is not in the folder or its images/ by that name"
        self.note(f"{place}.data.image", f"{what}; put it there", "missing-image")
        return None

    def found(self, path: str) -> str | None:
        return path if self.files.is_file(path) else None

    def size(self, rows: Sequence[tuple[str, dict[str, Any], Any]], path: str, place: str) -> tuple[int, int] | None:
        """The size that the regions state, or of an image without any that of its file."""
        stated = {
            (row["original_width"], row["original_height"]): at
            for at, row, _ in rows
            if "original_width" in row and "original_height" in row
        }
        if len(stated) > 1:
            self.note(
                place, f"its regions state several sizes, such as {shown([*list(stated)[1]])}; correct them", "size"
            )
            return None
        if stated:
            (width, height), at = next(iter(stated.items()))
            return checked_size(self, width, height, at)
        try:
            return image_size(self.root / path, self.reading.image.page)
        except DataError as error:
            self.problems += error.problems
            return None

    # ------------------------------------------------------------------------------------------------------ regions

    def brush(self, value: dict[str, Any], place: str, category: int, entry: Entry) -> None:
        code = value.get("rle")
        if value.get("format", "rle") != "rle" or not isinstance(code, list):
            self.note(f"{place}.value", "has no list rle of a brush; correct or remove it", "run-lengths")
            return
        entry.outlined.append(Outlined(f"{place}.value.rle", category, code, draw_brush))

    def polygon(self, value: dict[str, Any], place: str, category: int, entry: Entry) -> None:
        points = value.get("points")
        if not isinstance(points, list):
            self.note(
                f"{place}.value.points", f"must be a list of points, found {shown(points)}; correct it", "polygon"
            )
            return
        pairs = [self.numbers(point, f"{place}.value.points[{i}]", 2) for i, point in enumerate(points)]
        flat = [_pixel(share, entry.size[axis]) for pair in pairs if pair for axis, share in enumerate(pair)]
        if all(pairs):
            self.outline(flat, f"{place}.value.points", category, entry)

    def ellipse(self, value: dict[str, Any], place: str, category: int, entry: Entry) -> None:
        numbers = self.shares(value, ("x", "y", "radiusX", "radiusY"), place, entry)
        if numbers is None:
            return
        cx, cy, rx, ry, turn = numbers
        if min(rx, ry) <= 0:
            self.note(
                f"{place}.value", f"its radii {shown([rx, ry])} must be positive; correct or remove it", "polygon"
            )
            return
        self.outline(ellipse(cx, cy, rx, ry, turn), f"{place}.value", category, entry)

    def outline(self, flat: list[float], place: str, category: int, entry: Entry) -> None:
        parts = clean(self, [flat], place, entry.size)
        if parts is not None:
            entry.outlined.append(Outlined(place, category, parts, draw))

    def rectangle(self, value: dict[str, Any], place: str, category: int, entry: Entry) -> None:
        numbers = self.shares(value, ("x", "y", "width", "height"), place, entry)
        if numbers is None:
            return
        x0, y0, width, height, turn = numbers
        x, y = np.array([0, width, width, 0]), np.array([0, 0, height, height])
        if turn % 360:
            x, y = turned(x, y, turn)  # Around the corner that it was drawn from.
            self.warn(place, "is turned: read as the upright box around it", "turned-box")
        corners = (float(x0 + x.min()), float(y0 + y.min()), float(x0 + x.max()), float(y0 + y.max()))
        corners = tuple(round(v, _DIGITS) for v in corners)
        inside = box_inside(self, (corners[0], corners[1], corners[2], corners[3]), f"{place}.value", entry.size)
        if inside is not None:
            entry.boxes.append(Box(*inside, category=category))

    def keypoint(self, value: dict[str, Any], place: str, category: int, entry: Entry) -> None:
        numbers = self.shares(value, ("x", "y"), place, entry)
        if numbers is not None:
            for x, y in points_inside(self, numbers[:2], f"{place}.value", entry.size):
                entry.points.append(Point(x, y, category))

    def shares(self, value: dict[str, Any], keys: Sequence[str], place: str, entry: Entry) -> list[float] | None:
        """Pixels of numbers in percent of the image's width and height in turn, then the rotation in degrees."""
        given = [value.get(key) for key in keys]
        numbers = self.numbers([*given, value.get("rotation") or 0], f"{place}.value", len(keys) + 1)
        if numbers is None:
            return None
        if max(map(abs, numbers)) > 1e6:
            self.note(f"{place}.value", f"{shown(given)} are no percentages; correct or remove it")
            return None
        return [*(_pixel(share, entry.size[i % 2]) for i, share in enumerate(numbers[:-1])), numbers[-1]]


def draw_brush(code: Any, size: tuple[int, int]) -> Part:
    """What a brush's run lengths fill. Raises ValueError."""
    mask = brush.decode(code, size)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return Part(0, 0, np.zeros((0, 0), bool))
    return Part(int(rows[0]), int(columns[0]), mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].copy())


def _is_truth(annotation: dict[str, Any]) -> bool:
    return bool(annotation.get("ground_truth"))


def _names(row: dict[str, Any]) -> list[Any]:
    """The labels of a region: a list below its own type's name, or ``labels``."""
    value = row["value"]
    kind = row.get("type")
    for key in (kind, f"{kind}labels", "labels") if isinstance(kind, str) else ():
        if isinstance(value.get(key), list):
            return value[key]
    return []


def _labels_by_region(rows: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Labels that are given apart from their region, by its id."""
    return {row["id"]: _names(row) for row in rows if row["type"] == "labels" and "id" in row}


def _path_of(link: str) -> str:
    """The path of a link; of a link to a local file its ``d``."""
    try:
        parts = urlsplit(link)
    except ValueError:
        return link
    local = parse_qs(parts.query).get("d")
    return local[0] if local else parts.path


def names_of_file(link: str) -> list[str]:
    """Paths of files that a link of Label Studio's may mean, the likeliest first."""
    path = _path_of(link).replace("\\", "/")
    names = [
        link,
        path.lstrip("/"),
        unquote(path).lstrip("/"),
        PurePosixPath(path).name,
        PurePosixPath(unquote(path)).name,
    ]
    names += [_UPLOADED.sub("", name) for name in names[-2:]]
    return [name for name in dict.fromkeys(names) if name]


def _pixel(share: float, side: int) -> float:
    return round(share * side / 100, _DIGITS)
