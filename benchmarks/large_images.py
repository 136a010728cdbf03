"""A slide of 20,000 x 20,000 pixels with 5,000 known objects: memory, minutes, seams, count, a kill, two processes.

A segmenter learns from crops of another slide, and an instance segmenter too. Then ``maskwright predict --write`` sees the slide by
windows, and what it writes is compared with the answer of the same network computed at once, in as much memory as that takes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import tyro
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from frame import Options
from maskwright.data.files import write_atomic
from maskwright.data.large.opening import open_large
from maskwright.data.mask_files import write_mask
from measure import in_own_process, machine, peak_bytes, peak_bytes_of

STRIP = 1024
"""Rows of the slide that are painted at once."""


@dataclass
class Settings(Options):
    """Print how large images are predicted."""

    out: Path
    """Folder for slides, runs and predictions, about 3 GB; what is finished there is not made again."""
    side: int = 20_000
    """Pixels along the slide."""
    objects: int = 5_000
    """On it."""
    minutes: float = 3.0
    """Of each of the two trainings."""
    crop: int = 256
    """Pixels of the slide along a window."""
    crops: int = 120
    """For the trainings."""
    seed: int = 0


@dataclass(frozen=True)
class Slide:
    """A slide that is painted strip by strip: cells that are to be found, others of another colour that are not, on tissue."""

    side: int
    count: int
    seed: int

    @cached_property
    def cells(self) -> NDArray[np.float64]:
        """(n, 6): x, y, both radii, angle, and whether it is an object (the first ``count``); none touch each other."""
        rng = np.random.default_rng([self.seed, 1])
        total = round(self.count * 1.3)
        across = int(np.ceil(np.sqrt(total)))
        pitch = self.side / across
        grid = np.stack(np.meshgrid(np.arange(across), np.arange(across)), -1).reshape(-1, 2)
        grid = rng.permutation(grid)[:total]
        radii = rng.uniform(0.16, 0.34, (total, 2)) * min(pitch, 100)
        # A little space is left between neighbours.
        free = pitch / 2 - radii.max(1) - 3
        middle = (grid + 0.5) * pitch + rng.uniform(-1, 1, (total, 2)) * free[:, None]
        angle = rng.uniform(0, np.pi, total)
        return np.column_stack([middle, radii, angle, np.arange(total) < self.count])

    def ids(self, top: int, bottom: int, objects: bool = True) -> NDArray[np.int32]:
        """Ids from 1 of the objects, or of the other cells, in rows ``top`` to ``bottom``."""
        ids = np.zeros((bottom - top, self.side), np.int32)
        for number, (x, y, a, b, angle, is_object) in enumerate(self.cells):
            reach = max(a, b) + 1
            if bool(is_object) != objects or y + reach < top or y - reach >= bottom:
                continue
            x0, x1 = max(0, int(x - reach)), min(self.side, int(x + reach) + 2)
            y0, y1 = max(top, int(y - reach)), min(bottom, int(y + reach) + 2)
            dx, dy = np.meshgrid(np.arange(x0, x1) + 0.5 - x, np.arange(y0, y1) + 0.5 - y)
            along, beside = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
            ids[y0 - top : y1 - top, x0:x1][(along / a) ** 2 + (beside / b) ** 2 <= 1] = number + 1
        return ids

    def strip(self, top: int, bottom: int) -> NDArray[np.uint8]:
        """Pixels of rows ``top`` to ``bottom``, (h, side, 3)."""
        rng = np.random.default_rng([self.seed, 2])
        grain = rng.normal(0, 14, (512, 512)).astype(np.float32)
        grain = ndimage.gaussian_filter(grain, 1.2, mode="wrap") * 3
        rows, columns = np.arange(top, bottom) % 512, np.arange(self.side) % 512
        noise = grain[rows][:, columns]
        waves = 18 * np.sin(np.arange(top, bottom) / 371)[:, None] * np.cos(np.arange(self.side) / 523)
        light = (noise + waves.astype(np.float32))[..., None]
        image = np.array([226, 180, 200], np.float32) + light
        image[self.ids(top, bottom, False) > 0] += np.array([-70, -20, -80], np.float32)
        image[self.ids(top, bottom) > 0] += np.array([-90, -95, -45], np.float32)
        return image.clip(0, 255).astype(np.uint8)

    def write(self, path: Path) -> Path:
        """A tiled TIFF."""
        tile = 512

        def tiles() -> Any:
            for top in range(0, self.side, tile):
                strip = self.strip(top, min(top + tile, self.side))
                strip = np.pad(strip, ((0, tile - len(strip)), (0, -self.side % tile), (0, 0)))
                yield from (strip[:, x : x + tile] for x in range(0, strip.shape[1], tile))

        aside = path.with_suffix(".part.tif")
        tifffile.imwrite(
            aside,
            tiles(),
            shape=(self.side, self.side, 3),
            dtype=np.uint8,
            tile=(tile, tile),
            compression="jpeg",
            photometric="rgb",
            bigtiff=True,
            resolution=(20_000, 20_000),
            resolutionunit="CENTIMETER",
        )
        os.replace(aside, path)
        return path


def training_crops(settings: Settings, folder: Path) -> Path:
    """Crops of another slide with instance masks; a fifth of them for validation."""
    side = settings.crop * 12
    density = settings.objects / settings.side**2
    slide = Slide(side, max(9, round(density * side * side * 4)), settings.seed + 1)
    image, ids = slide.strip(0, side), slide.ids(0, side)
    rng = np.random.default_rng(settings.seed)
    samples = []
    for number in range(settings.crops):
        x, y = rng.integers(0, side - settings.crop, 2)
        part = np.s_[y : y + settings.crop, x : x + settings.crop]
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


def command(*arguments: object, processes: int = 1) -> list[str]:
    start = [sys.executable, "-m", "maskwright"]
    if processes > 1:
        start = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", "-m", "maskwright"]
    return [*start, *map(str, arguments)]


def measured(arguments: list[str], kill_at: Path | None = None, areas: int = 0) -> dict[str, float]:
    """Minutes and peak bytes of a command, of its largest process; with ``kill_at`` it is killed when so many areas are there."""
    began, peak = time.monotonic(), 0
    process = subprocess.Popen(arguments, start_new_session=True)
    killed = False
    while process.poll() is None:
        time.sleep(0.5)
        peak = max([peak, *(peak_bytes_of(one) for one in _family(process.pid))])
        if kill_at is not None and len(list(kill_at.glob("*.npz"))) >= areas:
            os.killpg(process.pid, signal.SIGKILL)
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


def main(settings: Settings) -> dict[str, Any]:
    out = settings.out
    out.mkdir(parents=True, exist_ok=True)
    slide = Slide(settings.side, settings.objects, settings.seed)
    path = out / "slide.tif"
    if not path.exists():
        slide.write(path)
    data = out / "crops"
    if not (data / "manifest.json").exists():
        training_crops(settings, data)
    length = ("--minutes", settings.minutes, "--device", "cpu", "--flips", "all", "--validation-images", 16)
    runs = {"semantic": out / "semantic", "instances": out / "instances"}
    if not (runs["semantic"] / "report.html").exists():
        more = ("--no-sam", "--size", settings.crop, "--overwrite")
        subprocess.run(command("train", "samix", data, "--out", runs["semantic"], *more, *length), check=True)
    if not (runs["instances"] / "report.html").exists():
        more = ("--stage", "teacher", "--overwrite")
        subprocess.run(command("train", "s4m", data, "--out", runs["instances"], *more, *length), check=True)
    figures: dict[str, Any] = {"machine": machine(), "side": settings.side, "objects": settings.objects}
    crop = ("--crop", settings.crop, "--device", "cpu")

    def step(name: str, make: Any) -> Any:
        kept = out / f"{name}.json"
        if not kept.exists():
            write_atomic(kept, json.dumps(make()))
        figures[name] = json.loads(kept.read_text())
        print(name, figures[name], flush=True)
        return figures[name]

    one, two, objects = out / "one", out / "two", out / "objects"
    predict = ("predict", runs["semantic"], path, "--write", "tiff", "geojson", *crop, "--overwrite", "--out")
    step("one_process", lambda: measured(command(*predict, one)))
    whole = out / "whole.npy"
    step("at_once", lambda: {"bytes": in_own_process(at_once, runs["semantic"], path, settings.crop, whole)})
    step("agreement", lambda: compare(slide, one / "masks/slide.tif", np.load(whole, mmap_mode="r")))
    again = command(*predict, two, processes=2)
    step("killed", lambda: measured(again, two / "large/slide.areas", areas=3))
    step("two_processes", lambda: measured(again))
    same = lambda: {"same": bool(np.array_equal(*(tifffile.imread(f / "masks/slide.tif") for f in (one, two))))}  # noqa: E731
    step("same", same)
    more = ("--write", "tiff", "gpkg", "--overwrite", "--device", "cpu", "--out", objects)
    step("objects_process", lambda: measured(command("predict", runs["instances"], path, *more)))
    step("count", lambda: counted(slide, objects / "masks/slide.tif"))
    return figures


if __name__ == "__main__":
    chosen = tyro.cli(Settings, description=__doc__)
    result = main(chosen)
    if chosen.json:
        write_atomic(chosen.json, json.dumps(result, indent=1))
