"""What ``pretrain_nano.py`` asks for in a picture: objects, pieces of them, several as one; and the prompts that name them."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from maskwright.data.shapes import tight_boxes
from nano_views import areas, happens, uniform

SMALLEST = 14
"""Pixels of a target."""


def choose_objects(ids: Tensor, objects: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pick objects, larger ones a little likelier: ids (B,S,S) → targets (B,K,S,S) bool, valid (B,K) bool."""
    size = ids.shape[-1]
    area = areas(ids)
    fit = (area >= SMALLEST) & (area <= 0.95 * size * size)
    some = fit.any(1)
    weight = torch.where(fit, area.pow(0.3), 0.0)
    weight[~some] = 1.0
    chosen = torch.multinomial(weight, objects, replacement=True, generator=generator)
    return ids[:, None] == chosen[:, :, None, None], some[:, None].expand(-1, objects)


def join_touching(ids: Tensor, targets: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Take a share of the targets (B,K,S,S) together with the object that each touches most."""
    batch, objects = targets.shape[:2]
    ring = (F.max_pool2d(targets.float(), 5, 1, 2) > 0) & ~targets & (ids > 0)[:, None]
    chosen = happens(batch, generator, share, objects)
    everywhere = ids.flatten(1)[:, None].expand(-1, objects, -1)
    count = torch.zeros(batch, objects, int(ids.max()) + 1).scatter_add_(2, everywhere, ring.flatten(2).float())
    touching, other = count.max(2)
    join = chosen & (touching >= 6)
    return targets | (join[..., None, None] & (ids[:, None] == other[..., None, None]))


def cut(images: Tensor, targets: Tensor, share: float, generator: torch.Generator, lines: int = 6) -> Tensor:
    """Cut a share of the targets (B,K,S,S): of each, what lies on one side of a line, or in a strip, is the target.

    Parts of things mostly differ from the rest: of six lines, more often than not the one with the most different colours on its two
    sides is taken. A third of the lines follow the canvas' axes. A piece of next to nothing, or of nearly all, is not cut.

    images: (B,3,S,S) in 0..1.
    """
    batch, objects, size, _ = targets.shape
    count, cells = batch * objects, size // 4
    flat = targets.flatten(0, 1)
    small = F.avg_pool2d(flat[:, None].float(), 4)[:, 0]
    # Lines go through places of the object.
    index = torch.multinomial(small.flatten(1) + 1e-9, lines, replacement=True, generator=generator)
    place = torch.stack([index % cells + 0.5, index // cells + 0.5], -1) / cells
    angle = uniform(count, generator, 0, 2 * math.pi, lines)
    along_axes = happens(count, generator, 0.35, 1)
    angle = torch.where(along_axes, (angle / (math.pi / 2)).round() * (math.pi / 2), angle)
    colours = F.avg_pool2d(images, 4).repeat_interleave(objects, 0)
    contrast = _contrast(colours, small, place, angle)
    best = torch.where(happens(count, generator, 0.6), contrast.argmax(1), 0)[:, None]
    distance = _distance(size, place.gather(1, best[..., None].expand(-1, -1, 2)), angle.gather(1, best))[:, 0]
    strip = uniform(count, generator, 0.04, 0.29, 1, 1)
    width = torch.where(happens(count, generator, 0.25, 1, 1), strip, math.inf)
    piece = flat & (distance > 0) & (distance < width)
    before, after = flat.flatten(1).sum(1), piece.flatten(1).sum(1)
    sizable = (after >= SMALLEST) & (after >= 0.1 * before) & (after <= 0.92 * before)
    apply = happens(count, generator, share) & sizable
    return torch.where(apply[:, None, None], piece, flat).view_as(targets)


def _distance(size: int, place: Tensor, angle: Tensor) -> Tensor:
    """(N,L,size,size): signed distance to lines through ``place`` (N,L,2), as shares of the canvas' side."""
    line = (torch.arange(size) + 0.5) / size
    x, y = line - place[..., :1], line - place[..., 1:]
    return (y * angle.sin()[..., None])[..., :, None] + (x * angle.cos()[..., None])[..., None, :]


def _contrast(colours: Tensor, small: Tensor, place: Tensor, angle: Tensor) -> Tensor:
    """(N,L): how different an object's mean colours on the two sides of each line are; lines that cut off a sliver come last.

    colours (N,3,s,s), the object's share of each cell (N,s,s).
    """
    one = (_distance(small.shape[-1], place, angle) > 0) * small[:, None]
    other = small[:, None] - one
    first, second = one.flatten(2).sum(2), other.flatten(2).sum(2)
    mean = torch.einsum("nlyx,ncyx->nlc", one, colours) / first.clamp(min=1e-6)[..., None]
    rest = torch.einsum("nlyx,ncyx->nlc", other, colours) / second.clamp(min=1e-6)[..., None]
    balance = torch.minimum(first, second) / (first + second).clamp(min=1e-6)
    return (mean - rest).norm(dim=2) * balance.clamp(max=0.3) + (balance > 0.12)


def ghosts(batch: int, objects: int, size: int, generator: torch.Generator) -> Tensor:
    """(B,K,S,S) bool: ellipses and rounded boxes that are not in the picture, of any size and turn. Only a prompt can name them."""

    def u(low: float, high: float) -> Tensor:
        return uniform(batch, generator, low, high, objects, 1, 1)

    line = torch.arange(size) + 0.5
    dx, dy = line - u(0.08, 0.92) * size, line[:, None] - u(0.08, 0.92) * size
    radius, aspect, angle = u(-3.4, -0.9).exp() * size, u(-0.7, 0.7).exp(), u(0, math.pi)
    along = (dx * angle.cos() + dy * angle.sin()) / (radius * aspect)
    across = (dy * angle.cos() - dx * angle.sin()) / (radius / aspect)
    power = torch.where(u(0, 1) < 0.8, 2.0, 5.0)
    return along.abs() ** power + across.abs() ** power < 1


def sample_in(region: Tensor, generator: torch.Generator, central: float = 0.5) -> Tensor:
    """One pixel of each region: (B,K,S,S) bool → (B,K,2) xy at pixel centres; with chance ``central`` deep inside, else anywhere."""
    batch, objects, size, _ = region.shape
    flat = region.flatten(0, 1).float()
    # How much of the neighbourhood, at three radii, is in the region too: cheap, and close to a distance transform.
    depth = small = F.avg_pool2d(flat[:, None], 4)
    for radius in (1, 2, 4):
        depth = depth * F.avg_pool2d(small, 2 * radius + 1, stride=1, padding=radius)
    depth = F.interpolate(depth, scale_factor=4.0)[:, 0] ** 3 * flat + 1e-9 * flat
    weight = torch.where(happens(len(flat), generator, central, 1, 1), depth, flat).flatten(1)
    weight = torch.where(weight.sum(1, keepdim=True) > 0, weight, 1.0)
    index = torch.multinomial(weight, 1, generator=generator)[:, 0]
    return torch.stack([index % size + 0.5, index // size + 0.5], -1).view(batch, objects, 2).float()


def boxes_of(targets: Tensor, generator: torch.Generator, jitter: float = 0.07) -> Tensor:
    """Boxes, half of them jittered: (B,K,S,S) bool → (B,K,4)."""
    size = targets.shape[-1]
    boxes = tight_boxes(targets)
    side = (boxes[..., 2:] - boxes[..., :2]).repeat(1, 1, 2)
    noise = (torch.randn(boxes.shape, generator=generator) * jitter * side).clamp(-0.15 * size, 0.15 * size)
    noise = noise * happens(len(boxes), generator, 0.5, boxes.shape[1], 1)
    boxes = (boxes + noise).clamp(0, size)
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat(
        [torch.minimum(low, high), torch.maximum(torch.maximum(low, high), torch.minimum(low, high) + 2)], -1
    )
