"""Rows: weak labels become prompts, answers become masks, masks of several categories become one map.

A "row" is one category in one image. SAM makes one mask for each row, and the rows of an image are merged by argmax against
background. ``weak_prompts`` makes the prompts, ``Answerer`` has SAM answer them, ``row_logits`` and ``merge_rows`` make the masks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from maskwright.data.batch import Batch
from maskwright.data.labels import IGNORE, Kind
from maskwright.data.shapes import touched_cells
from maskwright.sam.closer_look import ellipse_logits
from maskwright.sam.prompts import PADDING, Prompts
from maskwright.sam.sam import Masks

EMPTY = -10.0
"""Logit of a pixel that is certainly not on the object."""

SHOWN_FROM = 0.5
"""Maturity of the teacher above which SAM is shown its prediction; see ``with_teacher``."""


@dataclass(frozen=True)
class Rows:
    """N rows, each one category in one image; all attributes are (N,) int64.

    Attributes:
        image: position of the image in the batch.
        category: its id.
        kind: the ``Kind`` of the image's label.
        sample: position of the image in the dataset, -1 where it is in none.
    """

    image: Tensor
    category: Tensor
    kind: Tensor
    sample: Tensor

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, index: Tensor) -> Rows:
        """Some of the rows."""
        return Rows(self.image[index], self.category[index], self.kind[index], self.sample[index])


def rows_of(categories: Tensor, kinds: Tensor, samples: Tensor) -> Rows:
    """The rows of B images.

    Args:
        categories: (B, C), above 0 where an image has a row for that category; the background never has one.
        kinds, samples: (B,), see ``Rows``.
    """
    image, category = (categories[:, 1:] > 0).nonzero(as_tuple=True)
    return Rows(image, category + 1, kinds[image], samples[image])


def truth_of(target: Tensor, rows: Rows, grid: int) -> tuple[Tensor, Tensor]:
    """The true mask of each row on a coarser grid.

    Args:
        target: (B, S, S) category ids, 255 where unknown.
        rows: N rows.
        grid: side of the grid.

    Returns:
        (N, grid, grid) share of a cell's labelled pixels that show the row's category, and (N, grid, grid) share of its pixels that
        are labelled; both in 0..1.
    """
    target = target[rows.image]
    maps = torch.stack([target == rows.category[:, None, None], target != IGNORE], 1).float()
    if grid != target.shape[-1]:
        maps = F.interpolate(maps, (grid, grid), mode="area")
    area, counted = maps.unbind(1)
    return area / counted.clamp(min=1e-6), counted


def teacher_logits(teacher: Tensor, rows: Rows) -> Tensor:
    """The teacher's prediction of each row's category: (B, C, h, w) probabilities → (N, h, w) logits."""
    return torch.logit(teacher[rows.image, rows.category].clamp(1e-4, 1 - 1e-4))


def is_unlocated(kinds: Tensor) -> Tensor:
    """Whether labels of these ``Kind``s leave open where an object is (tags, no label at all), so that they give SAM no prompt."""
    return kinds <= int(Kind.TAG)


@dataclass(frozen=True)
class RowPrompts:
    """Prompts of N rows with K objects each.

    Attributes:
        tokens: (N, K) clicks and corners of boxes, as SAM takes them.
        valid: (N, K) bool, the objects that exist; a row without prompts has one object without a prompt.
        boxes: (N, K, 4), zero where the object came without a box.
        cut: (N, K, 2) bool, the boxes of objects that a crop cut along x, and along y.
        prompted: (N,) bool, the row has any click or box.
        hint: (N, K, g, g) logits of a rough mask, SAM's mask prompt; hinted: (N, K) bool, which objects have one. Of a box it is the
            inscribed ellipse: the most likely shape before SAM has seen the image.
    """

    tokens: Prompts
    valid: Tensor
    boxes: Tensor
    cut: Tensor
    prompted: Tensor
    hint: Tensor
    hinted: Tensor

    @property
    def boxed(self) -> Tensor:
        """(N, K) bool: the objects that came with a box."""
        return self.boxes[..., 2] > self.boxes[..., 0]

    def rows(self, index: Tensor) -> RowPrompts:
        """Some of the rows."""
        return RowPrompts(
            self.tokens.rows(index),
            self.valid[index],
            self.boxes[index],
            self.cut[index],
            self.prompted[index],
            self.hint[index],
            self.hinted[index],
        )

    def with_hint(self, hint: Tensor, rows: Tensor) -> RowPrompts:
        """A copy with a rough mask (N, g, g) for the first object of ``rows`` (N,) bool; it does not count as a prompt."""
        hints, hinted = self.hint.clone(), self.hinted.clone()
        hints[:, 0] = torch.where(rows[:, None, None], hint, hints[:, 0])
        hinted[:, 0] |= rows
        return replace(self, hint=hints, hinted=hinted)


def weak_prompts(
    batch: Batch, rows: Rows, size: int, *, boxes: Tensor, points: Tensor, most: int = 12, clicks: int = 10
) -> RowPrompts:
    """The weak labels of each row's category as prompts: every box is an object of its own; else all clicks are one object's.

    Args:
        batch: labels on the canvas that SAM encoded.
        rows: which category of which image.
        size: side of that canvas.
        boxes, points: (N,) bool, whether the row may use that kind of label. Boxes go before points.
        most: objects per row at most. clicks: clicks per row at most, the positive ones first.
    """
    count = len(rows)
    if batch.box_categories.shape[1]:
        match = (batch.box_categories[rows.image] == rows.category[:, None]) & boxes[:, None]
        order = match.long().argsort(dim=1, descending=True, stable=True)[:, :most]
        valid = match.gather(1, order)
        row_boxes = batch.boxes[rows.image].gather(1, order[..., None].expand(-1, -1, 4))
        row_cut = batch.box_cut[rows.image].gather(1, order[..., None].expand(-1, -1, 2))
        objects = max(1, int(valid.sum(1).max()))
        row_cut = row_cut[:, :objects] & valid[:, :objects, None]
        valid, row_boxes = valid[:, :objects], row_boxes[:, :objects] * valid[:, :objects, None]
    else:
        valid = torch.zeros(count, 1, dtype=torch.bool, device=rows.image.device)
        row_boxes = torch.zeros(count, 1, 4, device=rows.image.device)
        row_cut = torch.zeros(count, 1, 2, dtype=torch.bool, device=rows.image.device)
    has_box = valid.any(1)
    tokens = Prompts.of_boxes(row_boxes, valid)
    prompted = has_box.clone()
    if batch.point_categories.shape[1]:
        category = batch.point_categories[rows.image]
        usable = (category >= 0) & (points & ~has_box)[:, None]
        positive = usable & (category == rows.category[:, None])
        usable = usable & positive.any(1, keepdim=True)
        order = (positive.long() * 2 + usable.long()).argsort(dim=1, descending=True, stable=True)[:, :clicks]
        labels = torch.where(usable, positive.long(), PADDING).gather(1, order)
        at = batch.points[rows.image].gather(1, order[..., None].expand(-1, -1, 2))
        empty = torch.full((count, valid.shape[1] - 1, labels.shape[1]), PADDING, device=labels.device)
        tokens = tokens.join(
            Prompts(at[:, None].expand(-1, valid.shape[1], -1, -1), torch.cat([labels[:, None], empty], 1))
        )
        prompted = prompted | positive.any(1)
    valid = valid.clone()
    valid[:, 0] |= ~has_box
    hint = ellipse_logits(row_boxes, size)
    return RowPrompts(tokens, valid, row_boxes, row_cut, prompted, hint, row_boxes[..., 2] > row_boxes[..., 0])


def with_teacher(prompts: RowPrompts, rows: Rows, teacher: Tensor, maturity: float) -> RowPrompts:
    """The prompts, with the teacher's prediction as the mask prompt of weakly labelled rows that have none, once it is mature.

    A row with clicks is answered better without that prediction: where the teacher misses the object, it misleads SAM.

    Args:
        prompts, rows: of N rows.
        teacher: (B, C, S/4, S/4) probabilities of the mean teacher.
        maturity: 0..1, how far its prediction is blended into pseudo-masks; above ``SHOWN_FROM`` it is a prompt, too.
    """
    if maturity <= SHOWN_FROM:
        return prompts
    return prompts.with_hint(teacher_logits(teacher, rows), (rows.kind != Kind.MASK) & ~prompts.prompted)


def row_logits(masks: Masks, prompts: RowPrompts, size: int) -> tuple[Tensor, Tensor]:
    """One logit map per row: nothing outside an object's box, then the union (maximum) over the row's objects.

    Args:
        masks: of N rows and K objects.
        prompts: the prompts that the masks are answers to.
        size: side of the canvas that the boxes lie on.

    Returns:
        (N, h, w) logits and (N,) mean predicted IoU.
    """
    logits = masks.best
    inside = touched_cells(prompts.boxes, logits.shape[-1], size)
    logits = torch.where(prompts.boxed[..., None, None] & ~inside, logits.clamp(max=EMPTY), logits)
    union = logits.masked_fill(~prompts.valid[..., None, None], EMPTY).amax(1)
    score = (masks.best_iou * prompts.valid).sum(1) / prompts.valid.sum(1)
    return union, score


def merge_rows(logits: Tensor, rows: Rows, batch: int, categories: int) -> Tensor:
    """Rows (N, h, w) → (B, C, h, w): background at 0, a category that has no row in an image at ``EMPTY``."""
    maps = logits.new_full((batch, categories, *logits.shape[-2:]), EMPTY)
    maps[:, 0] = 0.0
    maps[rows.image, rows.category] = logits
    return maps


def resize(maps: Tensor, size: int) -> Tensor:
    """(B, C, h, w) → (B, C, size, size), bilinear."""
    return F.interpolate(maps, (size, size), mode="bilinear", align_corners=False)
