"""Procedural scenes: unlimited images with exact instance masks, drawn in batches.

A scene is a background of several textured regions under one light, with objects painted over it. Objects are drawn in
three steps, all batched over scenes:

1. every object's outline is an implicit function on a small grid of its own (negative inside), warped by smooth noise;
2. the grids are laid into the image by an affine map each, back to front, which gives the instance map;
3. colour is computed once per pixel for whichever object is on top (deferred shading), then lit, blurred and degraded.

Coordinates: the image spans ``[-1, 1]`` in x and y, an object's own frame has its outline within radius 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from maskwright.data.scenes.camera import field_of_view
from maskwright.data.scenes.cast import draw_cast
from maskwright.data.scenes.dice import Dice
from maskwright.data.scenes.outlines import frontmost, lay_out, own_frames
from maskwright.data.scenes.painting import paint
from maskwright.data.scenes.plan import draw_plan
from maskwright.data.scenes.textures import draw_textures, make_atlas

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
        identities: (B, N) int64; equal positive numbers mean the same object (outline, texture, colour), in the same or
            in another scene of this batch; 0 where the category is 0.
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
            occlusion and texture at their strongest. Each scene draws its own share of it.

    Raises:
        ValueError: an argument out of range, or a generator on another device.
    """
    if batch < 1 or size < 32 or max_objects < 1 or not 0.0 <= difficulty <= 1.0 or (pairs and batch % 2):
        raise ValueError(
            f"render needs batch >= 1 (even with pairs), size >= 32, max_objects >= 1 and difficulty in 0..1; "
            f"got batch={batch}, size={size}, max_objects={max_objects}, pairs={pairs}, difficulty={difficulty}"
        )
    dice = Dice(seed, torch.device(device))
    # Under a caller's autocast the matrix products that carry texture coordinates would round them to whole texels.
    with torch.no_grad(), torch.autocast(dice.device.type, enabled=False):
        plan = draw_plan(dice, batch, max_objects, pairs, difficulty)
        cast = draw_cast(dice, plan, size)
        frame = own_frames(cast)
        field = lay_out(cast, frame, size)
        instances = frontmost(field)
        framed = field_of_view(dice, plan, size)
        instances = instances * framed
        atlas = make_atlas(draw_textures(dice))
        images = paint(dice, plan, cast, field, frame, instances, atlas) * framed[:, None]
    area = torch.zeros(batch, max_objects + 1, device=dice.device)
    area.scatter_add_(1, instances.flatten(1), torch.ones_like(instances.flatten(1), dtype=area.dtype))
    is_visible = area[:, 1:] >= max(4.0, _MIN_VISIBLE * size * size)
    instances = instances * F.pad(is_visible, (1, 0)).gather(1, instances.flatten(1)).view_as(instances)
    return Scenes(images, instances, cast.category * is_visible, cast.identity * is_visible)
