"""What a model says of one image, and images as users hand them over: files, Pillow images or arrays."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from maskwright.data.files import write_atomic
from maskwright.data.image_files import turn
from maskwright.data.image_reading import PLAIN, ImageReading
from maskwright.data.images import image_size, raster_of, read_image
from maskwright.data.mask_files import write_mask
from maskwright.data.pictures import overlay, palette, thumbnail, thumbnail_mask
from maskwright.errors import DataError

ImageLike: TypeAlias = str | Path | Image.Image | NDArray[Any]


@dataclass(frozen=True)
class Prediction:
    """The mask of one image.

    Attributes:
        id: the file's name without its suffix, or the image's position where it came without a name.
        image: what was given: a path, a Pillow image or an array.
        mask: ``(H, W)`` uint8 category ids, of the size in which the image is displayed.
        categories: names by id, ``background`` first.
        scores: 0..1, the mean probability of each predicted category over the pixels it was predicted for.
        reading: how the image was read, for the overlay.
    """

    id: str
    image: ImageLike = field(repr=False)
    mask: NDArray[np.uint8] | NDArray[np.uint16] = field(repr=False)
    categories: tuple[str, ...]
    scores: dict[str, float]
    reading: ImageReading = field(default=PLAIN, repr=False, kw_only=True)

    @property
    def shares(self) -> dict[str, float]:
        """The share 0..1 of the image that each predicted category covers."""
        counts = np.bincount(self.mask.reshape(-1), minlength=len(self.categories))
        return {name: float(n) / self.mask.size for name, n in zip(self.categories, counts) if n}

    def record(self) -> dict[str, Any]:
        """What the index of a folder of predictions says of it, as JSON."""
        return {
            "area": {name: round(share, 6) for name, share in self.shares.items()},
            "score": {name: round(score, 4) for name, score in self.scores.items()},
        }

    def overlay(self, *, alpha: float = 0.45, outline: bool = True, side: int | None = None) -> Image.Image:
        """The image with the mask painted over it, in the colours of ``data.pictures.palette``.

        Args:
            alpha: 0..1, how much of the image the colour hides.
            outline: draw borders in full colour.
            side: longest side in pixels; left out, the image's own size.
        """
        with turn_of(self.image):
            pixels, mask = pixels_of(self.image, self.id, self.reading), self.mask
            if side is not None:
                pixels = thumbnail(pixels, side)
                mask = thumbnail_mask(mask, (pixels.shape[1], pixels.shape[0]))
        return Image.fromarray(self.paint(pixels, mask, alpha, outline))

    def paint(
        self, pixels: NDArray[np.uint8], mask: NDArray[np.integer], alpha: float, outline: bool
    ) -> NDArray[np.uint8]:
        """A mask of this kind over its image, both at any one size."""
        return overlay(pixels, mask, palette(len(self.categories)), alpha, outline)

    def save(
        self, folder: str | Path, *, name: str | None = None, overlay: bool = True, side: int | None = 1600
    ) -> Path:
        """Write ``folder/masks/<name>.png`` (category ids) and ``folder/overlays/<name>.jpg``, each by rename.

        Args:
            name: may name sub-folders with ``/``; left out, the id.
            overlay: write the overlay too.
            side: its longest side in pixels; None keeps the image's own size.

        Returns:
            The path of the mask.

        Raises:
            DataError: a file cannot be written.
        """
        name = name or self.id
        if overlay:
            write_atomic(Path(folder, "overlays", f"{name}.jpg"), _jpeg(self.overlay(side=side)))
        return write_mask(Path(folder, "masks", f"{name}.png"), self.mask)


def turn_of(image: ImageLike) -> AbstractContextManager[Any]:
    """What to hold while an image is decoded: large files take turns."""
    return turn(image_size(image)) if isinstance(image, str | Path) else nullcontext()


def name_of(image: ImageLike) -> str:
    path = image if isinstance(image, str | Path) else getattr(image, "filename", "")
    return Path(path).stem if path else ""


def pixels_of(image: ImageLike, id: str, reading: ImageReading = PLAIN) -> NDArray[np.uint8]:
    """``(H, W, 3)`` uint8 RGB as displayed, by the same rules as ``read_image``, wherever the image is. Raises DataError."""
    if isinstance(image, str | Path):
        return read_image(image, reading)
    if isinstance(image, Image.Image):
        image = ImageOps.exif_transpose(image)
        width, height = image.size
    else:
        image = _require_image(np.asarray(image), id)
        height, width = image.shape[:2]
    if not width or not height:
        raise DataError([f"image {id}: has {width} x {height} pixels; give one that has any"])
    return raster_of(image, f"image {id}", reading.channels).rgb(reading.intensity)


def _require_image(array: NDArray[Any], id: str) -> NDArray[Any]:
    if array.ndim not in (2, 3) or array.dtype.kind not in "buif" or (array.ndim == 3 and not array.shape[2]):
        expected = "(H, W) or (H, W, C) of bool, integers or floats"
        raise DataError([f"image {id}: an array {array.shape} of {array.dtype} is no image; expected {expected}"])
    return array


def _jpeg(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
