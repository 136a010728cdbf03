"""The trunk of the published SAM 2: a Hiera (Ryali et al., ICML 2023), a hierarchical vision transformer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers.models.sam2.modeling_sam2 import Sam2HieraDetModel


class AdaptedMlp(nn.Module):
    """A block's frozen MLP with an adapter beside it."""

    def __init__(self, mlp: nn.Module, adapter: nn.Module) -> None:
        super().__init__()
        self.mlp = mlp
        self.adapter = adapter

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(x) + self.adapter(x)


@dataclass(frozen=True)
class HieraBlock:
    """A transformer block. Adapters sit beside its MLP, as in SANSA."""

    module: Any

    @property
    def width(self) -> int:
        return self.module.dim_out

    def attach(self, adapter: nn.Module) -> None:
        self.module.mlp = AdaptedMlp(self.module.mlp, adapter)


@dataclass(frozen=True)
class HieraTrunk:
    """What :class:`~maskwright.sam.trunks.trunk.Trunk` asks, of the Hiera of ``transformers``."""

    network: Sam2HieraDetModel

    @property
    def widths(self) -> tuple[int, ...]:
        config: Any = self.network.config
        return tuple(config.embed_dim_per_stage)

    @property
    def fine_width(self) -> None:
        """None: its patches are of 4 x 4 pixels."""

    def blocks_of(self, stage: int) -> list[HieraBlock]:
        ends = [0, *(end + 1 for end in self.network.stage_ends)]
        stage = range(len(ends) - 1)[stage]
        blocks: Any = self.network.blocks
        return [HieraBlock(block) for block in blocks[ends[stage] : ends[stage + 1]]]

    def initialise(self) -> None:
        for position in (self.network.pos_embed, self.network.pos_embed_window):
            nn.init.normal_(position, std=0.02)
