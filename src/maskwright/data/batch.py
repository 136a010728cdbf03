"""Batches of images with every kind of label, all drawn on their canvas by one affine per sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import torch
from torch import Tensor

from maskwright.data.geometry import (
    MIN_VISIBLE,
    Affine,
    compose,
    resize_matrix,
    warp_box,
    warp_image,
    warp_mask,
    warp_points,
)
from maskwright.data.items import Item
from maskwright.data.labels import IGNORE, Kind

MARK = 0.012
"""Radius of a click's disc and width of a scribble's line in `Batch.target`, as a share of the canvas; >= 1 pixel."""

SCRIBBLE_POINTS = 8
"""Points that `Batch.points` gets for each scribble, evenly spaced along it."""

TAG_VISIBLE = 2 / 3
"""A tagged category is present while at least this share of the image's area is on the canvas, else unknown."""

PRESENT_SHARE = 1e-4
"""A mask's category is present if it covers at least this share of the canvas (and 4 pixels), unknown if it covers less."""


@dataclass
class Batch:
    """B samples on canvases of S x S pixels; C counts the categories with background. N and P may be 0.

    Attributes:
        images: ``(B, 3, S, S)`` float32 in 0..1, geometric augmentation only (the weak view).
        inside: ``(B, S, S)`` bool, the canvas pixels that show the image.
        target: ``(B, S, S)`` int64, the category at pixels that a mask, scribble or click labels, else 255. Where labels of
            one image conflict, the finer kind counts, and among those of one kind the later label.
        boxes: ``(B, N, 4)`` float32 canvas pixels x0 y0 x1 y1, clipped; those less than 20 % visible are left out.
        box_categories: ``(B, N)`` int64, -1 = padding.
        box_cut: ``(B, N, 2)`` bool, whether a crop cut the object along the canvas' x, and along its y; see ``labels.Box.cut``.
        points: ``(B, P, 2)`` float32 canvas pixels: the clicks on the canvas, then points along the scribbles.
        point_categories: ``(B, P)`` int64, -1 = padding, 0 = a background click.
        present: ``(B, C)`` int8: 1 = the category is in the image, 0 = it is not, -1 = unknown. A mask decides all
            categories. Tags decide all but the background; a tagged category is unknown if less than ``TAG_VISIBLE`` of
            the image is on the canvas. Boxes, points and scribbles on the canvas make their own category present and
            leave the others as they are.
        kinds: ``(B,)`` int64 `Kind` of the finest label.
        matrices: ``(B, 2, 3)`` float32, original pixels to canvas pixels.
        sizes: ``(B, 2)`` int64 original width and height.
        indices: ``(B,)`` int64 position in the dataset.
    """

    images: Tensor
    inside: Tensor
    target: Tensor
    boxes: Tensor
    box_categories: Tensor
    box_cut: Tensor
    points: Tensor
    point_categories: Tensor
    present: Tensor
    kinds: Tensor
    matrices: Tensor
    sizes: Tensor
    indices: Tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """The same batch on another device."""
        moved = {f.name: getattr(self, f.name).to(device, non_blocking=non_blocking) for f in fields(self)}
        return type(self)(**moved)

    def __len__(self) -> int:
        return len(self.indices)

    @classmethod
    def unlabelled(cls, images: Tensor, categories: int) -> Batch:
        """Images ``(B, 3, S, S)`` that fill their canvas, are of no dataset (index -1) and have no label of any kind."""
        count, size, device = len(images), images.shape[-1], images.device

        def full(*shape: int, value: int = -1) -> Tensor:
            return torch.full((count, *shape), value, device=device)

        return cls(
            images=images,
            inside=torch.ones(count, size, size, dtype=torch.bool, device=device),
            target=full(size, size, value=IGNORE),
            boxes=torch.zeros(count, 0, 4, device=device),
            box_categories=full(0),
            box_cut=torch.zeros(count, 0, 2, dtype=torch.bool, device=device),
            points=torch.zeros(count, 0, 2, device=device),
            point_categories=full(0),
            present=full(categories).to(torch.int8),
            kinds=full(value=int(Kind.NONE)),
            matrices=torch.eye(2, 3, device=device).expand(count, -1, -1),
            sizes=full(2, value=size),
            indices=full(),
        )


def collate(
    items: Sequence[Item],
    matrices: Sequence[Affine] | np.ndarray,
    size: int,
    categories: int,
    indices: Sequence[int] | np.ndarray | None = None,
) -> Batch:
    """Draw items on canvases.

    Args:
        items: B of them.
        matrices: B affines ``(2, 3)`` from original pixels to the canvas.
        size: side S of the canvas.
        categories: number C of categories with background.
        indices: positions in the dataset; left out, 0..B-1.

    Returns:
        A `Batch` on the CPU.
    """
    canvases = [_draw(item, matrix, size, categories) for item, matrix in zip(items, matrices, strict=True)]
    images, inside, target, boxes, box_categories, box_cut, points, point_categories, present = zip(
        *canvases, strict=True
    )
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    return Batch(
        images=pixels.to(torch.float32, memory_format=torch.contiguous_format).div_(255),
        inside=torch.from_numpy(np.stack(inside)),
        target=torch.from_numpy(np.stack(target)).long(),
        boxes=_pad(boxes, 0.0, np.float32),
        box_categories=_pad(box_categories, -1, np.int64),
        box_cut=_pad(box_cut, False, np.bool_),
        points=_pad(points, 0.0, np.float32),
        point_categories=_pad(point_categories, -1, np.int64),
        present=torch.from_numpy(np.stack(present)),
        kinds=torch.tensor([int(item.kind) for item in items]),
        matrices=torch.from_numpy(np.stack(list(matrices)).astype(np.float32)),
        sizes=torch.tensor([item.size for item in items]),
        indices=torch.arange(len(items)) if indices is None else torch.tensor([int(i) for i in indices]),
    )


def _pad(arrays: Sequence[np.ndarray], value: float, dtype: type) -> Tensor:
    """Stack arrays of different length, padded at their end."""
    longest = max(len(array) for array in arrays)
    padded = np.full((len(arrays), longest, *arrays[0].shape[1:]), value, dtype=dtype)
    for row, array in zip(padded, arrays):
        row[: len(array)] = array
    return torch.from_numpy(padded)


def _draw(item: Item, matrix: Affine, size: int, categories: int) -> tuple[np.ndarray, ...]:
    """One item on its canvas: image, inside, target, boxes, their categories and cuts, points, their categories, present."""
    stored_size = item.image.shape[1], item.image.shape[0]
    from_stored = compose(matrix, resize_matrix(stored_size, item.size))
    image, inside = warp_image(item.image, from_stored, size)
    boxes, visible = warp_box(item.boxes, matrix, size)
    is_visible = visible >= MIN_VISIBLE
    clicks = warp_points(item.points, matrix)
    lines = [warp_points(line, matrix) for line in item.scribbles]
    along = [warp_points(_along(line, SCRIBBLE_POINTS), matrix) for line in item.scribbles]
    points = np.concatenate([clicks, *along])
    line_of = np.repeat(item.scribble_categories, [len(line) for line in along])
    point_categories = np.concatenate([item.point_categories, line_of])
    on_canvas = ((points >= 0) & (points < size)).all(1)
    points, point_categories = points[on_canvas], point_categories[on_canvas]

    target = np.full((size, size), IGNORE, dtype=np.uint8)
    for click, category in zip(clicks, item.point_categories):
        _draw_segment(target, click, click, max(1.0, size * MARK), int(category))
    for line, category in zip(lines, item.scribble_categories):
        # Half the width, but enough that the pixel under every vertex is drawn.
        half = max(0.71, size * MARK / 2)
        for start, end in zip(line, line[1:] if len(line) > 1 else line):
            _draw_segment(target, start, end, half, int(category))
    target[~inside] = IGNORE

    present = np.full(categories, -1, dtype=np.int8)
    if len(item.tags):
        visible_share = inside.sum() / (abs(np.linalg.det(matrix[:, :2])) * item.size[0] * item.size[1])
        present[1:] = 0
        present[item.tags] = 1 if visible_share >= TAG_VISIBLE else -1
    present[item.box_categories[is_visible]] = 1
    present[point_categories] = 1
    if item.mask is not None:
        mask = warp_mask(item.mask, from_stored, size)
        target = np.where(mask == IGNORE, target, mask)
        counts = np.bincount(mask.ravel(), minlength=256)[:categories]
        enough = max(4, PRESENT_SHARE * size * size)
        present = np.where(counts == 0, 0, np.where(counts >= enough, 1, -1)).astype(np.int8)
    # A quarter turn makes what was across go down.
    turned = abs(matrix[0, 0]) < abs(matrix[0, 1])
    cut = item.box_cut[is_visible][:, :: -1 if turned else 1]
    boxes, box_categories = boxes[is_visible], item.box_categories[is_visible]
    return image, inside, target, boxes, box_categories, cut, points, point_categories, present


def _along(line: np.ndarray, count: int) -> np.ndarray:
    """``count`` points evenly along a polyline ``(V, 2)``, half a space from its ends; one if it has no length."""
    travelled = np.concatenate([[0.0], np.hypot(*np.diff(line, axis=0).T).cumsum()])
    if travelled[-1] == 0:
        return line[:1]
    places = (np.arange(count) + 0.5) / count * travelled[-1]
    return np.stack([np.interp(places, travelled, line[:, axis]) for axis in range(2)], axis=1)


def _draw_segment(target: np.ndarray, start: np.ndarray, end: np.ndarray, radius: float, value: int) -> None:
    """Set the pixels of ``target`` with centres within ``radius`` of a segment (a disc where its ends coincide)."""
    low = np.floor(np.minimum(start, end) - radius).astype(int).clip(0, len(target))
    high = np.ceil(np.maximum(start, end) + radius).astype(int).clip(0, len(target))
    x = np.arange(low[0], high[0])[None, :] + 0.5 - start[0]
    y = np.arange(low[1], high[1])[:, None] + 0.5 - start[1]
    dx, dy = end - start
    along = np.clip((x * dx + y * dy) / max(dx * dx + dy * dy, 1e-12), 0, 1)
    near = (x - along * dx) ** 2 + (y - along * dy) ** 2 <= radius * radius
    target[low[1] : high[1], low[0] : high[0]][near] = value
