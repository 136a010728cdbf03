"""Scoring of a split by any kind of model: problems that prevent it, the true masks, the table that is printed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskwright.data.dataset import Dataset
from maskwright.data.labels import Sample
from maskwright.data.masks import label_values


@dataclass(frozen=True)
class ScoreTable:
    """Scores to be printed.

    Attributes:
        columns: their names.
        rows: a name first, then numbers: 0..1 (float) or counts (int); None is not defined.
        note: how to read them.
        title: what was scored.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""
    title: str = ""


def category_problems(categories: Sequence[str], dataset: Dataset) -> list[str]:
    """One line where the categories of a model are not those of a dataset; their order does not matter."""
    absent = [name for name in categories if name not in dataset.categories]
    foreign = [name for name in dataset.categories if name not in categories]
    parts = [f"the model has {_names(absent)}, the dataset does not"] if absent else []
    parts += [f"the dataset has {_names(foreign)}, the model does not"] if foreign else []
    return [f"categories differ: {' and '.join(parts)}; rename or merge them in the dataset"] if parts else []


def split_problems(dataset: Dataset, split: str) -> list[str]:
    """The problems that prevent any model from being scored on the masks of a split, one line each."""
    problems, part = [], dataset.split(split)
    if not len(part):
        splits = _names(sorted({sample.split for sample in dataset})) or "none"
        problems.append(f"split {split!r} is empty (splits: {splits}); name another with --split")
    problems += [
        f"sample {sample.id!r} ({sample.image}) has no mask to score against; give it one or move it to another split"
        for sample in part
        if sample.labels.mask is None
    ]
    return problems


def true_mask(dataset: Dataset, sample: Sample) -> NDArray[np.uint8]:
    """Category ids ``(H, W)`` of a sample's mask; 255 = ignore."""
    return label_values(dataset, sample)[1]


def _names(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)


def evenly_spread(dataset: Dataset, most: int) -> Dataset:
    """At most so many samples of a dataset, from its first to its last; 0: all."""
    count = len(dataset)
    if not most or count <= most:
        return dataset
    return dataset.with_samples([dataset[round(i * (count - 1) / max(1, most - 1))] for i in range(most)])
