"""What the pixel values of a mask file mean: category ids, or instance ids that each have a category."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskwright.data.labels import Mask, Sample, Samples
from maskwright.data.mask_files import read_mask


def semantic_of(values: NDArray[Any], mask: Mask) -> NDArray[Any]:
    """Category ids ``(H, W)`` of the pixels of a mask: uint8 of an instance mask, the values themselves of a semantic one."""
    if mask.kind == "semantic":
        return values
    table = np.ones(65536, np.uint8)
    table[0] = 0
    for instance, category in mask.categories.items():
        table[instance] = category
    return table[values]


def label_values(dataset: Samples, sample: Sample) -> tuple[NDArray[Any], NDArray[Any]]:
    """The pixels ``(H, W)`` of a sample's mask file, and their category ids with 255 = ignore; one array if it is semantic.

    Raises:
        DataError: the file cannot be read.
        ValueError: the sample has no mask.
    """
    mask = sample.labels.mask
    if mask is None:
        raise ValueError(f"sample {sample.id!r} has no mask")
    values = read_mask(dataset.root / mask.path)
    return values, semantic_of(values, mask)
