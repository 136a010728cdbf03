"""The masks of Pascal VOC: ids as palette indices or as the colours of them, of categories and of objects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from maskwright.data.images import open_verified
from maskwright.data.labels import IGNORE
from maskwright.data.mask_files import cached_mask, read_mask
from maskwright.errors import DataError
from maskwright.problems import Problem

Colours = Mapping[int, int]
"""Colour as 0xRRGGBB → id."""

_NAMED = 5  # Colours in a message.


@cache
def colormap() -> NDArray[np.uint8]:
    """VOC's colours ``(256, 3)`` of ids: the bits of an id are dealt out to red, green and blue, highest first."""
    ids = np.arange(256)
    colours = np.zeros((256, 3), np.uint8)
    for digit in range(8):
        for channel in range(3):
            colours[:, channel] |= (((ids >> (3 * digit + channel)) & 1) << (7 - digit)).astype(np.uint8)
    return colours


def packed(colours: NDArray[np.integer]) -> NDArray[np.int64]:
    """Colours ``(..., 3)`` as 0xRRGGBB."""
    return colours.astype(np.int64) @ np.array([65536, 256, 1])


def default_colours() -> dict[int, int]:
    """The ids of VOC's own colours; that of 255 is the border of objects."""
    return {int(colour): id for id, colour in enumerate(packed(colormap()))}


@dataclass(frozen=True)
class Look:
    """What is in the masks of an image.

    Attributes:
        values: of categories; None where there is no such mask, or it cannot be read.
        objects: ids of objects → category; None where there is no such mask, or it cannot be read.
        plain: whether the files of both hold ids as they are, so that no copy is needed.
        agree: whether the objects fill what the categories fill, each is of one category, and no pixel is undecided.
    """

    values: frozenset[int] | None = None
    objects: dict[int, int] | None = None
    plain: tuple[bool, bool] = (True, True)
    agree: bool = False
    problems: list[Problem] = field(default_factory=list)


def look(root: Path, semantic: str | None, instance: str | None, colours: Colours) -> Look:
    """Read the masks of an image, of categories and of objects."""
    problems: list[Problem] = []
    categories, plain = _values(root, semantic, colours, problems)
    objects, also_plain = _values(root, instance, default_colours(), problems)
    values = None if categories is None else frozenset(np.unique(categories).tolist())
    found = Look(values, plain=(plain, also_plain), problems=problems)
    if objects is None:
        return found
    ids = [id for id in np.unique(objects).tolist() if id]
    if categories is None:
        return replace(found, objects=dict.fromkeys(ids, 0), agree=IGNORE not in ids)
    if categories.shape != objects.shape:
        sizes = " and ".join(f"{mask.shape[1]} x {mask.shape[0]}" for mask in (objects, categories))
        what = f"its size and that of the mask of categories are {sizes}"
        problems.append(Problem(what, kind="mask-size", file=str(root / str(instance)), remedy="make them equal"))
        return found
    pairs = _pairs(objects, categories)
    of_ids = {id: category for id, category in pairs if id}
    agree = len(pairs) == len({id for id, _ in pairs}) and all((id > 0) == (category > 0) for id, category in pairs)
    return replace(found, objects=of_ids, agree=agree and IGNORE not in {*of_ids, *of_ids.values()})


def _pairs(objects: NDArray[np.integer], categories: NDArray[np.integer]) -> list[tuple[int, int]]:
    """Which id of an object stands together with which category."""
    both = np.unique(objects.astype(np.int64) * 65536 + categories)
    return [(int(pair) >> 16, int(pair) & 0xFFFF) for pair in both]


def _values(
    root: Path, path: str | None, colours: Colours, problems: list[Problem]
) -> tuple[NDArray[np.integer] | None, bool]:
    if path is None:
        return None, True
    try:
        return decoded(root / path, colours)
    except DataError as error:
        problems += error.problems
        return None, True


def decoded(path: Path, colours: Colours) -> tuple[NDArray[np.integer], bool]:
    """The ids ``(H, W)`` of a mask: its indices or grey values; of colours, their ids. And whether the file holds them so.

    Indices are ids unless the palette gives them, all that are used, the colours of others.

    Raises:
        DataError: it cannot be read, or has colours that are those of no id.
    """
    image = open_verified(path)
    if image.mode in ("RGB", "RGBA"):
        return _of_colours(image, path, colours), False
    indices = read_mask(path)
    if image.mode != "P":
        return indices, True
    used = np.unique(indices)
    palette = np.zeros((256, 3), np.int64)
    listed = np.array(image.getpalette("RGB") or [], np.int64).reshape(-1, 3)[:256]
    palette[: len(listed)] = listed
    ids = np.array([colours.get(int(colour), -1) for colour in packed(palette)])
    if (ids[used] < 0).any() or (ids[used] == used).all():
        return indices, True
    return ids[indices].astype(np.uint8), False


def _of_colours(image: Image.Image, path: Path, colours: Colours) -> NDArray[np.uint8]:
    pixels = packed(np.asarray(image)[..., :3])
    present, places, counts = np.unique(pixels, return_inverse=True, return_counts=True)
    ids = np.array([colours.get(int(colour), -1) for colour in present])
    if (strange := np.flatnonzero(ids < 0)).size:
        named = ", ".join(f"#{present[i]:06x} ({counts[i]:,} pixels)" for i in strange[:_NAMED])
        more = f" and {strange.size - _NAMED} more" if strange.size > _NAMED else ""
        remedy = "name it in labelmap.txt, as name:red,green,blue::"
        raise DataError(
            [Problem(f"no category has the colour {named}{more}", file=str(path), kind="colour", remedy=remedy)]
        )
    return ids.astype(np.uint8)[places.reshape(pixels.shape)]


def copy_of_ids(root: Path, id: str, path: str, colours: Colours, *, without_ignore: bool = False) -> str:
    """The path of a mask of ids that is made of a mask file, and kept in the cache.

    Args:
        without_ignore: make background of 255, which masks of objects have no value for.

    Raises:
        DataError: as :func:`decoded`.
    """

    def make() -> NDArray[np.integer]:
        values, _ = decoded(root / path, colours)
        return np.where(values == IGNORE, 0, values).astype(values.dtype) if without_ignore else values

    key = (root / path).read_bytes() + repr((2, without_ignore, sorted(colours.items()))).encode()
    return cached_mask(root, id, key, make)
