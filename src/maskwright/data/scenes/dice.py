"""Random tensors for a scene, all from one generator."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Dice:
    """Random tensors from one generator."""

    def __init__(self, seed: int | torch.Generator, device: torch.device) -> None:
        if isinstance(seed, torch.Generator) and seed.device.type != device.type:
            raise ValueError(
                f"the generator is on {seed.device}, the scenes are to be drawn on {device}: use one device"
            )
        self.device = device
        self.generator = seed if isinstance(seed, torch.Generator) else torch.Generator(device).manual_seed(seed)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=self.generator, device=self.device)

    def between(self, low: Tensor, high: Tensor) -> Tensor:
        return low + (high - low) * self.uniform(*low.shape)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, device=self.device)

    def chance(self, probability: Tensor | float, *shape: int) -> Tensor:
        return self.uniform(*shape) < probability

    def choice(self, weights: tuple[float, ...], *shape: int) -> Tensor:
        table = torch.tensor(weights, device=self.device)
        return torch.multinomial(table, math.prod(shape), replacement=True, generator=self.generator).view(shape)

    def integer(self, high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=self.generator, device=self.device)
