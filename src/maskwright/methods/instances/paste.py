"""ARP, augmentation with refined pseudo-labels (S⁴M, section 3.4): objects of two unlabelled images are pasted onto each other."""

from __future__ import annotations

import torch
from torch import Tensor

from maskwright.data.geometry import warp_maps
from maskwright.data.instances import Instances, boxes_of

MIN_SHARE = 3000 / (512 * 1024)
"""Objects below this share of the image are not pasted: 3000 pixels of the paper's 512 x 1024."""

OFFICIAL_AREA = 3000
"""Pixels of the smallest object that the released code pastes, whatever the image's size."""


def paste(
    images: Tensor,
    instances: Instances,
    generator: torch.Generator,
    *,
    min_area: float | None = None,
    dynamic: bool = True,
    scale: tuple[float, float] = (0.8, 1.2),
) -> tuple[Tensor, Instances]:
    """Paste both ways between max(1, B/4) random pairs of images; with a single image nothing happens.

    Both directions are cut out before either is pasted. In an image that receives, later objects lie in front of earlier ones and
    pasted ones in front of all: every mask keeps the pixels that can still be seen of it, and one without any is dropped with its
    label.

    Args:
        images: (B, 3, S, S).
        instances: pseudo-labels of these images.
        generator: on the CPU.
        min_area: pixels below which an object is not pasted; left out, ``MIN_SHARE`` of the image.
        dynamic: scale each object and put it anywhere; else it stays where it is.
        scale: range of the scale, uniform.

    Returns:
        The images and their labels; images without a partner are as they were.
    """
    return paste_covering(images, instances, generator, min_area=min_area, dynamic=dynamic, scale=scale)[:2]


def paste_covering(
    images: Tensor,
    instances: Instances,
    generator: torch.Generator,
    *,
    min_area: float | None = None,
    dynamic: bool = True,
    scale: tuple[float, float] = (0.8, 1.2),
) -> tuple[Tensor, Instances, Tensor]:
    """As :func:`paste`, and where something was pasted, (B, S, S) bool."""
    nothing = torch.zeros_like(images[:, 0], dtype=torch.bool)
    batch, size = len(images), images.shape[-1]
    order = torch.randperm(batch, generator=generator)
    pairs = min(max(1, batch // 4), batch // 2)
    if not pairs or not len(instances):
        return images, instances, nothing
    device = images.device
    partner = torch.full((batch,), -1)
    first, second = order[:pairs], order[pairs : 2 * pairs]
    partner[first], partner[second] = second, first
    partner = partner.to(device)
    enough = MIN_SHARE * size * size if min_area is None else min_area
    donors = instances[(partner[instances.rows] >= 0) & (instances.masks.flatten(1).sum(1) >= enough)]
    pasted = Instances(donors.masks, partner[donors.rows], donors.categories)
    if not len(donors):
        return images, instances, nothing
    pixels = images[donors.rows]
    if dynamic:
        matrices = _places(donors.masks, scale, generator)
        moved = warp_maps(donors.masks[:, None], matrices, size, mode="nearest")[:, 0]
        pixels = warp_maps(pixels, matrices, size, mode="nearest")
        pasted = Instances(moved, pasted.rows, pasted.categories)

    receives = torch.zeros(batch, dtype=torch.bool, device=device)
    receives[pasted.rows] = True
    is_behind = receives[instances.rows]
    stacked = Instances.cat([instances[is_behind], pasted])
    # Instances.cat keeps an image's own objects before those that are pasted, which is the order from back to front.
    in_front = front(stacked, batch)
    visible_masks = in_front[stacked.rows] == (torch.arange(len(stacked), device=device) + 1)[:, None, None]
    visible = Instances(visible_masks, stacked.rows, stacked.categories)[visible_masks.flatten(1).any(1)]

    over = front(pasted, batch)
    y, x = torch.meshgrid(torch.arange(size, device=device), torch.arange(size, device=device), indexing="ij")
    pasted_pixels = pixels[(over - 1).clamp(min=0), :, y, x].permute(0, 3, 1, 2)
    labels = Instances.cat([instances[~is_behind], visible])
    return torch.where(over[:, None] > 0, pasted_pixels, images), labels, over > 0


def front(instances: Instances, batch: int) -> Tensor:
    """(B, S, S): the number, from 1, of the last object that covers each pixel; 0 where none does."""
    numbered = instances.masks * torch.arange(1, len(instances) + 1, device=instances.rows.device)[:, None, None]
    empty = torch.zeros(batch, *instances.masks.shape[1:], dtype=numbered.dtype, device=numbered.device)
    return empty.scatter_reduce(0, instances.rows[:, None, None].expand_as(numbered), numbered, "amax")


def _places(masks: Tensor, scale: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Affines (N, 2, 3) that scale each object and put its box anywhere on the canvas; inside it, where it fits."""
    size = masks.shape[-1]
    draw = torch.rand(len(masks), 3, generator=generator).to(masks.device)
    factor = scale[0] + draw[:, :1] * (scale[1] - scale[0])
    boxes = boxes_of(masks)
    low, extent = boxes[:, :2], (boxes[:, 2:] - boxes[:, :2]) * factor
    offset = draw[:, 1:] * (size - extent) - low * factor
    linear = torch.eye(2, device=masks.device) * factor[:, :, None]
    return torch.cat([linear, offset[:, :, None]], 2)
