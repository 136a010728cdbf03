"""Episodes for ``train_find_scorer.py``: examples of one thing, and images that show it or do not.

All are made of packs of photographs (see ``photo_packs.py``) and of procedural pictures; nothing that results are measured on is among
them. A subject is one thing that is looked for:

========  ==================================================================  =====================================================
family    what is looked for                                                  images without it
========  ==================================================================  =====================================================
kind      a kind of object in photographs, such as pets or trucks             other kinds; the same photographs, beside the object
scene     a class of outline in scenes and in collages of photographs         scenes with other outlines alone
object    one object of a photograph, in other views of it                    beside the object; photographs of other packs
slide     all things of a sort on a slide                                     other slides
bump      bumps of a material                                                 the material without bumps; other materials
========  ==================================================================  =====================================================
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from maskwright.data.scenes import CATEGORY_NAMES
from nano_pictures import bead_ids, collage, relief, stained
from nano_sources import KINDS, UNSURE
from nano_views import Pool, develop, look, wide_views
from photo_packs import Pack

LEAST_AREA = 0.002
"""Share of a picture that the object takes at least where it counts as shown."""


@dataclass
class Subject:
    """One thing that is looked for.

    Attributes:
        family: see above; ``name`` tells subjects of a family apart.
        images: (P, 3, S, S) uint8 that show it, and ``masks`` (P, S, S) bool.
        others: (N, 3, S, S) uint8 that do not show it.
        hard: (N,) bool: of the same place.
    """

    family: str
    name: str
    images: Tensor
    masks: Tensor
    others: Tensor
    hard: Tensor


def subjects(packs: Sequence[Pack], size: int, seed: int) -> Iterator[Subject]:
    """All subjects, one after the other; their draws depend on the seed alone."""
    generator = torch.Generator().manual_seed(seed)
    yield from _kinds(packs, size, generator)
    yield from _scenes(packs, size, seed, generator)
    yield from _objects(packs, size, generator)
    yield from _slides(packs, size, seed, generator)
    yield from _bumps(packs, size, seed, generator)


def _kinds(packs: Sequence[Pack], size: int, generator: torch.Generator) -> Iterator[Subject]:
    kinds = {pack.name: pack.kind or KINDS.get(pack.name) for pack in packs if pack.has_masks}
    for kind in sorted({kind for kind in kinds.values() if kind}):
        own = [pack for pack in packs if kinds.get(pack.name) == kind]
        unsure = UNSURE.get(kind, set()) | {kind}
        foreign = [pack for pack in packs if pack.has_masks and (kinds[pack.name] or "") not in unsure]
        shows, masks = _views(own, 48, size, (0.45, 1.4), generator, shown=True)
        beside, _ = _views(own, 24, size, (0.2, 0.6), generator, shown=False)
        others, _ = _views(foreign, 40, size, (0.45, 1.4), generator)
        yield _subject("kind", kind, shows, masks, beside, others)


def _scenes(packs: Sequence[Pack], size: int, seed: int, generator: torch.Generator) -> Iterator[Subject]:
    pool = Pool.cat([Pool.of(32, size, seed + number, 0.2 + 0.1 * number) for number in range(8)])
    photos = [pack for pack in packs if not pack.has_masks]
    for style in ("scene", "collage"):
        parts = []
        for start in range(0, len(pool), 32):
            images, ids = pool.images[start : start + 32].float() / 255, pool.instances[start : start + 32].long()
            if style == "collage":
                images = collage(images, ids, _photographs(photos, 16, generator), generator)
            parts.append((develop(images, generator) * 255).byte())
        images = torch.cat(parts)
        ids = pool.instances.long()
        categories = torch.nn.functional.pad(pool.categories, (1, 0)).gather(1, ids.flatten(1)).view_as(ids)
        for category, name in enumerate(CATEGORY_NAMES[1:], 1):
            masks = categories == category
            area = masks.flatten(1).float().mean(1)
            shows, without = (area > LEAST_AREA).nonzero()[:48, 0], (area == 0).nonzero()[:, 0]
            without = without[torch.randperm(len(without), generator=generator)[:40]]
            if len(shows) >= 12 and len(without) >= 8:
                hard = torch.ones(len(without), dtype=torch.bool)
                yield Subject("scene", f"{style} {name}", images[shows], masks[shows], images[without], hard)


def _objects(packs: Sequence[Pack], size: int, generator: torch.Generator, count: int = 64) -> Iterator[Subject]:
    kinds = {pack.name: pack.kind or KINDS.get(pack.name) or "" for pack in packs if pack.has_masks}
    pictured = [pack for pack in packs if pack.has_masks]
    number = 0
    for attempt in range(40 * count):
        if number == count:
            return
        pack = pictured[attempt % len(pictured)]
        row = int(torch.randint(len(pack), (), generator=generator))
        ids, areas = pack.ids[row].unique(return_counts=True)
        fit = (ids > 0) & (areas > 0.01 * pack.ids[row].numel()) & (areas < 0.4 * pack.ids[row].numel())
        # Of many objects in a picture some may be alike, and one alone would be the wrong answer.
        if not fit.any() or (not kinds[pack.name] and len(ids) > 4):
            continue
        chosen = ids[fit][int(torch.randint(int(fit.sum()), (), generator=generator))]
        picture = pack[torch.tensor([row])]
        wanted = picture.ids > 0 if kinds[pack.name] else picture.ids == chosen
        one = replace(picture, ids=wanted.to(picture.ids.dtype))
        shows, masks = _views([one], 14, size, (0.4, 1.2), generator, shown=True)
        beside, _ = _views([picture], 8, size, (0.2, 0.6), generator, shown=False)
        unsure = UNSURE.get(kinds[pack.name], {kinds[pack.name]})
        foreign = [other for other in pictured if other is not pack and kinds[other.name] not in unsure]
        others, _ = _views(foreign, 12, size, (0.4, 1.2), generator)
        if len(shows) >= 8:
            yield _subject("object", f"{pack.name} {row}", shows, masks, beside, others)
            number += 1


def _slides(
    packs: Sequence[Pack], size: int, seed: int, generator: torch.Generator, count: int = 20
) -> Iterator[Subject]:
    ids = torch.from_numpy(bead_ids(count, 2 * size, seed)).long()
    photos = [pack for pack in packs if not pack.has_masks]
    views, masks = [], []
    for number in range(count):
        blank = torch.zeros(12, 3, 4, 4, dtype=torch.uint8)
        zoomed = wide_views(12, (0.35, 0.8), 0.5, generator)
        _, seen = look(blank, ids[number : number + 1].expand(12, -1, -1), size, zoomed, generator)
        sheet = seen.view(1, 3, 4, size, size).transpose(2, 3).reshape(1, 3 * size, 4 * size)
        sheet = torch.nn.functional.pad(sheet, (0, 0, 0, size))
        images = stained(sheet, _photographs(photos, 1, generator), generator)
        two_sorts = number % 2 == 1
        if two_sorts:
            tint = (sheet % 2 == 1).float()[:, None] * (torch.rand(1, 3, 1, 1, generator=generator) * 1.8 - 0.9)
            images = (images * tint.exp()).clamp(0, 1)
        images = images.view(1, 3, 4, size, 4, size).permute(0, 2, 4, 1, 3, 5).reshape(16, 3, size, size)[:12]
        wanted = seen.clone()
        if two_sorts:
            wanted[wanted % 2 == 1] = 0
        views.append((develop(images, generator) * 255).byte())
        masks.append(wanted > 0)
    for number in range(count):
        others = torch.cat([views[(number + step) % count][:3] for step in range(1, 7)])
        fit = masks[number].flatten(1).float().mean(1) > LEAST_AREA
        if fit.sum() >= 6:
            hard = torch.zeros(len(others), dtype=torch.bool)
            yield Subject("slide", str(number), views[number][fit], masks[number][fit], others, hard)


def _bumps(
    packs: Sequence[Pack], size: int, seed: int, generator: torch.Generator, count: int = 16
) -> Iterator[Subject]:
    pool = Pool.of(32, size, seed + 99, 0.5)
    photos = [pack for pack in packs if not pack.has_masks]
    with_bumps, without, masks = [], [], []
    for _ in range(count):
        rows = torch.randint(len(pool), (12,), generator=generator)
        _, ids = look(
            pool.images[rows], pool.instances[rows].long(), size, wide_views(12, (0.6, 1.3), 0.5, generator), generator
        )
        material = _photographs(photos, 1, generator)
        # One call, so that light and material are the same with bumps and without.
        both = relief(torch.cat([ids, torch.zeros_like(ids[:8])]), material.expand(20, -1, -1, -1), generator)
        both = (develop(both, generator) * 255).byte()
        with_bumps.append(both[:12])
        without.append(both[12:])
        masks.append(ids > 0)
    for number in range(count):
        others = torch.cat([with_bumps[(number + step) % count][:2] for step in range(1, 5)])
        fit = masks[number].flatten(1).float().mean(1) > LEAST_AREA
        if fit.sum() >= 6:
            yield _subject("bump", str(number), with_bumps[number][fit], masks[number][fit], without[number], others)


def _views(
    packs: Sequence[Pack],
    count: int,
    size: int,
    zoom: tuple[float, float],
    generator: torch.Generator,
    shown: bool | None = None,
) -> tuple[Tensor, Tensor]:
    """Up to ``count`` views of photographs that show their objects, or do not; (N, 3, S, S) uint8 and (N, S, S) bool."""
    images, masks, found = [], [], 0
    for attempt in range(12):
        pack = packs[
            attempt % len(packs) if shown is not None else int(torch.randint(len(packs), (), generator=generator))
        ]
        rows = torch.randint(len(pack), (count,), generator=generator)
        views = wide_views(count, zoom, 0.1 if pack.upright else 0.75, generator)
        seen, ids = look(pack.images[rows], pack.ids[rows].long(), size, views, generator)
        area = (ids > 0).flatten(1).float().mean(1)
        fit = torch.ones(count, dtype=torch.bool) if shown is None else (area > LEAST_AREA) if shown else (area == 0)
        # Of several packs each gives its part.
        fit &= fit.cumsum(0) <= -(-count // min(len(packs), 6))
        images.append((develop(seen[fit], generator) * 255).byte())
        masks.append(ids[fit] > 0)
        found += int(fit.sum())
        if found >= count:
            break
    return torch.cat(images)[:count], torch.cat(masks)[:count]


def _photographs(packs: Sequence[Pack], count: int, generator: torch.Generator) -> Tensor:
    """(N, 3, s, s) uint8 of one pack."""
    pack = packs[int(torch.randint(len(packs), (), generator=generator))]
    return pack.images[torch.randint(len(pack), (count,), generator=generator)]


def _subject(family: str, name: str, images: Tensor, masks: Tensor, beside: Tensor, others: Tensor) -> Subject:
    hard = torch.arange(len(beside) + len(others)) < len(beside)
    return Subject(family, name, images, masks, torch.cat([beside, others]), hard)
