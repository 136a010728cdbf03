"""Augmentation: the geometry that the loader applies once, and the strong colour changes of the student's images.

Teacher and student share the geometry (S4M, section 3; SAMIX): the loader warps image and labels together with one
affine, and `strong_view` then changes only colours, on the device and for the whole batch at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from maskwright.data.geometry import Affine, Size, compose, random_matrix
from maskwright.errors import MaskwrightError

_LUMA = (0.299, 0.587, 0.114)
_RGB_TO_YIQ = ((0.299, 0.587, 0.114), (0.595716, -0.274453, -0.321263), (0.211456, -0.522591, 0.311135))


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the random geometry; `matrix` draws one affine. The defaults keep most of the image in the frame."""

    flip: float = 0.5
    """probability of a mirror image, left to right"""

    vertical_flip: float = 0.0
    """probability of a mirror image, top to bottom; 0.5 where images have no upright, as in endoscopy or microscopy"""

    quarter_turns: bool = False
    """turn by 0, 90, 180 or 270 degrees with equal chance, where images have no upright; boxes stay tight"""

    rotate_deg: float = 10.0
    """largest tilt in degrees, either way; images with boxes are never tilted, the box would no longer be tight"""

    scale: tuple[float, float] = (0.8, 1.2)
    """smallest and largest zoom, log-uniform; above 1 crops"""

    shift: float = 0.05
    """largest displacement along each axis, as a share of the canvas"""

    aspect: float = 0.1
    """the width-to-height ratio changes by a factor of at most 1 + aspect, either way"""

    def __post_init__(self) -> None:
        rules = {
            f"flip must lie in 0..1, not {self.flip}": 0 <= self.flip <= 1,
            f"vertical_flip must lie in 0..1, not {self.vertical_flip}": 0 <= self.vertical_flip <= 1,
            f"rotate_deg must lie in 0..180, not {self.rotate_deg}": 0 <= self.rotate_deg <= 180,
            f"scale must be two numbers, 0 < smallest <= largest, not {self.scale}": (
                len(self.scale) == 2 and 0 < self.scale[0] <= self.scale[1] < math.inf
            ),
            f"shift must lie in 0..1, not {self.shift}": 0 <= self.shift <= 1,
            f"aspect must be at least 0, not {self.aspect}": 0 <= self.aspect < math.inf,
        }
        broken = [rule for rule, holds in rules.items() if not holds]
        if broken:
            raise MaskwrightError("augmentation: " + "; ".join(broken))

    def matrix(self, size: Size, canvas: int, generator: np.random.Generator, *, tilt: bool = True) -> Affine:
        """One random affine ``(2, 3)`` from an image of ``size`` (width, height) to the canvas, tilted or not."""
        return random_matrix(
            size,
            canvas,
            generator,
            flip=self.flip,
            vertical_flip=self.vertical_flip,
            quarter_turns=self.quarter_turns,
            rotate_deg=self.rotate_deg if tilt else 0.0,
            scale=self.scale,
            shift=self.shift,
            aspect=self.aspect,
        )


def training_geometry(upright: bool) -> Augmentation:
    """What recipes train with: zoomed, moved and mirrored, and where images have no upright also turned by quarters."""
    return Augmentation(
        vertical_flip=0.0 if upright else 0.5,
        quarter_turns=not upright,
        rotate_deg=0.0,
        scale=(0.75, 1.3),
        shift=0.1,
    )


@dataclass(frozen=True)
class Crop:
    """Random squares of an image, for objects that are small beside it: they keep their scale, whatever the image's size.

    A crop stays inside the image where it fits; along an axis on which it does not, the image lies anywhere in it.
    """

    side: float
    """side of the square in pixels of the original image, which fills the canvas"""

    scale: tuple[float, float] = (0.8, 1.25)
    """smallest and largest zoom, log-uniform"""

    flip: float = 0.5
    """probability of a mirror image, left to right"""

    vertical_flip: float = 0.0
    """probability of a mirror image, top to bottom"""

    quarter_turns: bool = False
    """turn by 0, 90, 180 or 270 degrees with equal chance"""

    centred: float = 0.0
    """probability that the square lies about an object, where objects are known: of small objects in large images most squares show none"""

    def __post_init__(self) -> None:
        if not 0 <= self.centred <= 1:
            raise MaskwrightError(f"crop: centred must lie in 0..1, not {self.centred}")
        if not 1 <= self.side < math.inf:
            raise MaskwrightError(f"crop: side must be at least 1 pixel, not {self.side}")
        if not 0 < self.scale[0] <= self.scale[1] < math.inf:
            raise MaskwrightError(f"crop: scale must be two numbers, 0 < smallest <= largest, not {self.scale}")

    def matrix(
        self,
        size: Size,
        canvas: int,
        generator: np.random.Generator,
        *,
        tilt: bool = True,
        focus: tuple[float, float] | None = None,
    ) -> Affine:
        """One random affine ``(2, 3)`` from an image of ``size`` (width, height) to the canvas; crops are never tilted.

        With ``focus``, x and y in the image, the square lies about it, as far as it stays inside the image.
        """
        zoom, along, down = generator.random(3)
        factor = math.exp(math.log(self.scale[0]) + zoom * (math.log(self.scale[1]) - math.log(self.scale[0])))
        side = self.side / factor
        x, y = along * (size[0] - side), down * (size[1] - side)
        if focus is not None:
            # Anywhere about it: where objects lie in the square must not tell anything. Where the image is smaller, it stays in the square.
            x, y = (
                min(max(place - (0.25 + draw / 2) * side, min(0.0, length - side)), max(0.0, length - side))
                for place, draw, length in zip(focus, (along, down), size)
            )
        place = np.array([[canvas / side, 0, -x * canvas / side], [0, canvas / side, -y * canvas / side]])
        turn = random_matrix(
            (canvas, canvas),
            canvas,
            generator,
            flip=self.flip,
            vertical_flip=self.vertical_flip,
            quarter_turns=self.quarter_turns,
        )
        return compose(turn, place)


def strong_view(
    images: Tensor,
    seed: int | torch.Generator,
    *,
    brightness: float = 0.4,
    contrast: float = 0.4,
    saturation: float = 0.4,
    hue: float = 0.1,
    jitter_p: float = 0.8,
    grey_p: float = 0.2,
    blur_p: float = 0.5,
    blur_sigma: tuple[float, float] = (0.1, 2.0),
    cutout_p: float = 0.0,
    cutout_area: tuple[float, float] = (0.02, 0.2),
) -> Tensor:
    """The student's view: colour jitter, greyscale, blur and, as an option, cutout; drawn anew for every image.

    Defaults are those of S4M and of SimCLR's follow-ups. Brightness, contrast, saturation and hue (a rotation of the
    I-Q plane of YIQ) are linear in the colour, so they and the greyscale are applied as one 3 x 3 matrix and an
    offset, clipped once at the end.

    Args:
        images: ``(B, 3, H, W)`` floating in 0..1.
        seed: an integer, or a generator on the CPU; parameters are drawn there, so that every device gets the same
            ones.
        brightness: the factor is drawn from ``1 - brightness .. 1 + brightness``.
        contrast: likewise, about the image's mean grey.
        saturation: likewise, about each pixel's grey.
        hue: largest turn as a share of the full circle, either way.
        jitter_p: probability that an image's colours are jittered at all.
        grey_p: probability of greyscale.
        blur_p: probability of a Gaussian blur.
        blur_sigma: range of its standard deviation in pixels.
        cutout_p: probability that a rectangle is filled with the image's mean colour.
        cutout_area: range of the rectangle's area as a share of the image.

    Returns:
        A new tensor ``(B, 3, H, W)`` in 0..1, of the same dtype and device.
    """
    generator = torch.Generator().manual_seed(seed) if isinstance(seed, int) else seed
    draw = torch.rand(len(images), 13, generator=generator, dtype=torch.float64)
    signed = 2 * draw[:, :4] - 1
    signed = signed * (draw[:, 4:5] < jitter_p)
    strength = torch.tensor([brightness, contrast, saturation, hue], dtype=torch.float64)
    factors = strength * signed
    view = _recolour(images, 1 + factors[:, :3], 2 * math.pi * factors[:, 3], draw[:, 5] < grey_p)
    sigma = blur_sigma[0] + draw[:, 7] * (blur_sigma[1] - blur_sigma[0])
    view = _blur(view, sigma, draw[:, 6] < blur_p)
    if cutout_p > 0:
        area = cutout_area[0] + draw[:, 9] * (cutout_area[1] - cutout_area[0])
        view = _cut_out(view, area * (draw[:, 8] < cutout_p), draw[:, 10:13])
    return view


def _recolour(images: Tensor, factors: Tensor, angle: Tensor, grey: Tensor) -> Tensor:
    """Apply each image's brightness, contrast, saturation ``(B, 3)``, hue angle ``(B,)`` and greyscale ``(B,)``."""
    luma = torch.tensor(_LUMA, dtype=torch.float64)
    to_yiq = torch.tensor(_RGB_TO_YIQ, dtype=torch.float64)
    turn = torch.zeros(len(images), 3, 3, dtype=torch.float64)
    turn[:, 0, 0] = 1
    turn[:, 1, 1] = turn[:, 2, 2] = angle.cos()
    turn[:, 1, 2], turn[:, 2, 1] = -angle.sin(), angle.sin()
    to_grey = luma.expand(3, 3)
    bright, contrast, saturation = factors[:, :, None, None].unbind(1)
    colour = torch.linalg.inv(to_yiq) @ turn @ to_yiq @ (saturation * torch.eye(3) + (1 - saturation) * to_grey)
    colour = torch.where(grey[:, None, None], to_grey @ colour, colour) * contrast * bright
    # Grey is a fixed point of the turn and of saturation, so contrast's offset passes through them unchanged.
    offset = ((1 - contrast) * bright)[:, :, :, None].to(images)
    weights = colour[..., None, None].to(images)
    mean = (images.mean((2, 3)) * luma.to(images)).sum(1)[:, None, None, None]
    red, green, blue = images.split(1, dim=1)
    mixed = weights[:, :, 0] * red + weights[:, :, 1] * green + weights[:, :, 2] * blue
    return (mixed + offset * mean).clamp(0, 1)


def _blur(images: Tensor, sigma: Tensor, chosen: Tensor) -> Tensor:
    """Blur the chosen images ``(B,)`` with a separable Gaussian of their own sigma ``(B,)``; edges are repeated."""
    rows = chosen.nonzero().flatten()
    if len(rows) == 0:
        return images
    sigma = sigma[rows].clamp(min=1e-3)
    radius = max(1, math.ceil(3 * sigma.max().item()))
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.softmax(-0.5 * (offsets / sigma[:, None]) ** 2, dim=1).to(images)
    rows = rows.to(images.device)
    channels, (height, width) = images.shape[1], images.shape[2:]
    taps = kernel.repeat_interleave(channels, 0)
    maps = F.pad(images[rows].reshape(1, -1, height, width), [radius] * 4, mode="replicate")
    with torch.autocast(images.device.type, enabled=False):  # a convolution would come back in bfloat16
        maps = F.conv2d(maps, taps[:, None, None, :], groups=len(taps))
        maps = F.conv2d(maps, taps[:, None, :, None], groups=len(taps))
    return images.index_copy(0, rows, maps.reshape(-1, channels, height, width).clamp(0, 1))


def _cut_out(images: Tensor, area: Tensor, draw: Tensor) -> Tensor:
    """Fill a rectangle with the mean colour: its share ``area`` ``(B,)``; ``draw`` ``(B, 3)`` is shape and place."""
    height, width = images.shape[2:]
    ratio = torch.exp((2 * draw[:, 0] - 1) * math.log(2))
    tall, wide = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    top, left = draw[:, 1] * (1 - tall), draw[:, 2] * (1 - wide)
    down = (torch.arange(height, dtype=torch.float64) + 0.5) / height
    across = (torch.arange(width, dtype=torch.float64) + 0.5) / width
    hit_rows = (down >= top[:, None]) & (down < (top + tall)[:, None])
    hit_columns = (across >= left[:, None]) & (across < (left + wide)[:, None])
    hit = (hit_rows.to(images.device)[:, :, None] & hit_columns.to(images.device)[:, None, :])[:, None]
    return torch.where(hit, images.mean((2, 3), keepdim=True), images)
