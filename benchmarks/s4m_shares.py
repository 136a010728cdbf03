"""What unlabelled images are worth to an instance segmenter: teacher and student of S⁴M, with queries, at several labelled shares.

    python benchmarks/s4m_shares.py --data DATA --out runs/s4m --json s4m.json

DATA holds `nuclei` and `cats`; scenes with several categories are drawn into OUT. All rows are trained alike: same steps
of each stage, batch and augmentation. At 10 % of the nuclei also: a teacher without distillation; students of the full
row's teacher without refinement, with SAM shown the teacher's whole mask, and without pasting; and full supervision. Killed,
it goes on where it stopped; rows that are there are not made again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import tyro
from PIL import Image

from frame import ResumableOptions, Table, kept, publish, refuse_unknown
from maskwright import api
from maskwright.data.dataset import Dataset
from maskwright.data.labels import Labels, Mask, Sample
from maskwright.data.mask_files import write_mask
from maskwright.data.scenes import CATEGORY_NAMES, render
from maskwright.recipes import s4m

SCENE_CATEGORIES = {
    "round": ("disc", "blob", "flower", "ring", "crescent"),
    "angular": ("polygon", "star", "cross"),
    "long": ("bar", "tube", "leaf", "figure"),
}
"""Every shape of the scenes belongs to one: a tenth of the labels then shows each often enough to be learnt."""

# A young teacher says the same thing several times over, so duplicates are merged in all rows.
SETTINGS: dict[str, dict[str, Any]] = {
    # Nuclei are about 13 pixels wide: seen at their own scale they would be three cells of the mask grid.
    "nuclei": {
        "decoder": "queries",
        "size": 128,
        "crop": 64,
        "sam_size": 128,
        "points": 64,
        "flips": "all",
        "queries": 40,
        "merge": 0.5,
    },
    # nano draws cats badly: its outline is taken only where the teacher agrees.
    "cats": {"decoder": "queries", "size": 192, "points": 32, "queries": 30, "accept": 0.5, "merge": 0.5},
    "scenes": {"decoder": "queries", "size": 128, "points": 32, "queries": 30, "accept": 0.5, "merge": 0.5},
}


@dataclass(frozen=True)
class Row:
    """One training; ``of`` is the row whose teacher a student takes."""

    data: str
    labelled: str | None
    seed: int = 0
    changed: dict[str, Any] = field(default_factory=dict)
    of: str | None = None


ROWS = {
    "nuclei 5%": Row("nuclei", "5%"),
    "nuclei 5%, seed 1": Row("nuclei", "5%", seed=1),
    "nuclei 10%": Row("nuclei", "10%"),
    "nuclei 20%": Row("nuclei", "20%"),
    "nuclei 30%": Row("nuclei", "30%"),
    "nuclei 10%, no distillation": Row("nuclei", "10%", changed={"stage": "teacher", "distillation": 0.0}),
    "nuclei 10%, no refinement": Row("nuclei", "10%", changed={"refinement": False}, of="nuclei 10%"),
    "nuclei 10%, whole mask shown": Row("nuclei", "10%", changed={"show": "all"}, of="nuclei 10%"),
    "nuclei 10%, no pasting": Row("nuclei", "10%", changed={"arp": "none"}, of="nuclei 10%"),
    "nuclei, all labels": Row("nuclei", None, changed={"stage": "teacher", "distillation": 0.0}),
    "cats 10%": Row("cats", "10%"),
    "cats 10%, smaller and longer": Row("cats", "10%", changed={"size": 128, "steps": 1400}),
    "scenes 10%": Row("scenes", "10%"),
}


@dataclass(kw_only=True)
class Config(ResumableOptions):
    """Teacher and student at several labelled shares."""

    data: Path
    """Folder that holds `nuclei` and `cats`."""
    steps: int = 700
    """Of each stage."""
    batch: int = 4
    burn_in: float = 0.75
    """Share of stage 2 with the teacher of stage 1: in so few steps the student needs most of them to overtake it."""
    split: str = "test"
    only: list[str] = field(default_factory=list)
    """Rows to make now; the others are shown if they are there. Left out, all."""

    free: ClassVar[tuple[str, ...]] = (*ResumableOptions.free, "data", "only")


def write_instance_scenes(folder: Path, train: int = 800, val: int = 48, test: int = 100, size: int = 128) -> Path:
    """Procedural scenes with instance masks of three categories, as a manifest."""
    if (folder / "manifest.json").is_file():
        return folder
    names = ("background", *SCENE_CATEGORIES)
    table = torch.zeros(len(CATEGORY_NAMES), dtype=torch.long)
    for category, shapes in enumerate(SCENE_CATEGORIES.values(), start=1):
        table[[CATEGORY_NAMES.index(name) for name in shapes]] = category
    samples: list[Sample] = []
    splits = ["train"] * train + ["val"] * val + ["test"] * test
    for start in range(0, len(splits), 16):
        scenes = render(16, size, seed=start, max_objects=8, difficulty=0.3)
        own = table[scenes.categories]
        for row, split in enumerate(splits[start : start + 16]):
            ids = scenes.instances[row].numpy()
            chosen = {k: int(own[row, k - 1]) for k in np.unique(ids).tolist() if k and own[row, k - 1]}
            name = f"{split}-{start + row:04d}"
            (folder / "images").mkdir(parents=True, exist_ok=True)
            pixels = (scenes.images[row].permute(1, 2, 0) * 255).round().byte().numpy()
            Image.fromarray(pixels).save(folder / "images" / f"{name}.png")
            write_mask(folder / "masks" / f"{name}.png", np.where(np.isin(ids, list(chosen)), ids, 0).astype(np.uint16))
            labels = Labels(Mask(f"masks/{name}.png", "instance", chosen))
            samples.append(Sample(name, f"images/{name}.png", split, labels, (size, size)))
    Dataset(folder, names, tuple(samples)).save()
    return folder


def folder_of(config: Config, row: str) -> Path:
    return config.out / row.replace(" ", "_").replace(",", "").replace("%", "")


def make(config: Config, name: str) -> dict[str, Any]:
    """Train and score one row."""
    row, out = ROWS[name], folder_of(config, name)
    data = write_instance_scenes(config.out / "scenes") if row.data == "scenes" else config.data / row.data
    changed = {"steps": config.steps, **row.changed}
    per_stage = changed["steps"]
    if row.of is not None:
        row_of(config, row.of)
        teacher = folder_of(config, row.of)
        changed |= {"stage": "student", "teacher": teacher}
    if changed.get("stage", "both") == "both":
        changed["steps"] *= 2
    started = time.process_time()
    s4m.main(
        s4m.Config(
            data=data,
            out=out,
            labelled=row.labelled,
            batch=config.batch,
            burn_in=config.burn_in,
            sam=config.sam,
            seed=row.seed,
            validations=1,
            keep="last",
            resume=True,
            **SETTINGS[row.data] | changed,
        )
    )
    figures: dict[str, Any] = {"minutes": (time.process_time() - started) / 60, "steps": per_stage}
    dataset = Dataset.load(data)
    networks = {"teacher": out / "teacher", "student": out / "model"}
    if changed.get("stage") == "teacher":
        networks = {"teacher": out / "model"}
    for network, folder in networks.items():
        if folder.is_dir():
            scores = api.evaluate(api.load(folder, device="cpu"), dataset, config.split)
            figures[network] = {key: scores[key] for key in ("ap", "ap50", "ap75", "box_ap")}
    return figures


def row_of(config: Config, name: str) -> dict[str, Any]:
    """A row that is there, or else is made."""
    return kept(path_of(config, name), lambda: make(config, name))


def path_of(config: Config, name: str) -> Path:
    return folder_of(config, name) / "benchmark.json"


def main(config: Config) -> None:
    refuse_unknown("--only", config.only, ROWS)
    settings = config.start()
    shown = [name for name in ROWS if not config.only or name in config.only or path_of(config, name).is_file()]
    figures = {name: row_of(config, name) for name in shown}
    publish(config, table(config, figures), settings, rows=figures)


def table(config: Config, figures: dict[str, Any]) -> Table:
    return Table(
        f"AP on {config.split}, {config.steps} steps of each stage, batch {config.batch}",
        ["row", "teacher AP", "AP50", "student AP", "AP50", "AP75", "box AP", "gain", "CPU minutes"],
        [_cells(name, figures) for name in figures],
        "Gain: of the student over its teacher.",
    )


def _cells(name: str, figures: dict[str, Any]) -> list[str]:
    row, of = figures[name], ROWS[name].of
    teacher = row.get("teacher") or (figures[of]["teacher"] if of in figures else None)
    student = row.get("student")
    gain = f"{student['ap'] / teacher['ap'] - 1:+.0%}" if teacher and student and teacher["ap"] else "–"
    shown = [_shown(teacher, "ap"), _shown(teacher, "ap50")]
    shown += [_shown(student, key) for key in ("ap", "ap50", "ap75", "box_ap")]
    return [name, *shown, gain, f"{row['minutes']:.1f}"]


def _shown(scores: dict[str, float] | None, key: str) -> str:
    return f"{scores[key]:.3f}" if scores else "–"


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
