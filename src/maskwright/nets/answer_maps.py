"""Maps that several networks make in the same way."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def doubled(maps: Tensor) -> Tensor:
    """(B, C, h, w) → (B, C, 2h, 2w), bilinearly."""
    return F.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=False)


def answer_maps(logits: Tensor) -> Tensor:
    """What is read of SAM's logits (B, h, w): probability, squashed logit and entropy, (B, 3, h, w)."""
    probability = logits.sigmoid()
    entropy = F.softplus(logits) - probability * logits
    return torch.stack([probability, torch.tanh(logits / 4), entropy], 1)
