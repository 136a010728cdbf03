"""Pseudo-labels of S⁴M (section 3.3): objects that the teacher is sure of, refined by SAM; and SAM's masks for weak labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from maskwright.data.geometry import on_canvas
from maskwright.data.instances import InstanceBatch, Instances, boxes_of
from maskwright.nets.instance import Queries
from maskwright.sam.prompts import PADDING, POSITIVE, Prompts
from maskwright.sam.sam import Embedding, Sam

MIN_AREA = 5.0
"""Soft area, in cells of the stride-4 grid, above which a query becomes a pseudo-label."""

_CHUNK = 64
# Prompts that SAM decodes at once: bounds the memory.


@dataclass(frozen=True)
class Candidates:
    """The objects that a teacher is sure of in B images: N objects in one list.

    Attributes:
        logits: (N, S/4, S/4) of the masks.
        rows: (N,) image of the batch, ascending.
        categories: (N,) category ids.
        scores: (N,) class probability.
    """

    logits: Tensor
    rows: Tensor
    categories: Tensor
    scores: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, keep: Tensor) -> Candidates:
        return Candidates(self.logits[keep], self.rows[keep], self.categories[keep], self.scores[keep])

    def instances(self, size: int) -> Instances:
        """Their masks on the canvas, as the teacher drew them."""
        return Instances(on_canvas(self.logits, size), self.rows, self.categories)


def candidates(queries: Queries, certain: float, min_area: float = MIN_AREA) -> Candidates:
    """The queries of the last layer with a class of probability above ``certain`` and a soft area above ``min_area``.

    A mask without any cell of probability above 0.5 is left out.
    """
    best, column = queries.classes[-1].float().softmax(-1).max(-1)
    masks = queries.masks[-1].float()
    area, has_pixel = masks.sigmoid().sum((2, 3)), (masks > 0).flatten(2).any(2)
    keep = (column < queries.classes.shape[-1] - 1) & (best > certain) & (area > min_area) & has_pixel
    row, query = keep.nonzero(as_tuple=True)
    return Candidates(masks[row, query], row, column[row, query] + 1, best[row, query])


def refining_points(logits: Tensor, generator: torch.Generator, count: int = 3, official: bool = False) -> Prompts:
    """Clicks on an object, drawn without replacement by the teacher's probability inside its mask.

    Args:
        logits: (N, h, w).
        generator: on the CPU.
        count: K; a mask of fewer cells gets fewer clicks.
        official: as the released code: by the softmax of the whole map, which leaks outside of the mask.

    Returns:
        Prompts (N, 1) in cells of the grid (h, w); the centre of the first is (0.5, 0.5).
    """
    flat = logits.flatten(1).cpu()
    weight = flat.softmax(1) if official else flat.sigmoid() * (flat > 0)
    # Gumbel's trick: the largest keys are a draw without replacement.
    noise = -torch.empty_like(flat).exponential_(generator=generator).log()
    order = (weight.log() + noise).topk(min(count, flat.shape[1]), 1).indices
    is_click = weight.gather(1, order) > 0
    places = torch.stack([order % logits.shape[2], order // logits.shape[2]], -1) + 0.5
    labels = torch.where(is_click, POSITIVE, PADDING)
    return Prompts.of_points(places[:, None].to(logits.device), labels[:, None].to(logits.device))


@torch.no_grad()
def refine(
    teacher: Candidates,
    sam: Sam,
    embedding: Embedding,
    size: int,
    generator: torch.Generator,
    *,
    show: Literal["points", "all"] = "points",
    official: bool = False,
    accept: float = 0.0,
) -> Instances:
    """SAM's outlines for the teacher's objects; their classes stay.

    Args:
        teacher: its objects, in the images of ``embedding``.
        size: side of the canvas; masks come back at this size.
        show: SAM's prompt from the teacher's mask. ``points``: three clicks (the paper); of SAM's three answers the one with the
            highest predicted IoU is taken. ``all``: also its box and its logits (not in the paper), which make one answer of SAM
            enough: better where the teacher's masks are only rough, worse where they hold parts of several objects.
        official: see :func:`refining_points`.
        accept: SAM's mask is taken where its IoU with the teacher's is at least this, else the teacher's stays (not in the paper;
            0 = always).
    """
    original = teacher.instances(size)
    if not len(teacher):
        return original
    cells = refining_points(teacher.logits, generator, official=official)
    scale = sam.size / torch.tensor([teacher.logits.shape[2], teacher.logits.shape[1]], device=teacher.logits.device)
    prompts, previous = Prompts.of_points(cells.points * scale, cells.labels), None
    if show == "all":
        side = sam.size // 4
        previous = F.interpolate(teacher.logits[:, None], (side, side), mode="bilinear", align_corners=False)
        prompts = prompts.join(Prompts.of_boxes(boxes_of(teacher.logits > 0)[:, None] * scale.repeat(2)))
    refined = _ask(sam, embedding, teacher.rows, prompts, size, multimask=show == "points", previous=previous)
    agreement = pairwise_iou(original.masks, refined)
    # An empty answer is no outline.
    is_accepted = (agreement >= accept) & refined.flatten(1).any(1)
    return Instances(torch.where(is_accepted[:, None, None], refined, original.masks), teacher.rows, teacher.categories)


@torch.no_grad()
def prompted(batch: InstanceBatch, sam: Sam, embedding: Embedding, size: int) -> Instances:
    """SAM's masks for the boxes and clicks of a batch (not in the paper): masks of boxes are cut to their boxes.

    A click inside a box of its category counts as the same object and gets no mask of its own.
    """
    device, scale = batch.images.device, sam.size / size
    row, column = (batch.box_categories > 0).nonzero(as_tuple=True)
    boxes = batch.boxes[row, column]
    edges = torch.arange(size, device=device) + 0.5
    across = (edges >= boxes[:, :1]) & (edges < boxes[:, 2:3])
    down = (edges >= boxes[:, 1:2]) & (edges < boxes[:, 3:])
    frame = down[:, :, None] & across[:, None]
    masks = _ask(sam, embedding, row, Prompts.of_boxes(boxes[:, None] * scale), size, multimask=False) & frame
    boxed = Instances(masks, row, batch.box_categories[row, column])
    point_row, point = (batch.point_categories > 0).nonzero(as_tuple=True)
    places, categories = batch.points[point_row, point], batch.point_categories[point_row, point]
    is_in_box = (places[:, None] >= boxes[None, :, :2]).all(2) & (places[:, None] < boxes[None, :, 2:]).all(2)
    is_in_box &= (point_row[:, None] == row) & (categories[:, None] == boxed.categories)
    free = ~is_in_box.any(1)
    clicks = Prompts.of_points(
        places[free][:, None, None] * scale, torch.ones(int(free.sum()), 1, 1, dtype=torch.long, device=device)
    )
    clicked = Instances(_ask(sam, embedding, point_row[free], clicks, size), point_row[free], categories[free])
    both = Instances.cat([boxed, clicked])
    return both[both.masks.flatten(1).any(1)]


def without_duplicates(instances: Instances, scores: Tensor, iou: float) -> Instances:
    """Of objects of one image and category that overlap by more than ``iou``, only the one with the highest score (not in the paper)."""
    overlap = _overlaps(instances, instances) > iou
    overlap &= instances.categories[:, None] == instances.categories
    place = torch.arange(len(instances), device=scores.device)
    better = (scores[:, None] < scores) | ((scores[:, None] == scores) & (place[:, None] > place))
    return instances[~(overlap & better).any(1)]


def preferring(first: Instances, second: Instances, iou: float = 0.5) -> Instances:
    """All of ``first``, and those of ``second`` that overlap none of them by more than ``iou``."""
    return Instances.cat([first, second[~(_overlaps(second, first) > iou).any(1)]])


def _ask(
    sam: Sam,
    embedding: Embedding,
    rows: Tensor,
    prompts: Prompts,
    size: int,
    multimask: bool = True,
    previous: Tensor | None = None,
) -> Tensor:
    """SAM's best masks (N, size, size) bool for prompts (N, 1), and earlier logits (N, 1, h, w), on images ``rows`` (N,)."""
    parts = [torch.zeros(0, size, size, dtype=torch.bool, device=rows.device)]
    for chunk in torch.arange(len(rows), device=rows.device).split(_CHUNK):
        before = None if previous is None else previous[chunk]
        answer = sam.decode(embedding[rows[chunk]], prompts.rows(chunk), before, multimask=multimask)
        parts.append(on_canvas(answer.best[:, 0], size))
    return torch.cat(parts)


def pairwise_iou(first: Tensor, second: Tensor) -> Tensor:
    """(N,) IoU of masks (N, H, W) one by one; 0 where both are empty."""
    union = (first | second).flatten(1).sum(1)
    return (first & second).flatten(1).sum(1) / union.clamp(min=1)


def _overlaps(first: Instances, second: Instances) -> Tensor:
    """(N, M) IoU of all pairs, 0 between different images."""
    a, b = first.masks.flatten(1).float(), second.masks.flatten(1).float()
    common = a @ b.T
    union = a.sum(1)[:, None] + b.sum(1) - common
    return common / union.clamp(min=1) * (first.rows[:, None] == second.rows)
