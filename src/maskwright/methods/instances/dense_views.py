"""An image of any size as views that a dense segmenter takes, their maps in the image's own pixels, and the objects on them.

Whoever makes the maps is a function from a view to logits, so that PyTorch and ONNX Runtime are looked through in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.special import expit

from maskwright.methods.instances.coco import Detection, of_ids
from maskwright.methods.instances.grouping import group
from maskwright.nets.dense_grid import MULTIPLE, STRIDE

if TYPE_CHECKING:
    from maskwright.data.geometry import Size

LARGEST_SIDE = 1536
"""Pixels of the canvas along a side that pass through the network at once; a larger canvas is looked at in tiles."""

OVERLAP = 128
"""Pixels that neighbouring tiles share; of each, the half that is nearer to its own middle counts."""

SMALLEST_OBJECT = 6
"""Pixels of the image that an object has at least."""

Look: TypeAlias = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""A view ``(h, w, 3)``, sides multiples of 32 → logits ``(C, h / 2, w / 2)``: the C - 1 categories in front, then the depth."""


def objects_of(look: Look, image: NDArray[np.uint8], zoom: float) -> list[Detection]:
    """The objects of an image ``(H, W, 3)`` uint8, the surest first; they do not overlap.

    Args:
        zoom: pixels of the canvas along a pixel of the image.
    """
    probability, depth = maps_by(look, image, zoom)
    found = group(probability, depth, smallest=SMALLEST_OBJECT, cell=STRIDE / zoom)
    return sorted(of_ids(found.ids, found.categories, found.scores), key=lambda one: -one.score)


def maps_by(
    look: Look, image: NDArray[np.uint8], zoom: float, largest: int = LARGEST_SIDE
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The maps of an image ``(H, W, 3)`` uint8 in its own pixels: probability ``(C - 1, H, W)`` and depth ``(H, W)``, both 0..1.

    Args:
        zoom: pixels of the canvas along a pixel of the image.
        largest: pixels along a side of what passes through the network at once, a multiple of 32 above twice the overlap.
    """
    size = image.shape[1], image.shape[0]
    canvas: Size = tuple(max(1, round(side * zoom)) for side in size)  # type: ignore[assignment]
    picture = Image.fromarray(image)
    cells = [math.ceil(side / STRIDE) for side in canvas]
    logits: NDArray[np.float32] | None = None
    for x, y in ((x, y) for y in _spans(canvas[1], largest) for x in _spans(canvas[0], largest)):
        found = look(_view(picture, (x[0], y[0], x[1], y[1]), canvas))
        logits = np.zeros((len(found), cells[1], cells[0]), np.float32) if logits is None else logits
        # In cells: what of the canvas this view answers for, and where that lies in the view.
        left, right, top, bottom = (math.ceil(edge / STRIDE) for edge in (*x[2:], *y[2:]))
        dx, dy = x[0] // STRIDE, y[0] // STRIDE
        logits[:, top:bottom, left:right] = found[:, top - dy : bottom - dy, left - dx : right - dx]
    assert logits is not None
    probability = expit(enlarged(logits, size, (canvas[0] / STRIDE, canvas[1] / STRIDE)))
    return probability[:-1], probability[-1]


def enlarged(maps: NDArray[np.float32], size: Size, extent: tuple[float, float]) -> NDArray[np.float32]:
    """Maps ``(C, h, w)`` → ``(C, H, W)``, sampled bilinearly at the middle of each pixel; beyond the outermost cells their value.

    Args:
        size: (W, H).
        extent: how many cells, broken ones too, lie along the width and the height of the result.
    """
    across = _sampled(maps, 2, size[0], extent[0])
    return _sampled(across, 1, size[1], extent[1])


def _sampled(maps: NDArray[np.float32], axis: int, length: int, cells: float) -> NDArray[np.float32]:
    """``length`` values along an axis that ``cells`` cells of the maps lie along."""
    last = maps.shape[axis] - 1
    place = ((np.arange(length) + 0.5) * (cells / length) - 0.5).clip(0, last)
    first = np.floor(place).astype(np.int64)
    share = (place - first).astype(np.float32)
    if axis == 1:
        share = share[:, None]
    one, two = maps.take(first, axis), maps.take(np.minimum(first + 1, last), axis)
    result: Any = one + (two - one) * share
    return result


def _spans(length: int, largest: int) -> Iterator[tuple[int, int, int, int]]:
    """Views along an axis of the canvas: begin, end, and the part from .. to that the view answers for; begins are even."""
    if length <= largest:
        yield 0, length, 0, length
        return
    step = largest - OVERLAP
    count = math.ceil((length - OVERLAP) / step)
    for number in range(count):
        begin, last = number * step, number == count - 1
        end = length if last else begin + largest
        yield begin, end, begin + OVERLAP // 2 * (number > 0), end - OVERLAP // 2 * (not last)


def _view(picture: Image.Image, part: tuple[int, int, int, int], canvas: Size) -> NDArray[np.uint8]:
    """A part x0 y0 x1 y1 of the canvas ``(h, w, 3)``, cut from the image and filled up to sides that the network takes."""
    x0, y0, x1, y1 = part
    zoom = canvas[0] / picture.width, canvas[1] / picture.height
    # Rounding must not reach beyond the image.
    box = x0 / zoom[0], y0 / zoom[1], min(x1 / zoom[0], picture.width), min(y1 / zoom[1], picture.height)
    pixels = np.asarray(picture.resize((x1 - x0, y1 - y0), Image.Resampling.BILINEAR, box=box))
    more = [(0, -side % MULTIPLE) for side in pixels.shape[:2]]
    return np.pad(pixels, (*more, (0, 0)), mode="edge")
