"""How ``pretrain_nano.py`` looks at pictures with object ids: whole, from close by, from afar, pasted, in other light.

New tensors are made on PyTorch's default device, where the pictures and the generators have to be.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from maskwright.data.scenes import render
from maskwright.data.shapes import tight_boxes
from maskwright.engine.budget import progress

SLOTS = 256
"""Ids of a picture in memory are below this number."""


@dataclass
class Pool:
    """Scenes in memory: images (N,3,S,S) uint8, instances (N,S,S) int16, identities and categories (N,M) int64.

    Images 2i and 2i+1 show some of the same objects. ``categories`` names the shape of each (see ``scenes.CATEGORY_NAMES``).
    """

    images: Tensor
    instances: Tensor
    identities: Tensor
    categories: Tensor

    def __len__(self) -> int:
        return len(self.images)

    @staticmethod
    def of(count: int, size: int, seed: int, difficulty: float) -> Pool:
        """Render scenes; see :func:`maskwright.data.scenes.render`."""
        device = torch.get_default_device()
        scenes = render(count, size, seed=seed, pairs=True, device=device, difficulty=difficulty)
        images = (scenes.images * 255).round().byte()
        return Pool(images, scenes.instances.to(torch.int16), scenes.identities, scenes.categories)

    @staticmethod
    def cat(parts: list[Pool]) -> Pool:
        return Pool(*(torch.cat([getattr(p, name) for p in parts]) for name in Pool.__dataclass_fields__))


def render_pool(count: int, size: int, seed: int) -> Pool:
    """Scenes from plain to camouflaged."""
    parts, chunk = [], 32 if size <= 128 else 8
    with progress(count, f"rendering {size}-pixel scenes") as advance:
        for i in range(0, count, chunk):
            parts.append(Pool.of(chunk, size, seed + i, 0.1 + 0.9 * i / count))
            advance(chunk)
    return Pool.cat(parts)


def uniform(count: int, generator: torch.Generator, low: float, high: float, *shape: int) -> Tensor:
    """(N, *shape) numbers between ``low`` and ``high``."""
    return torch.rand(count, *shape, generator=generator) * (high - low) + low


def happens(count: int, generator: torch.Generator, chance: float, *shape: int) -> Tensor:
    """(N, *shape) bool, True with this chance."""
    return torch.rand(count, *shape, generator=generator) < chance


def areas(ids: Tensor, slots: int = 0) -> Tensor:
    """(B,S,S) ids → (B,M) pixels of each, 0 for the ground."""
    flat = ids.flatten(1)
    slots = slots or int(flat.max()) + 1
    counts = torch.zeros(len(flat), slots).scatter_add_(1, flat, torch.ones(flat.shape))
    counts[:, 0] = 0
    return counts


def _turns(count: int, turn: float, generator: torch.Generator) -> Tensor:
    """(N,2,2): proportions, flips and small turns; with chance ``turn`` a quarter turn as well."""
    u = partial(uniform, count, generator)
    aspect = u(-0.25, 0.25).exp()
    quarter = torch.randint(0, 4, (count,), generator=generator) * (math.pi / 2)
    angle = u(-0.3, 0.3) * (u(0, 1) < 0.6) + quarter * (u(0, 1) < turn)
    flip = torch.where(u(0, 1) < 0.5, 1.0, -1.0)
    across = torch.stack([aspect * angle.cos() * flip, -angle.sin() / aspect], -1)
    down = torch.stack([aspect * angle.sin() * flip, angle.cos() / aspect], -1)
    return torch.stack([across, down], 1)


def wide_views(count: int, zoom: tuple[float, float], turn: float, generator: torch.Generator) -> Tensor:
    """(N,2,3): where a view's points, in -1..1, lie in the picture, whose side it spans ``zoom`` times (above 1: more than all)."""
    scale = uniform(count, generator, math.log(zoom[0]), math.log(zoom[1])).exp()
    shift = uniform(count, generator, -1, 1, 2) * (1 - scale).abs()[:, None]
    return torch.cat([_turns(count, turn, generator) * scale[:, None, None], shift[..., None]], 2)


def close_views(
    ids: Tensor,
    turn: float,
    generator: torch.Generator,
    boxes: tuple[float, float] = (1.3, 4.0),
    smallest: int = 40,
) -> Tensor:
    """(N,2,3): crops around one object each, as SAM is shown one for a closer look; a wide view where there is none.

    Args:
        ids: (N,s,s), below ``SLOTS``.
        boxes: the crop's side as multiples of the longer side of the object's box.
        smallest: pixels that an object must have.
    """
    count, side = ids.shape[0], ids.shape[-1]
    area = areas(ids, SLOTS)
    fit = (area >= smallest) & (area < 0.6 * side * side)
    some = fit.any(1)
    weight = torch.where(fit, area.pow(0.3), 0.0)
    weight[~some] = 1.0
    chosen = torch.multinomial(weight, 1, generator=generator)
    box = tight_boxes(ids == chosen[:, :, None]) * (2 / side) - 1
    centre, half = (box[:, :2] + box[:, 2:]) / 2, (box[:, 2:] - box[:, :2]).amax(1) / 2
    factor = uniform(count, generator, math.log(boxes[0]), math.log(boxes[1])).exp()
    scale = (half * factor).clamp(0.07, 1.15)
    # Often the object is not in the middle, but it stays in the crop.
    slack = (scale - half).clamp(min=0) * 0.7 * happens(count, generator, 0.6)
    shift = centre + uniform(count, generator, -1, 1, 2) * slack[:, None]
    close = torch.cat([_turns(count, turn, generator) * scale[:, None, None], shift[..., None]], 2)
    return torch.where(some[:, None, None], close, wide_views(count, (0.4, 1.1), turn, generator))


def look(images: Tensor, ids: Tensor, size: int, views: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Views of pictures: uint8 (B,3,s,s), (B,s,s), (B,2,3) → float (B,3,S,S) in 0..1, int64 (B,S,S).

    What lies outside a picture is ground: the picture's border drawn out, or a plain colour.
    """
    batch = len(images)
    grid = F.affine_grid(views, [batch, 3, size, size], align_corners=False)
    inside = (grid.abs() <= 1).all(-1)
    pixels = images.float() / 255
    # Where several pixels of the picture make one of the view they are averaged first.
    coarse = float((views[:, :, :2].norm(dim=(1, 2)) / math.sqrt(2)).mean()) * images.shape[-1] / size
    if coarse > 1.5:
        pixels = F.avg_pool2d(pixels, 2 if coarse < 3 else 4)
    view = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)
    plain = uniform(batch, generator, 0, 1, 3, 1, 1) * happens(batch, generator, 0.4, 1, 1, 1)
    view = torch.where(inside[:, None], view, plain)
    moved = F.grid_sample(ids.float()[:, None], grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return view, moved[:, 0].round().long() * inside


def tiled(images: Tensor, ids: Tensor, side: int, size: int) -> tuple[Tensor, Tensor]:
    """Put ``side`` × ``side`` pictures into one: (B·side²,3,s,s), (B·side²,s,s) → (B,3,S,S), (B,S,S). Their objects stay apart."""
    count, small = len(images) // side**2, images.shape[-1]
    tile = torch.arange(side**2).repeat(count)[:, None, None]
    ids = torch.where(ids > 0, ids + tile * (int(ids.max()) + 1), 0)
    images = images.view(count, side, side, 3, small, small).permute(0, 3, 1, 4, 2, 5)
    images = images.reshape(count, 3, side * small, side * small)
    ids = ids.view(count, side, side, small, small).permute(0, 1, 3, 2, 4).reshape(count, side * small, side * small)
    if side * small != size:
        images = F.interpolate(images, size, mode="bilinear", align_corners=False)
        ids = F.interpolate(ids[:, None].float(), size, mode="nearest")[:, 0].round().long()
    return images, ids


def paste(images: Tensor, ids: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Paste objects of one picture onto another (Ghiasi et al., CVPR 2021): a ``share`` of the batch gets some of another's.

    images (B,3,S,S) in 0..1, ids (B,S,S) → the same.
    """
    batch, size = len(images), images.shape[-1]
    donor = torch.roll(torch.arange(batch), batch // 2 + 1)
    views = wide_views(batch, (0.9, 2.0), 0.1, generator)
    grid = F.affine_grid(views, [batch, 3, size, size], align_corners=False)
    pixels = F.grid_sample(images[donor], grid, padding_mode="border", align_corners=False)
    others = F.grid_sample(ids[donor].float()[:, None], grid, mode="nearest", align_corners=False)[:, 0].round().long()
    keep = happens(batch, generator, 0.6, int(others.max()) + 1) & happens(batch, generator, share, 1)
    keep[:, 0] = False
    on = keep.gather(1, others.flatten(1)).view_as(others) & (grid.abs() <= 1).all(-1)
    soft = F.avg_pool2d(on[:, None].float(), 3, 1, 1)
    top = ids.flatten(1).amax(1)[:, None, None]
    return torch.lerp(images, pixels, soft), torch.where(on, others + top, ids)


def develop(images: Tensor, generator: torch.Generator) -> Tensor:
    """Other light: (B,3,S,S) in 0..1 → the same, with jittered colours and now and then wet highlights, blur, and noise."""
    batch, size = len(images), images.shape[-1]
    u, some = partial(uniform, batch, generator), partial(happens, batch, generator)
    mean, grey = images.mean((2, 3), keepdim=True), images.mean(1, keepdim=True)
    saturation = torch.where(some(0.1, 1, 1, 1), 0.0, 1.0) * u(0.5, 1.5, 1, 1, 1)
    view = grey + (images - grey) * saturation
    view = mean + (view - mean) * u(0.6, 1.4, 1, 1, 1)
    view = view * u(0.85, 1.15, 3, 1, 1) + u(-0.12, 0.12, 1, 1, 1)
    glints = torch.randn(batch, 1, size // 8, size // 8, generator=generator)
    glints = F.interpolate(glints, size, mode="bicubic", align_corners=False) - u(1.5, 2.5, 1, 1, 1)
    view = view + some(0.15, 1, 1, 1) * (glints.clamp(min=0) * 5).clamp(max=1)
    view = view.clamp(0, 1) ** u(-0.4, 0.4, 1, 1, 1).exp()
    blurred = F.interpolate(F.avg_pool2d(view, 2), size, mode="bilinear", align_corners=False)
    view = torch.lerp(view, blurred, u(0, 1, 1, 1, 1) * some(0.25, 1, 1, 1))
    noise = torch.randn(view.shape, generator=generator) * u(0, 0.03, 1, 1, 1)
    view = view + noise * some(0.5, 1, 1, 1)
    return torch.where(some(0.8, 1, 1, 1), view, images).clamp(0, 1)
