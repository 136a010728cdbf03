"""Objects of 20 pixels on images of 4,000: Dice of a segmenter that learnt from crops, and of ones that saw whole images, squashed.

All train equally long. Dice is over the pixels of the test images at their own resolution, as ``maskwright evaluate`` prints it.
"""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from PIL import Image

from frame import Options
from large_images import Slide, command
from maskwright.data.files import write_atomic
from maskwright.data.mask_files import write_mask
from measure import machine

WAYS: dict[str, tuple[str, ...]] = {
    "crops (what `train` takes by itself)": (),
    "squashed to 256": ("--crop", "0"),
    "squashed to 1024": ("--crop", "0", "--size", "1024", "--batch", "2"),
}


@dataclass
class Settings(Options):
    """Print the Dice of crops against squashing."""

    out: Path
    """Folder for images and runs; a run that is finished there is not made again."""
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
    ways: tuple[str, ...] = tuple(WAYS)
    seed: int = 0


def images(settings: Settings) -> Path:
    """A dataset of images with instance masks."""
    folder = settings.out / "images"
    if (folder / "manifest.json").exists():
        return folder
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(settings.images):
        slide = Slide(settings.side, settings.objects, 1000 * settings.seed + number + 1)
        radii = slide.cells[:, 2:4]
        radii *= settings.diameter / (2 * np.sqrt(radii.prod(1).mean()))
        Image.fromarray(slide.strip(0, settings.side)).save(folder / f"images/{number}.jpg", quality=92)
        ids = slide.ids(0, settings.side)
        write_mask(
            folder / f"masks/{number}.png", np.unique(ids, return_inverse=True)[1].reshape(ids.shape).astype(np.uint16)
        )
        split = ("train", "train", "train", "val", "test")[number % 5]
        labels = {"mask": {"path": f"masks/{number}.png", "kind": "instance"}}
        rows.append({"id": str(number), "image": f"images/{number}.jpg", "split": split, "labels": labels})
    content = {"version": 1, "categories": ["background", "cell"], "samples": rows}
    write_atomic(folder / "manifest.json", json.dumps(content))
    return folder


def row(settings: Settings, data: Path, way: str) -> dict[str, Any]:
    """Train in one way, and score the test images."""
    run = settings.out / "".join(c if c.isalnum() else "-" for c in way)
    kept = run / "row.json"
    if kept.exists():
        return json.loads(kept.read_text())
    more = (
        "--minutes",
        settings.minutes,
        "--no-sam",
        "--flips",
        "all",
        "--device",
        "cpu",
        "--overwrite",
        "--seed",
        settings.seed,
    )
    began = time.monotonic()
    subprocess.run(command("train", "samix", data, "--out", run, *more, *WAYS[way]), check=True)
    took = (time.monotonic() - began) / 60
    subprocess.run(command("evaluate", run, data, "--device", "cpu"), check=True)
    scores = json.loads((run / "evaluation-test.json").read_text())
    result = {"way": way, "dice": scores["dice"], "iou": scores["iou"], "minutes": took}
    write_atomic(kept, json.dumps(result))
    return result


def main(settings: Settings) -> dict[str, Any]:
    data = images(settings)
    rows = [row(settings, data, way) for way in settings.ways]
    print(f"{'':40} {'Dice':>6} {'IoU':>6} {'minutes':>8}")
    for one in rows:
        print(f"{one['way']:40} {one['dice']:6.3f} {one['iou']:6.3f} {one['minutes']:8.1f}")
    return {"machine": machine(), "rows": rows}


if __name__ == "__main__":
    chosen = tyro.cli(Settings, description=__doc__)
    figures = main(chosen)
    if chosen.json:
        write_atomic(chosen.json, json.dumps(figures, indent=1))
