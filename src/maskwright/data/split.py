"""Deal the images of a dataset into splits: alike in what they hold, whole groups together, the same for the same seed.

A greedy assignment of the groups, those first that hold the largest part of anything, each to the split that lacks most of
what it holds; the idea of iterative stratification (Sechidis et al., 2011, ECML) for groups of any size. Then single groups
move as long as that brings the splits closer to their shares.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from maskwright.data import manifest
from maskwright.data.dataset import Dataset
from maskwright.data.findings import source_of
from maskwright.data.groups import ALONE, Grouping
from maskwright.data.holdings import Holdings, missing
from maskwright.data.labels import Kind
from maskwright.data.new_folder import new_folder
from maskwright.errors import DataError
from maskwright.problems import Problem

REST = "train"
"""The split that gets what no share asks for, and the images that cannot be scored."""


@dataclass(frozen=True)
class SplitResult:
    """A dataset whose images were dealt.

    Attributes:
        folder: the new dataset; what ``Dataset.load`` takes.
        dataset: the same, loaded.
        groups: of each split, how many groups of images were dealt to it.
        kept: images that stayed in their split, as it was not dealt.
        unscored: images without a mask that went to ``train``, as nothing can be scored on them.
        warnings: what the splits lack.
    """

    folder: Path
    dataset: Dataset
    groups: dict[str, int]
    kept: int
    unscored: int
    warnings: tuple[Problem, ...]


def split(
    dataset: Dataset,
    out: str | Path,
    shares: Mapping[str, float],
    *,
    of: tuple[str, ...] = (REST,),
    grouping: Grouping = ALONE,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> SplitResult:
    """Write a copy of a dataset with new splits; see ``maskwright.api.split``."""
    _require_shares(shares)
    dealt = np.array([sample.split in of for sample in dataset], bool)
    if not dealt.any():
        there = ", ".join(dict.fromkeys(sample.split for sample in dataset)) or "none"
        raise DataError([f"no image is in the split {', '.join(of)}; the splits are {there}"], source_of(dataset))
    units, holdings = grouping.units(dataset, progress), Holdings.of(dataset)
    masked = dealt & (holdings.kinds == Kind.MASK)
    scored = masked if masked.any() else dealt
    names = [REST, *(name for name, share in shares.items() if share > 0 and name != REST)]
    targets = np.array(
        [1 - sum(share for name, share in shares.items() if name != REST), *(shares[n] for n in names[1:])]
    )
    counts = holdings.counts(units, scored)
    free = counts[:, 0] > 0
    where = np.zeros(len(counts), np.int64)
    where[free] = deal(counts[free], targets, np.random.default_rng(seed))
    found = np.bincount(where[free], minlength=len(names))
    _require_images(names, found, targets, source_of(dataset))
    samples = [
        replace(sample, split=names[where[unit]]) if chosen else sample
        for sample, unit, chosen in zip(dataset, units, dealt, strict=True)
    ]
    with new_folder(out, dataset.root) as folder:
        manifest.write(manifest.copy_files(dataset.with_samples(samples), folder))
    warnings = _parted(np.intersect1d(units[dealt], units[~dealt]).size)
    for place, name in enumerate(names):
        warnings += _lacks(name, missing(dataset, holdings, scored, scored & (where[units] == place)))
    groups = np.bincount(where[np.unique(units[dealt])], minlength=len(names))
    return SplitResult(
        Path(out),
        Dataset.load(out),
        dict(zip(names, groups.tolist())),
        kept=int((~dealt).sum()),
        unscored=int((dealt & ~free[units]).sum()),
        warnings=tuple(warnings),
    )


def deal(
    counts: NDArray[np.integer], targets: NDArray[np.float64], generator: np.random.Generator
) -> NDArray[np.int64]:
    """Assign groups to splits, so that each split holds its share of everything.

    What is made small is the sum over splits and columns of ``(share held - target)²``.

    Args:
        counts: ``(U, F)`` what each group holds of each thing; the first column is its images.
        targets: ``(S,)`` shares that sum up to 1.
        generator: breaks ties.

    Returns:
        ``(U,)`` numbers of splits.
    """
    totals = counts.sum(0)
    parts = counts[:, totals > 0] / totals[totals > 0]
    lacks = np.repeat(targets[:, None], parts.shape[1], axis=1)
    where = np.zeros(len(parts), np.int64)
    for unit in np.lexsort((generator.random(len(parts)), -parts.max(1, initial=0.0))):
        wanted = lacks @ parts[unit]
        where[unit] = generator.choice(np.flatnonzero(wanted >= wanted.max() - 1e-12))
        lacks[where[unit]] -= parts[unit]
    _exchange(parts, lacks, where)
    return where


def _exchange(parts: NDArray[np.float64], lacks: NDArray[np.float64], where: NDArray[np.int64]) -> None:
    """Move groups to other splits, one by one, as long as the best such move brings all closer to their shares."""
    squares = (parts**2).sum(1)
    everyone = np.arange(len(parts))
    pull = parts @ lacks.T
    for _ in range(10 * len(parts)):
        # Of a move from a to b: (lacks_b - part)² - lacks_b² + (lacks_a + part)² - lacks_a², summed up.
        change = 2 * (pull[everyone, where][:, None] - pull + squares[:, None])
        change[everyone, where] = 0
        unit, place = np.unravel_index(change.argmin(), change.shape)
        if change[unit, place] > -1e-12:
            return
        before = where[unit]
        pulled = parts @ parts[unit]
        pull[:, before] += pulled
        pull[:, place] -= pulled
        lacks[before] += parts[unit]
        lacks[place] -= parts[unit]
        where[unit] = place


def _require_shares(shares: Mapping[str, float]) -> None:
    problems = [
        f"share {share:g} of {name}: must be 0 or more, and below 1"
        for name, share in shares.items()
        if not 0 <= share < 1
    ]
    others = sum(share for name, share in shares.items() if name != REST)
    if not problems and not others:
        problems.append("every share is 0; say how much goes to val or test, such as --val 0.15")
    if not problems and others >= 1:
        problems.append(f"the shares sum up to {others:g}: nothing is left for {REST}; lower them")
    if problems:
        raise DataError(problems)


def _require_images(names: list[str], found: NDArray[np.integer], targets: NDArray[np.float64], source: str) -> None:
    """Raise a DataError where a split would get nothing."""
    empty = [name for name, count in zip(names, found, strict=True) if not count]
    if empty:
        wanted = ", ".join(f"{target:.0%} {name}" for name, target in zip(names, targets, strict=True))
        what = f"{found.sum()} groups of images are too few for {wanted}: nothing would be in {', '.join(empty)}"
        raise DataError([f"{what}; ask for larger shares, fewer splits or smaller groups"], source)


def _parted(groups: int) -> list[Problem]:
    if not groups:
        return []
    what = f"{groups} groups of images are also in splits that were not dealt, and were parted"
    return [_warning(what, "group-parted", "deal all splits to keep them together: --of all")]


def _lacks(name: str, lost: list[str]) -> list[Problem]:
    if not lost:
        return []
    what = f"the split {name} shows nothing of {', '.join(map(repr, lost))}"
    return [_warning(what, "category-missing", "too few groups of images hold it; try other shares or another seed")]


def _warning(what: str, kind: str, remedy: str) -> Problem:
    return Problem(what, kind=kind, severity="warning", remedy=remedy)
