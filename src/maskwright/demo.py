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
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Table

from maskwright import api
from maskwright.data import manifest
from maskwright.data.fields import read_json
from maskwright.data.images import read_image, read_mask, write_atomic
from maskwright.data.labels import Dataset, Kind
from maskwright.data.scene_dataset import FULL, write_scenes
from maskwright.engine.pictures import overlay, palette, side_by_side
from maskwright.errors import RunError
from maskwright.recipes import samix

STEPS_PER_MINUTE = 60
"""Steps of each training per minute asked for, so that all of it ends in about that time on two CPU cores. A fixed
number and no stop-watch: the same seed then gives the same numbers on every machine."""

IMAGES = {"train": 240, "val": 12, "test": 60}
SIZE = 128
BATCH = 8
CATEGORIES = ("figure",)
DIFFICULTY = 0.4
SHARES = {Kind.MASK: 0.05, Kind.BOX: 0.25, Kind.SCRIBBLE: 0.2, Kind.POINT: 0.2, Kind.TAG: 0.15, Kind.NONE: 0.15}

_MIN_GAP = 0.01  # Dice: with less between the two ends, a share of it says nothing
_SHOWN = 8  # test images in the comparison
_PLURALS = {
    Kind.MASK: "masks",
    Kind.BOX: "boxes",
    Kind.SCRIBBLE: "scribbles",
    Kind.POINT: "clicks",
    Kind.TAG: "tags",
    Kind.NONE: "no label",
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
    out: Path = Path("maskwright-demo"), minutes: float = 6.0, seed: int = 0, resume: bool = True
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
    progress = Progress.open(out, {"version": 1, "minutes": float(minutes), "seed": seed}, resume)
    steps = max(20, round(minutes * STEPS_PER_MINUTE))
    try:
        say(f"Everything goes into {out}. You may stop at any time and give the same command again to go on.\n")
        dataset = _make_data(out, seed, say)
        for number, training in enumerate(TRAININGS, start=1):
            if progress.has(training):
                say(f"{number} of 3: the model on {training.title} is there already.")
                continue
            labels = dataset.split("train") if training.manifest == manifest.NAME else "full"
            say(f"{number} of 3: training {steps} steps on {_described(labels, training)} ...")
            progress.finish(training, _train(out, training, steps, seed))
    finally:
        progress.save()
    summary = _summary(progress)
    write_atomic(out / "comparison.png", _comparison(out, dataset))
    write_atomic(out / "summary.json", json.dumps(summary, indent=2) + "\n")
    _print_results(out, summary, say)
    return summary


class Progress:
    """``OUT/demo.json``: the settings, and the scores of the trainings that are finished."""

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
            raise RunError(f"{out} already holds a demo: resume it, or name another folder")
        stored = read_json(path)
        if not isinstance(stored, dict) or not {"settings", "finished", "minutes"} <= stored.keys():
            raise RunError(f"{path} is damaged: delete {out} and start anew, or name another folder")
        then = stored["settings"]
        differing = [
            f"{key} {then.get(key)} there, {value} now" for key, value in settings.items() if then.get(key) != value
        ]
        if differing:
            remedy = "give those settings, or name another folder"
            raise RunError(f"{out} holds a demo with other settings: {'; '.join(differing)}; {remedy}")
        return cls(out, settings, stored["finished"], stored["minutes"])

    def has(self, training: Training) -> bool:
        """Whether a training is finished, and its model still there."""
        return training.key in self.finished and (self.out / training.folder / "model").is_dir()

    def finish(self, training: Training, scores: dict[str, float]) -> None:
        self.finished[training.key] = scores
        self.save()

    def save(self) -> None:
        """Write the file, by rename, with the time spent so far; a demo that is finished takes no more of it."""
        if len(self.finished) < len(TRAININGS) or not self._stored_as_finished():
            now = time.monotonic()
            self.minutes += (now - self._since) / 60
            self._since = now
            state = {"settings": self.settings, "finished": self.finished, "minutes": self.minutes}
            write_atomic(self.out / "demo.json", json.dumps(state, indent=2) + "\n")

    def _stored_as_finished(self) -> bool:
        path = self.out / "demo.json"
        return path.is_file() and read_json(path)["finished"] == self.finished


def _make_data(out: Path, seed: int, say: Any) -> Dataset:
    folder = out / "data"
    if not folder.exists():
        say(f"Drawing {sum(IMAGES.values())} pictures of shapes. The task: find the four-limbed figures in them ...")
    return write_scenes(
        folder, **IMAGES, size=SIZE, seed=seed, categories=CATEGORIES, difficulty=DIFFICULTY, shares=SHARES
    )
