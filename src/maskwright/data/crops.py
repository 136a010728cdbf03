"""Squares cut from images with their labels, for training at the images' own scale.

What a crop says is what the labels of the whole image say of it, and no more:

- a mask is cut, and one without an object in the crop says that there is none;
- a box becomes the box of what is left; along an axis on which it was cut it no longer tells where the object ends, see ``Box.cut``;
- a scribble is clipped, and may become several; a click stays or goes;
- a tag says that a category is somewhere in the image, which is nothing about a crop of it, so it goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from maskwright.data.labels import Box, Labels, Scribble

MIN_VISIBLE, MIN_COVERED = 0.2, 1 / 16
"""A box is kept if at least this share of its area is in the crop, or if it covers at least that share of the crop."""

EMPTY_SHARE = 0.25
"""Share of the crops of a labelled image that are taken anywhere, whether or not they show an object."""

Rectangle = tuple[int, int, int, int]
Size = tuple[int, int]


def cut_labels(labels: Labels, window: Rectangle) -> Labels:
    """The labels of a crop ``x0 y0 x1 y1``, in its own pixels. The mask stays as it is named: its file is cut elsewhere.

    Masks are complete, so with one the crop's tags would say nothing new.
    """
    x0, y0, x1, y1 = window
    boxes = [cut for box in labels.boxes if (cut := _cut_box(box, window)) is not None]
    points = [replace(p, x=p.x - x0, y=p.y - y0) for p in labels.points if x0 <= p.x < x1 and y0 <= p.y < y1]
    scribbles = [Scribble(part, line.category) for line in labels.scribbles for part in clipped(line.points, window)]
    return Labels(labels.mask, tuple(scribbles), tuple(boxes), tuple(points), ())


def _cut_box(box: Box, window: Rectangle) -> Box | None:
    x0, y0, x1, y1 = window
    left, top, right, bottom = max(box.x0, x0), max(box.y0, y0), min(box.x1, x1), min(box.y1, y1)
    area, visible = (box.x1 - box.x0) * (box.y1 - box.y0), (right - left) * (bottom - top)
    if right <= left or bottom <= top or visible < min(MIN_VISIBLE * area, MIN_COVERED * (x1 - x0) * (y1 - y0)):
        return None
    across = (left, right) != (box.x0, box.x1) or "x" in box.cut
    down = (top, bottom) != (box.y0, box.y1) or "y" in box.cut
    return Box(left - x0, top - y0, right - x0, bottom - y0, box.category, "x" * across + "y" * down)


def clipped(line: Sequence[tuple[float, float]], window: Rectangle) -> list[tuple[tuple[float, float], ...]]:
    """The parts of a polyline inside a crop, in its own pixels (Liang and Barsky, 1984)."""
    x0, y0, x1, y1 = window
    if len(line) == 1:
        ((x, y),) = line
        return [((x - x0, y - y0),)] if x0 <= x < x1 and y0 <= y < y1 else []
    parts: list[list[tuple[float, float]]] = []
    for start, end in pairwise(line):
        inside = _clipped_segment(start, end, window)
        if inside is None:
            continue
        first, last = ((x - x0, y - y0) for x, y in inside)
        if parts and parts[-1][-1] == first:
            parts[-1].append(last)
        else:
            parts.append([first, last])
    # Where a line only touches the border of a crop there is nothing of it inside.
    return [tuple(part) for part in parts if len(set(part)) > 1 or len(set(line)) == 1]


def _clipped_segment(
    start: tuple[float, float], end: tuple[float, float], window: Rectangle
) -> tuple[tuple[float, float], tuple[float, float]] | None:
    low, high = 0.0, 1.0
    for axis in (0, 1):
        way, nearest, farthest = end[axis] - start[axis], window[axis] - start[axis], window[axis + 2] - start[axis]
        if way == 0:
            if nearest > 0 or farthest <= 0:
                return None
            continue
        enters, leaves = sorted((nearest / way, farthest / way))
        low, high = max(low, enters), min(high, leaves)
    if low > high:
        return None

    def at(share: float) -> tuple[float, float]:
        # Rounding must not put a corner beyond the crop, nor move an end that lies inside.
        if share in (0.0, 1.0):
            return end if share else start
        x, y = (a + share * (b - a) for a, b in zip(start, end))
        return min(max(x, window[0]), window[2]), min(max(y, window[1]), window[3])

    return at(low), at(high)


def boxes_of(labels: Labels) -> NDArray[np.float64]:
    """``(n, 4)`` boxes of all that is drawn on an image but its mask: boxes, clicks and scribbles."""
    rows = [box.xyxy for box in labels.boxes]
    rows += [(p.x, p.y, p.x, p.y) for p in labels.points]
    for line in labels.scribbles:
        corners = np.array(line.points)
        rows.append((*corners.min(0), *corners.max(0)))
    return np.array(rows, np.float64).reshape(-1, 4)


@dataclass(frozen=True)
class ChosenWindows:
    """Where crops of one image lie.

    Attributes:
        windows: inside the image, each of ``side`` pixels or of the image's side where that is less.
        missed: how many of the things are whole in none of them, and fit into one.
    """

    windows: tuple[Rectangle, ...]
    missed: int


def choose(
    things: NDArray[np.float64], size: Size, side: int, most: int, generator: np.random.Generator
) -> ChosenWindows:
    """Crops of an image, so that each thing is whole in one as far as ``most`` allows; and some anywhere.

    Args:
        things: ``(n, 4)`` boxes of what is labelled; of an image without labels none: its crops lie anywhere.
        size: (width, height) of the image.
        side: of a crop.
        most: crops, at least 1.
        generator: source of the randomness.
    """
    wide, high = min(side, size[0]), min(side, size[1])
    room = size[0] - wide, size[1] - high
    # No more crops than show the image about twice over.
    enough = max(1, round(2 * (size[0] * size[1]) / (wide * high)))
    most = min(most, enough)

    def window_at(x: float, y: float) -> Rectangle:
        left, top = (int(min(max(round(place), 0), free)) for place, free in zip((x, y), room))
        return left, top, left + wide, top + high

    windows: dict[Rectangle, None] = {}
    waiting = np.ones(len(things), bool)
    anywhere = max(1, round(EMPTY_SHARE * most)) if most > 1 or not len(things) else 0
    for number in generator.permutation(len(things)).tolist():
        if len(windows) >= most - anywhere:
            break
        if not waiting[number]:
            continue
        x0, y0, x1, y1 = things[number]
        draw = generator.random(2)
        # Anywhere about the thing, so that where it lies in the crop tells nothing; whole, where it fits.
        x = x1 - wide + draw[0] * max(0.0, wide - (x1 - x0)) if x1 - x0 <= wide else (x0 + x1 - wide) / 2
        y = y1 - high + draw[1] * max(0.0, high - (y1 - y0)) if y1 - y0 <= high else (y0 + y1 - high) / 2
        window = window_at(x, y)
        windows[window] = None
        waiting[number] = False
        waiting &= ~_holds(window, things)
    missed = int((waiting & (things[:, 2] - things[:, 0] <= wide) & (things[:, 3] - things[:, 1] <= high)).sum())
    target = most if not len(things) else min(most, max(1, round(len(windows) / (1 - EMPTY_SHARE))))
    for _ in range(4 * most):
        if len(windows) >= target:
            break
        windows[window_at(*(generator.random(2) * np.array(room)))] = None
    return ChosenWindows(tuple(windows), missed)


def _holds(window: Rectangle, things: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which things lie whole in a window, to a pixel: crops begin at whole pixels."""
    low, high = np.array(window[:2]) - 1, np.array(window[2:]) + 1
    return np.asarray(((things[:, :2] >= low) & (things[:, 2:] <= high)).all(1))


# ------------------------------------------------------------------------------------------------------ which side


LOST = 8.0
"""Pixels of the canvas across the usual object below which squashing loses it: two cells of a segmenter's logits."""

WANTED = 24.0
"""Pixels of the canvas across the usual object that a suggested crop shows, where the image has them."""


def given_crop(crop: int | None, scale: float | None, canvas: int) -> int | None:
    """Side of crops in pixels of the image, where settings say so: by itself, or by pixels of the canvas along a pixel of the image."""
    return crop or (None if scale is None else max(32, round(canvas / scale)))


@dataclass(frozen=True)
class Suggestion:
    """Whether to crop, and why.

    Attributes:
        crop: side in pixels of the image; None: whole images, squashed to the canvas.
        reason: one sentence.
    """

    crop: int | None
    reason: str


def suggest(diameters: Sequence[float], sizes: Sequence[Size], canvas: int) -> Suggestion:
    """Which crop objects of these sizes need.

    Args:
        diameters: of labelled objects, in pixels of their images.
        sizes: (width, height) of the images.
        canvas: its side in pixels.
    """
    longest = float(np.median([max(size) for size in sizes])) if sizes else 0.0
    if not diameters:
        return Suggestion(None, "whole images: no label tells how large the objects are")
    usual = float(np.median(diameters))
    squashed = usual * min(1.0, canvas / longest)
    told = (
        f"the usual object is {usual:.0f} pixels across, and {squashed:.1f} on the canvas of {canvas} when images of "
    )
    told += f"{longest:.0f} are squashed"
    if squashed >= LOST:
        return Suggestion(None, f"whole images: {told}")
    shortest = int(np.median([min(size) for size in sizes]))
    side = min(max(canvas, round(canvas * usual / WANTED / 32) * 32), max(32, shortest))
    if side >= longest / 1.5:
        return Suggestion(None, f"whole images: {told}, and a crop would be hardly smaller")
    return Suggestion(
        side, f"crops of {side} pixels: {told}, which loses it; in a crop it has {usual * canvas / side:.0f}"
    )
