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
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from maskwright.data import manifest
from maskwright.data.fields import category_problems
from maskwright.data.files import place_file, write_atomic
from maskwright.data.image_files import MAX_PIXELS
from maskwright.data.image_reading import PLAIN, ImageReading
from maskwright.data.labels import IGNORE, Kind, MaskKind, Sample
from maskwright.data.mask_files import write_mask
from maskwright.data.pictures import palette
from maskwright.engine.locks import FolderLock
from maskwright.errors import DataError
from maskwright.serve.annotations import Annotations
from maskwright.serve.label_conversion import annotations_of, draw_masks, labels_of
from maskwright.serve.opening import open_dataset
from maskwright.serve.suggestions import read_suggestions
from maskwright.serve.wire import Size, WireError

WORK = ".maskwright"
"""Folder in the dataset's own for all that is not the dataset."""

FLUSH_SECONDS = 0.7
"""The dataset's files follow what was drawn after this time."""

STATES = ("unlabelled", "weak", "mask", "checked")


class Project:
    """A dataset that is being labelled, by this process alone.

    Args:
        data: a folder of images, or a dataset.
        reading: which page, channels and numbers of its image files count.
        suggestions: what `maskwright next` or `audit` wrote about it.

    Raises:
        DataError: nothing to label there, a format that labels cannot be written into (says how to convert it), or no suggestions.
        RunError: another process labels it.
    """

    def __init__(self, data: str | Path, reading: ImageReading = PLAIN, suggestions: Path | None = None) -> None:
        dataset, self.said = open_dataset(Path(data), reading)
        self._suggestions: dict[str, dict[str, Any]] = {}
        if suggestions is not None:
            self._suggestions, said = read_suggestions(suggestions, [sample.id for sample in dataset])
            self.said = [*self.said, *said]
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
            self._sizes[image] = self._dataset.size_of(self.sample(image))
        return self._sizes[image]

    def annotations(self, image: str) -> Annotations:
        """The labels of an image: those that were made here, else those of the dataset."""
        with self._mutex:
            return self._annotations.get(image) or annotations_of(self._dataset, self.sample(image))

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
            "suggestion": self._suggestions.get(image),
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
            if size[0] * size[1] > MAX_PIXELS and any(each["kind"] == "mask" for each in after.objects):
                raise WireError(
                    f"the image has more than {MAX_PIXELS:,} pixels, too many for a mask; draw boxes, scribbles and points"
                )
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
            wanted = labels_of(image, self._annotations[image], self.mask_kind)
            if wanted != self._samples[image].labels:
                self._dirty.add(image)
        if problems:
            self._folder.release()
            raise DataError(problems, str(self.root))
        self.flush()

    def _labelled(self, sample: Sample, made: Annotations) -> Sample:
        """The sample with the labels that were made; its mask is on disk when this returns."""
        labels, size = labels_of(sample.id, made, self.mask_kind), self.size(sample.id)
        if labels.mask:
            path = self.root / labels.mask.path
            kept = self.work / "originals" / labels.mask.path
            if path.is_file() and not kept.exists():
                place_file(path, kept)
            write_mask(path, draw_masks(made, size, self.mask_kind))
        return replace(sample, labels=labels, size=size)


def _sync(path: Path) -> None:
    """Have the disk keep a file and its name before anybody is told that it is saved."""
    for place in (path, path.parent) if os.name == "posix" else (path,):
        handle = os.open(place, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
