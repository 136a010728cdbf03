"""Candidates: masks that SAM and the matching propose for one category in each image."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from maskwright.data.shapes import tight_boxes
from maskwright.methods.find.clues import KINDS, features_of
from maskwright.methods.find.matching import cells_of, resized
from maskwright.methods.find.showing import REFERENCES, Shown, mean_feature
from maskwright.sam.closer_look import OUTSIDE, look_closer
from maskwright.sam.prompts import POSITIVE, Prompts
from maskwright.sam.sam import Embedding, Masks, Sam

operations: Any = ndimage

PEAKS = 3
"""Places of an image that SAM is asked at: where it looks most like the object."""

LARGEST = 2
"""Parts of a mask that are looked at more closely."""

STEEP = 6.0
"""Logits for a unit of matching: what is surely the object, at 1, gets a probability of .998."""

_APART = 5
# Cells about a peak in which there is no other.


@dataclass(frozen=True)
class Candidates:
    """Of B images, K candidates each.

    Attributes:
        logits: (B, K, h, w), h = S/4.
        features: (B, K, F) what is known of each, see ``clues.FEATURES``.
        closer: (B, S, S) logits of the last candidate, in full.
    """

    logits: Tensor
    features: Tensor
    closer: Tensor

    def chosen(self, best: Tensor) -> Tensor:
        """(B,) number of a candidate → (B, S, S) its logits."""
        rows = torch.arange(len(best), device=best.device)
        enlarged = resized(self.logits[rows, best], self.closer.shape[-1])
        return torch.where((best == len(KINDS) - 1)[:, None, None], self.closer, enlarged)


@torch.inference_mode()
def propose(
    sam: Sam, images: Tensor, shown: Shown, embedding: Embedding | None = None, mirrored: Embedding | None = None
) -> Candidates:
    """Candidates for one category in B images.

    Args:
        images: (B, 3, H, W) in 0..1, of at least SAM's canvas: what is looked at more closely shows more where they are larger.
        embedding, mirrored: of the images and of their mirror images, where they are there already.
    """
    embedding = sam.encode(images) if embedding is None else embedding
    mirrored = sam.encode(images.flip(-1)) if mirrored is None else mirrored
    cells, mirror_cells = cells_of(embedding), cells_of(mirrored)
    matcher, side = shown.matcher, sam.size // 4
    plain, mirror = matcher.map(cells), matcher.map(mirror_cells).flip(-1)
    likeness = (plain + mirror) / 2
    matched = STEEP * (resized(likeness, side) - matcher.threshold)
    (recalled, again, recalled_mirror), conditioned = _recall(sam, embedding, mirrored, shown)
    guided, both, peaks = _ask_at_peaks(sam, embedding, conditioned, likeness, matched)
    logits = torch.cat(
        [matched[:, None], recalled.logits[:, 0], guided.logits[:, 0], both.logits[:, 0], peaks.logits], 1
    )
    absent = torch.zeros_like(recalled.presence)
    together = peaks.logits.amax(1, keepdim=True)
    logits = torch.cat([logits, together], 1)
    iou = torch.cat(
        [absent, recalled.iou[:, 0], guided.iou[:, 0], both.iou[:, 0], peaks.iou, peaks.iou.mean(1, keepdim=True)], 1
    )
    variants = torch.cat(
        [
            resized(mirror, side)[:, None] > matcher.threshold,
            resized(matcher.half_maps(cells), side) > matcher.threshold,
            recalled_mirror.logits[:, 0].flip(-1) > 0,
            again.logits[:, 0] > 0,
        ],
        1,
    )
    # What matches best is looked at more closely, in its largest parts.
    best = (logits.sigmoid() * matched[:, None].clamp(-4, 4)).sum((2, 3)).argmax(1)
    closer, closer_iou = look_at_parts(sam, images, logits[torch.arange(len(images)), best] > 0)
    logits = torch.cat([logits, F.avg_pool2d(closer[:, None], 4)], 1)
    iou = torch.cat([iou, closer_iou[:, None]], 1)
    return Candidates(logits, features_of(shown, embedding, likeness, logits, iou, recalled.presence, variants), closer)


def look_at_parts(sam: Sam, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """The largest parts of masks (B, h, w) bool again, each by its box on a crop of its own: logits (B, S, S) and predicted IoU (B,)."""
    parts, rows = parts_of(masks, LARGEST)
    side = sam.size
    logits = masks.new_full((len(masks), side, side), OUTSIDE, dtype=torch.float32)
    iou = logits.new_zeros(len(masks))
    if not len(rows):
        return logits, iou
    scale = images.shape[-1] / masks.shape[-1]
    looks = look_closer(sam, images, rows, tight_boxes(parts).float() * scale)
    maps = looks.resized((images.shape[-1], images.shape[-2]), side).on_image((side, side))
    logits.scatter_reduce_(0, rows[:, None, None].expand_as(maps), maps, "amax")
    counts = rows.bincount(minlength=len(masks))
    return logits, iou.index_add(0, rows, looks.iou) / counts.clamp(min=1)


def parts_of(masks: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The largest connected parts of masks (B, h, w) bool, at most ``most`` of each: (N, h, w) bool, and (N,) whose they are."""
    parts, rows = [], []
    for row, mask in enumerate(masks.cpu().numpy()):
        labels, count = operations.label(mask)
        areas = torch.from_numpy(labels.reshape(-1)).long().bincount(minlength=count + 1)[1:]
        for number in areas.argsort(descending=True)[:most].tolist():
            parts.append(torch.from_numpy(labels == number + 1))
            rows.append(row)
    if not parts:
        return masks[:0], torch.zeros(0, dtype=torch.long, device=masks.device)
    return torch.stack(parts).to(masks.device), torch.tensor(rows, device=masks.device)


def _recall(sam: Sam, embedding: Embedding, mirrored: Embedding, shown: Shown) -> tuple[list[Masks], Embedding]:
    """SAM in context, with the examples that are most like each image; with those that are next; and of the mirror image.

    Returns:
        The three answers, and the embedding that the first was read from.
    """
    order = (mean_feature(embedding) @ shown.whole.T).argsort(1, descending=True)
    first, second = order[:, :REFERENCES], order[:, REFERENCES : 2 * REFERENCES]
    if not second.shape[1]:
        # Too few for a second set: half of them.
        second = order[:, (order.shape[1] + 1) // 2 :] if order.shape[1] > 1 else order
    asked = ((embedding, first), (embedding, second), (mirrored, first))
    conditioned = [sam.recall(images, shown.memory[places]) for images, places in asked]
    return [sam.decode(one) for one in conditioned], conditioned[0]


def _ask_at_peaks(
    sam: Sam, embedding: Embedding, conditioned: Embedding, likeness: Tensor, matched: Tensor
) -> tuple[Masks, Masks, Masks]:
    """SAM's answers to the matching as a mask prompt with a click at its peak, alone and after the examples; and to clicks at the peaks.

    Returns:
        Twice (B, 1, 1, ...), and (B, PEAKS, h, w) with iou (B, PEAKS): of each click's three answers the one that matches best.
    """
    points = _peaks(likeness) * sam.size
    labels = torch.full(points.shape[:2], POSITIVE, device=points.device)
    first, hint = Prompts(points[:, :1, None], labels[:, :1, None]), matched[:, None].clamp(-8, 4)
    guided, both = (sam.decode(each, first, hint) for each in (embedding, conditioned))
    answers = sam.decode(embedding, Prompts(points[:, :, None], labels[:, :, None]), multimask=True)
    worth = (answers.logits.sigmoid() * matched[:, None, None].clamp(-4, 4)).sum((-2, -1))
    best = worth.argmax(2)[..., None]
    side = answers.logits.shape[-1]
    chosen = answers.logits.gather(2, best[..., None, None].expand(-1, -1, 1, side, side))[:, :, 0]
    return guided, both, replace(answers, logits=chosen, iou=answers.iou.gather(2, best)[..., 0])


def _peaks(likeness: Tensor) -> Tensor:
    """(B, PEAKS, 2) x y in 0..1: the highest places of maps (B, g, g), apart from each other."""
    smooth = F.avg_pool2d(likeness[:, None], 3, 1, 1, count_include_pad=False)
    is_peak = smooth == F.max_pool2d(smooth, _APART, 1, _APART // 2)
    ranked = torch.where(is_peak, smooth, smooth - 100.0).flatten(1).topk(PEAKS, 1).indices
    side = likeness.shape[-1]
    return torch.stack([ranked % side + 0.5, ranked // side + 0.5], -1) / side
