"""Episodes of training that run side by side, each at its own click."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from maskwright.rl.clicks import ClickState


class Episodes:
    """A batch of episodes; one that is over is replaced by a new one.

    Args:
        count: episodes side by side.
        clicks: after which an episode is over.
        device: of the states.
    """

    def __init__(self, count: int, clicks: int, device: torch.device) -> None:
        self.clicks, self.device = clicks, device
        self.current: ClickState | None = None
        # All count as over, so that the first call of ``states`` begins them.
        self.age = torch.full((count,), clicks, device=device)

    def states(self, begin: Callable[[int], ClickState]) -> ClickState:
        """The states at present; ``begin`` gives the first states of so many new episodes."""
        over = (self.age >= self.clicks).nonzero()[:, 0]
        if len(over):
            first = begin(len(over))
            self.current = first if self.current is None else self.current.put(over, first)
            self.age[over] = 0
        assert self.current is not None
        return self.current

    def advance(self, states: ClickState) -> None:
        """Take over the ``states`` of all episodes after one more click."""
        self.current = states
        self.age = self.age + 1

    def state_dict(self) -> dict[str, Tensor]:
        current = (
            {}
            if self.current is None
            else {name: getattr(self.current, name) for name in ClickState.__dataclass_fields__}
        )
        return current | {"age": self.age}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """The counterpart of :meth:`state_dict`."""
        tensors = {name: tensor.to(self.device) for name, tensor in tensors.items()}
        self.age = tensors.pop("age")
        self.current = ClickState(**tensors) if tensors else None
