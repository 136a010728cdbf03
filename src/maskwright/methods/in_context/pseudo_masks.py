"""Pseudo-masks: SAM's newest answer for each weakly labelled image, and what it becomes when the segmenter learns from it.

When it is used, the answer is moved into the batch's view and blended with the present prediction of the mean teacher, from which what
the labels rule out is removed. SAM and the segmenter err differently.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from maskwright.data.batch import Batch
from maskwright.data.geometry import compose, invert, resize_matrix, warp_maps
from maskwright.data.labels import Kind
from maskwright.data.shapes import ellipse_radius, touched_cells
from maskwright.engine.metrics import soft_dice
from maskwright.methods.in_context.rows import is_unlocated

FLOOR = 1e-3
"""Lowest probability of a category when two sources are blended, so that neither can rule out a category alone."""

BOX_SHARE, POINT_SHARE = 0.3, 0.6
"""Factors on ``blend`` where SAM was prompted with boxes, and with clicks or scribbles; without a prompt the factor is 1."""


@dataclass
class PseudoMask:
    """The pseudo-mask of one image: SAM's newest answer.

    Attributes:
        maps: (C, S/4, S/4) float16 probabilities on the plain canvas.
        confidence: how far to trust it, in 0..1.
        references: positions in the dataset of the images that SAM was conditioned on.
    """

    maps: Tensor
    confidence: float
    references: list[int] = field(default_factory=list)


class PseudoMasks:
    """The pseudo-masks of a training set.

    Args:
        categories: C, background included.
        size: S, side of the canvas.
        blend: share of the teacher's prediction in the pseudo-masks of images without a prompt, once it is mature; less of it elsewhere.

    Attributes:
        newest: SAM's newest answers, by position in the dataset.
    """

    def __init__(self, categories: int, size: int, blend: float) -> None:
        self.categories, self.size, self.blend = categories, size, blend
        self.newest: dict[int, PseudoMask] = {}

    def in_view(self, batch: Batch, teacher: Tensor | None = None, maturity: float = 0.0) -> tuple[Tensor, Tensor]:
        """The pseudo-masks of a batch's images in its view: SAM's newest answers, blended with the teacher's present prediction.

        Args:
            batch: in any augmentation.
            teacher: (B, C, S/4, S/4) its probabilities for the batch's images, None before its first update.
            maturity: 0..1, how far the teacher's prediction is blended in.

        Returns:
            (B, C, S/4, S/4) probabilities, and (B,) confidence in 0..1; 0 where SAM has no answer yet.
        """
        device, side = batch.images.device, self.size // 4
        maps = torch.zeros(len(batch), self.categories, side, side, device=device)
        confidence = torch.zeros(len(batch), device=device)
        for row, sample in enumerate(batch.indices.tolist()):
            if sample in self.newest:
                maps[row] = self.newest[sample].maps.to(device).float()
                confidence[row] = self.newest[sample].confidence
        plain = torch.stack([torch.from_numpy(resize_matrix(tuple(s), self.size)) for s in batch.sizes.tolist()])
        # In double precision, which not every device has.
        moves = compose(batch.matrices.cpu().double(), invert(plain))
        # Between canvases a quarter as large only the translation changes.
        moves = torch.cat([moves[..., :2], moves[..., 2:] / 4], -1).float().to(device)
        foreground = warp_maps(maps[:, 1:], moves, side)
        maps = torch.cat([1 - foreground.sum(1, keepdim=True), foreground], 1)
        return self.blended(batch, maps, confidence, teacher, maturity)

    def blended(
        self, batch: Batch, probabilities: Tensor, confidence: Tensor, teacher: Tensor | None, maturity: float
    ) -> tuple[Tensor, Tensor]:
        """SAM's answers in the batch's view, blended with the teacher's prediction, from which what the labels rule out is removed.

        Where the label gives SAM no prompt, its confidence is multiplied by the agreement of the two and by ``maturity``; without a
        teacher it is 0.

        Args:
            probabilities, confidence: SAM's answers in the batch's view, (B, C, S/4, S/4), and (B,) in 0..1.
            batch, teacher, maturity: as in ``in_view``; the result, too.
        """
        unlocated = is_unlocated(batch.kinds)
        if teacher is None:
            return probabilities, torch.where(unlocated, 0.0, confidence)
        supported = maturity * agreement(probabilities, teacher)
        boxed = batch.kinds == Kind.BOX
        share = self.blend * maturity * torch.where(unlocated, 1.0, torch.where(boxed, BOX_SHARE, POINT_SHARE))
        teacher = constrain(teacher, batch, self.size)
        # A mean of logarithms: the surer of the two counts more.
        log_mean = torch.lerp(
            probabilities.clamp(min=FLOOR).log(), teacher.clamp(min=FLOOR).log(), share[:, None, None, None]
        )
        return log_mean.softmax(1), torch.where(unlocated, confidence * supported, confidence)

    def state(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """Tensors (group ``masks``) and JSON, for a checkpoint."""
        order = sorted(self.newest)
        tensors = {"masks": {"maps": torch.stack([self.newest[i].maps for i in order])}} if order else {}
        return tensors, {
            "index": order,
            "confidence": [self.newest[i].confidence for i in order],
            "references": [self.newest[i].references for i in order],
        }

    def load_state(self, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> None:
        """The counterpart of ``state``."""
        self.newest = {
            index: PseudoMask(tensors["masks"]["maps"][i].clone(), state["confidence"][i], state["references"][i])
            for i, index in enumerate(state["index"])
        }


def constrain(probabilities: Tensor, batch: Batch, size: int) -> Tensor:
    """Set to 0 what the labels rule out in (B, C, h, w) probabilities: a category outside its boxes, and one that the tags do not name.

    Args:
        probabilities: background first; it takes over what is set to 0.
        batch: the labels of the B images.
        size: side of the canvas that the boxes lie on.
    """
    grid, categories = probabilities.shape[-1], probabilities.shape[1]
    possible = (batch.present != 0)[:, :, None, None].expand(-1, -1, grid, grid).clone()
    if batch.box_categories.shape[1]:
        filled = touched_cells(batch.boxes, grid, size)
        for category in range(1, categories):
            is_category = batch.box_categories == category
            inside = (filled & is_category[..., None, None]).any(1)
            possible[:, category] &= inside | ~is_category.any(1)[:, None, None]
    foreground = probabilities[:, 1:] * possible[:, 1:]
    return torch.cat([1 - foreground.sum(1, keepdim=True), foreground], 1)


def agreement(a: Tensor, b: Tensor) -> Tensor:
    """Soft Dice of foregrounds: probabilities (B, C, h, w) of two sources → (B,) in 0..1, over all categories but background."""
    return soft_dice(a[:, 1:].flatten(1, 2), b[:, 1:].flatten(1, 2))


def ellipse_masks(batch: Batch, categories: int, size: int) -> tuple[Tensor, Tensor]:
    """The trivial pseudo-mask of boxes, the ellipse inscribed in each.

    Returns:
        (B, C, g, g) in 0/1 with g = size / 4, and (B,) bool, whether an image has any box.
    """
    inside = ellipse_radius(batch.boxes, size // 4, size // 4, 4) <= 1
    category = torch.arange(categories, device=inside.device)
    is_category = batch.box_categories[..., None] == category
    masks = (inside[:, :, None] & is_category[..., None, None]).any(1).float()
    masks[:, 0] = 1 - masks[:, 1:].amax(1)
    return masks, (batch.box_categories > 0).any(1)
