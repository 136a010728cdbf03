"""Keep the labels of a share of the images: nested shares, each alike in what it holds, for studies of how many labels it takes.

All images stand in one order, which the seed decides: those that show the same categories are spread evenly over it (each gets
a place in 0..1 by its rank among them, and one random shift), so that any first part of the order is a stratified sample. A larger share
thus holds every smaller one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from maskwright.data import manifest
from maskwright.data.dataset import Dataset
from maskwright.data.findings import source_of
from maskwright.data.groups import ALONE, Grouping
from maskwright.data.holdings import Holdings, missing
from maskwright.data.labels import Kind, Labels
from maskwright.data.new_folder import new_folder
from maskwright.errors import DataError
from maskwright.problems import Problem


@dataclass(frozen=True)
class LabelSample:
    """One share.

    Attributes:
        path: its manifest; what ``Dataset.load`` takes.
        share: 0..1 of the labelled images that was asked for.
        labelled: images that keep their labels.
        missing: names of categories that none of these shows, and the whole dataset does.
    """

    path: Path
    share: float
    labelled: int
    missing: tuple[str, ...]


@dataclass(frozen=True)
class SampleResult:
    """Nested shares of a dataset's labels.

    Attributes:
        folder: of all; its ``manifest.json`` has every label.
        samples: from the smallest share to the largest.
        labelled: images of the split that had labels.
        warnings: what small shares lack.
    """

    folder: Path
    samples: tuple[LabelSample, ...]
    labelled: int
    warnings: tuple[Problem, ...]


def sample(
    dataset: Dataset,
    out: str | Path,
    shares: Sequence[float] = (),
    counts: Sequence[int] = (),
    *,
    split: str = "train",
    kind: Kind | None = None,
    grouping: Grouping = ALONE,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> SampleResult:
    """Write a copy of a dataset with one manifest for each share; see ``maskwright.api.sample``."""
    holdings = Holdings.of(dataset)
    chosen = np.array([s.split == split for s in dataset], bool)
    chosen &= holdings.kinds == kind if kind is not None else holdings.kinds != Kind.NONE
    labelled = int(chosen.sum())
    wanted = _wanted(
        shares, counts, labelled, f"{'image' if kind is None else kind} of split {split!r}", source_of(dataset)
    )
    units = grouping.units(dataset, progress)
    rank = order(holdings.counts(units, chosen), np.random.default_rng(seed))[units]
    by_rank = np.flatnonzero(chosen)[np.lexsort((units[chosen], rank[chosen]))]
    made: list[tuple[str, NDArray[np.bool_]]] = []
    for count in sorted(wanted):
        keeps = np.zeros(len(dataset), bool)
        keeps[_first(by_rank, units, count)] = True
        made.append((f"{wanted[count]}.json", keeps))
    with new_folder(out, dataset.root) as folder:
        copy = manifest.copy_files(dataset, folder)
        manifest.write(copy)
        for name, keeps in made:
            lost = chosen & ~keeps
            samples = [replace(s, labels=Labels()) if gone else s for s, gone in zip(copy, lost, strict=True)]
            manifest.write(copy.with_samples(samples), folder / name)
    results = [
        LabelSample(
            Path(out) / name,
            float(keeps.sum() / labelled),
            int(keeps.sum()),
            tuple(missing(dataset, holdings, chosen, keeps)),
        )
        for name, keeps in made
    ]
    return SampleResult(Path(out), tuple(results), labelled, tuple(w for result in results for w in _lacks(result)))


def order(counts: NDArray[np.integer], generator: np.random.Generator) -> NDArray[np.float64]:
    """Places in 0..1 of groups, so that groups which hold the same things lie evenly spread.

    Args:
        counts: ``(U, F)`` what each group holds of each thing.
        generator: decides the order of alike groups, and where their places begin.
    """
    _, stratum, sizes = np.unique(counts > 0, axis=0, return_inverse=True, return_counts=True)
    shuffled = generator.permutation(len(counts))
    by_stratum = shuffled[np.argsort(stratum[shuffled], kind="stable")]
    starts = np.cumsum(sizes) - sizes
    rank = np.empty(len(counts))
    rank[by_stratum] = np.arange(len(counts)) - np.repeat(starts, sizes)
    return (rank + generator.random(len(sizes))[stratum]) / sizes[stratum]


def _first(by_rank: NDArray[np.int64], units: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """The first images of an order, whole groups: as close to a count as they come, but at least one group."""
    ends = np.flatnonzero(np.diff(units[by_rank], append=-1)) + 1
    return by_rank[: ends[np.abs(ends - count).argmin()]]


def _wanted(shares: Sequence[float], counts: Sequence[int], labelled: int, what: str, source: str) -> dict[int, str]:
    """Images to keep the labels of → the name of the manifest."""
    problems = [f"--shares {share:g}: must be above 0 and at most 1" for share in shares if not 0 < share <= 1]
    problems += [
        f"--counts {count}: there are {labelled} labelled images; ask for 1 to {labelled}"
        for count in counts
        if not 1 <= count <= labelled
    ]
    if not shares and not counts:
        problems.append("say how many labels to keep, such as --shares 0.05 0.1 or --counts 8 40")
    if not labelled:
        problems = [f"no labelled {what}; name a split and a kind that are there"]
    if problems:
        raise DataError(problems, source)
    named = {max(1, round(share * labelled)): f"labels-{100 * share:g}-percent" for share in shares}
    return named | {count: f"labels-{count}" for count in counts}


def _lacks(result: LabelSample) -> list[Problem]:
    if not result.missing:
        return []
    what = f"its {result.labelled} labelled images show nothing of {', '.join(map(repr, result.missing))}"
    remedy = "keep more labels, or try another seed"
    return [Problem(what, kind="category-missing", severity="warning", file=result.path, remedy=remedy)]
