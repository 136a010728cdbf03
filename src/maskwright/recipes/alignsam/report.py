"""The files that a run of ``alignsam`` ends with: the exported model with its card, and the report that shows its clicks."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from maskwright.data.geometry import on_canvas
from maskwright.data.labels import IGNORE, Point
from maskwright.data.pictures import draw_labels, side_by_side
from maskwright.engine.metrics import BinaryMetrics
from maskwright.engine.model import describe, weights_beside
from maskwright.engine.outcome import Outcome
from maskwright.engine.report import Picture, Report, seconds_of_chart
from maskwright.engine.run import read_metrics
from maskwright.methods.autoprompt.agent import OPENING, resized
from maskwright.methods.autoprompt.predictor import SCORES
from maskwright.methods.autoprompt.scores import probabilities, scores_on_canvas
from maskwright.recipes.alignsam.trainer import Trainer
from maskwright.rl.bank import Bank
from maskwright.rl.clicks import ClickState, start

CHARTS = {
    "Share of clicks on the foreground, and of clicks that SRM labels right": ("foreground_rate", "label_accuracy"),
    "Losses": ("srm_loss", "value_loss"),
    "Policy: entropy": ("entropy",),
    "Policy: share of ratios beyond the clip": ("clipped",),
}

FILMS = 8
"""Validation images whose clicks are drawn."""


def reserve_ending(trainer: Trainer, probe: int = 4) -> None:
    """By the clock: set time aside for what follows the last step, as measured on a few images.

    Args:
        probe: images that are measured.
    """
    timer, bank = trainer.session.timer, trainer.bank if trainer.val is None else trainer.val
    if not timer.by_clock:
        return
    rows = torch.arange(min(probe, len(bank)), device=bank.device)
    began = time.monotonic()
    scores_on_canvas(trainer.agent, bank.select(rows))
    image = (time.monotonic() - began) / len(rows) / 60
    timer.reserves.setdefault("validation", 0 if trainer.val is None else len(bank) * image)
    # The table scores the bank with several numbers of clicks, 2.5 times as many as the agent has in all; then the film strips.
    timer.reserves["report"] = len(bank) * image * 4 + FILMS * image
    timer.reserves["charts"] = (2 + 6 * seconds_of_chart()) / 60


def keep_model(trainer: Trainer) -> None:
    """Fill the networks with those that were kept, and note their score on the validation split against what costs nothing."""
    best, session = trainer.best, trainer.session
    best.restore()
    if trainer.val is None or best.step is None:
        session.outcome = Outcome("mIoU", None, steps=session.clock)
        return
    session.outcome = Outcome(
        "mIoU",
        best.score,
        baselines(trainer, trainer.val),
        step=best.step,
        steps=session.clock,
        keep=trainer.config.keep,
        images=len(trainer.val),
        advice="train longer, or on more images, or with another --sam; see in the report where it clicks",
    )


@torch.no_grad()
def baselines(trainer: Trainer, bank: Bank) -> dict[str, float]:
    """mIoU on the validation images of what needs no training: a click in the middle of each image, and everything foreground."""
    size = trainer.sam.size
    middle = torch.full((len(bank), 2), size / 2, device=bank.device)
    on = torch.ones(len(bank), dtype=torch.long, device=bank.device)
    rows = torch.arange(len(bank), device=bank.device)
    clicked = [
        probabilities(start(trainer.sam, bank, part, middle[part], on[part]).logits, size) for part in rows.split(32)
    ]
    guesses = {"one click in the middle": torch.cat(clicked), "all foreground": torch.ones(len(bank), size, size)}
    truth, scores = bank.known_truth, dict[str, float]()
    target = torch.where(truth.known, truth.canvas.long(), IGNORE).cpu().numpy()
    for name, guess in guesses.items():
        metrics = BinaryMetrics()
        for place, image in enumerate(bank.names):
            metrics.update(guess[place].cpu().numpy().astype(np.float64), target[place], image)
        scores[name] = float(metrics.compute()["miou"])
    return scores


def write_model(trainer: Trainer) -> None:
    """``RUN/model``: the networks that were trained, and the names and signatures of the SAM (and CLIP) that they are for."""
    config, agent = trainer.config, trainer.agent
    clip = None
    if agent.clip is not None:
        clip = weights_beside(config.clip, agent.clip.size, agent.clip.signature(config.text))
    policy = agent.policy
    description = describe(
        "alignsam",
        ("background", trainer.foreground.name),
        trainer.sam.size,
        data=trainer.session.data_digest,
        image_reading=trainer.session.image_reading,
        **({"crop": trainer.session.crop} if trainer.session.crop else {}),
        sam=weights_beside(config.sam, trainer.sam.size, trainer.sam.signature()),
        clip=clip,
        text=list(config.text),
        foreground=list(trainer.foreground.names),
        policy=None if policy is None else policy.description(),
        grid=agent.grid,
        srm=agent.srm.description(),
        rules=asdict(agent.rules),
    )
    srm = agent.srm.state_dict()
    model, beside = (srm, {}) if policy is None else (policy.state_dict(), {"srm": srm})
    trainer.session.run.save_model(model, description, _card(trainer), beside)


def _card(trainer: Trainer) -> str:
    config = trainer.config
    words = f", described as {', '.join(map(repr, config.text))} (CLIP `{config.clip}`)" if config.text else ""
    networks = "SRM" if trainer.agent.policy is None else "Policy and SRM"
    lines = [
        "# A SAM that prompts itself, made with maskwright",
        "",
        f"It finds: {trainer.foreground.name}{words}. No prompt is needed.",
        f"{networks} for SAM 2 (weights `{config.sam}`, canvas {trainer.sam.size}, not part of this folder). Recipe: alignsam "
        f"(Huang et al., CVPR 2024), preset {config.preset}, {trainer.stage.step} episodes of {trainer.clicks} clicks, seed {config.seed}.",
        f"Trained on {len(trainer.bank)} images of `{config.data.name}`.",
    ]
    if trainer.session.outcome is not None:
        lines += ["", *trainer.session.outcome.sentences]
    lines += ["", "```python", "import maskwright", "masks = maskwright.load('RUN').predict(['image.jpg'])", "```", ""]
    return "\n".join(lines)


def write_report(trainer: Trainer) -> None:
    """``RUN/report.html``: curves, scores by clicks, and the masks growing click by click."""
    config = trainer.config
    report = Report(
        f"maskwright · alignsam · {config.data.name}",
        f"{config.out} — {trainer.stage.step} episodes, preset {config.preset}, seed {config.seed}, SAM {config.sam}, "
        f"{'text: ' + ', '.join(config.text) if config.text else 'no text (implicit branch)'}",
    )
    outcome = trainer.session.outcome
    if outcome is not None:
        report.outcome(outcome)
    metrics = read_metrics(config.out)
    curves: dict[str, tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    for entry in metrics:
        for name, value in entry.items():
            curves[name][0].append(entry["step"])
            curves[name][1].append(value)
    validation = {name: curve for name, curve in curves.items() if name.startswith("val_")}
    if validation:
        marks = {} if outcome is None else outcome.marks
        report.curves("Validation (on the canvas)", validation, x="episode", marks=marks)
    for title, names in CHARTS.items():
        if chart := {name: curves[name] for name in names if name in curves}:
            report.curves(title, chart, x="episode")
    bank, split = (trainer.val, "validation") if trainer.val is not None else (trainer.bank, "training")
    _score_table(trainer, report, bank, split)
    _films(trainer, report, bank, split)
    report.save(config.out / "report.html")


def _score_table(trainer: Trainer, report: Report, bank: Bank, split: str) -> None:
    agent, rules = trainer.agent, trainer.agent.rules
    rows: dict[str, dict[str, Any]] = {}
    for clicks in sorted({0, 1, 5, 10, trainer.clicks}):
        if clicks <= trainer.clicks:
            rows[f"{clicks} clicks"] = scores_on_canvas(agent, bank, replace(rules, clicks=clicks))
    rows["random places"] = scores_on_canvas(agent, bank, replace(rules, places="random"))
    rows["SRM's mask alone"] = scores_on_canvas(
        agent,
        bank,
        replace(rules, clicks=0),
        maps=lambda trace, part: resized(trace.recalibrated, (part.size, part.size)),
    )
    report.table(
        f"Scores on the {split} images",
        ["", *SCORES.values()],
        [[name, *(scores[key] for key in SCORES)] for name, scores in rows.items()],
        f"Every mask begins with {OPENING} clicks, where SRM is surest of foreground and background.",
    )


def _films(trainer: Trainer, report: Report, bank: Bank, split: str) -> None:
    """A few images, evenly spaced from the worst to the best: truth, then the mask and all clicks so far, step by step."""
    clicks = trainer.clicks
    scores = scores_on_canvas(trainer.agent, bank)["per_image"]
    scored = [place for place, entry in enumerate(scores) if entry["iou"] is not None]
    order = sorted(scored, key=lambda place: scores[place]["iou"])
    targets = [order[i] for i in np.linspace(0, len(order) - 1, min(FILMS, len(order))).round().astype(int)]
    part = bank.select(torch.tensor(targets, device=bank.device))
    trace = trainer.agent.segment(part)
    moments = sorted({moment for moment in (0, 1, 2, 4, 8, clicks) if moment <= clicks})
    pictures = []
    for place, name in enumerate(part.names):
        states = [trace.states[moment] for moment in moments]
        on = int((trace.last.labels[place] == 1).sum())
        caption = f"{name}: IoU {scores[targets[place]]['iou']:.2f}; {on} clicks on the foreground, {OPENING + clicks - on} off it"
        if not int(trace.answer.tokens[place]):
            caption += '; the answer is "nothing here"'
        pictures.append(Picture(film(part, states, place), caption))
    report.pictures(
        f"Where it clicked ({split} images, from the worst to the best)",
        f"Left the truth, then SAM's mask after the first {OPENING} clicks and after {', '.join(map(str, moments[1:]))} more. "
        + "Coloured dots were labelled foreground, black ones background.",
        pictures,
    )


def film(bank: Bank, states: Sequence[ClickState], place: int) -> NDArray[np.uint8]:
    """One target of a bank: its truth, then its masks and clicks in each of the states, side by side."""
    image = bank.pixels[bank.image[place]].permute(1, 2, 0).cpu().numpy()
    return side_by_side(
        [
            draw_labels(image, mask=_truth(bank, place)),
            *(_frame(image, state, place, bank.size) for state in states),
        ]
    )


def _truth(bank: Bank, place: int) -> NDArray[np.uint8]:
    truth = bank.known_truth
    return torch.where(truth.known[place], truth.canvas[place].long(), IGNORE).cpu().numpy().astype(np.uint8)


def _frame(image: NDArray[np.uint8], state: ClickState, place: int, size: int) -> NDArray[np.uint8]:
    mask = on_canvas(state.logits[place : place + 1], size)[0].cpu().numpy().astype(np.uint8)
    placed = zip(state.points[place].tolist(), state.labels[place].tolist(), strict=True)
    return draw_labels(image, mask=mask, points=[Point(x, y, label) for (x, y), label in placed if label in (0, 1)])
