"""Outlines as implicit functions, negative inside, and how they are laid into the image.

An outline takes coordinates x and y (M, r, r) in the object's own frame and parameters p (12, M, 1, 1) in 0..1.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from maskwright.data.scenes.cast import Cast
from maskwright.data.scenes.maps import smooth

FRAME = 1.35  # half-width of the grid on which an outline is evaluated
REACH = 1.15  # no outline lies further out


def _harmonics(x: Tensor, y: Tensor, order: int) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Polar radius, and cosine and sine of 1..order times the polar angle, by recurrence."""
    rho = (x * x + y * y).sqrt().clamp(min=1e-4)
    c, s = x / rho, y / rho
    waves = [(c, s)]
    for _ in range(order - 1):
        a, b = waves[-1]
        waves.append((a * c - b * s, a * s + b * c))
    return rho, waves


def _box(x: Tensor, y: Tensor, width: Tensor | float, height: Tensor | float) -> Tensor:
    dx, dy = x.abs() - width, y.abs() - height
    return (dx.clamp(min=0).square() + dy.clamp(min=0).square()).sqrt() + torch.maximum(dx, dy).clamp(max=0)


def _disc(x: Tensor, y: Tensor, p: Tensor) -> Tensor:
    a, b = x.square(), (y / (0.55 + 0.45 * p[0])).square()
    return torch.lerp((a + b).sqrt(), (a * a + b * b).sqrt().sqrt(), p[1].square()) - 0.95


def _blob(x: Tensor, y: Tensor, p: Tensor) -> Tensor:
    rho, waves = _harmonics(x, y, 5)
    radius = torch.full_like(rho, 0.75)
    inner = (rho / 0.75).clamp(max=1)
    fade = inner
    for k, (c, s) in enumerate(waves[1:]):
        fade = fade * inner  # a harmonic of order k fades as rho ** k, or the middle would be creased
        radius += (0.34 / (k + 2)) * fade * ((2 * p[2 * k] - 1) * c + (2 * p[2 * k + 1] - 1) * s)
    return rho - radius


def _polygon(x: Tensor, y: Tensor, p: Tensor) -> Tensor:
    sides = 3 + (p[0] * 5).floor()
    reach = 0.85 * torch.cos(math.pi / sides)
    field = torch.full_like(x, -2.0)
    for k in range(7):  # with fewer sides the first ones are met again
        which = torch.remainder(torch.full_like(sides, k), sides)
        jitter = p[1:8].gather(0, which.long()[None])[0] - 0.5
        angle = (which + 0.3 * jitter) * 2 * math.pi / sides
        field = torch.maximum(field, x * angle.cos() + y * angle.sin() - reach * (1 + 0.3 * jitter))
    return field


def _star(x: Tensor, y: Tensor, p: Tensor) -> Tensor:
    points = 4 + (p[0] * 5).floor()
    spike = torch.acos(torch.cos(torch.atan2(y, x) * points) * 0.999) / math.pi
    return 0.6 * ((x * x + y * y).sqrt() - torch.lerp(torch.ones_like(spike), 0.3 + 0.35 * p[1], spike))


def _flower(x: Tensor, y: Tensor, p: Tensor) -> Tensor:
    petals = 3 + (p[0] * 6).floor()
    wave = torch.cos(torch.atan2(y, x) * petals)
    rho = (x * x + y * y).sqrt()
    return 0.8 * (rho - 0.72 - (0.12 + 0.14 * p[1]) * wave * (rho / 0.72).clamp(max=1) ** 2)


def _ring(x: Tensor, y: Tensor, p: Tensor) -> Tensor:
    y = y / (0.65 + 0.35 * p[0])
    width = 0.1 + 0.16 * p[1]
    inner = ((x - 0.08 * p[2]).square() + y.square()).sqrt()
    return (inner - (0.95 - width)).abs() - width


def _bar(x: Tensor, y: Tensor, p: Tensor) -> Tensor:
    corner = 0.03 + 0.1 * p[1]
    width = (0.12 + 0.28 * p[0]) * (1 + 0.5 * (p[2] - 0.5) * x)
    return _box(x, y, 0.95 - corner, width - corner) - corner


def _tube(x: Tensor, y: Tensor, p: Tensor) -> Tensor:
    rise, pace = 0.1 + 0.4 * p[0], 1.5 + 3.0 * p[1]
    phase = pace * x + 6.283 * p[2]
    slope = rise * pace * phase.cos()
    across = (y - rise * phase.sin()) / (1 + slope.square()).sqrt()
    beyond = (x.abs() - 0.85).clamp(min=0)
    return (across.square() + beyond.square()).sqrt() - (0.07 + 0.09 * p[3]) * (1 + 0.5 * (p[4] - 0.5) * x)


def _crescent(x: Tensor, y: Tensor, p: Tensor) -> Tensor:
    outer = (x.square() + y.square()).sqrt() - 0.95
    bite = ((x - 0.35 - 0.35 * p[0]).square() + y.square()).sqrt() - (0.65 + 0.2 * p[1])
    return torch.maximum(outer, -bite)


def _leaf(x: Tensor, y: Tensor, p: Tensor) -> Tensor:
    body = (1 - x.square()).clamp(min=0)
    teeth = 0.05 * (p[3] > 0.5) * torch.cos((12 + 14 * p[4]) * x)
    width = (0.2 + 0.35 * p[0]) * body * (1 + (p[1] - 0.5) * x) + teeth * body.sqrt()
    return torch.maximum(0.75 * ((y - 0.5 * (p[2] - 0.5) * body).abs() - width), x.abs() - 0.97)


def _cross(x: Tensor, y: Tensor, p: Tensor) -> Tensor:
    arm = 0.12 + 0.2 * p[0]
    other = _box(x - 0.9 * (p[2] - 0.5), y, 0.12 + 0.2 * p[1], 0.55 + 0.4 * p[3])
    return torch.minimum(_box(x, y, 0.92, arm), other)


def _figure(x: Tensor, y: Tensor, p: Tensor) -> Tensor:
    """A body, a head and limbs, smoothly joined."""
    x, y = 1.12 * x, 1.12 * y
    wide, high = 0.45 + 0.15 * p[0], 0.25 + 0.15 * p[1]
    field = ((x / wide).square() + ((y - 0.05) / high).square()).sqrt().sub(1) * high
    lift = 0.1 + 0.35 * p[2]
    head = ((x - 0.6).square() + (y + lift).square()).sqrt() - (0.16 + 0.1 * p[3])
    t = ((x - 0.2) / 0.4).clamp(0, 1)
    neck = ((x - 0.2 - 0.4 * t).square() + (y + lift * t).square()).sqrt() - 0.1
    parts = [neck, head]
    for k in range(3):
        foot = -0.45 + 0.45 * k + 0.25 * (p[4 + k] - 0.5)
        t = ((y - 0.1) / 0.75).clamp(0, 1)
        parts.append(
            ((x - foot * (0.7 + 0.5 * t)).square() + (y - 0.1 - 0.75 * t).square()).sqrt() - 0.07 - 0.06 * p[7]
        )
    tail = ((y + 0.35 * (x + 0.5) * (2 * p[8] - 1)).square() + ((x + 0.65).abs() - 0.25).clamp(min=0).square()).sqrt()
    parts.append(tail - 0.05 - 0.04 * p[9])
    for part in parts:
        blend = (0.5 + 0.5 * (field - part) / 0.12).clamp(0, 1)
        field = torch.lerp(field, part, blend) - 0.12 * blend * (1 - blend)
    return field


OUTLINES: tuple[Callable[[Tensor, Tensor, Tensor], Tensor], ...] = (
    _disc, _blob, _polygon, _star, _flower, _ring, _bar, _tube, _crescent, _leaf, _cross, _figure,
)  # fmt: skip


def draw_outlines(cast: Cast, resolution: int) -> Tensor:
    """(B * N, resolution, resolution) outlines in their own frames: negative inside, in units of the radius."""
    category = cast.category.flatten()
    axis = ((torch.arange(resolution, device=category.device) + 0.5) * 2 / resolution - 1) * FRAME
    warp = smooth(cast.warp.flatten(0, 1), resolution)
    x, y = axis + warp[:, 0], axis[:, None] + warp[:, 1]
    field = torch.empty_like(x)
    p = cast.outline.flatten(0, 1).T[..., None, None]
    for index, outline in enumerate(OUTLINES):
        rows = (category == index + 1).nonzero()[:, 0]
        field[rows] = outline(x[rows], y[rows], p[:, rows])
    # The frame's rim is continued outwards when a grid is sampled beyond it: close every outline before.
    limit = (axis.square() + axis[:, None].square()).sqrt() - REACH
    return torch.maximum(field + smooth(cast.rough.flatten(0, 1), resolution), limit)


def own_frames(cast: Cast) -> Tensor:
    """(B, N, 2, 3) affine maps from the image to each object's own frame."""
    c, s = cast.angle.cos() / cast.radius, cast.angle.sin() / cast.radius
    linear = torch.stack((c, s, -s / cast.stretch, c / cast.stretch), -1).view(*c.shape, 2, 2)
    return torch.cat((linear, -(linear @ cast.centre[..., None])), -1)


def lay_out(cast: Cast, frame: Tensor, size: int) -> Tensor:
    """Lay every outline into the image: (B, N, S, S) distance from it in pixels (approximate), negative inside."""
    batch, slots = cast.active.shape
    grids = draw_outlines(cast, min(max(size // 2, 48), 96))
    places = F.affine_grid(frame.flatten(0, 1) / FRAME, [batch * slots, 1, size, size], align_corners=False)
    field = F.grid_sample(grids[:, None], places, padding_mode="border", align_corners=False)
    field = field.view(batch, slots, size, size) * (cast.radius * size / 2)[..., None, None]
    return field.masked_fill_(~cast.active[..., None, None], float(size))


def frontmost(field: Tensor) -> Tensor:
    """(B, S, S) id of the frontmost object of each pixel, 0 where there is none."""
    instances = torch.zeros(field.shape[0], *field.shape[2:], dtype=torch.int64, device=field.device)
    for k in range(field.shape[1]):
        instances.masked_fill_(field[:, k] < 0, k + 1)
    return instances
