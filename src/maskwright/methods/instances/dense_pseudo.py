"""Pseudo-labels of a dense teacher: the objects that it is sure of, SAM's outlines for them, and where nothing is to be learnt."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from maskwright.data.instances import MIN_PIXELS, Instances, boxes_of
from maskwright.methods.instances.dense_loss import Targets, targets
from maskwright.methods.instances.grouping import group
from maskwright.methods.instances.paste import front
from maskwright.methods.instances.pseudo_labels import pairwise_iou
from maskwright.nets.dense_grid import STRIDE
from maskwright.nets.dense_instances import Maps
from maskwright.sam.closer_look import look_closer
from maskwright.sam.sam import Sam

UNSURE = 0.3, 0.7
"""Probabilities between which it is open whether a pixel lies on an object."""

REACH = 0.1
"""How far an outline of SAM may reach beyond the box of the teacher's, in longer sides of the box."""


@dataclass(frozen=True)
class PseudoLabels:
    """What a student learns from B images without labels.

    Attributes:
        objects: N of them, on the canvas.
        scores: (N,) of the teacher, 0..1.
        doubtful: (B, S, S) bool, where nothing is learnt: objects that the teacher is not sure of, and open outlines.
    """

    objects: Instances
    scores: Tensor
    doubtful: Tensor

    def __len__(self) -> int:
        return len(self.objects)


@torch.no_grad()
def sure_objects(maps: Maps, size: int, certain: float) -> PseudoLabels:
    """The objects of a teacher's maps on a canvas of side ``size`` with a score above ``certain``; where the others lie is doubtful."""
    logits = torch.cat([maps.foreground, maps.distance[:, None]], 1).float()
    on_canvas = F.interpolate(logits, (size, size), mode="bilinear", align_corners=False).sigmoid()
    probability = on_canvas[:, :-1].amax(1)
    doubtful = (probability > UNSURE[0]) & (probability < UNSURE[1])
    masks, rows, categories, scores = [], [], [], []
    for row, view in enumerate(on_canvas.cpu().numpy()):
        found = group(view[:-1], view[-1], smallest=MIN_PIXELS, cell=STRIDE)
        sure = np.flatnonzero(found.scores > certain)
        ids = torch.from_numpy(found.ids).to(logits.device)
        is_sure = torch.zeros(len(found.scores) + 1, dtype=torch.bool, device=logits.device)
        is_sure[torch.from_numpy(sure + 1).to(logits.device)] = True
        doubtful[row] |= (ids > 0) & ~is_sure[ids.long()]
        masks.append(ids == torch.from_numpy(sure + 1).to(ids)[:, None, None])
        rows.append(torch.full((len(sure),), row))
        categories.append(torch.from_numpy(found.categories[sure]))
        scores.append(torch.from_numpy(found.scores[sure]))
    device = logits.device
    objects = Instances(torch.cat(masks), torch.cat(rows).to(device), torch.cat(categories).to(device))
    return PseudoLabels(objects, torch.cat(scores).float().to(device), doubtful)


@torch.no_grad()
def refined(
    labels: PseudoLabels,
    sam: Sam,
    images: Tensor,
    generator: torch.Generator,
    *,
    most: int,
    accept: float,
) -> PseudoLabels:
    """SAM's outlines for some of the teacher's objects, shown their boxes and masks on crops about each.

    Where SAM and teacher agree, SAM's outline is taken. Where they do not, the teacher's stays, and what lies between the two is doubtful.

    Args:
        sam: frozen.
        images: (B, 3, S, S) in 0..1.
        generator: on the CPU; draws the objects where there are more than ``most``.
        most: objects that SAM is asked for: each takes a pass of its encoder.
        accept: IoU from which the two agree.
    """
    objects = labels.objects
    if not len(objects) or most < 1:
        return labels
    size = objects.masks.shape[-1]
    chosen = torch.randperm(len(objects), generator=generator)[:most].sort().values.to(objects.rows.device)
    some = objects[chosen]
    # As SAM's own logits would show the masks: well below 0 outside, well above inside.
    hints = 16 * some.masks.float() - 8
    looks = look_closer(sam, images, some.rows, boxes_of(some.masks), previous=hints, margin=REACH)
    masks = looks.on_image((size, size)) > 0
    agreed = (pairwise_iou(some.masks, masks) >= accept) & masks.flatten(1).any(1)
    drawn = torch.where(agreed[:, None, None], masks, some.masks)
    between = (masks ^ some.masks) & ~agreed[:, None, None]
    doubtful = labels.doubtful.int().index_add(0, some.rows, between.int()) > 0
    all_masks = objects.masks.clone()
    all_masks[chosen] = drawn
    return replace(labels, objects=replace(objects, masks=all_masks), doubtful=doubtful)


def targets_of(objects: Instances, known: Tensor, count: int) -> Targets:
    """The maps of objects in a list; where they overlap, later ones lie in front.

    Args:
        known: (B, S, S) bool; False where nothing is to be learnt.
        count: of categories, background included.
    """
    batch = len(known)
    categories = objects.categories[None].expand(batch, -1)
    return targets(front(objects, batch).long(), categories, known, count)
