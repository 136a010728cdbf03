"""Candidates: masks that SAM and the matching propose for one category in each image, and what is known of each of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from maskwright.data.shapes import tight_boxes
from maskwright.methods.find.matching import Matcher, Sums, cells_of, shares_of, top
from maskwright.sam.closer_look import OUTSIDE, look_closer
from maskwright.sam.prompts import POSITIVE, Prompts
from maskwright.sam.sam import Embedding, Masks, Memory, Sam

operations: Any = ndimage

PEAKS = 3
"""Places of an image that SAM is asked at: where it looks most like the object."""

REFERENCES = 5
"""Examples that SAM is shown at once."""

LARGEST = 2
"""Parts of a mask that are looked at more closely."""

KINDS = ("matching", "recall", "guided", "guided recall", "peak 1", "peak 2", "peak 3", "peaks", "closer")
"""Of candidates, in their order."""

STEEP = 6.0
"""Logits for a unit of matching: what is surely the object, at 1, gets a probability of .998."""

_APART = 5
# Cells about a peak in which there is no other.


@dataclass(frozen=True)
class Shown:
    """The examples of one category.

    Attributes:
        matcher: what they look like.
        memory: (R,) of the examples that show the category.
        whole: (R, C) mean features of these images, of length 1.
        prototype: (C,) mean feature of the objects on ``low``, of length 1; ``ground`` that of the rest.
        examples: (E, C, h, w) ``low`` of these images, of length 1 in each cell; E is at most ``REFERENCES``.
        inside: (E, h, w) bool: the object.
    """

    matcher: Matcher
    memory: Memory
    whole: Tensor
    prototype: Tensor
    ground: Tensor
    examples: Tensor
    inside: Tensor


@dataclass(frozen=True)
class Showing:
    """N examples of one category with all that is computed once: any choice of them is :meth:`shown` without encoding anything again.

    Attributes:
        memory: (R,) of the examples that show the category.
        low: (N, C, h, w) features, of length 1 in each cell.
        shares, rest: (N, h, w) of each cell, the object's and the others'.
        whole: (N, C) mean features of the images, of length 1.
    """

    sums: Sums
    memory: Memory
    low: Tensor
    shares: Tensor
    rest: Tensor
    whole: Tensor

    @staticmethod
    @torch.inference_mode()
    def of(sam: Sam, embedding: Embedding, masks: Tensor, known: Tensor) -> Showing:
        """Of N examples, with or without the object.

        Args:
            masks: (N, S, S) bool, the object; one example at least must show it.
            known: (N, S, S) bool: labelled.
        """
        sums = Sums.of(cells_of(embedding), shares_of(masks), shares_of(known))
        shows = sums.shows.nonzero()[:, 0]
        low = F.normalize(embedding.low.float(), dim=1)
        shares, counted = (F.adaptive_avg_pool2d(each[:, None].float(), low.shape[-1])[:, 0] for each in (masks, known))
        whole = F.normalize(embedding.low.float().mean((2, 3)), dim=1)
        memory = sam.remember(embedding[shows], masks[shows, None].to(sam.dtype))[:, 0]
        return Showing(sums, memory, low, shares, (1 - shares) * counted, whole)

    @torch.inference_mode()
    def shown(self, chosen: Tensor | None = None) -> Shown:
        """All examples, or those that are chosen, (N,) bool."""
        every = torch.ones_like(self.sums.shows) if chosen is None else chosen
        shows = (self.sums.shows & every).nonzero()[:, 0]
        few = shows[:REFERENCES]
        peak = self.shares[few].flatten(1).amax(1)[:, None, None]
        return Shown(
            Matcher.fit(self.sums, every),
            self.memory[every[self.sums.shows]],
            self.whole[shows],
            F.normalize(torch.einsum("nchw,nhw->c", self.low[every], self.shares[every]), dim=0),
            F.normalize(torch.einsum("nchw,nhw->c", self.low[every], self.rest[every]), dim=0),
            self.low[few],
            self.shares[few] >= peak.clamp(max=0.5),
        )


@dataclass(frozen=True)
class Candidates:
    """Of B images, K candidates each.

    Attributes:
        logits: (B, K, h, w), h = S/4.
        features: (B, K, F) what is known of each, see ``FEATURES``.
        closer: (B, S, S) logits of the last candidate, in full.
    """

    logits: Tensor
    features: Tensor
    closer: Tensor

    def chosen(self, best: Tensor) -> Tensor:
        """(B,) number of a candidate → (B, S, S) its logits."""
        rows = torch.arange(len(best), device=best.device)
        enlarged = _resized(self.logits[rows, best], self.closer.shape[-1])
        return torch.where((best == len(KINDS) - 1)[:, None, None], self.closer, enlarged)


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
    matched = STEEP * (_resized(likeness, side) - matcher.threshold)
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
            _resized(mirror, side)[:, None] > matcher.threshold,
            _resized(matcher.half_maps(cells), side) > matcher.threshold,
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
    return Candidates(logits, _features(shown, embedding, likeness, logits, iou, recalled.presence, variants), closer)


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
    whole = F.normalize(embedding.low.float().mean((2, 3)), dim=1)
    order = (whole @ shown.whole.T).argsort(1, descending=True)
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


def _features(
    shown: Shown,
    embedding: Embedding,
    likeness: Tensor,
    logits: Tensor,
    iou: Tensor,
    presence: Tensor,
    variants: Tensor,
) -> Tensor:
    """(B, K, F), see ``FEATURES``."""
    masks, matcher = logits > 0, shown.matcher
    batch, count, side = masks.shape[:3]
    fine = _resized(likeness, side)[:, None]
    solid = masks.float()
    area = solid.mean((2, 3))
    positive = (fine - matcher.threshold).clamp(min=0)
    inside = _mean(fine, solid)
    outside = _mean(fine, 1 - solid)
    coverage = (positive * solid).sum((2, 3)) / positive.sum((2, 3)).clamp(min=1e-6)
    purity = _mean((positive > 0).float(), solid)
    low = F.normalize(embedding.low.float(), dim=1)
    shares = F.adaptive_avg_pool2d(solid, low.shape[-1])
    pooled = F.normalize(torch.einsum("bchw,bkhw->bkc", low, shares), dim=-1)
    first = _iou(masks[:, :, None], masks[:, None, :3])
    stable = _iou(masks[:, :, None], variants[:, None]).mean(2)
    several = solid[:, :3].mean(1, keepdim=True)
    spread = (several * (1 - several)).sum((2, 3)) / several.sum((2, 3)).clamp(min=1e-6)
    whole = F.normalize(embedding.low.float().mean((2, 3)), dim=1) @ shown.whole.T
    best = top(likeness)
    whole = whole.amax(1)

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


def _resized(maps: Tensor, side: int) -> Tensor:
    """(..., g, g) → (..., side, side)."""
    leading = maps.shape[:-2]
    flat = maps.reshape(-1, 1, *maps.shape[-2:])
    return F.interpolate(flat, (side, side), mode="bilinear", align_corners=False).reshape(*leading, side, side)
