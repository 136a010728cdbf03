"""Statistics of a dataset: images, categories, sizes and labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from maskwright.data.dataset import Dataset
from maskwright.data.images import count_values, image_size, read_mask
from maskwright.data.labels import IGNORE, Kind, Mask, Sample
from maskwright.data.lookahead import ahead
from maskwright.errors import DataError


def stats(dataset: Dataset) -> dict[str, Any]:
    """Counts of images, kinds of label, categories and instances, as plain numbers and texts, ready for JSON.

    Reads every mask, and the header of every image whose size is not noted.

    Returns:
        ``images``: their number.
        ``splits``: name → ``{"images", "kinds": {"mask": n, ...}}``; an image counts under its finest kind.
        ``categories``: one row per category, background included: ``id``, ``name``, ``images`` (that hold it, by any
        label), ``pixel_share`` (0..1 of the pixels of all masks that are not ignored; None without masks), and how many
        ``instances`` (of instance masks), ``boxes``, ``scribbles``, ``points`` and ``tags`` are of it.
        ``ignored_share``: 0..1 of the pixels of all masks; None without masks.
        ``size``: ``{"width": {"min", "median", "max"}, "height": {...}}``; None without images.
        ``instances``: ``{"total", "per_image": {"min", "median", "max"}}`` of images with an instance mask; None
        without.

    Raises:
        DataError: files that cannot be read, or category ids without a name; all at once.
    """
    measures = list(ahead(lambda sample: _measure(dataset, sample), dataset.samples))
    problems = [problem for measure in measures for problem in measure.problems]
    if problems:
        raise DataError(problems, dataset.source)
    pixels = np.sum([m.pixels for m in measures], axis=0) if measures else np.zeros(len(dataset.categories))
    ignored = sum(measure.ignored for measure in measures)
    total = float(pixels.sum()) + ignored
    per_image = [int(measure.counts["instances"].sum()) for measure in measures if measure.has_instances]
    sizes = np.array([measure.size for measure in measures])
    return {
        "images": len(dataset),
        "splits": _splits(dataset),
        "categories": _categories(dataset, measures, pixels),
        "ignored_share": ignored / total if total else None,
        "size": {"width": _range(sizes[:, 0]), "height": _range(sizes[:, 1])} if measures else None,
        "instances": {"total": sum(per_image), "per_image": _range(per_image)} if per_image else None,
    }


_COUNTED = ("instances", "boxes", "scribbles", "points", "tags")


@dataclass
class _Measure:
    """One sample's numbers; arrays have one entry per category."""

    categories: int
    problems: list[str] = field(default_factory=list)
    size: tuple[int, int] = (0, 0)
    ignored: int = 0
    has_instances: bool = False

    def __post_init__(self) -> None:
        self.pixels = np.zeros(self.categories, np.int64)
        self.counts = {name: np.zeros(self.categories, np.int64) for name in _COUNTED}

    @property
    def present(self) -> np.ndarray:
        return self.pixels + sum(self.counts.values()) > 0


def _measure(dataset: Dataset, sample: Sample) -> _Measure:
    measure = _Measure(len(dataset.categories))
    labels = sample.labels
    try:
        measure.size = sample.size or image_size(dataset.image_path(sample))
        for name in _COUNTED[1:]:
            for label in getattr(labels, name):
                _add(measure, measure.counts[name], label.category, 1, sample)
        if labels.mask:
            _measure_mask(measure, count_values(read_mask(dataset.root / labels.mask.path)), labels.mask, sample)
    except DataError as error:
        measure.problems += error.problems
    return measure


def _measure_mask(measure: _Measure, counts: np.ndarray, mask: Mask, sample: Sample) -> None:
    measure.has_instances = mask.kind == "instance"
    for value in np.flatnonzero(counts).tolist():
        area = int(counts[value])
        if mask.kind == "semantic" and value == IGNORE:
            measure.ignored += area
            continue
        category = mask.category_of(value)
        _add(measure, measure.pixels, category, area, sample)
        if mask.kind == "instance" and value:
            _add(measure, measure.counts["instances"], category, 1, sample)


def _add(measure: _Measure, array: np.ndarray, category: int, amount: int, sample: Sample) -> None:
    if 0 <= category < measure.categories:
        array[category] += amount
    else:
        problem = f"sample {sample.id!r}: unknown category id {category}; run the check on this dataset"
        measure.problems += [problem] if problem not in measure.problems else []


def _splits(dataset: Dataset) -> dict[str, Any]:
    splits: dict[str, Any] = {}
    for name in dict.fromkeys(sample.split for sample in dataset):
        kinds = Counter(sample.labels.kind for sample in dataset if sample.split == name)
        ordered = {str(kind): kinds[kind] for kind in sorted(Kind, reverse=True) if kinds[kind]}
        splits[name] = {"images": sum(kinds.values()), "kinds": ordered}
    return splits


def _categories(dataset: Dataset, measures: Sequence[_Measure], pixels: np.ndarray) -> list[dict[str, Any]]:
    total = float(pixels.sum())
    rows = []
    for id, name in enumerate(dataset.categories):
        images = sum(bool(measure.present[id]) for measure in measures)
        share = float(pixels[id]) / total if total else None
        row: dict[str, Any] = {"id": id, "name": name, "images": images, "pixel_share": share}
        rows.append(row | {key: sum(int(measure.counts[key][id]) for measure in measures) for key in _COUNTED})
    return rows


def _range(values: Sequence[int] | np.ndarray) -> dict[str, float]:
    return {"min": int(np.min(values)), "median": float(np.median(values)), "max": int(np.max(values))}
