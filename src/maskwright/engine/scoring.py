"""What scoring a split shares, whatever the kind of model: what keeps a split from being scored, its true masks, the printed table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from maskwright.data.dataset import Dataset
from maskwright.data.labels import Sample
from maskwright.data.masks import label_values
from maskwright.errors import DataError


class Scored(Protocol):
    """What is needed of a predictor."""

    @property
    def categories(self) -> tuple[str, ...]: ...
    @property
    def signature(self) -> str: ...


@dataclass(frozen=True)
class ScoreTable:
    """Scores to be printed: numbers are 0..1 (float) or counts (int), None is not defined."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""


def scored(predictor: Scored, dataset: Dataset, split: str) -> dict[str, Any]:
    """What was scored, for the head of the scores."""
    return {"model": predictor.signature, "dataset": dataset.source or str(dataset.root), "split": split}


def refuse_unsuited(predictor: Scored, dataset: Dataset, split: str) -> None:
    """Raise one DataError with all that keeps the split from being scored."""
    problems = []
    lacking = [name for name in predictor.categories if name not in dataset.categories]
    unknown = [name for name in dataset.categories if name not in predictor.categories]
    if lacking or unknown:
        parts = [f"the model has {_names(lacking)}, the dataset does not"] if lacking else []
        parts += [f"the dataset has {_names(unknown)}, the model does not"] if unknown else []
        problems.append(f"categories differ: {' and '.join(parts)}; rename or merge them in the dataset")
    if problems := problems + split_problems(dataset, split):
        raise DataError(problems, dataset.source or str(dataset.root))


def split_problems(dataset: Dataset, split: str) -> list[str]:
    """What keeps a split from being scored against its masks, whatever the model."""
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
