"""What a click agent learns from: all states that it has visited (DAgger, Ross et al. 2011)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class VisitedStates:
    """All states that were visited, with what was tried from them: what DAgger aggregates. Grows as it fills.

    Attributes:
        count: states so far.
        columns: name → tensor whose first ``count`` rows are filled.
    """

    count: int
    columns: dict[str, Tensor]

    def add(self, **rows: Tensor) -> None:
        """Append rows; half precision for anything floating."""
        size = len(next(iter(rows.values())))
        for name, values in rows.items():
            values = values.detach().cpu()
            values = values.half() if values.is_floating_point() else values
            column = self.columns.get(name)
            if column is None:
                column = values.new_zeros(max(1024, size), *values.shape[1:])
            while len(column) < self.count + size:
                column = torch.cat([column, torch.zeros_like(column)])
            column[self.count : self.count + size] = values
            self.columns[name] = column
        self.count += size

    def draw(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Some of the states, with replacement."""
        chosen = torch.randint(self.count, (count,), generator=generator)
        return {n: c[chosen].float() if c.is_floating_point() else c[chosen] for n, c in self.columns.items()}

    def state_dict(self) -> dict[str, Tensor]:
        return {name: column[: self.count] for name, column in self.columns.items()}

    @classmethod
    def restored(cls, tensors: dict[str, Tensor]) -> VisitedStates:
        return cls(len(next(iter(tensors.values()))) if tensors else 0, dict(tensors))
