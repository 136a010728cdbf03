r"""What each part of AlignSAM is worth: scores without any prompt, on a test split, for every part left out.

    python benchmarks/alignsam.py --data ../shared/data/saliency --out runs/bench-alignsam/saliency --seeds 0 1 2 --json saliency.json
    python benchmarks/alignsam.py --data ../shared/data/polyps/splits_full.json --out runs/bench-alignsam/polyps --json polyps.json
    python benchmarks/alignsam.py --data runs/scenes --scenes --text disc --out runs/bench-alignsam/scenes --seeds 0 1 2
    python benchmarks/alignsam.py --data ../shared/data/streets --category car --text car --clip openai/clip-vit-base-patch16 --out ...
    python benchmarks/alignsam.py --data ../shared/data/saliency --shots 5 --out runs/bench-alignsam/saliency-5 --rows paper strong

One training serves all rows: the preset `strong` learns the same policy and SRM as `paper`, to the bit, and a value map and a quality
head beside them. The other rows are that agent with a part exchanged, on the same images, at the images' own resolution.
Differences to the row "paper" come with their 95 % interval, a paired bootstrap over the images, each image's IoU the mean over the
seeds. Every run and every row is a folder or a JSON file in OUT; a call that was killed goes on with what is missing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from frame import (
    Rows,
    Table,
    TrainingOptions,
    by_name,
    caching_loader,
    each_seed,
    interval,
    publish,
    refuse_unknown,
    rows_of,
)
from maskwright.data.dataset import Dataset
from maskwright.data.files import write_atomic
from maskwright.data.scene_dataset import write_scenes
from maskwright.engine.budget import progress
from maskwright.engine.metrics import paired_bootstrap
from maskwright.methods.autoprompt.agent import SelfPromptRules
from maskwright.methods.autoprompt.predictor import AutoPromptPredictor, Output
from maskwright.recipes import alignsam

SCENES = {
    "train": 150,
    "val": 40,
    "test": 120,
    "size": 256,
    "categories": ("disc", "blob"),
    "difficulty": 0.2,
}


@dataclass(kw_only=True)
class Config(TrainingOptions):
    """Rows of the table, side by side."""

    scenes: bool = False
    """Render procedural scenes with two named categories, among other shapes, into DATA where they are not there yet."""
    clip: str = "nano-clip"
    """What `ClipSurgery.load` takes."""
    text: tuple[str, ...] = ()
    """What is looked for, in words: the explicit branch."""
    category: tuple[str, ...] = ()
    """Categories that are foreground."""
    shots: int = 50
    """Training images."""
    episodes: int = 50
    """Times that every image is played."""
    clicks: int = 15
    """Clicks of the policy."""
    seeds: tuple[int, ...] = (0,)
    """Each trains its own agent, on its own shots."""


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        rules: what differs from those of the preset paper.
        output: what is scored.
        needs_text: there is nothing to score without one.
    """

    rules: dict[str, Any]
    output: Output = "mask"
    needs_text: bool = False


ROWS = {
    "paper": Row({}),
    "strong": Row({"refine": True}),
    "without RL: random places": Row({"places": "random"}),
    "without SRM: all positive": Row({"labels": "positive"}),
    "without steps: T = 1": Row({"clicks": 1}),
    "label: last mask": Row({"labels": "mask"}),
    "label: CLIP's map": Row({"labels": "clip"}, needs_text=True),
    "SRM's mask alone": Row({"clicks": 0}, "srm"),
    "CLIP's map alone": Row({"clicks": 0}, "clip", needs_text=True),
    "T = 0": Row({"clicks": 0}),
    "T = 5": Row({"clicks": 5}),
    "T = 10": Row({"clicks": 10}),
    "T = 20": Row({"clicks": 20}),
}
"""In the order of the table."""

SHOWN = {"miou": "mIoU", "f": "F", "e": "E", "s": "S", "mae": "MAE", "ber": "BER", "fr": "FR"}


class Bench:
    """Runs, each made when it is first needed."""

    def __init__(self, config: Config) -> None:
        self.config = config
        if config.scenes:
            write_scenes(config.data, **SCENES)
        self.dataset = Dataset.load(config.data)
        self.load = caching_loader()

    def run(self, seed: int) -> Path:
        """A finished run; one that was killed goes on."""
        config, out = self.config, self.config.out / f"run-s{seed}"
        if not (out / "report.html").is_file():
            begun = time.monotonic()
            alignsam.main(
                alignsam.Config(
                    data=config.data,
                    out=out,
                    preset="strong",
                    sam=config.sam,
                    clip=config.clip,
                    text=config.text,
                    category=config.category,
                    shots=config.shots,
                    steps=config.episodes,
                    keep="last",
                    clicks=config.clicks,
                    seed=seed,
                    resume=out.exists(),
                )
            )
            write_atomic(out / "seconds.json", json.dumps(time.monotonic() - begun) + "\n")
        return out

    def agent(self, seed: int) -> AutoPromptPredictor:
        model = self.load(self.run(seed))
        assert isinstance(model, AutoPromptPredictor)
        return model

    def score(self, name: str, seed: int) -> dict[str, Any]:
        """One row with one seed."""
        row, config = ROWS[name], self.config
        agent = self.agent(seed)
        rules: SelfPromptRules = replace(agent.network.rules, **{"refine": False, **row.rules})
        begun = time.monotonic()
        total = len(self.dataset.split(config.split))
        with progress(total, f"{name}, seed {seed}") as advance:
            part = agent.require_scorable(self.dataset, config.split)
            scores = agent.score(part, rules=rules, output=row.output, seed=seed, progress=lambda *_: advance())
        return scores | {"rules": asdict(rules), "seconds_per_image": (time.monotonic() - begun) / total}


def summarise(rows: Rows) -> dict[str, Any]:
    """Means over the seeds; differences to the row "paper" over the images."""
    figures: dict[str, Any] = {}
    ious: dict[str, np.ndarray] = {}
    for name, by_seed in by_name(rows).items():
        mine = list(by_seed.values())
        ious[name] = np.mean([[np.nan if e["iou"] is None else e["iou"] for e in row["per_image"]] for row in mine], 0)
        figures[name] = {key: _mean([row[key] for row in mine]) for key in SHOWN}
        figures[name] |= {
            "seeds": [row["miou"] for row in mine],
            "seconds_per_image": _mean([row["seconds_per_image"] for row in mine]),
        }
    paper = ious.pop("paper", None)
    if paper is not None:
        for name, iou in ious.items():
            both = np.isfinite(iou) & np.isfinite(paper)
            figures[name]["against_paper"] = paired_bootstrap(iou[both], paper[both])
    return figures


def _mean(values: Sequence[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return float(np.mean(numbers)) if numbers else None


def table(config: Config, figures: dict[str, Any], seconds: Sequence[float]) -> Table:
    taken = f"Training took {', '.join(f'{s / 60:.1f}' for s in seconds)} minutes. " if seconds else ""
    pace = figures.get("paper", {}).get("seconds_per_image")
    return Table(
        f"AlignSAM on {config.data_name}, {config.shots} shots, SAM {config.sam}, "
        f"{'text: ' + ', '.join(config.text) if config.text else 'no text'}",
        ["", *SHOWN.values(), "mIoU against paper", "seeds"],
        [
            [
                name,
                *(_shown(key, row[key]) for key in SHOWN),
                interval(row.get("against_paper")),
                each_seed(row["seeds"]),
            ]
            for name, row in figures.items()
        ],
        f"mIoU and all but BER are means over images. FR: share of the policy's clicks on the foreground. {taken}"
        + ("" if pace is None else f"A prediction takes {pace:.2f} s."),
    )


def _shown(key: str, value: float | None) -> str:
    return "" if value is None else f"{value:.1f}" if key == "ber" else f"{value:.3f}"


def main(config: Config) -> None:
    refuse_unknown("--rows", config.rows, ROWS)
    settings = config.start()
    bench = Bench(config)
    names = [name for name in config.rows or ROWS if config.text or not ROWS[name].needs_text]
    wanted = [(name, seed) for seed in config.seeds for name in names]
    figures = summarise(rows_of(config.out, ROWS, wanted, bench.score))
    seconds = [json.loads(path.read_text()) for path in sorted(config.out.glob("run-*/seconds.json"))]
    publish(config, table(config, figures, seconds), settings, training_seconds=seconds, rows=figures)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
