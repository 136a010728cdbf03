"""What a click agent learns from: the states that it has visited (DAgger, Ross et al. 2011)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class VisitedStates:
    """States that were visited, with what was tried from them: what DAgger aggregates. Grows as it fills; once it is full, new
    states take the place of any.

    Attributes:
        memory: bytes that the states may take.
        count: states at present.
        columns: name → tensor whose first ``count`` rows are filled.
    """

    memory: int
    count: int
    columns: dict[str, Tensor]

    def add(self, generator: torch.Generator, **rows: Tensor) -> None:
        """Append rows; half precision for anything floating. ``generator`` decides which states make room."""
        kept = {name: values.detach().cpu() for name, values in rows.items()}
        kept = {name: values.half() if values.is_floating_point() else values for name, values in kept.items()}
        size = len(next(iter(kept.values())))
        limit = max(size, self.memory // sum(values[0].nbytes for values in kept.values()))
        free = min(size, limit - self.count)
        places = torch.arange(self.count, self.count + free)
        if free < size:
            places = torch.cat([places, torch.randperm(self.count, generator=generator)[: size - free]])
        for name, values in kept.items():
            column = self.columns.get(name, values[:0])
            if len(column) < self.count + free:
                longer = min(limit, max(1024, 2 * len(column), self.count + free))
                column = torch.cat([column, values.new_zeros(longer - len(column), *values.shape[1:])])
            column[places] = values
            self.columns[name] = column
        self.count += free

    def draw(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Some of the states, with replacement."""
        chosen = torch.randint(self.count, (count,), generator=generator)
        return {n: c[chosen].float() if c.is_floating_point() else c[chosen] for n, c in self.columns.items()}

    def state_dict(self) -> dict[str, Tensor]:
        return {name: column[: self.count] for name, column in self.columns.items()}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Take the place of all states by what :meth:`state_dict` gave."""
        self.count, self.columns = len(next(iter(tensors.values()))) if tensors else 0, dict(tensors)
