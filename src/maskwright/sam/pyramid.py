"""SAM 2's feature pyramid, without the position codes that ``transformers`` makes with it each time and nobody here looks at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor


def feature_pyramid(neck: Any, stages: Sequence[Tensor]) -> list[Tensor]:
    """The levels of ``Sam2VisionNeck``, the same to the bit.

    Args:
        neck: of a ``Sam2VisionModel``.
        stages: the trunk's maps (B, S/s, S/s, C_s), s = 4, 8, 16, 32.

    Returns:
        (B, C, S/s, S/s) for s = 16, 8, 4.
    """
    levels: list[Tensor] = []
    for stage, conv in zip(reversed(range(len(stages))), neck.convs, strict=True):
        level = conv(stages[stage].permute(0, 3, 1, 2).to(conv.weight.dtype))
        if levels and stage in neck.fpn_top_down_levels:
            level = level + F.interpolate(levels[-1].float(), scale_factor=2.0, mode="nearest").to(level.dtype)
        levels.append(level)
    return levels[-3:]
