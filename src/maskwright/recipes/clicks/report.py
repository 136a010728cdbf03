"""The files that a run of ``clicks`` ends with: the exported agent with its card, and the report with its film strips."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from maskwright.data.pictures import side_by_side
from maskwright.engine.model import describe, weights_beside
from maskwright.engine.outcome import Outcome
from maskwright.engine.report import Picture, Report, seconds_of_chart
from maskwright.engine.run import read_metrics
from maskwright.methods.clicks.agent import ClickRules
from maskwright.methods.clicks.pictures import frames, write_gif
from maskwright.methods.clicks.scores import LOST, Curve, clicks_named, curve, first_answers, head_room, padded
from maskwright.recipes.clicks.calibration import MARGINS, MASK_MARGINS
from maskwright.recipes.clicks.trainer import (
    CALIBRATION_SHARE,
    CALIBRATION_TARGETS,
    VALIDATION_TARGETS,
    Stream,
    Trainer,
)

VALIDATION = "Validation: Dice after the agent's clicks, before calibration"

CHARTS = {
    VALIDATION: ("val_agent_dice", "val_smoothed"),
    "Losses": ("value", "imitation", "truth", "belief", "answer", "critic", "quality", "rank"),
    "Change of Dice by a click: the expert's (sees the truth) and the agent's": ("expert_lead", "lead"),
    "Reinforcement: reward and gain of roll-outs": ("reward", "rl_gain"),
    "Reinforcement: clicks of roll-outs": ("rl_clicks",),
    "Reinforcement: divergence from the policy before": ("rl_kl",),
}

GIF = "clicks.gif"
"""Name of the animation beside the report."""


def reserve_ending(trainer: Trainer, probe: int = 4) -> None:
    """By the clock: set time aside for what follows the last step, as measured on a few targets, and bound the calibration's part.

    Args:
        probe: held-out targets that are measured.
    """
    timer, config = trainer.session.timer, trainer.config
    if not timer.by_clock:
        return
    # With sb3 there is nothing to measure before PPO has begun: a look at pixels takes about as long as one of this agent's.
    agent, rows = Trainer.agent(trainer), torch.arange(min(probe, len(trainer.held_out)), device=trainer.device)
    began = time.monotonic()
    curve(agent, trainer.held_out.select(rows), replace(agent.rules, stop=False))
    target = (time.monotonic() - began) / len(rows) / 60
    # Calibration tries margins of one or two policies, and of masks; see ``calibration.calibrate``.
    policies = 2 if config.rl_share else 1
    trials = 1 + policies * len(MARGINS) + len(MASK_MARGINS) if config.quality else policies
    trials = 0 if config.learner == "sb3" else trials
    assert timer.length.minutes is not None
    affordable = int(CALIBRATION_SHARE * timer.length.minutes / (max(1, trials) * target))
    trainer.calibration_targets = max(4, min(CALIBRATION_TARGETS, len(trainer.held_out), affordable))
    timer.reserves["calibration"] = trials * trainer.calibration_targets * target
    count = 0 if trainer.val is None else len(trainer.val)
    # Of the agent, once more with all its clicks, of all clicks kept and of an oracle, which look at one each; and of the film strips.
    timer.reserves["scores"] = min(count, LIMIT) * target * (2 + 4 / config.looks) + min(count, 12) * target
    timer.reserves.setdefault("validation", min(count, VALIDATION_TARGETS) * target)
    timer.reserves["report"] = (2 + 10 * seconds_of_chart()) / 60


def conclude(trainer: Trainer, scores: dict[str, Any]) -> None:
    """Note how the training ended: the agent's score on the validation split against that of the first click alone."""
    best, session = trainer.best, trainer.session
    if not scores:
        session.outcome = Outcome("Dice", None, steps=session.clock)
        return
    session.outcome = Outcome(
        "Dice",
        scores["agent"]["dice"][-1],
        {"no agent, the first click alone": scores["agent"]["first"]},
        step=best.step,
        steps=session.clock,
        keep=trainer.config.keep if best.step is not None else "last",
        images=scores["agent"]["targets"],
        unit="targets",
        advice="do not use this agent: keep SAM's answer to your click. Train longer, on more images, or with another --sam",
    )


def write_model(trainer: Trainer, scores: dict[str, Any]) -> None:
    """``RUN/model``: prompter, quality head and fusion, and the name and signature of the SAM that they are for."""
    config, sam = trainer.config, trainer.sam
    parts, state, beside = trainer.exported()
    weights = weights_beside(config.sam, sam.size, sam.signature())
    description = describe(
        "clicks",
        trainer.categories,
        sam.size,
        data=trainer.session.data_digest,
        image_reading=trainer.session.image_reading,
        **({"crop": trainer.session.crop} if trainer.session.crop else {}),
        sam=weights,
        **parts,
        settled=trainer.calibration,
    )
    trainer.session.run.save_model(state, description, _card(trainer, scores), beside)


def _card(trainer: Trainer, scores: dict[str, Any]) -> str:
    config = trainer.config
    learner = "PPO on pixels" if config.learner == "sb3" else config.learn
    rest = f"; {trainer.unused} more show nothing large enough or lie beyond `--memory`" if trainer.unused else ""
    lines = [
        "# A click agent made with maskwright",
        "",
        f"It answers clicks and boxes on SAM 2 (weights `{config.sam}`, canvas {trainer.sam.size}, not part of this folder), "
        f"{_acting(trainer)}.",
        f"Recipe: clicks, learnt from {learner}, {trainer.stage.step} steps of {config.batch} states, seed {config.seed}.",
        f"Trained on {trainer.images} images of `{config.data.name}` ({len(trainer.bank)} targets, mirror images included{rest}); "
        f"calibrated on {trainer.calibration['held_out']} targets of other training images.",
    ]
    if scores:
        agent, oracle = scores["agent"], scores["oracle"]
        gain, low, high = agent["gain"]
        lines += [
            f"Validation, {agent['targets']} targets: SAM's answer to the first click has Dice {agent['first']:.3f}, the agent's "
            f"{agent['dice'][-1]:.3f}, after up to {trainer.rules.clicks} clicks of its own (gain {gain:+.3f}, 95 % interval {low:+.3f} "
            f"to {high:+.3f}); "
            f"{agent['lost']:.0%} lose more than {LOST}. An oracle that sees the truth: {oracle['dice'][-1]:.3f}."
        ]
        lines += (
            [trainer.session.outcome.warning] if trainer.session.outcome and trainer.session.outcome.warning else []
        )
    lines += ["", "```python", "import maskwright", "agent = maskwright.load('RUN')", "```", ""]
    return "\n".join(lines)


def _acting(trainer: Trainer) -> str:
    """How the agent came to act, in words."""
    rules = trainer.agent().rules
    answer = "SAM's mask" if rules.answer == "sam" else "SAM's mask and what it has learnt about the objects, in one"
    own = f"after up to {rules.clicks} clicks of its own" if rules.clicks else "without a click of its own"
    return f"with {answer}, {own}; masks it corrects by up to {rules.clicks_on_masks} clicks, where it expects a better one"


LIMIT = 100
"""Targets of the validation at the end, at most."""


def validate(trainer: Trainer, limit: int = LIMIT) -> dict[str, Any]:
    """Scores on the validation split of the agent, of it with all its clicks, of SAM's masks and of the oracle; empty without one.

    Args:
        limit: targets at most, drawn by the seed.
    """
    bank = trainer.val
    if bank is None:
        return {}
    if len(bank) > limit:
        index = torch.randperm(len(bank), generator=trainer.session.generator(Stream.VALIDATION, 0))[:limit]
        bank = bank.select(index.to(bank.device))
    agent, clicks = trainer.agent(), trainer.config.clicks
    found = whole = curve(agent, bank)
    curves: dict[str, Curve] = {"agent": found}
    if agent.rules.clicks < clicks:
        whole = curve(agent, bank, replace(agent.rules, clicks=clicks))
        curves[f"agent, all {clicks} clicks"] = whole
    if agent.rules.answer == "fused":
        curves["SAM's masks after these clicks"] = whole.of_sam()
    curves |= {
        "SAM's masks, every click kept": curve(agent, bank, ClickRules(clicks, 1, accept="always", stop=False)),
        "oracle": curve(agent, bank, ClickRules(clicks, 1, "oracle", "always", stop=False)),
    }
    scores: dict[str, Any] = {name: each.summary() for name, each in curves.items()}
    scores["head_room"] = head_room(curves["agent"], curves["oracle"])
    scores["per_target"] = np.column_stack([found.sam, found.dice[:, -1]])
    scores["bank"] = bank
    return scores


def log_scores(trainer: Trainer, scores: dict[str, Any]) -> None:
    """Dice on the validation split into the run's log."""
    if scores:
        trainer.session.run.log_once(
            trainer.stage.step,
            val_first=scores["agent"]["first"],
            val_dice=scores["agent"]["dice"][-1],
            val_oracle=scores["oracle"]["dice"][-1],
        )


def write_report(trainer: Trainer, scores: dict[str, Any]) -> None:
    """Write ``RUN/report.html``: curves, the choice of policy and margins, calibration, and film strips."""
    config = trainer.config
    report = Report(
        f"maskwright · clicks · {config.data.name}",
        f"{config.out} — {trainer.stage.step} steps, seed {config.seed}, SAM {config.sam}",
    )
    outcome = trainer.session.outcome
    if outcome is not None:
        report.outcome(outcome)
    if scores:
        _score_sections(report, scores)
    _training_sections(report, read_metrics(config.out), {} if outcome is None else outcome.marks)
    rows = [
        [
            trial["policy"],
            trial["margin"],
            trial["answer"],
            trial["most_clicks"],
            trial["first"],
            trial["dice"][-1],
            *trial["gain"],
            trial["lost"],
            trial["kept"],
        ]
        for trial in trainer.calibration["trials"]
    ]
    calibration = trainer.calibration
    choice = f"Chosen: policy {calibration['policy']}, margin {calibration['margin']}, answer {calibration['answer']} after up to "
    choice += f"{calibration['clicks']} clicks; margin for masks {calibration['mask_margin']}."
    columns = ["policy", "margin", "answer", "clicks", "SAM's first Dice", "last Dice"]
    columns += ["gain", "from", "to", f"lose > {LOST}", "clicks kept"]
    if rows:
        report.table("What was tried on held-out training images", columns, rows, choice)
    _calibration(report, trainer)
    _films(report, trainer, scores)
    report.save(config.out / "report.html")


def _score_sections(report: Report, scores: dict[str, Any]) -> None:
    names = [name for name in scores if isinstance(scores[name], dict)]
    count = max(len(scores[name]["dice"]) for name in names)
    series = {name: (np.arange(count), np.array(padded(scores[name]["dice"], count))) for name in names}
    captured = scores["head_room"]
    note = (
        ""
        if captured is None
        else f"The agent captures {captured:.0%} of what the oracle, which sees the truth, gains."
    )
    report.curves("Dice by clicks (validation)", series, x="clicks of its own", y="Dice", note=note)
    rows = []
    for name in names:
        summary = scores[name]
        dice = [summary["first"], *padded(summary["dice"], count)]
        rows.append([name, *dice, *summary["gain"], summary["lost"], summary["clicks"], summary["kept"]])
    columns = ["", "SAM's first answer", *clicks_named(count), "gain", "from", "to", f"lose > {LOST}", "clicks", "kept"]
    note = "The gain is over SAM's first answer, with its 95 % interval."
    report.table("Dice by clicks (validation)", columns, rows, note)


def _training_sections(report: Report, metrics: list[dict[str, float]], marks: dict[str, float]) -> None:
    columns: dict[str, tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    for entry in metrics:
        for name, value in entry.items():
            columns[name][0].append(entry["step"])
            columns[name][1].append(value)
    for title, names in CHARTS.items():
        curves = {name: columns[name] for name in names if name in columns}
        if curves:
            report.curves(title, curves, marks=marks if title == VALIDATION else None)


def _calibration(report: Report, trainer: Trainer, bins: int = 10) -> None:
    """Guessed against true Dice on held-out images, in bins of equal size."""
    if trainer.reliability is None:
        return
    guesses, true = trainer.reliability
    order = np.argsort(guesses, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    raw = np.array([guesses[part].mean() for part in parts])
    mean = np.array([true[part].mean() for part in parts])
    calibrated = trainer.quality.calibrated(torch.from_numpy(raw).to(trainer.quality.knots)).cpu().numpy()
    note = f"Correlation {np.corrcoef(guesses, true)[0, 1]:.2f} over {len(true)} masks." if len(true) > 1 else ""
    report.curves(
        "Calibration: true Dice by the quality head's guess (held-out images)",
        {"true": (raw, mean), "calibrated guess": (raw, calibrated), "raw guess": (raw, raw)},
        x="raw guess",
        y="Dice",
        note=note,
    )


def _films(report: Report, trainer: Trainer, scores: dict[str, Any], each: int = 4) -> None:
    """Film strips of the targets that gained most, that lost most, and of some others; an animation of the first ones."""
    if not scores:
        return
    bank, per_target = scores["bank"], scores["per_target"]
    gains = per_target[:, -1] - per_target[:, 0]
    agent = trainer.agent()
    order = np.argsort(-gains, kind="stable")
    middle = order[len(order) // 4 :: max(1, len(order) // (2 * each))][:each]
    animated: list[np.ndarray] = []
    for title, targets in (("gained most", order[:each]), ("lost most", order[::-1][:each]), ("others", middle)):
        rows = torch.as_tensor(targets.copy(), device=bank.device)
        refinement = agent.refine(bank, first_answers(agent, bank, rows, trainer.rules.clicks))
        answered = replace(refinement.last, logits=agent.conclude(bank, refinement)[0])
        cards = []
        for place, target in enumerate(targets):
            pictures = frames(bank, [*refinement.states, answered], place)
            dice = ", ".join(f"{value:.2f}" for value in per_target[target])
            cards.append(Picture(side_by_side(pictures), f"{bank.names[target]}: Dice {dice}"))
            if title == "gained most":
                animated += pictures[1:]
        note = "Truth, SAM's answer to the first click, its answer after each click of the agent, and what the agent answers. "
        note += "Green: on the object, red: off it."
        report.pictures(f"Validation: {title}", note, cards, side=480)
    write_gif(trainer.config.out / GIF, animated)
