"""The training set of a click agent: the states that it has visited (DAgger, Ross et al. 2011)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class VisitedStates:
    """The states that DAgger aggregates, with the clicks that were tried from each. Once the memory is full, new states replace others at
    random.

    Attributes:
        memory: bytes that the states may take.
        count: states at present.
        columns: name → tensor whose first ``count`` rows are filled.
    """

    memory: int
    count: int
    columns: dict[str, Tensor]

    def add(self, generator: torch.Generator, **rows: Tensor) -> None:
        """Append rows; half precision for anything floating. ``generator`` draws the states that they replace."""
        rows = {name: values.detach().cpu() for name, values in rows.items()}
        rows = {name: values.half() if values.is_floating_point() else values for name, values in rows.items()}
        size = len(next(iter(rows.values())))
        limit = max(size, self.memory // sum(values[0].nbytes for values in rows.values()))
        free = min(size, limit - self.count)
        places = torch.arange(self.count, self.count + free)
        if free < size:
            places = torch.cat([places, torch.randperm(self.count, generator=generator)[: size - free]])
        for name, values in rows.items():
            column = self.columns.get(name, values[:0])
            if len(column) < self.count + free:
                longer = min(limit, max(1024, 2 * len(column), self.count + free))
                column = torch.cat([column, values.new_zeros(longer - len(column), *values.shape[1:])])
            column[places] = values
            self.columns[name] = column
        self.count += free

    def draw(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Some of the states, with replacement."""
        index = torch.randint(self.count, (count,), generator=generator)
        return {n: c[index].float() if c.is_floating_point() else c[index] for n, c in self.columns.items()}

    def state_dict(self) -> dict[str, Tensor]:
        return {name: column[: self.count] for name, column in self.columns.items()}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Replace all states by those of :meth:`state_dict`."""
        self.count, self.columns = len(next(iter(tensors.values()))) if tensors else 0, dict(tensors)
