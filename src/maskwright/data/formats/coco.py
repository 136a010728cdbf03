"""COCO instance annotations, read as instance masks and boxes. ``coco_writer`` writes them.

Read are one JSON file, a folder with one, ``annotations/*.json`` (of the official set the ``instances_*.json``), and
``<split>/_annotations.coco.json``. The split is the file's own ``info.split`` if it was written here, else train, val
(or valid) or test by the file's or folder's name, else the file's name in ``annotations/``, else ``train``.

How annotations become labels:

- ``segmentation`` (polygons, run lengths, compressed run lengths) becomes an instance mask, ids counted from 1 in the
  order of the annotations. The PNG is made on first reading in ``.maskwright/masks`` of the dataset's folder, under a
  name with a hash of the annotations, so that an edited annotation makes a new one. A PNG holds no overlaps: the
  smaller object lies on top, and one that is wholly covered has no pixels.
- An annotation that has only a ``bbox`` becomes a Box.
- Outlines and boxes that reach outside by at most 2 % of the image's side are cut off at its border, with a warning.
- ``iscrowd`` regions are objects where all annotations of a category are crowds, as labelling tools mark what was painted
  with a brush. Otherwise they are left out, as instance masks have no value for "ignore": their pixels become
  background. A warning says so; ``Reading.crowd`` decides otherwise.
- A category that no annotation has is none if others name it as their supercategory, or if it is called ``_background_``.
- An image without any annotation is unlabelled, as most images here are; one that was looked at and holds no object
  says so with ``"labelled": true`` in its entry and gets an empty mask. Files written here have this key.

Images are looked for by ``file_name`` in the folder of the JSON, the dataset's folder, its ``images/``, and those named
as the file (``train2017/``) or the split; ``maskwright.data.paths`` says which spellings of a name are understood.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from maskwright.data.fields import Fields, is_name, read_json, shown
from maskwright.data.formats.coco_writer import loss, write
from maskwright.data.formats.objects import Outlined, box_inside, compare_size, paint, sample_ids
from maskwright.data.formats.segmentations import clean, draw, rasterize
from maskwright.data.image_files import MAX_PIXELS
from maskwright.data.images import image_size
from maskwright.data.labels import Box, Labels, Mask, Sample, Samples
from maskwright.data.lookahead import ahead
from maskwright.data.mask_files import cached_mask
from maskwright.data.paths import Files, resolve
from maskwright.data.reading import STRICT, Reading
from maskwright.errors import DataError
from maskwright.problems import Problem, fix_command

__all__ = ["LAYOUT", "detect", "find", "is_coco", "loss", "rasterize", "read", "write"]

LAYOUT = (
    "COCO: a JSON file with images, annotations and categories, a folder with one, annotations/*.json, or "
    "<split>/_annotations.coco.json"
)
_ROBOFLOW = "_annotations.coco.json"
_NO_CATEGORY = ("background", "_background_", "__background__", "__ignore__", "_ignore_")


def detect(path: Path, document: Any) -> bool:
    """Whether a folder holds COCO files, or the parsed JSON of a file is one."""
    if not path.is_dir():
        return is_coco(document)
    # The smallest first: one COCO file is enough to know, and they can be large.
    return any(is_coco(read_json(file)) for file in sorted(find(path), key=lambda file: file.stat().st_size))


def is_coco(document: Any) -> bool:
    """Whether parsed JSON is a COCO file."""
    keys = ("images", "annotations", "categories")
    return isinstance(document, dict) and all(isinstance(document.get(key), list) for key in keys)


def find(folder: Path) -> list[Path]:
    """The JSON files that may be COCO annotations of a dataset folder, by name alone."""
    files = sorted((folder / "annotations").glob("instances_*.json")) or sorted((folder / "annotations").glob("*.json"))
    return files or sorted(folder.glob(f"*/{_ROBOFLOW}")) or sorted(folder.glob("*.json"))


def read(path: str | Path, reading: Reading = STRICT) -> Samples:
    """Read COCO annotations (see the module's docstring).

    Args:
        path: a JSON file, or a folder as described above.

    Raises:
        DataError: every structural problem at once, with file and place; no COCO file, or several unrelated ones.
    """
    path = Path(path)
    files = find(path) if path.is_dir() else [path]
    documents = {file: document for file in files if is_coco(document := read_json(file))}
    if not documents:
        raise DataError([f"{path}: no COCO file (with images, annotations and categories); check the path"])
    if path.is_dir() and len(documents) > 1 and all(file.parent == path for file in documents):
        names = ", ".join(file.name for file in documents)
        raise DataError([f"{path}: holds several COCO files ({names}); name one of them, or move them to annotations/"])
    nested = path.is_file() and path.parent.name == "annotations"
    root = path if path.is_dir() else path.parent.parent if nested else path.parent
    parse = _Parse(root, reading, path)
    parse.categories(documents)
    items = [item for file, document in documents.items() for item in parse.file(file, document)]
    parse.name_samples(items)
    parse.crowds(items)
    if parse.problems:
        raise DataError(parse.problems, str(path))
    samples = tuple(ahead(parse.sample, items))
    if parse.problems:
        raise DataError(sorted(parse.problems), str(path))
    return Samples(root, tuple(parse.names), samples, str(path), "COCO", tuple(parse.warnings))


@dataclass
class _Item:
    """An image's entry with its annotations, checked."""

    place: str
    name: str
    path: str
    split: str
    size: tuple[int, int]
    labelled: bool
    annotations: list[_Annotation] = field(default_factory=list)
    id: str = ""


@dataclass(frozen=True)
class _Annotation:
    place: str
    category: int
    crowd: bool
    box: tuple[float, float, float, float] | None
    segmentation: Any


class _Parse(Fields):
    def __init__(self, root: Path, reading: Reading, data: Path) -> None:
        super().__init__(reading, data)
        self.root, self.files = root, Files(root)
        self.names = ["background"]
        self.ids: dict[Path, dict[int, int]] = {}
        self.nameless: set[int] = set()

    def categories(self, documents: dict[Path, dict[str, Any]]) -> None:
        """One list of names for all files; each file keeps its own ids for them."""
        rows = {file: self.category_rows(file, document) for file, document in documents.items()}
        used = {
            row["name"]
            for file, document in documents.items()
            for row in rows[file]
            if row["id"] in self.annotated(document)
        }
        numbers = {"background": 0}
        for file, members in rows.items():
            ids, names = self.ids.setdefault(file, {}), set[str]()
            parents = {row["supercategory"]: row["name"] for row in members if row["supercategory"] != row["name"]}
            for row in members:
                name = row["name"]
                if row["id"] in ids or name in names:
                    self.note(row["place"], f"id {row['id']} or name {name!r} is there twice; remove or rename one")
                elif name != "background" and name not in used and (name in parents or name.casefold() in _NO_CATEGORY):
                    why = f"the group of {parents[name]!r}" if name in parents else "a name for background"
                    self.warn(
                        row["place"], f"{name!r} is {why} and has no annotation: it is no category", "root-category"
                    )
                    continue
                names.add(name)
                ids[row["id"]] = numbers.setdefault(name, len(numbers))
        self.names = list(numbers)

    def category_rows(self, file: Path, document: dict[str, Any]) -> list[dict[str, Any]]:
        rows = []
        for i, row in enumerate(document["categories"]):
            place = f"{self.called(file)}: categories[{i}]"
            parent = row.get("supercategory") if isinstance(row, dict) else None
            row = self.fields(row, place, {"id": int, "name": str}, required=("id", "name"), extra=True)
            if len(row) == 2 and not is_name(row["name"]):
                self.note(f"{place}.name", f"{shown(row['name'])} cannot be a category's name; write a short text")
                self.nameless.add(row["id"])
            elif len(row) == 2:
                rows.append({**row, "place": place, "supercategory": parent if isinstance(parent, str) else None})
        return rows

    def called(self, file: Path) -> str:
        """A file's name; with its folder where all files are called alike."""
        return f"{file.parent.name}/{file.name}" if file.name == _ROBOFLOW and file.parent != self.root else file.name

    def annotated(self, document: dict[str, Any]) -> set[Any]:
        """The ids of categories that have annotations; of numbers that are written as text, the numbers."""
        ids = set()
        for row in document["annotations"]:
            id = row.get("category_id") if isinstance(row, dict) else None
            if isinstance(id, (int, float, str)):
                ids.add(int(id) if isinstance(id, str) and id.isdecimal() and len(id) < 19 else id)
        return ids

    def file(self, file: Path, document: dict[str, Any]) -> list[_Item]:
        split = _split(file, document)
        bases = self.bases(file, split)
        items: dict[int | str, _Item | None] = {}
        for i, row in enumerate(document["images"]):
            place = f"{self.called(file)}: images[{i}]"
            id = _id(row.get("id")) if isinstance(row, dict) else None
            item = self.image(row, place, bases, split)
            if id is None or id in items:
                found = shown(row.get("id")) if isinstance(row, dict) else "it"
                self.note(f"{place}.id", f"{found} is missing or that of another image; correct it")
            else:
                items[id] = item
        for i, row in enumerate(document["annotations"]):
            self.annotation(row, f"{self.called(file)}: annotations[{i}]", items, self.ids[file])
        return [item for item in items.values() if item is not None]

    def bases(self, file: Path, split: str) -> list[str]:
        """Where images may lie, relative to the root, the most likely first."""
        stem = file.stem.removeprefix("instances_")
        json_folder = file.parent.relative_to(self.root).as_posix()
        bases = [
            json_folder if json_folder != "annotations" else ".",
            ".",
            "images",
            stem,
            f"images/{stem}",
            split,
            f"images/{split}",
        ]
        return ["" if base == "." else f"{base}/" for base in dict.fromkeys(bases)]

    def image(self, row: Any, place: str, bases: list[str], split: str) -> _Item | None:
        types = {"file_name": str, "width": int, "height": int, "labelled": bool}
        row = self.fields(row, place, types, required=("file_name",), extra=True) | {"row": row}
        if "file_name" not in row:
            return None
        path = resolve(self, self.files, row["file_name"], f"{place}.file_name", bases)
        size = self.size(row, place, path)
        if not path or not size:
            return None
        # By what it is called in the JSON, where that is the end of its path.
        name = row["file_name"] if path.endswith(row["file_name"]) else path
        return _Item(place, name, path, split, size, row.get("labelled", False))

    def size(self, row: dict[str, Any], place: str, path: str | None) -> tuple[int, int] | None:
        """Width and height as stated; taken from the file where they are missing and this is to be mended."""
        missing = [key for key in ("width", "height") if row["row"].get(key) is None]
        if missing:
            what = f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing; add it"
            if path is None or not self.mendable(place, what, "no-size", "taken from the file"):
                return None
            try:
                return image_size(self.root / path, self.reading.image.page)
            except DataError as error:
                self.problems += error.problems
                return None
        if "width" not in row or "height" not in row:
            return None
        width, height = row["width"], row["height"]
        if min(width, height) < 1 or width * height > MAX_PIXELS:
            what = f"width and height {shown([width, height])} are not those of an image"
            self.note(place, f"{what}; correct them", "size")
            return None
        return width, height

    def annotation(self, row: Any, place: str, items: dict[int | str, _Item | None], ids: dict[int, int]) -> None:
        valid_fields = self.fields(
            row, place, {"category_id": int, "bbox": list}, required=("category_id",), extra=True
        )
        if "category_id" not in valid_fields:
            return
        place = f"{place} (id {shown(row.get('id'))})"
        known, item = self.image_of(row.get("image_id"), place, items)
        category = valid_fields["category_id"]
        if category not in ids and category not in self.nameless:
            what = f"category_id {shown(category)} is not among the categories"
            self.note(place, f"{what}; correct it or add it there", "unknown-category")
        if (crowd := row.get("iscrowd", 0)) not in (0, 1, None):
            self.note(f"{place}.iscrowd", f"must be 0 or 1, found {shown(crowd)}; correct it", "truth-value")
            return
        if not known or item is None or category not in ids:
            return
        segmentation, box = row.get("segmentation"), None
        outlined = segmentation not in (None, [], {}, "")
        if not outlined and "bbox" not in valid_fields:
            only = "only keypoints, and " if row.get("keypoints") else ""
            self.note(place, f"has {only}neither a segmentation nor a bbox; add one or remove it", "no-shape")
            return
        if "bbox" in valid_fields:
            box = self.box(valid_fields["bbox"], f"{place}.bbox", item.size, is_used=not outlined)
        segmentation = clean(self, segmentation, f"{place}.segmentation", item.size) if outlined else None
        if segmentation is not None or (box is not None and not outlined):
            item.annotations.append(_Annotation(place, ids[category], bool(crowd), box, segmentation))

    def image_of(self, id: Any, place: str, items: dict[int | str, _Item | None]) -> tuple[bool, _Item | None]:
        """Whether an annotation's image is among the images, and its entry, None where that has faults of its own."""
        key = _id(id)
        if key in items:
            return True, items[key]
        # A number here and the same as a text there.
        other = str(key) if isinstance(key, int) else int(key) if key and key.isdecimal() and len(key) < 19 else None
        if other in items:
            what = f"image_id {shown(id)} is that of an image, {shown(other)}, but as a {_kind(key)}"
            if self.mendable(place, f"{what}; write both alike", "number-as-text", f"taken for {shown(other)}"):
                return True, items[other]
            return False, None
        self.note(place, f"image_id {shown(id)} is not among the images; correct it or add the image", "unknown-image")
        return False, None

    def box(
        self, bbox: Any, place: str, size: tuple[int, int], *, is_used: bool
    ) -> tuple[float, float, float, float] | None:
        """The corners of a ``bbox``, cut off at the border of the image."""
        numbers = self.numbers(bbox, place, 4)
        if numbers is None or not is_used:
            return None
        x, y, width, height = numbers
        return box_inside(self, (x, y, x + width, y + height), place, size)

    def name_samples(self, items: list[_Item]) -> None:
        """Ids: the stem of the file name, or all of its path and the split where stems are not unique."""
        ids = sample_ids(self, [(item.place, item.split, item.name) for item in items])
        for item, id in zip(items, ids):
            item.id = id

    def crowds(self, items: list[_Item]) -> None:
        """Take crowds as objects or leave them out, and say which."""
        crowds = [(item, a) for item in items for a in item.annotations if a.crowd]
        if not crowds:
            return
        plain = {a.category for item in items for a in item.annotations if not a.crowd}
        choice = self.reading.crowd
        ignored = {a.category for _, a in crowds if choice == "ignore" or (choice is None and a.category in plain)}
        taken = [a for _, a in crowds if a.category not in ignored]
        left = [a for _, a in crowds if a.category in ignored]
        if taken:
            why = "" if choice else ", as all annotations of their category are"
            what = f"{len(taken)} annotations are crowds (iscrowd 1){why}: taken as objects, such as {taken[0].place}"
            self.warnings.append(self.crowd_warning(what, "ignore"))
        if left:
            lost = [
                item.path
                for item in items
                if item.annotations and all(a.category in ignored and a.crowd for a in item.annotations)
            ]
            what = f"{len(left)} annotations are crowds (iscrowd 1): left out, such as {left[0].place}"
            if lost:
                what += f"; {len(lost)} images have no other label and become unlabelled, such as {lost[0]}"
            self.warnings.append(self.crowd_warning(what, "objects"))
            for item in items:
                kept = [a for a in item.annotations if not (a.crowd and a.category in ignored)]
                if item.annotations and not kept:
                    item.labelled = False  # What was there is not known now.
                item.annotations = kept

    def crowd_warning(self, message: str, other: str) -> Problem:
        verb = "take them as objects" if other == "objects" else "leave them out"
        options = f"--crowd {other}"
        return Problem(
            message,
            kind="crowd",
            severity="warning",
            remedy=f"to {verb}: {fix_command(self.data, options)}",
            fix=options,
        )

    def sample(self, item: _Item) -> Sample:
        outlined = [a for a in item.annotations if a.segmentation is not None]
        boxes = tuple(Box(*a.box, category=a.category) for a in item.annotations if a.segmentation is None and a.box)
        mask = None
        if outlined or (item.labelled and not boxes):
            key = json.dumps([1, item.size, [a.segmentation for a in outlined]]).encode()
            try:
                path = cached_mask(self.root, item.id, key, lambda: self.paint(outlined, item))
                mask = Mask(path, "instance", {i: a.category for i, a in enumerate(outlined, 1)})
            except DataError as error:
                self.problems += error.problems
        return Sample(item.id, item.path, item.split, Labels(mask, boxes=boxes), item.size)

    def paint(self, annotations: list[_Annotation], item: _Item) -> np.ndarray:
        """The instance mask ``(H, W)`` uint16 of annotations, smaller objects on top of larger ones."""
        compare_size(self.root / item.path, item.size, item.place, self.reading.image.page)
        width, height = item.size
        outlined = [Outlined(f"{a.place}.segmentation", a.category, a.segmentation, draw) for a in annotations]
        return paint(outlined, (height, width), item.place)


def _id(value: Any) -> int | str | None:
    """An image's id: a whole number, or a text; None if it is neither."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, (int, str)) and not isinstance(value, bool) else None


def _kind(value: Any) -> str:
    return "number" if isinstance(value, int) else "text"


def _split(file: Path, document: dict[str, Any]) -> str:
    info = document.get("info")
    if isinstance(info, dict) and isinstance(info.get("split"), str) and info["split"]:
        return info["split"]
    name = file.parent.name if file.name == _ROBOFLOW else file.stem
    match = re.search(r"(?<![a-z])(train|val|test)", name.lower())
    if match:
        return match[0]
    # `instances_default.json`, as labelling tools write it, and any file by itself, is what there is to learn from.
    return "train" if file.parent.name != "annotations" or file.stem.lower().endswith("default") else file.stem
