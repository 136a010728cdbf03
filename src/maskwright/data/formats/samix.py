"""SAMIX's own layout: a ``splits.json`` that lists images, and parallel folders of label files.

``splits.json`` holds ``root`` (the folder of all paths, relative to the file), ``splits`` (lists of ids) and
``images``: id → ``file_name``, ``split``, ``width``, ``height``, ``labels``: kind → file. The kinds and their files::

    mask       PNG of category ids
    box        {"boxes": [{"xyxy": [x0, y0, x1, y1], "class_name": "polyp", "class_id": 1}]}
    scribble   {"scribbles": [{"points": [[x, y], ...], "class_name": "polyp", "class_id": 1}]}
    point      {"points": [{"xy": [x, y], "label": 1, "class_name": "polyp", "class_id": 1}]}      label 0 = background
    class      {"classes": [{"class_name": "polyp", "class_id": 1}]}
    unlabeled  not opened

Category names come from ``class_name`` and ``class_id`` of the label files that are named; where those name no class,
from all label files in the parallel folders (so that a fully supervised split of the same data has the same names);
where there are none either, from the mask values: ``object``, or ``class_1``, ``class_2``, ... if there are several.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from maskwright.data.fields import MISSING, Fields, is_name, names_a_file, read_json, shown
from maskwright.data.image_files import MAX_PIXELS
from maskwright.data.labels import IGNORE, Box, Labels, Mask, Point, Sample, Samples, Scribble, Tag
from maskwright.data.mask_files import count_values, read_mask
from maskwright.data.paths import Files, resolve
from maskwright.data.reading import STRICT, Reading
from maskwright.errors import DataError
from maskwright.problems import Problem

SPLITS = "splits.json"
LAYOUT = 'SAMIX: a folder with splits.json that has "images", or such a file'
KINDS = ("mask", "box", "scribble", "point", "class", "unlabeled")
_LISTS = {"box": "boxes", "scribble": "scribbles", "point": "points", "class": "classes"}


def detect(path: Path, document: Any) -> bool:
    """Whether a folder's ``splits.json``, or the parsed JSON of a file, is of this format."""
    splits = path / SPLITS
    if path.is_dir():
        document = read_json(splits) if splits.is_file() else None
    return isinstance(document, dict) and isinstance(document.get("images"), dict)


def read(path: str | Path, reading: Reading = STRICT) -> Samples:
    """Read a SAMIX dataset.

    Args:
        path: a ``splits*.json`` of this layout, or the folder with ``splits.json``.

    Raises:
        DataError: every structural problem at once, with file and place.
    """
    path = Path(path)
    path = path / SPLITS if path.is_dir() else path
    document = read_json(path)
    parse = _Parse(path, reading)
    samples = parse.document(document)
    categories = parse.categories(samples) if not parse.problems else ()
    if parse.problems:
        raise DataError(parse.problems, str(path))
    return Samples(parse.root, categories, samples, str(path), "SAMIX", tuple(parse.warnings))


class _Parse(Fields):
    def __init__(self, path: Path, reading: Reading) -> None:
        super().__init__(reading, path)
        self.path, self.root = path, path.parent
        self.files = Files(self.root)
        self.names: dict[int, str] = {0: "background"}

    def document(self, document: Any) -> tuple[Sample, ...]:
        types = {"root": str, "splits": dict, "images": dict}
        top = self.fields(document, SPLITS, types, required=("images",), extra=True)
        root = top.get("root", ".")
        if "\0" in root or not os.path.isdir(self.path.parent / root):
            what = f"the folder {shown(root)} is not there, seen from {self.path.parent}"
            self.note("root", f"{what}; write '.' for the folder of this file")
            return ()
        self.root = self.path.parent / root if root != "." else self.path.parent
        self.files = Files(self.root)
        splits = self.splits(top.get("splits", {}), top.get("images", {}))
        return tuple(
            sample for id, row in top.get("images", {}).items() if (sample := self.sample(id, row, splits)) is not None
        )

    def splits(self, lists: dict[str, Any], images: dict[str, Any]) -> dict[str, str]:
        """The split of each id, by the lists."""
        splits: dict[str, str] = {}
        for split, ids in lists.items():
            if not isinstance(ids, list):
                self.note(f"splits.{split}", "must be a list of ids; correct it")
                continue
            for id in ids:
                if not isinstance(id, str) or id not in images:
                    self.note(f"splits.{split}", f"{id!r} is not among the images; add it there or remove it")
                elif splits.setdefault(id, split) != split:
                    self.note(f"splits.{split}", f"{id!r} is in {splits[id]!r} too; keep it in one split")
        return splits

    def sample(self, id: str, row: Any, splits: dict[str, str]) -> Sample | None:
        place = f"images.{id}"
        types = {"file_name": str, "split": str, "width": int, "height": int, "labels": dict}
        row = self.fields(row, place, types, required=("file_name",), extra=True)
        split = row.get("split", splits.get(id, "train"))
        if splits.get(id, split) != split:
            self.note(f"{place}.split", f"is {split!r}, but the lists say {splits[id]!r}; correct one of them")
        if not names_a_file(id):
            self.note(place, "this id cannot be part of a file name; rename it (no slash, at most 200 bytes)")
        image = self.inside(row["file_name"], f"{place}.file_name") if "file_name" in row else None
        if image is None:
            return None
        labels = self.labels(row.get("labels", {}), f"{place}.labels")
        size = (row["width"], row["height"]) if "width" in row and "height" in row else None
        if size and not (min(size) > 0 and size[0] * size[1] <= MAX_PIXELS):
            self.note(place, f"width and height {shown(list(size))} are not those of an image; correct or remove them")
        return Sample(id, image, split, labels, size)

    def labels(self, row: dict[str, Any], place: str) -> Labels:
        row = self.fields(row, place, dict.fromkeys(KINDS, str))
        mask = None
        if "mask" in row and (path := self.inside(row["mask"], f"{place}.mask")):
            mask = Mask(path)
        items = {kind: self.label_file(row[kind], f"{place}.{kind}", kind) for kind in _LISTS if kind in row}
        boxes, scribbles, points = [], [], []
        for at, item in items.get("box", []):
            corners = self.numbers(item.get("xyxy", MISSING), f"{at}.xyxy", 4)
            boxes += [Box(*corners, category=self.category(item, at))] if corners else []
        for at, item in items.get("scribble", []):
            line = [self.numbers(xy, f"{at}.points[{i}]", 2) for i, xy in enumerate(item.get("points", []))]
            scribbles.append(Scribble(tuple((xy[0], xy[1]) for xy in line if xy), self.category(item, at)))
        for at, item in items.get("point", []):
            xy = self.numbers(item.get("xy", MISSING), f"{at}.xy", 2)
            category = 0 if item.get("label", 1) == 0 else self.category(item, at)
            points += [Point(*xy, category=category)] if xy else []
        tags = tuple(Tag(self.category(item, at)) for at, item in items.get("class", []))
        return Labels(mask, tuple(scribbles), tuple(boxes), tuple(points), tags)

    def label_file(self, name: str, place: str, kind: str) -> list[tuple[str, dict[str, Any]]]:
        """The labels in a file, each with its place, and their classes noted."""
        path = self.inside(name, place)
        if path is None:
            return []
        try:
            document = read_json(self.root / path)
        except DataError as error:
            self.problems += [Problem(problem, place=place) for problem in error.problems]
            return []
        key = _LISTS[kind]
        document = self.fields(document, name, {key: list}, required=(key,), extra=True)
        value = {"box": ("xyxy",), "scribble": ("points",), "point": ("xy",), "class": ()}[kind]
        types = {"class_id": int, "class_name": str, "label": int, **dict.fromkeys(value, list)}
        items = []
        for i, item in enumerate(document.get(key, [])):
            at = f"{name}: {key}[{i}]"
            item = self.fields(item, at, types, required=value, extra=True)
            self.learn_name(item, at)
            items.append((at, item))
        return items

    def learn_name(self, item: dict[str, Any], place: str) -> None:
        if "class_id" in item and "class_name" in item:
            id, name = item["class_id"], item["class_name"]
            if not is_name(name):
                self.note(place, f"class_name {shown(name)} cannot be a category's name; write a short text")
            elif not 0 <= id < IGNORE:
                self.note(place, f"class_id {shown(id)} is not in 0..{IGNORE - 1}; correct it")
            elif self.names.setdefault(id, name) != name:
                self.note(
                    place, f"class_id {id} is {name!r} here and {self.names[id]!r} elsewhere; correct one of them"
                )

    def category(self, item: dict[str, Any], place: str) -> int:
        if "class_id" in item:
            return item["class_id"]
        for id, name in self.names.items():
            if name == item.get("class_name"):
                return id
        self.note(place, "has no class_id, and its class_name has none elsewhere; add class_id")
        return 0

    def inside(self, path: str, place: str) -> str | None:
        """The file that a path means, or None where it may not be used."""
        return resolve(self, self.files, path, place)

    def categories(self, samples: Iterable[Sample]) -> tuple[str, ...]:
        if len(self.names) == 1:
            for kind, key in _LISTS.items():
                folder = self.root / ("classes" if kind == "class" else key)
                for file in sorted(folder.glob("*.json")):
                    self.label_file(file.relative_to(self.root).as_posix(), file.name, kind)
        highest = max(self.names)
        if highest == 0:
            highest = self.highest_mask_value(samples)
        others = [id for id in range(highest + 1) if id not in self.names]
        names = {id: f"class_{id}" if highest > 1 else "object" for id in others} | self.names
        return tuple(names[id] for id in range(highest + 1))

    def highest_mask_value(self, samples: Iterable[Sample]) -> int:
        highest = 1
        for sample in samples:
            if sample.labels.mask:
                try:
                    counts = count_values(read_mask(self.root / sample.labels.mask.path))
                except DataError:
                    continue  # It has no say in the names; maskwright.data.check reports it.
                counts[IGNORE] = 0
                highest = max(highest, int(np.flatnonzero(counts).max(initial=0)))
        return highest
