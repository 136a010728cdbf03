"""Mask2Former's set loss (Cheng et al., CVPR 2022), batched over images and decoder layers.

Every query is matched to at most one object (Hungarian), and learns its class and its mask at sampled points. Equal to the criterion
of ``transformers`` but for an error of that under several processes: it divides its normaliser by their number twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from maskwright.data.instances import Instances


@dataclass(frozen=True)
class SetLoss:
    """Weights and sampling; the same numbers weigh the costs of the matching.

    Attributes:
        class_weight, mask_weight, dice_weight: of cross entropy, binary cross entropy at points, and Dice at points.
        no_object: weight of "no object" in the cross entropy.
        points: sampled for each mask, at most; never more than there are cells in the mask logits.
        oversample: points are chosen among this many times as many ...
        important: ... and this share of them where the prediction is least sure; the rest is uniform.
    """

    class_weight: float = 2.0
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    no_object: float = 0.1
    points: int = 12544
    oversample: float = 3.0
    important: float = 0.75

    def __call__(
        self,
        classes: Tensor,
        masks: Tensor,
        truth: Instances,
        generator: torch.Generator,
        mean: Callable[[Tensor], Tensor] = lambda value: value,
    ) -> dict[str, Tensor]:
        """The weighted parts of the loss; their sum is the loss.

        Args:
            classes: (L, B, Q, C) logits of L decoder layers, "no object" last.
            masks: (L, B, Q, h, w) logits.
            truth: the objects of the B images, at any resolution over the same canvas. There may be none, or more than queries.
            generator: on the CPU.
            mean: the mean of a tensor over all processes. Losses are divided by means over processes, so that the mean of all
                processes' gradients is that of one process with all images.

        Returns:
            ``class``, ``mask``, ``dice`` of the last layer, and ``auxiliary``: all that of the earlier ones, together.
        """
        layer, row, query, target = self.match(classes, masks, truth, generator)
        count = mean(torch.tensor(float(len(truth)), device=masks.device)).clamp(min=1)
        target_classes = torch.full(classes.shape[:3], classes.shape[-1] - 1, device=classes.device)
        target_classes[layer, row, query] = truth.categories[target] - 1
        class_loss = self._class_loss(classes.float(), target_classes, mean)
        matched = masks[layer, row, query].float()
        points = self._sample(matched.detach(), generator)
        logits = _at(matched[:, None], points)[:, 0]
        labels = _mask_at(truth.masks, target, points)
        cross = F.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(1)
        probability = logits.sigmoid()
        dice = 1 - (2 * (probability * labels).sum(1) + 1) / (probability.sum(1) + labels.sum(1) + 1)
        zeros = torch.zeros(len(classes), device=classes.device)
        parts = {
            "class": self.class_weight * class_loss,
            "mask": self.mask_weight * zeros.index_add(0, layer, cross) / count,
            "dice": self.dice_weight * zeros.index_add(0, layer, dice) / count,
        }
        # A batch without objects must still reach the parameters that make masks, or processes disagree on which have gradients.
        zero = 0 * masks.sum()
        return {name: values[-1] for name, values in parts.items()} | {
            "auxiliary": torch.stack([values[:-1].sum() for values in parts.values()]).sum() + zero
        }

    @torch.no_grad()
    def match(
        self, classes: Tensor, masks: Tensor, truth: Instances, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The best one-to-one assignment: layer, row, query and index into ``truth`` of every pair, (M,) each.

        Of more objects than queries, the cheapest ones are matched.
        """
        layers, batch, queries = classes.shape[:3]
        device, points = masks.device, self._uniform(batch, masks.shape[-2:], generator).to(masks.device)
        counts = torch.bincount(truth.rows, minlength=batch)
        most = int(counts.max()) if len(truth) else 0
        if not most:
            empty = torch.zeros(0, dtype=torch.long, device=device)
            return empty, empty, empty, empty
        starts = counts.cumsum(0) - counts
        column = torch.arange(len(truth), device=device) - starts[truth.rows]
        labels = torch.zeros(batch, most, points.shape[1], device=device)
        labels[truth.rows, column] = _mask_at(truth.masks, torch.arange(len(truth), device=device), points[truth.rows])
        categories = torch.zeros(batch, most, dtype=torch.long, device=device)
        categories[truth.rows, column] = truth.categories - 1
        logits = _at(masks.float().transpose(0, 1).flatten(1, 2), points)  # (B, L·Q, P)
        # Pairwise binary cross entropy: softplus(x) - x for a label of 1, softplus(x) for 0.
        cross = (F.softplus(logits).sum(-1, keepdim=True) - logits @ labels.transpose(1, 2)) / points.shape[1]
        probability = logits.sigmoid()
        overlap = 2 * probability @ labels.transpose(1, 2) + 1
        dice = 1 - overlap / (probability.sum(-1, keepdim=True) + labels.sum(-1)[:, None] + 1)
        certainty = classes.float().softmax(-1).transpose(0, 1).flatten(1, 2)
        class_probability = certainty.gather(2, categories[:, None].expand(-1, layers * queries, -1))
        cost = self.mask_weight * cross + self.dice_weight * dice - self.class_weight * class_probability
        cost = cost.unflatten(1, (layers, queries)).nan_to_num(nan=1e6, posinf=1e6, neginf=-1e6).cpu().numpy()
        pairs = []
        for row, number in enumerate(counts.tolist()):
            for layer in range(layers if number else 0):
                assignment = linear_sum_assignment(cost[row, layer, :, :number])
                query, place = (torch.from_numpy(part).long() for part in assignment)
                pairs.append(torch.stack([query * 0 + layer, query * 0 + row, query, place + int(starts[row])]))
        layer, row, query, target = torch.cat(pairs, 1).to(device)
        return layer, row, query, target

    def _class_loss(self, classes: Tensor, target_classes: Tensor, mean: Callable[[Tensor], Tensor]) -> Tensor:
        """(L,) weighted cross entropy."""
        weight = torch.ones(classes.shape[-1], device=classes.device)
        weight[-1] = self.no_object
        each = F.cross_entropy(classes.flatten(0, 2), target_classes.flatten(), weight, reduction="none")
        total = mean(weight[target_classes].sum((1, 2)))
        return each.view(target_classes.shape).sum((1, 2)) / total

    def _uniform(self, rows: int, grid: torch.Size, generator: torch.Generator, times: float = 1.0) -> Tensor:
        """(rows, P, 2) places x, y in 0..1."""
        count = int(min(self.points, grid[0] * grid[1]) * times)
        return torch.rand(rows, count, 2, generator=generator)

    @torch.no_grad()
    def _sample(self, masks: Tensor, generator: torch.Generator) -> Tensor:
        """Places (M, P, 2) for masks (M, h, w): most of them where the prediction is least sure (PointRend)."""
        device = masks.device
        many = self._uniform(len(masks), masks.shape[-2:], generator, self.oversample).to(device)
        few = self._uniform(len(masks), masks.shape[-2:], generator).to(device)
        sure = int(self.important * few.shape[1])
        doubt = -_at(masks[:, None], many)[:, 0].abs()
        hardest = doubt.topk(sure, 1).indices if len(masks) else doubt[:, :sure].long()
        return torch.cat([many.gather(1, hardest[..., None].expand(-1, -1, 2)), few[:, sure:]], 1)


def _at(maps: Tensor, points: Tensor) -> Tensor:
    """Maps (B, C, h, w) at places (B, P, 2) in 0..1, bilinear: (B, C, P)."""
    if not len(maps):
        return maps.new_zeros(0, maps.shape[1], points.shape[1])
    return F.grid_sample(maps, 2 * points[:, :, None] - 1, mode="bilinear", align_corners=False).squeeze(3)


def _mask_at(masks: Tensor, index: Tensor, points: Tensor) -> Tensor:
    """Of masks (N, H, W), those at ``index`` (M,), at places (M, P, 2) in 0..1: (M, P) 0 or 1, of the pixel hit."""
    height, width = masks.shape[-2:]
    x = (points[..., 0] * width).long().clamp(max=width - 1)
    y = (points[..., 1] * height).long().clamp(max=height - 1)
    return masks[index[:, None], y, x].float()
