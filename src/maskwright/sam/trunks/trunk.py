"""What may be asked of a trunk, the part of SAM 2's image encoder below its feature pyramid, whatever its architecture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import nn


class Block(Protocol):
    """One block of a trunk."""

    @property
    def width(self) -> int:
        """Channels that the block passes on."""
        ...

    def attach(self, adapter: nn.Module) -> None:
        """Add ``adapter`` to what the block passes on, in place.

        Args:
            adapter: (..., width) → (..., width). Its tensors are named ``<block>...adapter...`` in the state dict.
        """
        ...


class Trunk(Protocol):
    """A trunk: a pyramid of stages, each of which halves the sides of the maps and ends in one of them.

    ``network(pixels).intermediate_hidden_states`` are the stages' maps (B, S/s, S/s, C) for normalised pixels (B, 3, S, S).
    """

    @property
    def network(self) -> nn.Module:
        """The trunk itself, as ``transformers`` holds it."""
        ...

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the map of each stage, from fine to coarse: of strides 4, 8, 16 and 32."""
        ...

    @property
    def fine_width(self) -> int | None:
        """Channels of the map (B, S/2, S/2, C) before the first stage, ``network(pixels).stride_2``; None where there is no such map."""
        ...

    def blocks_of(self, stage: int) -> Sequence[Block]:
        """The blocks of a stage, first to last; stages count from 0, negative ones from the last."""
        ...

    def initialise(self) -> None:
        """Random weights to train from, in place, where the layers' own initialisation in PyTorch will not do."""
        ...
