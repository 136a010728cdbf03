"""How good a click agent is: Dice after each click, with intervals, against no further click and against an oracle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from maskwright.engine.metrics import paired_bootstrap
from maskwright.methods.clicks.agent import ClickAgent, ClickRules
from maskwright.rl.bank import Bank
from maskwright.rl.clicks import SLOTS, ClickState, canvas_dice, first_click, start

LOST = 0.02
"""A target that ends this much Dice below its first answer counts as lost."""


@dataclass(frozen=True)
class Curve:
    """Scores of N targets.

    Attributes:
        dice: (N, T + 1) on the canvas, after 0, 1, ... T further clicks.
        clicks, kept: (N,) further clicks that were given, and those that were not undone.
        guessed: (N, T + 1) calibrated guesses of the Dice; 0 where nothing guessed.
    """

    dice: NDArray[np.float64]
    clicks: NDArray[np.int64]
    kept: NDArray[np.int64]
    guessed: NDArray[np.float64]

    @staticmethod
    def cat(parts: Sequence[Curve]) -> Curve:
        """The scores of all targets, one part after the other."""
        return Curve(*(np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(Curve)))

    def summary(self) -> dict[str, Any]:
        """JSON-able: the mean curve, the gain over the first answer with its 95 % interval, and what it cost."""
        first, last = self.dice[:, 0], self.dice[:, -1]
        gain, low, high = paired_bootstrap(last, first)
        return {
            "targets": len(first),
            "dice": [float(value) for value in self.dice.mean(0)],
            "intervals": [list(paired_bootstrap(column, first)) for column in self.dice.T],
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
    found = []
    for rows in torch.arange(len(bank), device=bank.device).split(batch):
        state = begin(rows) if begin else first_answers(agent, bank, rows, rules.clicks)
        done = agent.refine(bank, state, rules, generator)
        dice = torch.stack([canvas_dice(bank, rows, each.logits) for each in done.states], 1)
        found.append((dice, done.clicks, done.kept, done.quality))
        if progress:
            progress(int(rows[-1]) + 1, len(bank))
    dice, clicks, kept, guessed = (torch.cat(column).cpu().numpy() for column in zip(*found))
    return Curve(dice.astype(np.float64), clicks, kept, guessed.astype(np.float64))


def head_room(agent: Curve, oracle: Curve) -> float | None:
    """(agent - first answer) / (oracle - first answer) of the mean Dice after the last click; None without head-room."""
    first, best = float(oracle.dice[:, 0].mean()), float(oracle.dice[:, -1].mean())
    return None if best - first < 1e-6 else (float(agent.dice[:, -1].mean()) - first) / (best - first)
