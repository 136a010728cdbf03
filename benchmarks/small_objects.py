"""Objects of 20 pixels on images of 4,000: Dice of a segmenter that learnt from crops, and of ones that saw whole images, squashed.

All train equally long. Dice is over the pixels of the test images at their own resolution, as ``maskwright evaluate`` prints it.

    python benchmarks/small_objects.py --out runs/small --json small_objects.json
"""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tyro
from PIL import Image

from frame import ResumableOptions, Table, publish, slug
from maskwright.data.files import write_atomic
from maskwright.data.mask_files import write_mask
from slides import Slide, command

WAYS: dict[str, tuple[str, ...]] = {
    "crops (what `train` takes by itself)": ("--batch", "8"),
    "squashed to 256": ("--crop", "0", "--batch", "8"),
    "squashed to 1024": ("--crop", "0", "--size", "1024", "--batch", "2"),
}


@dataclass(kw_only=True)
class Config(ResumableOptions):
    """Print the Dice of crops against squashing."""

    side: int = 4_000
    """Pixels along an image."""
    diameter: float = 20.0
    """Of the usual object, in pixels."""
    objects: int = 100
    """On each image."""
    images: int = 20
    """Of which three fifths are for training, a fifth each for validation and test."""
    minutes: float = 4.0
    """Of each training."""
    steps: int | None = None
    """Of each training, in place of its minutes."""
    size: int = 256
    """Side of the canvas, but for the last row."""
    ways: tuple[str, ...] = tuple(WAYS)
    """Rows of the table."""
    seed: int = 0

    free: ClassVar[tuple[str, ...]] = (*ResumableOptions.free, "ways")


def images(config: Config) -> Path:
    """A dataset of images with instance masks."""
    folder = config.out / "images"
    if (folder / "manifest.json").exists():
        return folder
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(config.images):
        slide = Slide(config.side, config.objects, 1000 * config.seed + number + 1)
        radii = slide.cells[:, 2:4]
        radii *= config.diameter / (2 * np.sqrt(radii.prod(1).mean()))
        Image.fromarray(slide.strip(0, config.side)).save(folder / f"images/{number}.jpg", quality=92)
        ids = slide.ids(0, config.side)
        write_mask(
            folder / f"masks/{number}.png", np.unique(ids, return_inverse=True)[1].reshape(ids.shape).astype(np.uint16)
        )
        split = ("train", "train", "train", "val", "test")[number % 5]
        labels = {"mask": {"path": f"masks/{number}.png", "kind": "instance"}}
        rows.append({"id": str(number), "image": f"images/{number}.jpg", "split": split, "labels": labels})
    content = {"version": 1, "categories": ["background", "cell"], "samples": rows}
    write_atomic(folder / "manifest.json", json.dumps(content))
    return folder


def row(config: Config, data: Path, way: str) -> dict[str, Any]:
    """Train in one way, and score the test images."""
    run = config.out / slug(way)
    kept = run / "row.json"
    if kept.exists():
        return json.loads(kept.read_text())
    length = ("--steps", config.steps) if config.steps else ("--minutes", config.minutes)
    more = (*length, "--no-sam", "--flips", "all", "--device", "cpu", "--overwrite", "--seed", config.seed)
    more = (*more, "--sam", config.sam, "--size", config.size)
    began = time.monotonic()
    subprocess.run(
        command("train", "samix", data, "--out", run, "--coarse-share", "0.7", *more, *WAYS[way]), check=True
    )
    took = (time.monotonic() - began) / 60
    subprocess.run(command("evaluate", run, data, "--device", "cpu"), check=True)
    scores = json.loads((run / "evaluation-test.json").read_text())
    result = {"way": way, "dice": scores["dice"], "iou": scores["iou"], "minutes": took}
    write_atomic(kept, json.dumps(result))
    return result


def main(config: Config) -> None:
    settings = config.start()
    data = images(config)
    rows = [row(config, data, way) for way in config.ways]
    shown = [[one["way"], f"{one['dice']:.3f}", f"{one['iou']:.3f}", f"{one['minutes']:.1f}"] for one in rows]
    title = (
        f"Objects of {config.diameter:g} pixels on images of {config.side}: {config.minutes:g} minutes of training each"
    )
    notes = f"{config.images} images, a fifth of them for the test; canvas of {config.size} pixels where nothing else is said."
    publish(config, Table(title, ["", "Dice", "IoU", "minutes"], shown, notes), settings, rows=rows)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
