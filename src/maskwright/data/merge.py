"""Several datasets as one: categories by name, ids that stay apart, masks rewritten where their numbers mean another category."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskwright.data import manifest
from maskwright.data.choices import Twins
from maskwright.data.dataset import Dataset
from maskwright.data.findings import name_of, source_of
from maskwright.data.groups import pictures
from maskwright.data.labels import IGNORE, Labels, Mask, Sample, Samples
from maskwright.data.mask_files import read_mask, write_mask
from maskwright.data.new_folder import new_folder
from maskwright.errors import DataError
from maskwright.problems import Problem


@dataclass(frozen=True)
class MergeResult:
    """Several datasets in one folder.

    Attributes:
        folder: the new dataset; what ``Dataset.load`` takes.
        dataset: the same, loaded.
        images: of each dataset, in order, how many are in it.
        renamed: ids that several datasets had: they begin with their dataset's name now.
        rewritten: masks whose category ids became others.
        left_out: pictures that were there already.
        warnings: what changes its meaning, as labels are complete.
    """

    folder: Path
    dataset: Dataset
    images: tuple[int, ...]
    renamed: int
    rewritten: int
    left_out: int
    warnings: tuple[Problem, ...]


def merge(
    datasets: Sequence[Dataset],
    out: str | Path,
    *,
    twins: Twins = "refuse",
    progress: Callable[[int, int], None] | None = None,
) -> MergeResult:
    """Write several datasets into one new folder; see ``maskwright.api.merge``."""
    if len(datasets) < 2:
        raise DataError(["a merge takes two datasets or more; name them one after the other"])
    categories = tuple(dict.fromkeys(name for dataset in datasets for name in dataset.categories))
    background = {dataset.categories[0] for dataset in datasets}
    if len(background) > 1:
        raise DataError([f"category 0 is called {', '.join(sorted(background))}; give it one name in all datasets"])
    parts, left_out = _without_twins(datasets, twins, progress)
    names = _names(parts)
    renamed = sum(
        name != s.id for part, given in zip(parts, names, strict=True) for s, name in zip(part, given, strict=True)
    )
    samples: list[Sample] = []
    problems: list[str] = []
    rewritten = 0
    with new_folder(out, *(dataset.root for dataset in datasets)) as folder:
        for part, given in zip(parts, names, strict=True):
            placed, unplaced = manifest.place_files(part, folder, given)
            problems += unplaced
            ids = np.array([categories.index(name) for name in part.categories])
            for sample in placed if not unplaced else ():
                try:
                    mask = _renumbered(sample.labels.mask, ids, folder) if sample.labels.mask else None
                except DataError as error:
                    problems += error.problems
                    continue
                rewritten += mask is not sample.labels.mask
                samples.append(replace(sample, labels=_relabelled(sample.labels, ids, mask)))
        if problems:
            raise DataError(problems)
        manifest.write(Samples(folder, categories, tuple(samples)))
    return MergeResult(
        Path(out),
        Dataset.load(out),
        tuple(map(len, parts)),
        renamed,
        rewritten,
        left_out,
        tuple(_counted_as_background(parts, categories)),
    )


def _renumbered(mask: Mask, ids: NDArray[np.int64], folder: Path) -> Mask:
    """A mask of the new folder with other category ids; the same object where nothing changes.

    Args:
        mask: its file is rewritten where the numbers in it are categories.
        ids: new id by old id.
        folder: that the mask's path is relative to.
    """
    if np.array_equal(ids, np.arange(len(ids))):
        return mask
    path = folder / mask.path
    values = read_mask(path)
    present = np.unique(values)
    if mask.kind == "instance":
        # Where an object is not named it has category 1, which may be another now.
        named = {int(value): int(ids[mask.category_of(int(value))]) for value in present if value}
        return replace(mask, categories=named)
    table = np.arange(IGNORE + 1)
    table[: len(ids)] = ids
    if unknown := [int(value) for value in present if value >= len(ids) and value != IGNORE]:
        listed = ", ".join(map(str, unknown[:10]))
        raise DataError([f"{mask.path}: holds category {listed}, which has no name; run the check on its dataset"])
    renumbered = table[values].astype(np.uint8)
    if np.array_equal(renumbered, values):
        return mask
    write_mask(path, renumbered)
    return replace(mask)


def _relabelled(labels: Labels, ids: NDArray[np.int64], mask: Mask | None) -> Labels:
    def all(labels: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(replace(label, category=int(ids[label.category])) for label in labels)

    return Labels(mask, all(labels.scribbles), all(labels.boxes), all(labels.points), all(labels.tags))


def _names(parts: Sequence[Dataset]) -> list[list[str]]:
    """Ids of the samples; where several datasets have one, each gets its dataset's name before it."""
    counts = Counter(sample.id for part in parts for sample in part)
    taken: set[str] = {name for name, count in counts.items() if count == 1}
    names: list[list[str]] = []
    for part in parts:
        prefix = Path(name_of(part)).resolve().stem
        given = []
        for sample in part:
            name, number = sample.id, 1
            while counts[sample.id] > 1 and (name == sample.id or name in taken):
                name = f"{prefix}-{sample.id}" if number == 1 else f"{prefix}-{number}-{sample.id}"
                number += 1
            taken.add(name)
            given.append(name)
        names.append(given)
    return names


def _without_twins(
    datasets: Sequence[Dataset], twins: Twins, progress: Callable[[int, int], None] | None
) -> tuple[list[Dataset], int]:
    """The datasets without pictures that an earlier one holds, by their pixels; and how many these are.

    Raises:
        DataError: images that cannot be read; pictures in several datasets, where these are refused.
    """
    if twins == "keep":
        return list(datasets), 0
    digests = iter(pictures(datasets, progress))
    first: dict[bytes, tuple[int, str]] = {}
    again: list[Problem] = []
    parts: list[Dataset] = []
    for number, dataset in enumerate(datasets):
        kept = []
        for sample in dataset:
            digest, path = next(digests), str(dataset.image_path(sample))
            owner, other = first.setdefault(digest, (number, path))
            if owner == number:
                kept.append(sample)
                continue
            again.append(Problem(f"is the same picture as {other}", kind="same-picture", file=path, remedy=_REMEDY))
        parts.append(dataset.with_samples(kept))
    if again and twins == "refuse":
        raise DataError(again)
    return parts, len(again)


_REMEDY = "give --twins first to take it once, with the labels of the dataset that is named first, or --twins keep"


def _counted_as_background(parts: Sequence[Dataset], categories: Sequence[str]) -> Iterator[Problem]:
    """Categories that a dataset does not know, so that its masks and tags say they are not there."""
    for part in parts:
        unknown = [name for name in categories if name not in part.categories]
        complete = sum(bool(sample.labels.mask or sample.labels.tags) for sample in part)
        if unknown and complete:
            what = f"{complete} masks or tags say that there is no {' and no '.join(map(repr, unknown))}, which it does not name"
            remedy = "label these too, or see that none of its images shows one"
            yield Problem(what, kind="not-named", severity="warning", file=source_of(part), remedy=remedy)
