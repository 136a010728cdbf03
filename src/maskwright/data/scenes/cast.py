"""The objects of all scenes: outline, size, place and material of each, drawn from the plan."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from maskwright.data.scenes.dice import Dice
from maskwright.data.scenes.materials import draw_material, draw_surface
from maskwright.data.scenes.plan import Plan

# Radius that gives each outline about the area of a disc of radius 1, so that thin ones are not drawn too small.
SPREAD = (1.0, 1.15, 1.25, 1.3, 1.5, 1.35, 1.2, 1.7, 2.1, 1.55, 1.6, 1.5, 1.65)
# How often each outline is drawn; outlines that resemble those of real objects are more frequent.
FREQUENCY = (0.0, 1.2, 1.6, 1.0, 0.5, 0.7, 0.7, 0.8, 0.7, 0.7, 0.8, 0.6, 1.8)


@dataclass(frozen=True)
class Cast:
    """The objects of all scenes; every tensor starts with (B, N). Slots are in painting order, the last in front."""

    identity: Tensor
    category: Tensor
    active: Tensor
    outline: Tensor  # (B, N, 12) free parameters of the outline in 0..1
    warp: Tensor  # (B, N, 2, 7, 7) control points of the outline's displacement
    rough: Tensor  # (B, N, 20, 20) control points of its fine roughness
    radius: Tensor
    angle: Tensor
    stretch: Tensor
    centre: Tensor  # (B, N, 2)
    material: Tensor  # (B, N, len(MATERIAL))
    surface: Tensor  # (B, N, len(SURFACE))


def draw_cast(dice: Dice, plan: Plan, size: int) -> Cast:
    batch, slots = plan.active.shape
    hard = plan.hardness[:, None]
    category = dice.choice(FREQUENCY, batch, slots)
    rounded = dice.chance(plan.knobs["round"][:, None], batch, slots)
    category = torch.where(rounded, 1 + dice.chance(0.4, batch, slots).long(), category)
    radius = _radius(dice, plan)
    material = draw_material(dice, plan.object, radius, size, 0.25 + 0.75 * hard)
    surface = draw_surface(dice, plan)
    wild = torch.where(plan.swarm[:, None], 0.07, 0.16) * hard * dice.uniform(batch, slots)
    warp = dice.normal(batch, slots, 2, 7, 7) * (0.02 + wild)[..., None, None, None]
    rough = dice.normal(batch, slots, 20, 20) * 0.05 * dice.uniform(batch, slots, 1, 1).square() * hard[..., None, None]
    again = plan.source != torch.arange(batch * slots, device=dice.device).view(batch, slots)

    def same(values: Tensor) -> Tensor:
        return values.flatten(0, 1)[plan.source]

    scale = torch.where(plan.swarm[:, None], dice.uniform(batch, slots, low=0.75, high=1.25), 1.0)
    scale = torch.where(again & ~plan.swarm[:, None], dice.uniform(batch, slots, low=0.6, high=1.6), scale)
    radius = (same(radius) * scale).clamp(0.05, 1.3)
    category = same(category)
    spread = torch.tensor(SPREAD, device=dice.device)[category]
    bend = 0.06 * plan.swarm[:, None] + 0.05
    cast = Cast(
        identity=plan.source + 1,
        category=category,
        active=plan.active,
        outline=same(dice.uniform(batch, slots, 12)),
        warp=same(warp) + (again * bend)[..., None, None, None] * dice.normal(batch, slots, 2, 7, 7),
        rough=same(rough),
        radius=(radius * spread).clamp(max=1.6),
        angle=dice.uniform(batch, slots, high=2 * math.pi),
        stretch=same(dice.uniform(batch, slots, low=0.75)),
        centre=_centres(dice, plan),
        material=same(material),
        surface=same(surface),
    )
    # A shared object in the first slot goes to the front, so that every pair has an identity that is seen twice.
    key = dice.uniform(batch, slots) + (plan.shared & (torch.arange(slots, device=dice.device) == 0))
    order = key.argsort(1)
    rows = torch.arange(batch, device=dice.device)[:, None]
    return replace(cast, **{f.name: getattr(cast, f.name)[rows, order] for f in fields(cast)})


def _radius(dice: Dice, plan: Plan) -> Tensor:
    """(B, N) radii of round objects: single ones large, swarms small, the others anything; log-uniform."""
    batch, slots = plan.active.shape
    u = dice.uniform(batch, slots)
    crowd = math.sqrt(8 / max(slots, 8))
    swarm = 0.06 * (4.5 ** dice.uniform(batch, 1)) * crowd * torch.ones_like(u)
    solo = 0.25 * 5**u
    several = 0.09 * 7.5**u
    apart = 0.14 + 0.2 * u  # without overlap if placed on a grid
    mixed = torch.where(plan.swarm[:, None], swarm, torch.where(plan.solo[:, None], solo, several))
    return torch.lerp(torch.where(plan.swarm[:, None], swarm, apart), mixed, plan.hardness[:, None].sqrt())


def _centres(dice: Dice, plan: Plan) -> Tensor:
    """(B, N, 2) centres: apart on a grid where a scene is easy, anywhere (even half outside) where it is hard."""
    batch, slots = plan.active.shape
    side = math.ceil(math.sqrt(slots))
    cell = dice.uniform(batch, side * side).argsort(1)[:, :slots]
    grid = (
        torch.stack((cell % side, cell // side), -1) + 0.5 + dice.uniform(batch, slots, 2, low=-0.2, high=0.2)
    ) * 2 / side - 1
    anywhere = dice.uniform(batch, slots, 2, low=-1.0, high=1.0)
    heap = 0.5 * dice.normal(batch, slots, 2) + dice.uniform(batch, 1, 2, low=-0.4, high=0.4)
    anywhere = torch.where(dice.chance(0.3, batch, 1, 1), heap, anywhere)
    inside = torch.where((plan.solo[:, None] | plan.shared)[..., None], 0.6, 1.0)
    chaos = (plan.hardness[:, None] * torch.where(plan.swarm[:, None], 0.6, 1.0))[..., None].sqrt()
    return torch.lerp(grid, anywhere, chaos).clamp(-0.95, 0.95) * inside
