"""Masks as polygons along the edges of their pixels, which fill the same pixels when they are drawn by the rule of COCO.

An object with holes, or of several parts, becomes one polygon, as formats need that have one outline for an object: its
loops are joined by lines that are walked there and back, and so enclose nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from maskwright.data.formats.rle import Part


def polygon_of(part: Part) -> NDArray[np.int64]:
    """The outline ``(N, 2)`` of a mask as x, y of corners of pixels in its image, closed by its first corner.

    Drawn by :func:`maskwright.data.formats.rle.polygon_part` it fills the pixels of the mask, whatever their shape.

    Raises:
        ValueError: an empty mask.
    """
    corners = _corners(part.mask)
    if not len(corners):
        raise ValueError("an empty mask has no outline")
    loops = _loops(corners)
    first = np.cumsum([0, *(len(loop) for loop in loops[:-1])])
    there = np.concatenate([np.append(loop, loop[0]) for loop in loops])
    walked = corners[there]
    back = corners[np.concatenate(loops)[first][-2::-1]]
    return np.concatenate([walked, back]) + np.array([part.left, part.top])


def _corners(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """x, y of the corners of outlines, from top to bottom and left to right; twice where two outlines touch in one."""
    padded = np.pad(mask, 1)
    here, right, below, across = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    odd = here ^ right ^ below ^ across
    touch = (here == across) & (right == below) & (here != right)
    rows, columns = np.nonzero(odd | touch)
    return np.repeat(np.stack([columns, rows], 1), 1 + touch[rows, columns], axis=0)


def _loops(corners: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The closed loops that edges of pixels make, each as indices of its corners in their order.

    Along a row of corners every second gap between neighbours is an edge, and so along a column: each corner has one
    neighbour across and one down, and a loop takes them in turn.
    """
    count = len(corners)
    across = np.arange(count) ^ 1  # Their number in a row is even.
    order = np.lexsort((corners[:, 1], corners[:, 0]))
    down = np.empty(count, np.int64)
    down[order] = order[np.arange(count) ^ 1]
    graph = coo_array((np.ones(2 * count, bool), (np.tile(np.arange(count), 2), np.concatenate([across, down]))))
    _, loop = connected_components(graph, directed=False)
    start = np.unique(loop, return_index=True)[1][loop]
    # How many steps of two edges from each corner back to where its loop starts, found by doubling the length of a step.
    step = down[across]
    arrived = np.arange(count) == start
    left = np.where(arrived, 0, 1)
    step = np.where(arrived, np.arange(count), step)
    for _ in range(int(count).bit_length()):
        left, step = left + left[step], step[step]
    # Corners that never arrive are those that the loop meets between: each follows its neighbour across.
    walks = np.flatnonzero(step == start)
    walks = walks[np.lexsort((-np.where(walks == start[walks], count, left[walks]), loop[walks]))]
    ordered = np.stack([walks, across[walks]], 1).ravel()
    ends = np.flatnonzero(np.diff(loop[ordered])) + 1
    return np.split(ordered, ends)
