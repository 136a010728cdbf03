"""Finds every problem in the content of a dataset, before hours of training are spent on it.

Structure (missing fields, wrong types) is found while reading; this module opens the files. Nothing is mended.
"""

from __future__ import annotations

import math
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from maskwright.data.dataset import Dataset
from maskwright.data.fields import category_problems, leaves_folder
from maskwright.data.fingerprint import file_digest
from maskwright.data.images import count_values, image_size, open_verified, read_mask, turn
from maskwright.data.labels import IGNORE, Kind, Mask, Sample
from maskwright.data.lookahead import ahead
from maskwright.data.manifest import NAME
from maskwright.errors import DataError


def check(
    dataset: Dataset,
    *,
    decode: bool = True,
    progress: Callable[[int, int], None] | None = None,
    training: bool = True,
) -> list[str]:
    """Every problem of a dataset, one line each, naming file, place and remedy; empty if there is none.

    Found are: files that are missing, unreadable, truncated or too large; masks that differ in size from their image;
    recorded sizes that are not the image's; unknown categories in labels and mask pixels; boxes that are empty, outside,
    or of objects that the image's own mask does not show; points and scribbles outside; numbers that are not finite;
    duplicate ids; paths that leave the folder; one image (by path or by content) in two splits; training masks that mark
    nothing but 255; an empty training split or one without any label. The same image twice within one split is no problem.

    Args:
        dataset: what to check.
        decode: decode all pixels of images and masks. False reads headers only, and then truncation and wrong pixel
            values stay unseen.
        progress: called as ``progress(done, total)`` after each sample.
        training: also require a split ``train`` with labels. False for data that is only evaluated or predicted on.

    Returns:
        The lines, in the order of the samples, problems of the whole dataset last; the same on every run.
    """
    problems = [f"{_file(dataset)}: {problem}" for problem in category_problems(dataset.categories)]
    if len(dataset.categories) > IGNORE and any(s.labels.mask and s.labels.mask.kind == "semantic" for s in dataset):
        what = f"id {IGNORE} means ignore in semantic masks; name {IGNORE} categories at most"
        problems.append(f"{_file(dataset)}: categories: {what}")
    problems += _duplicate_ids(dataset)
    findings: list[_Finding] = []
    for done, finding in enumerate(ahead(lambda s: _check_sample(dataset, s, decode), dataset.samples), start=1):
        findings.append(finding)
        problems += finding.problems
        if progress:
            progress(done, len(dataset))
    problems += _shared_between_splits(dataset, findings)
    problems += _mark_nothing(dataset, findings)
    if training:
        problems += _training_split(dataset)
    return problems


def require_clean(
    dataset: Dataset,
    *,
    decode: bool = True,
    progress: Callable[[int, int], None] | None = None,
    training: bool = True,
) -> None:
    """Raise one DataError with all problems that :func:`check` finds; return if there are none."""
    problems = check(dataset, decode=decode, progress=progress, training=training)
    if problems:
        raise DataError(problems, dataset.source or str(dataset.root))


@dataclass
class _Finding:
    """What the check of one sample's files has shown."""

    problems: list[str] = field(default_factory=list)
    bytes: int | None = None
    ignores: bool = False
    marks: bool = False


def _check_sample(dataset: Dataset, sample: Sample, decode: bool) -> _Finding:
    finding = _Finding()
    size = _check_image(dataset, sample, decode, finding)
    where = f"{_file(dataset)}: sample {sample.id!r}"
    finding.problems += [f"{where}, {problem}" for problem in _check_labels(sample, size, len(dataset.categories))]
    if sample.labels.mask:
        _check_mask(dataset, sample, sample.labels.mask, size, decode, finding)
    return finding


def _check_image(dataset: Dataset, sample: Sample, decode: bool, finding: _Finding) -> tuple[int, int] | None:
    where = f"{_file(dataset)}: sample {sample.id!r}"
    if reason := leaves_folder(dataset.root, sample.image):
        finding.problems.append(f"{where}, image: path {sample.image!r} {reason}")
        return None
    path = dataset.image_path(sample)
    try:
        size = image_size(path)
        if decode:
            with turn(size):
                open_verified(path)
            # For the fingerprint, while the system still has the file in memory.
            file_digest(path)
        finding.bytes = path.stat().st_size
    except DataError as error:
        finding.problems += [f"{line} (image of sample {sample.id!r})" for line in error.problems]
        return None
    if sample.size is not None and tuple(sample.size) != size:
        file_size, dataset_size = f"{size[0]} x {size[1]}", " x ".join(map(str, sample.size))
        finding.problems.append(
            f"{where}, size: noted {dataset_size}, but {path} has {file_size}; correct the size or the file"
        )
    return size


def _check_mask(
    dataset: Dataset, sample: Sample, mask: Mask, size: tuple[int, int] | None, decode: bool, finding: _Finding
) -> None:
    where = f"{_file(dataset)}: sample {sample.id!r}, mask"
    if reason := leaves_folder(dataset.root, mask.path):
        finding.problems.append(f"{where}: path {mask.path!r} {reason}")
        return
    path = dataset.root / mask.path
    try:
        if decode:
            with turn(size or (0, 0)):
                values = read_mask(path)
            file_digest(path)
            mask_size = values.shape[1], values.shape[0]
            _check_mask_values(path, values, mask, len(dataset.categories), finding)
        else:
            mask_size = image_size(path)
    except DataError as error:
        finding.problems += [f"{line} (mask of sample {sample.id!r})" for line in error.problems]
        return
    if size is not None and mask_size != size:
        sizes = f"{mask_size[0]} x {mask_size[1]}, but its image {sample.image} is {size[0]} x {size[1]}"
        remedy = "make the mask anew at the image's size as displayed (EXIF rotation applied)"
        finding.problems.append(f"{path}: mask of sample {sample.id!r} is {sizes}; {remedy}")
    elif decode:
        finding.problems += _boxes_beside_mask(dataset, sample, mask, values)


def _boxes_beside_mask(dataset: Dataset, sample: Sample, mask: Mask, values: np.ndarray) -> Iterator[str]:
    """Boxes of objects that are not in the sample's mask, which would count as background: a mask is complete."""
    for i, box in enumerate(sample.labels.boxes):
        if not (0 < box.category < len(dataset.categories) and all(map(math.isfinite, box.xyxy))):
            continue  # reported by _check_labels
        x0, y0, x1, y1 = (max(0, round(v)) for v in box.xyxy)
        ids = set(np.unique(values[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]).tolist())
        kinds = ids if mask.kind == "semantic" else {mask.category_of(id) for id in ids - {0}}
        if box.category not in kinds and not (mask.kind == "semantic" and IGNORE in ids):
            what = f"boxes[{i}]: its mask shows nothing of {dataset.categories[box.category]!r} there, and a mask is complete"
            remedy = "draw the object into the mask, or remove the box, or the mask"
            yield f"{_file(dataset)}: sample {sample.id!r}, {what}; {remedy}"


def _check_mask_values(path: Path, values: np.ndarray, mask: Mask, categories: int, finding: _Finding) -> None:
    counts = count_values(values)
    if mask.kind == "instance":
        # Every id that is not named has category 1.
        if categories < 2 and counts[1:].any():
            finding.problems.append(f"{path}: holds instances, but there is no category but background; name one")
        return
    finding.ignores = bool(counts[IGNORE])
    finding.marks = bool(counts[1:IGNORE].any())
    unknown = [int(v) for v in np.flatnonzero(counts) if v >= categories and v != IGNORE]
    if unknown:
        examples = ", ".join(f"{v} ({counts[v]} pixels)" for v in unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        what = f"unknown category ids {examples}; known are 0..{categories - 1} and {IGNORE} for ignore"
        remedy = "name the categories, correct the mask, or set its kind to instance if these are instance ids"
        finding.problems.append(f"{path}: {what}; {remedy}")


def _check_labels(sample: Sample, size: tuple[int, int] | None, categories: int) -> Iterator[str]:
    """Problems of the labels that are written in line, each starting with its place."""
    labels = sample.labels
    for i, box in enumerate(labels.boxes):
        place = f"boxes[{i}]"
        yield from _check_category(place, box.category, categories)
        yield from _check_box(place, box.xyxy, size)
    for i, scribble in enumerate(labels.scribbles):
        yield from _check_category(f"scribbles[{i}]", scribble.category, categories, background=True)
        yield from _check_points(f"scribbles[{i}]", scribble.points, size)
    for i, point in enumerate(labels.points):
        yield from _check_category(f"points[{i}]", point.category, categories, background=True)
        yield from _check_points(f"points[{i}]", [(point.x, point.y)], size)
    for i, tag in enumerate(labels.tags):
        yield from _check_category(f"tags[{i}]", tag.category, categories)
    for instance, category in (labels.mask.categories if labels.mask else {}).items():
        yield from _check_category(f"mask, instance {instance}", category, categories)


def _check_category(place: str, category: int, categories: int, background: bool = False) -> Iterator[str]:
    first = 0 if background else 1
    if not first <= category < categories:
        valid_ids = f"{first}..{categories - 1}" if categories > first else "none"
        yield f"{place}: unknown category id {category}, known are {valid_ids}; correct it or name the category"


def _check_box(place: str, xyxy: tuple[float, float, float, float], size: tuple[int, int] | None) -> Iterator[str]:
    x0, y0, x1, y1 = xyxy
    text = f"{place}: box {x0:g} {y0:g} {x1:g} {y1:g}"
    if not all(map(math.isfinite, xyxy)):
        yield f"{text} holds a number that is not finite; correct or remove it"
    elif x1 <= x0 or y1 <= y0:
        yield f"{text} is empty; correct or remove it (boxes are x0 y0 x1 y1)"
    elif size and (x0 < 0 or y0 < 0 or x1 > size[0] or y1 > size[1]):
        yield f"{text} reaches outside the image of {size[0]} x {size[1]}; correct or remove it"


def _check_points(place: str, points: Sequence[tuple[float, float]], size: tuple[int, int] | None) -> Iterator[str]:
    if not points:
        yield f"{place}: has no point; add one or remove it"
    elif not all(math.isfinite(x) and math.isfinite(y) for x, y in points):
        yield f"{place}: holds a number that is not finite; correct or remove it"
    elif size:
        outside = [(x, y) for x, y in points if not (0 <= x < size[0] and 0 <= y < size[1])]
        if outside:
            x, y = outside[0]
            count = f" ({len(outside)} of {len(points)} points)" if len(points) > 1 else ""
            image = f"{size[0]} x {size[1]}"
            yield f"{place}: {x:g} {y:g} lies outside the image of {image}{count}; correct or remove it"


def _duplicate_ids(dataset: Dataset) -> list[str]:
    counts = Counter(sample.id for sample in dataset.samples)
    return [
        f"{_file(dataset)}: sample {name!r}: this id is there {count} times; rename the others"
        for name, count in counts.items()
        if count > 1
    ]


def _shared_between_splits(dataset: Dataset, findings: Sequence[_Finding]) -> list[str]:
    """Images that are in two splits, by path or by content. Only files of equal length are read and compared."""
    lengths: dict[int, dict[str, list[Sample]]] = defaultdict(lambda: defaultdict(list))
    for sample, finding in zip(dataset.samples, findings):
        if finding.bytes is not None:
            lengths[finding.bytes][os.path.realpath(dataset.image_path(sample))].append(sample)
    suspects = {
        path: samples
        for files in lengths.values()
        if len({sample.split for samples in files.values() for sample in samples}) > 1
        for path, samples in files.items()
    }
    same: dict[bytes, list[Sample]] = defaultdict(list)
    for samples, digest in zip(suspects.values(), ahead(file_digest, suspects)):
        same[digest] += samples
    problems = []
    for samples in same.values():
        if len({sample.split for sample in samples}) > 1:
            where = ", ".join(f"{s.image} (sample {s.id!r}, split {s.split!r})" for s in samples)
            problems.append(f"{_file(dataset)}: one image in several splits: {where}; keep it in one of them")
    return problems


def _mark_nothing(dataset: Dataset, findings: Sequence[_Finding]) -> list[str]:
    masks = [
        (sample.labels.mask.path, finding)
        for sample, finding in zip(dataset.samples, findings)
        if sample.labels.mask and sample.labels.mask.kind == "semantic" and sample.split == "train"
    ]
    if any(finding.marks for _, finding in masks) or not any(finding.ignores for _, finding in masks):
        return []
    what = f"no training mask marks any category, yet some hold {IGNORE} (ignore), for example {masks[0][0]}"
    return [f"{_file(dataset)}: {what}; if {IGNORE} means foreground here, write the category id instead"]


def _training_split(dataset: Dataset) -> list[str]:
    train = dataset.split("train")
    if not train.samples:
        splits = ", ".join(sorted({sample.split for sample in dataset.samples})) or "none"
        return [f"{_file(dataset)}: split 'train' is empty (splits: {splits}); put images into it"]
    if all(sample.labels.kind == Kind.NONE for sample in train):
        return [f"{_file(dataset)}: none of the {len(train)} images of split 'train' has a label; label at least one"]
    return []


def _file(dataset: Dataset) -> str:
    return dataset.source or str(dataset.root / NAME)
