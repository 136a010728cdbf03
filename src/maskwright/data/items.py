"""One image with its labels, decoded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from maskwright.data.dataset import Dataset
from maskwright.data.geometry import Size
from maskwright.data.labels import IGNORE, Kind, Mask, Sample
from maskwright.data.mask_files import read_mask
from maskwright.errors import DataError


@dataclass(frozen=True, slots=True)
class Item:
    """One image with its labels, decoded; coordinates are pixels of the original image.

    Attributes:
        image: ``(h, w, 3)`` uint8; smaller than the original where the reader was given a limit.
        size: ``(width, height)`` of the original image.
        kind: the finest kind of label.
        mask: ``(h, w)`` uint8 category ids with 255 = ignore, of the image array's size, or None.
        boxes: ``(N, 4)`` float64 x0 y0 x1 y1, with ``box_categories`` ``(N,)``, and ``box_cut`` ``(N, 2)`` bool: whether a crop cut
            the object along x, and along y.
        points: ``(P, 2)`` float64 clicks, with ``point_categories`` ``(P,)``.
        scribbles: polylines ``(V, 2)`` float64, with ``scribble_categories``, one for each.
        tags: ``(T,)`` categories of the image; all of them, if there are any.
    """

    image: NDArray[np.uint8]
    size: Size
    kind: Kind
    mask: NDArray[np.uint8] | None
    boxes: NDArray[np.float64]
    box_categories: NDArray[np.int64]
    box_cut: NDArray[np.bool_]
    points: NDArray[np.float64]
    point_categories: NDArray[np.int64]
    scribbles: tuple[NDArray[np.float64], ...]
    scribble_categories: NDArray[np.int64]
    tags: NDArray[np.int64]

    @property
    def nbytes(self) -> int:
        """Bytes that the pixels take."""
        return self.image.nbytes + (self.mask.nbytes if self.mask is not None else 0)


def read_item(dataset: Dataset, sample: Sample, limit: int | None = None) -> Item:
    """Decode a sample's image and mask and turn its labels into arrays.

    Args:
        dataset: gives the folder and the categories.
        sample: one of its samples.
        limit: longest side kept, in pixels; a larger image (and its mask) is reduced to it, coordinates stay those of
            the original.

    Raises:
        DataError: a file cannot be read, sizes do not match, or the mask holds an unknown category.
    """
    labels, path = sample.labels, dataset.image_path(sample)
    image = dataset.pixels(sample)
    height, width = image.shape[:2]
    if sample.size is not None and tuple(sample.size) != (width, height):
        stated = "x".join(map(str, sample.size))
        raise DataError([f"{path}: the image has {width}x{height} pixels, the dataset says {stated}; import it again"])
    mask = None
    mask_path = dataset.mask_path(sample)
    if labels.mask is not None and mask_path is not None:
        mask = _semantic(read_mask(mask_path), labels.mask, len(dataset.categories), str(mask_path))
        if mask.shape != (height, width):
            mask_size = f"{mask.shape[1]}x{mask.shape[0]}"
            raise DataError(
                [f"{mask_path}: the mask has {mask_size} pixels, its image {width}x{height}; make them equal"]
            )
    shrink = min(1.0, limit / max(width, height)) if limit else 1.0
    if shrink < 1:
        reduced_size = max(1, round(width * shrink)), max(1, round(height * shrink))
        reduced = Image.fromarray(image).resize(reduced_size, Image.Resampling.BILINEAR, reducing_gap=3.0)
        image = np.asarray(reduced)
        if mask is not None:
            mask = np.asarray(Image.fromarray(mask).resize(reduced_size, Image.Resampling.NEAREST))
    return Item(
        image=image,
        size=(width, height),
        kind=labels.kind,
        mask=mask,
        boxes=np.array([box.xyxy for box in labels.boxes], dtype=np.float64).reshape(-1, 4),
        box_categories=np.array([box.category for box in labels.boxes], dtype=np.int64),
        box_cut=np.array([("x" in box.cut, "y" in box.cut) for box in labels.boxes], dtype=bool).reshape(-1, 2),
        points=np.array([(point.x, point.y) for point in labels.points], dtype=np.float64).reshape(-1, 2),
        point_categories=np.array([point.category for point in labels.points], dtype=np.int64),
        scribbles=tuple(np.array(line.points, dtype=np.float64).reshape(-1, 2) for line in labels.scribbles),
        scribble_categories=np.array([line.category for line in labels.scribbles], dtype=np.int64),
        tags=np.array([tag.category for tag in labels.tags], dtype=np.int64),
    )


def _semantic(values: np.ndarray, mask: Mask, count: int, path: str) -> NDArray[np.uint8]:
    """Category ids of a mask file's values; instance ids go through the mask's ``categories`` (default: 1)."""
    file_values = np.unique(values)
    table = {int(value): mask.category_of(int(value)) for value in file_values}
    valid_ids = set(range(count)) | ({IGNORE} if mask.kind == "semantic" else set())
    unknown = sorted(set(table.values()) - valid_ids)
    if unknown:
        listed = ", ".join(map(str, unknown[:10]))
        raise DataError([f"{path}: holds category {listed}, the dataset has 0..{count - 1}; add it or mend the mask"])
    lookup = np.zeros(int(file_values[-1]) + 1, dtype=np.uint8)
    lookup[list(table)] = list(table.values())
    return lookup[values]
