"""A closer look: SAM answers on a crop around an object, at the object's own scale, and the answer comes back to the image.

A small object gets few pixels of the canvas. On a crop of 1.5 times its longer side it fills two thirds of the canvas, for one more
pass of the encoder. The window that is cut out never leaves the image: at the border it moves inwards, and where it would be larger
than the image it ends with it, so that a large object is seen as in the whole image::

    looks = look_closer(sam, images, rows, boxes)  # N boxes on images (B, 3, H, W)
    masks = looks.on_image((W, H)) > 0             # (N, H, W) bool

A click is asked on the whole image first, and again on a crop around what came back: :func:`look_closer_at_clicks`.

Everything is batched over the boxes. Coordinates are pixels of the images that are given: canvases, or originals, which show more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from maskwright.data.geometry import Size, compose, invert, resize_matrix, warp_maps
from maskwright.data.shapes import ellipse_radius, filled_boxes, tight_boxes
from maskwright.sam.prompts import PADDING, POSITIVE, Prompts
from maskwright.sam.sam import Embedding, Sam
from maskwright.sam.store import LEVELS, EmbeddingStore

SCALE = 1.5
"""Side of a window, in longer sides of its box."""

MARGIN = 1 / 64
"""How far an answer may reach beyond its box, in longer sides of the box."""

OUTSIDE = -10.0
"""Logit where no answer can be: beyond the window, and beyond the box with its margin."""

CHUNK = 16
"""Crops that pass through SAM at once: bounds the memory."""

CUTTING = 1
"""Version of how windows are cut out; to be raised whenever that changes, as stored embeddings of crops depend on it."""

SMALLEST = 8.0
"""Pixels along a window at least, where the image has as many: less shows nothing, however much it is enlarged."""


@dataclass(frozen=True)
class Looks:
    """Answers to N closer looks, each in its crop's own frame.

    Attributes:
        logits: (N, S/4, S/4); above 0 = on the object.
        iou: (N,) in 0..1, SAM's own guess of each answer's IoU.
        matrices: (N, 2, 3) from the image's pixels to the cells of ``logits``.
        limits: (N, 4) x0 y0 x1 y1 in the image's pixels; nothing of an answer lies beyond.
    """

    logits: Tensor
    iou: Tensor
    matrices: Tensor
    limits: Tensor

    def __len__(self) -> int:
        return len(self.logits)

    def __getitem__(self, index: Tensor | slice) -> Looks:
        """Some of the looks."""
        return Looks(self.logits[index], self.iou[index], self.matrices[index], self.limits[index])

    @staticmethod
    def cat(parts: Sequence[Looks]) -> Looks:
        """One after the other; at least one part."""
        columns = ([getattr(part, name) for part in parts] for name in ("logits", "iou", "matrices", "limits"))
        return Looks(*(torch.cat(column) for column in columns))

    def resized(self, size: Size, canvas: int | Size) -> Looks:
        """The same looks at a resized image: from ``size`` (width, height) to a square canvas of that side, or (width, height)."""
        matrix = torch.from_numpy(resize_matrix(size, canvas)).to(self.matrices)
        return replace(
            self,
            matrices=compose(self.matrices, invert(matrix)),
            limits=_move_boxes(self.limits, matrix),
        )

    def on_image(self, size: Size) -> Tensor:
        """The logits on an image of ``size`` (width, height), by the exact inverse of the cut: (N, height, width).

        All N at once: take some of the looks at a time where images are large.
        """
        maps = warp_maps(self.logits[:, None], invert(self.matrices), size, fill=OUTSIDE)[:, 0]
        return maps.masked_fill(~filled_boxes(self.limits, size[1], size[0]), OUTSIDE)


@torch.no_grad()
def look_closer(
    sam: Sam,
    images: Tensor,
    rows: Tensor,
    boxes: Tensor,
    clicks: Prompts | None = None,
    previous: Tensor | None = None,
    *,
    show_box: bool = True,
    ellipse: bool = True,
    multimask: bool = False,
    scale: float = SCALE,
    margin: float | None = MARGIN,
    chunk: int = CHUNK,
    store: EmbeddingStore | None = None,
    files: Sequence[str | Path | bytes] = (),
) -> Looks:
    """Ask SAM for N objects, each on a crop of its own.

    Args:
        images: (B, 3, H, W) in 0..1, at any resolution.
        rows: (N,) int64, the image of each object.
        boxes: (N, 4) x0 y0 x1 y1 in pixels of these images: what the windows are cut around. Only what lies on the image counts.
        clicks: (N, 1) clicks in pixels of these images; those that a window does not show are left out.
        previous: (N, h, w) logits of earlier answers, covering the whole images, as mask prompts.
        show_box: the box is a prompt.
        ellipse: with the box goes a mask prompt, unless there is a ``previous``: the ellipse inscribed in it, the best guess before
            looking.
        multimask: of three answers the one with the highest predicted IoU is taken: better where the prompt is a single click.
        scale: side of a window in longer sides of its box, see :func:`windows`.
        margin: how far an answer may reach beyond its box, in longer sides of the box; None: as far as the window.
        chunk: crops that pass through SAM at once.
        store: of embeddings of crops, opened with the signature of ``sam``; what is there is not encoded again.
        files: with a store, B paths or contents of the files that the images were read from, without augmentation.

    Raises:
        ValueError: neither box nor clicks are to be shown, or a store without a file for each image.
    """
    if not show_box and clicks is None:
        raise ValueError("a closer look needs a prompt: show the box, or give clicks")
    if store is not None and len(files) != len(images):
        raise ValueError(f"a store needs the file of each of the {len(images)} images, not {len(files)}")
    size = images.shape[-1], images.shape[-2]
    boxes = _on_image(boxes, size)
    frames = windows(boxes, size, scale)
    matrices = window_matrices(frames, sam.size)
    encoder = _Encoder(sam, images, store, files)
    logits, iou = [boxes.new_zeros(0, sam.size // 4, sam.size // 4)], [boxes.new_zeros(0)]
    for start in range(0, len(rows), chunk):
        which = torch.arange(start, min(start + chunk, len(rows)), device=rows.device)
        embedding = encoder.encode(rows[which], frames[which])
        own_boxes = _move_boxes(boxes[which], matrices[which]) if show_box else None
        prompts = _prompts(own_boxes, clicks, matrices, which, sam.size)
        hint = None
        if previous is not None:
            hint = _cut_logits(previous[which], frames[which], size, sam.size // 4)
        elif ellipse and own_boxes is not None:
            hint = ellipse_logits(own_boxes, sam.size)[:, None]
        answer = sam.decode(embedding, prompts, hint, multimask)
        logits.append(answer.best[:, 0].float())
        iou.append(answer.best_iou[:, 0].float())
    to_cells = torch.from_numpy(resize_matrix((sam.size, sam.size), sam.size // 4)).to(matrices)
    limits = frames if margin is None else _grown(boxes, margin)
    return Looks(torch.cat(logits), torch.cat(iou), compose(to_cells, matrices), limits)


def look_closer_at_clicks(
    sam: Sam, images: Tensor, rows: Tensor, clicks: Prompts, first: Tensor, *, multimask: bool = True, **options: Any
) -> Looks:
    """Ask again for what was clicked, on crops around the first answers. The clicks alone are the prompt: a first box is but a guess.

    Args:
        images, rows: see :func:`look_closer`.
        clicks: (N, 1) clicks on the objects, in pixels of the images.
        first: (N, h, w) logits of SAM's answers to them on the whole images.
        multimask: see :func:`look_closer`; False where each object has several clicks.
        options: ``scale``, ``chunk``, ``store`` and ``files`` of :func:`look_closer`.
    """
    boxes = boxes_of_answers(first, clicks, (images.shape[-1], images.shape[-2]))
    return look_closer(sam, images, rows, boxes, clicks, show_box=False, multimask=multimask, margin=None, **options)


def windows(boxes: Tensor, size: Size, scale: float = SCALE) -> Tensor:
    """The parts of an image that closer looks at boxes show: squares about the boxes' centres, moved and cut to fit the image.

    Args:
        boxes: (N, 4) x0 y0 x1 y1 within the image.
        size: (width, height) of the image.
        scale: side of a window in longer sides of its box; a box that is smaller than ``SMALLEST`` gets a window of that.

    Returns:
        (N, 4) x0 y0 x1 y1 within the image, of a side of at least a pixel.
    """
    image = boxes.new_tensor(size)
    low, high = boxes.unflatten(-1, (2, 2)).unbind(-2)
    side = (scale * (high - low).amax(-1, keepdim=True)).clamp(min=SMALLEST).minimum(image)
    start = ((low + high - side) / 2).clamp(min=0).minimum(image - side)
    return torch.cat([start, start + side], -1)


def window_matrices(frames: Tensor, side: int) -> Tensor:
    """From the image's pixels to those of crops of ``side`` pixels that show windows (N, 4): (N, 2, 3)."""
    start, end = frames.unflatten(-1, (2, 2)).unbind(-2)
    zoom = side / (end - start)
    return torch.cat([torch.diag_embed(zoom), (-start * zoom)[..., None]], -1)


def cut(images: Tensor, rows: Tensor, frames: Tensor, side: int) -> Tensor:
    """Draw windows of images as crops, bilinearly. A window of many more pixels than its crop is cut from a reduced image.

    Args:
        images: (B, 3, H, W), floating.
        rows: (N,) which image.
        frames: (N, 4) windows within it, in its pixels.
        side: S of the crops.

    Returns:
        (N, 3, S, S).
    """
    height, width = images.shape[-2:]
    # A half, a quarter, ... of the image: what a crop is cut from depends on its own window alone.
    halvings = ((frames[:, 2:] - frames[:, :2]).amax(-1) / side).log2().round().clamp(min=0)
    matrices = window_matrices(frames, side)
    crops = images.new_empty(len(rows), images.shape[1], side, side)
    for halving in halvings.unique().tolist():
        reduced = max(1, round(width / 2**halving)), max(1, round(height / 2**halving))
        source = images if not halving else F.interpolate(images, reduced[::-1], mode="bilinear", antialias=True)
        which = (halvings == halving).nonzero()[:, 0]
        enlarge = torch.from_numpy(resize_matrix(reduced, (width, height))).to(matrices)
        # One large image is not copied for each of its windows.
        views = source.expand(len(which), -1, -1, -1) if len(source) == 1 else source[rows[which]]
        crops[which] = warp_maps(views, compose(matrices[which], enlarge), side)
    return crops


def boxes_of_answers(logits: Tensor, clicks: Prompts, size: Size) -> Tensor:
    """Where to look closer at what was clicked: boxes of first answers, and of the clicks on the object that these may have missed.

    Args:
        logits: (N, h, w) of the answers, covering the whole images.
        clicks: (N, 1) that they answer, in pixels of the images.
        size: (width, height) of the images.

    Returns:
        (N, 4) x0 y0 x1 y1 in pixels of the images; the whole image where an answer is empty.
    """
    maps = F.interpolate(logits[:, None].float(), size[::-1], mode="bilinear", align_corners=False)[:, 0]
    low, high = tight_boxes(maps > 0).unflatten(-1, (2, 2)).unbind(-2)
    places, positive = clicks.points[:, 0].float(), (clicks.labels[:, 0] == POSITIVE)[..., None]
    first = torch.where(positive, places - 0.5, torch.inf).amin(1)
    last = torch.where(positive, places + 0.5, -torch.inf).amax(1)
    return torch.cat([torch.minimum(low, first), torch.maximum(high, last)], -1)


def ellipse_logits(boxes: Tensor, size: int) -> Tensor:
    """The ellipses inscribed in boxes as SAM takes a mask prompt: (..., 4) on a canvas of ``size`` → (..., S/4, S/4) logits in -8..4."""
    return (4 * (1 - ellipse_radius(boxes, size // 4, size // 4, 4))).clamp(min=-8)


class _Encoder:
    """Encodes windows of some images, or reads what a store has of them."""

    def __init__(
        self, sam: Sam, images: Tensor, store: EmbeddingStore | None, files: Sequence[str | Path | bytes]
    ) -> None:
        self.sam, self.images, self.store, self.files = sam, images, store, files

    def encode(self, rows: Tensor, frames: Tensor) -> Embedding:
        if self.store is None:
            return self.sam.encode(cut(self.images, rows, frames, self.sam.size))
        geometry = [CUTTING, *self.images.shape[-2:]]
        keys = [
            self.store.key(self.files[row], [*geometry, *frame])
            for row, frame in zip(rows.tolist(), frames.tolist(), strict=True)
        ]
        if missing := self.store.missing(keys):
            places = torch.tensor([keys.index(key) for key in missing], device=rows.device)
            fresh = self.sam.encode(cut(self.images, rows[places], frames[places], self.sam.size))
            for place, key in enumerate(missing):
                self.store.save(key, {level: getattr(fresh, level)[place] for level in LEVELS})
        stored = self.store.load(keys)
        return Embedding(stored["high0"], stored["high1"], stored["low"]).to(self.sam.device, self.sam.dtype)


def _on_image(boxes: Tensor, size: Size) -> Tensor:
    """Boxes (N, 4) as float32, clipped to an image of ``size`` (width, height)."""
    image = torch.tensor([*size, *size], dtype=torch.float32, device=boxes.device)
    return boxes.float().clamp(min=0).minimum(image)


def _grown(boxes: Tensor, margin: float) -> Tensor:
    longer = (boxes[:, 2:] - boxes[:, :2]).amax(-1, keepdim=True)
    return boxes + margin * longer * boxes.new_tensor([-1, -1, 1, 1])


def _move_boxes(boxes: Tensor, matrices: Tensor) -> Tensor:
    """Boxes (N, 4) by affines (N, 2, 3) or (2, 3) that only scale and shift."""
    zoom, shift = matrices[..., :2].diagonal(dim1=-2, dim2=-1), matrices[..., 2]
    return boxes * torch.cat([zoom, zoom], -1) + torch.cat([shift, shift], -1)


def _prompts(boxes: Tensor | None, clicks: Prompts | None, matrices: Tensor, which: Tensor, side: int) -> Prompts:
    """Prompts (M, 1) in the frames of M of the crops, where ``boxes`` are already; clicks that a crop does not show become padding."""
    parts = []
    if clicks is not None:
        zoom, shift = matrices[which, :, :2].diagonal(dim1=-2, dim2=-1), matrices[which, :, 2]
        places = clicks.points[which].float() * zoom[:, None, None] + shift[:, None, None]
        shown = ((places >= 0) & (places <= side)).all(-1)
        parts.append(Prompts(places, torch.where(shown, clicks.labels[which], PADDING)))
    if boxes is not None:
        parts.append(Prompts.of_boxes(boxes[:, None]))
    return parts[0] if len(parts) == 1 else parts[0].join(parts[1])


def _cut_logits(logits: Tensor, frames: Tensor, size: Size, side: int) -> Tensor:
    """Logits (M, h, w) that cover images of ``size`` → (M, 1, side, side) in the frames of crops."""
    cells = logits.shape[-1], logits.shape[-2]
    enlarge = torch.from_numpy(resize_matrix(cells, size)).to(frames)
    return warp_maps(logits[:, None].float(), compose(window_matrices(frames, side), enlarge), side, fill=OUTSIDE)
