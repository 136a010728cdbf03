"""In-context learning inside a batch (SAMIX, stage 1): images with masks serve as references for each other.

``practice_batch`` chooses these images, ``episode_loss`` is the loss of SAM's adapters.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from maskwright.data.batch import Batch
from maskwright.data.labels import Kind
from maskwright.methods.in_context.answerer import Answerer
from maskwright.methods.in_context.rows import RowPrompts, Rows, resize, rows_of, weak_prompts
from maskwright.nets.losses import box_projection_loss, iou_regression, mask_loss
from maskwright.sam.sam import Embedding, Memory

MOST_ROWS = 16
"""Rows that SAM learns from in one step at most. An image of many categories has many, and each costs a recall and its gradient."""

TRUST = 0.7
"""Least confidence of SAM's answer to a box for SAM to practise on it as if it were a mask."""

BOXES, CLICKS, ROUGH = 0.35, 0.35, 0.15
"""Shares of the rows of mask images that practise with their boxes, with their clicks, and with a rough copy of their mask, which stands
for the teacher's prediction in stage 2; the others practise with nothing but references."""


# ------------------------------------------------------------------------------------------- images to practise on


@dataclass(frozen=True)
class Practice:
    """A batch that SAM practises on.

    Attributes:
        batch: all images of the batch; only those with masks or boxes have ``present`` categories, and SAM's trusted answers to boxes
            stand in it as masks.
        is_true: (B,) bool, the images whose mask is a label; the other masks are SAM's own answers.
    """

    batch: Batch
    is_true: Tensor


def practice_batch(
    batch: Batch, maps: Tensor, confidence: Tensor, generator: torch.Generator, clicks: int = 6
) -> Practice:
    """The images that SAM can practise on: those with masks, and those with boxes whose pseudo-mask it is sure of, which count as masks.

    SAM's answer to a box is good enough to train its answers to clicks and references, and a few masks alone would be overfitted.

    Args:
        batch: without augmentation.
        maps, confidence: (B, C, S/4, S/4) probabilities of its pseudo-masks, and (B,) how far to trust them.
        generator: on the CPU, of the clicks.
        clicks: of each such mask and category, at most so many are drawn, deep inside it.
    """
    is_mask, is_box = batch.kinds == Kind.MASK, batch.kinds == Kind.BOX
    is_trusted = is_box & (confidence > TRUST)
    mask = maps.argmax(1)
    points, point_categories = _clicks_inside(mask, maps.shape[1], clicks, generator)
    length = max(points.shape[1], batch.points.shape[1])

    def instead(new: Tensor, old: Tensor) -> Tensor:
        """The new values for images whose pseudo-mask is trusted."""
        return torch.where(is_trusted.view(-1, *[1] * (old.ndim - 1)), new, old)

    relabelled = replace(
        batch,
        kinds=torch.where(is_trusted, int(Kind.MASK), batch.kinds),
        target=instead(mask.repeat_interleave(4, 1).repeat_interleave(4, 2), batch.target),
        points=instead(_lengthened(points.to(batch.points), length, 0), _lengthened(batch.points, length, 0)),
        point_categories=instead(
            _lengthened(point_categories.to(is_trusted.device), length, -1),
            _lengthened(batch.point_categories, length, -1),
        ),
        present=torch.where((is_mask | is_box)[:, None], batch.present, 0),
    )
    return Practice(relabelled, is_mask)


def _clicks_inside(mask: Tensor, categories: int, clicks: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """1 to ``clicks`` clicks deep inside every category of masks (B, S/4, S/4): (B, N, 2) x y on the canvas, and (B, N) category ids,
    -1 where there is no click. On the CPU."""
    maps = F.one_hot(mask, categories)[..., 1:].permute(0, 3, 1, 2).float()
    depth = (F.avg_pool2d(maps, 7, 1, 3) ** 4 * maps).flatten(0, 1).flatten(1).cpu()
    empty = depth.sum(1) <= 0
    index = torch.multinomial(depth.masked_fill(empty[:, None], 1.0), clicks, replacement=True, generator=generator)
    is_click = torch.arange(clicks) <= torch.randint(clicks, (len(depth), 1), generator=generator)
    category = torch.arange(1, categories).repeat(len(mask))[:, None]
    category = torch.where(is_click & ~empty[:, None], category, -1)
    width = mask.shape[-1]
    points = (torch.stack([index % width, index // width], -1) + 0.5) * 4
    return points.view(len(mask), -1, 2), category.view(len(mask), -1)


def _lengthened(values: Tensor, length: int, filling: int) -> Tensor:
    """(B, N, ...) → (B, length, ...), filled up at the end."""
    return F.pad(values, (0, 0) * (values.ndim - 2) + (0, length - values.shape[1]), value=filling)


# ----------------------------------------------------------------------------------------------------- the episode


def episode_loss(
    answerer: Answerer, embedding: Embedding, practice: Practice, generator: torch.Generator, weak_weight: float
) -> Tensor:
    """In-context learning inside a batch: mask images are references for each other and for box images.

    Every image is encoded and remembered once. SAM learns to answer every kind of weak label; a row's own mask is never among its
    references.

    Args:
        answerer: whose SAM learns.
        embedding: of the batch's images.
        practice: images with masks and the weak labels that these imply, and images with boxes.
        generator: on the CPU; of the rows, their prompts and their references.
        weak_weight: weight of the loss on box rows.

    Returns:
        Mask loss on mask rows, error of the predicted IoU on those whose mask is a label (measured against its own answers, SAM would learn
        to overrate them), box projection on box rows.
    """
    batch = practice.batch
    rows, size = rows_of(batch.present, batch.kinds, batch.indices), answerer.sam.size
    if not len(rows):
        return embedding.low.sum() * 0
    rows = rows[sample_rows(rows.category, answerer.categories, generator)]
    is_mask = rows.kind == Kind.MASK
    truth = (batch.target[rows.image] == rows.category[:, None, None]).float()
    prompts = _practice_prompts(batch, rows, truth, size, generator)
    has_references, memory = _references_in_batch(answerer, embedding, rows, truth, generator)
    masks, logits, _ = answerer.answer(embedding, rows, prompts, has_references, memory)
    loss = logits.sum() * 0
    if is_mask.any():
        loss = loss + _row_mask_loss(logits[is_mask], truth[is_mask])
        single = (prompts.valid[is_mask].sum(1) == 1) & practice.is_true[rows.image[is_mask]]
        coarse = F.interpolate(truth[is_mask][:, None], logits.shape[-2:], mode="area")
        error = iou_regression(masks.iou[is_mask, 0], masks.logits[is_mask, 0], coarse).mean(-1)
        loss = loss + (error * single).sum() / single.sum().clamp(min=1)
    if (~is_mask).any():
        loss = loss + weak_weight * box_loss(masks.best[~is_mask], prompts.rows(~is_mask), size)
    return loss


def sample_rows(category: Tensor, categories: int, generator: torch.Generator) -> Tensor:
    """(N,) categories of rows → positions of at most ``MOST_ROWS`` of them, ascending.

    Whole categories are drawn at random, so that their rows can refer to each other."""
    if len(category) <= MOST_ROWS:
        return torch.arange(len(category), device=category.device)
    rank = torch.randperm(categories, generator=generator).to(category.device)[category]
    return rank.argsort(stable=True)[:MOST_ROWS].sort().values


def _practice_prompts(batch: Batch, rows: Rows, truth: Tensor, size: int, generator: torch.Generator) -> RowPrompts:
    """Boxes for box rows; for mask rows at random boxes, clicks, a rough copy of the mask, or nothing, as in visits."""
    is_mask = rows.kind == Kind.MASK
    draw = torch.rand(len(rows), generator=generator).to(truth.device)
    boxes, points = ~is_mask | (draw < BOXES), is_mask & (draw >= BOXES) & (draw < BOXES + CLICKS)
    is_rough = is_mask & (draw >= BOXES + CLICKS) & (draw < BOXES + CLICKS + ROUGH)
    prompts = weak_prompts(batch, rows, size, boxes=boxes, points=points)
    return prompts.with_hint(rough_copies(truth, generator), is_rough)


def rough_copies(masks: Tensor, generator: torch.Generator) -> Tensor:
    """True masks as a half-trained network might predict them: moved, scaled, blurred, with patches added and missing.

    Args:
        masks: (N, H, W) in 0..1.
        generator: on the CPU.

    Returns:
        (N, H/4, W/4) logits.
    """
    count, height, width = masks.shape

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return (torch.rand(count, *shape, generator=generator) * (high - low) + low).to(masks)

    theta = torch.diag_embed(uniform(0.8, 1.25, 2))
    theta = torch.cat([theta, uniform(-0.12, 0.12, 2, 1)], 2)
    grid = F.affine_grid(theta, [count, 1, height // 4, width // 4], align_corners=False)
    moved = F.grid_sample(masks[:, None], grid, align_corners=False)
    blurred = F.avg_pool2d(moved, 5, 1, 2, count_include_pad=False)
    patches = F.interpolate(uniform(-1, 1, 1, 5, 5), (height // 4, width // 4), mode="bicubic")
    return ((blurred - 0.5 + uniform(0, 0.6, 1, 1, 1) * patches) * uniform(4, 12, 1, 1, 1))[:, 0]


def _references_in_batch(
    answerer: Answerer, embedding: Embedding, rows: Rows, truth: Tensor, generator: torch.Generator
) -> tuple[Tensor, Memory | None]:
    """1 to T other mask images of the batch as references for every row, drawn at random. Returns ``has_references`` and ``memory`` of
    ``Answerer.answer``."""
    column = (rows.kind == Kind.MASK).nonzero()[:, 0]
    allowed = (rows.category[:, None] == rows.category[column]) & (rows.image[:, None] != rows.image[column])
    has_references = allowed.any(1)
    if not has_references.any():
        return has_references, None
    memory = answerer.sam.remember(embedding[rows.image[column]], truth[column][:, None])[:, 0]
    allowed = allowed[has_references]
    noise = torch.rand(allowed.shape, generator=generator).to(truth.device).masked_fill(~allowed, -1)
    count = 1 + int(torch.randint(answerer.references, (), generator=generator))
    order = noise.topk(min(count, len(column)), 1).indices
    # A row with fewer references repeats its first one.
    return has_references, memory[torch.where(allowed.gather(1, order), order, order[:, :1])]


def _row_mask_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Mask loss of (N, h, w) logits for masks (N, S, S), at half of the canvas' resolution."""
    size = 2 * logits.shape[-1]
    target = F.interpolate(truth[:, None], (size, size), mode="area")[:, 0]
    return mask_loss(resize(logits[:, None], size)[:, 0], target)


def box_loss(objects: Tensor, prompts: RowPrompts, size: int) -> Tensor:
    """Box projection of (N, K, h, w) object logits for the boxes, on a canvas of that size, that they were prompted with."""
    return box_projection_loss(objects, prompts.boxes * (objects.shape[-1] / size), prompts.boxed, cut=prompts.cut)
