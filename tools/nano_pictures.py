"""Pictures that ``pretrain_nano.py`` draws itself: outlines filled anew, small things, and things in parts.

Collages keep a scene's outlines but fill them (and the ground behind) with crops of photographs: a small model trained on scenes alone
takes every inner edge and every highlight of a photograph for a border; in a collage the inside of an object is as restless as in life.
In reliefs objects are of the ground's own material: without them such a model tells objects by colour alone, and a click on a bump
means all of the ground. Beads are many small things, and in partitions things fall into parts.

New tensors are made on PyTorch's default device, where the pictures and the generators have to be.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from nano_views import SLOTS, happens, uniform


def collage(images: Tensor, ids: Tensor, photos: Tensor, generator: torch.Generator, patched: float = 0.4) -> Tensor:
    """Fill most objects, and the ground of most pictures, with crops of photographs, each lit and tinted in its own way.

    images (B,3,S,S) in 0..1, ids (B,S,S), photos (K,3,s,s) uint8 → (B,3,S,S). Object 0 is the ground; now and then an object is
    cut from the ground's own photograph, so that it hides, and a share of ``patched`` shows two photographs in patches.
    """
    batch, size = len(images), images.shape[-1]
    slots = int(ids.max()) + 1

    def chance(share: float) -> Tensor:
        return torch.rand(batch, slots, generator=generator) < share

    per_pixel = partial(_per_pixel, ids)

    line = (torch.arange(size) + 0.5) * 2 / size - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    volume = (photos.float() / 255).transpose(0, 1)[None].expand(batch, -1, -1, -1, -1)

    def crops() -> Tensor:
        """One crop of a photograph behind each object: (B,3,S,S)."""
        source = torch.randint(len(photos), (batch, slots), generator=generator)
        source = torch.where(chance(0.2), source[:, :1], source).float()
        affine = per_pixel(_affines(batch * slots, (0.2, 0.8), generator).view(batch, slots, 2, 3))
        place = affine @ torch.stack([x, y, torch.ones_like(x)], -1)[None, ..., None]
        # Trilinear sampling in a volume of photographs: a whole number as the third coordinate picks one of them.
        depth = (per_pixel(source) + 0.5) * 2 / len(photos) - 1
        grid = torch.cat([place[..., 0], depth[..., None]], -1)[:, None]
        return F.grid_sample(volume, grid, mode="bilinear", padding_mode="reflection", align_corners=False)[:, :, 0]

    # An object in patches of two photographs is still one object: what looks different need not be another one.
    patches = torch.randn(batch, 1, 6, 6, generator=generator)
    patches = (F.interpolate(patches, size, mode="bicubic", align_corners=False) * 8).sigmoid()
    fill = torch.lerp(crops(), crops(), patches * per_pixel(chance(patched).float())[:, None])
    tint = 1 + torch.randn(batch, slots, 3, generator=generator) * 0.12
    tint = per_pixel(tint * (torch.randn(batch, slots, 1, generator=generator) * 0.25).exp()).permute(0, 3, 1, 2)
    slope = per_pixel(torch.randn(batch, slots, 2, generator=generator) * 0.2)
    fill = fill * tint * (1 + slope[..., 0] * x + slope[..., 1] * y)[:, None].clamp(0.3, 1.7)
    result = torch.where(per_pixel(chance(0.75))[:, None], fill, images).clamp(0, 1)
    # Cut edges are sharper than a lens draws them.
    soft = F.avg_pool2d(F.pad(result, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return torch.lerp(result, soft, torch.rand(batch, 1, 1, 1, generator=generator))


def relief(ids: Tensor, photos: Tensor, generator: torch.Generator) -> Tensor:
    """Draw outlines as a relief: one material all over, from which objects stand out by light, a faint tint and soft edges.

    A polyp is a bump in the mucosa, an animal may wear the colours of its ground: what sets them apart is how the light falls on them.

    ids (B,S,S), photos (B,3,s,s) uint8 → (B,3,S,S) in 0..1.
    """
    batch, size = len(ids), ids.shape[-1]

    u = partial(uniform, batch, generator)

    def blurred(maps: Tensor, radius: int) -> Tensor:
        wide, side = F.pad(maps, (radius,) * 4, mode="replicate"), 2 * radius + 1
        return F.avg_pool2d(F.avg_pool2d(wide, (1, side), stride=1), (side, 1), stride=1)

    clouds = partial(_clouds, batch, size, generator)

    # So little of a photograph that nothing is to be recognised in it, or a colour with clouds; and fine veins.
    grid = F.affine_grid(_affines(batch, (0.05, 0.15), generator), [batch, 3, size, size], align_corners=False)
    crop = F.grid_sample(photos.float() / 255, grid, padding_mode="reflection", align_corners=False)
    plain = u(0.25, 0.9, 3, 1, 1) * (1 + 0.1 * clouds(4, 1) + 0.06 * clouds(16, 3) + 0.05 * clouds(64, 1))
    material = torch.lerp(plain, crop, u(0, 1, 1, 1, 1) * (u(0, 1, 1, 1, 1) < 0.7))
    veins = (1 - 12 * (clouds(9, 1) + 0.3 * clouds(32, 1)).abs()).clamp(min=0)
    material = material * (1 - u(0, 0.5, 1, 1, 1) * (u(0, 1, 1, 1, 1) < 0.4) * veins)
    line = torch.linspace(-1, 1, size)
    slope = u(-0.4, 0.4, 2, 1, 1)
    ground = material * (1 + slope[:, :1] * line + slope[:, 1:] * line[:, None])

    slots = int(ids.max()) + 1
    tint = torch.randn(batch, slots, 3, generator=generator) * 0.06
    tint = tint + torch.randn(batch, slots, 1, generator=generator) * 0.12
    tint = _per_pixel(ids, tint.exp()).permute(0, 3, 1, 2)
    tint = torch.lerp(tint, blurred(tint, size // 40), u(0, 1, 1, 1, 1))

    # Each object rises from its own border, also where it touches another.
    border = _borders(ids)
    inside = ((ids > 0)[:, None] & ~border).float()
    height = sum(blurred(inside, size // part) for part in (64, 16, 7)) / 3
    across = (height.roll(-1, 3) - height.roll(1, 3)) * size / 2
    down = (height.roll(-1, 2) - height.roll(1, 2)) * size / 2
    angle = u(0, 2 * torch.pi, 1, 1, 1)
    lit = 1 + u(0.01, 0.06, 1, 1, 1) * (angle.cos() * across + angle.sin() * down)
    # Little light reaches the crease around a bump.
    crease = 1 - u(0, 0.5, 1, 1, 1) * (blurred(border.float(), 2) * (1 - inside)).clamp(max=1)
    return (ground * tint * lit.clamp(0.4, 1.8) * crease).clamp(0, 1)


def bead_ids(count: int, size: int, seed: int, most: int = 120) -> NDArray[np.uint8]:
    """Outlines of many small round things, each a little bent, scattered or in clusters: (N,S,S) ids, up to ``most`` a picture."""
    rng = np.random.default_rng(seed)
    ids = np.zeros((count, size, size), np.uint8)
    for picture in ids:
        radius, share = size * rng.uniform(0.014, 0.05), rng.uniform(0.04, 0.35)
        number = int(np.clip(share * size * size / (math.pi * radius**2), 3, most))
        centres = rng.uniform(0, size, (number, 2))
        if rng.random() < 0.4:
            hubs = rng.uniform(0, size, (rng.integers(2, 6), 2))
            spread = size * rng.uniform(0.04, 0.15)
            centres = hubs[rng.integers(len(hubs), size=number)] + rng.normal(0, spread, centres.shape)
        radii = radius * np.exp(rng.normal(0, rng.uniform(0.1, 0.4), number))
        bent = rng.uniform(0, 0.25)
        for n in range(number):
            _lay_bead(picture, n + 1, centres[n], radii[n], bent, rng)
    return ids


def _lay_bead(
    picture: NDArray[np.uint8], number: int, centre: NDArray, radius: float, bent: float, rng: np.random.Generator
) -> None:
    """Write one bead into a picture, over or under those that are there."""
    size = len(picture)
    aspect, angle = math.exp(rng.normal(0, 0.25)), rng.uniform(0, math.pi)
    phase, lobes, over = rng.uniform(0, 2 * math.pi), rng.integers(2, 5), rng.random() < 0.5
    reach = int(radius * max(aspect, 1 / aspect) * 1.4) + 2
    x0, y0 = (max(0, int(c) - reach) for c in centre)
    x1, y1 = (min(size, int(c) + reach + 1) for c in centre)
    if x1 <= x0 or y1 <= y0:
        return
    dy, dx = np.ogrid[y0:y1, x0:x1]
    dy, dx = dy + 0.5 - centre[1], dx + 0.5 - centre[0]
    along = (dx * math.cos(angle) + dy * math.sin(angle)) / (radius * aspect)
    across = (dy * math.cos(angle) - dx * math.sin(angle)) / (radius / aspect)
    edge = 1 + bent * np.sin(np.arctan2(across, along) * lobes + phase)
    window = picture[y0:y1, x0:x1]
    window[(along**2 + across**2 < edge**2) & ((window == 0) | over)] = number


def stained(ids: Tensor, photos: Tensor, generator: torch.Generator) -> Tensor:
    """Draw things in one tone, faint or strong, on a plain, cloudy or photographed ground, as dyes and lamps show them.

    ids (B,S,S), photos (B,3,s,s) uint8 → (B,3,S,S) in 0..1.
    """
    batch, size = len(ids), ids.shape[-1]
    u, some = partial(uniform, batch, generator), partial(happens, batch, generator)
    clouds = partial(_clouds, batch, size, generator)
    photo = F.interpolate(photos.float() / 255, size, mode="bilinear", align_corners=False)
    ground = (u(0.02, 0.95, 3, 1, 1) + u(0.02, 0.95, 1, 1, 1)) / 2
    rough = u(0, 0.25, 1, 1, 1) * clouds(5, 1) + u(0, 0.15, 1, 1, 1) * clouds(20, 3)
    ground = ground * (1 + rough + u(0, 0.1, 1, 1, 1) * clouds(size // 4, 1))
    ground = torch.lerp(ground, photo, u(0, 1, 1, 1, 1) * some(0.4, 1, 1, 1))
    slots = int(ids.max()) + 1
    own = torch.randn(batch, slots, 1, generator=generator) * 0.15
    own = (own + torch.randn(batch, slots, 3, generator=generator) * 0.05) * u(0, 1, 1, 1)
    tone = torch.lerp(ground, u(0, 1, 3, 1, 1).expand_as(ground), u(0.15, 1, 1, 1, 1))
    tone = (tone + _per_pixel(ids, own).permute(0, 3, 1, 2)) * (1 + u(0, 0.3, 1, 1, 1) * clouds(size // 6, 1))
    tone = tone * (1 + u(-0.4, 0.3, 1, 1, 1) * some(0.5, 1, 1, 1) * _borders(ids))
    on = (ids > 0)[:, None].float()
    return torch.lerp(ground, tone, torch.lerp(on, F.avg_pool2d(on, 3, 1, 1), u(0, 1, 1, 1, 1))).clamp(0, 1)


def partition(
    images: Tensor, ids: Tensor, generator: torch.Generator, everywhere: float = 0.35
) -> tuple[Tensor, Tensor]:
    """Let things fall into parts, each of its own tone, with or without seams.

    Args:
        images: (B,3,S,S) in 0..1.
        ids: (B,S,S).
        everywhere: share of the pictures whose ground falls into parts too.

    Returns:
        The pictures, and the ids of the parts.
    """
    batch, size = len(ids), ids.shape[-1]
    objects = torch.stack([torch.unique(one, return_inverse=True)[1] for one in ids])
    both = objects * SLOTS + _cells(batch, size, generator)
    parts = torch.stack([torch.unique(one, return_inverse=True)[1] for one in both]) + 1
    parts = torch.where((ids > 0) | happens(batch, generator, everywhere, 1, 1), parts, 0).clamp(max=SLOTS - 1)
    slots = int(parts.max()) + 1
    amount = uniform(batch, generator, 0.03, 0.35, 1, 1)
    tint = torch.randn(batch, slots, 1, generator=generator) + torch.randn(batch, slots, 3, generator=generator) / 2
    tint = (tint * amount).exp()
    tint[:, 0] = 1
    shade = _per_pixel(parts, tint).permute(0, 3, 1, 2)
    seam = uniform(batch, generator, -0.6, 0.3, 1, 1, 1) * happens(batch, generator, 0.4, 1, 1, 1)
    return (images * shade * (1 + seam * _borders(parts))).clamp(0, 1), parts


def _cells(batch: int, size: int, generator: torch.Generator, few: int = 4, many: int = 30) -> Tensor:
    """(B,S,S) int64 below ``SLOTS``: the plane in cells, around points or in the rows and columns of a turned grid."""
    u, some = partial(uniform, batch, generator), partial(happens, batch, generator)
    line = (torch.arange(size) + 0.5) / size
    y, x = torch.meshgrid(line, line, indexing="ij")
    place = torch.stack([x, y]) + _clouds(batch, size, generator, 5, 2) * 0.04 * some(0.6, 1, 1, 1)
    points = int(few + (many + 1 - few) * torch.rand((), generator=generator))
    seeds = u(0, 1, points, 2)
    around = (place[:, None] - seeds[..., None, None]).square().sum(2).argmin(1)
    columns, rows, angle = u(1, 1 + math.sqrt(many), 1, 1), u(1, 1 + math.sqrt(many), 1, 1), u(-0.4, 0.4, 1, 1)
    across = place[:, 0] * angle.cos() - place[:, 1] * angle.sin() + 1
    down = place[:, 0] * angle.sin() + place[:, 1] * angle.cos() + 1
    grid = ((across * columns).long() * 16 + (down * rows).long()) % 200
    return torch.where(some(0.4, 1, 1), grid, around)


def _clouds(batch: int, size: int, generator: torch.Generator, cells: int, channels: int) -> Tensor:
    """(B,channels,S,S): smooth noise of about unit variance, ``cells`` to a side."""
    noise = torch.randn(batch, channels, cells, cells, generator=generator)
    return F.interpolate(noise, size, mode="bicubic", align_corners=False)


def _borders(ids: Tensor) -> Tensor:
    """(B,S,S) ids → (B,1,S,S) bool: pixels beside one of another id."""
    number = F.pad(ids[:, None].float(), (1,) * 4, mode="replicate")
    return F.max_pool2d(number, 3, stride=1) + F.max_pool2d(-number, 3, stride=1) > 0


def _per_pixel(ids: Tensor, values: Tensor) -> Tensor:
    """(B,S,S), (B,M,...) → (B,S,S,...): what belongs to the object seen at each pixel."""
    flat = (ids + torch.arange(len(ids))[:, None, None] * values.shape[1]).flatten()
    return values.flatten(0, 1)[flat].view(*ids.shape, *values.shape[2:])


def _affines(count: int, zoom: tuple[float, float], generator: torch.Generator) -> Tensor:
    """(N,2,3): where a view's points, in -1..1, lie in the picture; ``zoom`` = share of the picture's side that the view spans."""

    u = partial(uniform, count, generator)

    scale, aspect = u(*zoom), u(-0.2, 0.2).exp()
    angle = u(-0.35, 0.35) + torch.randint(0, 4, (count,), generator=generator) * torch.pi / 2
    flip = torch.where(torch.rand(count, generator=generator) < 0.5, 1.0, -1.0)
    slack = (1 - scale).clamp(min=0)
    return torch.stack(
        [
            torch.stack([scale * aspect * angle.cos() * flip, -scale / aspect * angle.sin(), u(-1, 1) * slack], -1),
            torch.stack([scale * aspect * angle.sin() * flip, scale / aspect * angle.cos(), u(-1, 1) * slack], -1),
        ],
        1,
    )
