"""Materials and surfaces of objects and background regions, and the colour a material has at a place."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from maskwright.data.scenes.dice import Dice
from maskwright.data.scenes.plan import Plan
from maskwright.data.scenes.textures import TILE

# Two textures, each with an affine map from object coordinates to tiles; three colours; how they are mixed: by the
# first texture (and, where an object has two sides, by place), with the second and a gradient of brightness on top.
MATERIAL = (
    "xx", "xy", "yx", "yy", "x0", "y0", "tile", "xx2", "xy2", "yx2", "yy2", "x02", "y02", "tile2",
    "r", "g", "b", "r1", "g1", "b1", "r2", "g2", "b2", "sharp", "level", "detail", "slope_x", "slope_y",
    "split_x", "split_y",
)  # fmt: skip
SURFACE = ("bevel", "height", "bump", "gloss", "soft", "camouflage", "radial", "rim", "underlay", "foot")
PLACE = ("ux", "uy", "u0", "vx", "vy", "v0", "radius")


def _rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """HSV, each (...,), to RGB (..., 3)."""
    k = (hue[..., None] * 6 + torch.tensor([5.0, 3.0, 1.0], device=hue.device)) % 6
    return value[..., None] * (1 - saturation[..., None] * torch.minimum(k, 4 - k).clamp(0, 1))


def draw_material(dice: Dice, colours: Tensor, radius: Tensor, size: int, strength: Tensor) -> Tensor:
    """(B, M, len(MATERIAL)) materials in the given (B, 6) ranges of colour for parts of the given (B, M) radius."""
    batch, many = radius.shape
    low, high = colours[:, None, 0::2].expand(batch, many, 3), colours[:, None, 1::2].expand(batch, many, 3)
    hue, saturation, value = dice.between(low, high).unbind(-1)
    base = _rgb(hue, saturation, value)
    turn = dice.normal(batch, many, 3) * torch.tensor([0.05, 0.2, 0.38], device=dice.device) * strength[..., None]
    second = _rgb(hue + turn[..., 0], (saturation + turn[..., 1]).clamp(0, 1), (value + turn[..., 2]).clamp(0, 1))
    other = _rgb(*dice.between(low, high).unbind(-1))
    second = torch.where(dice.chance(0.3 * strength, batch, many)[..., None], other, second)
    third = 0.8 * strength[..., None] * (0.7 * dice.normal(batch, many, 1) + 0.3 * dice.normal(batch, many, 3))
    finest = 1.2 * radius * size / 2 / TILE  # tiles per unit at which a texel is about a pixel
    maps = []
    for _ in range(2):
        scale = (finest * 0.12 * 12 ** dice.uniform(batch, many)).clamp(0.04, 1.5)
        angle, stretch = dice.uniform(batch, many, high=2 * math.pi), 2 ** dice.uniform(batch, many, low=-1.0)
        c, s = scale * angle.cos(), scale * angle.sin()
        offset = dice.uniform(2, batch, many)
        maps += [c, s, -s * stretch, c * stretch, offset[0], offset[1], dice.integer(48, batch, many).float()]
    mix = [
        2 * 12 ** dice.uniform(batch, many),
        dice.uniform(batch, many, low=0.2, high=0.8),
        strength * dice.uniform(batch, many),
        *(0.25 * strength * dice.normal(2, batch, many)),
        *(0.9 * dice.normal(2, batch, many) * dice.chance(0.4 * strength, batch, many)),
    ]
    return torch.cat((torch.stack(maps, -1), base, second, third, torch.stack(mix, -1)), -1)


def draw_surface(dice: Dice, plan: Plan) -> Tensor:
    """(B, N, len(SURFACE)) how objects stand out from the background."""
    batch, slots = plan.active.shape
    hard = plan.hardness[:, None]
    relief, gloss = plan.knobs["relief"][:, None], plan.knobs["gloss"][:, None]
    camouflage = plan.knobs["camouflage"][:, None] * hard * dice.uniform(batch, slots).sqrt()
    camouflage = camouflage * dice.chance(0.7, batch, slots) * torch.where(plan.shared, 0.5, 1.0)
    values = (
        0.12 + 0.58 * dice.uniform(batch, slots),
        # An object coloured like its background must be recognisable by its shape: camouflage raises relief.
        (relief + 0.4 * camouflage) * dice.uniform(batch, slots, low=0.2, high=1.0),
        0.25 * relief * dice.uniform(batch, slots).square(),
        gloss * dice.uniform(batch, slots),
        0.6 + 5.0 * hard * dice.uniform(batch, slots) ** 4,
        camouflage,
        0.35 * hard * dice.normal(batch, slots),
        0.5 * dice.normal(batch, slots) * dice.chance(0.25, batch, slots),
        dice.chance(0.5, batch, slots).float(),
        dice.uniform(batch, slots),
    )
    return torch.stack(values, -1)


def albedo(atlas: Tensor, m: dict[str, Tensor], u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Colour (B, 3, S, S) of a material at its own coordinates, and its fine texture (B, S, S) in 0..1."""
    rows = atlas.shape[2]
    parts = []
    for suffix in ("", "2"):
        x = torch.remainder(m["xx" + suffix] * u + m["xy" + suffix] * v + m["x0" + suffix], 1.0)
        y = torch.remainder(m["yx" + suffix] * u + m["yy" + suffix] * v + m["y0" + suffix], 1.0)
        row = m["tile" + suffix] * (TILE + 1) + y * TILE
        parts.append(torch.stack((2 * x - 1, row * (2 / (rows - 1)) - 1), -1))
    grid = torch.cat(parts, 1)
    if grid.device.type == "cpu":  # parallel over the batch only
        texture = F.grid_sample(atlas.expand(len(grid), -1, -1, -1), grid, padding_mode="border", align_corners=True)
    else:
        texture = F.grid_sample(atlas, grid.flatten(0, 1)[None], padding_mode="border", align_corners=True)
    coarse, fine = texture.view(len(u), 2, *u.shape[1:]).unbind(1)
    mix = torch.sigmoid(m["sharp"] * (coarse - m["level"] + m["split_x"] * u + m["split_y"] * v))
    shade = m["detail"] * (fine - 0.5)
    slope = m["slope_x"] * u + m["slope_y"] * v
    channels = [
        torch.lerp(m[c], m[c + "1"], mix) + (m[c + "2"] + 0.3) * shade + slope * (0.5 + m[c]) * 0.7 for c in "rgb"
    ]
    return torch.stack(channels, 1), fine
