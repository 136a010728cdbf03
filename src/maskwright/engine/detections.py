"""From a segmenter's queries to objects in an image's own pixels, whole or by overlapping tiles."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskwright.data.geometry import Affine, Size, compose, invert, resize_matrix, unwarp_logits, warp_image
from maskwright.engine.coco import MOST, Detection, cut
from maskwright.nets.instance import InstanceSegmenter, Queries

_SAME = 0.5
# Box IoU above which two objects of one category, seen in different tiles, are the same one.


def look_at(
    segmenter: InstanceSegmenter, image: NDArray[np.uint8], crop: float | None, batch: int = 8
) -> list[Detection]:
    """The best 100 objects of an image ``(H, W, 3)`` uint8, seen as in training: squashed, or in tiles of ``crop`` pixels."""
    if crop is not None:
        return detect(segmenter, image, crop, batch)
    size = image.shape[1], image.shape[0]
    matrix = resize_matrix(size, segmenter.size)
    return squashed(segmenter, warp_image(image, matrix, segmenter.size)[0][None], [matrix], [size])[0]


def tiles(size: Size, side: float) -> list[tuple[float, float]]:
    """Corners (x, y) of squares of ``side`` pixels that cover an image of ``size`` (width, height), half overlapping.

    Evenly spaced from border to border. Along an axis shorter than a tile there is one, which begins at 0.
    """
    axes = []
    for length in size:
        count = 1 + math.ceil(max(0.0, length - side) / (side / 2))
        axes.append(np.linspace(0, max(0.0, length - side), count).tolist())
    return [(x, y) for y in axes[1] for x in axes[0]]


def detect(segmenter: InstanceSegmenter, image: NDArray[np.uint8], side: float, batch: int = 8) -> list[Detection]:
    """The objects of an image, seen in tiles at the scale of training.

    An object belongs to the tile in whose middle its centre lies, so that borders of tiles cut none that are smaller than half a
    tile; the same one seen in two tiles counts once.

    Args:
        image: ``(H, W, 3)`` uint8.
        side: of a tile in pixels of the image; it fills the segmenter's canvas.
        batch: tiles per pass.

    Returns:
        The best 100, by score.
    """
    height, width = image.shape[:2]
    corners, zoom = tiles((width, height), side), segmenter.size / side
    found: list[tuple[int, Detection]] = []
    for start in range(0, len(corners), batch):
        part = corners[start : start + batch]
        matrices = [np.array([[zoom, 0, -x * zoom], [0, zoom, -y * zoom]]) for x, y in part]
        drawn = np.stack([warp_image(image, matrix, segmenter.size)[0] for matrix in matrices])
        seen = detections(_look(segmenter, drawn), matrices, [(width, height)] * len(part), segmenter.size)
        for number, (corner, objects) in enumerate(zip(part, seen), start=start):
            found += [(number, one) for one in objects if _in_core(one, corner, side, (width, height))]
    return _once(found)


def squashed(
    segmenter: InstanceSegmenter, canvases: NDArray[np.uint8], matrices: Sequence[Affine], sizes: Sequence[Size]
) -> list[list[Detection]]:
    """The objects of images that were squashed to the canvas: ``(B, S, S, 3)`` uint8, and how they were."""
    return detections(_look(segmenter, canvases), matrices, sizes, segmenter.size)


@torch.inference_mode()
def _look(segmenter: InstanceSegmenter, canvases: NDArray[np.uint8]) -> Queries:
    device = segmenter.mean.device
    return segmenter(torch.from_numpy(canvases).to(device).permute(0, 3, 1, 2).float() / 255)


@torch.inference_mode()
def detections(
    queries: Queries, matrices: Sequence[Affine], sizes: Sequence[Size], canvas: int
) -> list[list[Detection]]:
    """The 100 best pairs of query and class of each image, as COCO's protocol has it.

    The score is the class probability times the mean probability of the mask's own pixels.

    Args:
        queries: of B images on the canvas.
        matrices: B affines without rotation, from each image's pixels to the canvas.
        sizes: (width, height) of each image; masks are cut to it.
        canvas: its side.
    """
    probability = queries.classes[-1].float().softmax(-1)[..., :-1]
    count, classes = min(MOST, probability[0].numel()), probability.shape[-1]
    certainty, place = probability.flatten(1).topk(count, 1)
    query, category = place // classes, place % classes + 1
    logits = queries.masks[-1].float().gather(
        1, query[..., None, None].expand(-1, -1, *queries.masks.shape[-2:])
    )
    on = logits > 0
    inside = (logits.sigmoid() * on).sum((2, 3)) / on.sum((2, 3)).clamp(min=1)
    scores, categories = (certainty * inside).cpu().numpy(), category.cpu().numpy()
    columns, rows = (_extent(on.any(axis)) for axis in (2, 3))
    logits = logits.cpu()
    result: list[list[Detection]] = []
    for row, (matrix, size) in enumerate(zip(matrices, sizes, strict=True)):
        found = []
        # Each object fills another part of the image, and all of them at full size would not fit into memory.
        for k in range(count):
            if scores[row, k] > 0:
                region = *columns[row, k], *rows[row, k]
                one = _restore(logits[row, k], region, matrix, size, canvas)
                if one is not None and (drawn := cut(one[0], int(categories[row, k]), float(scores[row, k]), *one[1])):
                    found.append(drawn)
        result.append(sorted(found, key=lambda one: -one.score))
    return result


def _extent(hit: Tensor) -> NDArray[np.int64]:
    """(B, K, 2): first and last (exclusive) place that is set along the last axis."""
    length = hit.shape[-1]
    low, high = hit.int().argmax(-1), length - hit.flip(-1).int().argmax(-1)
    return torch.stack([low, high], -1).cpu().numpy()


def _restore(
    logits: Tensor, region: Sequence[int], matrix: Affine, size: Size, canvas: int
) -> tuple[NDArray[np.bool_], tuple[int, int]] | None:
    """A mask (h, w) in the image's pixels and its corner (x, y), from cells x0, x1, y0, y1 of its logits."""
    cell, back = canvas / logits.shape[-1], invert(matrix)
    x0, x1, y0, y1 = region
    # One cell more on every side: bilinear sampling reaches that far.
    xs = sorted(((x0 - 1) * cell * back[0, 0] + back[0, 2], (x1 + 1) * cell * back[0, 0] + back[0, 2]))
    ys = sorted(((y0 - 1) * cell * back[1, 1] + back[1, 2], (y1 + 1) * cell * back[1, 1] + back[1, 2]))
    left, top = max(0, math.floor(xs[0])), max(0, math.floor(ys[0]))
    wide, tall = min(size[0], math.ceil(xs[1])) - left, min(size[1], math.ceil(ys[1])) - top
    if wide < 1 or tall < 1:
        return None
    moved = compose(matrix, np.array([[1.0, 0, left], [0, 1, top]]))
    matrices = torch.from_numpy(moved)[None].float()
    drawn = unwarp_logits(logits[None, None], matrices, [(wide, tall)], canvas=canvas, fill=-1.0)[0]
    return (drawn[0] > 0).numpy(), (left, top)


def _in_core(one: Detection, corner: tuple[float, float], side: float, size: Size) -> bool:
    """Whether an object's centre lies in the middle half of its tile (a little more), or between that and the image's border."""
    margin = side * 3 / 16
    for axis, length in enumerate(size):
        centre = (one.box[axis] + one.box[axis + 2]) / 2
        low = corner[axis] + margin if corner[axis] > 0 else 0
        high = corner[axis] + side - margin if corner[axis] + side < length else length
        if not low <= centre <= high:
            return False
    return True


def _once(found: list[tuple[int, Detection]]) -> list[Detection]:
    """The best 100 by score; of two of one category in different tiles with nearly one box, the better."""
    found = sorted(found, key=lambda pair: -pair[1].score)
    if not found:
        return []
    boxes = np.array([one.box for _, one in found], np.float64)
    tile, category = np.array([number for number, _ in found]), np.array([one.category for _, one in found])
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    common = (high - low).clip(0).prod(2)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    same = common / (area[:, None] + area - common) > _SAME
    same &= (tile[:, None] != tile) & (category[:, None] == category)
    kept: list[int] = []
    for number in range(len(found)):
        if not same[number, kept].any():
            kept.append(number)
        if len(kept) == MOST:
            break
    return [found[number][1] for number in kept]
