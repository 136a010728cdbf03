"""Outlines of the regions of a large mask, found strip by strip: exact at every pixel's edge, and whole across the strips.

Walls between pixels of different values are collected in runs, linked at their corners to rings, and holes are given to the rings
around them. Memory grows with the length of the outlines, not with the size of the mask.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskwright.errors import DataError

MOST_RUNS = 12_000_000
"""Straight runs of walls in a mask, at most: each takes some 100 bytes of memory while they are linked."""

_AT_ONCE = 1 << 20
# Pixels whose walls are looked for at once: each takes some 100 bytes meanwhile.

Ring = NDArray[np.int64]
"""Corners ``(n, 2)`` x, y of pixels; closed by the first, which is not repeated."""


@dataclass(frozen=True)
class Region:
    """A connected part of a mask (over the four sides of pixels).

    Attributes:
        value: of its pixels.
        outer: the ring around it, clockwise as seen on the screen.
        holes: rings in it, counter-clockwise.
    """

    value: int
    outer: Ring
    holes: tuple[Ring, ...]


class Outlines:
    """Collects the walls of a mask, and links them at the end.

    >>> outlines = Outlines(width)
    >>> for strip in strips:
    ...     outlines.add(strip)
    >>> for region in outlines.regions():
    ...     ...
    """

    def __init__(self, width: int) -> None:
        self.width, self.rows = width, 0
        self._above = np.zeros(width, np.int64)
        self._runs: list[NDArray[np.int32]] = []
        self._count = 0

    def add(self, strip: NDArray[np.integer]) -> None:
        """The next rows ``(h, W)`` of the mask. Raises DataError where outlines are too many for memory."""
        rows = max(1, _AT_ONCE // self.width)
        for top in range(0, len(strip), rows):
            self._add(strip[top : top + rows])

    def _add(self, strip: NDArray[np.integer]) -> None:
        values = np.concatenate([self._above[None], strip.astype(np.int64)])
        self._horizontal(values[:-1], values[1:])
        self._vertical(values[1:])
        self._above = values[-1]
        self.rows += len(strip)
        if self._count > MOST_RUNS:
            what = f"the outlines of this mask have more than {MOST_RUNS:,} straight runs"
            raise DataError([f"{what}, too many for vectors; write it as tiff or zarr"])

    def _keep(self, value: Any, x0: Any, y0: Any, x1: Any, y1: Any) -> None:
        run = np.stack([value, x0, y0, x1, y1], 1).astype(np.int32)
        self._runs.append(run)
        self._count += len(run)

    def _horizontal(self, upper: NDArray[np.int64], lower: NDArray[np.int64]) -> None:
        """Walls between a pixel and the one below, directed so that the region lies to the right of the way."""
        for mine, other, forward in ((lower, upper, True), (upper, lower, False)):
            wall = np.where((mine != other) & (mine > 0), mine, 0)
            # A run ends where the value does, and where a wall of the same value meets it from above or below.
            corner = (mine[:, 1:] != mine[:, :-1]) | (other[:, 1:] != other[:, :-1])
            rows, starts, ends, values = _runs_of(wall, corner)
            y = rows + self.rows
            if forward:
                self._keep(values, starts, y, ends, y)
            else:
                self._keep(values, ends, y, starts, y)

    def _vertical(self, values: NDArray[np.int64]) -> None:
        padded = np.pad(values, ((0, 0), (1, 1)))
        left, right = padded[:, :-1].T, padded[:, 1:].T
        for mine, other, down in ((left, right, True), (right, left, False)):
            wall = np.where((mine != other) & (mine > 0), mine, 0)
            corner = (mine[:, 1:] != mine[:, :-1]) | (other[:, 1:] != other[:, :-1])
            columns, starts, ends, found = _runs_of(wall, corner)
            starts, ends = starts + self.rows, ends + self.rows
            if down:
                self._keep(found, columns, starts, columns, ends)
            else:
                self._keep(found, columns, ends, columns, starts)

    def regions(self) -> Iterator[Region]:
        """All regions of values above 0, by value; to be called once, after the last strip."""
        self._horizontal(self._above[None], np.zeros((1, self.width), np.int64))
        runs = np.concatenate(self._runs) if self._runs else np.zeros((0, 5), np.int32)
        self._runs = []
        runs = runs[np.argsort(runs[:, 0], kind="stable")]
        bounds = np.flatnonzero(np.diff(runs[:, 0], prepend=-1))
        for start, end in zip(bounds, [*bounds[1:], len(runs)]):
            yield from _regions(int(runs[start, 0]), runs[start:end, 1:])


def _runs_of(
    wall: NDArray[np.int64], corner: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Runs of equal values above 0 along rows, cut at corners: row, begin, end and value of each."""
    change = np.ones((wall.shape[0], wall.shape[1] + 1), bool)
    change[:, 1:-1] = (wall[:, 1:] != wall[:, :-1]) | corner
    rows, places = np.nonzero(change)
    begins, ends, of = places[:-1], places[1:], rows[:-1]
    valid = rows[:-1] == rows[1:]
    begins, ends, of = begins[valid], ends[valid], of[valid]
    values = wall[of, begins]
    there = values > 0
    return of[there], begins[there], ends[there], values[there]


def _regions(value: int, runs: NDArray[np.int32]) -> Iterator[Region]:
    """The regions of one value, from its directed runs ``(n, 4)`` x0 y0 x1 y1."""
    rings = [_without_middles(ring) for linked in _rings(runs) for ring in _simple(runs[linked, :2].astype(np.int64))]
    areas = [_area(ring) for ring in rings]
    holes: dict[int, list[Ring]] = defaultdict(list)
    if any(area < 0 for area in areas):
        for hole, owner in _owners(rings, areas):
            holes[owner].append(rings[hole])
    for number, (ring, area) in enumerate(zip(rings, areas)):
        if area > 0:
            yield Region(value, ring, tuple(holes[number]))


def _rings(runs: NDArray[np.integer]) -> Iterator[list[int]]:
    """Runs linked end to begin. Where two begin in one corner the way turns right, so that regions that touch there stay apart."""
    x0, y0, x1, y1 = runs.astype(np.int64).T
    tall = int(max(y0.max(), y1.max())) + 1
    begins, ends = x0 * tall + y0, x1 * tall + y1
    order = np.argsort(begins, kind="stable")
    ordered = begins[order]
    place = np.searchsorted(ordered, ends)
    following = order[place]
    double = np.flatnonzero(ordered[np.minimum(place + 1, len(ordered) - 1)] == ends)
    double = double[place[double] + 1 < len(ordered)]
    # On a screen, with y down, a right turn has a positive cross product.
    one, dx, dy = following[double], x1 - x0, y1 - y0
    turns_right = dx[double] * dy[one] - dy[double] * dx[one] > 0
    following[double] = np.where(turns_right, one, order[place[double] + 1])
    after = following.tolist()
    used = bytearray(len(after))
    for first in range(len(after)):
        ring, at = [], first
        while not used[at]:
            used[at] = 1
            ring.append(at)
            at = after[at]
        if ring:
            yield ring


def _simple(ring: Ring) -> Iterator[Ring]:
    """A ring cut where it meets itself in a corner: the loops between are rings of their own."""
    corners = [(x, y) for x, y in ring.tolist()]
    if len(set(corners)) == len(corners):
        yield ring
        return
    path: list[tuple[int, int]] = []
    places: dict[tuple[int, int], int] = {}
    for corner in corners:
        if (place := places.get(corner)) is not None:
            yield np.array(path[place:])
            for gone in path[place:]:
                del places[gone]
            del path[place:]
        places[corner] = len(path)
        path.append(corner)
    yield np.array(path)


def _without_middles(ring: Ring) -> Ring:
    """A ring without corners that lie on a straight way."""
    ahead, behind = np.roll(ring, -1, 0) - ring, ring - np.roll(ring, 1, 0)
    return ring[ahead[:, 0] * behind[:, 1] != ahead[:, 1] * behind[:, 0]]


def _area(ring: Ring) -> float:
    x, y = ring[:, 0].astype(np.float64), ring[:, 1].astype(np.float64)
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


def _owners(rings: list[Ring], areas: list[float]) -> Iterator[tuple[int, int]]:
    """Each hole with the outer ring around it: the one whose wall is met first on the way to the left."""
    by_row: dict[int, list[tuple[int, int]]] = defaultdict(list)
    holes = [number for number, area in enumerate(areas) if area < 0]
    # Just below its highest corner a hole's leftmost wall begins; that row decides.
    tops = {}
    for number in holes:
        ring = rings[number]
        top = int(ring[:, 1].min())
        tops[number] = (top, int(ring[ring[:, 1] == top, 0].min()))
    wanted = {top for top, _ in tops.values()}
    rows = np.array(sorted(wanted))
    for number, ring in enumerate(rings):
        x, y, after = ring[:, 0], ring[:, 1], np.roll(ring, -1, 0)[:, 1]
        low, high = np.minimum(y, after), np.maximum(y, after)
        first, last = np.searchsorted(rows, low), np.searchsorted(rows, high)
        for place in np.flatnonzero(last > first):
            for row in rows[first[place] : last[place]].tolist():
                by_row[row].append((int(x[place]), number))
    for walls in by_row.values():
        walls.sort()
    owner: dict[int, int] = {}
    # From left to right and top to bottom the nearest wall belongs to the outer ring, or to a hole whose owner is known.
    for number in sorted(holes, key=lambda n: tops[n]):
        top, x = tops[number]
        nearest = [wall for wall in by_row[top] if wall[0] < x]
        found = nearest[-1][1]
        owner[number] = found if areas[found] > 0 else owner[found]
        yield number, owner[number]
