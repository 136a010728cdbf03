"""Decoded pixels of any depth, and how they become 8-bit RGB: the one place where numbers are scaled."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from maskwright.errors import DataError
from maskwright.problems import Problem

_STRIP = (
    4_000_000  # Pixels that are converted at once, so that of a large image there are two copies in memory, not five.
)
_FULL_SCALES = (255, 1023, 4095, 16383, 65535)
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Extent:
    """The lowest and the highest number in the pixels of an image of more than 8 bits, or of several images.

    Attributes:
        low, high: both finite.
        floats: whether they are floats.
    """

    low: float
    high: float
    floats: bool

    def __or__(self, other: Extent) -> Extent:
        return Extent(min(self.low, other.low), max(self.high, other.high), self.floats or other.floats)


def intensity_of(extent: Extent) -> tuple[float, float]:
    """The numbers that become black and white, by the rule of the house.

    Integers from 0 to 65535: 0 and the full scale of the smallest camera depth (8, 10, 12, 14 or 16 bits) that holds them.
    Floats within 0..1, or 0..255: these. All others: the lowest and the highest that there are.
    """
    low, high = extent.low, extent.high
    if extent.floats and low >= 0 and high <= 1:
        return 0.0, 1.0
    if low < 0 or high > (255 if extent.floats else 65535):
        return low, high
    return 0.0, 255.0 if extent.floats else float(next(full for full in _FULL_SCALES if high <= full))


@dataclass(frozen=True)
class Raster:
    """Decoded pixels as the image is displayed.

    Attributes:
        pixels: a Pillow image of any mode; or an array ``(H, W, C)`` of numbers, C being 1 (grey) or 3 (RGB), and one more
            where there is an alpha.
        name: what messages call it.
        alpha: the last channel of an array: transparency (``straight``), or one that the colours were multiplied by already.
        clear: of an array without alpha: the colour that counts as transparent.
    """

    pixels: Image.Image | NDArray[Any]
    name: str
    alpha: Literal["", "straight", "premultiplied"] = ""
    clear: tuple[int, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        if isinstance(self.pixels, Image.Image):
            return self.pixels.size
        return self.pixels.shape[1], self.pixels.shape[0]

    @property
    def is_deep(self) -> bool:
        """Whether numbers have to be scaled: more than 8 bits, negative ones, floats."""
        if isinstance(self.pixels, Image.Image):
            return self.pixels.mode in ("I", "F") or self.pixels.mode.startswith("I;16")
        return self.pixels.dtype != np.uint8

    @cached_property
    def extent(self) -> Extent | None:
        """Of the colours; None of images of 8 bits. Raises DataError for pixels that are not finite."""
        if not self.is_deep:
            return None
        ends = [
            (float(colours.min()), float(colours.max()))
            for _, strip in self.strips()
            if (colours := self._colours(strip)).size
        ]
        low, high = float(np.min([low for low, _ in ends])), float(np.max([high for _, high in ends]))
        if not (np.isfinite(low) and np.isfinite(high) and max(-low, high) <= _LARGEST):
            what, remedy = "holds NaN or infinite pixels", "replace them by numbers"
            raise DataError([Problem(what, kind="not-finite", file=self.name, remedy=remedy)])
        return Extent(low, high, self._kind == "f")

    def digest(self) -> bytes:
        """A hash of the pixels: as they are where they have more than 8 bits, else as RGB, whatever the file's mode."""
        digest = hashlib.sha256(f"{self.size}".encode())
        if self.is_deep:
            for _, strip in self.strips():
                digest.update(np.ascontiguousarray(strip).data)
        else:
            digest.update(self.rgb().data)
        return digest.digest()

    def select(self, channels: tuple[int, ...]) -> Raster:
        """Only these channels, counted from 0, as grey or RGB without alpha. Raises DataError for one that is not there."""
        pixels = self.pixels
        if isinstance(pixels, Image.Image):
            if pixels.mode in ("1", "P", "PA"):
                pixels = pixels.convert("RGBA" if pixels.has_transparency_data else "RGB")
            there = len(pixels.getbands())
        else:
            there = pixels.shape[2]
        require_channels(channels, there, self.name)
        if isinstance(pixels, Image.Image):
            # One band after the other: an array of all of them would be one copy more.
            bands = [pixels if there == 1 else pixels.getchannel(channel) for channel in channels]
            if not Raster(bands[0], self.name).is_deep:
                return Raster(bands[0] if len(bands) == 1 else Image.merge("RGB", bands), self.name)
            return Raster(np.stack([np.asarray(band) for band in bands], -1), self.name)
        return Raster(pixels[:, :, list(channels)], self.name)

    def rgb(self, intensity: tuple[float, ...] | None = None) -> NDArray[np.uint8]:
        """``(H, W, 3)`` uint8: transparency laid over white, numbers scaled linearly and rounded.

        Args:
            intensity: the numbers that become 0 and 255, those beyond are cut off; None: what :func:`intensity_of` says of
                this image alone. Images of 8 bits stay as they are.

        Raises:
            DataError: a mode that has no RGB, or pixels that are not finite.
        """
        extent = self.extent
        low, high = (0.0, 255.0) if extent is None else intensity or intensity_of(extent)
        out = np.empty((self.size[1], self.size[0], 3), np.uint8)
        try:
            for start, strip in self.strips():
                if isinstance(strip, Image.Image):
                    out[start : start + strip.height] = _converted(strip)
                else:
                    out[start : start + len(strip)] = self._scaled(strip, low, high)
        except ValueError:
            mode = getattr(self.pixels, "mode", "")
            raise DataError([f"{self.name}: colour mode {mode} is not read; convert the image to RGB"]) from None
        return out

    @property
    def _kind(self) -> str:
        if isinstance(self.pixels, Image.Image):
            return "f" if self.pixels.mode == "F" else "i"
        return self.pixels.dtype.kind

    def strips(self) -> Iterator[tuple[int, Any]]:
        """Pieces of whole rows: the first row of each, and its pixels; of deep Pillow images as arrays ``(h, w, 1)``."""
        width, height = self.size
        channels = 1 if isinstance(self.pixels, Image.Image) else self.pixels.shape[2]
        rows = max(1, _STRIP // max(1, width * channels))
        for start in range(0, height, rows):
            stop = min(start + rows, height)
            if not isinstance(self.pixels, Image.Image):
                yield start, self.pixels[start:stop]
                continue
            strip = self.pixels if rows >= height else self.pixels.crop((0, start, width, stop))
            yield start, np.asarray(strip)[:, :, None] if self.is_deep else strip

    def _colours(self, strip: NDArray[Any]) -> NDArray[Any]:
        return strip[:, :, :-1] if self.alpha else strip

    def _scaled(self, strip: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
        if not self.alpha and not self.clear and strip.dtype == np.uint16:
            # A table of all numbers, as there are fewer of them than pixels.
            return np.rint(_between(np.arange(65536), low, high)).astype(np.uint8)[strip]
        colours = _between(self._colours(strip), low, high)
        if self.alpha:
            opaque = strip[:, :, -1:].astype(np.float64) / (
                np.iinfo(strip.dtype).max if strip.dtype.kind in "iu" else 1
            )
            opaque = np.clip(np.nan_to_num(opaque), 0, 1)
            if self.alpha == "straight":
                colours *= opaque
            colours += 255 * (1 - opaque)
            np.minimum(colours, 255, out=colours)
        elif self.clear:
            colours[(strip == np.array(self.clear, strip.dtype)).all(-1)] = 255
        return np.rint(colours, out=colours).astype(np.uint8)


def _between(numbers: NDArray[Any], low: float, high: float) -> NDArray[np.float64]:
    """0..255 where they lie between the two; those beyond are cut off."""
    scaled = np.subtract(numbers, low, dtype=np.float64)
    scaled *= 255 / ((high - low) or 1)
    return np.clip(scaled, 0, 255, out=scaled)


def require_channels(channels: tuple[int, ...], there: int, name: str) -> None:
    """Raise DataError where one of some channels is not among those that are there."""
    if max(channels) >= there:
        what = (
            f"has {there} channel{'' if there == 1 else 's'}, and channel {max(channels)} is asked for, counted from 0"
        )
        raise DataError([Problem(what, kind="channels", file=name, remedy="name others with --channels")])


def refuse_channels(there: int, name: str, what: str = "") -> None:
    """Raise DataError for an image of so many channels of which none were chosen."""
    message = f"has {there} channels{what}, and three are read"
    remedy = (
        "say which are red, green and blue, counted from 0, with --channels 0,1,2; or one of them, with --channels 0"
    )
    raise DataError([Problem(message, kind="channels", file=name, remedy=remedy)])


def together(extents: Iterable[Extent]) -> Extent | None:
    """The extent of several images; None of none."""
    whole = None
    for extent in extents:
        whole = extent if whole is None else whole | extent
    return whole


def _converted(strip: Image.Image) -> NDArray[np.uint8]:
    """Pixels of 8 bits as Pillow converts them, transparency laid over white."""
    if strip.has_transparency_data:
        rgba = strip.convert("RGBA")
        strip = Image.alpha_composite(Image.new("RGBA", rgba.size, (255, 255, 255, 255)), rgba)
    return np.asarray(strip if strip.mode == "RGB" else strip.convert("RGB"))
