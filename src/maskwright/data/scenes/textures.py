"""A bank of random periodic textures, and the one picture from which all of them are sampled."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from maskwright.data.scenes.dice import Dice

TILE = 128  # texels along a side of a texture


def draw_textures(dice: Dice, count: int = 48) -> Tensor:
    """A fresh bank of periodic textures (count, 128, 128) in 0..1: noise, warped noise, ridges, patterns, cells."""
    steps = torch.fft.fftfreq(TILE, 1 / TILE, device=dice.device)
    turn, squeeze = dice.uniform(count, 1, 1, high=math.pi), 1 + 5 * dice.uniform(count, 1, 1).square()
    along = steps * turn.cos() + steps[:, None] * turn.sin()
    across = steps[:, None] * turn.cos() - steps * turn.sin()
    knee, slope = dice.uniform(count, 1, 1, low=1.0, high=6.0), dice.uniform(count, 1, 1, low=0.7, high=2.4)
    power = (knee**2 + along.square() + (across / squeeze).square()) ** (-slope / 2)
    spectrum = torch.complex(dice.normal(count, TILE, TILE), dice.normal(count, TILE, TILE)) * power
    noise = torch.fft.ifft2(spectrum).real
    noise = (noise - noise.mean((1, 2), keepdim=True)) / noise.std((1, 2), keepdim=True)
    part = count // 6
    smooth, warped, ridged, waves, cells = noise.split((count - 4 * part, part, part, part, part))
    axis = torch.arange(TILE, device=dice.device)
    bend = (6 * smooth[: 2 * part]).long()
    rows, columns = (axis[:, None] + bend[:part]) % TILE, (axis + bend[part:]) % TILE
    warped = warped.flatten(1).gather(1, (rows * TILE + columns).flatten(1)).view_as(warped)
    ridged = 2.5 * torch.exp(-ridged.abs() * dice.uniform(part, 1, 1, low=2.0, high=9.0)) - 1
    return torch.sigmoid(1.7 * torch.cat((smooth, warped, ridged, _patterns(dice, waves), _cells(dice, cells))))


def _patterns(dice: Dice, noise: Tensor) -> Tensor:
    """Stripes, checks and dots bent by noise, from whole wave numbers so that they stay periodic."""
    part = len(noise)
    axis = torch.arange(TILE, device=dice.device) * (2 * math.pi / TILE)
    wave = dice.integer(23, part, 2, 1, 1) - 11
    bend = dice.uniform(part, 1, 1, high=1.2) * noise
    first = torch.sin(wave[:, 0] * axis + wave[:, 1] * axis[:, None] + bend)
    second = torch.sin(wave[:, 0] * axis[:, None] - wave[:, 1] * axis + bend)
    kind = dice.integer(3, part, 1, 1)
    pattern = torch.where(kind == 0, first, torch.where(kind == 1, 2 * first * second, 3 * first * second - 1.0))
    return dice.uniform(part, 1, 1, low=0.8, high=3.0) * pattern


def _cells(dice: Dice, noise: Tensor) -> Tensor:
    """Cells around random points of a torus: distance to the nearest point, or to the wall between two."""
    part, half = len(noise), TILE // 2
    axis = torch.arange(half, device=dice.device) / half
    points = dice.uniform(part, 24, 2, 1, 1)
    dx, dy = (axis - points[:, :, 0]).abs(), (axis[:, None] - points[:, :, 1]).abs()
    distance = torch.minimum(dx, 1 - dx).square() + torch.minimum(dy, 1 - dy).square()
    near, next_ = distance.sqrt().topk(2, dim=1, largest=False).values.unbind(1)
    field = torch.where(dice.chance(0.5, part, 1, 1), 14 * near - 1.5, 12 * (next_ - near) - 1)
    return F.interpolate(field[:, None], scale_factor=2, mode="bilinear")[:, 0] + 0.3 * noise


def make_atlas(bank: Tensor) -> Tensor:
    """All textures below each other in one picture (1, 1, T * 129, 129), each continued by a texel of its own start."""
    return F.pad(bank[:, None], (0, 1, 0, 1), mode="circular").reshape(1, 1, -1, TILE + 1)
