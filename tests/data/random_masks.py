"""Random masks of all the kinds that a format could lose: holes, parts, single pixels, touching borders, many objects."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from maskwright.data.labels import Labels, Mask, Sample, Samples
from maskwright.data.mask_files import write_mask

CATEGORIES = ("background", "cat", "dog", 'a <bird> & "co"')


def random_ids(random: np.random.Generator) -> NDArray[np.uint16]:
    """One mask ``(H, W)`` of instance ids 1..n without a gap."""
    height, width = (int(side) for side in random.integers(1, 48, 2))
    ids = np.zeros((height, width), np.uint16)
    kind = random.integers(6)
    if kind == 0:  # noise: parts of single pixels, and holes
        ids = random.integers(0, int(random.integers(2, 9)), (height, width)).astype(np.uint16)
    elif kind == 1:  # an object to every pixel
        ids = np.arange(1, height * width + 1, dtype=np.uint16).reshape(height, width)
    elif kind == 2:  # no object, or one that is everywhere
        ids[:] = random.integers(2)
    else:
        for id in range(1, int(random.integers(2, 12))):
            top, left = int(random.integers(height)), int(random.integers(width))
            ids[top : top + int(random.integers(1, 20)), left : left + int(random.integers(1, 20))] = id
            if kind == 4 and random.integers(2):  # with a hole
                ids[top + 2 : top + 5, left + 2 : left + 5] = 0
    present = np.unique(ids[ids > 0])
    return np.searchsorted(present, ids).astype(np.uint16) + (ids > 0) if len(present) else ids


def write_random(root: Path, count: int, *, seed: int = 0, semantic: bool = False) -> Samples:
    """A dataset of images with such masks; the split of every third is ``val``."""
    random = np.random.default_rng(seed)
    samples = []
    for number, ids in enumerate(_masks(random, count)):
        categories = {id: int(random.integers(1, len(CATEGORIES))) for id in range(1, int(ids.max()) + 1)}
        labels = Labels(Mask(f"m/{number}.png", "instance", categories))
        if semantic:
            table = random.choice([0, 1, 2, 3, 255], int(ids.max()) + 1)
            ids, labels = table[ids].astype(np.uint8), Labels(Mask(f"m/{number}.png"))
        write_mask(root / labels.mask.path, ids)  # type: ignore[union-attr]
        Image.new("RGB", ids.shape[::-1], (number % 256, 0, 0)).save(root / "m" / f"i{number}.png")
        samples.append(Sample(f"s{number}", f"m/i{number}.png", "val" if number % 3 == 2 else "train", labels))
    return Samples(root, CATEGORIES, tuple(samples))


def _masks(random: np.random.Generator, count: int) -> Iterator[NDArray[np.uint16]]:
    if count:
        yield (np.arange(500, dtype=np.uint16).repeat(4).reshape(50, 40)) + np.uint16(1)  # 500 objects
    for _ in range(count - 1):
        yield random_ids(random)
