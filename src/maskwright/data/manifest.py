"""``manifest.json``: maskwright's own format, one readable file beside the images it names.

The file holds one sample per line::

    {
      "version": 1,
      "categories": ["background", "polyp"],
      "samples": [
        {"id": "a", "image": "images/a.jpg", "split": "train", "size": [352, 288], "labels": {
          "mask": {"path": "masks/a.png", "kind": "instance", "categories": {"1": "polyp"}},
          "boxes": [{"xyxy": [10, 20, 50.5, 60], "category": "polyp"}],
          "scribbles": [{"points": [[1.5, 2.5], [3.5, 2.5]], "category": "background"}],
          "points": [{"xy": [12.5, 30.5], "category": "polyp"}],
          "tags": ["polyp"]}}
      ]
    }

``size`` (width, height), ``split`` (default ``train``) and every key of ``labels`` may be missing. The order of
``categories`` gives the ids of mask pixels, the first is ``background``. A mask's ``kind`` is ``semantic`` where it is
missing; its ``categories`` (instance masks only) name the category of each instance id, and an id that is not named has
category 1. A box's ``cut`` (``x``, ``y`` or ``xy``) names the axes along which a crop cut its object. Paths are relative
to the manifest's folder, with ``/``, and stay in it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from maskwright.data.fields import MISSING, Fields, category_problems, names_a_file, read_json, shown
from maskwright.data.files import place_file, write_atomic
from maskwright.data.image_files import MAX_PIXELS
from maskwright.data.labels import Box, Labels, Mask, Point, Sample, Samples, Scribble, Tag
from maskwright.data.paths import Files, resolve
from maskwright.data.reading import STRICT, Reading
from maskwright.errors import DataError
from maskwright.problems import as_problem

VERSION = 1
NAME = "manifest.json"
LAYOUT = "a folder with manifest.json (maskwright's own), or such a file"

AnySamples = TypeVar("AnySamples", bound=Samples)


def detect(path: Path, document: Any) -> bool:
    """Whether a folder, or the parsed JSON of a file, is of this format."""
    return (path / NAME).is_file() if path.is_dir() else isinstance(document, dict) and "samples" in document


def read(path: str | Path, reading: Reading = STRICT) -> Samples:
    """Read a manifest (the file, or the folder with a ``manifest.json``). The files it names are looked up, not opened.

    Raises:
        DataError: every structural problem at once, with sample id and place in the JSON: missing, wrong or unknown
            fields, unknown categories, numbers that are not finite, an unknown version, duplicate ids, paths that leave
            the folder.
    """
    path = Path(path)
    path = path / NAME if path.is_dir() else path
    document = read_json(path)
    parse = _Parse(path.parent, reading, path)
    categories, samples = parse.document(document)
    if parse.problems:
        raise DataError(parse.problems, str(path))
    return Samples(path.parent, categories, samples, str(path), "manifest.json", tuple(parse.warnings))


def write(dataset: Samples, path: str | Path | None = None) -> Path:
    """Write the manifest of a dataset by rename.

    Args:
        dataset: what to write; its images and masks are already there.
        path: ``manifest.json`` in the dataset's folder where not given. Must lie directly in that folder, as all paths
            in it are relative to it.

    Raises:
        DataError: the path is elsewhere, or the dataset holds what :func:`read` would refuse; nothing is written then.
    """
    path = dataset.root / NAME if path is None else Path(path)
    if path.parent.resolve() != dataset.root.resolve():
        raise DataError([f"{path}: a manifest must lie directly in the dataset's folder {dataset.root}; save it there"])
    names = dict(enumerate(dataset.categories))
    # An id without a name is written as a text that is no category's name, for the parser below to complain about.
    rows = [_sample_row(sample, lambda c: names.get(c, f"id {c}")) for sample in dataset.samples]
    parse = _Parse(dataset.root)
    parse.document({"version": VERSION, "categories": list(dataset.categories), "samples": rows})
    try:
        lines = ",\n    ".join(json.dumps(row, ensure_ascii=False) for row in rows)
        head = json.dumps(list(dataset.categories), ensure_ascii=False)
        text = f'{{\n  "version": {VERSION},\n  "categories": {head},\n  "samples": [\n    {lines}\n  ]\n}}\n'
        content = text.encode()
    except UnicodeEncodeError as error:
        problem = (
            f"{error.object[max(error.start - 20, 0) : error.end]!r} is no valid text; rename the file or category"
        )
        raise DataError([problem], str(path)) from None
    if parse.problems:
        raise DataError(parse.problems, str(path))
    return write_atomic(path, content)


def copy_files(dataset: AnySamples, folder: str | Path, *, masks: bool = True) -> AnySamples:
    """The dataset with its files in a new folder, hard-linked or copied: ``images/<id>.<suffix>``, ``masks/<id>.png``.

    Args:
        dataset: what to copy; it stays as it is.
        folder: does not exist yet, or is empty.
        masks: False leaves the masks out, of the files and of the labels.

    Raises:
        DataError: the folder is not empty, a file is missing or cannot be written; all missing files at once.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError([f"{folder}: is not empty; choose a new folder"])
    placed, problems = place_files(dataset, folder, masks=masks)
    if problems:
        raise DataError(problems, dataset.source)
    return placed


def place_files(
    dataset: AnySamples, folder: Path, names: Sequence[str] = (), *, masks: bool = True
) -> tuple[AnySamples, list[str]]:
    """As :func:`copy_files`, into a folder that may hold other files.

    Args:
        dataset: what to copy; it stays as it is.
        folder: where to.
        names: ids in the new folder; left out, the dataset's own.
        masks: False leaves the masks out.

    Returns:
        The dataset in the folder, and the files that could not be copied.
    """
    problems: list[str] = []
    samples = []
    for sample, name in zip(dataset.samples, names or [sample.id for sample in dataset.samples], strict=True):
        image = f"images/{name}{Path(sample.image).suffix}"
        files = [(dataset.image_path(sample), folder / image)]
        mask = sample.labels.mask if masks else None
        if mask:
            files.append((dataset.root / mask.path, folder / f"masks/{name}.png"))
            mask = replace(mask, path=f"masks/{name}.png")
        for source, target in files:
            try:
                place_file(source, target)
            except DataError as error:
                problems += error.problems
        samples.append(replace(sample, id=name, image=image, labels=replace(sample.labels, mask=mask)))
    return replace(dataset, root=folder, samples=tuple(samples), source=str(folder / NAME)), problems


def _sample_row(sample: Sample, name: Callable[[int], str]) -> dict[str, Any]:
    labels = sample.labels
    row: dict[str, Any] = {}
    if labels.mask:
        named = {str(instance): name(category) for instance, category in labels.mask.categories.items()}
        row["mask"] = {"path": labels.mask.path, "kind": labels.mask.kind, **({"categories": named} if named else {})}
    if labels.boxes:
        row["boxes"] = [
            {"xyxy": [_short(v) for v in b.xyxy], "category": name(b.category), **({"cut": b.cut} if b.cut else {})}
            for b in labels.boxes
        ]
    if labels.scribbles:
        row["scribbles"] = [
            {"points": [[_short(x), _short(y)] for x, y in s.points], "category": name(s.category)}
            for s in labels.scribbles
        ]
    if labels.points:
        row["points"] = [{"xy": [_short(p.x), _short(p.y)], "category": name(p.category)} for p in labels.points]
    if labels.tags:
        row["tags"] = [name(tag.category) for tag in labels.tags]
    head: dict[str, Any] = {"id": sample.id, "image": sample.image, "split": sample.split}
    if sample.size is not None:
        head["size"] = [int(side) for side in sample.size]
    return {**head, "labels": row} if row else head


def _short(value: float) -> float:
    value = float(value)
    return int(value) if value.is_integer() and abs(value) < 1e15 else value


class _Parse(Fields):
    def __init__(self, root: Path, reading: Reading = STRICT, data: Path | None = None) -> None:
        super().__init__(reading, data or "")
        self.root, self.files = root, Files(root)
        self.ids: dict[str, int] = {}

    def document(self, document: Any) -> tuple[tuple[str, ...], tuple[Sample, ...]]:
        types = {"version": int, "categories": list, "samples": list}
        if not isinstance(document, dict) or document.get("version") != VERSION:
            version = document.get("version", "none") if isinstance(document, dict) else "none"
            self.note(
                "version", f"must be {VERSION}, found {shown(version)}; this maskwright does not read other versions"
            )
            return (), ()
        top = self.fields(document, "manifest", types, required=tuple(types))
        self.problems += map(as_problem, category_problems(top.get("categories", ["background"])))
        names = [name for name in top.get("categories", []) if isinstance(name, str)]
        self.ids = {name: i for i, name in enumerate(names)}
        samples: list[Sample] = []
        row_of_id: dict[str, int] = {}
        for i, row in enumerate(top.get("samples", [])):
            sample = self.sample(row, f"samples[{i}]")
            if sample and sample.id in row_of_id:
                first = row_of_id[sample.id]
                self.note(f"samples[{i}]", f"id {sample.id!r} is also that of samples[{first}]; rename one")
            elif sample:
                row_of_id[sample.id] = i
                samples.append(sample)
        return tuple(names), tuple(samples)

    def sample(self, row: Any, place: str) -> Sample | None:
        if isinstance(row, dict) and isinstance(row.get("id"), str):
            place = f"{place} (id {shown(row['id'])})"
        types = {"id": str, "image": str, "split": str, "size": list, "labels": dict}
        row = self.fields(row, place, types, required=("id", "image"))
        if "id" in row and not names_a_file(row["id"]):
            self.note(f"{place}.id", "must be usable as a file name: 1 to 200 bytes, no slash; rename it")
        image = self.path(row["image"], f"{place}.image") if "image" in row else None
        if not row.get("split", "train"):
            self.note(f"{place}.split", "is empty; write train, val, test or another name")
        size = self.numbers(row.get("size", MISSING), f"{place}.size", 2)
        if size and not all(side == int(side) and 0 < side <= MAX_PIXELS for side in size):
            self.note(f"{place}.size", f"{size} is no width and height in pixels; correct or remove it")
        labels = self.labels(row.get("labels", {}), f"{place}.labels")
        if "id" not in row or "image" not in row:
            return None
        return Sample(
            row["id"],
            image or row["image"],
            row.get("split", "train"),
            labels,
            (int(size[0]), int(size[1])) if size else None,
        )

    def labels(self, row: Any, place: str) -> Labels:
        row = self.fields(row, place, {"mask": dict, "boxes": list, "scribbles": list, "points": list, "tags": list})
        boxes, scribbles, points = [], [], []
        for at, item in self.items(row, place, "boxes", {"xyxy": list, "category": str}, cut=str):
            corners, category = (
                self.numbers(item.get("xyxy", MISSING), f"{at}.xyxy", 4),
                self.category(item.get("category", MISSING), at),
            )
            if (cut := item.get("cut", "")) not in ("", "x", "y", "xy"):
                self.note(f"{at}.cut", f"{shown(cut)} is no axis along which a crop cut the object; write x, y or xy")
            boxes += [Box(*corners, category=category, cut=cut)] if corners else []
        for at, item in self.items(row, place, "scribbles", {"points": list, "category": str}):
            line = [self.numbers(xy, f"{at}.points[{i}]", 2) for i, xy in enumerate(item.get("points", []))]
            if "points" in item and not line:
                self.note(f"{at}.points", "is empty; give at least one point or remove the scribble")
            vertices = tuple((xy[0], xy[1]) for xy in line if xy)
            scribbles.append(Scribble(vertices, self.category(item.get("category", MISSING), at)))
        for at, item in self.items(row, place, "points", {"xy": list, "category": str}):
            xy, category = (
                self.numbers(item.get("xy", MISSING), f"{at}.xy", 2),
                self.category(item.get("category", MISSING), at),
            )
            points += [Point(*xy, category=category)] if xy else []
        tags = tuple(Tag(self.category(name, f"{place}.tags[{i}]")) for i, name in enumerate(row.get("tags", [])))
        mask = self.mask(row["mask"], f"{place}.mask") if "mask" in row else None
        return Labels(mask, tuple(scribbles), tuple(boxes), tuple(points), tags)

    def mask(self, row: Any, place: str) -> Mask | None:
        row = self.fields(row, place, {"path": str, "kind": str, "categories": dict}, required=("path",))
        kind = row.get("kind", "semantic")
        if kind not in ("semantic", "instance"):
            self.note(f"{place}.kind", f"{kind!r} is unknown; write semantic or instance")
        categories = {}
        for key, name in row.get("categories", {}).items():
            if not (key.isascii() and key.isdigit() and len(key) <= 5 and 0 < int(key) <= 65535):
                self.note(
                    f"{place}.categories", f"{shown(key)} is no instance id; write a whole number from 1 to 65535"
                )
                continue
            categories[int(key)] = self.category(name, f"{place}.categories[{key}]")
        if categories and kind == "semantic":
            self.note(f"{place}.categories", "belongs to instance masks only; remove it or set kind to instance")
        path = self.path(row["path"], f"{place}.path") if "path" in row else None
        if path is None:
            return None
        return Mask(path, "instance" if kind == "instance" else "semantic", categories)

    def items(
        self, row: dict[str, Any], place: str, key: str, known: dict[str, type], **optional: type
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        for i, item in enumerate(row.get(key, [])):
            at = f"{place}.{key}[{i}]"
            yield at, self.fields(item, at, {**known, **optional}, required=tuple(known))

    def category(self, name: Any, place: str) -> int:
        if name is MISSING:
            return 0
        if not isinstance(name, str):
            self.note(place, f"must be a category's name, found {shown(name)}; correct it")
            return 0
        if name not in self.ids:
            self.note(place, f"unknown category {shown(name)}; known are {self.known()}; correct it or add it there")
        return self.ids.get(name, 0)

    def known(self) -> str:
        return ", ".join(list(self.ids)[:20]) + (", ..." if len(self.ids) > 20 else "")

    def path(self, path: str, place: str) -> str | None:
        """The file that a path means, or None where it may not be used."""
        return resolve(self, self.files, path, place)
