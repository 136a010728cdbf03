r"""Does a click agent make masks better? Dice after each click for every way to place and to keep clicks, on a test split.

    python benchmarks/clicks.py --data ../shared/data/polyps/splits_full.json --out runs/bench-clicks/polyps --json polyps.json
    python benchmarks/clicks.py --data ../shared/data/saliency --out runs/bench-clicks/saliency --json saliency.json
    python benchmarks/clicks.py --data runs/scenes --scenes --out runs/bench-clicks/scenes --json scenes.json

The first click is the oracle's, in the middle of the object; nothing after it sees the truth, but for the oracle's rows.
Trained are, each for `--minutes` on the same images: the recipe (`full`) and a plain segmenter (`samix` on masks alone), once for each
seed; the recipe with a share of reinforcement, imitation of the oracle's clicks, and Stable-Baselines3's PPO on pixels with the
published settings. Two rows say what the masks alone are worth, without a further click: the agent's belief, and the segmenter, whose
answer is all that it takes for the category at the first click. "SAM" at the end of a row's name: its answers are SAM's masks; the
agent's own are those of SAM and belief, fused. Captured = (row - first answer) / (oracle - first answer) after the last click.
Intervals are paired bootstraps over seeds and images; targets of one image are resampled together.

Two more tables are printed first, for the first seed: the agent on other beginnings (`--no-beginnings`: not), and how many clicks a
user needs to IoU .80, .85 and .90, with and without the agent (`--no-noc`: not).

`--refine MASKS` also refines masks (a folder that `maskwright predict` wrote for the same split): Dice before and after.

Every run and every row is a folder or a JSON file in OUT; a call that was killed goes on with what is missing.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
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
    kept,
    publish,
    refuse_unknown,
    rows_of,
    show,
)
from maskwright.api import evaluate, load
from maskwright.data.dataset import Dataset
from maskwright.data.scene_dataset import write_scenes
from maskwright.engine.budget import progress
from maskwright.engine.metrics import paired_bootstrap
from maskwright.methods.clicks.agent import ClickAgent, ClickRules
from maskwright.methods.clicks.openings import imperfect_masks, loose_boxes, stray_click
from maskwright.methods.clicks.own_size import OwnSize, dice_of
from maskwright.methods.clicks.predictor import ClickPredictor
from maskwright.methods.clicks.scores import (
    LOST,
    Curve,
    belief_dice,
    clicks_named,
    curve,
    first_answers,
    ious_by_user_clicks,
)
from maskwright.recipes import clicks, samix
from maskwright.rl.bank import Bank
from maskwright.rl.clicks import SLOTS, ClickState, first_click, start, start_box, start_mask
from maskwright.rl.oracle import NOC_GOALS, NOC_MOST, clicks_to_reach
from measure import machine

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
    beginnings: bool = True
    """Also begin with a click anywhere on the object, a loose box, a poor mask."""
    noc: bool = True
    """Also count a user's clicks."""

    free: ClassVar[tuple[str, ...]] = (*TrainingOptions.free, "refine", "beginnings", "noc")


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        rules: what they change of the agent's, all its clicks being allowed and SAM's masks its answers; None: its rules as they are.
        run: whose agent acts.
        control: another answer without a further click. ``belief``: what the agent has learnt about objects from the masks;
            ``segmenter``: the mask of a plain segmenter.
    """

    rules: dict[str, Any] | None
    run: str = "full"
    control: Literal["belief", "segmenter"] | None = None

    def applied(self, agent: ClickAgent, clicks: int) -> ClickRules:
        """The rules that the row's agent acts by."""
        return (
            agent.rules
            if self.rules is None
            else replace(agent.rules, **{"clicks": clicks, "answer": "sam", **self.rules})
        )


AGENT = "the agent (settled)"
"""Which all rows are compared with."""

ORACLE = "oracle, SAM"
"""Of whose gain a row captures a share."""

KEPT = {"looks": 1, "stop": False, "accept": "always"}
LOOKS = {"looks": 24, "accept": "quality", "stop": False}

ROWS = {
    "no further click, SAM": Row(KEPT | {"clicks": 0}),
    "belief alone, no further click": Row(KEPT | {"clicks": 0}, control="belief"),
    "plain segmenter, no further click": Row(KEPT | {"clicks": 0}, control="segmenter"),
    "PPO on pixels, SAM": Row(None, "sb3"),
    "random, SAM": Row(KEPT | {"places": "random"}),
    "random + accept, SAM": Row(KEPT | {"places": "random", "accept": "quality"}),
    "random + look-ahead, SAM's IoU accepts, SAM": Row(LOOKS | {"places": "random", "accept": "iou"}),
    "random + look-ahead + accept, SAM": Row(LOOKS | {"places": "random"}),
    "random + look-ahead + accept": Row(LOOKS | {"places": "random", "answer": "fused"}),
    "entropy + accept, SAM": Row(KEPT | {"places": "entropy", "accept": "quality"}),
    "imitation, SAM": Row(KEPT, "imitation"),
    "value map, SAM": Row(KEPT),
    "value map + look-ahead, SAM's IoU accepts, SAM": Row(LOOKS | {"accept": "iou"}),
    "value map + accept, SAM": Row(KEPT | {"accept": "quality"}),
    "value map + look-ahead + accept, SAM": Row(LOOKS),
    "+ stop, SAM": Row(LOOKS | {"stop": True}),
    "+ reinforcement, SAM": Row(LOOKS | {"stop": True}, "reinforced"),
    "the agent, all its clicks": Row(LOOKS | {"stop": True, "answer": "fused"}),
    AGENT: Row(None),
    ORACLE: Row(KEPT | {"places": "oracle"}),
    "oracle + undo, SAM": Row(KEPT | {"places": "oracle", "accept": "truth"}),
    "look-ahead, truth accepts, SAM": Row(LOOKS | {"accept": "truth"}),
    "oracle": Row(KEPT | {"places": "oracle", "answer": "fused"}),  # its clicks go where SAM's mask is wrong
}
"""In the order of the table; each "+" is the row above it and one thing more."""

RUNS: dict[str, dict[str, Any]] = {
    "full": {},
    "reinforced": {"rl_share": 0.15},
    "imitation": {"learn": "imitation"},
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
        self.own_size = OwnSize(self.dataset.split(config.split))
        self.load = caching_loader()

    def run(self, name: str, seed: int) -> Path:
        """A finished run; one that was killed goes on (PPO's begins again)."""
        config, out = self.config, self.config.out / f"run-{name}-s{seed}"
        if not (out / "report.html").is_file():
            length = {"steps": config.steps} if config.steps else {"minutes": config.minutes}
            common = {"data": config.data, "out": out, "sam": config.sam, "seed": seed, **length}
            if name == "segmenter":
                samix.main(samix.Config(labels="masks-only", resume=out.exists(), **FORMER_SAMIX, **common))
            else:
                own = RUNS[name].get("learner", "own") == "own"
                clicks.main(
                    clicks.Config(
                        clicks=config.clicks,
                        resume=own and out.exists(),
                        overwrite=not own and out.exists(),
                        **common,
                        **RUNS[name],
                    )
                )
        return out

    def agent(self, name: str, seed: int) -> ClickAgent:
        """The agent of a run."""
        model = self.load(self.run(name, seed))
        assert isinstance(model, ClickPredictor)
        return model.agent

    def bank(self, agent: ClickAgent) -> Bank:
        if self._bank is None:
            self._bank = Bank.of_dataset(agent.sam, self.dataset.split(self.config.split))
        return self._bank


def score(bench: Bench, name: str, seed: int) -> dict[str, Any]:
    """One row with one seed: Dice of every target after every click."""
    row = ROWS[name]
    agent = bench.agent(row.run, seed)
    bank, rules = bench.bank(agent), row.applied(agent, bench.config.clicks)
    found = scored(agent, bank, rules, f"{name}, seed {seed}", seed=seed, measure=bench.own_size.dice)
    if row.control == "belief":
        found = replace(found, dice=belief_dice(agent, bank, measure=bench.own_size.dice)[:, None])
    elif row.control == "segmenter":
        found = replace(found, dice=segmenter_dice(bench, seed, bank)[:, None])
    # Rows with fewer clicks are as long as the others.
    dice = np.pad(found.dice, ((0, 0), (0, bench.config.clicks + 1 - found.dice.shape[1])), mode="edge")
    return {
        "targets": list(bank.names),
        "first": found.first.round(5).tolist(),
        "dice": dice.round(5).tolist(),
        "clicks": float(found.clicks.mean()),
        "kept": float(found.kept[:, -1].mean()),
        "sam_calls": 1 + rules.candidates * float(found.clicks.mean()),
        "ms": milliseconds(agent, bank, rules),
        "rules": asdict(rules),
    }


def milliseconds(agent: ClickAgent, bank: Bank, rules: ClickRules, count: int = 32) -> float:
    """Of an object, from the first answer to the last, on the first targets; the image is encoded already."""
    rows = torch.arange(min(count, len(bank)), device=bank.device)
    begun = [first_answers(agent, bank, part, rules.most_clicks) for part in rows.split(16)]
    began = time.monotonic()
    for state in begun:
        agent.conclude(bank, agent.refine(bank, state, rules, torch.Generator().manual_seed(0)), rules)
    return 1e3 * (time.monotonic() - began) / len(rows)


def scored(agent: ClickAgent, bank: Bank, rules: ClickRules, title: str, **options: Any) -> Curve:
    """The curve of an agent, with a bar."""
    with progress(len(bank), title) as advance:
        shown = 0

        def tell(done: int, total: int) -> None:
            nonlocal shown
            advance(done - shown)
            shown = done

        return curve(agent, bank, rules, progress=tell, **options)


def segmenter_dice(bench: Bench, seed: int, bank: Bank) -> NDArray[np.float64]:
    """(N,) Dice of all that the segmenter takes for the category at the oracle's first click; where it takes that place for background,
    for its most frequent category."""
    segmenter, part = bench.load(bench.run("segmenter", seed)), bench.dataset.split(bench.config.split)
    predictions = segmenter.predict(part.image_path(sample) for sample in part)
    masks = {sample.id: prediction.mask for sample, prediction in zip(part, predictions, strict=True)}
    places = first_click(bank, torch.arange(len(bank)))[0] / bank.size
    scores = []
    for name, (x, y) in zip(bank.names, places.tolist(), strict=True):
        truth, known = bench.own_size.truth(name)
        height, width = truth.shape
        mask = masks[name.rpartition("/")[0]]
        category = mask[int(y * height), int(x * width)] or np.bincount(mask[mask > 0], minlength=2).argmax()
        scores.append(dice_of((mask == category) & (mask > 0) & known, truth))
    return np.array(scores)


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
        against = np.stack([np.array(row["first"]) for row in mine])
        first = against.mean(0)
        images = [target.rpartition("/")[0] for target in mine[0]["targets"]]
        figures[name] = {
            "first": float(first.mean()),
            "dice": scores.mean(0).tolist(),
            "gain": paired_bootstrap(seeds[name][..., -1], against, images=images),
            "lost": float((scores[:, -1] < first - LOST).mean()),
            **{fact: float(np.mean([row[fact] for row in mine])) for fact in ("clicks", "kept", "sam_calls", "ms")},
            "seeds": [float(np.array(row["dice"])[:, -1].mean()) for row in mine],
        }
        if AGENT in seeds:
            # Rows of one seed are compared with the agent of that seed, the first.
            last = seeds[AGENT][: len(mine), :, -1]
            figures[name]["agent_ahead"] = paired_bootstrap(last, seeds[name][: len(last), :, -1], images=images)
        if ORACLE in dice:
            room = dice[ORACLE][:, -1].mean() - dice[ORACLE][:, 0].mean()
            gain = scores[:, -1].mean() - first.mean()
            figures[name]["captured"] = float(gain / room) if room > 1e-6 else None
    return figures


def table(config: Config, figures: dict[str, Any], refinements: dict[int, dict[str, Any]]) -> Table:
    notes = [
        f"Masks refined, seed {seed}: {r['before']:.3f} to {r['after']:.3f}, {interval(r['gain'])}, lost {r['lost']:.0%}."
        for seed, r in refinements.items()
    ]
    return Table(
        f"Clicks on {config.data_name}, split {config.split}, SAM {config.sam}",
        [
            "",
            "first",
            *clicks_named(config.clicks + 1),
            "gain",
            "the agent is ahead by",
            "lost",
            "placed / kept",
            "SAM calls",
            "ms",
            "captured",
            "seeds",
        ],
        [_cells(name, row) for name, row in figures.items()],
        "Dice of SAM's answer to the first click, an oracle's, and after so many clicks of the row's own. "
        f"Lost: share of targets that end more than {LOST} lower. SAM calls: SAM's answers to an object. "
        "ms: after the first answer. " + " ".join(notes),
    )


def _cells(name: str, row: dict[str, Any]) -> list[str]:
    captured = row.get("captured")
    return [
        name,
        *(f"{value:.3f}" for value in (row["first"], *row["dice"])),
        interval(row["gain"]),
        interval(row.get("agent_ahead")),
        f"{row['lost']:.0%}",
        f"{row['clicks']:.1f} / {row['kept']:.1f}",
        f"{row['sam_calls']:.0f}",
        f"{row['ms']:.0f}",
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
    further: dict[str, Any] = {}
    seed = config.seeds[0]
    if config.beginnings:
        further["beginnings"] = kept(config.out / f"beginnings-s{seed}.json", partial(begun_otherwise, bench, seed))
        show(beginnings_table(further["beginnings"]), machine())
    if config.noc:
        further["noc"] = kept(config.out / f"noc-s{seed}.json", partial(users_clicks, bench, seed))
        show(noc_table(further["noc"]), machine())
    publish(config, table(config, figures, refinements), settings, rows=figures, refined=refinements, **further)


def begun_otherwise(bench: Bench, seed: int) -> dict[str, Any]:
    """By beginning: what the agent makes of SAM's answer, or of the mask."""
    agent = bench.agent("full", seed)
    bank, slots = bench.bank(agent), SLOTS + agent.rules.most_clicks

    def stray(rows: Tensor) -> ClickState:
        place, label, _ = stray_click(bank, rows, draws)
        return start(agent.sam, bank, rows, place, label, slots=slots)

    def box(rows: Tensor) -> ClickState:
        return start_box(agent.sam, bank, rows, loose_boxes(bank, rows, draws), slots=slots)

    def mask(rows: Tensor) -> ClickState:
        return start_mask(agent.sam, bank, rows, imperfect_masks(bank, rows, draws), slots=slots)

    found = {}
    for name, begin in (("a click anywhere on the object", stray), ("a loose box", box), ("a poor mask", mask)):
        draws = torch.Generator().manual_seed(seed)
        found[name] = scored(agent, bank, agent.rules, name, begin=begin, measure=bench.own_size.dice).summary()
    return found


def beginnings_table(found: dict[str, Any]) -> Table:
    rows = [
        [name, f"{row['first']:.3f}", f"{row['dice'][-1]:.3f}", interval(row["gain"]), f"{row['lost']:.0%}"]
        for name, row in found.items()
    ]
    return Table("Other beginnings", ["", "before", "the agent", "gain", "lost"], rows, "Dice.")


USERS: dict[str, dict[str, Any]] = {
    "SAM alone": {"clicks": 0, "answer": "sam"},
    "SAM and belief fused": {"clicks": 0, "answer": "fused"},
    "the agent (settled)": {},
}
"""What answers a user's clicks, by what it changes of the agent's rules."""


def users_clicks(bench: Bench, seed: int) -> dict[str, Any]:
    """By what answers a user: mean clicks to each IoU, and the share of objects that 20 clicks did not bring there."""
    agent = bench.agent("full", seed)
    bank, found = bench.bank(agent), {}
    for name, changed in USERS.items():
        ious = torch.from_numpy(ious_by_user_clicks(agent, bank, replace(agent.rules, **changed)))
        found[name] = {"clicks": {}, "failures": {}}
        for goal in NOC_GOALS:
            counts = clicks_to_reach(ious, goal)
            found[name]["clicks"][f"{goal:.2f}"] = float(counts.clamp(max=NOC_MOST).float().mean())
            found[name]["failures"][f"{goal:.2f}"] = float((counts > NOC_MOST).float().mean())
    return found


def noc_table(found: dict[str, Any]) -> Table:
    goals = [f"{goal:.2f}" for goal in NOC_GOALS]
    rows = [
        [name, *(f"{row['clicks'][goal]:.2f}" for goal in goals), *(f"{row['failures'][goal]:.0%}" for goal in goals)]
        for name, row in found.items()
    ]
    columns = ["", *(f"NoC@{goal[2:]}" for goal in goals), *(f"failures@{goal[2:]}" for goal in goals)]
    return Table(
        "A user's clicks", columns, rows, f"Mean clicks to the IoU, {NOC_MOST} at most; the user is RITM's oracle."
    )


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
