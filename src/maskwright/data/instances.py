"""Objects one by one: batches of images with instance masks, moved by the same affine as all else.

Instance ids come from masks of kind ``instance`` (COCO annotations become such masks when they are read). Images without one
count as unlabelled; their boxes and clicks, where there are any, come along as prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from maskwright.data.augment import Crop
from maskwright.data.batch import Batch, collate
from maskwright.data.dataset import Dataset
from maskwright.data.geometry import Affine, compose, resize_matrix, warp_mask
from maskwright.data.items import Item, read_item
from maskwright.data.labels import Kind, Sample
from maskwright.data.loader import Loader
from maskwright.data.mask_files import read_mask
from maskwright.errors import DataError

MIN_PIXELS = 8
"""An instance that shows fewer pixels of the canvas (a sliver at its border) is not taught; they count as background."""


@dataclass(frozen=True)
class Instances:
    """N objects in a batch of B images, in one flat list; they may overlap.

    Attributes:
        masks: (N, H, W) bool.
        rows: (N,) int64, which image of the batch each lies in, ascending.
        categories: (N,) int64 category ids, 1..C-1.
    """

    masks: Tensor
    rows: Tensor
    categories: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, keep: Tensor) -> Instances:
        """Some of them, by mask or index."""
        return Instances(self.masks[keep], self.rows[keep], self.categories[keep])

    @staticmethod
    def none(height: int, width: int, device: torch.device | str | None = None) -> Instances:
        empty = torch.zeros(0, dtype=torch.long, device=device)
        return Instances(torch.zeros(0, height, width, dtype=torch.bool, device=device), empty, empty)

    @staticmethod
    def cat(parts: Sequence[Instances]) -> Instances:
        """All of several lists over the same images, in the order of the images; in one image, in the order of the lists."""
        rows = torch.cat([part.rows for part in parts])
        order = rows.argsort(stable=True)
        return Instances(
            torch.cat([part.masks for part in parts])[order],
            rows[order],
            torch.cat([part.categories for part in parts])[order],
        )


def boxes_of(masks: Tensor) -> Tensor:
    """(N, 4) half-open boxes x0 y0 x1 y1 of masks (N, h, w), none of them empty."""
    height, width = masks.shape[-2:]
    x, y = masks.any(1).int(), masks.any(2).int()
    return torch.stack([x.argmax(1), y.argmax(1), width - x.flip(1).argmax(1), height - y.flip(1).argmax(1)], 1).float()


@dataclass(frozen=True, slots=True)
class InstanceItem(Item):
    """One image with its objects, decoded.

    Attributes:
        ids: ``(h, w)`` int32, 0 = background, 1..n = objects, of the image array's size; None without instance labels.
        id_categories: ``(n,)`` int64 category of each object.
    """

    ids: NDArray[np.int32] | None
    id_categories: NDArray[np.int64]

    @property
    def nbytes(self) -> int:
        """Bytes that the pixels take."""
        return self.image.nbytes + (self.ids.nbytes if self.ids is not None else 0)


@dataclass
class InstanceBatch(Batch):
    """B samples with their objects.

    Attributes:
        instances: ``(B, S, S)`` int64, 0 = background, k = the visible pixels of object k.
        instance_categories: ``(B, N)`` int64; object k's is in column ``k - 1``; -1 = padding.
    """

    instances: Tensor
    instance_categories: Tensor

    @property
    def labelled(self) -> Tensor:
        """``(B,)`` bool: the image's objects are known (there may be none)."""
        return self.kinds == Kind.MASK

    def truth(self) -> Instances:
        """The true objects that show at least ``MIN_PIXELS``."""
        batch, most = self.instance_categories.shape
        place = torch.arange(batch, device=self.instances.device)[:, None, None] * (most + 1) + self.instances
        areas = torch.bincount(place.flatten(), minlength=batch * (most + 1)).view(batch, most + 1)[:, 1:]
        rows, numbers = (areas >= MIN_PIXELS).nonzero(as_tuple=True)
        masks = self.instances[rows] == (numbers + 1)[:, None, None]
        return Instances(masks, rows, self.instance_categories[rows, numbers])

    def select(self, rows: Tensor) -> Self:
        """Some of the samples, by index."""
        return replace(self, **{f.name: getattr(self, f.name)[rows] for f in fields(self)})


def is_labelled(sample: Sample) -> bool:
    """Whether a sample's objects are known."""
    return sample.labels.mask is not None and sample.labels.mask.kind == "instance"


def refuse_semantic(dataset: Dataset) -> None:
    """Raise DataError where masks do not tell objects of one category apart."""
    semantic = [s.id for s in dataset if s.labels.mask is not None and s.labels.mask.kind != "instance"]
    if semantic:
        raise DataError(
            [
                f"{len(semantic)} images ({', '.join(semantic[:3])}{', ...' if len(semantic) > 3 else ''}) have semantic masks, "
                'which do not tell objects apart; give masks of instance ids ("kind": "instance") or COCO annotations, or leave '
                "these masks out"
            ],
            dataset.source,
        )


def read_instances(dataset: Dataset, sample: Sample, limit: int | None = None) -> InstanceItem:
    """Decode a sample's image and instance mask; other arguments and errors as of :func:`maskwright.data.items.read_item`."""
    # Dense labels are read below, and points along scribbles would each pass for an object.
    labels = replace(sample.labels, mask=None, scribbles=(), tags=())
    base = read_item(dataset, replace(sample, labels=labels), limit)
    item_fields: dict[str, Any] = {f.name: getattr(base, f.name) for f in fields(Item)}
    path = dataset.mask_path(sample)
    if not is_labelled(sample) or path is None:
        return InstanceItem(**item_fields, ids=None, id_categories=np.zeros(0, np.int64))
    ids, categories = read_ids(dataset, sample)
    if ids.shape != base.size[::-1]:
        mask_size = f"{ids.shape[1]}x{ids.shape[0]}"
        raise DataError(
            [f"{path}: the mask has {mask_size} pixels, its image {base.size[0]}x{base.size[1]}; make them equal"]
        )
    item_fields["kind"] = Kind.MASK
    image_size = base.image.shape[1], base.image.shape[0]
    if image_size != base.size:
        ids = np.asarray(Image.fromarray(ids).resize(image_size, Image.Resampling.NEAREST))
    return InstanceItem(**item_fields, ids=ids, id_categories=categories)


def read_ids(dataset: Dataset, sample: Sample) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """A sample's instance mask as ``(H, W)`` ids 1..n without gaps, and the ``(n,)`` categories.

    Raises:
        DataError: the mask cannot be read, or names a category that the dataset does not have.
        ValueError: the sample has no instance mask.
    """
    mask, path = sample.labels.mask, dataset.mask_path(sample)
    if mask is None or path is None or mask.kind != "instance":
        raise ValueError(f"sample {sample.id!r} has no instance mask")
    pixels = read_mask(path)
    values, dense = np.unique(pixels, return_inverse=True)
    objects = values[values > 0]
    # Where no pixel is background, the first value is an object already.
    ids = dense.reshape(pixels.shape).astype(np.int32) + (len(objects) == len(values))
    categories = np.array([mask.category_of(int(value)) for value in objects], np.int64)
    unknown = sorted({int(c) for c in categories if not 1 <= c < len(dataset.categories)})
    if unknown:
        last_category = len(dataset.categories) - 1
        raise DataError(
            [f"{path}: objects of category {unknown[0]}, the dataset has 1..{last_category}; add it or mend the mask"]
        )
    return ids, categories


def collate_instances(
    items: Sequence[InstanceItem],
    matrices: Sequence[Affine],
    size: int,
    categories: int,
    indices: Sequence[int] | np.ndarray | None = None,
) -> InstanceBatch:
    """Draw items on canvases; arguments as of :func:`maskwright.data.batch.collate`."""
    base = collate(items, matrices, size, categories, indices)
    canvases = np.zeros((len(items), size, size), np.int64)
    table = np.full((len(items), max(len(item.id_categories) for item in items)), -1, np.int64)
    for row, (item, matrix) in enumerate(zip(items, matrices, strict=True)):
        table[row, : len(item.id_categories)] = item.id_categories
        if item.ids is not None:
            image_size = item.ids.shape[1], item.ids.shape[0]
            canvases[row] = warp_mask(item.ids, compose(matrix, resize_matrix(image_size, item.size)), size, fill=0)
    batch_fields = {f.name: getattr(base, f.name) for f in fields(Batch)}
    return InstanceBatch(
        **batch_fields, instances=torch.from_numpy(canvases), instance_categories=torch.from_numpy(table)
    )


class InstanceLoader(Loader):
    """A :class:`Loader` whose batches hold instance masks. Images that are cropped are kept at their full size."""

    def batch(self, step: int) -> InstanceBatch:
        return cast(InstanceBatch, super().batch(step))

    def take(self, indices: Sequence[int] | np.ndarray) -> InstanceBatch:
        return cast(InstanceBatch, super().take(indices))

    def item(self, index: int) -> InstanceItem:
        return cast(InstanceItem, super().item(index))

    def _matrix(self, item: InstanceItem, generator: np.random.Generator) -> Affine:
        crop = self.augment
        if not isinstance(crop, Crop) or not crop.centred or item.ids is None or not len(item.id_categories):
            return super()._matrix(item, generator)
        is_centred, which = generator.random(2)
        if is_centred >= crop.centred:
            return super()._matrix(item, generator)
        rows, columns = np.nonzero(item.ids == 1 + int(which * len(item.id_categories)))
        scale = item.size[0] / item.ids.shape[1], item.size[1] / item.ids.shape[0]
        focus = (columns.mean() + 0.5) * scale[0], (rows.mean() + 0.5) * scale[1]
        return crop.matrix(item.size, self.size, generator, focus=focus)

    def _read(self, index: int) -> InstanceItem:
        limit = None if isinstance(self.augment, Crop) else 2 * self.size
        return read_instances(self.dataset, self.dataset[index], limit)

    def _collate(
        self, items: list[InstanceItem], matrices: list[Affine], indices: Sequence[int] | np.ndarray
    ) -> InstanceBatch:
        return collate_instances(items, matrices, self.size, len(self.dataset.categories), indices)
