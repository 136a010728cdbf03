"""Errors planted in label maps: what a model of suspicious masks learns from, as nobody has a list of true errors.

They look like what annotators and converters leave behind. Whether real errors look so is another question: see ``docs/audit.md``.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from maskwright.data.labels import IGNORE
from maskwright.methods.curate.regions import SMALLEST, Map, Region, iou, moved, objects_of, operations, rectangle

ErrorKind = Literal["shifted", "missed", "extra", "swapped", "coarse"]
ERROR_KINDS: tuple[ErrorKind, ...] = get_args(ErrorKind)
"""A mask moved off its object; an object without a mask; a part that is no object; an object of another category; a rough outline."""

CORRECT = 0.92
"""A spoiled object whose IoU with the true one is above this is no error."""


def plant(labels: Map, kind: ErrorKind, categories: int, generator: np.random.Generator, donor: Map) -> Map | None:
    """A copy of a map (H, W) with an error of a kind, or None where the map cannot have it.

    Args:
        categories: C, background included.
        donor: another image's map, whose object becomes an extra part.
    """
    objects = objects_of(labels)
    spoiled = labels.copy()
    if kind == "extra":
        region = _extra(labels, objects, generator, donor)
        if region is None:
            return None
        spoiled[region] = objects[0][0] if objects else _any_category(donor, categories, generator)
        return spoiled
    if not objects:
        return None
    category, region = objects[int(generator.integers(len(objects)))]
    if kind == "swapped":
        others = [other for other in range(1, categories) if other != category]
        if not others:
            return None
        spoiled[region] = others[int(generator.integers(len(others)))]
        return spoiled
    changed = np.zeros_like(region)
    if kind == "shifted":
        changed = _shifted(region, generator)
    elif kind == "coarse":
        changed = _coarse(region, generator)
    if kind != "missed" and (not changed.any() or iou(changed, region) > CORRECT):
        return None
    spoiled[region] = 0
    spoiled[changed & (spoiled != IGNORE)] = category
    return spoiled


def _shifted(region: Region, generator: np.random.Generator) -> Region:
    """By 8 to 25 % of the square root of its area, in any direction."""
    distance = generator.uniform(0.08, 0.25) * np.sqrt(region.sum())
    angle = generator.uniform(0, 2 * np.pi)
    return moved(region, round(distance * np.sin(angle)), round(distance * np.cos(angle)))


def _coarse(region: Region, generator: np.random.Generator) -> Region:
    """As a few blocks across, smoothed; or its box's ellipse; or grown or shrunk all around."""
    y0, y1, x0, x1 = rectangle(region)
    way = generator.integers(3)
    if way == 0:
        blur = max(y1 - y0, x1 - x0) / generator.uniform(5, 11)
        return operations.gaussian_filter(region.astype(np.float32), blur / 1.5, mode="constant") > generator.uniform(
            0.35, 0.5
        )
    if way == 1:
        y, x = np.mgrid[: region.shape[0], : region.shape[1]] + 0.5
        radius = ((y - (y0 + y1) / 2) / max(1, y1 - y0) * 2) ** 2 + ((x - (x0 + x1) / 2) / max(1, x1 - x0) * 2) ** 2
        return radius <= 1
    reach = generator.uniform(0.05, 0.12) * np.sqrt(region.sum())
    if generator.random() < 0.7:
        return operations.distance_transform_edt(~region) <= max(1.0, reach)
    return operations.distance_transform_edt(region) > max(1.0, reach)


def _extra(labels: Map, objects: list[tuple[int, Region]], generator: np.random.Generator, donor: Map) -> Region | None:
    """An object of another image, or an ellipse, at a random place of the background."""
    shapes = objects_of(donor)
    area = float(np.mean([region.sum() for _, region in objects])) if objects else 0.04 * labels.size
    area *= generator.uniform(0.1, 0.6)
    if shapes and generator.random() < 0.5:
        shape = shapes[int(generator.integers(len(shapes)))][1]
        y0, y1, x0, x1 = rectangle(shape)
        cut = shape[y0:y1, x0:x1]
        zoom = float(np.sqrt(area / cut.sum()))
        cut = operations.zoom(cut.astype(np.float32), zoom, order=1) > 0.5
    else:
        aspect = generator.uniform(0.5, 2.0)
        half_y, half_x = np.sqrt(area / np.pi * aspect), np.sqrt(area / np.pi / aspect)
        y, x = np.ogrid[-int(half_y) : int(half_y) + 1, -int(half_x) : int(half_x) + 1]
        cut = (y / max(half_y, 1)) ** 2 + (x / max(half_x, 1)) ** 2 <= 1
    height, width = cut.shape
    if height >= labels.shape[0] or width >= labels.shape[1] or cut.sum() < SMALLEST:
        return None
    y = int(generator.integers(labels.shape[0] - height))
    x = int(generator.integers(labels.shape[1] - width))
    region = np.zeros(labels.shape, bool)
    region[y : y + height, x : x + width] = cut
    region &= labels == 0
    return region if region.sum() >= max(SMALLEST, 0.6 * cut.sum()) else None


def _any_category(donor: Map, categories: int, generator: np.random.Generator) -> int:
    named = [category for category, _ in objects_of(donor, 1)]
    return named[0] if named else int(generator.integers(1, categories))
