"""A slide of 20,000 x 20,000 pixels with 5,000 known objects: memory, minutes, seams, count, a kill, two processes.

A segmenter learns from crops of another slide, and an instance segmenter too. Then ``maskwright predict --write`` sees the slide by
windows, and what it writes is compared with the answer of the same network computed at once, in as much memory as that takes.

    python benchmarks/large_images.py --out runs/slide --json large_images.json
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import tyro
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from frame import ResumableOptions, Table, publish
from maskwright.data.files import write_atomic
from maskwright.data.large.opening import open_large
from maskwright.data.mask_files import write_mask
from measure import in_own_process, peak_bytes, peak_bytes_of
from slides import Slide, command

STRIP = 1024
"""Rows of the slide that are painted at once."""


@dataclass(kw_only=True)
class Config(ResumableOptions):
    """Print how large images are predicted."""

    side: int = 20_000
    """Pixels along the slide."""
    objects: int = 5_000
    """On it."""
    minutes: float = 2.5
    """Of each of the two trainings."""
    steps: int | None = None
    """Of each training, in place of its minutes."""
    crop: int = 256
    """Pixels of the slide along a window."""
    crops: int = 120
    """For the trainings."""
    seed: int = 0


def training_crops(config: Config, folder: Path) -> Path:
    """Crops of another slide with instance masks; a fifth of them for validation."""
    side = config.crop * 12
    density = config.objects / config.side**2
    slide = Slide(side, max(9, round(density * side * side * 4)), config.seed + 1)
    image, ids = slide.strip(0, side), slide.ids(0, side)
    rng = np.random.default_rng(config.seed)
    samples = []
    for number in range(config.crops):
        x, y = rng.integers(0, side - config.crop, 2)
        part = np.s_[y : y + config.crop, x : x + config.crop]
        (folder / "images").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[part]).save(folder / f"images/{number}.png")
        dense = np.unique(ids[part], return_inverse=True)[1].reshape(ids[part].shape)
        write_mask(folder / f"masks/{number}.png", (dense + (ids[part].min() > 0)).astype(np.uint16))
        labels = {"mask": {"path": f"masks/{number}.png", "kind": "instance"}}
        split = "val" if number % 5 == 0 else "train"
        samples.append({"id": str(number), "image": f"images/{number}.png", "split": split, "labels": labels})
    content = {"version": 1, "categories": ["background", "cell"], "samples": samples}
    write_atomic(folder / "manifest.json", json.dumps(content))
    return folder


# -------------------------------------------------------------------------------------------------------------- commands


def measured(arguments: list[str], kill_at: Path | None = None, areas: int = 0) -> dict[str, float]:
    """Minutes and peak bytes of a command, of its largest process; with ``kill_at`` it is killed when so many areas are there."""
    began, peak = time.monotonic(), 0
    process = subprocess.Popen(arguments, start_new_session=True)
    killed = False
    while process.poll() is None:
        time.sleep(0.5)
        peak = max([peak, *(peak_bytes_of(one) for one in _family(process.pid))])
        if kill_at is not None and len(list(kill_at.glob("*.npz"))) >= areas:
            # torchrun's processes are sessions of their own, and outlive it.
            for one in _family(process.pid):
                with suppress(ProcessLookupError):
                    os.kill(one, signal.SIGKILL)
            process.wait()
            killed = True
    if process.returncode and not killed:
        raise SystemExit(f"{' '.join(arguments)} ended with {process.returncode}")
    return {"minutes": (time.monotonic() - began) / 60, "bytes": peak}


def _family(process: int) -> list[int]:
    """A process and its children."""
    found = [process]
    for one in found:
        for task in Path(f"/proc/{one}/task").glob("*/children"):
            try:
                found += map(int, task.read_text().split())
            except OSError:  # It has just ended.
                continue
    return found


def at_once(run: Path, slide: Path, crop: int, out: Path) -> float:
    """Write the segmenter's answer to the whole slide as one area, in memory; returns the peak bytes."""
    import torch

    from maskwright.api import load
    from maskwright.engine.sliding import Slide as Grid

    torch.set_num_threads(1)
    predictor = load(run, device="cpu").with_crop(crop)
    with open_large(slide) as image:
        grid = Grid.of(image.size, crop)
        whole = predictor.predict_area(image.read, grid, (0, 0, *image.size), batch=8, flip=False)
    np.save(out, whole["mask"])
    return float(peak_bytes())


# --------------------------------------------------------------------------------------------------------------- scores


def compare(slide: Slide, mask: Path, whole: NDArray[np.uint8]) -> dict[str, float]:
    """Dice with the truth inside of areas and within 32 pixels of their seams, of both answers; how many pixels differ."""
    sums = np.zeros((2, 2, 3))
    differing = 0
    near = np.zeros(slide.side, bool)
    for seam in range(4096, slide.side, 4096):
        near[max(0, seam - 32) : seam + 32] = True
    with open_large(mask) as image:
        for top in range(0, slide.side, STRIP):
            bottom = min(top + STRIP, slide.side)
            mine = image.samples((0, top, slide.side, bottom))[..., 0] > 0
            theirs, truth = whole[top:bottom] > 0, slide.ids(top, bottom) > 0
            differing += int((mine != theirs).sum())
            at_seam = near[top:bottom, None] | near
            for which, found in enumerate((mine, theirs)):
                for place, part in enumerate((~at_seam, at_seam)):
                    sums[which, place] += [(found & truth & part).sum(), (found & part).sum(), (truth & part).sum()]
    dice = 2 * sums[..., 0] / np.maximum(sums[..., 1] + sums[..., 2], 1)
    return {
        "dice_inside": dice[0, 0],
        "dice_seams": dice[0, 1],
        "whole_dice_inside": dice[1, 0],
        "whole_dice_seams": dice[1, 1],
        "differing_pixels": differing,
    }


def counted(slide: Slide, mask: Path) -> dict[str, int]:
    """Objects in a mask of ids: how many, and how many of the true ones one of them covers with an IoU above .5."""
    with tifffile.TiffFile(mask) as file:
        found = file.asarray()
    matched, areas = 0, np.bincount(found.reshape(-1))
    truth = slide.ids(0, slide.side)
    for number, place in enumerate(ndimage.find_objects(truth), start=1):
        if place is None:
            continue
        here = truth[place] == number
        ids, overlap = np.unique(found[place][here], return_counts=True)
        best = overlap[ids > 0].argmax() if (ids > 0).any() else None
        if best is not None:
            common, one = overlap[ids > 0][best], ids[ids > 0][best]
            matched += int(common / (areas[one] + here.sum() - common) > 0.5)
    return {"true": int((slide.cells[:, 5] > 0).sum()), "found": int(found.max()), "matched": matched}


def main(config: Config) -> None:
    settings, out = config.start(), config.out
    slide = Slide(config.side, config.objects, config.seed)
    path = out / "slide.tif"
    if not path.exists():
        slide.write(path)
    runs = train(config)
    crop = ("--crop", config.crop, "--device", "cpu")
    figures: dict[str, Any] = {}

    def step(name: str, make: Callable[[], Any]) -> None:
        file = out / f"{name}.json"
        if not file.exists():
            write_atomic(file, json.dumps(make()))
        figures[name] = json.loads(file.read_text())

    one, two, objects = out / "one", out / "two", out / "objects"
    predict = ("predict", runs["semantic"], path, "--write", "tiff", "geojson", *crop, "--out")
    step("one_process", lambda: measured(command(*predict, one)))
    whole = out / "whole.npy"
    step("at_once", lambda: {"bytes": in_own_process(at_once, runs["semantic"], path, config.crop, whole)})
    step("agreement", lambda: compare(slide, one / "masks/slide.tif", np.load(whole, mmap_mode="r")))
    again = command(*predict, two, processes=2)
    step("killed", lambda: measured(again, two / "large/slide.areas", areas=3))
    step("two_processes", lambda: measured(again))
    step("same", lambda: bool(np.array_equal(*(tifffile.imread(f / "masks/slide.tif") for f in (one, two)))))
    more = ("--write", "tiff", "gpkg", "--device", "cpu", "--out", objects)
    step("objects_process", lambda: measured(command("predict", runs["instances"], path, *more)))
    step("count", lambda: counted(slide, objects / "masks/slide.tif"))
    publish(config, table_of(config, figures), settings, **figures)


def train(config: Config) -> dict[str, Path]:
    """The runs of both segmenters."""
    data = config.out / "crops"
    if not (data / "manifest.json").exists():
        training_crops(config, data)
    length = ("--steps", config.steps) if config.steps else ("--minutes", config.minutes)
    options = (
        *length,
        "--sam",
        config.sam,
        "--device",
        "cpu",
        "--flips",
        "all",
        "--validation-images",
        16,
        "--overwrite",
    )
    recipes = {"semantic": ("samix", "--no-sam", "--size", config.crop), "instances": ("s4m", "--stage", "teacher")}
    runs = {name: config.out / name for name in recipes}
    for name, (recipe, *more) in recipes.items():
        if not (runs[name] / "report.html").exists():
            subprocess.run(command("train", recipe, data, "--out", runs[name], *more, *options), check=True)
    return runs


def table_of(config: Config, figures: dict[str, Any]) -> Table:
    """Of memory, time and scores by what was done."""
    agreement, count = figures["agreement"], figures["count"]

    def row(text: str, part: dict[str, float], said: str = "") -> list[str]:
        return [text, f"{part['minutes']:.1f}" if "minutes" in part else "", f"{part['bytes'] / 2**30:.2f}", said]

    inside, seams = agreement["dice_inside"], agreement["dice_seams"]
    rows = [
        row("by windows", figures["one_process"], f"Dice {inside:.4f}, at seams {seams:.4f}"),
        row("at once, in memory", figures["at_once"], f"{agreement['differing_pixels']} pixels differ"),
        row("two processes, killed", figures["killed"]),
        row("two processes, gone on", figures["two_processes"], "the same" if figures["same"] else "NOT the same"),
        row(
            "objects, by windows",
            figures["objects_process"],
            f"{count['found']} of {count['true']}, {count['matched']} match",
        ),
    ]
    title = f"A slide of {config.side} x {config.side} pixels with {config.objects} objects"
    notes = (
        "GiB: of the largest process. At seams: within 32 pixels of where areas meet. Objects match at an IoU above .5."
    )
    return Table(title, ["", "minutes", "GiB", ""], rows, notes)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
