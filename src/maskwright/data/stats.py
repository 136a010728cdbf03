"""What is in a dataset, counted: images and objects by split and kind of label, categories, sizes, ignored pixels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskwright.data.dataset import Dataset
from maskwright.data.labels import IGNORE, Kind, Mask, Sample
from maskwright.data.lookahead import ahead
from maskwright.data.mask_files import count_values, read_mask
from maskwright.errors import DataError

COUNTED = ("instances", "boxes", "scribbles", "points", "tags")
"""What is counted one by one: ``instances`` are the objects of instance masks."""

TINY = 4
"""An object of fewer pixels than this is called tiny; so is all that a mask marks."""


@dataclass(frozen=True)
class Range:
    """The smallest, the middle and the largest of some numbers."""

    min: int
    median: float
    max: int


@dataclass(frozen=True)
class SplitStats:
    """One split.

    Attributes:
        images: their number.
        kinds: by name of the finest kind of label, from fine to coarse; those that no image has are left out.
        instances, boxes, scribbles, points, tags: how many labels of each sort; ``instances`` are objects of instance masks.
    """

    images: int
    kinds: dict[str, int]
    instances: int = 0
    boxes: int = 0
    scribbles: int = 0
    points: int = 0
    tags: int = 0


@dataclass(frozen=True)
class CategoryStats:
    """One category, background included.

    Attributes:
        id, name: as in the dataset.
        images: that hold it, by any label.
        pixel_share: 0..1 of the pixels of all masks that are not ignored; None without masks.
        instances, boxes, scribbles, points, tags: how many labels of each sort are of it.
    """

    id: int
    name: str
    images: int
    pixel_share: float | None
    instances: int = 0
    boxes: int = 0
    scribbles: int = 0
    points: int = 0
    tags: int = 0


@dataclass(frozen=True)
class Stats:
    """What is in a dataset.

    Attributes:
        images: their number.
        masks: how many there are of each kind, ``semantic`` and ``instance``; those that are not there are left out.
        splits: by name.
        categories: by id, background included.
        ignored_share: 0..1 of the pixels of all masks that are 255 in a semantic mask; None without masks.
        empty_masks: masks that mark no category at all.
        tiny_masks: masks that mark something, but fewer than ``TINY`` pixels.
        tiny_objects: objects of instance masks with fewer pixels than that.
        width, height: of the images, in pixels; None without images.
        instances_in_image: objects in an image that has an instance mask; None without such masks.
    """

    images: int
    masks: dict[str, int]
    splits: dict[str, SplitStats]
    categories: tuple[CategoryStats, ...]
    ignored_share: float | None
    empty_masks: int
    tiny_masks: int
    tiny_objects: int
    width: Range | None
    height: Range | None
    instances_in_image: Range | None

    def as_dict(self) -> dict[str, Any]:
        """The same as plain numbers, texts, lists and dictionaries, ready for JSON."""
        return {**asdict(self), "categories": [asdict(category) for category in self.categories]}


def stats(dataset: Dataset) -> Stats:
    """Counts of images, kinds of label, categories and objects.

    Reads every mask, and the header of every image whose size is not noted.

    Raises:
        DataError: files that cannot be read, or category ids without a name; all at once.
    """
    return summary(dataset, measured(dataset))


def measured(dataset: Dataset) -> list[Measure]:
    """What each sample's labels and mask show, in order. Raises DataError as :func:`stats`."""
    measures = list(ahead(lambda sample: _read_and_measure(dataset, sample), dataset.samples))
    problems = [problem for measure in measures for problem in measure.problems]
    if problems:
        raise DataError(problems, dataset.source)
    return measures


@dataclass
class Measure:
    """One sample's numbers; arrays have one entry for each category."""

    categories: int
    problems: list[str] = field(default_factory=list)
    size: tuple[int, int] | None = None
    mask: Mask | None = None
    ignored: int = 0
    unknown: int = 0
    """Pixels of the mask, and labels, whose category has no name."""
    area: int = 0
    """Pixels of the mask."""
    tiny: int = 0
    """Objects of fewer than TINY pixels."""
    ids: frozenset[int] = frozenset()
    """Of the objects in an instance mask."""

    def __post_init__(self) -> None:
        self.pixels: NDArray[np.int64] = np.zeros(self.categories, np.int64)
        self.counts = {name: np.zeros(self.categories, np.int64) for name in COUNTED}

    @property
    def present(self) -> NDArray[np.bool_]:
        return self.pixels + sum(self.counts.values()) > 0

    @property
    def marked(self) -> int:
        """Pixels of the mask that are of a category but background."""
        return int(self.pixels[1:].sum())

    @property
    def empty(self) -> bool:
        """Whether there is a mask that holds nothing but background."""
        return self.mask is not None and not (self.marked or self.ignored or self.unknown)

    @property
    def nearly_empty(self) -> bool:
        """Whether there is a mask that marks something, but fewer than TINY pixels."""
        return 0 < self.marked < TINY and not (self.ignored or self.unknown)


def measure_labels(sample: Sample, categories: int) -> Measure:
    """What a sample's labels show without its mask. Unknown categories are noted as problems and not counted."""
    measure = Measure(categories)
    for name in COUNTED[1:]:
        for label in getattr(sample.labels, name):
            _add(measure, measure.counts[name], label.category, 1, sample)
    return measure


def measure_mask(measure: Measure, values: NDArray[Any], mask: Mask, sample: Sample) -> dict[int, int]:
    """Add what a sample's mask file with pixels ``(H, W)`` shows. Returns how often each value occurs."""
    measure.mask, measure.area = mask, values.size
    counts = count_values(values)
    present = np.flatnonzero(counts).tolist()
    measure.ids = frozenset(present) - {0} if mask.kind == "instance" else frozenset()
    for value in present:
        area = int(counts[value])
        if mask.kind == "semantic" and value == IGNORE:
            measure.ignored += area
            continue
        category = mask.category_of(value)
        _add(measure, measure.pixels, category, area, sample)
        if mask.kind == "instance" and value:
            _add(measure, measure.counts["instances"], category, 1, sample)
            measure.tiny += area < TINY
    return {value: int(counts[value]) for value in present}


def summary(dataset: Dataset, measures: Sequence[Measure]) -> Stats:
    """The counts of a dataset from those of its samples, in the same order."""
    masks = [measure for measure in measures if measure.mask is not None]
    pixels = np.sum([m.pixels for m in masks], axis=0) if masks else np.zeros(len(dataset.categories))
    total = sum(measure.area for measure in masks)
    objects = [int(m.counts["instances"].sum()) for m in masks if m.mask and m.mask.kind == "instance"]
    sizes = [measure.size for measure in measures if measure.size]
    return Stats(
        images=len(dataset),
        masks=dict(Counter(measure.mask.kind for measure in masks if measure.mask)),
        splits=_splits(dataset, measures),
        categories=_categories(dataset, measures, pixels),
        ignored_share=sum(measure.ignored for measure in masks) / total if total else None,
        empty_masks=sum(measure.empty for measure in masks),
        tiny_masks=sum(measure.nearly_empty for measure in masks),
        tiny_objects=sum(measure.tiny for measure in masks),
        width=_range([width for width, _ in sizes]),
        height=_range([height for _, height in sizes]),
        instances_in_image=_range(objects),
    )


def _read_and_measure(dataset: Dataset, sample: Sample) -> Measure:
    measure = measure_labels(sample, len(dataset.categories))
    try:
        measure.size = sample.size or dataset.size_of(sample)
        if sample.labels.mask:
            measure_mask(measure, read_mask(dataset.root / sample.labels.mask.path), sample.labels.mask, sample)
    except DataError as error:
        measure.problems += error.problems
    return measure


def _add(measure: Measure, array: NDArray[np.int64], category: int, amount: int, sample: Sample) -> None:
    if 0 <= category < measure.categories:
        array[category] += amount
    else:
        measure.unknown += amount
        problem = f"sample {sample.id!r}: unknown category id {category}; run the check on this dataset"
        measure.problems += [problem] if problem not in measure.problems else []


def _splits(dataset: Dataset, measures: Sequence[Measure]) -> dict[str, SplitStats]:
    splits: dict[str, SplitStats] = {}
    for name in dict.fromkeys(sample.split for sample in dataset):
        members = [(s, m) for s, m in zip(dataset, measures, strict=True) if s.split == name]
        kinds = Counter(sample.labels.kind for sample, _ in members)
        ordered = {str(kind): kinds[kind] for kind in sorted(Kind, reverse=True) if kinds[kind]}
        counts = {key: sum(int(measure.counts[key].sum()) for _, measure in members) for key in COUNTED}
        splits[name] = SplitStats(len(members), ordered, **counts)
    return splits


def _categories(dataset: Dataset, measures: Sequence[Measure], pixels: NDArray[Any]) -> tuple[CategoryStats, ...]:
    total = float(pixels.sum())
    rows = []
    for id, name in enumerate(dataset.categories):
        images = sum(bool(measure.present[id]) for measure in measures)
        share = float(pixels[id]) / total if total else None
        counts = {key: sum(int(measure.counts[key][id]) for measure in measures) for key in COUNTED}
        rows.append(CategoryStats(id, name, images, share, **counts))
    return tuple(rows)


def _range(values: Sequence[int]) -> Range | None:
    return Range(int(np.min(values)), float(np.median(values)), int(np.max(values))) if values else None
