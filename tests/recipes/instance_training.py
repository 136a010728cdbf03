"""What the tests of the recipe s4m share: small datasets of instances, the smallest training, and how runs are compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from maskwright.data.dataset import Dataset
from maskwright.data.labels import Labels, Mask, Sample
from maskwright.data.mask_files import write_mask
from maskwright.data.scenes import CATEGORY_NAMES, render
from maskwright.recipes.s4m import Config
from tests.recipes.training import log, tensors

SMALLEST = {
    "decoder": "queries",
    "size": 64,
    "steps": 8,
    "batch": 2,
    "queries": 10,
    "points": 8,
    "warm_up": 2,
    "workers": 0,
    "device": "cpu",
}


def settings(data: Path, out: Path, weights: Path, **changed: Any) -> Config:
    return Config(**{"data": data, "out": out, "sam": str(weights), **SMALLEST, **changed})


def arguments(data: Path, out: Path, sam: Path, **changed: Any) -> list[str]:
    """The same for the command line."""
    options = {"out": out, "sam": sam, **SMALLEST, **changed}
    flags = [
        [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])] for name, value in options.items()
    ]
    return ["train", "s4m", str(data), *(word for pair in flags for word in pair)]


def write_instances(
    folder: Path, masks: list[np.ndarray], categories: tuple[str, ...], *, labelled: int, val: int = 1
) -> Path:
    """Images in which every object is one flat colour; the first of them have labels, ``val`` more are for validation."""
    samples = []
    rng = np.random.default_rng(0)
    for number, mask in enumerate([*masks, *masks[:val]]):
        colours = rng.integers(90, 255, (int(mask.max()) + 1, 3), np.uint8)
        colours[0] = 20
        name = f"image-{number}"
        (folder / "images").mkdir(parents=True, exist_ok=True)
        Image.fromarray(colours[mask] + rng.integers(0, 8, (*mask.shape, 3), np.uint8) // 2).save(
            folder / "images" / f"{name}.png"
        )
        write_mask(folder / "masks" / f"{name}.png", mask.astype(np.uint16))
        known = number < labelled or number >= len(masks)
        labels = Labels(Mask(f"masks/{name}.png", "instance")) if known else Labels()
        split = "train" if number < len(masks) else "val"
        samples.append(Sample(name, f"images/{name}.png", split, labels))
    Dataset(folder, categories, tuple(samples)).save()
    return folder


def instance_scenes(folder: Path, size: int = 64, categories: int = 2) -> Path:
    """Procedural scenes with round and other things, or things of one category: 8 training images, of which 4 with labels, 2 for
    validation, 2 for testing."""
    names, rounded = ("background", "round", "other")[: 1 + categories], {"disc", "blob", "flower", "ring", "leaf"}
    wanted = [0, *(1 if name in rounded else categories for name in CATEGORY_NAMES[1:])]
    scenes = render(12, size, seed=0, max_objects=8, difficulty=0.3)
    own = torch.tensor(wanted)[scenes.categories]
    samples = []
    (folder / "images").mkdir(parents=True)
    for number in range(12):
        ids = scenes.instances[number].numpy()
        chosen = {k: int(own[number, k - 1]) for k in np.unique(ids).tolist() if k and own[number, k - 1]}
        shown = np.where(np.isin(ids, list(chosen)), ids, 0)
        name, split = f"scene-{number}", "train" if number < 8 else "val" if number < 10 else "test"
        image = (scenes.images[number].permute(1, 2, 0) * 255).byte().numpy()
        Image.fromarray(image).save(folder / "images" / f"{name}.png")
        write_mask(folder / "masks" / f"{name}.png", shown.astype(np.uint16))
        labels = Labels() if 4 <= number < 8 else Labels(Mask(f"masks/{name}.png", "instance", chosen))
        samples.append(Sample(name, f"images/{name}.png", split, labels))
    Dataset(folder, names, tuple(samples)).save()
    return folder


def assert_same_run(run: Path, expected: Path) -> None:
    """Every number of the models and of the log, to the last bit."""
    found, wanted = tensors(run), tensors(expected)
    assert found.keys() == wanted.keys()
    assert [name for name, tensor in wanted.items() if not torch.equal(found[name], tensor)] == []
    assert log(run) == log(expected)
