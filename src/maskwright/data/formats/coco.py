"""COCO instance annotations: reading them as instance masks and boxes, and writing them.

Read are one JSON file, a folder with one, ``annotations/*.json`` (of the official set the ``instances_*.json``), and
``<split>/_annotations.coco.json``. The split is the file's own ``info.split`` if it was written here, else train, val
(or valid) or test by the file's or folder's name, else the file's name in ``annotations/``, else ``train``.

How annotations become labels:

- ``segmentation`` (polygons, run lengths, compressed run lengths) becomes an instance mask, ids counted from 1 in the
  order of the annotations. The PNG is made on first reading in ``.maskwright/masks`` of the dataset's folder, under a
  name with a hash of the annotations, so that an edited annotation makes a new one. A PNG holds no overlaps: the
  smaller object lies on top, and one that is wholly covered has no pixels.
- An annotation that has only a ``bbox`` becomes a Box. Its corners are moved to the border where rounding to COCO's two
  decimals put them at most 0.01 pixels outside.
- ``iscrowd`` regions are left out, as instance masks have no value for "ignore": their pixels become background.
- An image without any annotation is unlabelled, as most images here are; one that was looked at and holds no object
  says so with ``"labelled": true`` in its entry and gets an empty mask. Files written here have this key.

Images are looked for by ``file_name`` in the folder of the JSON, the dataset's folder, its ``images/``, and those named
as the file (``train2017/``) or the split.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from maskwright.data.fields import Fields, leaves_folder, names_a_file, read_json
from maskwright.data.formats import rle
from maskwright.data.formats.contents import mask_kinds, weak_labels
from maskwright.data.images import MAX_PIXELS, cached_mask, image_size, read_mask, write_atomic
from maskwright.data.labels import IGNORE, Box, Labels, Mask, Sample, Samples
from maskwright.data.lookahead import ahead
from maskwright.data.manifest import copy_files
from maskwright.data.reading import STRICT, Reading
from maskwright.errors import DataError

LAYOUT = (
    "COCO: a JSON file with images, annotations and categories, a folder with one, annotations/*.json, or "
    "<split>/_annotations.coco.json"
)
_ROUNDING = 0.01


def detect(path: Path, document: Any) -> bool:
    """Whether a folder holds COCO files, or the parsed JSON of a file is one.

    Not where ``masks/`` or ``splits.json`` make a folder one of another layout.
    """
    if not path.is_dir():
        return is_coco(document)
    if (path / "splits.json").is_file() or (path / "masks").is_dir():
        return False
    # The smallest first: one COCO file is enough to know, and they can be large.
    return any(is_coco(read_json(file)) for file in sorted(find(path), key=lambda file: file.stat().st_size))


def is_coco(document: Any) -> bool:
    """Whether parsed JSON is a COCO file."""
    keys = ("images", "annotations", "categories")
    return isinstance(document, dict) and all(isinstance(document.get(key), list) for key in keys)


def find(folder: Path) -> list[Path]:
    """The JSON files that may be COCO annotations of a dataset folder, by name alone."""
    files = sorted((folder / "annotations").glob("instances_*.json")) or sorted((folder / "annotations").glob("*.json"))
    return files or sorted(folder.glob("*/_annotations.coco.json")) or sorted(folder.glob("*.json"))


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
    parse = _Parse(root)
    parse.categories(documents)
    items = [item for file, document in documents.items() for item in parse.file(file, document)]
    parse.name_samples(items)
    if parse.problems:
        raise DataError(parse.problems, str(path))
    samples = tuple(ahead(parse.sample, items))
    if parse.problems:
        raise DataError(sorted(parse.problems), str(path))
    return Samples(root, tuple(parse.names), samples, str(path))


@dataclass
class _Item:
    """An image's entry with its annotations, checked."""

    place: str
    file_name: str
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
    box: tuple[float, float, float, float] | None
    segmentation: Any


class _Parse(Fields):
    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root
        self.names = ["background"]
        self.ids: dict[Path, dict[int, int]] = {}

    def categories(self, documents: dict[Path, dict[str, Any]]) -> None:
        """One list of names for all files; each file keeps its own ids for them."""
        for file, document in documents.items():
            ids = self.ids[file] = {}
            for i, row in enumerate(document["categories"]):
                place = f"{file.name}: categories[{i}]"
                row = self.fields(row, place, {"id": int, "name": str}, required=("id", "name"), extra=True)
                if len(row) < 2:
                    continue
                if row["id"] in ids or (row["name"] in self.names and self.names.index(row["name"]) in ids.values()):
                    self.note(place, f"id {row['id']} or name {row['name']!r} is there twice; remove or rename one")
                if row["name"] not in self.names:
                    self.names.append(row["name"])
                ids[row["id"]] = self.names.index(row["name"])

    def file(self, file: Path, document: dict[str, Any]) -> list[_Item]:
        split = _split(file, document)
        bases = self.bases(file, split)
        items: dict[Any, _Item] = {}
        for i, row in enumerate(document["images"]):
            place = f"{file.name}: images[{i}]"
            types = {"file_name": str, "width": int, "height": int}
            valid_fields = self.fields(row, place, types, required=tuple(types), extra=True)
            id = row.get("id") if isinstance(row, dict) else None
            if not isinstance(id, (int, str)) or id in items:
                self.note(f"{place}.id", f"{id!r} is missing or that of another image; correct it")
            elif len(valid_fields) == len(types):
                items[id] = self.image(row, place, bases, split)
        for i, row in enumerate(document["annotations"]):
            self.annotation(row, f"{file.name}: annotations[{i}]", items, self.ids[file])
        return list(items.values())

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

    def image(self, row: dict[str, Any], place: str, bases: list[str], split: str) -> _Item:
        name, size = row["file_name"], (row["width"], row["height"])
        if reason := leaves_folder(self.root, name):
            self.note(f"{place}.file_name", f"path {name!r} {reason}")
        elif min(size) < 1 or size[0] * size[1] > MAX_PIXELS:
            self.note(place, f"width and height {size} are not those of an image; correct them")
        folder = next((base for base in bases if (self.root / base / name).is_file()), bases[0])
        return _Item(place, name, f"{folder}{name}", split, size, row.get("labelled") is True)

    def annotation(self, row: Any, place: str, items: dict[Any, _Item], ids: dict[int, int]) -> None:
        types = {"category_id": int, "bbox": list}
        valid_fields = self.fields(row, place, types, required=("category_id",), extra=True)
        if "category_id" not in valid_fields:
            return
        place = f"{place} (id {row.get('id')!r})"
        image = row.get("image_id")
        if not isinstance(image, (int, str)) or image not in items:
            self.note(place, f"image_id {image!r} is not among the images; correct it or add the image")
            return
        if valid_fields["category_id"] not in ids:
            problem = (
                f"category_id {valid_fields['category_id']} is not among the categories; correct it or add it there"
            )
            self.note(place, problem)
            return
        if row.get("iscrowd"):
            return
        box = self.box(valid_fields["bbox"], f"{place}.bbox", items[image].size) if "bbox" in valid_fields else None
        segmentation = row.get("segmentation") or None
        if segmentation is None and "bbox" not in valid_fields:
            self.note(place, "has neither a segmentation nor a bbox; add one or remove it")
        items[image].annotations.append(_Annotation(place, ids[valid_fields["category_id"]], box, segmentation))

    def box(self, bbox: Any, place: str, size: tuple[int, int]) -> tuple[float, float, float, float] | None:
        numbers = self.numbers(bbox, place, 4)
        if numbers is None:
            return None
        x, y, width, height = numbers
        x0, x1 = (_to_border(v, size[0]) for v in (x, x + width))
        y0, y1 = (_to_border(v, size[1]) for v in (y, y + height))
        return x0, y0, x1, y1

    def name_samples(self, items: list[_Item]) -> None:
        """Ids: the stem of the file name, or all of it and the split where stems are not unique."""
        stems = Counter(Path(item.file_name).stem for item in items)
        ids: set[str] = set()
        for item in items:
            path = Path(item.file_name)
            unique = stems[path.stem] == 1
            item.id = path.stem if unique else "_".join([item.split, *path.with_suffix("").parts])
            if item.id in ids:
                self.note(item.place, f"{item.file_name!r} is there twice; remove one")
            elif not names_a_file(item.id):
                self.note(item.place, f"{item.id!r} cannot be an id; use printable text of at most 200 bytes")
            ids.add(item.id)

    def sample(self, item: _Item) -> Sample:
        outlined = [a for a in item.annotations if a.segmentation is not None]
        boxes = tuple(Box(*a.box, category=a.category) for a in item.annotations if a.segmentation is None and a.box)
        mask = None
        if outlined or (item.labelled and not boxes):
            key = json.dumps([1, item.size, [a.segmentation for a in outlined]]).encode()
            try:
                path = cached_mask(self.root, item.id, key, lambda: self.paint(outlined, item))
                mask = Mask(path, "instance", {i: a.category for i, a in enumerate(outlined, 1) if a.category != 1})
            except DataError as error:
                self.problems += error.problems
        return Sample(item.id, item.path, item.split, Labels(mask, boxes=boxes), item.size)

    def paint(self, annotations: list[_Annotation], item: _Item) -> np.ndarray:
        """The instance mask ``(H, W)`` uint16 of annotations, smaller objects on top of larger ones."""
        width, height = item.size
        problems, parts = [], []
        for id, annotation in enumerate(annotations, start=1):
            try:
                part = rasterize(annotation.segmentation, (height, width))
                parts.append((int(part.sum()), id, np.packbits(part)))
            except (ValueError, TypeError, OverflowError) as error:
                problems.append(f"{annotation.place}.segmentation: {error}; correct or remove it")
        if len(annotations) > 65535:
            problems.append(f"{item.place}: more than 65535 objects do not fit a mask; split the image")
        if problems:
            raise DataError(problems)
        mask = np.zeros((height, width), np.uint16)
        for _, id, bits in sorted(parts, key=lambda part: (-part[0], part[1])):
            mask[np.unpackbits(bits, count=mask.size).reshape(mask.shape).view(bool)] = id
        return mask


def rasterize(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    """The mask ``(H, W)`` bool of a COCO ``segmentation`` in any of its forms; equal to pycocotools' ``annToMask``.

    Raises:
        ValueError: another form, run lengths of another size, or a polygon of fewer than three vertices.
    """
    if isinstance(segmentation, list):
        mask = np.zeros(size, bool)
        for vertices in segmentation:
            mask |= rle.polygon(vertices, size)
        return mask
    if not isinstance(segmentation, dict) or not isinstance(segmentation.get("counts"), (list, str)):
        raise ValueError("is neither a list of polygons nor an object with size and counts")
    if list(segmentation.get("size", ())) != list(size):
        raise ValueError(f"its size {segmentation.get('size')} is not that of the image, {list(size)}")
    counts = segmentation["counts"]
    return rle.decode(rle.decompress(counts) if isinstance(counts, str) else counts, size)


def loss(dataset: Samples) -> list[str]:
    """What of a dataset COCO cannot hold, one line each."""
    lost = weak_labels(dataset, ("scribbles", "points", "tags"))
    if count := mask_kinds(dataset)["semantic"]:
        lost.append(f"{count} semantic masks (each category of an image becomes one object, {IGNORE} is dropped)")
    return lost


def write(dataset: Samples, folder: str | Path) -> Path:
    """Write ``images/`` and ``annotations/<split>.json`` into a new folder; what :func:`loss` names is left out.

    Instances are compressed run lengths with their pixel count as ``area`` and their tight ``bbox``; boxes have an
    empty ``segmentation``; ``iscrowd`` is 0 throughout. Category ids are those of the dataset.

    Returns:
        The folder.

    Raises:
        DataError: the folder is not empty, a file is missing or unreadable, or a split's name is no file name.
    """
    folder = Path(folder)
    splits: dict[str, list[Sample]] = defaultdict(list)
    for sample in dataset:
        splits[sample.split].append(sample)
    if bad := [split for split in splits if not names_a_file(split)]:
        raise DataError([f"split {bad[0]!r} cannot be a file name; rename it"])
    copied = copy_files(dataset, folder, masks=False)
    files = {sample.id: sample.image for sample in copied}
    categories = [{"id": id, "name": name} for id, name in enumerate(dataset.categories) if id]
    for split, samples in splits.items():
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number, sample in enumerate(samples, start=1):
            width, height = image_size(dataset.image_path(sample))
            entry = {"id": number, "file_name": Path(files[sample.id]).name, "width": width, "height": height}
            images.append({**entry, "labelled": sample.labels.mask is not None})
            for row in _annotations(dataset, sample):
                annotations.append({"id": len(annotations) + 1, "image_id": number, **row, "iscrowd": 0})
        document = {"info": {"split": split}, "images": images, "annotations": annotations, "categories": categories}
        write_atomic(folder / "annotations" / f"{split}.json", json.dumps(document, ensure_ascii=False))
    return folder


def _annotations(dataset: Samples, sample: Sample) -> Iterator[dict[str, Any]]:
    mask = sample.labels.mask
    if mask:
        values = read_mask(dataset.root / mask.path)
        if mask.kind == "semantic":
            values = np.where(values == IGNORE, 0, values)
        for id, place in enumerate(ndimage.find_objects(values.astype(np.int32)), start=1):
            if place is None:
                continue
            part = np.zeros(values.shape, bool)
            part[place] = values[place] == id
            rows, columns = place
            box = [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start]
            code = {"size": list(values.shape), "counts": rle.compress(rle.encode(part))}
            category = mask.category_of(id)
            yield {"category_id": category, "segmentation": code, "area": int(part.sum()), "bbox": box}
    for box in sample.labels.boxes:
        size = box.x1 - box.x0, box.y1 - box.y0
        row = {"category_id": box.category, "segmentation": [], "area": size[0] * size[1]}
        yield {**row, "bbox": [box.x0, box.y0, *size]}


def _split(file: Path, document: dict[str, Any]) -> str:
    info = document.get("info")
    if isinstance(info, dict) and isinstance(info.get("split"), str) and info["split"]:
        return info["split"]
    name = file.parent.name if file.name == "_annotations.coco.json" else file.stem
    match = re.search(r"(?<![a-z])(train|val|test)", name.lower())
    if match:
        return match[0]
    # `instances_default.json`, as labelling tools write it, and any file by itself, is what there is to learn from.
    return "train" if file.parent.name != "annotations" or file.stem.lower().endswith("default") else file.stem


def _to_border(value: float, limit: int) -> float:
    border = min(max(value, 0.0), float(limit))
    return border if abs(value - border) <= _ROUNDING else value
