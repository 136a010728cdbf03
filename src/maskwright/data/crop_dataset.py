"""A dataset of crops: squares of large images with what their labels say of them, as ordinary files in a cache.

Images are read by windows where their files allow it, so none is in memory as a whole. The folder's name holds a hash of the data and
of all settings: the same training finds its crops again, and another one never takes them for its own.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from maskwright.data import cache, manifest
from maskwright.data.crops import Rectangle, boxes_of, choose, cut_labels
from maskwright.data.dataset import Dataset
from maskwright.data.files import write_atomic
from maskwright.data.labels import IGNORE, Labels, Mask, Sample
from maskwright.data.large.image import LargeImage
from maskwright.data.large.mask_windows import MaskWindows
from maskwright.data.large.opening import open_large
from maskwright.data.mask_files import write_mask
from maskwright.data.new_folder import new_folder
from maskwright.errors import DataError

VERSION = 1
"""Of the rules by which crops are chosen and cut; part of the folder's name."""

MOST, BYTES = 3000, 1_000_000_000
"""Crops of a split, at most, and about how many bytes they take."""

MEASURED = 40
"""Labelled images whose objects are measured, at most."""

_CELLS = 8
# Along a crop: the grid on which it is noted where a semantic mask has objects.


@dataclass(frozen=True)
class CropCounts:
    """What became of the images of a split.

    Attributes:
        images: how many were cut.
        crops: made of them.
        tags: of images, which say nothing about a crop.
        missed: labelled things that are whole in no crop, though they would fit into one.
    """

    images: int
    crops: int
    tags: int
    missed: int

    def sentence(self, split: str) -> str:
        """For the start of a training."""
        lost = [f"{self.tags:,} tags of images left out, as they say nothing about a crop"] if self.tags else []
        lost += [f"{self.missed:,} labelled things are whole in none"] if self.missed else []
        return f"{split}: {self.crops:,} crops of {self.images:,} images" + "".join(f"; {part}" for part in lost)


def cropped(
    dataset: Dataset,
    digest: str,
    sides: Mapping[str, int],
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Dataset, list[str]]:
    """A dataset of crops, made once and kept in the cache.

    Args:
        dataset: checked; its ``image_reading`` is applied to the crops, which are 8-bit RGB.
        digest: of its fingerprint, and of whatever was changed in it since.
        sides: of the crops of each split, in pixels of the images; smaller images stay whole. Other splits are left out.
        seed: of the choice of crops.
        progress: called as ``progress(done, total)`` after each image.

    Returns:
        The crops, each with the split of its image, and a sentence for each split.

    Raises:
        DataError: files that cannot be read, all at once.
    """
    told = [VERSION, digest, dataset.image_reading.as_dict(), dict(sides), seed, MOST, BYTES]
    key = hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]
    folder = cache.crop_folder(dataset.root) / key
    if not (folder / manifest.NAME).is_file():
        with new_folder(folder) as aside:
            samples, counts = _cut_all(dataset, aside, sides, seed, progress)
            manifest.write(Dataset(aside, dataset.categories, tuple(samples)))
            write_atomic(aside / "counts.json", json.dumps({name: vars(count) for name, count in counts.items()}))
    made = Dataset.load(folder)
    counts = {name: CropCounts(**row) for name, row in json.loads((folder / "counts.json").read_text("utf-8")).items()}
    named = replace(made, source=dataset.source, format="crops")
    return named, [count.sentence(name) for name, count in counts.items()]


def _cut_all(
    dataset: Dataset,
    folder: Path,
    sides: Mapping[str, int],
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> tuple[list[Sample], dict[str, CropCounts]]:
    samples: list[Sample] = []
    counts: dict[str, CropCounts] = {}
    problems: list[str] = []
    parts = {name: list(dataset.split(name)) for name in sides}
    total, done = sum(map(len, parts.values())), 0
    for place, (name, part) in enumerate(parts.items()):
        side = sides[name]
        most = max(4, min(MOST, BYTES // (2 * side * side)) // max(1, len(part)))
        made, tags, missed = 0, 0, 0
        for number, sample in enumerate(part):
            generator = np.random.default_rng([seed, place, number])
            try:
                crops, left = _cut(dataset, sample, folder, side, most, generator)
            except DataError as error:
                problems += error.problems
                continue
            finally:
                done += 1
                if progress:
                    progress(done, total)
            samples += crops
            made, missed, tags = made + len(crops), missed + left, tags + len(sample.labels.tags)
        if part:
            counts[name] = CropCounts(len(part), made, tags, missed)
    if problems:
        raise DataError(problems, dataset.source)
    return samples, counts


def _cut(
    dataset: Dataset, sample: Sample, folder: Path, side: int, most: int, generator: np.random.Generator
) -> tuple[list[Sample], int]:
    """Write the crops of one image; returns them, and how many things are whole in none."""
    labels, mask_path = sample.labels, dataset.mask_path(sample)
    with open_large(dataset.image_path(sample), dataset.image_reading) as image:
        mask = MaskWindows(mask_path, image.size) if mask_path is not None else None
        things = boxes_of(labels)
        if mask is not None and labels.mask is not None:
            things = np.concatenate([things, things_of(labels.mask, mask, side)])
        choice = choose(things, image.size, side, most, generator)
        crops = [_write(folder, sample, labels, image, mask, window) for window in choice.windows]
    return crops, choice.missed


def _write(
    folder: Path, sample: Sample, labels: Labels, image: LargeImage, mask: MaskWindows | None, window: Rectangle
) -> Sample:
    x0, y0, x1, y1 = window
    name = sample.id
    if len(name.encode()) > 170:  # A name of a file has 255 bytes at most.
        name = f"{name[:40]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    id = f"{name}-x{x0}-y{y0}"
    buffer = io.BytesIO()
    Image.fromarray(image.read(window)).save(buffer, "PNG", compress_level=1)
    write_atomic(folder / f"images/{id}.png", buffer.getvalue())
    mine = cut_labels(labels, window)
    if mask is not None and labels.mask is not None:
        values = mask.read(window)
        write_mask(folder / f"masks/{id}.png", values)
        there = set(np.unique(values).tolist()) if labels.mask.categories else set()
        categories = {value: c for value, c in labels.mask.categories.items() if value in there}
        mine = replace(mine, mask=Mask(f"masks/{id}.png", labels.mask.kind, categories))
    return Sample(id, f"images/{id}.png", sample.split, mine, (x1 - x0, y1 - y0))


def things_of(mask: Mask, windows: MaskWindows, side: int) -> NDArray[np.float64]:
    """``(n, 4)`` boxes: of each object of an instance mask; of a semantic one cells in which there is some object."""
    return _objects(windows) if mask.kind == "instance" else _cells(windows, max(1, side // _CELLS))


def _objects(windows: MaskWindows) -> NDArray[np.float64]:
    boxes: dict[int, list[int]] = {}
    for strip in windows.strips():
        for value, place in enumerate(ndimage.find_objects(windows.read(strip).astype(np.int32)), start=1):
            if place is None:
                continue
            top, bottom = strip[1] + place[0].start, strip[1] + place[0].stop
            known = boxes.setdefault(value, [place[1].start, top, place[1].stop, bottom])
            known[:] = [min(known[0], place[1].start), min(known[1], top), max(known[2], place[1].stop), bottom]
    return np.array(list(boxes.values()), np.float64).reshape(-1, 4)


def _cells(windows: MaskWindows, cell: int) -> NDArray[np.float64]:
    width, height = windows.size
    columns = np.arange(0, width, cell)
    found = []
    for top in range(0, height, cell):
        values = windows.read((0, top, width, min(top + cell, height)))
        there = ((values > 0) & (values != IGNORE)).any(0)
        hit = np.flatnonzero(np.logical_or.reduceat(there, columns)) * cell
        found += [(x, top, min(x + cell, width), min(top + cell, height)) for x in hit.tolist()]
    return np.array(found, np.float64).reshape(-1, 4)


# ------------------------------------------------------------------------------------------------------------ measuring


def diameters(dataset: Dataset) -> list[float]:
    """Across labelled objects in pixels of their images, each as often as its share of all object pixels says, in hundreds.

    So a median of them is the size at which half of what is labelled lies in smaller objects, whatever specks a mask has.
    """
    labelled = [s for s in dataset if s.labels.mask is not None or s.labels.boxes]
    step = max(1, len(labelled) // MEASURED)
    areas: list[float] = []
    for sample in labelled[::step][:MEASURED]:
        areas += [(box.x1 - box.x0) * (box.y1 - box.y0) for box in sample.labels.boxes]
        path = dataset.mask_path(sample)
        if path is None or sample.labels.mask is None:
            continue
        mask = MaskWindows(path, dataset.size_of(sample))
        areas += _areas(mask, sample.labels.mask)
    if not areas:
        return []
    ordered = np.sort(areas)
    places = np.searchsorted(np.cumsum(ordered), (np.arange(100) + 0.5) / 100 * ordered.sum())
    return (2 * np.sqrt(ordered[places] / np.pi)).tolist()


def _areas(mask: MaskWindows, what: Mask) -> list[float]:
    """Pixels of each object of a mask; connected parts of a semantic one, cut at the borders of strips."""
    counts: Counter[int] = Counter()
    parts: list[float] = []
    for strip in mask.strips():
        values = mask.read(strip)
        if what.kind == "instance":
            ids, found = np.unique(values[values > 0], return_counts=True)
            counts.update(dict(zip(ids.tolist(), found.tolist())))
            continue
        for category in np.unique(values).tolist():
            if category in (0, IGNORE):
                continue
            labelled: Any = ndimage.label(values == category)
            parts += np.bincount(labelled[0].reshape(-1))[1:].tolist()
    return [float(n) for n in (*counts.values(), *parts)]
