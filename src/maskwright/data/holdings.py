"""What each group of images holds, as numbers: so that parts of a dataset can be made that are alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maskwright.data.dataset import Dataset
from maskwright.data.labels import Kind
from maskwright.data.stats import measured


@dataclass(frozen=True)
class Holdings:
    """What the images of a dataset hold.

    Attributes:
        categories: ``(N, C)`` bool: the image shows the category, by any label.
        kinds: ``(N,)`` its finest kind of label.
    """

    categories: NDArray[np.bool_]
    kinds: NDArray[np.int64]

    @classmethod
    def of(cls, dataset: Dataset) -> Holdings:
        """Reads every mask. Raises DataError: files that cannot be read, or categories without a name; all at once."""
        present = [measure.present for measure in measured(dataset)]
        kinds = [int(sample.labels.kind) for sample in dataset]
        return cls(np.array(present, bool).reshape(len(dataset), len(dataset.categories)), np.array(kinds, np.int64))

    def counts(self, units: NDArray[np.int64], counted: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Of each group ``(U, 1 + C - 1 + kinds)``: images; images of each category but background; images of each kind.

        Args:
            units: ``(N,)`` group of each image, from 0.
            counted: ``(N,)`` images that count.
        """
        kinds = self.kinds[:, None] == np.array([int(kind) for kind in Kind])
        features = np.concatenate([np.ones((len(units), 1), bool), self.categories[:, 1:], kinds], axis=1)
        table = np.zeros((int(units.max(initial=-1)) + 1, features.shape[1]), np.int64)
        np.add.at(table, units[counted], features[counted])
        return table


def missing(dataset: Dataset, holdings: Holdings, all: NDArray[np.bool_], some: NDArray[np.bool_]) -> list[str]:
    """Names of categories that all of these images ``(N,)`` show, and some of them do not."""
    lost = np.logical_and(holdings.categories[all].any(0), ~holdings.categories[some].any(0))
    return [dataset.categories[id] for id in np.flatnonzero(lost[1:]) + 1]
