"""Where to click next: AlignSAM's fully convolutional actor-critic over a grid of places.

Huang et al., "AlignSAM", CVPR 2024, section 3.2. An action is a place alone; another network (``nets.recalibrate``) decides whether
it is foreground. The state is the image embedding multiplied by the last mask, ``F ⊙ M``, on the grid of places.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from maskwright.data.schema import Fields, Whole

GROUPS = 8
"""Groups of channels that are normalised together; never over the batch, or PPO's ratio would not start at 1."""

DESCRIPTION = Fields({"width": Whole(8, 4096), "grid": Whole(2, 512), "hidden": Whole(8, 1024)})
"""What ``PlacePolicy.description`` gives."""


class PlacePolicy(nn.Module):
    """The network.

    Args:
        width: C of the image embedding.
        grid: g, cells along a side.
        hidden: channels within, a multiple of 8.
    """

    def __init__(self, width: int, grid: int, hidden: int = 32) -> None:
        super().__init__()
        self.width, self.grid, self.hidden = width, grid, hidden
        self.enter = nn.Sequential(nn.Conv2d(width, hidden, 1), nn.GroupNorm(GROUPS, hidden), nn.GELU())
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(hidden, hidden, 3, padding=d, dilation=d), nn.GroupNorm(GROUPS, hidden), nn.GELU())
            for d in (1, 2)
        )
        self.actor = nn.Conv2d(hidden, 1, 1)
        self.critic = nn.Linear(hidden, 1)
        # The untrained policy is uniform over the places, and the untrained critic's value is 0.
        for parameter in (*self.actor.parameters(), *self.critic.parameters()):
            nn.init.zeros_(parameter)

    def description(self) -> dict[str, int]:
        """The arguments that make this network again, as JSON."""
        return {"width": self.width, "grid": self.grid, "hidden": self.hidden}

    def state(self, features: Tensor, mask: Tensor) -> Tensor:
        """``F ⊙ M`` on the grid: features (B, C, h, w), mask (B, h, w) in 0..1 → (B, C, g, g). Nothing is learnt here."""
        return F.adaptive_avg_pool2d(features * mask[:, None], self.grid)

    def forward(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """States (B, C, g, g) → logits of the places, row by row, (B, g·g), and values (B,)."""
        x = self.enter(state)
        for block in self.blocks:
            x = x + block(x)
        return self.actor(x).flatten(1), self.critic(x.mean((2, 3)))[:, 0]
