"""Episodes of training that run side by side, each at its own click."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from maskwright.rl.clicks import ClickState


class Episodes:
    """A batch of episodes; those that are over begin anew.

    Args:
        count: episodes side by side.
        clicks: after which an episode is over.
        device: of the states.
    """

    def __init__(self, count: int, clicks: int, device: torch.device) -> None:
        self.clicks, self.device = clicks, device
        self.live: ClickState | None = None
        # All are over, so that all begin.
        self.age = torch.full((count,), clicks, device=device)

    def states(self, begin: Callable[[int], ClickState]) -> ClickState:
        """The states at present; ``begin`` gives the first states of so many new episodes."""
        over = (self.age >= self.clicks).nonzero()[:, 0]
        if len(over):
            first = begin(len(over))
            self.live = first if self.live is None else self.live.put(over, first)
            self.age[over] = 0
        assert self.live is not None
        return self.live

    def advance(self, states: ClickState) -> None:
        """All episodes went on by one click, to ``states``."""
        self.live = states
        self.age = self.age + 1

    def state_dict(self) -> dict[str, Tensor]:
        live = {} if self.live is None else {name: getattr(self.live, name) for name in ClickState.__dataclass_fields__}
        return live | {"age": self.age}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Take up what :meth:`state_dict` gave."""
        own = {name: tensor.to(self.device) for name, tensor in tensors.items()}
        self.age = own.pop("age")
        self.live = ClickState(**own) if own else None
