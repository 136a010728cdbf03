"""Pictures of masks and labels for people: overlays, drawn labels, thumbnails. NumPy and Pillow only.

Images are ``(H, W, 3)`` uint8 RGB, masks ``(H, W)`` of category ids with 255 = ignore. Nothing is changed in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

from maskwright.data.labels import IGNORE, Box, Point, Scribble

Pixels = NDArray[np.uint8]

_IGNORED = (128, 128, 128)
_FIRST = ((86, 180, 233), (230, 159, 0), (0, 158, 115), (240, 228, 66), (213, 94, 0), (0, 114, 178), (204, 121, 167))
# Okabe & Ito's colours (Color Universal Design, 2008), ordered so that the first ones stand out on skin and tissue.

# How people without the long (protanopia) or medium (deuteranopia) cones see linear RGB: Machado et al. 2009.
_VISIONS = np.array(
    [
        np.eye(3),
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    ]
)
_TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_OKLAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def palette(count: int) -> Pixels:
    """Colours ``(count, 3)`` of category ids: black for the background, then colours that are as unlike as can be.

    The first seven are Okabe and Ito's. Each further one is the farthest from all before it, measured in Oklab by the
    worst of normal vision, protanopia and deuteranopia. A colour does not depend on the number of colours requested.

    Raises:
        ValueError: not 1..255.
    """
    if not 1 <= count <= IGNORE:
        raise ValueError(f"a palette has 1 to {IGNORE} colours, not {count}")
    return _all_colours()[:count].copy()


def overlay(
    image: Pixels, mask: NDArray[np.integer], palette: Pixels, alpha: float = 0.45, outline: bool = True
) -> Pixels:
    """Paint a mask over its image; the background stays as it is, ignored pixels turn grey.

    Args:
        image: ``(H, W, 3)`` uint8.
        mask: ``(H, W)`` category ids or 255.
        palette: ``(C, 3)`` uint8 by category id.
        alpha: 0..1, how much of the image the colour hides.
        outline: draw the inner border of every region in full colour.

    Raises:
        ValueError: other sizes, or an id without a colour.
    """
    if mask.shape != image.shape[:2]:
        raise ValueError(f"image {image.shape[:2]} and mask {mask.shape} differ in size")
    # The palette may have any length up to 255, and 255 itself is always the ignored pixels' grey.
    has_colour = np.zeros(256, bool)
    has_colour[: len(palette)] = has_colour[IGNORE] = True
    if mask.size and (mask.min() < 0 or mask.max() > IGNORE or not has_colour[mask].all()):
        raise ValueError(f"the mask holds ids beyond the {len(palette)} colours of the palette")
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(palette)], colours[IGNORE] = palette, _IGNORED
    weights = np.full(256, round(256 * min(max(alpha, 0.0), 1.0)), np.int32)
    weights[0] = 0
    weight = weights[mask]
    if outline:
        weight[_borders(mask) & (mask != 0) & (mask != IGNORE)] = 256
    below = image.astype(np.int32)
    return (below + ((colours[mask] - below) * weight[..., None] + 128 >> 8)).astype(np.uint8)


def overlay_instances(image: Pixels, ids: NDArray[np.integer], alpha: float = 0.45, outline: bool = True) -> Pixels:
    """Paint objects over their image, neighbouring ids in unlike colours; arguments as of :func:`overlay`.

    Args:
        ids: ``(H, W)`` instance ids, 0 = background; from 255 on colours are used again.
    """
    cycled = np.where(ids > 0, (ids.astype(np.int64) - 1) % (IGNORE - 1) + 1, 0).astype(np.uint8)
    return overlay(image, cycled, _all_colours(), alpha, outline)


def draw_labels(
    image: Pixels,
    *,
    boxes: Sequence[Box | ArrayLike] = (),
    points: Sequence[Point | ArrayLike] = (),
    scribbles: Sequence[Scribble | ArrayLike] = (),
    mask: NDArray[np.integer] | None = None,
    palette: Pixels | None = None,
) -> Pixels:
    """Draw labels over an image, each in its category's colour; lines are about 1/150 of the image wide.

    Labels are those of ``maskwright.data.labels``, or bare coordinates, which are drawn as category 1.

    Args:
        image: ``(H, W, 3)`` uint8.
        boxes: outlined; bare ones are x0 y0 x1 y1, half-open.
        points: a disc with a rim, the background's is black; bare ones are x y.
        scribbles: lines; bare ones are ``(V, 2)``.
        mask: ``(H, W)`` category ids or 255, drawn below all else.
        palette: ``(C, 3)`` by category id; left out, :func:`palette`.
    """
    colours = _all_colours() if palette is None else palette
    picture = Image.fromarray(overlay(image, mask, colours) if mask is not None else image)
    draw = ImageDraw.Draw(picture)
    width = max(1, round(min(image.shape[:2]) / 150))
    # Pillow counts pixels, labels count positions: pixel 0 reaches from 0 to 1 and its centre is 0.5.
    for box in boxes:
        x0, y0, x1, y1 = (float(v) for v in (box.xyxy if isinstance(box, Box) else np.asarray(box)))
        draw.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=_colour(colours, box), width=width)
    for line in scribbles:
        vertices = np.asarray(line.points if isinstance(line, Scribble) else line, np.float64).reshape(-1, 2) - 0.5
        path = [(x, y) for x, y in vertices.tolist()]
        for colour, thickness in (((255, 255, 255), 2 * width + 2), (_colour(colours, line), 2 * width)):
            draw.line(path if len(path) > 1 else path * 2, colour, thickness, joint="curve")
    for point in points:
        x, y = (float(v) for v in ((point.x, point.y) if isinstance(point, Point) else np.asarray(point)))
        colour = _colour(colours, point)
        draw.circle((x - 0.5, y - 0.5), 2 * width + 1, fill=colour, outline=(255, 255, 255), width=width)
    return np.array(picture)


def side_by_side(images: Sequence[Pixels], gap: int = 4) -> Pixels:
    """Images ``(H, W, 3)`` in one row on white, brought to the height of the highest, ``gap`` pixels apart."""
    if not images:
        raise ValueError("there are no images to put side by side")
    height = max(image.shape[0] for image in images)
    parts = [_resized(image, (max(1, round(image.shape[1] * height / image.shape[0])), height)) for image in images]
    space = np.full((height, gap, 3), 255, np.uint8)
    return np.concatenate([piece for part in parts for piece in (part, space)][:-1], axis=1)


def thumbnail(image: Pixels, side: int = 256) -> Pixels:
    """The image with its longer side at most ``side`` pixels; smaller ones stay as they are."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    return image if scale >= 1 else _resized(image, (max(1, round(width * scale)), max(1, round(height * scale))))


def thumbnail_mask(mask: NDArray[np.uint8] | NDArray[np.uint16], size: tuple[int, int]) -> NDArray[Any]:
    """A mask ``(H, W)`` at another ``(width, height)`` by its nearest pixels: ids are copied, never mixed."""
    return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))


def _resized(image: Pixels, size: tuple[int, int]) -> Pixels:
    if (image.shape[1], image.shape[0]) == size:
        return image
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0))


def _borders(mask: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Pixels close to another value; how close grows with the image, so that a small print still shows it."""
    thickness = max(1, round(min(mask.shape) / 300))
    borders = np.zeros(mask.shape, bool)
    for step in range(1, thickness + 1):
        down, across = mask[step:] != mask[:-step], mask[:, step:] != mask[:, :-step]
        borders[step:] |= down
        borders[:-step] |= down
        borders[:, step:] |= across
        borders[:, :-step] |= across
    return borders


def _colour(colours: Pixels, label: object) -> tuple[int, int, int]:
    category = label.category if isinstance(label, Box | Point | Scribble) else 1
    red, green, blue = (int(value) for value in colours[category])
    return red, green, blue


@lru_cache(maxsize=1)
def _all_colours() -> Pixels:
    """All 255 colours, by farthest-point selection from a grid of RGB values that are neither dark nor pale."""
    steps = np.linspace(0, 255, 11).round()
    candidates = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)
    lightness = _oklab(candidates)[0, :, 0]
    candidates = candidates[(lightness > 0.4) & (lightness < 0.95)]
    colours = [np.zeros(3), *(np.array(colour, np.float64) for colour in _FIRST)]
    places = _oklab(candidates)
    nearest = np.full(len(candidates), np.inf)
    for colour in colours:
        nearest = np.minimum(nearest, _distance(places, colour))
    while len(colours) < IGNORE:
        colours.append(candidates[nearest.argmax()])
        nearest = np.minimum(nearest, _distance(places, colours[-1]))
    return np.stack(colours).astype(np.uint8)


def _distance(places: NDArray[np.float64], colour: NDArray[np.float64]) -> NDArray[np.float64]:
    """The smallest distance over the visions of ``(3, N, 3)`` places in Oklab to one RGB colour: ``(N,)``."""
    return np.linalg.norm(places - _oklab(colour[None]), axis=-1).min(0)


def _oklab(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(N, 3)`` sRGB in 0..255 → ``(3, N, 3)`` Oklab (Ottosson 2020) as seen by each of the visions."""
    share = rgb / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    simulated_rgb = np.clip(np.einsum("vij,nj->vni", _VISIONS, linear), 0, 1)
    return np.cbrt(simulated_rgb @ _TO_CONES.T) @ _TO_OKLAB.T
