"""How much of the way from few masks to all masks do weak labels go? SAMIX and its baselines on one dataset.

    python benchmarks/samix_polyps.py --data ../shared/data/polyps --out runs/polyps --json polyps.json

Rows: masks only; weak losses without SAM; boxes as ellipses; mixed (SAM's pseudo-masks); full supervision. All are trained alike: same
steps, seed and augmentation. Also the Dice of the pseudo-masks per kind of label, against masks that training never saw. Killed, it goes on
where it stopped.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

from maskwright import api
from maskwright.data.images import read_mask
from maskwright.data.labels import Dataset, Kind
from maskwright.engine.metrics import SegmentationMetrics
from maskwright.engine.shapes import ellipse_radius, filled_boxes
from maskwright.recipes import samix


@dataclass
class Config:
    data: Path
    """Folder with splits.json (mixed labels) and splits_full.json (all masks)."""
    out: Path
    """Folder for the five runs."""
    steps: int = 1400
    batch: int = 8
    size: int = 256
    sam: str = "nano"
    seed: int = 0
    rows: list[str] = field(default_factory=lambda: ["masks_only", "weak_losses", "ellipses", "mixed", "full"])
    split: str = "test"
    json: Path | None = None


VARIANTS = {
    "masks_only": {"labels": "masks-only"},
    "weak_losses": {"pseudo": "none"},
    "ellipses": {"pseudo": "ellipse"},
    "mixed": {},
    "full": {},
}


def pseudo_dice(run: Path, full: Dataset) -> dict[str, dict[str, float]]:
    """Mean Dice of ``RUN/pseudo`` per kind of label, against the full masks."""
    index = json.loads((run / "pseudo" / "index.json").read_text())["samples"]
    found: dict[str, SegmentationMetrics] = {}
    for sample in full.split("train"):
        path = full.mask_path(sample)
        if sample.id in index and path is not None:
            scores = found.setdefault(index[sample.id]["kind"], SegmentationMetrics(full.categories))
            scores.update(read_mask(run / "pseudo" / f"{sample.id}.png"), read_mask(path), sample.id)
    computed = {kind: scores.compute() for kind, scores in found.items()}
    return {kind: {"dice": scores["dice"], "images": scores["images"]} for kind, scores in computed.items()}


def trivial_dice(mixed: Dataset, full: Dataset) -> dict[str, float]:
    """Ellipse and filled box for the images with boxes, of a dataset with one category."""
    truth = {s.id: full.mask_path(s) for s in full}
    found = {name: SegmentationMetrics(full.categories) for name in ("ellipse", "filled box")}
    for sample in mixed.split("train"):
        path = truth.get(sample.id)
        if sample.labels.kind != Kind.BOX or path is None:
            continue
        mask = read_mask(path)
        boxes = torch.tensor([box.xyxy for box in sample.labels.boxes])
        answers = ellipse_radius(boxes, *mask.shape) <= 1, filled_boxes(boxes, *mask.shape)
        for scores, answer in zip(found.values(), answers):
            scores.update(answer.any(0).numpy().astype(np.uint8), mask, sample.id)
    return {name: scores.compute()["dice"] for name, scores in found.items()}


def main(config: Config) -> None:
    figures: dict[str, dict] = {}
    mixed, full = Dataset.load(config.data), Dataset.load(config.data / "splits_full.json")
    for row in config.rows:
        data = config.data / ("splits_full.json" if row == "full" else "splits.json")
        out = config.out / row
        done = out / "benchmark.json"
        if not done.is_file():
            started = time.monotonic()
            samix.main(
                samix.Config(
                    data=data,
                    out=out,
                    steps=config.steps,
                    batch=config.batch,
                    size=config.size,
                    sam=config.sam,
                    seed=config.seed,
                    resume=True,
                    **VARIANTS[row],
                )
            )
            minutes = (time.monotonic() - started) / 60
            scores = api.evaluate(out, full, split=config.split)
            done.write_text(json.dumps({"dice": scores["dice"], "iou": scores["iou"], "minutes": minutes}))
        figures[row] = json.loads(done.read_text())
    table = Table(
        title=f"{config.data.name}, {config.split} split, {config.steps} steps of {config.batch}, {config.size} px, seed {config.seed}"
    )
    for column in ("labels", "Dice", "IoU", "minutes"):
        table.add_column(column, justify="left" if column == "labels" else "right")
    for row, f in figures.items():
        table.add_row(row, f"{f['dice']:.3f}", f"{f['iou']:.3f}", f"{f['minutes']:.1f}")
    console = Console()
    console.print(table)
    if {"masks_only", "mixed", "full"} <= figures.keys():
        low, high = figures["masks_only"]["dice"], figures["full"]["dice"]
        figures["gap_closed"] = {
            r: (figures[r]["dice"] - low) / (high - low) for r in figures if r not in ("masks_only", "full")
        }
        console.print("gap closed: " + ", ".join(f"{k} {v:.2f}" for k, v in figures["gap_closed"].items()))
    if "mixed" in figures:
        figures["pseudo"] = pseudo_dice(config.out / "mixed", full)
        figures["trivial"] = trivial_dice(mixed, full)
        console.print("pseudo-masks (Dice): " + ", ".join(f"{k} {v['dice']:.3f}" for k, v in figures["pseudo"].items()))
        console.print(
            "trivial answers to the boxes (Dice): " + ", ".join(f"{k} {v:.3f}" for k, v in figures["trivial"].items())
        )
    if config.json:
        config.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
