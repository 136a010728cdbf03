"""Images larger than the smallest canvas, with squares that squashing would lose."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from maskwright.data.mask_files import write_mask

SIDE = 300
"""Pixels along an image."""


def write_frames(folder: Path) -> Path:
    """A dataset of images with a dozen red squares of 12 pixels each: four for training, one for validation, two for the test."""
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = []
    for number in range(7):
        image = rng.integers(60, 90, (SIDE, SIDE, 3), dtype=np.uint8)
        ids = np.zeros((SIDE, SIDE), np.uint16)
        for place in range(12):
            y, x = 10 + place // 4 * 100 + rng.integers(0, 60), 10 + place % 4 * 72 + rng.integers(0, 40)
            ids[y : y + 12, x : x + 12] = place + 1
        image[ids > 0] = 220, 30, 30
        Image.fromarray(image).save(folder / f"images/{number}.png")
        write_mask(folder / f"masks/{number}.png", ids)
        split = ("train", "train", "train", "train", "val", "test", "test")[number]
        labels = {"mask": {"path": f"masks/{number}.png", "kind": "instance"}}
        rows.append({"id": str(number), "image": f"images/{number}.png", "split": split, "labels": labels})
    content = {"version": 1, "categories": ["background", "square"], "samples": rows}
    (folder / "manifest.json").write_text(json.dumps(content))
    return folder
