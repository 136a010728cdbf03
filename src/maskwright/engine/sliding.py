"""A network that sees squares of an image, slid over the whole: overlapping windows, whose logits are blended.

The windows of an image lie on one grid, whatever part of it is asked for. So an image that is predicted area by area, by several
processes or after a kill, gets the answer that it would get at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from maskwright.errors import require

if TYPE_CHECKING:
    from maskwright.data.geometry import Size
    from maskwright.data.large.image import Rectangle

OVERLAP = 0.25
"""Share of a window's side that it has in common with its neighbour."""

AREA_BYTES = 210_000_000
"""Of the logits of an area, in float32."""

LARGEST_AREA, SMALLEST_AREA = 4096, 512
"""Pixels along a side of an area."""

Read: TypeAlias = "Callable[[Rectangle], NDArray[np.uint8]]"
"""A rectangle of an image → its pixels ``(h, w, 3)`` uint8."""

Look: TypeAlias = Callable[[Sequence[NDArray[np.uint8]]], Tensor]
"""Windows ``(h, w, 3)`` uint8, B of them → logits ``(B, C, s, s)`` float32 that cover them."""


@dataclass(frozen=True)
class Slide:
    """The grid of windows on an image.

    Attributes:
        size: (width, height) of the image.
        side: of a window, in pixels of the image. Along an axis that is shorter, windows are as short.
        step: from one window to the next; the last ones lie at the image's far border.
    """

    size: Size
    side: int
    step: int

    @classmethod
    def of(cls, size: Size, side: float, overlap: float = OVERLAP) -> Slide:
        """Windows of ``side`` pixels, of which neighbours share ``overlap`` (0..0.9). Raises MaskwrightError for other values."""
        whole = max(1, round(side))
        require({f"--overlap {overlap:g}: must lie in 0..0.9": 0 <= overlap <= 0.9})
        return cls(size, whole, max(1, round(whole * (1 - overlap))))

    def windows(self, area: Rectangle) -> list[Rectangle]:
        """Those that show some of an area, row by row."""
        columns = self._spans(0, area[0], area[2])
        rows = self._spans(1, area[1], area[3])
        return [(x0, y0, x1, y1) for y0, y1 in rows for x0, x1 in columns]

    def _spans(self, axis: int, low: int, high: int) -> list[tuple[int, int]]:
        length = self.size[axis]
        side = min(self.side, length)
        last = math.ceil((length - side) / self.step)
        # The last window is moved back to the image's border, and so may begin one step earlier than its number says.
        numbers = range(max(0, (low - side) // self.step), min(last, high // self.step + 1) + 1)
        begins = [min(number * self.step, length - side) for number in numbers]
        return [(begin, begin + side) for begin in begins if begin < high and begin + side > low]


def area_side(categories: int) -> int:
    """Pixels along a side of an area, so that the logits of so many categories are at most ``AREA_BYTES``."""
    side = LARGEST_AREA
    while side > SMALLEST_AREA and side * side * (categories + 1) * 4 > AREA_BYTES:
        side //= 2
    return side


def areas_of(size: Size, side: int) -> list[Rectangle]:
    """Squares of ``side`` pixels, less at the far borders, that together make an image of ``size``, row by row."""
    width, height = size
    return [
        (x, y, min(x + side, width), min(y + side, height))
        for y in range(0, height, side)
        for x in range(0, width, side)
    ]


@torch.inference_mode()
def blended(look: Look, read: Read, slide: Slide, area: Rectangle, batch: int = 8) -> Tensor:
    """The logits ``(C, h, w)`` of an area: of each pixel the mean over the windows that show it, those whose middle is near
    counting most.

    Args:
        look: the network.
        read: gives the pixels of a rectangle.
        batch: windows per pass of the network.
    """
    windows = slide.windows(area)
    x0, y0 = min(w[0] for w in windows), min(w[1] for w in windows)
    pixels = read((x0, y0, max(w[2] for w in windows), max(w[3] for w in windows)))
    total: Tensor | None = None
    weights = torch.zeros(area[3] - area[1], area[2] - area[0])
    for start in range(0, len(windows), batch):
        some = windows[start : start + batch]
        found = look([pixels[w[1] - y0 : w[3] - y0, w[0] - x0 : w[2] - x0] for w in some]).cpu()
        if total is None:
            total = torch.zeros(found.shape[1], *weights.shape)
        for window, logits in zip(some, found):
            wide, high = window[2] - window[0], window[3] - window[1]
            left, top, right, bottom = _common(window, area)
            inside = slice(top - window[1], bottom - window[1]), slice(left - window[0], right - window[0])
            there = slice(top - area[1], bottom - area[1]), slice(left - area[0], right - area[0])
            large = F.interpolate(logits[None], (high, wide), mode="bilinear", align_corners=False)[0][:, *inside]
            weight = (taper(high)[:, None] * taper(wide))[inside]
            total[:, *there] += large * weight
            weights[there] += weight
    assert total is not None
    return total.div_(weights)


@lru_cache(maxsize=8)
def taper(length: int) -> Tensor:
    """Weights ``(length,)`` along a window: 1 in its middle, falling to nearly 0 at its borders."""
    place = torch.arange(length) + 0.5
    return torch.minimum(place, length - place) / (length / 2)


@dataclass(frozen=True)
class AreaMask:
    """What a semantic model says of an area.

    Attributes:
        mask: ``(h, w)`` uint8 category ids.
        pixels: ``(C,)`` how many have each category.
        certainty: ``(C,)`` sum of the probability of that category over these pixels.
    """

    mask: NDArray[np.uint8]
    pixels: NDArray[np.float64]
    certainty: NDArray[np.float64]


def mask_of(logits: Tensor) -> AreaMask:
    """The likeliest categories of logits ``(C, h, w)``, in strips of rows, so that memory is bounded."""
    count, height, width = logits.shape
    mask = np.empty((height, width), np.uint8)
    pixels, certainty = np.zeros(count), np.zeros(count)
    rows = max(1, (1 << 22) // width)
    for top in range(0, height, rows):
        strip = logits[:, top : top + rows]
        best, category = strip.max(0)
        probability = (best - strip.logsumexp(0)).exp().numpy()
        mask[top : top + rows] = category.to(torch.uint8).numpy()
        flat = mask[top : top + rows].reshape(-1)
        pixels += np.bincount(flat, minlength=count)
        certainty += np.bincount(flat, probability.reshape(-1), minlength=count)
    return AreaMask(mask, pixels, certainty)


def scores_of(areas: Sequence[AreaMask], categories: Sequence[str]) -> dict[str, float]:
    """The mean probability of each category over its pixels in all areas; of those that are there."""
    pixels, certainty = (np.sum([getattr(one, name) for one in areas], axis=0) for name in ("pixels", "certainty"))
    return {name: float(c / n) for name, c, n in zip(categories, certainty, pixels) if n}


def reader_of(pixels: NDArray[np.uint8]) -> Read:
    """What reads from an image ``(H, W, 3)`` in memory."""
    return lambda part: pixels[part[1] : part[3], part[0] : part[2]]


def _common(one: Rectangle, other: Rectangle) -> Rectangle:
    return max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])
