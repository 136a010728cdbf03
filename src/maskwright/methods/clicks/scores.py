"""How good a click agent is: Dice after each click, with intervals, against no further click and against an oracle."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from maskwright.data.dataset import Dataset
from maskwright.engine.metrics import paired_bootstrap
from maskwright.engine.scoring import ScoreTable
from maskwright.methods.clicks.agent import ClickAgent, ClickRules, observe
from maskwright.rl.bank import MIN_SHARE, Bank
from maskwright.rl.clicks import SLOTS, ClickState, canvas_dice, first_click, start

LOST = 0.02
"""A target that ends this much Dice below its first answer counts as lost."""


@dataclass(frozen=True)
class Curve:
    """Scores of N targets.

    Attributes:
        images: (N,) numbers of the images that the targets lie in.
        dice: (N, T + 1) on the canvas, after 0, 1, ... T further clicks.
        clicks, kept: (N,) further clicks that were placed, and those that were not undone.
        guesses: (N, T + 1) the quality head's calibrated Dice; 0 without a quality head.
    """

    images: NDArray[np.int64]
    dice: NDArray[np.float64]
    clicks: NDArray[np.int64]
    kept: NDArray[np.int64]
    guesses: NDArray[np.float64]

    @staticmethod
    def cat(parts: Sequence[Curve]) -> Curve:
        """The scores of all targets, one part after the other."""
        joined = {each.name: np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(Curve)}
        # No two parts show the same image: each bank counts its own from 0.
        offsets = np.cumsum([0, *(int(part.images.max(initial=-1)) + 1 for part in parts[:-1])])
        images = [part.images + offset for part, offset in zip(parts, offsets)]
        return Curve(**joined | {"images": np.concatenate(images)})

    def summary(self) -> dict[str, Any]:
        """JSON-able: the mean curve, the gain over the first answer with its 95 % interval over images, and what it cost."""
        first, last = self.dice[:, 0], self.dice[:, -1]
        gain, low, high = paired_bootstrap(last, first, images=self.images)
        return {
            "targets": len(first),
            "dice": [float(value) for value in self.dice.mean(0)],
            "intervals": [list(paired_bootstrap(column, first, images=self.images)) for column in self.dice.T],
            "gain": [gain, low, high],
            "lost": float((last < first - LOST).mean()),
            "clicks": float(self.clicks.mean()),
            "kept": float(self.kept.mean()),
        }


def first_answers(agent: ClickAgent, bank: Bank, rows: torch.Tensor, clicks: int) -> ClickState:
    """SAM's answers to the oracle's first click on each target, with room for ``clicks`` more."""
    place, label, _ = first_click(bank, rows)
    return start(agent.sam, bank, rows, place, label, slots=max(SLOTS, clicks + 2))


@torch.no_grad()
def curve(
    agent: ClickAgent,
    bank: Bank,
    rules: ClickRules | None = None,
    *,
    begin: Callable[[torch.Tensor], ClickState] | None = None,
    seed: int = 0,
    batch: int = 16,
    progress: Callable[[int, int], None] | None = None,
) -> Curve:
    """Let an agent improve the answers of all targets of a bank, and score them with the truth.

    Args:
        rules: left out, the agent's own.
        begin: rows (B,) → their first answers; left out: to the oracle's first click.
        seed: of random clicks; they depend on it and on ``batch``.
        batch: targets at a time.
        progress: called as ``progress(done, total)``.
    """
    rules = rules or agent.rules
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for rows in torch.arange(len(bank), device=bank.device).split(batch):
        state = begin(rows) if begin else first_answers(agent, bank, rows, rules.clicks)
        refinement = agent.refine(bank, state, rules, generator)
        dice = torch.stack([canvas_dice(bank, rows, each.logits) for each in refinement.states], 1)
        parts.append((dice, refinement.clicks, refinement.kept, refinement.quality))
        if progress:
            progress(int(rows[-1]) + 1, len(bank))
    dice, clicks, kept, guesses = (torch.cat(column).cpu().numpy() for column in zip(*parts))
    return Curve(bank.image.cpu().numpy(), dice.astype(np.float64), clicks, kept, guesses.astype(np.float64))


@torch.no_grad()
def belief_dice(agent: ClickAgent, bank: Bank, *, batch: int = 16) -> NDArray[np.float64]:
    """(N,) Dice on the canvas of the agent's belief alone, after the oracle's first click: what it has learnt about objects,
    without any of SAM's further answers. Raises ValueError where the agent has no belief.
    """
    if agent.prompter is None:
        raise ValueError("this agent has no prompter whose belief could be scored")
    parts = []
    for rows in torch.arange(len(bank), device=bank.device).split(batch):
        belief = agent.prompter(observe(bank, first_answers(agent, bank, rows, 0))).truth[:, None]
        logits = F.interpolate(belief, scale_factor=2, mode="bilinear", align_corners=False)[:, 0]
        parts.append(canvas_dice(bank, rows, logits))
    return torch.cat(parts).cpu().numpy().astype(np.float64)


def curves_by_rules(
    agent: ClickAgent,
    dataset: Dataset,
    rules: Mapping[str, ClickRules],
    *,
    memory: int,
    batch: int = 16,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, Curve], list[str], int]:
    """The curves of several ways to act, on all targets of a dataset.

    Args:
        dataset: images with masks.
        rules: how the agent acts, by name.
        memory: bytes of images, embeddings and masks that are held at a time.
        batch: targets at a time.
        progress: called as ``progress(done, total)`` in images; one counts as done by the share of its rules that are.

    Returns:
        The curves by name of the rules, the names of the targets, and the number of targets that are too small to be scored
        (``rl.bank.MIN_SHARE``).
    """
    parts: dict[str, list[Curve]] = {name: [] for name in rules}
    targets: list[str] = []
    images = tiny = 0
    for bank in Bank.parts(agent.sam, dataset, memory=memory):
        for number, (name, each) in enumerate(rules.items()):
            # Targets of this part by one of the rules → images.
            first, share = images + len(bank.pixels) * number / len(rules), len(bank.pixels) / len(rules) / len(bank)
            advance = partial(_advance, progress, len(dataset), first, share)
            parts[name].append(curve(agent, bank, each, batch=batch, progress=advance))
        targets += bank.names
        images += len(bank.pixels)
        tiny += bank.tiny
    return {name: Curve.cat(each) for name, each in parts.items()}, targets, tiny


def _advance(
    progress: Callable[[int, int], None] | None, total: int, first: float, share: float, done: int, _: int
) -> None:
    if progress:
        progress(round(first + share * done), total)


def head_room(agent: Curve, oracle: Curve) -> float | None:
    """(agent - first answer) / (oracle - first answer) of the mean Dice after the last click; None without head-room."""
    first, best = float(oracle.dice[:, 0].mean()), float(oracle.dice[:, -1].mean())
    return None if best - first < 1e-6 else (float(agent.dice[:, -1].mean()) - first) / (best - first)


def curve_table(curves: Mapping[str, Mapping[str, Any]], captured: float | None, tiny: int) -> ScoreTable:
    """Dice by clicks, a row for each way to place them.

    Args:
        curves: what ``Curve.summary`` gives, by name.
        captured: what ``head_room`` gives.
        tiny: targets that were too small to be scored.
    """
    count = max(len(each["dice"]) for each in curves.values())
    columns = ["Dice after click", *(str(n + 1) for n in range(count)), "gain", "from", "to", "lost", "clicks"]
    rows = [[name, *each["dice"], *each["gain"], each["lost"], each["clicks"]] for name, each in curves.items()]
    targets = next(iter(curves.values()))["targets"]
    note = f"{targets} targets, the first click is the oracle's. Gain over it with its 95 % interval. "
    note += f"Lost: share of targets that end more than {LOST} lower. Clicks: those after the first."
    if tiny:
        objects = f"{tiny} smaller {'object was' if tiny == 1 else 'objects were'}"
        note += f" {objects} left out: they take less than {MIN_SHARE:.3%} of the canvas."
    if captured is not None:
        note += f" The agent captures {captured:.0%} of what the oracle, which sees the truth, gains."
    return ScoreTable(columns, rows, note)
