"""What each scene is to hold, before any object is drawn: its kind of image, how many objects, which ones repeat."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from maskwright.data.scenes.dice import Dice


@dataclass(frozen=True)
class _Style:
    """A kind of image: colours as ranges of hue, saturation, value; the rest are probabilities or bounds in 0..1."""

    weight: float
    ground: tuple[float, float, float, float, float, float]  # hue from, to, saturation from, to, value from, to
    object: tuple[float, float, float, float, float, float]
    swarm: float = 0.1  # probability of many small copies
    solo: float = 0.35  # probability of a single object
    round: float = 0.2  # probability that an object is a disc or blob whatever its drawn category
    texture: float = 1.0  # strength of texture on the background
    relief: float = 0.4  # height of folds of the background and of objects
    gloss: float = 0.3
    camouflage: float = 0.6
    vignette: float = 0.3
    regions: float = 0.6  # how much the regions of the background differ


_STYLES = (
    _Style(3.0, (0.0, 1.0, 0.0, 0.6, 0.15, 0.95), (0.0, 1.0, 0.0, 0.9, 0.05, 1.0)),  # anything
    _Style(2.0, (0.18, 0.40, 0.1, 0.7, 0.15, 0.8), (0.0, 1.0, 0.0, 0.8, 0.05, 1.0), round=0.1, regions=1.0),  # meadow
    _Style(1.5, (0.04, 0.13, 0.1, 0.6, 0.2, 0.85), (0.0, 0.16, 0.0, 0.7, 0.05, 1.0), round=0.1, regions=0.9),  # earth
    _Style(1.2, (0.50, 0.66, 0.1, 0.6, 0.3, 0.95), (0.0, 1.0, 0.0, 0.8, 0.05, 0.9), texture=0.5, regions=0.8),  # sky
    _Style(
        2.6, (-0.03, 0.08, 0.3, 0.75, 0.45, 0.95), (-0.04, 0.09, 0.25, 0.75, 0.5, 1.0),
        swarm=0.03, solo=0.65, round=0.85, texture=0.55, relief=1.0, gloss=1.0, camouflage=0.9, vignette=1.0,
        regions=0.4,
    ),  # endoscopy
    _Style(
        1.8, (0.0, 1.0, 0.0, 0.3, 0.02, 0.12), (0.0, 1.0, 0.0, 0.25, 0.2, 0.95),
        swarm=0.85, solo=0.05, round=0.85, texture=0.4, relief=0.05, gloss=0.0, camouflage=0.3, regions=0.2,
    ),  # fluorescence
    _Style(
        1.4, (0.78, 0.95, 0.08, 0.45, 0.65, 0.97), (0.68, 0.86, 0.3, 0.7, 0.25, 0.7),
        swarm=0.85, solo=0.05, round=0.85, texture=0.6, relief=0.05, gloss=0.0, camouflage=0.5, regions=0.7,
    ),  # stained tissue
    _Style(
        1.2, (0.0, 1.0, 0.0, 0.06, 0.35, 0.85), (0.0, 1.0, 0.0, 0.06, 0.1, 1.0),
        swarm=0.5, solo=0.2, round=0.6, texture=0.6, relief=0.3, gloss=0.1, camouflage=0.7, regions=0.4,
    ),  # grey
    _Style(
        1.2, (0.0, 1.0, 0.0, 0.12, 0.25, 0.8), (0.0, 0.15, 0.0, 0.35, 0.1, 0.9),
        texture=1.0, relief=0.3, gloss=0.6, camouflage=0.8, regions=0.3,
    ),  # metal and stone
    _Style(
        1.5, (0.0, 1.0, 0.0, 0.4, 0.5, 1.0), (0.0, 1.0, 0.0, 0.9, 0.05, 0.9),
        solo=0.5, texture=0.15, regions=0.1,
    ),  # studio
)  # fmt: skip
_KNOBS = ("swarm", "solo", "round", "texture", "relief", "gloss", "camouflage", "vignette", "regions")


@dataclass(frozen=True)
class Plan:
    """What each scene is to hold, before any object is drawn. Tensors are (B,), (B, N) where noted."""

    hardness: Tensor
    knobs: dict[str, Tensor]
    ground: Tensor  # (B, 6) colour range of the background
    object: Tensor  # (B, 6) colour range of the objects
    swarm: Tensor
    solo: Tensor
    active: Tensor  # (B, N)
    source: Tensor  # (B, N) flat index of the slot that this slot takes its identity from
    shared: Tensor  # (B, N) slots that also appear in the partner scene


def draw_plan(dice: Dice, batch: int, slots: int, pairs: bool, difficulty: float) -> Plan:
    hardness = difficulty * dice.uniform(batch, low=0.25)
    style = dice.choice(tuple(s.weight for s in _STYLES), batch)
    if pairs:  # usually the same kind of image again, as in a real data set
        keep = dice.chance(0.75, batch // 2)
        style = torch.stack((style[0::2], torch.where(keep, style[0::2], style[1::2])), 1).flatten()
    knobs = {k: torch.tensor([getattr(s, k) for s in _STYLES], device=dice.device)[style] for k in _KNOBS}
    swarm = dice.chance(knobs["swarm"], batch)
    solo = dice.chance(knobs["solo"], batch) & ~swarm
    share = torch.where(swarm, dice.uniform(batch, low=0.6), dice.uniform(batch).square())
    count = torch.where(solo, 1, 1 + (share * slots).long()).clamp(max=slots)
    slot = torch.arange(slots, device=dice.device).expand(batch, slots)
    # A swarm repeats one or two objects; elsewhere a slot now and then repeats the one before it.
    repeated = torch.where(dice.chance(0.15, batch, slots), (slot - 1).clamp(min=0), slot)
    kinds = 1 + dice.chance(0.3, batch, 1).long()
    source = torch.where(swarm[:, None], slot % kinds, repeated)
    scene = torch.arange(batch, device=dice.device)[:, None].expand(batch, slots)
    shared = torch.zeros_like(source, dtype=torch.bool)
    if pairs:
        number = 1 + dice.integer(3, batch // 2).repeat_interleave(2)
        number = torch.minimum(number, count.view(-1, 2).amin(1).repeat_interleave(2))
        shared = source < number[:, None]
        odd = (scene % 2 == 1) & shared
        origin = source.view(-1, 2, slots)[:, 0].repeat_interleave(2, 0)  # the partner's own slots may repeat, too
        source = torch.where(odd, origin.gather(1, source), source)
        scene = torch.where(odd, scene - 1, scene)
    ranges = torch.tensor([(s.ground, s.object) for s in _STYLES], device=dice.device)[style]
    return Plan(
        hardness, knobs, ranges[:, 0], ranges[:, 1], swarm, solo, slot < count[:, None], scene * slots + source, shared
    )
