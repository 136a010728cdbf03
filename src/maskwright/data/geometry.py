"""One affine per sample moves its image, mask, boxes, points and scribbles together, and brings predictions back.

An `Affine` is a float64 array ``(2, 3)`` that maps pixel coordinates of one frame to those of another, for example of
the original image to the canvas the network sees. Everywhere x points right, y points down and the centre of the first
pixel is (0.5, 0.5), so that a frame of ``w x h`` pixels covers exactly ``0 <= x < w``, ``0 <= y < h`` and a resize has
no offset. `compose` and `invert` take NumPy arrays and torch tensors alike, with any leading dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from maskwright.data.labels import IGNORE

Affine: TypeAlias = NDArray[np.float64]
Matrix = TypeVar("Matrix", np.ndarray, Tensor)
Size: TypeAlias = tuple[int, int]

MIN_VISIBLE = 0.2
"""A box counts as visible if at least this share of its area is on the canvas."""

_TIE = 1e-3
# Pixels. Where a sampling place falls on the border of two pixels, rounding noise must not choose between them
# (float32 coordinates are good to about 5e-4 at 4096 pixels): all nearest sampling leans to the later pixel by this
# much.

_QUARTER_TURNS = np.array(
    [[[1, 0], [0, 1]], [[0, -1], [1, 0]], [[-1, 0], [0, -1]], [[0, 1], [-1, 0]]], dtype=np.float64
)


def resize_matrix(size: Size, canvas: int | Size) -> Affine:
    """The affine that stretches a frame to another one, without padding (SAM 2 squashes every image to a square).

    Args:
        size: ``(width, height)`` of the source.
        canvas: side of a square canvas, or ``(width, height)``.
    """
    width, height = (canvas, canvas) if isinstance(canvas, int) else canvas
    return np.array([[width / size[0], 0, 0], [0, height / size[1], 0]], dtype=np.float64)


def random_matrix(
    size: Size,
    canvas: int,
    generator: np.random.Generator,
    *,
    flip: float = 0.0,
    vertical_flip: float = 0.0,
    quarter_turns: bool = False,
    rotate_deg: float = 0.0,
    scale: tuple[float, float] = (1.0, 1.0),
    shift: float = 0.0,
    aspect: float = 0.0,
) -> Affine:
    """A random affine to the canvas: the resize, then flips, zoom, rotation and shift about the canvas' centre.

    The same count of numbers is drawn with all settings, so that changing one setting does not change the draws of others.

    Args:
        size: ``(width, height)`` of the image.
        canvas: side of the square canvas.
        generator: source of the randomness.
        flip: probability of a mirror image, left to right.
        vertical_flip: probability of a mirror image, top to bottom.
        quarter_turns: also turn by 0, 90, 180 or 270 degrees with equal chance; exact for pixels and boxes.
        rotate_deg: largest tilt in degrees, either way. A tilted box grows: see `warp_box`.
        scale: smallest and largest zoom; log-uniform; above 1 the image is cropped, below 1 it gets a border.
        shift: largest displacement along each axis, as a share of the canvas.
        aspect: the width-to-height ratio changes by a factor of at most ``1 + aspect``, either way.
    """
    draw = generator.random(8)
    mirror = np.diag([-1.0 if draw[0] < flip else 1.0, -1.0 if draw[1] < vertical_flip else 1.0])
    turn = _QUARTER_TURNS[int(draw[2] * 4) if quarter_turns else 0]
    angle = math.radians(rotate_deg * (2 * draw[3] - 1))
    tilt = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    zoom = math.exp(math.log(scale[0]) + draw[4] * (math.log(scale[1]) - math.log(scale[0])))
    stretch = (1 + aspect) ** (draw[5] - 0.5)
    linear = tilt @ turn @ np.diag([zoom * stretch, zoom / stretch]) @ mirror
    centre = np.full(2, canvas / 2)
    offset = centre + canvas * shift * (2 * draw[6:8] - 1) - linear @ centre
    return compose(np.concatenate([linear, offset[:, None]], axis=1), resize_matrix(size, canvas))


def compose(outer: Matrix, inner: Matrix) -> Matrix:
    """The affine ``(..., 2, 3)`` that does ``inner`` first, then ``outer``; leading dimensions are broadcast.

    To move a map from the plain canvas to the augmented one: ``compose(augmented, invert(plain))``.
    """
    # Sums of products, not a matmul, which a GPU may round to bfloat16 or TF32: coordinates would be off by whole pixels.
    product: Any = (outer[..., :, :2, None] * inner[..., None, :, :]).sum(-2)
    product[..., 2] += outer[..., 2]
    return product


def invert(matrix: Matrix) -> Matrix:
    """The inverse ``(..., 2, 3)`` of affines whose determinant is not zero."""
    a, b, c, d, e, f = (matrix[..., i, j] for i in range(2) for j in range(3))
    inverse: Any = matrix * 1.0
    for (i, j), entry in zip(np.ndindex(2, 3), (e, -b, b * f - c * e, -d, a, c * d - a * f)):
        inverse[..., i, j] = entry / (a * e - b * d)
    return inverse


def _source_places(matrix: Affine, canvas: int) -> tuple[np.ndarray, np.ndarray]:
    """Source x and y of every canvas pixel's centre, which broadcast to ``(S, S)``: an axis that has no effect has length 1."""
    (a, b, c), (d, e, f) = invert(matrix)
    centres = np.arange(canvas) + 0.5
    across, down = centres[None, :], centres[:, None]
    x = a * across + c if b == 0 else (b * down + c if a == 0 else a * across + b * down + c)
    y = e * down + f if d == 0 else (d * across + f if e == 0 else d * across + e * down + f)
    return x, y


def inside_map(size: Size, matrix: Affine, canvas: int) -> NDArray[np.bool_]:
    """Which canvas pixels show the image: bool ``(S, S)``, True where the pixel's centre lies in the ``size`` frame."""
    x, y = _source_places(matrix, canvas)
    inside = (x >= 0) & (x < size[0]) & (y >= 0) & (y < size[1])
    return np.broadcast_to(inside, (canvas, canvas)).copy()


def warp_image(array: np.ndarray, matrix: Affine, canvas: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Draw an image on the canvas.

    Along each axis that shrinks, the image is first reduced with Pillow's area-weighted triangle filter to about its
    final resolution, because sampling an affine alone would alias; the rest of the affine is sampled bilinearly. A plain
    resize to the canvas that shrinks both axes therefore gives exactly Pillow's result.

    Args:
        array: ``(H, W, 3)`` uint8.
        matrix: from the array's pixels to the canvas.
        canvas: side S of the canvas.

    Returns:
        The canvas ``(S, S, 3)`` uint8, with the image's mean colour where it does not show the image, and the bool map
        ``(S, S)`` of where it does.
    """
    height, width = array.shape[:2]
    inside = inside_map((width, height), matrix, canvas)
    shrink = np.minimum(np.linalg.norm(matrix[:, :2], axis=0), 1.0)
    reduced = max(1, round(width * shrink[0])), max(1, round(height * shrink[1]))
    image = Image.fromarray(array)
    if reduced != (width, height):
        image = image.resize(reduced, Image.Resampling.BILINEAR)
    rest = compose(matrix, resize_matrix(reduced, (width, height)))
    if reduced == (canvas, canvas) and np.allclose(rest, np.eye(2, 3), atol=1e-9):
        return np.array(image), inside
    # Pillow samples at the pixel's centre, (x + 0.5, y + 0.5): our convention, so the inverse goes in as it is.
    mean = tuple(round(value) for value in np.asarray(image).mean((0, 1)))
    data = tuple(float(value) for value in invert(rest).ravel())
    warped = image.transform((canvas, canvas), Image.Transform.AFFINE, data, Image.Resampling.BILINEAR, fillcolor=mean)
    return np.array(warped), inside


def squash(image: np.ndarray, canvas: int) -> NDArray[np.uint8]:
    """A whole image ``(H, W, 3)`` uint8 on a square canvas ``(S, S, 3)``, without padding, as SAM 2 sees every image."""
    return warp_image(image, resize_matrix((image.shape[1], image.shape[0]), canvas), canvas)[0]


def warp_mask(array: np.ndarray, matrix: Affine, canvas: int, fill: int = IGNORE) -> np.ndarray:
    """Draw a map of ids on the canvas by its nearest pixels: values are copied, never mixed.

    Args:
        array: ``(H, W)`` of any dtype.
        matrix: from the array's pixels to the canvas.
        canvas: side S of the canvas.
        fill: value outside the array; use 0 for instance ids.

    Returns:
        ``(S, S)`` of the same dtype.
    """
    height, width = array.shape
    x, y = _source_places(matrix, canvas)
    columns = np.clip(np.floor(x + _TIE).astype(np.int64), 0, width - 1)
    rows = np.clip(np.floor(y + _TIE).astype(np.int64), 0, height - 1)
    warped = array[np.broadcast_arrays(rows, columns)[0], columns]
    return np.where(inside_map((width, height), matrix, canvas), warped, array.dtype.type(fill))


def warp_points(points: np.ndarray, matrix: Affine) -> NDArray[np.float64]:
    """Move points ``(N, 2)`` of x, y; they may land outside the canvas."""
    return np.asarray(points, dtype=np.float64) @ matrix[:, :2].T + matrix[:, 2]


def warp_box(boxes: np.ndarray, matrix: Affine, canvas: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Move boxes: the box of the four moved corners, clipped to the canvas.

    Flips, zooms, shifts and quarter turns keep a box tight. A tilt does not: a square tilted by 10 degrees gets a box
    16 % wider and higher, looser than the object in it. `maskwright.data.augment.Augmentation` therefore never tilts
    an image with boxes.

    Args:
        boxes: ``(N, 4)`` x0 y0 x1 y1.
        matrix: from the boxes' frame to the canvas.
        canvas: side S of the canvas.

    Returns:
        Boxes ``(N, 4)`` within 0..S, and the share ``(N,)`` in 0..1 of each moved box that the canvas shows (0 for an
        empty one); the caller drops those below `MIN_VISIBLE`.
    """
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    corners = warp_points(boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 2), matrix).reshape(-1, 4, 2)
    whole = np.concatenate([corners.min(1), corners.max(1)], axis=1)
    clipped = whole.clip(0, canvas)
    area, visible_area = ((b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]) for b in (whole, clipped))
    return clipped, np.divide(visible_area, area, out=np.zeros_like(area), where=area > 0)


def warp_maps(
    maps: Tensor,
    matrices: Tensor,
    size: int | Size,
    *,
    mode: Literal["bilinear", "nearest"] = "bilinear",
    fill: float = 0.0,
) -> Tensor:
    """Move a batch of maps from one frame to another, each with its own affine.

    Args:
        maps: ``(B, C, H, W)``; any dtype for ``nearest``, which copies values exactly; floating for ``bilinear``.
        matrices: ``(B, 2, 3)`` from the maps' pixels to the result's pixels.
        size: side of a square result, or ``(width, height)``.
        mode: ``bilinear`` repeats the edge within the last half pixel; differentiable in ``maps``.
        fill: value outside of the maps.

    Returns:
        ``(B, C, height, width)`` of the maps' dtype.
    """
    width, height = (size, size) if isinstance(size, int) else size
    rows, columns = maps.shape[-2:]
    inverse = invert(matrices.to(maps.device, torch.float64 if maps.dtype == torch.float64 else torch.float32))
    a, b, c, d, e, f = (inverse[:, i, j, None, None] for i in range(2) for j in range(3))
    across = torch.arange(width, device=maps.device, dtype=inverse.dtype) + 0.5
    down = (torch.arange(height, device=maps.device, dtype=inverse.dtype) + 0.5)[:, None]
    x, y = a * across + b * down + c, d * across + e * down + f
    outside = (x < -_TIE) | (x > columns + _TIE) | (y < -_TIE) | (y > rows + _TIE)
    if mode == "nearest":
        column, row = (x + _TIE).floor().clamp(0, columns - 1), (y + _TIE).floor().clamp(0, rows - 1)
        place = (row.long() * columns + column.long()).flatten(1)[:, None].expand(-1, maps.shape[1], -1)
        moved = maps.flatten(2).gather(2, place).unflatten(2, (height, width))
    else:
        grid = torch.stack([2 * x / columns - 1, 2 * y / rows - 1], dim=-1)
        moved = F.grid_sample(maps.to(grid.dtype), grid, mode="bilinear", padding_mode="border", align_corners=False)
    return moved.to(maps.dtype).masked_fill(outside[:, None], fill)


def on_canvas(logits: Tensor, size: int) -> Tensor:
    """Logits ``(N, h, w)`` that cover a square canvas → masks ``(N, S, S)`` bool, enlarged bilinearly. N may be 0."""
    return F.interpolate(logits[:, None].float(), (size, size), mode="bilinear", align_corners=False)[:, 0] > 0


def unwarp_logits(
    logits: Tensor,
    matrices: Tensor,
    sizes: Tensor | Sequence[Size],
    *,
    canvas: int | None = None,
    fill: float = 0.0,
) -> list[Tensor]:
    """Resize predictions to each image's original size, bilinearly; images of equal size are handled as one batch.

    Args:
        logits: ``(B, C, H, W)`` that cover the canvas, at its resolution or any other.
        matrices: ``(B, 2, 3)`` from the original image to the canvas.
        sizes: ``(width, height)`` of each original image.
        canvas: side of the canvas that the matrices lead to; left out, the logits have the canvas' resolution.
        fill: logit of pixels that were outside the canvas; 0 is undecided.

    Returns:
        B tensors ``(C, height, width)``.
    """
    rows, columns = logits.shape[-2:]
    side = (columns, rows) if canvas is None else (canvas, canvas)
    to_logits = torch.from_numpy(resize_matrix(side, (columns, rows))).to(matrices)
    backward = invert(compose(to_logits, matrices))
    pairs = [(int(width), int(height)) for width, height in sizes]
    results: dict[int, Tensor] = {}
    for size in dict.fromkeys(pairs):
        members = [i for i, pair in enumerate(pairs) if pair == size]
        results |= zip(members, warp_maps(logits[members], backward[members], size, fill=fill), strict=True)
    return [results[i] for i in range(len(pairs))]
