"""The whole idea in a few minutes, on two CPU cores, without a download: what are cheap labels worth?

The task is to find four-limbed figures among other shapes. Of 240 training images only 12 have masks; the others have
boxes, scribbles, clicks or tags, or nothing. Three models are trained alike (same network, steps and seed): on the 12
masks alone, on all the labels, and, as the bound, on masks of all 240 images. The measure is the gap closed,
(mixed - masks only) / (full - masks only) in Dice on test images that none of them has seen.

The scenes are drawn by the program that also drew most of what the bundled SAM learned from, so it knows their outlines
well; how much is gained on photographs is measured elsewhere, on real data.

::

    OUT/
      data/                           the dataset: manifest.json (mixed labels), full.json (all masks)
      masks-only/  mixed/  full/      one run directory each, with report.html
      comparison.png                  test images, their truth and what the three models see
      summary.json                    the numbers
      demo.json                       what is done so far
"""

from __future__ import annotations

import json
import math
import shlex
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Table

from maskwright import api
from maskwright.data import manifest
from maskwright.data.dataset import Dataset
from maskwright.data.fields import read_json
from maskwright.data.files import write_atomic
from maskwright.data.images import read_image
from maskwright.data.labels import Kind
from maskwright.data.mask_files import read_mask
from maskwright.data.pictures import overlay, palette, side_by_side
from maskwright.data.scene_dataset import FULL, write_scenes
from maskwright.errors import RunError
from maskwright.recipes import samix

VERSION = 4
"""Goes up when the same settings give other numbers; a demo of another version is not gone on with."""

STEPS_PER_MINUTE = 80
"""Steps of each segmenter per minute asked for, so that all of it ends in about that time on two CPU cores. A fixed
number and no stop-watch: how fast a machine is then does not decide the numbers."""

IMAGES = {"train": 240, "val": 12, "test": 60}
SIZE = 192
BATCH = 2
CATEGORIES = ("figure",)
DIFFICULTY = 0.05
SHARES = {Kind.MASK: 0.05, Kind.BOX: 0.4, Kind.SCRIBBLE: 0.2, Kind.POINT: 0.15, Kind.TAG: 0.1, Kind.NONE: 0.1}

MIN_STEPS = 20
MAX_WARM_UP = 80
MIN_GAP = 0.01
"""In Dice: with less between the two ends, a share of it says nothing."""

SHOWN = 8
"""Test images in the comparison."""

GAP = 4
"""Pixels between them."""

_IN_WORDS = {
    Kind.MASK: "with masks",
    Kind.BOX: "with boxes",
    Kind.SCRIBBLE: "with scribbles",
    Kind.POINT: "with clicks",
    Kind.TAG: "with tags",
    Kind.NONE: "without labels",
}


@dataclass(frozen=True)
class Training:
    """One of the three models.

    Attributes:
        key: its name in ``summary.json``.
        folder: its run directory in OUT.
        title: its name for people.
        manifest: the file in OUT/data that it learns from.
        labels: the recipe's setting of that name.
    """

    key: str
    folder: str
    title: str
    manifest: str
    labels: Literal["all", "masks-only"]


TRAININGS = (
    Training("masks_only", "masks-only", "masks only", manifest.NAME, "masks-only"),
    Training("mixed", "mixed", "mixed labels", manifest.NAME, "all"),
    Training("full", "full", "all masks", FULL, "all"),
)


def main(
    out: Path = Path("maskwright-demo"), minutes: float = 5.0, seed: int = 0, resume: bool = True
) -> dict[str, Any]:
    """Make the data, train the three models, compare them, and say what to do next.

    Args:
        out: folder for everything: new, empty, or that of a demo to go on with.
        minutes: about how long all of it takes on two CPU cores; decides the number of steps and nothing else.
        seed: of the scenes and of the trainings, 0 or more.
        resume: go on with what is in ``out``; trainings that are finished are not repeated. False refuses to.

    Returns:
        What is in ``summary.json``: ``masks_only``, ``mixed`` and ``full`` with ``dice`` and ``iou`` in 0..1;
        ``gap_closed``, a share that may be negative or above 1, or None where all masks are no better than few; and
        ``minutes``, the time that all of it took.

    Raises:
        RunError: ``out`` holds something else, or a demo with other settings; or ``minutes`` or ``seed`` is no good.
        MaskwrightError: something cannot be written or trained.
    """
    out = Path(out)
    if not (math.isfinite(minutes) and minutes > 0) or seed < 0:
        raise RunError(f"--minutes {minutes} --seed {seed}: minutes must be above 0, and the seed 0 or more")
    say = Console(highlight=False, markup=False, soft_wrap=True).print
    progress = Progress.open(out, {"version": VERSION, "minutes": float(minutes), "seed": seed}, resume)
    if not progress.complete:
        say(f"Everything goes into {out}. You may stop at any time and give the same command again to go on.\n")
        try:
            _make(progress, say)
        finally:
            progress.save()
    summary = read_json(out / "summary.json")
    _print_results(out, summary)
    return summary


def _make(progress: Progress, say: Callable[[str], None]) -> None:
    """All the work that is not done yet."""
    out, seed = progress.out, progress.settings["seed"]
    steps = max(MIN_STEPS, round(progress.settings["minutes"] * STEPS_PER_MINUTE))
    say("The task: find the four-limbed figures among other shapes.")
    if not (out / "data").exists():
        say(f"Drawing {sum(IMAGES.values())} pictures ...")
    write_scenes(
        out / "data", **IMAGES, size=SIZE, seed=seed, categories=CATEGORIES, difficulty=DIFFICULTY, shares=SHARES
    )
    for number, training in enumerate(TRAININGS, start=1):
        if progress.has(training):
            say(f"{number} of {len(TRAININGS)}, {training.title}: trained already.")
            continue
        say(f"{number} of {len(TRAININGS)}, {training.title}: {steps} steps on {_described(out, training)} ...")
        progress.finish(training, _train(out, training, steps, seed))
    say(f"Drawing the comparison of {SHOWN} test images ...")
    write_atomic(out / "comparison.png", _png(_comparison(out)))
    progress.save()
    write_atomic(out / "summary.json", json.dumps(_summary(progress), indent=2, allow_nan=False) + "\n")


class Progress:
    """``OUT/demo.json``: the settings, the scores of the trainings that are finished, and the minutes spent so far."""

    def __init__(self, out: Path, settings: dict[str, Any], finished: dict[str, Any], minutes: float) -> None:
        self.out = out
        self.settings = settings
        self.finished = finished
        self.minutes = minutes
        self._since = time.monotonic()

    @classmethod
    def open(cls, out: Path, settings: dict[str, Any], resume: bool) -> Progress:
        """Start or go on. Raises RunError for a folder that is no demo's, or one with other settings."""
        path = out / "demo.json"
        if not path.is_file():
            if out.exists() and not (out.is_dir() and not any(out.iterdir())):
                raise RunError(f"{out} holds something that is no demo, and is left alone: name another folder")
            progress = cls(out, settings, {}, 0.0)
            progress.save()
            return progress
        if not resume:
            raise RunError(f"{out} holds a demo already: resume it, or name another folder")
        stored = read_json(path)
        if not isinstance(stored, dict) or not {"settings", "finished", "minutes"} <= stored.keys():
            raise RunError(f"{path} is damaged: name another folder, or delete {out} to start anew")
        there = stored["settings"]
        differing = [f"{k} {there.get(k)} there, {v} now" for k, v in settings.items() if there.get(k) != v]
        if differing:
            remedy = "give the settings of then, or name another folder"
            raise RunError(f"{out} holds a demo with other settings ({'; '.join(differing)}): {remedy}")
        return cls(out, settings, stored["finished"], stored["minutes"])

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do."""
        results = (self.out / "comparison.png", self.out / "summary.json")
        return all(map(self.has, TRAININGS)) and all(path.is_file() for path in results)

    def has(self, training: Training) -> bool:
        """Whether a training is finished and its model still there."""
        return training.key in self.finished and (self.out / training.folder / "model").is_dir()

    def finish(self, training: Training, scores: dict[str, float]) -> None:
        self.finished[training.key] = scores
        self.save()

    def save(self) -> None:
        """Write the file by rename, with the time since the last one added."""
        now = time.monotonic()
        self.minutes, self._since = self.minutes + (now - self._since) / 60, now
        state = {"settings": self.settings, "finished": self.finished, "minutes": self.minutes}
        write_atomic(self.out / "demo.json", json.dumps(state, indent=2, allow_nan=False) + "\n")


def _described(out: Path, training: Training) -> str:
    """What a training learns from, such as ``12 images with masks, 60 with boxes``."""
    kinds = Counter(s.labels.kind for s in Dataset.load(out / "data" / training.manifest).split("train"))
    if training.labels == "masks-only":
        kinds = Counter({Kind.MASK: kinds[Kind.MASK]})
    first, *others = sorted(kinds, reverse=True)
    return ", ".join([f"{kinds[first]} images {_IN_WORDS[first]}", *(f"{kinds[k]} {_IN_WORDS[k]}" for k in others)])


def _train(out: Path, training: Training, steps: int, seed: int) -> dict[str, float]:
    """Train one model and score it on the test images, whose masks all manifests share."""
    data = out / "data" / training.manifest
    # Only where there are weak labels does SAM warm up, beside the steps of the segmenter, which are as many for all.
    warm_up = min(MAX_WARM_UP, steps // 4) if training.key == "mixed" else 0
    run = samix.main(
        samix.Config(
            data=data,
            out=out / training.folder,
            labels=training.labels,
            steps=steps + warm_up,
            warm_up=warm_up,
            size=SIZE,
            batch=BATCH,
            seed=seed,
            resume=True,
        )
    )
    scores = api.evaluate(run, Dataset.load(data), split="test")
    return {"dice": float(scores["dice"]), "iou": float(scores["iou"])}


def _summary(progress: Progress) -> dict[str, Any]:
    few, mixed, full = (progress.finished[training.key]["dice"] for training in TRAININGS)
    gap = (mixed - few) / (full - few) if full - few >= MIN_GAP else None
    return {**progress.finished, "gap_closed": gap, "minutes": progress.minutes}


def _comparison(out: Path) -> NDArray[np.uint8]:
    """Rows of test images; columns: image, truth, and what each model sees."""
    dataset = Dataset.load(out / "data" / FULL)
    truths = {s.id: read_mask(dataset.root / s.labels.mask.path) for s in dataset.split("test") if s.labels.mask}
    shown = [s for s in dataset.split("test") if s.id in truths and truths[s.id].any()]
    # Evenly spread and not picked by hand, nor by how well a model does.
    shown = shown[:: max(1, len(shown) // SHOWN)][:SHOWN]
    paths = [dataset.image_path(sample) for sample in shown]
    columns = [[truths[sample.id] for sample in shown]]
    for training in TRAININGS:
        columns.append([prediction.mask for prediction in api.load(out / training.folder).predict(paths)])
    colours = palette(len(dataset.categories))
    images = [read_image(path) for path in paths]
    rows = [
        side_by_side([image, *(overlay(image, mask, colours) for mask in masks)], gap=GAP)
        for image, *masks in zip(images, *columns, strict=True)
    ]
    space = np.full((GAP, rows[0].shape[1], 3), 255, np.uint8)
    header = _header(("image", "truth", *(training.title for training in TRAININGS)))
    return np.concatenate([header, *(part for row in rows for part in (row, space))])


def _header(titles: Sequence[str]) -> NDArray[np.uint8]:
    """A line of titles above columns of ``SIZE`` pixels."""
    band = Image.new("RGB", (len(titles) * (SIZE + GAP) - GAP, 20), "white")
    draw = ImageDraw.Draw(band)
    for column, title in enumerate(titles):
        draw.text((column * (SIZE + GAP) + 2, 4), title, fill="black")
    return np.asarray(band)


def _png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _print_results(out: Path, summary: dict[str, Any]) -> None:
    console = Console(highlight=False, markup=False, soft_wrap=True)
    table = Table(title=f"{IMAGES['test']} test images that no model has seen", title_justify="left")
    table.add_column("trained on")
    table.add_column("images with a mask", justify="right")
    table.add_column("Dice", justify="right")
    table.add_column("IoU", justify="right")
    few = round(SHARES[Kind.MASK] * IMAGES["train"])
    for training, masks in zip(TRAININGS, (few, few, IMAGES["train"]), strict=True):
        scores = summary[training.key]
        table.add_row(training.title, str(masks), f"{scores['dice']:.3f}", f"{scores['iou']:.3f}")
    console.print()
    console.print(table)
    console.print(_verdict(summary["gap_closed"], IMAGES["train"] - few))
    console.print(f"It took {summary['minutes']:.1f} minutes.")
    folder, run = shlex.quote(str(out)), shlex.quote(str(out / "mixed"))
    console.print(
        f"""
Look at
  {out / "comparison.png"}  what the three models see
  {out / "mixed" / "report.html"}  curves and pseudo-masks of the model on mixed labels; opens in a browser

Go on with
  maskwright predict {run} YOUR_IMAGES --out {folder}/predictions
  maskwright data check YOUR_DATA
  maskwright train samix YOUR_DATA --out runs/mine"""
    )


def _verdict(gap: float | None, masks: int) -> str:
    if gap is None:
        return "All masks are no better than a few here, so there is no gap to close: give it more minutes."
    if gap <= 0:
        return f"Gap closed: {gap:.0%}. The cheap labels did not help here: give it more minutes."
    return (
        f"Gap closed: {gap:.0%}. The cheap labels, which take seconds to draw, bring that share of what {masks} more "
        "masks bring."
    )
