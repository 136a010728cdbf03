"""Light on the painted scene, and what a camera makes of it: field of view, blur, contrast, tint, noise."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from maskwright.data.scenes.dice import Dice
from maskwright.data.scenes.maps import blur, smooth
from maskwright.data.scenes.plan import Plan


def field_of_view(dice: Dice, plan: Plan, size: int) -> Tensor:
    """(B, S, S) false where the image is black: the corners or the surroundings of an endoscope's field of view."""
    batch = len(plan.hardness)
    axis = ((torch.arange(size, device=dice.device) + 0.5) * 2 / size - 1).abs()
    x, y = axis, axis[:, None]
    cut = dice.uniform(batch, 1, 1, low=1.25, high=1.7)
    octagon, circle = (x + y) < cut, (x.square() + y.square()) < (cut - 0.2).square()
    inside = torch.where(dice.chance(0.6, batch, 1, 1), octagon, circle)
    return inside | ~dice.chance(0.5 * plan.knobs["vignette"].square() * plan.hardness.sqrt(), batch)[:, None, None]


def light(dice: Dice, plan: Plan, image: Tensor, height: Tensor, gloss: Tensor) -> Tensor:
    """Light a height field from one side: diffuse and specular (Blinn-Phong), a gradient and a vignette."""
    batch, size = height.shape[:2]
    step = size / 4  # central difference over two pixels of 2 / size each
    padded = F.pad(height[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    nx = step * (padded[:, 1:-1, :-2] - padded[:, 1:-1, 2:])
    ny = step * (padded[:, :-2, 1:-1] - padded[:, 2:, 1:-1])
    scale = torch.rsqrt(nx.square() + ny.square() + 1)
    angle, tilt = dice.uniform(batch, 1, 1, high=2 * math.pi), dice.uniform(batch, 1, 1, low=0.1, high=1.1)
    lx, ly, lz = tilt.sin() * angle.cos(), tilt.sin() * angle.sin(), tilt.cos()
    diffuse = (nx * lx + ny * ly + lz) * scale / lz
    half = torch.rsqrt(lx.square() + ly.square() + (lz + 1).square())
    facing = ((nx * lx + ny * ly + lz + 1) * scale * half).clamp(min=1e-3)
    shine = gloss * facing ** (8 * 12 ** dice.uniform(batch, 1, 1)) * dice.uniform(batch, 1, 1)
    # On flat ground every pixel would shine alike: only what stands out from the median does.
    shine = (shine - shine.flatten(1).median(1).values[:, None, None]).clamp(min=0)
    # Small mirror images of the lamp on wet surfaces, where the surface about faces it.
    turned = (facing - facing.mean((1, 2), keepdim=True)) / (facing.std((1, 2), keepdim=True) + 0.02)
    spots = (
        smooth(dice.normal(batch, 36, 36), size) + turned.clamp(-2, 1.5) - dice.uniform(batch, 1, 1, low=2.4, high=4.5)
    )
    shine = shine + torch.sigmoid(8 * spots) * (gloss * plan.knobs["vignette"][:, None, None] ** 4).clamp(0, 0.9)
    axis = (torch.arange(size, device=dice.device) + 0.5) * 2 / size - 1
    slope = 0.35 * plan.hardness[:, None, None, None] * dice.normal(batch, 2, 1, 1)
    falloff = 1 + slope[:, :1] * axis + slope[:, 1:] * axis[:, None]
    dark = (0.6 * plan.knobs["vignette"] * plan.hardness * dice.uniform(batch)).view(-1, 1, 1, 1)
    falloff = falloff.clamp(min=0.2) * (1 - dark * (axis.square() + axis[:, None].square()) / 1.5)
    return image.clamp(0, 1) * (diffuse.clamp(0.15, 1.7)[:, None] * falloff) + shine[:, None]


def degrade(dice: Dice, plan: Plan, image: Tensor) -> Tensor:
    """Camera: blur, contrast, tint, gamma, noise."""
    batch, size = image.shape[0], image.shape[-1]
    hard = plan.hardness.view(-1, 1, 1, 1)
    image = blur(image, 0.1 + 0.6 * plan.hardness * dice.uniform(batch) ** 4)
    contrast = 1 - hard * dice.uniform(batch, 1, 1, 1, low=-0.5, high=0.45)
    image = image.mean((1, 2, 3), keepdim=True).lerp(image, contrast)
    tint = 1 + 0.12 * hard * dice.normal(batch, 3, 1, 1)
    image = (image * tint).clamp(1e-4, 1) ** torch.exp(0.3 * hard * dice.normal(batch, 1, 1, 1))
    grain = dice.normal(batch, 3, size, size) * (0.06 * hard * dice.uniform(batch, 1, 1, 1).square())
    return (image + grain).clamp(0, 1)
