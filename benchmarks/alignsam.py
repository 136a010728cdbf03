r"""What each part of AlignSAM is worth: scores without any prompt, on a test split, for every part exchanged, beside plain controls.

    python benchmarks/alignsam.py --data ../shared/data/saliency --out runs/bench-alignsam/saliency --seeds 0 1 2 --json saliency.json
    python benchmarks/alignsam.py --data ../shared/data/polyps/splits_full.json --flips all --seeds 0 1 2 --out runs/bench-alignsam/polyps
    python benchmarks/alignsam.py --data runs/scenes --scenes --text disc --flips all --seeds 0 1 2 --out runs/bench-alignsam/scenes
    python benchmarks/alignsam.py --data ../shared/data/streets --category car --text car --clip openai/clip-vit-base-patch16 --out ...
    python benchmarks/alignsam.py --data ../shared/data/saliency --shots 5 --out runs/bench-alignsam/saliency-5 --rows paper strong

Three trainings for each seed serve all rows, on the same shots: the presets `paper` and `strong`, and with a text `paper` on the implicit
branch. A row is one of these agents with a part exchanged; the rows T = 0 .. 20 are moments of one prediction. Controls from the same
shots: SAM in context (the eight shots whose embeddings are most alike, remembered with their masks), and a plain segmenter (`samix` on
masks alone, for --control-steps).

All rows are scored at the images' own resolution. Differences to the row "paper" come with their 95 % interval: a paired bootstrap over
seeds and images. Every run and every row is a folder or a JSON file in OUT; a call that was killed goes on with what is missing.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from torch import Tensor

from frame import (
    FORMER_SAMIX,
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
from maskwright.data import manifest
from maskwright.data.dataset import Dataset
from maskwright.data.files import write_atomic
from maskwright.data.labels import IGNORE
from maskwright.data.scene_dataset import write_scenes
from maskwright.engine.budget import progress
from maskwright.engine.metrics import BinaryMetrics, paired_bootstrap
from maskwright.engine.scoring import true_mask
from maskwright.methods.autoprompt.agent import OPENING, Trace, resized
from maskwright.methods.autoprompt.predictor import AutoPromptPredictor, foreground_mask
from maskwright.methods.autoprompt.scores import Foreground, foreground_bank, foreground_of
from maskwright.recipes import alignsam, samix
from maskwright.recipes.alignsam.trainer import shuffled
from maskwright.rl.bank import Bank
from maskwright.sam.click_grid import places_of
from maskwright.sam.sam import Sam

SCENES = {
    "train": 150,
    "val": 40,
    "test": 120,
    "size": 256,
    "categories": ("disc", "blob"),
    "difficulty": 0.2,
}

BATCH = 16
"""Images that are predicted at once."""

IN_CONTEXT = 8
"""References of the control "SAM in context"."""


@dataclass(kw_only=True)
class Config(TrainingOptions):
    """Rows of the table, side by side."""

    free: ClassVar[tuple[str, ...]] = (*TrainingOptions.free, "control_seeds")

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
    episodes: int = 12
    """Of the preset `paper`: times that every image is played."""
    strong_episodes: int = 12
    """Of the preset `strong`."""
    flips: Literal["horizontal", "all"] = "horizontal"
    """Of the preset `strong` and the plain segmenter."""
    control_steps: int = 300
    """Of the plain segmenter."""
    control_seeds: tuple[int, ...] = (0,)
    """Those of --seeds for which the plain segmenter and the implicit branch are trained too."""


Run = Literal["paper", "strong", "implicit", "in context", "segmenter"]


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        run: whose agent, or which control.
        rules: what differs from the agent's own.
        moment: the answer after so many clicks; None: the final one.
        output: SRM's or CLIP's map before the first click instead.
        needs_text: there is nothing to score without one.
    """

    run: Run = "paper"
    rules: dict[str, Any] = field(default_factory=dict)
    moment: int | None = None
    output: Literal["mask", "srm", "clip"] = "mask"
    needs_text: bool = False


ROWS = {
    "paper": Row(moment=15),
    "without RL: random places": Row(rules={"places": "random"}),
    "places where SRM is surest of foreground": Row(rules={"places": "srm"}),
    "places where SRM contradicts SAM": Row(rules={"places": "disagreement"}),
    "without SRM: all positive": Row(rules={"labels": "positive"}),
    "label: SRM with M = 1": Row(rules={"labels": "srm_first"}),
    "label: last mask": Row(rules={"labels": "mask"}),
    "label: CLIP's map": Row(rules={"labels": "clip"}, needs_text=True),
    "SRM's mask alone": Row(output="srm"),
    "CLIP's map alone": Row(output="clip", needs_text=True),
    "T = 0": Row(moment=0),
    "without steps: T = 1": Row(moment=1),
    "T = 5": Row(moment=5),
    "T = 10": Row(moment=10),
    "T = 20": Row(moment=20),
    "implicit branch": Row("implicit", moment=15, needs_text=True),
    "strong": Row("strong"),
    "strong: random places": Row("strong", {"places": "random"}),
    "strong: label: SRM with M = 1": Row("strong", {"labels": "srm_first"}),
    "strong: T = 0": Row("strong", moment=0),
    "strong: T = 1": Row("strong", moment=1),
    "strong: T = 5": Row("strong", moment=5),
    "strong: T = 20": Row("strong", moment=20),
    "strong: SRM's mask alone": Row("strong", output="srm"),
    "SAM in context": Row("in context"),
    "plain segmenter": Row("segmenter"),
}
"""In the order of the table."""

MOST_CLICKS = 20

SHOWN = {
    "miou": "mIoU",
    "miou_present": "shown",
    "iou_pooled": "pooled",
    "f": "F",
    "e": "E",
    "s": "S",
    "mae": "MAE",
    "ber": "BER",
    "fr": "FR",
    "label_accuracy": "labels",
    "presence": "AUROC",
}


class Bench:
    """Runs, each made when it is first needed, and the images that all are scored on, encoded once."""

    def __init__(self, config: Config) -> None:
        self.config = config
        if config.scenes:
            write_scenes(config.data, **SCENES)
        self.dataset = Dataset.load(config.data)
        self.foreground: Foreground = foreground_of(self.dataset, config.category, config.text)
        self.load = caching_loader()
        self.moments: dict[tuple[str, int], dict[str, dict[str, Any]]] = {}
        self._bank: Bank | None = None

    # ------------------------------------------------------------------------------------------------ trainings

    def run(self, kind: str, seed: int) -> Path:
        """A finished run; one that was killed goes on."""
        config, out = self.config, self.config.out / f"run-{kind}-s{seed}"
        if (out / "report.html").is_file():
            return out
        begun = time.monotonic()
        common = {"out": out, "sam": config.sam, "keep": "best", "seed": seed, "resume": out.exists()}
        if kind == "segmenter":
            shots = self._shots_alone(seed)
            samix.main(
                samix.Config(
                    data=shots,
                    labels="masks-only",
                    steps=config.control_steps,
                    flips=config.flips,
                    **FORMER_SAMIX,
                    **common,
                )
            )
        else:
            own = {"preset": "strong", "steps": config.strong_episodes, "flips": config.flips}
            paper = {"preset": "paper", "steps": config.episodes}
            alignsam.main(
                alignsam.Config(
                    data=config.data,
                    clip=config.clip,
                    text=() if kind == "implicit" else config.text,
                    category=self.foreground.names,
                    shots=config.shots,
                    **(own if kind == "strong" else paper),
                    **common,
                )
            )
        write_atomic(out / "seconds.json", json.dumps(time.monotonic() - begun) + "\n")
        return out

    def agent(self, kind: str, seed: int) -> AutoPromptPredictor:
        model = self.load(self.run(kind, seed))
        assert isinstance(model, AutoPromptPredictor)
        return model

    def shots(self, seed: int) -> Dataset:
        """The images that every training of a seed learns from."""
        drawn = shuffled(self.dataset.split("train"), seed)
        bank = foreground_bank(self.sam, drawn, self.foreground, both=True, limit=self.config.shots or None)
        return drawn.with_samples([sample for sample in drawn if sample.id in set(bank.names)])

    def _shots_alone(self, seed: int) -> Path:
        """A dataset whose training images are the shots."""
        folder = self.config.out / f"shots-s{seed}"
        if not (folder / manifest.NAME).is_file():
            shutil.rmtree(folder, ignore_errors=True)
            val = self.dataset.split("val")
            both = self.dataset.with_samples([*self.shots(seed), *val])
            manifest.write(manifest.copy_files(both, folder))
        return folder

    # ------------------------------------------------------------------------------------------------ scores

    @property
    def sam(self) -> Sam:
        return self.agent("paper", self.config.seeds[0]).network.sam

    @property
    def part(self) -> Dataset:
        """The images that are scored."""
        return self.agent("paper", self.config.seeds[0]).require_scorable(self.dataset, self.config.split)

    @property
    def bank(self) -> Bank:
        if self._bank is None:
            self._bank = foreground_bank(self.sam, self.part, self.foreground)
            self.truths = [foreground_mask(true_mask(self.part, sample), self.foreground) for sample in self.part]
        return self._bank

    def score(self, name: str, seed: int) -> dict[str, Any]:
        """One row with one seed."""
        row = ROWS[name]
        if row.run == "in context":
            return self._scored(self._in_context(seed))
        if row.run == "segmenter":
            return self._scored(self._segmented(seed))
        if row.moment is None and row.output == "mask":
            (scores,) = self._traced(row.run, seed, row.rules, {"": None}).values()
            return scores
        # The moments of one prediction, and the maps before its first click, are scored together.
        if (row.run, seed) not in self.moments:
            same = [other for other in ROWS.values() if other.run == row.run and not other.rules]
            wanted = {key_of(other): other for other in same if self.config.text or not other.needs_text}
            wanted = {key: other for key, other in wanted.items() if other.moment is not None or other.output != "mask"}
            self.moments[row.run, seed] = self._traced(row.run, seed, {"clicks": MOST_CLICKS}, wanted)
        return self.moments[row.run, seed][key_of(row)]

    def _traced(
        self, kind: str, seed: int, changed: dict[str, Any], wanted: Mapping[str, Row | None]
    ) -> dict[str, dict[str, Any]]:
        """Scores of several answers of one agent, by name; of None the final one."""
        agent, bank = self.agent(kind, seed), self.bank
        rules = replace(agent.network.rules, **changed)
        generator = torch.Generator().manual_seed(seed)
        metrics = {key: BinaryMetrics() for key in wanted}
        right: dict[str, list[float]] = {key: [] for key in wanted}
        begun = time.monotonic()
        with progress(len(bank) * len(wanted), f"{kind}, seed {seed}") as advance:
            for rows in torch.arange(len(bank)).split(BATCH):
                part = bank.select(rows)
                trace = agent.network.segment(part, rules, generator)
                for key, row in wanted.items():
                    maps, clicks = answer_of(trace, row)
                    for place, number in enumerate(rows.tolist()):
                        truth = self.truths[number]
                        points = trace.last.points[place].numpy() / bank.size * np.array(truth.shape[::-1])
                        labels = trace.last.labels[place].numpy()[: OPENING + clicks]
                        at = [truth[int(y), int(x)] for x, y in points[: OPENING + clicks]]
                        right[key] += [label == value for label, value in zip(labels, at) if value != IGNORE]
                        metrics[key].update(
                            agent.probability(maps[place], truth.shape[::-1]),
                            truth,
                            bank.names[number],
                            places=[value == 1 for value in at[OPENING:] if value != IGNORE],
                            presence=float(trace.presence[place]),
                        )
                        advance()
        seconds = (time.monotonic() - begun) / len(bank)
        return {
            key: metrics[key].compute()
            | {
                "label_accuracy": float(np.mean(right[key])) if right[key] else None,
                "seconds_per_image": seconds,
                "fr_ceiling": self._most_foreground(agent, answer_of_clicks(row, rules.clicks)),
            }
            for key, row in wanted.items()
        }

    def _most_foreground(self, agent: AutoPromptPredictor, clicks: int) -> float | None:
        """The largest share of clicks that could lie on the foreground, no cell being clicked on twice."""
        grid, bank = agent.network.grid, self.bank
        places = places_of(torch.arange(grid**2), bank.size, grid)[0].floor().long()
        on = bank.known_truth.canvas[:, places[:, 1], places[:, 0]].sum(1)
        return float((on.clamp(max=clicks) / clicks).mean()) if clicks else None

    def _scored(self, probabilities: Iterator[NDArray[np.float64]]) -> dict[str, Any]:
        metrics, begun, bank = BinaryMetrics(), time.monotonic(), self.bank
        for name, truth, probability in zip(bank.names, self.truths, probabilities, strict=True):
            metrics.update(probability, truth, name)
        seconds = (time.monotonic() - begun) / len(bank)
        return metrics.compute() | {"label_accuracy": None, "fr_ceiling": None, "seconds_per_image": seconds}

    def _in_context(self, seed: int) -> Iterator[NDArray[np.float64]]:
        """SAM's answer to the shots that are most like each image."""
        bank, sam, agent = self.bank, self.sam, self.agent("paper", seed)
        shown = foreground_bank(sam, self.shots(seed), self.foreground)
        count = min(IN_CONTEXT, len(shown))
        with torch.no_grad():
            memory = sam.remember(shown.embedding, shown.known_truth.canvas[:, None].float())[:, 0]
            pooled = [torch.nn.functional.normalize(b.embedding.low.mean((2, 3)), dim=1) for b in (bank, shown)]
            nearest = (pooled[0] @ pooled[1].T).topk(count, 1).indices
            for row, truth in enumerate(self.truths):
                recalled = sam.recall(bank.embedding[row : row + 1], memory[nearest[row]][None])
                yield agent.probability(sam.decode(recalled).logits[0, 0, 0], truth.shape[::-1])

    def _segmented(self, seed: int) -> Iterator[NDArray[np.float64]]:
        """The plain segmenter's masks, 0 or 1."""
        run = self.run("segmenter", seed)
        images = (self.part.image_path(sample) for sample in self.part)
        for prediction in self.load(run).predict(images):
            yield np.isin(prediction.mask, self.foreground.ids).astype(np.float64)


def key_of(row: Row) -> str:
    return row.output if row.moment is None else str(row.moment)


def answer_of(trace: Trace, row: Row | None) -> tuple[Tensor, int]:
    """Logits (B, s, s), and after how many clicks they were given."""
    clicks = len(trace.states) - 1
    if row is None:
        return trace.answer.logits, clicks
    if row.moment is not None:
        return trace.states[row.moment].logits, row.moment
    maps = trace.recalibrated if row.output == "srm" else trace.semantic
    assert maps is not None
    return resized(maps, trace.last.logits.shape[-2:]).clamp(1e-6, 1 - 1e-6).logit(), 0


def answer_of_clicks(row: Row | None, clicks: int) -> int:
    return clicks if row is None else row.moment or 0


def summarise(rows: Rows) -> dict[str, Any]:
    """Means over the seeds; differences to the row "paper" over seeds and images."""
    figures: dict[str, Any] = {}
    grouped = by_name(rows)
    for name, by_seed in grouped.items():
        mine = list(by_seed.values())
        figures[name] = {
            key: _mean([row.get(key) for row in mine]) for key in (*SHOWN, "fr_ceiling", "seconds_per_image")
        }
        figures[name]["seeds"] = [row["miou"] for row in mine]
        against = grouped.get("paper", {})
        if name != "paper" and (shared := [seed for seed in by_seed if seed in against]):
            pairs = [np.array([_ious(table[seed]) for seed in shared]) for table in (by_seed, against)]
            both = np.isfinite(pairs[0]).all(0) & np.isfinite(pairs[1]).all(0)
            figures[name]["against_paper"] = paired_bootstrap(pairs[0][:, both], pairs[1][:, both])
    return figures


def _ious(row: dict[str, Any]) -> list[float]:
    return [np.nan if entry["iou"] is None else entry["iou"] for entry in row["per_image"]]


def _mean(values: Sequence[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return float(np.mean(numbers)) if numbers else None


def table(config: Config, figures: dict[str, Any], minutes: dict[str, float]) -> Table:
    taken = ", ".join(f"{kind} {mean:.1f}" for kind, mean in minutes.items())
    ceiling, pace = (figures.get("paper", {}).get(key) for key in ("fr_ceiling", "seconds_per_image"))
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
        "mIoU, F, E, S and MAE are means over images; shown: mIoU of those that have foreground; pooled: IoU of all pixels. FR: share of "
        "the clicks on the foreground"
        + ("" if ceiling is None else f" (at most {ceiling:.3f} can lie there)")
        + ". labels: share of clicks that are labelled right. AUROC: of images with against images without foreground."
        + (f" Minutes of a training: {taken}." if taken else "")
        + ("" if pace is None else f" A prediction with its clicks takes {pace:.2f} s."),
    )


def _shown(key: str, value: float | None) -> str:
    return "" if value is None else f"{value:.1f}" if key == "ber" else f"{value:.3f}"


def main(config: Config) -> None:
    refuse_unknown("--rows", config.rows, ROWS)
    settings = config.start()
    bench = Bench(config)
    names = [name for name in config.rows or ROWS if config.text or not ROWS[name].needs_text]
    wanted = [
        (name, seed)
        for seed in config.seeds
        for name in names
        if seed in config.control_seeds or ROWS[name].run not in ("segmenter", "implicit")
    ]
    figures = summarise(rows_of(config.out, ROWS, wanted, bench.score))
    taken: dict[str, list[float]] = {}
    for path in sorted(config.out.glob("run-*/seconds.json")):
        taken.setdefault(path.parent.name.split("-")[1], []).append(json.loads(path.read_text()) / 60)
    minutes = {kind: float(np.mean(values)) for kind, values in taken.items()}
    publish(config, table(config, figures, minutes), settings, training_minutes=minutes, rows=figures)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
