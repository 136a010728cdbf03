"""Approximate neighbours among very many vectors: cells around centres, of which only those nearest to a query are searched.

That is an inverted file. It was chosen over a graph of neighbours, whose search is faster, because entries of a reference pool move as
training goes on, queries may refer to some of them only, and a resumed training must find what one that was never stopped does: what is
found here depends on the centres and on each entry's cell, and on nothing else.
"""

from __future__ import annotations

import math
from array import array
from bisect import insort
from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

ROUNDS = 8
"""Of k-means, which finds the centres."""

SAMPLE = 32
"""Vectors for each centre that k-means looks at."""

SEARCHED = 24
"""Cells that are searched for a query, at least; see ``docs/results.md`` for what they find."""

AT_ONCE = 8192
"""Vectors that are compared with the centres at a time, to bound the memory."""


class Cells:
    """Numbered vectors by the centre that is nearest to each, by cosine.

    Args:
        centres: (n, C) unit vectors.
        numbers: of the vectors, ascending, and cells: of each of them, 0..n - 1.

    Attributes:
        fitted: how many vectors there were when the centres were found.
    """

    def __init__(self, centres: Tensor, numbers: Tensor, cells: Tensor, fitted: int) -> None:
        self.centres, self.fitted = centres, fitted
        order = cells.argsort(stable=True)
        ends = torch.bincount(cells, minlength=len(centres)).cumsum(0).tolist()
        ordered = numbers[order].tolist()
        self.members = [array("q", ordered[start:end]) for start, end in zip([0, *ends], ends)]

    @classmethod
    def fit(cls, vectors: Tensor, numbers: Tensor) -> tuple[Cells, Tensor]:
        """Find centres among some of (E, C) vectors, given their numbers, ascending: the cells, and (len(numbers),) the cell of each."""
        count = 2 ** round(math.log2(2 * math.sqrt(len(numbers))))
        sample = F.normalize(vectors[_spread(numbers, SAMPLE * count)].float(), dim=1)
        centres = _spread(sample, count)
        for _ in range(ROUNDS):
            sums = torch.zeros_like(centres).index_add(0, nearest_centre(centres, sample), sample)
            # A cell that has lost all of its vectors keeps its centre.
            centres = torch.where(sums.any(1, keepdim=True), F.normalize(sums, dim=1), centres)
        cells = torch.cat([nearest_centre(centres, vectors[part]) for part in numbers.split(AT_ONCE)])
        return cls(centres, numbers, cells, len(numbers)), cells

    def add(self, number: int, cell: int) -> None:
        insort(self.members[cell], number)

    def remove(self, number: int, cell: int) -> None:
        self.members[cell].remove(number)

    def near(self, vector: Tensor, least: int) -> Tensor:
        """Numbers of the vectors in the cells nearest to (C,) ``vector``; of as many more cells as give ``least`` of them, if there are."""
        chosen: list[array[int]] = []
        found = 0
        for cell in (self.centres @ vector).argsort(descending=True, stable=True).tolist():
            if len(chosen) >= SEARCHED and found >= least:
                break
            chosen.append(self.members[cell])
            found += len(self.members[cell])
        return numbers_in(chosen)


def nearest_centre(centres: Tensor, vectors: Tensor) -> Tensor:
    """(n, C) unit vectors, (E, C) → (E,) which of the centres each vector has the largest cosine with."""
    # The length of a vector does not change which centre is nearest.
    return torch.cat([(part.float() @ centres.T).argmax(1) for part in vectors.split(AT_ONCE)])


def numbers_in(lists: Iterable[array[int]]) -> Tensor:
    """Lists of numbers → all of them in one tensor, ascending, so that what follows does not depend on the order of the lists."""
    parts = [np.frombuffer(part, dtype=np.int64) for part in lists if len(part)]
    return torch.from_numpy(np.sort(np.concatenate(parts))) if parts else torch.empty(0, dtype=torch.long)


def _spread(values: Tensor, count: int) -> Tensor:
    """``count`` of the values, evenly spread."""
    return values[torch.linspace(0, len(values) - 1, min(count, len(values)), dtype=torch.float64).long()]
