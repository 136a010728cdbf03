"""Fixtures for the tests of items, batches and the loader."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskwright.data.dataset import Dataset
from maskwright.data.labels import IGNORE, Box, Labels, Mask, Point, Sample, Scribble, Tag


def _write(root: Path, name: str, array: np.ndarray) -> str:
    Image.fromarray(array).save(root / name)
    return name


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Seven images of different sizes; 3 categories; one sample of each kind, and one with several."""
    root = tmp_path_factory.mktemp("mixed")
    generator = np.random.default_rng(0)
    sizes = [(32, 32), (64, 32), (48, 40), (32, 64), (40, 40), (56, 32), (32, 48)]
    images = [
        _write(root, f"{i}.png", generator.integers(0, 256, (h, w, 3), dtype=np.uint8))
        for i, (w, h) in enumerate(sizes)
    ]
    mask = np.zeros((32, 32), dtype=np.uint8)
    mask[8:16, 4:20] = 2
    mask[24:] = IGNORE
    instances = np.zeros((40, 40), dtype=np.uint16)
    instances[:10], instances[10:20], instances[20:30] = 300, 7, IGNORE
    labels = [
        Labels(mask=Mask(_write(root, "m0.png", mask))),
        Labels(boxes=(Box(8, 4, 24, 12, 1), Box(40, 16, 64, 32, 2))),
        Labels(scribbles=(Scribble(((6.0, 5.0), (42.0, 5.0)), 1),)),
        Labels(points=(Point(16, 32, 2), Point(2, 2, 0))),
        Labels(mask=Mask(_write(root, "m4.png", instances), "instance", {300: 2})),
        Labels(tags=(Tag(2),)),
        Labels(),
    ]
    samples = [Sample(f"s{i}", image, labels=label) for i, (image, label) in enumerate(zip(images, labels))]
    return Dataset(root, ("background", "cat", "dog"), tuple(samples))
