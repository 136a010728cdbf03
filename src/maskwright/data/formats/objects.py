"""Objects of an image as annotation tools describe them: drawn into a sample's instance mask, and taken out of a mask.

A PNG holds no overlaps: of two objects in one layer the smaller lies on top, and one that is wholly covered has no pixels.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from scipy import ndimage

from maskwright.data.fields import Fields, is_name, names_a_file, shown
from maskwright.data.formats.rle import Part
from maskwright.data.formats.segmentations import HAIR, OVERHANG, overhang
from maskwright.data.image_files import LARGE, MAX_PIXELS
from maskwright.data.images import image_size
from maskwright.data.labels import IGNORE, Box, Labels, Mask, Point, Sample, Samples, Scribble, Tag
from maskwright.data.lookahead import ahead
from maskwright.data.mask_files import cached_mask, read_mask
from maskwright.errors import DataError
from maskwright.problems import Problem

_KEPT = 200_000_000  # Bytes of drawn objects that are kept while an image's mask is made; beyond, they are drawn twice.
_MOST_WORK = 1_500_000_000  # Pixels that the objects of one image may fill together: about ten seconds.
_MOST = 65535

Scores = Mapping[str, Mapping[int, float]]
"""Sample id → the score 0..1 of ids in its mask; of a semantic mask, of categories."""

Corners = tuple[float, float, float, float]


@dataclass(frozen=True)
class Outlined:
    """An object whose pixels are known.

    Attributes:
        place: in the file, for messages.
        category: id, from 1.
        shape: what :attr:`draw` draws, as JSON.
        draw: (shape, (height, width)) → its pixels. Raises ValueError with what is wrong with it.
        layer: higher ones lie in front.
    """

    place: str
    category: int
    shape: Any
    draw: Callable[[Any, tuple[int, int]], Part]
    layer: int = 0


@dataclass
class Entry:
    """An image with what a file says of it, checked.

    Attributes:
        place: in the file, for messages.
        path: relative to the dataset's folder.
        name: what gives it its id.
        size: (width, height).
        labelled: without any object it is known to hold none.
    """

    place: str
    path: str
    name: str
    split: str
    size: tuple[int, int]
    labelled: bool = False
    outlined: list[Outlined] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    scribbles: list[Scribble] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    tags: list[Tag] = field(default_factory=list)


@dataclass(frozen=True)
class Found:
    """An object of a mask.

    Attributes:
        id: its value in the mask.
        category: id, from 1.
        part: its pixels, cropped to their extent.
    """

    id: int
    category: int
    part: Part


def objects_of(dataset: Samples, sample: Sample, size: tuple[int, int]) -> Iterator[Found]:
    """The objects of a sample's mask in the order of their ids; of a semantic mask, each category is one.

    Args:
        size: (height, width) of the image.

    Raises:
        DataError: the mask cannot be read, or has another size than its image.
    """
    mask = sample.labels.mask
    if mask is None:
        return
    values = read_mask(dataset.root / mask.path)
    if values.shape != size:
        sizes = f"{values.shape[1]}x{values.shape[0]} pixels, its image {size[1]}x{size[0]}"
        raise DataError([f"{dataset.root / mask.path}: the mask has {sizes}; make them equal"])
    if mask.kind == "semantic":
        values = np.where(values == IGNORE, 0, values)
    for id, place in enumerate(ndimage.find_objects(values.astype(np.int32)), start=1):
        if place is not None:
            rows, columns = place
            yield Found(id, mask.category_of(id), Part(rows.start, columns.start, values[place] == id))


def samples_of(fields: Fields, root: Path, entries: Sequence[Entry]) -> tuple[Sample, ...]:
    """Samples with ids of their own; their objects are drawn into cached masks, or found there.

    Faults go to ``fields``; none is drawn where there were some before.
    """
    ids = sample_ids(fields, [(entry.place, entry.split, entry.name) for entry in entries])
    if fields.problems:
        return ()

    def sample(pair: tuple[str, Entry]) -> Sample:
        id, entry = pair
        mask = None
        if entry.outlined or entry.labelled:
            mask = _mask(fields, root, id, entry)
        weak = tuple(entry.scribbles), tuple(entry.boxes), tuple(entry.points), tuple(dict.fromkeys(entry.tags))
        return Sample(id, entry.path, entry.split, Labels(mask, *weak), entry.size)

    return tuple(ahead(sample, zip(ids, entries, strict=True)))


def sample_ids(fields: Fields, names: Sequence[tuple[str, str, str]]) -> list[str]:
    """Ids of images by (place, split, path): the stem of the file, or its whole path and the split where stems are not unique."""
    stems = Counter(PurePosixPath(name).stem for _, _, name in names)
    ids: dict[str, None] = {}
    for place, split, name in names:
        path = PurePosixPath(name)
        id = path.stem if stems[path.stem] == 1 else "_".join([split, *path.with_suffix("").parts])
        if id in ids:
            fields.note(place, f"{shown(name)} is there twice; remove one", "duplicate-image")
        elif not names_a_file(id):
            fields.note(place, f"{shown(id)} cannot be an id; use printable text of at most 200 bytes")
        ids[id] = None
    return list(ids)


def category_ids(fields: Fields, names: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Ids of categories by (place, name) in the order given, each once; ``background`` is 0."""
    ids = {"background": 0}
    for place, name in names:
        if not is_name(name):
            fields.note(place, f"{shown(name)} is no category's name; write a text on one line")
        elif name not in ids:
            ids[name] = len(ids)
    return ids


def checked_size(fields: Fields, width: int, height: int, place: str) -> tuple[int, int] | None:
    """A stated size, or None where it is that of no image (noted)."""
    if min(width, height) < 1 or width * height > MAX_PIXELS:
        what = f"width and height {shown([width, height])} are not those of an image"
        fields.note(place, f"{what}; correct them", "size")
        return None
    return width, height


def box_inside(fields: Fields, corners: Corners, place: str, size: tuple[int, int]) -> Corners | None:
    """A box x0 y0 x1 y1 cut off at the border of the image (width, height); None where it lies too far outside (noted)."""
    x0, y0, x1, y1 = corners
    over = max(overhang(corners[0::2], size[0]) / size[0], overhang(corners[1::2], size[1]) / size[1])
    if over > HAIR / max(size) and x1 > x0 and y1 > y0:
        what = f"reaches outside the image of {size[0]} x {size[1]}"
        if over <= OVERHANG:
            fields.warn(place, f"{what} by up to {over:.1%} of its side: cut off there", "box-outside")
        elif over > 1 or x0 >= size[0] or y0 >= size[1] or x1 <= 0 or y1 <= 0:
            fields.note(place, f"{what} by far; correct or remove it", "box-outside")
            return None
        elif not fields.mendable(
            place, f"{what} by {over:.0%} of its side; correct or remove it", "box-outside", "cut off there"
        ):
            return None
    x0, x1 = (min(max(v, 0.0), float(size[0])) for v in (x0, x1))
    y0, y1 = (min(max(v, 0.0), float(size[1])) for v in (y0, y1))
    return x0, y0, x1, y1


def points_inside(
    fields: Fields, flat: Sequence[float] | None, place: str, size: tuple[int, int]
) -> list[tuple[float, float]]:
    """Places (x, y) of finite numbers x, y, x, y, ... in an image (width, height), those a hair outside put to its border.

    Empty where there are none, or one lies too far outside (noted).
    """
    if not flat:
        return []
    pairs = list(zip(flat[0::2], flat[1::2], strict=True))
    over = max(overhang(flat[0::2], size[0]) / size[0], overhang(flat[1::2], size[1]) / size[1])
    if over > OVERHANG:
        fields.note(place, f"lies outside the image of {size[0]} x {size[1]}; correct or remove it", "point-outside")
        return []
    if over > HAIR / max(size):
        what = f"lies outside the image of {size[0]} x {size[1]} by up to {over:.1%} of its side: moved to its border"
        fields.warn(place, what, "point-outside")
    return [(_within(x, size[0]), _within(y, size[1])) for x, y in pairs]


def turned(x: np.ndarray, y: np.ndarray, degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """Places around a centre, turned clockwise as the image is seen."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return x * cosine - y * sine, x * sine + y * cosine


def ellipse(cx: float, cy: float, rx: float, ry: float, degrees: float) -> list[float]:
    """An ellipse as a polygon of 128 vertices x, y, x, y, ..., turned clockwise as the image is seen."""
    angle = np.linspace(0, 2 * math.pi, 128, endpoint=False)
    x, y = turned(rx * np.cos(angle), ry * np.sin(angle), degrees)
    return np.stack([cx + x, cy + y], 1).ravel().tolist()


def _within(value: float, side: int) -> float:
    """A coordinate that lies in the image; what is beyond its last pixel goes to the middle of that."""
    return side - 0.5 if value >= side else max(value, 0.0)


def _mask(fields: Fields, root: Path, id: str, entry: Entry) -> Mask | None:
    shapes = [[one.layer, one.shape] for one in entry.outlined]
    try:
        key = json.dumps([2, entry.size, shapes]).encode()
        path = cached_mask(root, id, key, lambda: _painted(root, entry, fields.reading.image.page))
    except DataError as error:
        fields.problems += error.problems
        return None
    return Mask(path, "instance", {i: one.category for i, one in enumerate(entry.outlined, 1)})


def _painted(root: Path, entry: Entry, page: int | None) -> np.ndarray:
    compare_size(root / entry.path, entry.size, entry.place, page)
    width, height = entry.size
    return paint(entry.outlined, (height, width), entry.place)


def paint(objects: Sequence[Outlined], size: tuple[int, int], place: str) -> np.ndarray:
    """The instance mask ``(H, W)`` uint16 of objects, ids from 1 in their order.

    Args:
        size: (height, width).
        place: of the image in its file, for messages.

    Raises:
        DataError: shapes that cannot be drawn (all of them), or more than a mask or a minute holds.
    """
    if len(objects) > _MOST:
        raise DataError([f"{place}: more than {_MOST} objects do not fit a mask; split the image"])
    problems: list[str] = []
    drawn: list[tuple[int, int, int, Part | None]] = []
    filled = 0
    for id, one in enumerate(objects, start=1):
        try:
            part = one.draw(one.shape, size)
        except ValueError as error:
            problems.append(f"{one.place}: {error}; correct or remove it")
            continue
        filled += part.mask.size
        if filled > _MOST_WORK:
            what = f"its objects fill more than {_MOST_WORK:,} pixels together"
            raise DataError([f"{place}: {what}; remove those that are there many times"])
        drawn.append((one.layer, -part.area, id, part if filled <= _KEPT else None))
    if problems:
        raise DataError(problems)
    mask = np.zeros(size, np.uint16)
    for _, _, id, part in sorted(drawn, key=lambda row: row[:3]):
        part = part or objects[id - 1].draw(objects[id - 1].shape, size)
        mask[part.window()][part.mask] = id
    return mask


def compare_size(path: Path, size: tuple[int, int], place: str, page: int | None = None) -> None:
    """Refuse an entry whose size (width, height) is not its file's, before a mask of that size is made. Raises DataError."""
    try:
        found = image_size(path, page)
    except DataError:
        if size[0] * size[1] > LARGE:
            raise
        return  # The check reports the file; a mask of this size can be made.
    if found != size:
        turned = ", turned as its EXIF data say," if found == size[::-1] else ""
        what = f"says {size[0]} x {size[1]} pixels, but {path.name}{turned} has {found[0]} x {found[1]}"
        raise DataError([Problem(what, kind="size", place=place, remedy="correct the size or the file")])
