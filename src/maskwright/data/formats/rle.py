"""COCO's run-length code for masks, equal bit for bit to ``pycocotools.mask`` (cocodataset/cocoapi, ``maskApi.c``).

A mask is read column by column; ``counts`` are the lengths of its runs, of zeros and ones in turn, starting with zeros.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

_UPSAMPLE = 5  # Polygons are traced on a grid five times finer than the pixels, as in rleFrPoly.
_PIECE = 1 << 19  # Points of an outline that are traced at once: about 50 MB.
_LONGEST = 50_000_000  # Points of one outline, 10 million pixels along its longer axes: about five seconds.
_DIGITS = 7  # Characters of a compressed count: 35 bits, more than any mask has pixels.


@dataclass(frozen=True)
class Part:
    """A mask as the rectangle that it fills.

    Attributes:
        top, left: where the rectangle starts, in pixels.
        mask: ``(h, w)`` bool; of no rows or columns where the mask is empty.
    """

    top: int
    left: int
    mask: NDArray[np.bool_]

    @property
    def area(self) -> int:
        return int(np.count_nonzero(self.mask))

    def window(self) -> tuple[slice, slice]:
        """Its rows and columns in the whole mask."""
        height, width = self.mask.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)

    def whole(self, size: tuple[int, int]) -> NDArray[np.bool_]:
        """The mask ``(H, W)``."""
        mask = np.zeros(size, bool)
        mask[self.window()] = self.mask
        return mask

    @staticmethod
    def union(parts: Sequence[Part]) -> Part:
        """All pixels of several."""
        filled = [part for part in parts if part.mask.size]
        if len(filled) < 2:
            return filled[0] if filled else Part(0, 0, np.zeros((0, 0), bool))
        windows = [part.window() for part in filled]
        top, left = min(rows.start for rows, _ in windows), min(columns.start for _, columns in windows)
        bottom, right = max(rows.stop for rows, _ in windows), max(columns.stop for _, columns in windows)
        mask = np.zeros((bottom - top, right - left), bool)
        for part in filled:
            moved = Part(part.top - top, part.left - left, part.mask)
            mask[moved.window()] |= part.mask
        return Part(top, left, mask)


def encode(mask: np.ndarray) -> list[int]:
    """The counts of a mask ``(H, W)``, where everything but zero is set."""
    flat = np.asarray(mask).astype(bool).ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    first = [0, 0] if flat.size and flat[0] else [0]
    return np.diff(np.concatenate([first, changes, [flat.size]])).astype(int).tolist()


def decode(counts: Sequence[Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask ``(H, W)`` bool of counts, ``size`` = (H, W). Raises ValueError as :func:`decode_part`."""
    return decode_part(counts, size).whole(size)


def decode_part(counts: Sequence[Any], size: tuple[int, int]) -> Part:
    """What a mask of counts fills: some of its columns, from top to bottom.

    Raises:
        ValueError: counts that are not whole, negative, or do not fill the size. They are added up before memory is taken.
    """
    height, width = size
    counts = [int(count) if type(count) is float and count.is_integer() else count for count in counts]
    if not all(type(count) is int for count in counts):
        raise ValueError("run lengths must be whole numbers")
    if len(counts) > height * width + 2 or any(count < 0 for count in counts) or sum(counts) != height * width:
        raise ValueError(f"run lengths must be positive and sum up to {height} x {width}")
    ends = np.cumsum(np.asarray(counts, np.int64))
    starts, stops = ends[:-1:2], ends[1::2]
    filled = stops > starts
    if not filled.any():
        return Part(0, 0, np.zeros((0, 0), bool))
    first, last = int(starts[filled][0]) // height, (int(stops[filled][-1]) - 1) // height + 1
    offset, length = first * height, (last - first) * height
    edges = np.clip(np.stack([starts, stops], 1).ravel() - offset, 0, length)
    runs = np.diff(edges, prepend=0, append=length)
    mask = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(last - first, height).T
    return Part(0, first, mask)


def compress(counts: Sequence[int]) -> str:
    """Counts as COCO's compressed text: five bits a character; from the fourth on, the change since two before."""
    text = []
    for i, count in enumerate(counts):
        value = count - counts[i - 2] if i > 2 else count
        while True:
            bits = value & 0x1F
            value >>= 5
            more = value != (-1 if bits & 0x10 else 0)
            text.append(chr(bits + (0x20 if more else 0) + 48))
            if not more:
                break
    return "".join(text)


def decompress(text: str) -> list[int]:
    """The counts of a compressed text.

    Raises:
        ValueError: the text is cut short, holds other characters, or a count that no mask has.
    """
    if not text:
        return []
    if not text.isascii() or not text.isprintable():
        strange = next(character for character in text if not (character.isascii() and character.isprintable()))
        raise ValueError(f"{strange!r} is not part of a run-length text")
    bits = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64) - 48
    if ((bits < 0) | (bits >= 64)).any():
        strange = text[int(np.argmax((bits < 0) | (bits >= 64)))]
        raise ValueError(f"{strange!r} is not part of a run-length text")
    last = np.flatnonzero((bits & 0x20) == 0)
    if not len(last) or last[-1] != len(bits) - 1:
        raise ValueError("the run-length text is cut short")
    first = np.concatenate([[0], last[:-1] + 1])
    digits = last - first + 1
    if digits.max() > _DIGITS:
        raise ValueError("the run-length text holds a count that is larger than any mask")
    place = np.arange(len(bits)) - np.repeat(first, digits)
    values = np.add.reduceat((bits & 0x1F) << (5 * place), first)
    values -= np.where(bits[last] & 0x10, np.int64(1) << (5 * digits), 0)
    # From the fourth on, a count is written as the change since the one two before it.
    for start in (1, 2):
        values[start::2] = np.cumsum(values[start::2])
    return values.tolist()


def polygon(vertices: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask ``(H, W)`` bool of one polygon; arguments and errors as of :func:`polygon_part`."""
    return polygon_part(vertices, size).whole(size)


def polygon_part(vertices: Any, size: tuple[int, int]) -> Part:
    """What one polygon fills, drawn as COCO's ``rleFrPoly`` draws it. Time and memory follow its outline and its area.

    Args:
        vertices: ``x0, y0, x1, y1, ...`` in pixels of the image, at least three vertices; parts outside are cut off.
        size: (H, W).

    Raises:
        ValueError: fewer than three vertices, an odd count, vertices that are not numbers, not finite or absurdly far
            away, or an outline that is longer than any in an image.
    """
    if not isinstance(vertices, (list, tuple, np.ndarray)) or len(vertices) < 6 or len(vertices) % 2:
        raise ValueError("a polygon needs x and y of at least three vertices")
    if not all(isinstance(v, (int, float, np.number)) and not isinstance(v, bool) for v in vertices):
        raise ValueError("a polygon's vertices must be numbers")
    near = 3 * max(size) + 100
    if not all(-near <= v <= near for v in vertices):
        raise ValueError("a polygon's vertices must be finite and near the image")
    columns, rows = _crossings(np.asarray(vertices, np.float64).reshape(-1, 2), size)
    if not len(columns) or rows.min() == rows.max():
        return Part(0, 0, np.zeros((0, 0), bool))
    left, top = int(columns.min()), int(rows.min())
    across, down = int(columns.max()) - left + 1, int(rows.max()) - top
    # Every crossing switches between outside and inside for the pixels below it; each column is crossed an even number of times.
    switches = np.bincount((columns - left) * (down + 1) + rows - top, minlength=across * (down + 1))
    inside = np.cumsum(switches.reshape(across, down + 1) & 1, axis=1, dtype=np.uint32)[:, :down] & 1
    return Part(top, left, (inside == 1).T)


def _crossings(points: NDArray[np.float64], size: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the outline crosses the middle of a column of pixels: the columns, and the first row below each crossing."""
    height, width = size
    found = []
    for x, y in _outline(points):
        crossing = np.flatnonzero(x[1:] != x[:-1]) + 1
        column = (np.minimum(x[crossing], x[crossing - 1]) + 0.5) / _UPSAMPLE - 0.5
        row = (np.minimum(y[crossing], y[crossing - 1]) + 0.5) / _UPSAMPLE - 0.5
        inside = (column == np.floor(column)) & (column >= 0) & (column <= width - 1)
        found.append((column[inside].astype(np.int64), np.ceil(np.clip(row[inside], 0, height)).astype(np.int64)))
    columns = [columns for columns, _ in found]
    return np.concatenate(columns or [np.zeros(0, np.int64)]), np.concatenate(
        [rows for _, rows in found] or [np.zeros(0, np.int64)]
    )


def _outline(points: NDArray[np.float64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Dense points along the closed polygon on the fine grid, int64 x and y, in pieces; each starts with the last one's end."""
    corners = (points * _UPSAMPLE + 0.5).astype(np.int64)  # Towards zero, as C casts.
    after = np.roll(corners, -1, axis=0)
    moving = (corners != after).any(axis=1)
    corners, after = corners[moving], after[moving]
    lengths = np.abs(after - corners).max(axis=1, initial=0) + 1
    if lengths.sum() > _LONGEST:
        raise ValueError("a polygon's outline is longer than any in an image")
    end = np.zeros((2, 0), np.int64)
    starts = np.searchsorted(np.cumsum(lengths), np.arange(0, lengths.sum() + _PIECE, _PIECE), side="right")
    for first, last in pairwise(starts):
        if first < last:
            x, y = _lines(corners[first:last], after[first:last])
            yield np.concatenate([end[0], x]), np.concatenate([end[1], y])
            end = np.array([x[-1:], y[-1:]])


def _lines(corners: NDArray[np.int64], after: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Dense points along lines, each from its corner to the next."""
    delta = np.abs(after - corners)
    flat = delta[:, 0] >= delta[:, 1]
    major = np.where(flat, 0, 1)
    rows = np.arange(len(corners))
    # A line is always computed from the lower end of its longer axis, whichever way it is walked.
    flip = corners[rows, major] > after[rows, major]
    start, end = np.where(flip[:, None], after, corners), np.where(flip[:, None], corners, after)
    length = delta[rows, major]
    slope = (end[rows, 1 - major] - start[rows, 1 - major]) / np.maximum(length, 1)
    line = np.repeat(rows, length + 1)
    step = np.arange(len(line)) - np.repeat(np.cumsum(length + 1) - (length + 1), length + 1)
    step = np.where(flip[line], length[line] - step, step)
    along = step + start[rows, major][line]
    across = (start[rows, 1 - major][line] + slope[line] * step + 0.5).astype(np.int64)
    return np.where(flat[line], along, across), np.where(flat[line], across, along)
