"""The objects of an image, by a dense segmenter: the whole image at the scale of training, in tiles only where it is large."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from maskwright.data.geometry import Size, warp_maps
from maskwright.engine.weights import require_finite
from maskwright.methods.instances.coco import Detection, cut
from maskwright.methods.instances.detections import look_at
from maskwright.methods.instances.grouping import group, smoothed
from maskwright.nets.dense_instances import MULTIPLE, STRIDE, DenseSegmenter
from maskwright.nets.instance import InstanceSegmenter

LARGEST_SIDE = 1536
"""Pixels of the canvas along a side that pass through the network at once; a larger canvas is looked at in tiles."""

OVERLAP = 128
"""Pixels that neighbouring tiles share; of each, the half that is nearer to its own middle counts."""

SMALLEST_OBJECT = 6
"""Pixels of the image that an object has at least."""


def find_objects(
    segmenter: InstanceSegmenter | DenseSegmenter, image: NDArray[np.uint8], crop: float | None, batch: int = 8
) -> list[Detection]:
    """The objects of an image ``(H, W, 3)`` uint8 by a segmenter of either kind; ``crop`` and ``batch`` are for queries alone."""
    if isinstance(segmenter, DenseSegmenter):
        return look_densely(segmenter, image)
    return look_at(segmenter, image, crop, batch)


def look_densely(segmenter: DenseSegmenter, image: NDArray[np.uint8]) -> list[Detection]:
    """The objects of an image ``(H, W, 3)`` uint8, the surest first; they do not overlap."""
    probability, depth = maps_of(segmenter, image)
    found = group(probability, smoothed(depth, STRIDE / segmenter.zoom), smallest=SMALLEST_OBJECT)
    detections = []
    for number, place in enumerate(ndimage.find_objects(found.ids), start=1):
        mask = np.asarray(found.ids[place] == number)
        category, score = int(found.categories[number - 1]), float(found.scores[number - 1])
        detections.append(cut(mask, category, score, place[1].start, place[0].start))
    return sorted(detections, key=lambda one: -one.score)


@torch.inference_mode()
def maps_of(
    segmenter: DenseSegmenter, image: NDArray[np.uint8], largest: int = LARGEST_SIDE
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The maps of an image ``(H, W, 3)`` uint8 in its own pixels: probability ``(C - 1, H, W)`` and depth ``(H, W)``, both 0..1.

    Args:
        largest: pixels along a side of what passes through the network at once, a multiple of 32 above twice the overlap.
    """
    size = image.shape[1], image.shape[0]
    canvas: Size = tuple(max(1, round(side * segmenter.zoom)) for side in size)  # type: ignore[assignment]
    picture, device = Image.fromarray(image), segmenter.mean.device
    cells = [math.ceil(side / STRIDE) for side in canvas]
    logits = torch.zeros(segmenter.categories, cells[1], cells[0])
    for x, y in ((x, y) for y in _spans(canvas[1], largest) for x in _spans(canvas[0], largest)):
        pixels = _view(picture, (x[0], y[0], x[1], y[1]), canvas)
        maps = segmenter(torch.from_numpy(pixels).to(device).permute(2, 0, 1)[None].float() / 255)
        found = torch.cat([maps.foreground[0], maps.distance]).float()
        require_finite(found)
        # In cells: what of the canvas this view answers for, and where that lies in the view.
        left, right, top, bottom = (math.ceil(edge / STRIDE) for edge in (*x[2:], *y[2:]))
        dx, dy = x[0] // STRIDE, y[0] // STRIDE
        logits[:, top:bottom, left:right] = found[:, top - dy : bottom - dy, left - dx : right - dx].cpu()
    matrix = torch.tensor([[[size[0] * STRIDE / canvas[0], 0, 0], [0, size[1] * STRIDE / canvas[1], 0]]])
    probability = warp_maps(logits[None], matrix, size)[0].sigmoid().numpy()
    return probability[:-1], probability[-1]


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
