"""Procedural scenes: unlimited images with exact instance masks, drawn in batches.

A scene is a background of several textured regions under one light, with objects painted over it. Objects are drawn in
three steps, all batched over scenes:

1. every object's outline is an implicit function on a small grid of its own (negative inside), warped by smooth noise;
2. the grids are laid into the image by an affine map each, back to front, which gives the instance map;
3. colour is computed once per pixel for whichever object is on top (deferred shading), then lit, blurred and degraded.

Coordinates in this file: the image spans ``[-1, 1]`` in x and y, an object's own frame has its outline within radius 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor

CATEGORY_NAMES: tuple[str, ...] = (
    "background",
    "disc",
    "blob",
    "polygon",
    "star",
    "flower",
    "ring",
    "bar",
    "tube",
    "crescent",
    "leaf",
    "cross",
    "figure",
)
"""Name of each category id; a category is a class of outline, whatever its colour and texture."""

# Radius that gives each outline about the area of a disc of radius 1, so that thin ones are not drawn too small.
_SPREAD = (1.0, 1.15, 1.25, 1.3, 1.5, 1.35, 1.2, 1.7, 2.1, 1.55, 1.6, 1.5, 1.65)
# How often each outline is drawn: more often what the outlines of real things resemble.
_FREQUENCY = (0.0, 1.2, 1.6, 1.0, 0.5, 0.7, 0.7, 0.8, 0.7, 0.7, 0.8, 0.6, 1.8)
_FRAME = 1.35  # half-width of the grid on which an outline is evaluated
_REACH = 1.15  # no outline lies further out
_TILE = 128  # texels along a side of a texture
_MIN_VISIBLE = 0.0005  # instances that show less than this share of the image are left out of the labels


@dataclass(frozen=True)
class Scenes:
    """A batch of B scenes of S x S pixels with N = ``max_objects`` slots for instances.

    Attributes:
        images: (B, 3, S, S) float32 in 0..1.
        instances: (B, S, S) int64; 0 = background, k = the visible pixels of instance k, 1 <= k <= N. The larger
            id lies in front. Ids need not be contiguous: slots that are unused or (nearly) hidden are missing.
        categories: (B, N) int64; category of instance k at ``[:, k - 1]``, an index into ``CATEGORY_NAMES``; 0 exactly
            where instance k has no pixel.
        identities: (B, N) int64; equal positive numbers mean the same object (outline, texture, colour) seen again, in
            the same or in another scene of this batch; 0 where the category is 0.
    """

    images: Tensor
    instances: Tensor
    categories: Tensor
    identities: Tensor


def render(
    batch: int,
    size: int = 128,
    *,
    seed: int | torch.Generator,
    device: str | torch.device = "cpu",
    max_objects: int = 8,
    pairs: bool = False,
    difficulty: float = 1.0,
) -> Scenes:
    """Draw a batch of scenes. The same seed gives the same bytes on the same device.

    Args:
        batch: number of scenes; even with ``pairs``.
        size: pixels along a side, at least 32.
        seed: an integer, or a generator on ``device`` (which moves on).
        max_objects: slots for instances; a scene uses between one and all of them.
        pairs: scenes ``2i`` and ``2i + 1`` share one to three identities, one of them in front of all else in both, at
            another place, angle and size, in another light and before another background.
        difficulty: 0 = bright plain objects apart from each other on plain backgrounds; 1 = camouflage, blur, noise,
            occlusion and texture as strong as they come. Each scene draws its own share of it.

    Raises:
        ValueError: an argument out of range, or a generator on another device.
    """
    if batch < 1 or size < 32 or max_objects < 1 or not 0.0 <= difficulty <= 1.0 or (pairs and batch % 2):
        raise ValueError(
            f"render needs batch >= 1 (even with pairs), size >= 32, max_objects >= 1 and difficulty in 0..1; "
            f"got batch={batch}, size={size}, max_objects={max_objects}, pairs={pairs}, difficulty={difficulty}"
        )
    dice = _Dice(seed, torch.device(device))
    # Under a caller's autocast the matrix products that carry texture coordinates would round them to whole texels.
    with torch.no_grad(), torch.autocast(dice.device.type, enabled=False):
        plan = _plan(dice, batch, max_objects, pairs, difficulty)
        cast = _cast(dice, plan, size)
        frame = _own_frames(cast)
        field = _lay_out(cast, frame, size)
        instances = _label(field)
        framed = _frame(dice, plan, size)
        instances = instances * framed
        atlas = _atlas(_textures(dice))
        images = _paint(dice, plan, cast, field, frame, instances, atlas) * framed[:, None]
    area = torch.zeros(batch, max_objects + 1, device=dice.device)
    area.scatter_add_(1, instances.flatten(1), torch.ones_like(instances.flatten(1), dtype=area.dtype))
    shown = area[:, 1:] >= max(4.0, _MIN_VISIBLE * size * size)
    instances = instances * F.pad(shown, (1, 0)).gather(1, instances.flatten(1)).view_as(instances)
    return Scenes(images, instances, cast.category * shown, cast.identity * shown)


class _Dice:
    """Random tensors from one generator."""

    def __init__(self, seed: int | torch.Generator, device: torch.device) -> None:
        if isinstance(seed, torch.Generator) and seed.device.type != device.type:
            raise ValueError(
                f"the generator is on {seed.device}, the scenes are to be drawn on {device}: use one device"
            )
        self.device = device
        self.generator = seed if isinstance(seed, torch.Generator) else torch.Generator(device).manual_seed(seed)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=self.generator, device=self.device)

    def between(self, low: Tensor, high: Tensor) -> Tensor:
        return low + (high - low) * self.uniform(*low.shape)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, device=self.device)

    def chance(self, probability: Tensor | float, *shape: int) -> Tensor:
        return self.uniform(*shape) < probability

    def choice(self, weights: tuple[float, ...], *shape: int) -> Tensor:
        table = torch.tensor(weights, device=self.device)
        return torch.multinomial(table, math.prod(shape), replacement=True, generator=self.generator).view(shape)

    def integer(self, high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=self.generator, device=self.device)


# ---------------------------------------------------------------------------------------------------------------------
# What is in a scene
# ---------------------------------------------------------------------------------------------------------------------


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
class _Plan:
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


def _plan(dice: _Dice, batch: int, slots: int, pairs: bool, difficulty: float) -> _Plan:
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
    return _Plan(
        hardness, knobs, ranges[:, 0], ranges[:, 1], swarm, solo, slot < count[:, None], scene * slots + source, shared
    )


@dataclass(frozen=True)
class _Cast:
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
    material: Tensor  # (B, N, len(_MATERIAL))
    surface: Tensor  # (B, N, len(_SURFACE))


def _cast(dice: _Dice, plan: _Plan, size: int) -> _Cast:
    batch, slots = plan.active.shape
    hard = plan.hardness[:, None]
    category = dice.choice(_FREQUENCY, batch, slots)
    rounded = dice.chance(plan.knobs["round"][:, None], batch, slots)
    category = torch.where(rounded, 1 + dice.chance(0.4, batch, slots).long(), category)
    radius = _radius(dice, plan)
    material = _material(dice, plan.object, radius, size, 0.25 + 0.75 * hard)
    surface = _surface(dice, plan)
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
    spread = torch.tensor(_SPREAD, device=dice.device)[category]
    bend = 0.06 * plan.swarm[:, None] + 0.05
    cast = _Cast(
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


def _radius(dice: _Dice, plan: _Plan) -> Tensor:
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


def _centres(dice: _Dice, plan: _Plan) -> Tensor:
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


# ---------------------------------------------------------------------------------------------------------------------
# Outlines
# ---------------------------------------------------------------------------------------------------------------------


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


_OUTLINES: tuple[Callable[[Tensor, Tensor, Tensor], Tensor], ...] = (
    _disc, _blob, _polygon, _star, _flower, _ring, _bar, _tube, _crescent, _leaf, _cross, _figure,
)  # fmt: skip


def _smooth(control: Tensor, size: int) -> Tensor:
    """Cubic B-spline surface through a (..., n, n) grid of control points, (..., size, size); n >= 4."""
    n = control.shape[-1]
    at = torch.linspace(1, n - 2 - 1e-4, size, device=control.device)
    t = (at[:, None] - torch.arange(n, device=control.device)).abs()
    basis = torch.where(t < 1, 2 / 3 - t * t + t**3 / 2, (2 - t).clamp(min=0) ** 3 / 6)
    return 2 * (basis @ control @ basis.mT)  # the spline halves the deviation of white noise


def _outlines(cast: _Cast, resolution: int) -> Tensor:
    """(B * N, resolution, resolution) outlines in their own frames: negative inside, in units of the radius."""
    category = cast.category.flatten()
    axis = ((torch.arange(resolution, device=category.device) + 0.5) * 2 / resolution - 1) * _FRAME
    warp = _smooth(cast.warp.flatten(0, 1), resolution)
    x, y = axis + warp[:, 0], axis[:, None] + warp[:, 1]
    field = torch.empty_like(x)
    p = cast.outline.flatten(0, 1).T[..., None, None]
    for index, outline in enumerate(_OUTLINES):
        rows = (category == index + 1).nonzero()[:, 0]
        field[rows] = outline(x[rows], y[rows], p[:, rows])
    # The frame's rim is continued outwards when a grid is sampled beyond it: close every outline before.
    limit = (axis.square() + axis[:, None].square()).sqrt() - _REACH
    return torch.maximum(field + _smooth(cast.rough.flatten(0, 1), resolution), limit)


def _own_frames(cast: _Cast) -> Tensor:
    """(B, N, 2, 3) affine maps from the image to each object's own frame."""
    c, s = cast.angle.cos() / cast.radius, cast.angle.sin() / cast.radius
    linear = torch.stack((c, s, -s / cast.stretch, c / cast.stretch), -1).view(*c.shape, 2, 2)
    return torch.cat((linear, -(linear @ cast.centre[..., None])), -1)


def _lay_out(cast: _Cast, frame: Tensor, size: int) -> Tensor:
    """Lay every outline into the image: (B, N, S, S) distance from it in pixels (approximate), negative inside."""
    batch, slots = cast.active.shape
    grids = _outlines(cast, min(max(size // 2, 48), 96))
    places = F.affine_grid(frame.flatten(0, 1) / _FRAME, [batch * slots, 1, size, size], align_corners=False)
    field = F.grid_sample(grids[:, None], places, padding_mode="border", align_corners=False)
    field = field.view(batch, slots, size, size) * (cast.radius * size / 2)[..., None, None]
    return field.masked_fill_(~cast.active[..., None, None], float(size))


def _label(field: Tensor) -> Tensor:
    """(B, S, S) id of the frontmost object of each pixel, 0 where there is none."""
    instances = torch.zeros(field.shape[0], *field.shape[2:], dtype=torch.int64, device=field.device)
    for k in range(field.shape[1]):
        instances.masked_fill_(field[:, k] < 0, k + 1)
    return instances


# ---------------------------------------------------------------------------------------------------------------------
# Textures and materials
# ---------------------------------------------------------------------------------------------------------------------


def _textures(dice: _Dice, count: int = 48) -> Tensor:
    """A fresh bank of periodic textures (count, 128, 128) in 0..1: noise, warped noise, ridges, patterns, cells."""
    steps = torch.fft.fftfreq(_TILE, 1 / _TILE, device=dice.device)
    turn, squeeze = dice.uniform(count, 1, 1, high=math.pi), 1 + 5 * dice.uniform(count, 1, 1).square()
    along = steps * turn.cos() + steps[:, None] * turn.sin()
    across = steps[:, None] * turn.cos() - steps * turn.sin()
    knee, slope = dice.uniform(count, 1, 1, low=1.0, high=6.0), dice.uniform(count, 1, 1, low=0.7, high=2.4)
    power = (knee**2 + along.square() + (across / squeeze).square()) ** (-slope / 2)
    spectrum = torch.complex(dice.normal(count, _TILE, _TILE), dice.normal(count, _TILE, _TILE)) * power
    noise = torch.fft.ifft2(spectrum).real
    noise = (noise - noise.mean((1, 2), keepdim=True)) / noise.std((1, 2), keepdim=True)
    part = count // 6
    smooth, warped, ridged, waves, cells = noise.split((count - 4 * part, part, part, part, part))
    axis = torch.arange(_TILE, device=dice.device)
    bend = (6 * smooth[: 2 * part]).long()
    rows, columns = (axis[:, None] + bend[:part]) % _TILE, (axis + bend[part:]) % _TILE
    warped = warped.flatten(1).gather(1, (rows * _TILE + columns).flatten(1)).view_as(warped)
    ridged = 2.5 * torch.exp(-ridged.abs() * dice.uniform(part, 1, 1, low=2.0, high=9.0)) - 1
    return torch.sigmoid(1.7 * torch.cat((smooth, warped, ridged, _patterns(dice, waves), _cells(dice, cells))))


def _patterns(dice: _Dice, noise: Tensor) -> Tensor:
    """Stripes, checks and dots bent by noise, from whole wave numbers so that they stay periodic."""
    part = len(noise)
    axis = torch.arange(_TILE, device=dice.device) * (2 * math.pi / _TILE)
    wave = dice.integer(23, part, 2, 1, 1) - 11
    bend = dice.uniform(part, 1, 1, high=1.2) * noise
    first = torch.sin(wave[:, 0] * axis + wave[:, 1] * axis[:, None] + bend)
    second = torch.sin(wave[:, 0] * axis[:, None] - wave[:, 1] * axis + bend)
    kind = dice.integer(3, part, 1, 1)
    pattern = torch.where(kind == 0, first, torch.where(kind == 1, 2 * first * second, 3 * first * second - 1.0))
    return dice.uniform(part, 1, 1, low=0.8, high=3.0) * pattern


def _cells(dice: _Dice, noise: Tensor) -> Tensor:
    """Cells around random points of a torus: distance to the nearest point, or to the wall between two."""
    part, half = len(noise), _TILE // 2
    axis = torch.arange(half, device=dice.device) / half
    points = dice.uniform(part, 24, 2, 1, 1)
    dx, dy = (axis - points[:, :, 0]).abs(), (axis[:, None] - points[:, :, 1]).abs()
    distance = torch.minimum(dx, 1 - dx).square() + torch.minimum(dy, 1 - dy).square()
    near, next_ = distance.sqrt().topk(2, dim=1, largest=False).values.unbind(1)
    field = torch.where(dice.chance(0.5, part, 1, 1), 14 * near - 1.5, 12 * (next_ - near) - 1)
    return F.interpolate(field[:, None], scale_factor=2, mode="bilinear")[:, 0] + 0.3 * noise


def _atlas(bank: Tensor) -> Tensor:
    """All textures below each other in one picture (1, 1, T * 129, 129), each continued by a texel of its own start."""
    return F.pad(bank[:, None], (0, 1, 0, 1), mode="circular").reshape(1, 1, -1, _TILE + 1)


# Two textures, each with an affine map from object coordinates to tiles; three colours; how they are mixed: by the
# first texture (and, where an object has two sides, by place), with the second and a gradient of brightness on top.
_MATERIAL = (
    "xx", "xy", "yx", "yy", "x0", "y0", "tile", "xx2", "xy2", "yx2", "yy2", "x02", "y02", "tile2",
    "r", "g", "b", "r1", "g1", "b1", "r2", "g2", "b2", "sharp", "level", "detail", "slope_x", "slope_y",
    "split_x", "split_y",
)  # fmt: skip
_SURFACE = ("bevel", "height", "bump", "gloss", "soft", "camouflage", "radial", "rim", "underlay", "foot")
_PLACE = ("ux", "uy", "u0", "vx", "vy", "v0", "radius")


def _rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """HSV, each (...,), to RGB (..., 3)."""
    k = (hue[..., None] * 6 + torch.tensor([5.0, 3.0, 1.0], device=hue.device)) % 6
    return value[..., None] * (1 - saturation[..., None] * torch.minimum(k, 4 - k).clamp(0, 1))


def _material(dice: _Dice, colours: Tensor, radius: Tensor, size: int, strength: Tensor) -> Tensor:
    """(B, M, len(_MATERIAL)) materials in the given (B, 6) ranges of colour for parts of the given (B, M) radius."""
    batch, many = radius.shape
    low, high = colours[:, None, 0::2].expand(batch, many, 3), colours[:, None, 1::2].expand(batch, many, 3)
    hue, saturation, value = dice.between(low, high).unbind(-1)
    base = _rgb(hue, saturation, value)
    turn = dice.normal(batch, many, 3) * torch.tensor([0.05, 0.2, 0.38], device=dice.device) * strength[..., None]
    second = _rgb(hue + turn[..., 0], (saturation + turn[..., 1]).clamp(0, 1), (value + turn[..., 2]).clamp(0, 1))
    other = _rgb(*dice.between(low, high).unbind(-1))
    second = torch.where(dice.chance(0.3 * strength, batch, many)[..., None], other, second)
    third = 0.8 * strength[..., None] * (0.7 * dice.normal(batch, many, 1) + 0.3 * dice.normal(batch, many, 3))
    finest = 1.2 * radius * size / 2 / _TILE  # tiles per unit at which a texel is about a pixel
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


def _surface(dice: _Dice, plan: _Plan) -> Tensor:
    """(B, N, len(_SURFACE)) how objects stand out from the background."""
    batch, slots = plan.active.shape
    hard = plan.hardness[:, None]
    relief, gloss = plan.knobs["relief"][:, None], plan.knobs["gloss"][:, None]
    camouflage = plan.knobs["camouflage"][:, None] * hard * dice.uniform(batch, slots).sqrt()
    camouflage = camouflage * dice.chance(0.7, batch, slots) * torch.where(plan.shared, 0.5, 1.0)
    values = (
        0.12 + 0.58 * dice.uniform(batch, slots),
        # What hides by colour is to be told by its shape: camouflage raises relief.
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


def _gather(table: Tensor, names: tuple[str, ...], index: Tensor) -> dict[str, Tensor]:
    """Values of a (B, M, P) table at a (B, S, S) index into M: P maps (B, S, S) by name."""
    # A product with the one-hot index: several times faster on a CPU than gathering, and as exact.
    known = torch.arange(table.shape[1], device=index.device)[:, None]
    chosen = (index.flatten(1)[:, None] == known).to(table.dtype)
    maps = (table.mT @ chosen).view(len(index), len(names), *index.shape[1:])
    return dict(zip(names, maps.unbind(1), strict=True))


def _nearest(field: Tensor) -> tuple[Tensor, Tensor]:
    """Minimum of a (B, M, S, S) field over M, and where it is; a loop, as reducing over that axis is slow on a CPU."""
    best, where = field[:, 0].clone(), torch.zeros_like(field[:, 0], dtype=torch.int64)
    for k in range(1, field.shape[1]):
        where.masked_fill_(field[:, k] < best, k)
        torch.minimum(best, field[:, k], out=best)
    return best, where


def _albedo(atlas: Tensor, m: dict[str, Tensor], u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Colour (B, 3, S, S) of a material at its own coordinates, and its fine texture (B, S, S) in 0..1."""
    rows = atlas.shape[2]
    parts = []
    for suffix in ("", "2"):
        x = torch.remainder(m["xx" + suffix] * u + m["xy" + suffix] * v + m["x0" + suffix], 1.0)
        y = torch.remainder(m["yx" + suffix] * u + m["yy" + suffix] * v + m["y0" + suffix], 1.0)
        row = m["tile" + suffix] * (_TILE + 1) + y * _TILE
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


# ---------------------------------------------------------------------------------------------------------------------
# Painting
# ---------------------------------------------------------------------------------------------------------------------


def _background(dice: _Dice, plan: _Plan, atlas: Tensor, size: int, regions: int = 6) -> tuple[Tensor, Tensor]:
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
    distance = along.square() + across.square() * ~flat - patchy * _smooth(dice.normal(batch, regions, 9, 9), size)
    region = _nearest(distance)[1]
    hard = plan.hardness[:, None]
    reach = torch.ones(batch, regions, device=dice.device)
    material = _material(dice, plan.ground, reach, size, hard.sqrt() * plan.knobs["texture"][:, None])
    alike = plan.knobs["regions"][:, None, None] * hard[..., None].sqrt()
    first, last = _MATERIAL.index("r"), _MATERIAL.index("b1") + 1
    material[:, :, first:last] = torch.lerp(material[:, :1, first:last], material[:, :, first:last], alike)
    colour, fine = _albedo(
        atlas, _gather(material, _MATERIAL, region), x.expand(batch, -1, -1), y.expand(batch, -1, -1)
    )
    folds = _smooth(dice.normal(batch, 1, 8, 8), size)[:, 0]
    folds = torch.where(dice.chance(0.5, batch, 1, 1), 0.12 * folds, -0.25 * (folds.abs() + 0.02).sqrt())
    relief = (plan.knobs["relief"] * plan.hardness * dice.uniform(batch))[:, None, None]
    return colour, relief * (folds + 0.1 * plan.knobs["texture"][:, None, None] * fine)


def _paint(
    dice: _Dice, plan: _Plan, cast: _Cast, field: Tensor, frame: Tensor, instances: Tensor, atlas: Tensor
) -> Tensor:
    """Colour, light and degrade all scenes: (B, 3, S, S)."""
    batch, size = field.shape[0], field.shape[-1]
    ground, ground_height = _background(dice, plan, atlas, size)
    ground = _blur(ground, plan.hardness * dice.uniform(batch) * dice.chance(0.35, batch))
    # Just outside an object its soft edge still shows; take the nearest object there.
    closest, nearest = _nearest(field)
    near = torch.where(instances > 0, instances - 1, nearest)
    table = torch.cat(
        (_apart(cast, plan, ground), cast.surface, frame.flatten(2), cast.radius[..., None] * size / 2), -1
    )
    m = _gather(table, _MATERIAL + _SURFACE + _PLACE, near)
    axis = (torch.arange(size, device=dice.device) + 0.5) * 2 / size - 1
    u = m["ux"] * axis + m["uy"] * axis[:, None] + m["u0"]
    v = m["vx"] * axis + m["vy"] * axis[:, None] + m["v0"]
    depth = -torch.where(instances > 0, field.gather(1, near[:, None])[:, 0], closest)
    colour, fine = _albedo(atlas, m, u, v)
    inside = depth / m["radius"]
    colour = colour * (1 + m["radial"] * (inside.clamp(0, 1) - 0.3))[:, None]
    hidden = torch.lerp(ground.flip(-1), ground, m["underlay"][:, None])
    colour = torch.lerp(colour, hidden, m["camouflage"][:, None])
    colour = colour * (1 + m["rim"] * torch.exp(-(depth / 1.5).square()))[:, None]
    # Where an object lies on another one there is no background to shine through its edge.
    lone = (field < 0).sum(1) < 2
    # Beyond an object's own frame the distance to it is unknown: a soft edge must have faded out before.
    fade = (1 + inside / (0.9 * (_FRAME - _REACH))).clamp(0, 1)
    alpha = torch.where(lone, torch.sigmoid(3 * depth / m["soft"]) * fade, 1.0)
    rise = (inside / m["bevel"]).clamp(0, 1)
    # From a dome with a steep rim to a swelling without one.
    profile = torch.lerp((rise * (2 - rise)).sqrt(), rise.square() * (3 - 2 * rise), m["foot"])
    body = m["height"] * m["radius"] / size * profile + 0.1 * m["bump"] * fine
    height = ground_height + alpha * body
    image = torch.lerp(ground * _shadow(dice, plan, alpha), colour, alpha[:, None])
    gloss = torch.lerp(plan.knobs["gloss"][:, None, None].expand_as(alpha) * 0.5, m["gloss"], alpha)
    return _degrade(dice, plan, _light(dice, plan, image, height, gloss))


def _apart(cast: _Cast, plan: _Plan, ground: Tensor) -> Tensor:
    """(B, N, len(_MATERIAL)) materials; in easy scenes with a brightness up to 0.45 away from the background's."""
    grey = ground.mean((1, 2, 3))[:, None]
    first = _MATERIAL.index("r")
    own = cast.material[..., first : first + 6].mean(-1)
    margin = 0.45 * (1 - plan.hardness[:, None]).square()
    side = torch.where(grey > 0.55, -1.0, torch.where(grey < 0.4, 1.0, torch.where(own < grey, -1.0, 1.0)))
    shift = side * (margin - side * (own - grey)).clamp(min=0)
    material = cast.material.clone()
    material[..., first : first + 6] += shift[..., None]
    return material


def _shadow(dice: _Dice, plan: _Plan, alpha: Tensor) -> Tensor:
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


def _frame(dice: _Dice, plan: _Plan, size: int) -> Tensor:
    """(B, S, S) false where the image is black: the corners or the surroundings of an endoscope's field of view."""
    batch = len(plan.hardness)
    axis = ((torch.arange(size, device=dice.device) + 0.5) * 2 / size - 1).abs()
    x, y = axis, axis[:, None]
    cut = dice.uniform(batch, 1, 1, low=1.25, high=1.7)
    octagon, circle = (x + y) < cut, (x.square() + y.square()) < (cut - 0.2).square()
    inside = torch.where(dice.chance(0.6, batch, 1, 1), octagon, circle)
    return inside | ~dice.chance(0.5 * plan.knobs["vignette"].square() * plan.hardness.sqrt(), batch)[:, None, None]


def _light(dice: _Dice, plan: _Plan, image: Tensor, height: Tensor, gloss: Tensor) -> Tensor:
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
        _smooth(dice.normal(batch, 36, 36), size) + turned.clamp(-2, 1.5) - dice.uniform(batch, 1, 1, low=2.4, high=4.5)
    )
    shine = shine + torch.sigmoid(8 * spots) * (gloss * plan.knobs["vignette"][:, None, None] ** 4).clamp(0, 0.9)
    axis = (torch.arange(size, device=dice.device) + 0.5) * 2 / size - 1
    slope = 0.35 * plan.hardness[:, None, None, None] * dice.normal(batch, 2, 1, 1)
    falloff = 1 + slope[:, :1] * axis + slope[:, 1:] * axis[:, None]
    dark = (0.6 * plan.knobs["vignette"] * plan.hardness * dice.uniform(batch)).view(-1, 1, 1, 1)
    falloff = falloff.clamp(min=0.2) * (1 - dark * (axis.square() + axis[:, None].square()) / 1.5)
    return image.clamp(0, 1) * (diffuse.clamp(0.15, 1.7)[:, None] * falloff) + shine[:, None]


def _blur(images: Tensor, amount: Tensor) -> Tensor:
    """Blur each image by an amount in 0..1: 0 leaves it, 1 is a deviation of about 1/40 of the image."""
    size, half = images.shape[-1], (images.shape[-1] + 1) // 2
    amount = amount[:, None, None, None]
    near = F.avg_pool2d(images, 2, ceil_mode=True)
    far = F.avg_pool2d(F.pad(F.avg_pool2d(near, 2), (1, 1, 1, 1), mode="replicate"), 3, 1)
    far = F.interpolate(far, size=(half, half), mode="bilinear")
    coarse = torch.lerp(near, far, (2 * amount - 1).clamp(0, 1))
    coarse = F.interpolate(coarse, size=(size, size), mode="bilinear")
    return torch.lerp(images, coarse, (2 * amount).clamp(0, 1))


def _degrade(dice: _Dice, plan: _Plan, image: Tensor) -> Tensor:
    """Camera: blur, contrast, tint, gamma, noise."""
    batch, size = image.shape[0], image.shape[-1]
    hard = plan.hardness.view(-1, 1, 1, 1)
    image = _blur(image, 0.1 + 0.6 * plan.hardness * dice.uniform(batch) ** 4)
    contrast = 1 - hard * dice.uniform(batch, 1, 1, 1, low=-0.5, high=0.45)
    image = image.mean((1, 2, 3), keepdim=True).lerp(image, contrast)
    tint = 1 + 0.12 * hard * dice.normal(batch, 3, 1, 1)
    image = (image * tint).clamp(1e-4, 1) ** torch.exp(0.3 * hard * dice.normal(batch, 1, 1, 1))
    grain = dice.normal(batch, 3, size, size) * (0.06 * hard * dice.uniform(batch, 1, 1, 1).square())
    return (image + grain).clamp(0, 1)
