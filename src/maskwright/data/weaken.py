"""Masks → weaker labels, for studies of weak supervision and for tests: boxes, scribbles, points, tags, or nothing.

What is drawn depends on the mask alone; the seed only decides which image keeps which kind. Pixels of 255 in a semantic
mask belong to no category, and not to the background either. Parts are 8-connected. Scribbles, boxes and points of
small specks (below ``min_area`` pixels) are left out, unless they are all there is of a category or instance.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import dijkstra

from maskwright.data.dataset import Dataset
from maskwright.data.labels import IGNORE, Box, Kind, Labels, Mask, Point, Sample, Scribble, Tag
from maskwright.data.manifest import copy_files, write
from maskwright.data.mask_files import read_mask
from maskwright.data.new_folder import new_folder
from maskwright.errors import DataError

MIN_AREA = 16

_GRAPH = 4000
# Cells. A scribble through a larger part is sought on a coarser grid of wholly covered blocks; the search is
# superlinear.
_EIGHT = np.ones((3, 3), bool)
_NEIGHBOURS = ((0, 1, 1.0), (1, 0, 1.0), (1, 1, 2**0.5), (1, -1, 2**0.5))


def weaken(
    dataset: Dataset, folder: str | Path, shares: Mapping[Kind, float], seed: int, split: str = "train"
) -> Dataset:
    """Replace the masks of one split by a mix of kinds of label, each image getting exactly one kind.

    Images of the split that have no mask keep their labels, and so do the other splits. An image without any object can
    hold neither a box nor a tag, so it gets another kind and an image with objects gets its box or tag.

    Args:
        dataset: with masks in ``split``; it stays as it is.
        folder: where the result goes; does not exist yet, or is empty. Images are hard-linked or copied into it, and
            those masks that remain.
        shares: of the images with a mask, per kind; they sum up to 1. ``Kind.MASK`` keeps the mask, ``Kind.NONE`` loses
            all.
        seed: same seed, same result.
        split: whose masks are replaced.

    Returns:
        The new dataset, which was also saved as ``manifest.json`` in ``folder``.

    Raises:
        DataError: shares that do not sum up to 1, no mask in the split, more boxes and tags than images with objects,
            unreadable masks (all at once), or a folder that is not empty.
    """
    masked = [i for i, sample in enumerate(dataset) if sample.split == split and sample.labels.mask]
    if not masked:
        raise DataError([f"{dataset.source or dataset.root}: no mask in split {split!r}; name a split with masks"])
    kinds = [Kind(kind) for kind in np.random.default_rng(seed).permutation(_kinds(shares, len(masked)))]
    samples, problems, empty = list(dataset.samples), [], []
    for i in masked:
        try:
            empty.append(not _has_object(dataset, samples[i]))
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(problems, dataset.source)
    for i, kind in zip(masked, _off_empty(kinds, empty)):
        samples[i] = replace(samples[i], labels=_weaker(dataset, samples[i], kind))
    with new_folder(folder) as aside:
        write(copy_files(dataset.with_samples(samples), aside))
    return Dataset.load(folder, image_reading=dataset.image_reading)


def mask_to_boxes(values: np.ndarray, mask: Mask, min_area: int = MIN_AREA) -> tuple[Box, ...]:
    """The tight box of every instance, or of every connected part of every category.

    Args:
        values: ``(H, W)`` uint8 or uint16, the pixels of the mask.
        mask: says what they mean (``kind``, and ``categories`` of the instances).
        min_area: pixels.
    """
    return tuple(
        Box(float(columns.start), float(rows.start), float(columns.stop), float(rows.stop), category)
        for category, (rows, columns), _ in _parts(values, mask, min_area)
    )


def mask_to_scribbles(values: np.ndarray, mask: Mask, min_area: int = MIN_AREA) -> tuple[Scribble, ...]:
    """A line along the middle of every connected part (of an instance: its largest), and one through the background.

    The line joins the two farthest places of a part on the path that keeps away from its border: the ridge of the
    distance transform, which is the medial axis. Its ends are cut where the part is less than half as wide as usual on
    the line. It lies wholly inside the part. Arguments as for :func:`mask_to_boxes`.
    """
    scribbles = [
        Scribble(_line(part, (rows.start, columns.start)), category)
        for category, (rows, columns), part in _parts(values, mask, min_area)
    ]
    background = _largest(values == 0)
    if background.any():
        rows, columns = ndimage.find_objects(background.astype(np.uint8))[0]
        scribbles.append(Scribble(_line(background[rows, columns], (rows.start, columns.start)), 0))
    return tuple(scribbles)


def mask_to_points(values: np.ndarray, mask: Mask, min_area: int = MIN_AREA) -> tuple[Point, ...]:
    """The innermost pixel's centre of every connected part (of an instance: its largest), and one of the background.

    Arguments as for :func:`mask_to_boxes`. The background point lies where the distance to objects and ignored pixels
    is largest; the image's border does not count there.
    """
    points = [
        _deepest(part, columns.start, rows.start, category)
        for category, (rows, columns), part in _parts(values, mask, min_area)
    ]
    background = values == 0
    if background.any():
        distance = background if background.all() else _distance(background)
        y, x = np.unravel_index(np.argmax(distance), values.shape)
        points.append(Point(float(x) + 0.5, float(y) + 0.5, 0))
    return tuple(points)


def mask_to_tags(values: np.ndarray, mask: Mask) -> tuple[Tag, ...]:
    """The categories that are in the image, in ascending order, background left out; empty where there is no object."""
    present = np.unique(values)
    if mask.kind == "instance":
        return tuple(Tag(c) for c in sorted({mask.category_of(int(id)) for id in present if id}))
    return tuple(Tag(int(category)) for category in present if category not in (0, IGNORE))


def _parts(values: np.ndarray, mask: Mask, min_area: int) -> Iterator[tuple[int, tuple[slice, slice], np.ndarray]]:
    """Category, place and pixels (bool, cut to the place) of every part that gets a label.

    An instance is one object even where it is cut in two: its place holds all of it, its pixels are the largest part.
    """
    if mask.kind == "semantic":
        values = np.where(values == IGNORE, 0, values)
    for id, place in enumerate(ndimage.find_objects(values.astype(np.int32)), start=1):
        if place is None:
            continue
        pixels = values[place] == id
        if mask.kind == "instance":
            yield mask.category_of(id), place, _largest(pixels)
            continue
        labelled, _ = _label(pixels)
        areas = np.bincount(labelled.ravel())[1:]
        smallest = min(min_area, int(areas.max()))
        for number, (rows, columns) in enumerate(ndimage.find_objects(labelled), start=1):
            if areas[number - 1] >= smallest:
                whole = _shift(rows, place[0].start), _shift(columns, place[1].start)
                yield id, whole, labelled[rows, columns] == number


def _largest(pixels: np.ndarray) -> np.ndarray:
    labelled, count = _label(pixels)
    return pixels if count < 2 else np.equal(labelled, 1 + np.argmax(np.bincount(labelled.ravel())[1:]))


def _label(pixels: np.ndarray) -> tuple[np.ndarray, int]:
    labelled = np.zeros(pixels.shape, np.int32)
    count = ndimage.label(pixels, _EIGHT, output=labelled)
    return labelled, cast(int, count)


def _distance(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(ndimage.distance_transform_edt(pixels))


def _shift(part: slice, by: int) -> slice:
    return slice(part.start + by, part.stop + by)


def _depth(part: np.ndarray) -> np.ndarray:
    """Distance of every pixel to the outside, in pixels; beyond the array is outside."""
    return _distance(np.pad(part, 1))[1:-1, 1:-1]


def _deepest(part: np.ndarray, x0: int, y0: int, category: int) -> Point:
    y, x = np.unravel_index(np.argmax(_depth(part)), part.shape)
    return Point(float(x) + x0 + 0.5, float(y) + y0 + 0.5, category)


def _line(part: np.ndarray, origin: tuple[int, int]) -> tuple[tuple[float, float], ...]:
    """The scribble through one part (bool), shifted by ``origin`` = (row, column): vertices (x, y)."""
    block = 1
    while np.count_nonzero(part) > _GRAPH * block * block:
        block += 1
    coarse = _covered_blocks(part, block)
    while not coarse.any():
        block -= 1
        coarse = _covered_blocks(part, block)
    cells = _ridge(_largest(coarse))
    centres = cells * block + block / 2 + np.array(origin)
    return tuple((float(x), float(y)) for y, x in _corners(centres))


def _covered_blocks(part: np.ndarray, block: int) -> np.ndarray:
    rows, columns = (side // block for side in part.shape)
    cut = part[: rows * block, : columns * block]
    return np.asarray(cut.reshape(rows, block, columns, block).all(axis=(1, 3)))


def _ridge(part: np.ndarray) -> np.ndarray:
    """The cells ``(N, 2)`` (row, column) of the middle line of a connected part, from one end to the other."""
    cells = np.argwhere(part)
    if len(cells) < 3:
        return cells
    depth = _depth(part)[part]
    number = np.full(np.add(part.shape, 2), -1)
    number[1:-1, 1:-1][part] = np.arange(len(cells))
    pairs, lengths = [], []
    for down, right, length in _NEIGHBOURS:
        other = number[1 + down : 1 + down + part.shape[0], 1 + right : 1 + right + part.shape[1]][part]
        here = np.flatnonzero(other >= 0)
        pairs.append(np.stack([here, other[here]]))
        lengths.append(np.full(len(here), length))
    (a, b), length = np.concatenate(pairs, axis=1), np.concatenate(lengths)
    plain = coo_array((length, (a, b)), shape=(len(cells), len(cells))).tocsr()
    # Deep cells are cheap, so that the path keeps to the ridge of the distance transform.
    cost = length * (depth.max() / np.minimum(depth[a], depth[b])) ** 2
    weighted = coo_array((cost, (a, b)), shape=plain.shape).tocsr()
    first = int(np.argmax(dijkstra(plain, directed=False, indices=int(np.argmax(depth)))))
    last = int(np.argmax(dijkstra(plain, directed=False, indices=first)))
    _, before = dijkstra(weighted, directed=False, indices=first, return_predecessors=True)
    path = [last]
    while path[-1] != first:
        path.append(int(before[path[-1]]))
    wide = np.flatnonzero(depth[path] >= np.median(depth[path]) / 2)
    return cells[path[wide[0] : wide[-1] + 1]]


def _corners(points: np.ndarray) -> np.ndarray:
    """The same line ``(N, 2)`` without the vertices at which it goes straight on."""
    if len(points) < 3:
        return points
    steps = np.diff(points, axis=0)
    turns = (steps[1:] != steps[:-1]).any(axis=1)
    return points[np.concatenate([[True], turns, [True]])]


def _kinds(shares: Mapping[Kind, float], count: int) -> list[int]:
    """One kind per image, in order of the shares; what rounding leaves goes to the largest remainders."""
    if any(not 0 <= share <= 1 for share in shares.values()) or abs(sum(shares.values()) - 1) > 1e-6:
        listing = ", ".join(f"{kind}: {share:g}" for kind, share in shares.items())
        raise DataError([f"shares ({listing}): must be within 0..1 and sum up to 1; correct them"])
    exact = np.array(list(shares.values())) * count
    counts = np.floor(exact + 1e-9).astype(int)
    for i in np.argsort(counts - exact, kind="stable")[: count - counts.sum()]:
        counts[i] += 1
    return np.repeat([int(kind) for kind in shares], counts).tolist()


def _off_empty(kinds: list[Kind], empty: list[bool]) -> list[Kind]:
    """The kinds with boxes and tags swapped away from images that hold no object."""
    kinds = list(kinds)
    needing = (Kind.BOX, Kind.TAG)
    free = [i for i, kind in enumerate(kinds) if kind not in needing and not empty[i]]
    stuck = [i for i, kind in enumerate(kinds) if kind in needing and empty[i]]
    if len(stuck) > len(free):
        boxes_and_tags, objects = sum(kind in needing for kind in kinds), empty.count(False)
        what = f"shares: {boxes_and_tags} images should get a box or a tag, but only {objects} hold an object"
        raise DataError([f"{what}; lower the shares of box and tag"])
    for i, j in zip(stuck, free):
        kinds[i], kinds[j] = kinds[j], kinds[i]
    return kinds


def _has_object(dataset: Dataset, sample: Sample) -> bool:
    mask = sample.labels.mask
    assert mask is not None
    return bool(mask_to_tags(read_mask(dataset.root / mask.path), mask))


def _weaker(dataset: Dataset, sample: Sample, kind: Kind) -> Labels:
    mask = sample.labels.mask
    assert mask is not None
    if kind == Kind.MASK:
        return Labels(mask)
    values = read_mask(dataset.root / mask.path)
    return Labels(
        scribbles=mask_to_scribbles(values, mask) if kind == Kind.SCRIBBLE else (),
        boxes=mask_to_boxes(values, mask) if kind == Kind.BOX else (),
        points=mask_to_points(values, mask) if kind == Kind.POINT else (),
        tags=mask_to_tags(values, mask) if kind == Kind.TAG else (),
    )
