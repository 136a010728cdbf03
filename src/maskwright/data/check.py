"""How a dataset is understood, and every problem in its content, before hours of training are spent on it.

Structure (missing fields, wrong types) is found while reading; this module opens the files, each of them once. Nothing is
mended: what can be is named with the command that does it (``maskwright.data.fix``). What only the whole dataset shows,
such as one picture in two splits, is found in ``maskwright.data.suspicions``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskwright.data import cache
from maskwright.data.conventions import convention_of
from maskwright.data.dataset import Dataset
from maskwright.data.fields import category_problems, leaves_folder
from maskwright.data.findings import Finding, name_of, source_of
from maskwright.data.fingerprint import file_digest
from maskwright.data.image_files import turn
from maskwright.data.images import decode as decoded
from maskwright.data.images import image_size, page_count
from maskwright.data.intensity import Intensity, decide, doubts
from maskwright.data.labels import IGNORE, Mask, Sample
from maskwright.data.large.mask_windows import MaskWindows
from maskwright.data.large.opening import needs_windows, open_large
from maskwright.data.lookahead import ahead
from maskwright.data.mask_files import read_mask
from maskwright.data.salvage import is_whole
from maskwright.data.stats import Stats, measure_labels, measure_mask, summary
from maskwright.data.suspicions import suspicions
from maskwright.errors import DataError
from maskwright.problems import Problem, as_problem, fix_command, problems_of, warnings_of

OVERHANG = 0.02
"""Share of the image's side by which a box may reach over its border: drawing tools round so. It counts as cut off there."""

_PAGED = (".gif", ".webp", ".avif")


@dataclass(frozen=True)
class Report:
    """What was found out about a dataset.

    Attributes:
        problems: for which it is refused; empty if there is none.
        warnings: what is read, but may not be meant so.
        stats: what is in it; of files that cannot be read, nothing is counted.
        dataset: the same as was given.
        intensity: how numbers of more than 8 bits become the 8 bits that networks see.
    """

    problems: list[Problem]
    warnings: list[Problem]
    stats: Stats
    dataset: Dataset
    intensity: Intensity


def check(
    dataset: Dataset,
    *,
    decode: bool = True,
    progress: Callable[[int, int], None] | None = None,
    training: bool = True,
) -> list[Problem]:
    """Every problem for which a dataset is refused; empty if there is none. See :func:`examine`."""
    return examine(dataset, decode=decode, progress=progress, training=training).problems


def examine(
    dataset: Dataset,
    *,
    decode: bool = True,
    progress: Callable[[int, int], None] | None = None,
    training: bool = True,
) -> Report:
    """Every problem and every warning of a dataset, each with file, place and remedy; and what is in it.

    Problems are: files that are missing, unreadable, truncated or too large; pixels that are not finite; masks that differ
    in size from their image; recorded sizes that are not the image's; unknown categories in labels and mask pixels; boxes
    that are empty, far outside, or of objects that the image's own mask does not show; points and scribbles outside;
    numbers that are not finite; duplicate ids; paths that leave the folder; one picture in two splits, by its pixels; masks
    that write one object in several ways, or mark nothing but 255; an empty training split or one without any label. The
    same picture twice within one split is no problem.

    Args:
        dataset: what to check.
        decode: decode all pixels of images and masks. False reads headers only, and then truncation and wrong pixel
            values stay unseen.
        progress: called as ``progress(done, total)`` after each sample.
        training: also require a split ``train`` with labels. False for data that is only evaluated or predicted on.

    Returns:
        The findings: those of the reader, then those of the files in the order of the samples, then those of the whole
        dataset; the same on every run.
    """
    found: list[str] = [*dataset.warnings]
    found += [
        Problem(problem, kind="categories", file=source_of(dataset))
        for problem in category_problems(dataset.categories)
    ]
    if len(dataset.categories) > IGNORE and any(s.labels.mask and s.labels.mask.kind == "semantic" for s in dataset):
        what, remedy = f"id {IGNORE} means ignore in semantic masks", f"name {IGNORE} categories at most"
        found.append(Problem(what, kind="categories", file=source_of(dataset), place="categories", remedy=remedy))
    findings: list[Finding] = []
    for done, finding in enumerate(ahead(lambda s: _check_sample(dataset, s, decode), dataset.samples), start=1):
        findings.append(finding)
        found += finding.problems
        if progress:
            progress(done, len(dataset))
    extents = [finding.extent for finding in findings]
    intensity = decide(dataset, extents)
    found += doubts(dataset, extents, intensity)
    found += suspicions(dataset, findings, training=training, decoded=decode)
    records = [as_problem(problem) for problem in found]
    stats = summary(dataset, [finding.measure for finding in findings])
    return Report(problems_of(records), warnings_of(records), stats, dataset, intensity)


def require_clean(
    dataset: Dataset,
    *,
    decode: bool = True,
    progress: Callable[[int, int], None] | None = None,
    training: bool = True,
) -> Report:
    """The findings of :func:`examine`. Raises one DataError with all problems if there are any."""
    report = examine(dataset, decode=decode, progress=progress, training=training)
    if report.problems:
        raise DataError(report.problems, source_of(dataset))
    return report


def _check_sample(dataset: Dataset, sample: Sample, decode: bool) -> Finding:
    finding = Finding(measure_labels(sample, len(dataset.categories)))
    finding.measure.problems.clear()  # Unknown categories: reported with their place below.
    size = _check_image(dataset, sample, decode, finding)
    finding.measure.size = size
    finding.problems += _check_labels(_Place(dataset, sample), sample, size, len(dataset.categories))
    if sample.labels.mask:
        _check_mask(dataset, sample, sample.labels.mask, size, decode, finding)
    return finding


@dataclass(frozen=True)
class _Place:
    """Makes records about one sample's labels."""

    dataset: Dataset
    sample: Sample

    def __call__(self, place: str, message: str, kind: str, remedy: str, **options: Any) -> Problem:
        where = f"sample {self.sample.id!r}, {place}"
        file = source_of(self.dataset)
        return Problem(message, kind=kind, file=file, place=where, remedy=remedy, data=name_of(self.dataset), **options)


def _check_image(dataset: Dataset, sample: Sample, decode: bool, finding: Finding) -> tuple[int, int] | None:
    at = _Place(dataset, sample)
    if reason := leaves_folder(dataset.root, sample.image):
        finding.problems.append(at("image", f"path {sample.image!r} {reason}", "path", ""))
        return None
    path = dataset.image_path(sample)
    try:
        size = dataset.size_of(sample)
        if decode and needs_windows(path):
            # Too large to be decoded here: what its file says of itself was checked when it was opened.
            with open_large(path, dataset.image_reading) as image:
                finding.extent = image.extent
        elif decode:
            with turn(size):
                raster = decoded(path, dataset.image_reading)
                finding.extent, finding.pixels = raster.extent, raster.digest()
                if raster.extent is None and path.suffix.lower() in _PAGED and dataset.image_reading.page is None:
                    finding.problems += _frames(dataset, path)
            # For the fingerprint, while the system still has the file in memory.
            file_digest(path)
    except DataError as error:
        whole = decode and is_whole(path)
        for problem in error.problems:
            finding.problems.append(_of_sample(dataset, path, problem, f"(image of sample {sample.id!r})", whole))
        return None
    if sample.size is not None and tuple(sample.size) != size:
        file_size, dataset_size = f"{size[0]} x {size[1]}", " x ".join(map(str, sample.size))
        message = f"noted {dataset_size}, but {path} has {file_size}"
        finding.problems.append(at("size", message, "size", "correct the size or the file"))
    return size


def _frames(dataset: Dataset, path: Path) -> Iterator[Problem]:
    """A warning for an animation."""
    pages = page_count(path)
    if pages < 2:
        return
    message = f"has {pages:,} frames, and the first is read"
    remedy = f"to write a copy with another, counted from 0: {fix_command(name_of(dataset), '--page 1')}"
    yield Problem(message, kind="pages", severity="warning", file=path, remedy=remedy, fix="--page 1")


def _of_sample(dataset: Dataset, path: Path, problem: str, whose: str, whole: bool) -> Problem:
    """What is wrong with a sample's file, with the words that say whose it is, and what mends it."""
    record = as_problem(problem)
    message, remedy = record.message, record.remedy
    if not record.file and message.startswith(f"{path}: "):  # A line of text: file, message and remedy in one.
        message, _, remedy = message.removeprefix(f"{path}: ").rpartition("; ")
    fix = "" if whole else record.fix
    return Problem(
        f"{message or remedy} {whose}",
        kind="damaged-but-whole" if whole else record.kind,
        file=path,
        place=record.place,
        remedy="all of its pixels are there" if whole else remedy if message else "",
        fix=fix,
        data=name_of(dataset) if fix is not None else "",
    )


def _check_mask(
    dataset: Dataset, sample: Sample, mask: Mask, size: tuple[int, int] | None, decode: bool, finding: Finding
) -> None:
    at = _Place(dataset, sample)
    if not cache.holds(mask.path) and (reason := leaves_folder(dataset.root, mask.path)):
        finding.problems.append(at("mask", f"path {mask.path!r} {reason}", "path", ""))
        return
    path = dataset.root / mask.path
    try:
        if needs_windows(path):
            finding.problems += _check_large_mask(dataset, path, mask, size)
            return
        if decode:
            with turn(size or (0, 0)):
                values = read_mask(path)
            file_digest(path)
            mask_size = values.shape[1], values.shape[0]
            _check_mask_values(dataset, sample, path, values, mask, finding)
        else:
            mask_size = image_size(path)
    except DataError as error:
        finding.problems += [
            _of_sample(dataset, path, p, f"(mask of sample {sample.id!r})", False) for p in error.problems
        ]
        return
    if size is not None and mask_size != size:
        sizes = f"{mask_size[0]} x {mask_size[1]}, but its image {sample.image} is {size[0]} x {size[1]}"
        message = f"mask of sample {sample.id!r} is {sizes}"
        remedy = "make the mask anew at the image's size as displayed (EXIF rotation applied)"
        finding.problems.append(Problem(message, kind="mask-size", file=path, remedy=remedy))
    elif decode:
        finding.problems += _boxes_beside_mask(at, sample, mask, values, dataset.categories)


def _check_large_mask(
    dataset: Dataset, path: Path, mask: Mask, size: tuple[int, int] | None
) -> Iterator[Problem | str]:
    """Problems of a mask that is read by windows: its size, its kind of pixels, and values that are no category."""
    try:
        windows = MaskWindows(path, size)
        values = {value for strip in windows.strips() for value in np.unique(windows.read(strip)).tolist()}
    except DataError as error:
        yield from error.problems
        return
    unknown = sorted(value for value in values if value >= len(dataset.categories) and value != IGNORE)
    if unknown and mask.kind == "semantic":
        listed = ", ".join(map(str, unknown[:5])) + (", ..." if len(unknown) > 5 else "")
        what = f"unknown category ids {listed}; known are 0..{len(dataset.categories) - 1} and {IGNORE} for ignore"
        remedy = "name the categories, correct the mask, or set its kind to instance if these are instance ids"
        yield Problem(what, kind="unknown-category", file=path, remedy=remedy)


def _boxes_beside_mask(
    at: _Place, sample: Sample, mask: Mask, values: NDArray[Any], categories: Sequence[str]
) -> Iterator[Problem]:
    """Boxes of objects that are not in the sample's mask, which would count as background: a mask is complete."""
    for i, box in enumerate(sample.labels.boxes):
        if not (0 < box.category < len(categories) and all(map(math.isfinite, box.xyxy))):
            continue  # reported by _check_labels
        x0, y0, x1, y1 = (max(0, round(v)) for v in box.xyxy)
        ids = set(np.unique(values[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]).tolist())
        kinds = ids if mask.kind == "semantic" else {mask.category_of(id) for id in ids - {0}}
        if box.category not in kinds and not (mask.kind == "semantic" and IGNORE in ids):
            what = f"its mask shows nothing of {categories[box.category]!r} there, and a mask is complete"
            remedy = "draw the object into the mask, or remove the box, or the mask"
            yield at(f"boxes[{i}]", what, "box-without-mask", remedy)


def _check_mask_values(
    dataset: Dataset, sample: Sample, path: Path, values: NDArray[Any], mask: Mask, finding: Finding
) -> None:
    counts = measure_mask(finding.measure, values, mask, sample)
    finding.measure.problems.clear()
    if mask.kind == "instance":
        # Every id that is not named has category 1.
        if len(dataset.categories) < 2 and values.any():
            message = "holds instances, but there is no category but background"
            finding.problems.append(Problem(message, kind="categories", file=path, remedy="name one"))
        return
    written = {frozenset(): "empty", frozenset({1}): "0/1", frozenset({IGNORE}): f"0/{IGNORE}"}
    finding.written = written.get(frozenset(counts) - {0}, "ids")
    unknown = {value: count for value, count in counts.items() if value >= len(dataset.categories) and value != IGNORE}
    if unknown:
        finding.problems.append(_unknown_values(dataset, path, values, unknown, finding))


def _unknown_values(
    dataset: Dataset, path: Path, values: NDArray[Any], unknown: dict[int, int], finding: Finding
) -> Problem:
    data = name_of(dataset)
    examples = ", ".join(f"{v} ({n} pixels)" for v, n in list(unknown.items())[:5]) + (
        ", ..." if len(unknown) > 5 else ""
    )
    convention = convention_of(values) if len(dataset.categories) <= 2 else None
    if convention and convention.two_levels:
        finding.measure.ignored = 0  # White is the object here.
    if convention and convention.name == "grey":
        message = f"holds greys between 0 and {convention.white}, as soft edges or JPEG leave them: {examples}"
        return Problem(message, kind="grey-mask", file=path, fix="", data=data)
    if convention and convention.two_levels:
        message = f"writes the object as {convention.white}: {examples}"
        return Problem(message, kind="mask-convention", file=path, fix="", data=data)
    message = f"unknown category ids {examples}; known are 0..{len(dataset.categories) - 1} and {IGNORE} for ignore"
    remedy = "name the categories, correct the mask, or set its kind to instance if these are instance ids"
    return Problem(message, kind="unknown-category", file=path, remedy=remedy)


def _check_labels(at: _Place, sample: Sample, size: tuple[int, int] | None, categories: int) -> Iterator[Problem]:
    """Problems of the labels that are written in line."""
    labels = sample.labels
    for i, box in enumerate(labels.boxes):
        yield from _check_category(at, f"boxes[{i}]", box.category, categories)
        yield from _check_box(at, f"boxes[{i}]", box.xyxy, size)
    for i, scribble in enumerate(labels.scribbles):
        yield from _check_category(at, f"scribbles[{i}]", scribble.category, categories, background=True)
        yield from _check_points(at, f"scribbles[{i}]", scribble.points, size)
    for i, point in enumerate(labels.points):
        yield from _check_category(at, f"points[{i}]", point.category, categories, background=True)
        yield from _check_points(at, f"points[{i}]", [(point.x, point.y)], size)
    for i, tag in enumerate(labels.tags):
        yield from _check_category(at, f"tags[{i}]", tag.category, categories)
    for instance, category in (labels.mask.categories if labels.mask else {}).items():
        yield from _check_category(at, f"mask, instance {instance}", category, categories)


def _check_category(
    at: _Place, place: str, category: int, categories: int, background: bool = False
) -> Iterator[Problem]:
    first = 0 if background else 1
    if not first <= category < categories:
        valid_ids = f"{first}..{categories - 1}" if categories > first else "none"
        message = f"unknown category id {category}, known are {valid_ids}"
        yield at(place, message, "unknown-category", "correct it or name the category")


def _check_box(
    at: _Place, place: str, xyxy: tuple[float, float, float, float], size: tuple[int, int] | None
) -> Iterator[Problem]:
    x0, y0, x1, y1 = xyxy
    text = f"box {x0:g} {y0:g} {x1:g} {y1:g}"
    if not all(map(math.isfinite, xyxy)):
        yield at(place, f"{text} holds a number that is not finite", "not-finite", "correct or remove it")
    elif x1 <= x0 or y1 <= y0:
        yield at(place, f"{text} is empty", "empty-box", "correct or remove it (boxes are x0 y0 x1 y1)")
    elif size and (x0 < 0 or y0 < 0 or x1 > size[0] or y1 > size[1]):
        text = f"{text} reaches outside the image of {size[0]} x {size[1]}"
        if x0 >= size[0] or y0 >= size[1] or x1 <= 0 or y1 <= 0:
            yield at(place, f"{text}, all of it", "box-outside", "correct or remove it")
        elif max(-x0, x1 - size[0]) <= OVERHANG * size[0] and max(-y0, y1 - size[1]) <= OVERHANG * size[1]:
            yield at(place, text, "box-over-border", "it counts as cut off at the border", severity="warning")
        else:
            yield at(place, text, "box-outside", "correct or remove it", fix="")


def _check_points(
    at: _Place, place: str, points: Sequence[tuple[float, float]], size: tuple[int, int] | None
) -> Iterator[Problem]:
    if not points:
        yield at(place, "has no point", "no-point", "add one or remove it")
    elif not all(math.isfinite(x) and math.isfinite(y) for x, y in points):
        yield at(place, "holds a number that is not finite", "not-finite", "correct or remove it")
    elif size:
        outside = [(x, y) for x, y in points if not (0 <= x < size[0] and 0 <= y < size[1])]
        if outside:
            x, y = outside[0]
            count = f" ({len(outside)} of {len(points)} points)" if len(points) > 1 else ""
            message = f"{x:g} {y:g} lies outside the image of {size[0]} x {size[1]}{count}"
            yield at(place, message, "point-outside", "correct or remove it")
