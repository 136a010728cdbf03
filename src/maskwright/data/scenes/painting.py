"""Painting: background regions, deferred shading of the objects in front, their shadows."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from maskwright.data.scenes.camera import degrade, light
from maskwright.data.scenes.cast import Cast
from maskwright.data.scenes.dice import Dice
from maskwright.data.scenes.maps import blur, look_up, lowest, smooth
from maskwright.data.scenes.materials import MATERIAL, PLACE, SURFACE, albedo, draw_material
from maskwright.data.scenes.outlines import FRAME, REACH
from maskwright.data.scenes.plan import Plan


def _background(dice: Dice, plan: Plan, atlas: Tensor, size: int, regions: int = 6) -> tuple[Tensor, Tensor]:
    """Background colour (B, 3, S, S) and height (B, S, S): regions that are no objects, each with its own material.

    A pixel belongs to the nearest region by the distance to its site, measured round (Voronoi cells) or along one
    direction only (bands, a horizon), plus a noise of its own (patches).
    """
    batch = len(plan.hardness)
    axis = (torch.arange(size, device=dice.device) + 0.5) * 2 / size - 1
    x, y = axis.expand(size, size), axis[:, None].expand(size, size)
    site = dice.uniform(batch, regions, 2, 1, 1, low=-1.0)
    turn, flat = dice.uniform(batch, 1, 1, 1, high=math.pi), dice.chance(0.4, batch, 1, 1, 1)
    dx, dy = x - site[:, :, 0], y - site[:, :, 1]
    along, across = dx * turn.cos() + dy * turn.sin(), dy * turn.cos() - dx * turn.sin()
    patchy = dice.uniform(batch, 1, 1, 1).square() * 1.5
    distance = along.square() + across.square() * ~flat - patchy * smooth(dice.normal(batch, regions, 9, 9), size)
    region = lowest(distance)[1]
    hard = plan.hardness[:, None]
    reach = torch.ones(batch, regions, device=dice.device)
    material = draw_material(dice, plan.ground, reach, size, hard.sqrt() * plan.knobs["texture"][:, None])
    alike = plan.knobs["regions"][:, None, None] * hard[..., None].sqrt()
    first, last = MATERIAL.index("r"), MATERIAL.index("b1") + 1
    material[:, :, first:last] = torch.lerp(material[:, :1, first:last], material[:, :, first:last], alike)
    colour, fine = albedo(atlas, look_up(material, MATERIAL, region), x.expand(batch, -1, -1), y.expand(batch, -1, -1))
    folds = smooth(dice.normal(batch, 1, 8, 8), size)[:, 0]
    folds = torch.where(dice.chance(0.5, batch, 1, 1), 0.12 * folds, -0.25 * (folds.abs() + 0.02).sqrt())
    relief = (plan.knobs["relief"] * plan.hardness * dice.uniform(batch))[:, None, None]
    return colour, relief * (folds + 0.1 * plan.knobs["texture"][:, None, None] * fine)


def paint(dice: Dice, plan: Plan, cast: Cast, field: Tensor, frame: Tensor, instances: Tensor, atlas: Tensor) -> Tensor:
    """Colour, light and degrade all scenes: (B, 3, S, S)."""
    batch, size = field.shape[0], field.shape[-1]
    ground, ground_height = _background(dice, plan, atlas, size)
    ground = blur(ground, plan.hardness * dice.uniform(batch) * dice.chance(0.35, batch))
    # Just outside an object its soft edge still shows; take the nearest object there.
    closest, nearest = lowest(field)
    near = torch.where(instances > 0, instances - 1, nearest)
    table = torch.cat(
        (_apart(cast, plan, ground), cast.surface, frame.flatten(2), cast.radius[..., None] * size / 2), -1
    )
    m = look_up(table, MATERIAL + SURFACE + PLACE, near)
    axis = (torch.arange(size, device=dice.device) + 0.5) * 2 / size - 1
    u = m["ux"] * axis + m["uy"] * axis[:, None] + m["u0"]
    v = m["vx"] * axis + m["vy"] * axis[:, None] + m["v0"]
    depth = -torch.where(instances > 0, field.gather(1, near[:, None])[:, 0], closest)
    colour, fine = albedo(atlas, m, u, v)
    inside = depth / m["radius"]
    colour = colour * (1 + m["radial"] * (inside.clamp(0, 1) - 0.3))[:, None]
    hidden = torch.lerp(ground.flip(-1), ground, m["underlay"][:, None])
    colour = torch.lerp(colour, hidden, m["camouflage"][:, None])
    colour = colour * (1 + m["rim"] * torch.exp(-(depth / 1.5).square()))[:, None]
    # Where an object lies on another one there is no background to shine through its edge.
    lone = (field < 0).sum(1) < 2
    # Beyond an object's own frame the distance to it is unknown: a soft edge must have faded out before.
    fade = (1 + inside / (0.9 * (FRAME - REACH))).clamp(0, 1)
    alpha = torch.where(lone, torch.sigmoid(3 * depth / m["soft"]) * fade, 1.0)
    rise = (inside / m["bevel"]).clamp(0, 1)
    # From a dome with a steep rim to a swelling without one.
    profile = torch.lerp((rise * (2 - rise)).sqrt(), rise.square() * (3 - 2 * rise), m["foot"])
    body = m["height"] * m["radius"] / size * profile + 0.1 * m["bump"] * fine
    height = ground_height + alpha * body
    image = torch.lerp(ground * _shadow(dice, plan, alpha), colour, alpha[:, None])
    gloss = torch.lerp(plan.knobs["gloss"][:, None, None].expand_as(alpha) * 0.5, m["gloss"], alpha)
    return degrade(dice, plan, light(dice, plan, image, height, gloss))


def _apart(cast: Cast, plan: Plan, ground: Tensor) -> Tensor:
    """(B, N, len(MATERIAL)) materials; in easy scenes with a brightness up to 0.45 away from the background's."""
    grey = ground.mean((1, 2, 3))[:, None]
    first = MATERIAL.index("r")
    brightness = cast.material[..., first : first + 6].mean(-1)
    margin = 0.45 * (1 - plan.hardness[:, None]).square()
    side = torch.where(grey > 0.55, -1.0, torch.where(grey < 0.4, 1.0, torch.where(brightness < grey, -1.0, 1.0)))
    shift = side * (margin - side * (brightness - grey)).clamp(min=0)
    material = cast.material.clone()
    material[..., first : first + 6] += shift[..., None]
    return material


def _shadow(dice: Dice, plan: Plan, alpha: Tensor) -> Tensor:
    """(B, 1, S, S) how much light the objects leave to the background: their outline, displaced and blurred."""
    batch, size = alpha.shape[:2]
    coarse = F.avg_pool2d(alpha[:, None], 4)
    coarse = F.avg_pool2d(F.pad(coarse, (1, 1, 1, 1), mode="replicate"), 3, 1)
    affine = torch.eye(2, 3, device=dice.device).repeat(batch, 1, 1)
    affine[:, :, 2] = 0.12 * dice.normal(batch, 2)
    grid = F.affine_grid(affine, [batch, 1, size, size], align_corners=False)
    cover = F.grid_sample(coarse, grid, padding_mode="border", align_corners=False)
    strength = 0.6 * dice.uniform(batch) * dice.chance(0.4, batch) * plan.knobs["relief"].sqrt()
    return 1 - strength[:, None, None, None] * cover
