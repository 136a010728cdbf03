r"""Does a click agent make masks better? Dice after each click for every way to place and to keep clicks, on a test split.

    python benchmarks/clicks.py --data ../shared/data/polyps/splits_full.json --out runs/bench-clicks/polyps --json polyps.json
    python benchmarks/clicks.py --data ../shared/data/saliency --out runs/bench-clicks/saliency --json saliency.json
    python benchmarks/clicks.py --data runs/scenes --scenes --out runs/bench-clicks/scenes --json scenes.json

The first click is the oracle's, in the middle of the object; nothing after it sees the truth, but for the oracle's rows.
Trained are, each for `--minutes` on the same images: the recipe with all its stages (`full`) and a plain segmenter (`samix` on masks
alone), once for each seed; imitation of the oracle's clicks, and Stable-Baselines3's PPO on pixels with the published settings.
"Value map" is the full run before its reinforcement; it shares the quality head. Two rows say what the masks alone are worth,
without a further click: the agent's belief, and the segmenter, whose answer is all that it takes for the category at the first
click. Captured = (agent - first click) / (oracle - first click) after the last click.
Intervals are paired bootstraps over seeds and images; targets of one image are resampled together.

`--refine MASKS` also refines masks (a folder that `maskwright predict` wrote for the same split): Dice before and after.

Every run and every row is a folder or a JSON file in OUT; a call that was killed goes on with what is missing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import tyro
from numpy.typing import NDArray

from frame import (
    Rows,
    Table,
    TrainingOptions,
    by_name,
    caching_loader,
    each_seed,
    interval,
    kept,
    publish,
    refuse_unknown,
    rows_of,
)
from maskwright.api import evaluate, load
from maskwright.data.dataset import Dataset
from maskwright.data.scene_dataset import write_scenes
from maskwright.engine.budget import progress
from maskwright.engine.checkpoints import read_checkpoint
from maskwright.engine.metrics import paired_bootstrap
from maskwright.engine.predictor import Predictor
from maskwright.engine.weights import load_state
from maskwright.methods.clicks.agent import ClickAgent, ClickRules
from maskwright.methods.clicks.predictor import ClickPredictor
from maskwright.methods.clicks.scores import LOST, belief_dice, curve
from maskwright.nets.prompter import Prompter
from maskwright.recipes import clicks, samix
from maskwright.rl.bank import Bank
from maskwright.rl.clicks import canvas_dice, first_click

SCENES = {"train": 400, "val": 60, "test": 100, "size": 256, "categories": ("disc", "star", "ring", "leaf")}


@dataclass(kw_only=True)
class Config(TrainingOptions):
    """Ways to place and to keep clicks, side by side."""

    scenes: bool = False
    """Render procedural scenes with four categories into DATA where they are not there yet."""
    minutes: float = 12.0
    """Time of each training."""
    steps: int | None = None
    """Train so many steps instead."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the full agent and the plain segmenter; the others are trained with the first."""
    clicks: int = 4
    """Corrective clicks after the first."""
    refine: Path | None = None
    """Masks of the split to refine."""

    free: ClassVar[tuple[str, ...]] = (*TrainingOptions.free, "refine")


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        run: whose agent acts.
        rules: of it, by the agent's own rules.
        stage: ``settled``: as the run left it; ``values`` and ``reinforced``: its policy before and after reinforcement.
        answer: what is scored. ``sam``: SAM's answers; ``belief``: the agent's belief, what it has learnt about objects from the masks;
            ``segmenter``: the mask of a plain segmenter. The last two take no further click.
    """

    run: str
    rules: Callable[[ClickRules], ClickRules]
    stage: str = "settled"
    answer: Literal["sam", "belief", "segmenter"] = "sam"


def _kept(**changed: Any) -> Callable[[ClickRules], ClickRules]:
    return lambda own: replace(own, **{"looks": 1, "stop": False, "accept": "always", **changed})


ROWS = {
    "no further click": Row("full", _kept(clicks=0)),
    "belief alone, no further click": Row("full", _kept(clicks=0), answer="belief"),
    "plain segmenter, no further click": Row("full", _kept(clicks=0), answer="segmenter"),
    "PPO on pixels": Row("sb3", lambda own: own),
    "random": Row("full", _kept(places="random")),
    "random + accept": Row("full", _kept(places="random", accept="quality")),
    "random + look-ahead, SAM's IoU accepts": Row("full", _kept(places="random", accept="iou", looks=24)),
    "random + look-ahead + accept": Row("full", _kept(places="random", accept="quality", looks=24)),
    "entropy + accept": Row("full", _kept(places="entropy", accept="quality")),
    "imitation": Row("imitation", _kept(), "values"),
    "value map": Row("full", _kept(), "values"),
    "value map, SAM's IoU accepts": Row("full", _kept(accept="iou"), "values"),
    "+ accept": Row("full", _kept(accept="quality"), "values"),
    "+ look-ahead": Row("full", _kept(accept="quality", looks=24), "values"),
    "+ stop": Row("full", _kept(accept="quality", looks=24, stop=True), "values"),
    "+ RL": Row("full", _kept(accept="quality", looks=24, stop=True), "reinforced"),
    "value map + RL, every click kept": Row("full", _kept(stop=True), "reinforced"),
    "the agent (settled)": Row("full", lambda own: own),
    "oracle": Row("full", _kept(places="oracle")),
    "oracle + undo": Row("full", _kept(places="oracle", accept="truth")),
    "look-ahead, truth accepts": Row("full", lambda own: replace(own, accept="truth", looks=24, stop=False)),
}
"""In the order of the table; each "+" is the row above it and one thing more."""

RUNS: dict[str, dict[str, Any]] = {
    "full": {},
    "imitation": {"learn": "imitation", "rl_share": 0.0},
    "sb3": {"learner": "sb3"},
}
"""The trainings, by what they change of the recipe's settings."""


class Bench:
    """Runs and test targets, each made when it is first needed."""

    def __init__(self, config: Config) -> None:
        self.config = config
        if config.scenes:
            write_scenes(config.data, **SCENES)
        self.dataset = Dataset.load(config.data)
        self._bank: Bank | None = None
        self.load = caching_loader()

    def run(self, name: str, seed: int) -> Path:
        """A finished run; one that was killed goes on (PPO's begins again)."""
        config, out = self.config, self.config.out / f"run-{name}-s{seed}"
        if not (out / "report.html").is_file():
            length = {"steps": config.steps} if config.steps else {"minutes": config.minutes}
            common = {"data": config.data, "out": out, "sam": config.sam, "seed": seed, **length}
            if name == "segmenter":
                samix.main(samix.Config(labels="masks-only", resume=out.exists(), **common))
            else:
                own = RUNS[name].get("learner", "own") == "own"
                clicks.main(
                    clicks.Config(
                        clicks=config.clicks,
                        keep="last",  # so that the stages that are compared are those of the newest checkpoint
                        resume=own and out.exists(),
                        overwrite=not own and out.exists(),
                        **common,
                        **RUNS[name],
                    )
                )
        return out

    def agent(self, name: str, seed: int, stage: str) -> ClickAgent:
        """The agent of a run, at one of its stages."""
        out = self.run(name, seed)
        model = self.load(out)
        assert isinstance(model, ClickPredictor)
        agent = model.agent
        if stage == "settled" or agent.prompter is None:
            return agent
        checkpoint = read_checkpoint(out)
        if checkpoint is None:
            raise SystemExit(f"{out}: its last checkpoint is missing; delete the run to make it anew")
        tensors = checkpoint.tensors
        group = "reference" if stage == "values" and "reference" in tensors else "prompter"
        prompter = Prompter(**agent.prompter.description())
        load_state(prompter, tensors[group], group)
        return ClickAgent(agent.sam, prompter.eval().requires_grad_(False), agent.quality, agent.rules)

    def bank(self, agent: ClickAgent) -> Bank:
        if self._bank is None:
            self._bank = Bank.of_dataset(agent.sam, self.dataset.split(self.config.split))
        return self._bank


def score(bench: Bench, name: str, seed: int) -> dict[str, Any]:
    """One row with one seed: Dice of every target after every click."""
    row = ROWS[name]
    agent = bench.agent(row.run, seed, row.stage)
    bank, rules = bench.bank(agent), row.rules(agent.rules)
    with progress(len(bank), f"{name}, seed {seed}") as advance:
        shown = 0

        def tell(done: int, total: int) -> None:
            nonlocal shown
            advance(done - shown)
            shown = done

        found = curve(agent, bank, rules, seed=seed, progress=tell)
    if row.answer == "belief":
        found = replace(found, dice=belief_dice(agent, bank)[:, None])
    elif row.answer == "segmenter":
        found = replace(found, dice=segmenter_dice(bench.load(bench.run("segmenter", seed)), bank)[:, None])
    # Rows without a further click are as long as the others.
    dice = np.pad(found.dice, ((0, 0), (0, bench.config.clicks + 1 - found.dice.shape[1])), mode="edge")
    return {
        "targets": list(bank.names),
        "dice": dice.round(5).tolist(),
        "clicks": float(found.clicks.mean()),
        "kept": float(found.kept.mean()),
        "rules": asdict(rules),
    }


def segmenter_dice(segmenter: Predictor, bank: Bank) -> NDArray[np.float64]:
    """(N,) Dice on the canvas of all that a segmenter takes for the category at the oracle's first click; where it takes that place
    for background, for its most frequent category."""
    predictions = segmenter.predict(pixels.permute(1, 2, 0).numpy() for pixels in bank.pixels)
    masks = [prediction.mask for prediction in predictions]
    rows, answers = torch.arange(len(bank)), []
    places = first_click(bank, rows)[0].floor().long()
    for image, (x, y) in zip(bank.image.tolist(), places.tolist(), strict=True):
        mask = masks[image]
        category = mask[y, x] or np.bincount(mask[mask > 0], minlength=2).argmax()
        answers.append(torch.from_numpy(mask == category))
    return canvas_dice(bank, rows, torch.stack(answers).float() - 0.5).numpy().astype(np.float64)


def refined(bench: Bench, seed: int) -> dict[str, Any]:
    """Dice of given masks, and of what the agent makes of them."""
    config = bench.config
    assert config.refine is not None
    model = load(bench.run("full", seed), device="cpu")
    after = evaluate(model, bench.dataset, config.split, masks=config.refine)
    model.agent.rules = replace(model.agent.rules, mask_margin=2.0)  # type: ignore[attr-defined]  # nothing is ever kept
    before = evaluate(model, bench.dataset, config.split, masks=config.refine)
    pairs = [(a["dice"], b["dice"]) for a, b in zip(after["per_image"], before["per_image"]) if a["dice"] is not None]
    mended, given = (np.array(column) for column in zip(*pairs))
    return {
        "images": len(pairs),
        "before": float(given.mean()),
        "after": float(mended.mean()),
        "gain": paired_bootstrap(mended, given),
        "lost": float((mended < given - LOST).mean()),
    }


def summarise(rows: Rows) -> dict[str, Any]:
    """Means over the seeds, intervals over seeds and images."""
    grouped = {name: list(by_seed.values()) for name, by_seed in by_name(rows).items()}
    seeds = {name: np.stack([np.array(row["dice"]) for row in mine]) for name, mine in grouped.items()}
    dice = {name: each.mean(0) for name, each in seeds.items()}
    figures: dict[str, Any] = {}
    for name, mine in grouped.items():
        scores = dice[name]
        # What is no answer of SAM is compared with the same first answers as all other rows.
        first_answers = name if ROWS[name].answer == "sam" else "no further click"
        against = seeds.get(first_answers, seeds[name])
        first = against.mean(0)[:, 0]
        images = [target.rpartition("/")[0] for target in mine[0]["targets"]]
        figures[name] = {
            "dice": scores.mean(0).tolist(),
            "gains": [
                paired_bootstrap(seeds[name][..., k], against[..., 0], images=images) for k in range(1, scores.shape[1])
            ],
            "lost": float((scores[:, -1] < first - LOST).mean()),
            "clicks": float(np.mean([row["clicks"] for row in mine])),
            "kept": float(np.mean([row["kept"] for row in mine])),
            "seeds": [float(np.array(row["dice"])[:, -1].mean()) for row in mine],
        }
        if "oracle" in dice:
            room = dice["oracle"][:, -1].mean() - dice["oracle"][:, 0].mean()
            gain = scores[:, -1].mean() - first.mean()
            figures[name]["captured"] = float(gain / room) if room > 1e-6 else None
    return figures


def table(config: Config, figures: dict[str, Any], refinements: dict[int, dict[str, Any]]) -> Table:
    numbers = [str(number + 1) for number in range(config.clicks + 1)]
    notes = [
        f"Masks refined, seed {seed}: {r['before']:.3f} to {r['after']:.3f}, {interval(r['gain'])}, lost {r['lost']:.0%}."
        for seed, r in refinements.items()
    ]
    return Table(
        f"Clicks on {config.data_name}, split {config.split}, SAM {config.sam}",
        ["", *numbers, "gain", "lost", "clicks / kept", "captured", "seeds"],
        [_cells(name, row) for name, row in figures.items()],
        f"Dice by clicks, the first one the oracle's. Lost: share of targets that end more than {LOST} lower. "
        + " ".join(notes),
    )


def _cells(name: str, row: dict[str, Any]) -> list[str]:
    captured = row.get("captured")
    return [
        name,
        *(f"{value:.3f}" for value in row["dice"]),
        interval(row["gains"][-1]),
        f"{row['lost']:.0%}",
        f"{row['clicks']:.1f} / {row['kept']:.1f}",
        "" if captured is None else f"{captured:.2f}",
        each_seed(row["seeds"]),
    ]


def main(config: Config) -> None:
    refuse_unknown("--rows", config.rows, ROWS)
    settings = config.start()
    bench = Bench(config)
    wanted = [
        (name, seed)
        for seed in config.seeds
        for name in config.rows or ROWS
        if ROWS[name].run == "full" or seed == config.seeds[0]
    ]
    figures = summarise(rows_of(config.out, ROWS, wanted, partial(score, bench)))
    refinements = {} if config.refine is None else refine(bench, config.refine)
    publish(config, table(config, figures, refinements), settings, rows=figures, refined=refinements)


def refine(bench: Bench, masks: Path) -> dict[int, dict[str, Any]]:
    """What each seed's agent makes of given masks."""
    given = hashlib.sha256(str(masks.resolve()).encode()).hexdigest()[:8]
    name = f"refine-{masks.resolve().name}-{given}"
    return {
        seed: kept(bench.config.out / f"{name}-s{seed}.json", lambda seed=seed: refined(bench, seed))
        for seed in bench.config.seeds
    }


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
