"""A dataset while it is labelled: its images, their labels, and how both are kept.

What is drawn is kept at once, object by object, in ``.maskwright/labels`` of the dataset's folder; the dataset itself, ``manifest.json``
and the mask PNGs, follows within a second. After a kill the next start brings it up to date. A mask is a complete label: it enters the
dataset when its image is marked done, and waits in ``.maskwright/labels`` until then. Masks that were there before are kept in
``.maskwright/originals`` when they are changed for the first time.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from maskwright.data import manifest
from maskwright.data.dataset import Dataset
from maskwright.data.fields import category_problems
from maskwright.data.files import place_file, write_atomic
from maskwright.data.image_files import IMAGE_SUFFIXES
from maskwright.data.images import image_size
from maskwright.data.labels import IGNORE, Box, Kind, Labels, Mask, MaskKind, Point, Sample, Scribble, Tag
from maskwright.data.mask_files import read_mask, write_mask
from maskwright.data.pictures import palette
from maskwright.engine.locks import FolderLock
from maskwright.errors import DataError
from maskwright.serve.annotations import Annotations
from maskwright.serve.wire import MAX_OBJECTS, Runs, Size, WireError

WORK = ".maskwright"
"""Folder in the dataset's own for all that is not the dataset."""

FLUSH_SECONDS = 0.7
"""The dataset's files follow what was drawn after this time."""

STATES = ("unlabelled", "weak", "mask", "checked")


class Project:
    """A dataset that is being labelled, by this process alone.

    Args:
        data: a folder of images, or a dataset.

    Raises:
        DataError: nothing to label there, or a format that labels cannot be written into (says how to convert it).
        RunError: another process labels it.
    """

    def __init__(self, data: str | Path) -> None:
        dataset, self.said = _open(Path(data))
        self.root = dataset.root
        self.work = self.root / WORK
        self._folder = FolderLock(self.work, "close the other labelling page")
        self._mutex = threading.RLock()
        self.categories = list(dataset.categories)
        self._dataset = dataset
        self._samples = {sample.id: sample for sample in dataset}
        self.ids = list(self._samples)
        self._sizes: dict[str, Size] = {s.id: s.size for s in dataset if s.size}
        kinds = [sample.labels.mask.kind for sample in dataset if sample.labels.mask]
        self.mask_kind: MaskKind = "semantic" if kinds.count("semantic") > len(kinds) / 2 else "instance"
        self._annotations: dict[str, Annotations] = {}
        self._dirty: set[str] = set()
        self._categories_changed = False
        self._closing = threading.Event()
        self._recover()
        self._flusher = threading.Thread(target=self._keep_flushing, name="labels", daemon=True)
        self._flusher.start()

    def close(self) -> None:
        """Write what is left, and let others label. Once is enough, more does no harm."""
        self._closing.set()
        self._flusher.join()
        self.flush()
        self._folder.release()

    # -------------------------------------------------------------------------------------------------- reading

    @property
    def name(self) -> str:
        return self.root.resolve().name

    def sample(self, image: str) -> Sample:
        """Raises WireError for an id that is not in the dataset."""
        if image not in self._samples:
            raise WireError("there is no such image", 404)
        return self._samples[image]

    def path(self, image: str) -> Path:
        return self._dataset.image_path(self.sample(image))

    def size(self, image: str) -> Size:
        """(width, height) as the image is displayed. Raises DataError where it cannot be read."""
        if image not in self._sizes:
            self._sizes[image] = image_size(self.path(image))
        return self._sizes[image]

    def annotations(self, image: str) -> Annotations:
        """The labels of an image: those that were made here, else those of the dataset."""
        with self._mutex:
            return self._annotations.get(image) or self._of_dataset(self.sample(image))

    def state(self, image: str) -> str:
        """One of ``STATES``."""
        if image in self._annotations and self._annotations[image].done:
            return "checked"
        kind = self._samples[image].labels.kind
        return "mask" if kind == Kind.MASK else "unlabelled" if kind == Kind.NONE else "weak"

    def listed(self, image: str) -> dict[str, Any]:
        """What the list of images says of one."""
        sample, made = self._samples[image], self._annotations.get(image)
        size = self._sizes.get(image)
        drafts = made is not None and not made.done and any(each["kind"] == "mask" for each in made.objects)
        return {
            "id": image,
            "name": Path(sample.image).name,
            "width": size and size[0],
            "height": size and size[1],
            "split": sample.split,
            "state": self.state(image),
            "kinds": [str(kind) for kind in Kind if kind and sample.labels.only(kind).kind == kind],
            "draft": drafts,
            "rev": made.rev if made else 0,
            "suggestion": None,
        }

    def summary(self) -> dict[str, Any]:
        """What the page needs to know of the whole dataset."""
        colours = palette(min(len(self.categories), IGNORE)).tolist()
        states: dict[str, int] = dict.fromkeys(STATES, 0)
        for image in self.ids:
            states[self.state(image)] += 1
        return {
            "name": self.name,
            "key": hashlib.sha256(str(self.root.resolve()).encode()).hexdigest()[:16],
            "images": len(self.ids),
            "categories": [
                {"id": number, "name": name, "color": "#{:02x}{:02x}{:02x}".format(*colour)}
                for number, (name, colour) in enumerate(zip(self.categories, colours, strict=True))
            ],
            "splits": sorted({sample.split for sample in self._samples.values()}),
            "states": states,
            "mask_kind": self.mask_kind,
        }

    # -------------------------------------------------------------------------------------------------- changing

    def apply(self, image: str, operations: Sequence[Any], base_rev: int, client: str) -> tuple[Annotations, list[str]]:
        """Change an image's labels; they are on disk when this returns. See :meth:`Annotations.apply`."""
        size = self.size(image)
        with self._mutex:
            before = self.annotations(image)
            after, ids = before.apply(operations, base_rev, client, size, len(self.categories))
            if self.mask_kind == "instance" and any(each["category"] == IGNORE for each in after.objects):
                raise WireError("this dataset's masks are of instances, which cannot hold unknown pixels")
            if after is not before:
                self._keep(image, after)
            return after, ids

    def add_category(self, name: Any) -> int:
        """Returns its id. Raises WireError for a name that cannot be one."""
        with self._mutex:
            if len(self.categories) >= IGNORE:
                raise WireError(f"a dataset has at most {IGNORE - 1} categories")
            problems = category_problems([*self.categories, name])
            if problems:
                raise WireError(problems[0].partition(": ")[2])
            self.categories.append(name)
            self._categories_changed = True
            self.flush()
            return len(self.categories) - 1

    def flush(self) -> None:
        """Bring the dataset's files up to date with what was drawn."""
        with self._mutex:
            if not self._dirty and not self._categories_changed:
                return
            for image in sorted(self._dirty):
                self._samples[image] = self._labelled(self._samples[image], self._annotations[image])
            samples = tuple(self._samples[image] for image in self.ids)
            self._dataset = replace(self._dataset, categories=tuple(self.categories), samples=samples)
            manifest.write(self._dataset)
            self._dirty.clear()
            self._categories_changed = False

    def snapshot(self, folder: Path) -> Path:
        """A copy of the dataset as it is now, whose files later changes leave alone: what a training reads."""
        with self._mutex:
            self.flush()
            manifest.write(manifest.copy_files(self._dataset, folder))
        return folder

    def _keep_flushing(self) -> None:
        while not self._closing.wait(FLUSH_SECONDS):
            self.flush()

    # -------------------------------------------------------------------------------------------------- disk

    def _record_path(self, image: str) -> Path:
        return self.work / "labels" / f"{hashlib.sha256(image.encode()).hexdigest()[:32]}.json"

    def _keep(self, image: str, after: Annotations) -> None:
        """Write an image's labels, and keep the ones before beside them."""
        path = self._record_path(image)
        if path.is_file():
            before = path.with_suffix(".before.json")
            before.unlink(missing_ok=True)
            place_file(path, before)
        write_atomic(path, json.dumps({"image": image} | after.as_record(), ensure_ascii=False))
        _sync(path)
        self._annotations[image] = after
        self._dirty.add(image)

    def _recover(self) -> None:
        """Read what was drawn before, and bring into the dataset what a kill kept out of it."""
        folder = self.work / "labels"
        problems = []
        for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
            if path.name.endswith(".before.json"):
                continue
            try:
                record = json.loads(path.read_bytes())
                image = record["image"]
                if image not in self._samples:
                    continue  # no longer in the dataset; the record stays for when it comes back
                self._annotations[image] = Annotations.of_record(record, self.size(image), len(self.categories))
            except (OSError, ValueError, KeyError, TypeError, AttributeError, WireError) as error:
                remedy = f"rename {path.stem}.before.json to {path.name}, or delete it"
                problems.append(f"{path}: cannot be read ({error}); {remedy}")
                continue
            wanted = self._labels(self._samples[image], self._annotations[image])
            if wanted != self._samples[image].labels:
                self._dirty.add(image)
        if problems:
            self._folder.release()
            raise DataError(problems, str(self.root))
        self.flush()

    # -------------------------------------------------------------------------------------------------- both ways

    def _of_dataset(self, sample: Sample) -> Annotations:
        """The labels of the dataset as objects: of an instance mask one each, of a semantic one the connected parts."""
        labels, objects = sample.labels, []
        if labels.mask:
            values = read_mask(self._dataset.root / labels.mask.path)
            parts = _instances(values, labels.mask) if labels.mask.kind == "instance" else _parts(values)
            for name, category, mask, offset in parts:
                runs = Runs.of_mask(mask, offset)
                assert runs is not None
                objects.append({"id": name, "kind": "mask", "category": category, "mask": runs.as_json()})
        for number, box in enumerate(labels.boxes):
            objects.append({"id": f"box-{number}", "kind": "box", "category": box.category, "xyxy": list(box.xyxy)})
        for number, scribble in enumerate(labels.scribbles):
            points = [list(point) for point in scribble.points]
            named = {"id": f"scribble-{number}", "kind": "scribble", "category": scribble.category}
            objects.append(named | {"points": points})
        for number, point in enumerate(labels.points):
            named = {"id": f"point-{number}", "kind": "point", "category": point.category}
            objects.append(named | {"xy": [point.x, point.y]})
        tags = tuple(tag.category for tag in labels.tags) or None
        nothing = labels.mask is not None and not any(each["kind"] == "mask" for each in objects)
        from_file = tuple(each | {"source": "file"} for each in objects)
        return Annotations(0, from_file, tags, nothing, labels.mask is not None)

    def _labelled(self, sample: Sample, made: Annotations) -> Sample:
        """The sample with the labels that were made; its mask is on disk when this returns."""
        labels = self._labels(sample, made)
        if labels.mask:
            width, height = self.size(sample.id)
            values = np.zeros((height, width), np.uint8 if self.mask_kind == "semantic" else np.uint16)
            for number, each in enumerate(_masks(made), 1):
                value = each["category"] if self.mask_kind == "semantic" else number
                Runs(tuple(each["mask"]["box"]), tuple(each["mask"]["counts"])).paint(values, value)
            path = self.root / labels.mask.path
            kept = self.work / "originals" / labels.mask.path
            if path.is_file() and not kept.exists():
                place_file(path, kept)
            write_mask(path, values)
        return replace(sample, labels=labels, size=self.size(sample.id))

    def _labels(self, sample: Sample, made: Annotations) -> Labels:
        """The labels that were made, as the dataset holds them."""
        masks, by_kind = _masks(made), {kind: [o for o in made.objects if o["kind"] == kind] for kind in _KINDS}
        mask = None
        if made.nothing or (made.done and masks):
            is_semantic = self.mask_kind == "semantic"
            named = {} if is_semantic else {n: each["category"] for n, each in enumerate(masks, 1)}
            mask = Mask(f"masks/{sample.id}.png", self.mask_kind, named)
        return Labels(
            mask,
            tuple(Scribble(tuple((x, y) for x, y in o["points"]), o["category"]) for o in by_kind["scribble"]),
            tuple(_box(o) for o in by_kind["box"]),
            tuple(_point(o) for o in by_kind["point"]),
            tuple(Tag(category) for category in made.tags or ()),
        )


_KINDS = ("scribble", "box", "point")


def _box(each: dict[str, Any]) -> Box:
    x0, y0, x1, y1 = each["xyxy"]
    return Box(x0, y0, x1, y1, each["category"])


def _point(each: dict[str, Any]) -> Point:
    x, y = each["xy"]
    return Point(x, y, each["category"])


def _masks(made: Annotations) -> list[dict[str, Any]]:
    return [each for each in made.objects if each["kind"] == "mask"]


_Part = tuple[str, int, NDArray[np.bool_], tuple[int, int]]
"""Name, category, mask within its box, and the box' first pixel (x, y)."""


def _instances(values: NDArray[Any], mask: Mask) -> Iterator[_Part]:
    for number, place in enumerate(ndimage.find_objects(values.astype(np.int32)), 1):
        if place is not None:
            offset = place[1].start, place[0].start
            yield f"instance-{number}", mask.category_of(number), values[place] == number, offset


def _parts(values: NDArray[Any]) -> Iterator[_Part]:
    """The connected parts of each category; whole categories where there are more parts than an image may have objects."""
    parts: list[_Part] = []
    whole: list[_Part] = []
    for category in np.unique(values[values > 0]).tolist():
        on = values == category
        whole.append((f"category-{category}", category, on, (0, 0)))
        found, _ = ndimage.label(on, np.ones((3, 3)))  # type: ignore[misc]
        for number, place in enumerate(ndimage.find_objects(found), 1):
            offset = place[1].start, place[0].start
            parts.append((f"category-{category}-{number}", category, found[place] == number, offset))
    yield from parts if len(parts) <= MAX_OBJECTS else whole


def _open(data: Path) -> tuple[Dataset, list[str]]:
    """The dataset, with a manifest in its folder, and what there is to say about how it was made."""
    if data.is_dir() and not (data / manifest.NAME).is_file() and (images := _plain_images(data)):
        samples = tuple(Sample(name, path) for name, path in images.items())
        dataset = Dataset(data, ("background", "object"), samples, str(data), "a folder of images")
        dataset.save()
        said = f"{len(samples)} images, no labels yet: wrote {data / manifest.NAME} with one category, object"
        return Dataset.load(data), [said]
    dataset = Dataset.load(data)
    if not len(dataset):
        raise DataError([f"{data}: holds no images; put some there"])
    if dataset.format == manifest.NAME:
        return dataset, []
    target = dataset.root / manifest.NAME
    convert = f"maskwright data convert {data} --to manifest --out {dataset.root.name}-labels"
    if target.exists():
        raise DataError([f"{data}: labels are written into {target}, which is another dataset; write `{convert}`"])
    try:
        dataset.save()
    except DataError as error:
        raise DataError([f"{data}: {dataset.format} cannot be written in place; first write `{convert}`"]) from error
    return Dataset.load(dataset.root), [f"{dataset.format}: labels are kept in {target} from now on"]


def _plain_images(folder: Path) -> dict[str, str]:
    """Images of a folder that is no dataset, by the ids they get: {} where there are ``images/`` or other files with labels."""
    if (folder / "images").is_dir() or any(folder.glob("*.json")) or any(folder.glob("*/images")):
        return {}
    names: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.suffix.lower() in IMAGE_SUFFIXES and not any(part.startswith(".") for part in relative.parts):
            stem = "-".join(relative.with_suffix("").parts)
            name = stem if stem not in names else f"{stem}-{path.suffix[1:]}"
            names[name] = relative.as_posix()
    return names


def _sync(path: Path) -> None:
    """Have the disk keep a file and its name before anybody is told that it is saved."""
    for place in (path, path.parent) if os.name == "posix" else (path,):
        handle = os.open(place, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
