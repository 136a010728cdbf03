"""COCO's run-length code for masks, equal bit for bit to ``pycocotools.mask`` (cocodataset/cocoapi, ``maskApi.c``).

A mask is read column by column; ``counts`` are the lengths of its runs, of zeros and ones in turn, starting with zeros.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_UPSAMPLE = 5  # Polygons are traced on a grid five times finer than the pixels, as in rleFrPoly.
_FAR = 1 << 20  # Pixels. Vertices beyond this are a mistake in the file, and tracing to them would take gigabytes.


def encode(mask: np.ndarray) -> list[int]:
    """The counts of a mask ``(H, W)``, where everything but zero is set."""
    flat = np.asarray(mask).astype(bool).ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    first = [0, 0] if flat.size and flat[0] else [0]
    return np.diff(np.concatenate([first, changes, [flat.size]])).astype(int).tolist()


def decode(counts: Sequence[int], size: tuple[int, int]) -> np.ndarray:
    """The mask ``(H, W)`` bool of counts, ``size`` = (H, W).

    Raises:
        ValueError: negative counts, or counts that do not fill the size.
    """
    runs = np.asarray(counts, dtype=np.int64)
    if runs.ndim != 1 or (runs < 0).any() or runs.sum() != size[0] * size[1]:
        raise ValueError(f"run lengths must be positive and sum up to {size[0]} x {size[1]}")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(size[1], size[0]).T


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
        ValueError: the text is cut short or holds other characters.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"{character!r} is not part of a run-length text")
        value |= (bits & 0x1F) << shift
        shift += 5
        if not bits & 0x20:
            if bits & 0x10:
                value -= 1 << shift
            counts.append(value + counts[-2] if len(counts) > 2 else value)
            value = shift = 0
    if shift:
        raise ValueError("the run-length text is cut short")
    return counts


def polygon(vertices: Sequence[float], size: tuple[int, int]) -> np.ndarray:
    """The mask ``(H, W)`` bool of one polygon, drawn as COCO's ``rleFrPoly`` draws it.

    Args:
        vertices: ``x0, y0, x1, y1, ...`` in pixels of the image, at least three vertices; parts outside are cut off.
        size: (H, W).

    Raises:
        ValueError: fewer than three vertices, an odd count, or vertices that are not finite or absurdly far away.
    """
    points = np.asarray(vertices, dtype=np.float64)
    if points.ndim != 1 or len(points) < 6 or len(points) % 2:
        raise ValueError("a polygon needs x and y of at least three vertices")
    if not (np.abs(points) < _FAR).all():
        raise ValueError("a polygon's vertices must be finite and near the image")
    height, width = size
    x, y = _outline(points.reshape(-1, 2))
    # Where the outline enters another column of the fine grid, it may cross the middle of a column of pixels.
    crossing = np.flatnonzero(x[1:] != x[:-1]) + 1
    column = (np.minimum(x[crossing], x[crossing - 1]) + 0.5) / _UPSAMPLE - 0.5
    row = (np.minimum(y[crossing], y[crossing - 1]) + 0.5) / _UPSAMPLE - 0.5
    inside = (column == np.floor(column)) & (column >= 0) & (column <= width - 1)
    column, row = column[inside].astype(np.int64), np.ceil(np.clip(row[inside], 0, height)).astype(np.int64)
    # Every crossing switches between outside and inside for all pixels that follow it, column by column.
    switches = np.bincount(column * height + row, minlength=height * width + 1)[: height * width]
    return (np.cumsum(switches) % 2 == 1).reshape(width, height).T


def _outline(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Dense points along the closed polygon on the fine grid: int64 x and y, each line from its vertex to the next."""
    corners = (points * _UPSAMPLE + 0.5).astype(np.int64)  # Towards zero, as C casts.
    after = np.roll(corners, -1, axis=0)
    moving = (corners != after).any(axis=1)
    corners, after = corners[moving], after[moving]
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
