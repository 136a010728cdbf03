"""From a segmenter's queries to objects in an image's own pixels, whole or by overlapping tiles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskwright.data.geometry import Affine, Size, compose, resize_matrix, unwarp_logits, warp_image
from maskwright.engine.weights import require_finite
from maskwright.methods.instances.coco import MOST, Detection, cut
from maskwright.methods.instances.stitching import Sighting, stitched, touching
from maskwright.nets.instance import InstanceSegmenter, Queries

_WORTH = 0.05
# An object in a tile with a lower score is drawn only if it is among the best: a large image may show more than 100 objects.


def look_at(
    segmenter: InstanceSegmenter, image: NDArray[np.uint8], crop: float | None, batch: int = 8
) -> list[Detection]:
    """The objects of an image ``(H, W, 3)`` uint8, seen as in training: squashed (the best 100), or in tiles of ``crop`` pixels."""
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
    """The objects of an image, segmented in overlapping tiles at the scale of training.

    Of each tile only objects with their centre in its middle count. An object in several tiles counts once, and one that no tile
    shows whole is joined from its parts.

    Args:
        image: ``(H, W, 3)`` uint8.
        side: of a tile in pixels of the image; it fills the segmenter's canvas.
        batch: tiles per pass.

    Returns:
        By descending score: the best 100, and all others with a score of at least .05.
    """
    size = image.shape[1], image.shape[0]
    corners, zoom = tiles(size, side), segmenter.size / side
    views: list[_ViewObjects] = []
    for start in range(0, len(corners), batch):
        part = corners[start : start + batch]
        matrices = [np.array([[zoom, 0, -x * zoom], [0, zoom, -y * zoom]]) for x, y in part]
        canvases = np.stack([warp_image(image, matrix, segmenter.size)[0] for matrix in matrices])
        objects = _view_objects(_look(segmenter, canvases), matrices, segmenter.size)
        views += [view[_in_core(view.boxes, corner, side, size)] for corner, view in zip(part, objects)]
    return stitched(_sightings(views, corners, side, size, segmenter.size))


def squashed(
    segmenter: InstanceSegmenter, canvases: NDArray[np.uint8], matrices: Sequence[Affine], sizes: Sequence[Size]
) -> list[list[Detection]]:
    """The objects of images that were squashed to the canvas.

    Args:
        canvases: ``(B, S, S, 3)`` uint8.
        matrices: B affines from each image's pixels to the canvas.
        sizes: (width, height) of each image.
    """
    return detections(_look(segmenter, canvases), matrices, sizes, segmenter.size)


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
    views = _view_objects(queries, matrices, canvas)
    return [_draw([(view, k) for k in range(len(view.scores))], size, canvas) for view, size in zip(views, sizes)]


@dataclass(frozen=True)
class _ViewObjects:
    """The K objects of one view (an image or a tile), by descending score; masks are logits, not yet in the image's pixels."""

    matrix: Affine
    scores: NDArray[np.float32]
    categories: NDArray[np.int64]
    logits: Tensor
    boxes: NDArray[np.float64]  # (K, 4) in the image's pixels, good to a cell of the logits

    def __getitem__(self, keep: NDArray[np.bool_]) -> _ViewObjects:
        logits = self.logits[torch.from_numpy(keep)]
        return _ViewObjects(self.matrix, self.scores[keep], self.categories[keep], logits, self.boxes[keep])


@torch.inference_mode()
def _look(segmenter: InstanceSegmenter, canvases: NDArray[np.uint8]) -> Queries:
    device = segmenter.mean.device
    queries = segmenter(torch.from_numpy(canvases).to(device).permute(0, 3, 1, 2).float() / 255)
    require_finite(queries.classes[-1], queries.masks[-1])
    return queries


@torch.inference_mode()
def _view_objects(queries: Queries, matrices: Sequence[Affine], canvas: int) -> list[_ViewObjects]:
    """The best pairs of query and class of each of B views, without those that have no pixel."""
    probability = queries.classes[-1].float().softmax(-1)[..., :-1]
    count, classes = min(MOST, probability[0].numel()), probability.shape[-1]
    certainty, place = probability.flatten(1).topk(count, 1)
    query, category = place // classes, place % classes + 1
    masks = queries.masks[-1].float()
    logits = masks.gather(1, query[..., None, None].expand(-1, -1, *masks.shape[-2:]))
    on = logits > 0
    inside = (logits.sigmoid() * on).sum((2, 3)) / on.sum((2, 3)).clamp(min=1)
    scores, order = (certainty * inside).sort(1, descending=True)
    x, y = _extent(on.any(2)), _extent(on.any(3))
    corners = torch.stack([x, y], -1).cpu().double() * (canvas / masks.shape[-1])  # (B, K, low and high, x and y)
    result = []
    for row, matrix in enumerate(matrices):
        has_pixels = on[row, order[row]].flatten(1).any(1)
        queries_with_pixels = order[row, has_pixels]
        boxes = (corners[row, queries_with_pixels.cpu()].numpy() - matrix[:, 2]) / np.diag(matrix[:, :2])
        result.append(
            _ViewObjects(
                matrix,
                scores[row, has_pixels].cpu().numpy(),
                category[row, queries_with_pixels].cpu().numpy(),
                logits[row, queries_with_pixels].cpu(),
                boxes.reshape(-1, 4),
            )
        )
    return result


def _extent(hit: Tensor) -> Tensor:
    """(B, K, 2): first and last (exclusive) place that is set along the last axis."""
    return torch.stack([hit.int().argmax(-1), hit.shape[-1] - hit.flip(-1).int().argmax(-1)], -1)


def _draw(objects: Sequence[tuple[_ViewObjects, int]], size: Size, canvas: int) -> list[Detection]:
    """Masks in the pixels of an image of ``size``; those without a pixel are left out."""
    # One by one: each fills another part of the image, and all of them at its full size would not fit into memory.
    detections = []
    for view, k in objects:
        mask, corner = _restore(view.logits[k], view.boxes[k], view.matrix, size, canvas)
        detection = cut(mask, int(view.categories[k]), float(view.scores[k]), *corner)
        if detection is not None:
            detections.append(detection)
    return detections


def _restore(
    logits: Tensor, box: NDArray[np.float64], matrix: Affine, size: Size, canvas: int
) -> tuple[NDArray[np.bool_], tuple[int, int]]:
    """A mask (h, w) in the image's pixels and its corner (x, y)."""
    # One cell more on every side: bilinear sampling reaches that far.
    reach = canvas / logits.shape[-1] / np.diag(matrix[:, :2])
    low = np.floor(box[:2] - reach).astype(int).clip(0, size)
    high = np.ceil(box[2:] + reach).astype(int).clip(0, size)
    wide, tall = (high - low).tolist()
    if not wide or not tall:
        return np.zeros((0, 0), bool), (0, 0)
    left, top = low.tolist()
    moved = compose(matrix, np.array([[1.0, 0, left], [0, 1, top]]))
    matrices = torch.from_numpy(moved)[None].float()
    image_logits = unwarp_logits(logits[None, None], matrices, [(wide, tall)], canvas=canvas, fill=-1.0)[0]
    return (image_logits[0] > 0).numpy(), (left, top)


def _in_core(boxes: NDArray[np.float64], corner: tuple[float, float], side: float, size: Size) -> NDArray[np.bool_]:
    """Which boxes (K, 4) have their centre in the middle half of a tile (a little more), or between that and the image's border."""
    first, length = np.array(corner), np.array(size)
    margin = side * 3 / 16
    low = np.where(first > 0, first + margin, -np.inf)
    high = np.where(first + side < length, first + side - margin, np.inf)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    return np.asarray(((centre >= low) & (centre <= high)).all(1))


def _sightings(
    views: Sequence[_ViewObjects], corners: Sequence[tuple[float, float]], side: float, size: Size, canvas: int
) -> list[Sighting]:
    """The objects of the tiles with these corners, in the image's pixels: all that may be among the best."""
    scores = np.concatenate([view.scores for view in views])
    # Several of the best may turn out to be one object.
    lowest = min(_WORTH, np.sort(scores)[-4 * MOST :][0]) if len(scores) else _WORTH
    result = []
    for view, corner in zip(views, corners, strict=True):
        tile = np.array([*corner, corner[0] + side, corner[1] + side])
        is_cut = touching(view.boxes, tile, np.array(size), side / view.logits.shape[-1])
        x0, y0, x1, y1 = np.concatenate([np.floor(tile[:2]), np.ceil(tile[2:])]).astype(int).tolist()
        for k in np.flatnonzero(view.scores >= lowest).tolist():
            for detection in _draw([(view, k)], size, canvas):
                result.append(Sighting(detection, (x0, y0, min(x1, size[0]), min(y1, size[1])), bool(is_cut[k])))
    return result
