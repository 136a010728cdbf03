"""Semantic adapters inside the image encoder (SAMIX after SANSA): the only part of SAM that the recipe trains.

``x → LayerNorm → Linear down → GELU → Linear up``, times 0.1, added in every block of the trunk's last two stages: beside the MLP of a
Hiera's block, as published; to what a block of any other trunk passes on. The upward layer starts at zero, so that a fresh adapter
changes nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from maskwright.errors import WeightsError
from maskwright.sam.sam import Sam
from maskwright.sam.trunks import trunk_of


class Adapter(nn.Module):
    """Bottleneck of ``ratio`` × the block's width; (..., C) → (..., C)."""

    def __init__(self, width: int, ratio: float = 0.3, scale: float = 0.1) -> None:
        super().__init__()
        hidden = max(1, round(width * ratio))
        self.norm = nn.LayerNorm(width)
        self.down = nn.Linear(width, hidden)
        self.up = nn.Linear(hidden, width)
        self.scale = scale
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(nn.functional.gelu(self.down(self.norm(x)))) * self.scale


def add_adapters(sam: Sam, ratio: float = 0.3, scale: float = 0.1, stages: int = 2) -> list[nn.Parameter]:
    """Put an adapter into every block of the last ``stages`` stages, freeze all the rest, and return what is trainable.

    Args:
        sam: changed in place; without adapters so far.
        ratio: width of the bottleneck as a share of the block's width (SANSA: 0.3 beats 0.5 and 0.8).
        scale: factor on the adapter's output.
        stages: how many stages, counted from the last.

    Raises:
        WeightsError: the model has adapters already.
    """
    if adapter_state(sam):
        raise WeightsError(f"{sam.name}: this model has adapters already; load it afresh to add others")
    sam.requires_grad_(False)
    trunk = trunk_of(sam.model.vision_encoder.backbone)
    like = next(trunk.network.parameters())
    parameters: list[nn.Parameter] = []
    for stage in range(max(0, len(trunk.widths) - stages), len(trunk.widths)):
        for block in trunk.blocks_of(stage):
            adapter = Adapter(block.width, ratio, scale).to(like)
            block.attach(adapter)
            parameters += adapter.parameters()
    return parameters


def adapter_state(sam: Sam) -> dict[str, Tensor]:
    """The adapters' tensors by name; empty where there are none."""
    return {k: v for k, v in sam.state_dict().items() if ".adapter." in k}


def load_adapters(sam: Sam, state: dict[str, Tensor]) -> None:
    """Fill the adapters of ``sam`` with ``state``; missing and unexpected names are an error."""
    own = adapter_state(sam)
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or unexpected:
        raise WeightsError(
            f"{sam.name}: adapters do not fit: missing {missing or 'none'}, unexpected {unexpected or 'none'}"
        )
    shapes = [
        f"{k} is {tuple(state[k].shape)}, needs {tuple(v.shape)}" for k, v in own.items() if v.shape != state[k].shape
    ]
    if shapes:
        raise WeightsError(f"{sam.name}: adapters do not fit: {'; '.join(shapes)}")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(state[name])
