"""From dense maps to objects: parts that lie deep inside are seeds, which grow outwards by falling depth over the foreground.

Growing is flooding (Meyer, 1994), written as a forest: every pixel joins the seed from which it is reached over the highest ground,
and that is a maximum spanning forest of the grid (Cousty et al., 2009), which compiled code finds without a loop over pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

from maskwright.methods.instances.depth import depths

SEED = 0.5
"""Depth above which a connected part is a seed."""

FOREGROUND = 0.5
"""Probability of the likeliest category above which a pixel belongs to an object."""

OUTLINE_REACH = 3
"""Cells of the maps about an object over which its outline could lie elsewhere."""

_LEVELS = 4095
_WHOLE = ndimage.generate_binary_structure(2, 2)
# Parts that touch at a corner are one. Growth takes the four sides alone, so that no object crosses another diagonally.


@dataclass(frozen=True)
class Groups:
    """The objects of one image.

    Attributes:
        ids: (H, W) int32; 0 = background, k = object k.
        categories: (n,) int64, 1..C-1, of objects 1..n: the one of the highest mean probability.
        scores: (n,) float64 in 0..1, see :func:`scores_of`.
    """

    ids: NDArray[np.int32]
    categories: NDArray[np.int64]
    scores: NDArray[np.float64]


def group(
    probability: NDArray[np.floating],
    depth: NDArray[np.floating],
    *,
    foreground: float = FOREGROUND,
    seed: float = SEED,
    smallest: int = 1,
    cell: float = 0.0,
) -> Groups:
    """The objects that maps show.

    Args:
        probability: (C - 1, H, W) of each category but the background, 0..1.
        depth: (H, W) distance to the object's border, as a share of the object's largest, 0..1.
        foreground: a pixel belongs to an object if some category is likelier than this.
        seed: connected foreground deeper than this is the heart of one object. Foreground that no seed reaches is an object of its
            own for each connected part.
        smallest: pixels of an object, at least; smaller ones become background.
        cell: pixels along a cell of the maps that these were enlarged from: objects are told apart by the depth without grain of that
            size. 0: these are as they were.
    """
    ground = ndimage.gaussian_filter(depth, cell, mode="nearest")  # so that texture makes no seeds
    inside = probability.max(0) > foreground
    labelled: Any = ndimage.label(inside & (ground > seed), _WHOLE)
    seeds, count = labelled
    ids = _grown(inside, seeds, int(count), ground)
    count = int(ids.max())
    areas = np.bincount(ids.reshape(-1), minlength=count + 1)
    if (areas[1:] < smallest).any():
        kept = areas >= smallest
        kept[0] = False
        ids = np.where(kept, kept.cumsum(), 0).astype(np.int32)[ids]
        areas = np.concatenate([areas[:1], areas[kept]])
    count = len(areas) - 1
    if not count:
        return Groups(ids, np.zeros(0, np.int64), np.zeros(0))
    flat, on = ids.reshape(-1), np.flatnonzero(ids)
    sums = np.stack([np.bincount(flat[on], one.reshape(-1)[on], count + 1) for one in probability])
    categories = sums[:, 1:].argmax(0) + 1
    return Groups(
        ids, categories, scores_of(ids, areas, categories, probability, depth, round(OUTLINE_REACH * max(1.0, cell)))
    )


def scores_of(
    ids: NDArray[np.integer],
    areas: NDArray[np.integer],
    categories: NDArray[np.integer],
    probability: NDArray[np.floating],
    depth: NDArray[np.floating],
    reach: int,
) -> NDArray[np.float64]:
    """How well the objects 1..n agree with the maps that they were read off, (n,) in 0..1.

    The IoU with the true object that the probabilities lead to expect, if it ends within ``reach`` pixels, times one minus the mean
    difference between the depth that the object has and the depth that the map says: objects that were joined or cut have another.
    Cellpose (Stringer et al., 2021) drops objects by such an error of its flows. docs/s4m.md has what this gains on nuclei over the mean
    probability times the greatest depth.

    Args:
        ids: (H, W), 0 = background.
        areas: (n + 1,) pixels of the background and of each object.
        categories: (n,) of each object.
        probability, depth: see :func:`group`.
    """
    # The nearest object of each pixel of the background, counted along a chessboard, which is quick.
    nearest: Any = ndimage.distance_transform_cdt(ids == 0, "chessboard", return_indices=True)
    distance, (y, x) = nearest
    about = np.flatnonzero((distance > 0) & (distance <= reach))
    owners = ids[y.reshape(-1)[about], x.reshape(-1)[about]]
    on = np.flatnonzero(ids)
    of_pixel, likely = ids.reshape(-1)[on], probability.reshape(len(probability), -1)
    count = len(areas)
    inside = np.bincount(of_pixel, likely[categories[of_pixel - 1] - 1, on], count)[1:]
    outside = np.bincount(owners, likely[categories[owners - 1] - 1, about], count)[1:]
    error = np.abs(depths(ids).reshape(-1)[on] - depth.reshape(-1)[on])
    expected = inside / (areas[1:] + outside)
    return (expected * (1 - np.bincount(of_pixel, error, count)[1:] / areas[1:])).clip(0, 1)


def _grown(
    inside: NDArray[np.bool_], seeds: NDArray[np.integer], count: int, depth: NDArray[np.floating]
) -> NDArray[np.int32]:
    """Ids (H, W) of all foreground: those of the seeds 1..count first, then of connected parts without a seed."""
    # A border of background spares the neighbours of pixels at the edge a case of their own.
    inside, numbers = np.pad(inside, 1), np.pad(seeds.astype(np.int64), 1)
    width = inside.shape[1]
    level = np.rint(np.pad(depth.clip(0, 1), 1) * _LEVELS).astype(np.int64)
    # No two pixels are of equal height, so that the way up never goes in a circle; background is lowest.
    height = np.where(inside, level * inside.size + np.arange(inside.size).reshape(inside.shape), -1).reshape(-1)
    free = np.flatnonzero(inside & (numbers == 0))
    beside = free[:, None] + np.array([0, -width, -1, 1, width])
    up = np.arange(inside.size)
    up[free] = beside[np.arange(len(free)), height[beside].argmax(1)]
    # All the way up, in leaps: to a seed, or to a peak that is none.
    while len(free):
        leap = up[up[free]]
        if (leap == up[free]).all():
            break
        up[free] = leap
    flat = numbers.reshape(-1)
    flat[free] = flat[up[free]]
    lost = free[flat[free] == 0]
    if len(lost):
        peaks, of_peak = np.unique(up[lost], return_inverse=True)
        flat[lost] = count + 1 + of_peak
        flat[:] = _joined(flat, lost, level.reshape(-1), width, count, len(peaks))[flat]
    return numbers[1:-1, 1:-1].astype(np.int32)


def _joined(
    basins: NDArray[np.int64], lost: NDArray[np.int64], level: NDArray[np.int64], width: int, count: int, more: int
) -> NDArray[np.int64]:
    """The id of each basin: seeds 1..count keep theirs, each of ``more`` others joins the seed that it overflows to, over the highest
    ground; those that reach no seed join one another and get new ids.

    Args:
        basins: (P,) basin of each pixel, 0 = background.
        lost: pixels of basins without a seed.
        level: (P,) height of each pixel.
        width: of the picture.
    """
    one = np.repeat(lost, 4)
    two = (lost[:, None] + np.array([-width, -1, 1, width])).reshape(-1)
    passes = (basins[two] > 0) & (basins[one] != basins[two])
    one, two = one[passes], two[passes]
    rows, columns = np.minimum(basins[one], basins[two]), np.maximum(basins[one], basins[two])
    # The lower of the two sides of a pass decides; among equals the higher one.
    pass_height = np.minimum(level[one], level[two]) * (_LEVELS + 1) + np.maximum(level[one], level[two])
    order = np.lexsort((-pass_height, columns, rows))
    rows, columns, pass_height = rows[order], columns[order], pass_height[order]
    highest = np.ones(len(rows), bool)
    highest[1:] = (rows[1:] != rows[:-1]) | (columns[1:] != columns[:-1])
    rows, columns, pass_height = rows[highest], columns[highest], pass_height[highest]
    # All seeds hang on node 0, by the cheapest edges there are, so that none is reached over ground. No cost is 0: that is no edge.
    total, roots = count + 1 + more, np.arange(1, count + 1)
    cost = np.concatenate([np.full(count, 0.5), (_LEVELS + 1) ** 2 - pass_height + 1.0])
    ends = np.concatenate([np.zeros(count, np.int64), rows]), np.concatenate([roots, columns])
    forest = minimum_spanning_tree(coo_matrix((cost, ends), (total, total)).tocsr()).tocoo()
    kept = forest.row > 0
    ends = forest.row[kept], forest.col[kept]
    parts, part_of = connected_components(coo_matrix((np.ones(len(ends[0])), ends), (total, total)), directed=False)
    first = np.full(parts, total)
    np.minimum.at(first, part_of, np.arange(total))  # a part's seed, or the first of its basins
    ids = first[part_of]
    without = ids > count
    ids[without] = count + 1 + np.unique(ids[without], return_inverse=True)[1]
    return ids
