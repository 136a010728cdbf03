"""Losses of ``pretrain_nano.py``, and the score that it logs. Targets (B,K,S,S) bool, valid (B,K) bool."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from maskwright.nets.losses import sam_loss
from maskwright.sam.sam import Masks


def mask_loss(masks: Masks, targets: Tensor, valid: Tensor) -> Tensor:
    """``sam_loss`` at twice the decoder's resolution, both sides of focal loss weighed alike. targets (B,K,S,S), valid (B,K)."""
    logits = F.interpolate(masks.logits.float().flatten(0, 1), scale_factor=2.0, mode="bilinear", align_corners=False)
    logits = logits.unflatten(0, targets.shape[:2])
    area = F.interpolate(targets.float(), logits.shape[-2:], mode="area")
    return sam_loss(logits, masks.iou.float(), area, valid, alpha=0.5)


def balanced_entropy(masks: Masks, targets: Tensor, valid: Tensor) -> Tensor:
    """Cross-entropy with object and rest weighed alike, of each object's best mask: what starts a decoder that says nothing yet."""
    logits = masks.logits.float()
    soft = F.interpolate(targets.float(), logits.shape[-2:], mode="area")[:, :, None].expand_as(logits)
    entropy = F.binary_cross_entropy_with_logits(logits, soft, reduction="none")
    on = (entropy * soft).sum((-1, -2)) / soft.sum((-1, -2)).clamp(min=1e-3)
    off = (entropy * (1 - soft)).sum((-1, -2)) / (1 - soft).sum((-1, -2)).clamp(min=1e-3)
    return ((on + off).amin(-1) * valid).sum() / valid.sum().clamp(min=1)


def mean_iou(logits: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
    """Of answers (B,K,h,w), at their own resolution."""
    small = F.interpolate(targets.float(), logits.shape[-2:], mode="area") > 0.5
    both = ((logits > 0) & small).sum((-1, -2)).float()
    either = ((logits > 0) | small).sum((-1, -2)).float().clamp(min=1)
    return (both / either)[valid].mean().detach()
