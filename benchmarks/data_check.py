"""How long it takes to read and check a dataset: folders with white masks, and COCO polygons, both for the first time and again.

    python benchmarks/data_check.py --json data_check.json

The first time, masks are made of what is read and kept in a cache. Images are JPEG, masks PNG, each with a few disks.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from PIL import Image, ImageDraw

from frame import Table, TimingOptions, publish
from maskwright.data import cache
from maskwright.data.check import check
from maskwright.data.dataset import Dataset


@dataclass(kw_only=True)
class Config(TimingOptions):
    """Check of a dataset."""

    repeats: int = 3
    """Checks after the first, of which the median counts."""
    images: int = 1000
    """Images of the dataset."""
    width: int = 352
    """Of each image, in pixels."""
    height: int = 288
    """Of each image, in pixels."""


def write(config: Config, root: Path) -> None:
    """The dataset in both formats: ``folders/`` and ``coco/``."""
    random = np.random.default_rng(0)
    size = config.width, config.height
    for folder in ("folders/images", "folders/masks", "coco/images"):
        (root / folder).mkdir(parents=True)
    images, annotations = [], []
    for i in range(config.images):
        name = f"{i:05}"
        noise = Image.fromarray(random.integers(0, 256, (18, 22, 3), np.uint8))
        noise.resize(size).save(root / f"folders/images/{name}.jpg", quality=90)
        os.link(root / f"folders/images/{name}.jpg", root / f"coco/images/{name}.jpg")
        mask = Image.new("L", size)
        for x, y in random.uniform(0.2, 0.8, (3, 2)) * size:
            angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
            outline = np.stack([x + 0.1 * min(size) * np.cos(angle), y + 0.1 * min(size) * np.sin(angle)], 1)
            ImageDraw.Draw(mask).polygon([(float(px), float(py)) for px, py in outline], fill=255)
            shape = [round(float(v), 2) for v in outline.ravel()]
            annotations.append({"id": len(annotations) + 1, "image_id": i, "category_id": 1, "segmentation": [shape]})
        mask.save(root / f"folders/masks/{name}.png")
        images.append({"id": i, "file_name": f"{name}.jpg", "width": config.width, "height": config.height})
    document = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "disk"}]}
    (root / "coco/train.json").write_text(json.dumps(document))


def seconds(folder: Path) -> float:
    started = time.perf_counter()
    problems = check(Dataset.load(folder))
    if problems:
        raise SystemExit(f"the dataset has problems, such as {problems[0]}")
    return time.perf_counter() - started


@contextmanager
def cores(count: int) -> Iterator[None]:
    """Work on this many processors, where the system can be asked for it."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def main(config: Config) -> None:
    torch.set_num_threads(config.threads)
    taken: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder, cores(config.threads):
        write(config, Path(folder))
        cache.use(Path(folder) / "cache")
        for name in ("folders", "coco"):
            first = seconds(Path(folder) / name)
            again = float(np.median([seconds(Path(folder) / name) for _ in range(config.repeats)]))
            taken[name] = {"first": first, "again": again}
    rows = [[name, f"{s['first']:.2f}", f"{s['again']:.2f}"] for name, s in taken.items()]
    title = f"Check of {config.images:,} images of {config.width} x {config.height}"
    note = f"{config.threads} processors; `again` is the median of {config.repeats} checks after the first."
    publish(config, Table(title, ["format", "first, s", "again, s"], rows, note), config.settings(), seconds=taken)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
