"""Clues: what is known of each candidate, as numbers that the scorer learns from. None of them names a category."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from maskwright.methods.find.matching import resized, top
from maskwright.methods.find.showing import Shown, coarse, mean_feature
from maskwright.sam.sam import Embedding

KINDS = ("matching", "recall", "guided", "guided recall", "peak 1", "peak 2", "peak 3", "peaks", "closer")
"""Of candidates, in their order."""

FEATURES = (
    *(f"is {kind}" for kind in KINDS),
    "predicted IoU",
    "presence",
    "area",
    "matching inside",
    "matching outside",
    "coverage",
    "purity",
    "likeness of object",
    "likeness of ground",
    "cycle",
    "IoU with matching",
    "IoU with recall",
    "IoU with guided",
    "stability",
    "spread",
    "top",
    "top against own",
    "own Dice",
    "likeness of image",
    "one of examples",
)
"""What is known of a candidate, in the order of its numbers; all about -1..1."""


def features_of(
    shown: Shown,
    embedding: Embedding,
    likeness: Tensor,
    logits: Tensor,
    iou: Tensor,
    presence: Tensor,
    variants: Tensor,
) -> Tensor:
    """What is known of K candidates in each of B images: (B, K, F), see ``FEATURES``.

    Args:
        likeness: (B, g, g) of the matching.
        logits: (B, K, h, w); the first three are the matching, SAM in context, and SAM with the matching as a prompt.
        iou: (B, K) that SAM predicts; 0 where it was not asked.
        presence: (B, 1) logit of SAM in context.
        variants: (B, V, h, w) bool: answers under other examples, and to the mirror image.
    """
    masks, matcher = logits > 0, shown.matcher
    batch, count, side = masks.shape[:3]
    fine = resized(likeness, side)[:, None]
    solid = masks.float()
    area = solid.mean((2, 3))
    positive = (fine - matcher.threshold).clamp(min=0)
    inside = _mean(fine, solid)
    outside = _mean(fine, 1 - solid)
    coverage = (positive * solid).sum((2, 3)) / positive.sum((2, 3)).clamp(min=1e-6)
    purity = _mean((positive > 0).float(), solid)
    low = coarse(embedding)
    shares = F.adaptive_avg_pool2d(solid, low.shape[-1])
    pooled = F.normalize(torch.einsum("bchw,bkhw->bkc", low, shares), dim=-1)
    first = _iou(masks[:, :, None], masks[:, None, :3])
    stable = _iou(masks[:, :, None], variants[:, None]).mean(2)
    several = solid[:, :3].mean(1, keepdim=True)
    spread = (several * (1 - several)).sum((2, 3)) / several.sum((2, 3)).clamp(min=1e-6)
    whole = (mean_feature(embedding) @ shown.whole.T).amax(1)
    best = top(likeness)

    def each(values: Tensor) -> Tensor:
        """(B,) for every candidate."""
        return values[:, None].expand(batch, count)

    own = best.new_tensor([matcher.own, 1 / matcher.examples]).expand(batch, 2)
    kinds = torch.eye(len(KINDS), device=logits.device)[:count].expand(batch, -1, -1)
    columns = [
        iou,
        each(presence[:, 0].clamp(-10, 10) / 10),
        area.clamp(min=1e-4).log() / 5 + 0.5,
        inside,
        outside,
        coverage,
        purity,
        pooled @ shown.prototype,
        pooled @ shown.ground,
        _cycle(shown, low, shares),
        *first.unbind(2),
        stable,
        spread.expand(batch, count),
        each(best),
        each(best - matcher.own_top),
        each(own[:, 0]),
        each(whole),
        each(own[:, 1]),
    ]
    return torch.cat([kinds, torch.stack(columns, 2)], 2)


def _cycle(shown: Shown, low: Tensor, shares: Tensor) -> Tensor:
    """The share of a candidate's cells whose nearest cell of the examples lies on their object: (B, K)."""
    likeness = torch.einsum("bchw,ecij->bhweij", low, shown.examples).flatten(3)
    nearest = likeness.argmax(-1)
    back = shown.inside.flatten()[nearest].float()
    return (back[:, None] * shares).sum((2, 3)) / shares.sum((2, 3)).clamp(min=1e-6)


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    """(B, K): the mean of (B, 1, h, w) where weights (B, K, h, w) are."""
    return (values * weights).sum((2, 3)) / weights.sum((2, 3)).clamp(min=1e-6)


def _iou(masks: Tensor, others: Tensor) -> Tensor:
    """IoU of bool masks (..., h, w) that broadcast; 1 where both are empty."""
    both = (masks & others).sum((-2, -1))
    either = (masks | others).sum((-2, -1))
    return torch.where(either > 0, both / either.clamp(min=1), 1.0)
