"""Observations of click environments, updated by each click, so that the cost of one does not grow with the number of clicks.

``ClickVectorEnv`` calls a view when episodes begin and when clicks are placed, and takes the observations from it; the docstring of
``ClickVectorEnv`` describes them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor

from maskwright.rl.bank import Bank
from maskwright.rl.clicks import ClickState, entropy, on_canvas
from maskwright.sam import click_grid as cells

LOGIT_LIMIT = 32.0
"""Observed logits are clipped to this size (as SAM 2 clips those it hands out)."""


class RowView:
    """The target's row alone: for learners that read ``ClickVectorEnv.state``."""

    nbytes = 0

    def __init__(self, bank: Bank, count: int, pixels: int) -> None:
        self.space: spaces.Space = spaces.Discrete(len(bank))

    def began(self, index: Tensor, images: Tensor) -> None:
        """Environments ``index`` (R,) begin with ``images`` (R,)."""

    def clicked(self, index: Tensor, place: Tensor, label: Tensor) -> None:
        """One click in each of the environments ``index`` (R,), at (R, 2) in canvas pixels."""

    def observe(self, state: ClickState) -> Any:
        """The observations of all environments; the caller's own copy."""
        return state.rows.cpu().numpy().copy()


class SamView(RowView):
    """SAM's last logits and the clicks, at the resolution of these logits: ``observation="sam"``."""

    def __init__(self, bank: Bank, count: int, pixels: int) -> None:
        side = bank.size // 4
        self.size, self.side = bank.size, side
        self.maps = torch.zeros(count, 2, side, side, device=bank.device)
        self.nbytes = self.maps.nbytes
        self.space = spaces.Dict(
            {
                "row": spaces.Discrete(len(bank)),
                "logits": spaces.Box(-LOGIT_LIMIT, LOGIT_LIMIT, (side, side), np.float32),
                "entropy": spaces.Box(0.0, 1.0, (side, side), np.float32),
                "clicks": spaces.Box(0.0, 1.0, (2, side, side), np.float32),
            }
        )

    def began(self, index: Tensor, images: Tensor) -> None:
        self.maps[index] = 0

    def clicked(self, index: Tensor, place: Tensor, label: Tensor) -> None:
        self.maps[index, label] = torch.maximum(self.maps[index, label], cells.spots(place, self.size, self.side))

    def observe(self, state: ClickState) -> Any:
        parts = {
            "row": state.rows.clone(),
            "logits": state.logits.clamp(-LOGIT_LIMIT, LOGIT_LIMIT),
            "entropy": entropy(state.logits).clamp(0, 1),
            "clicks": self.maps.clone(),
        }
        return {name: value.cpu().numpy() for name, value in parts.items()}


class PixelView(RowView):
    """Small images, the input of the published agent: ``observation="pixels"``."""

    def __init__(self, bank: Bank, count: int, pixels: int) -> None:
        self.size, self.side = bank.size, pixels
        self.images = shrink(bank.pixels, pixels)
        self.drawn = torch.zeros(count, 6, pixels, pixels, dtype=torch.uint8, device=bank.device)
        self.nbytes = self.drawn.nbytes
        self.space = spaces.Box(0, 255, (6, pixels, pixels), np.uint8)

    def began(self, index: Tensor, images: Tensor) -> None:
        self.drawn[index, :3] = self.images[images]
        self.drawn[index, 4:] = 0

    def clicked(self, index: Tensor, place: Tensor, label: Tensor) -> None:
        spots = (cells.spots(place, self.size, self.side) * 255).round().byte()
        # The clicks on the object come first in the published agent's picture.
        channel = 5 - label
        self.drawn[index, channel] = torch.maximum(self.drawn[index, channel], spots)

    def observe(self, state: ClickState) -> Any:
        self.drawn[:, 3] = on_canvas(state.logits, self.side).byte() * 255
        return self.drawn.cpu().numpy().copy()


def shrink(pixels: Tensor, side: int) -> Tensor:
    """(M, 3, S, S) uint8 → (M, 3, side, side) uint8, by area where it gets smaller."""
    parts = [
        F.interpolate(part.float(), (side, side), mode="bilinear", antialias=True, align_corners=False)
        for part in pixels.split(64)
    ]
    return torch.cat([part.round().clamp(0, 255).byte() for part in parts])
