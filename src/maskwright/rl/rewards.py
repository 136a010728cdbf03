"""Rewards, labellers of clicks, and openings of episodes: the parts in which click environments differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from maskwright.rl.bank import Bank
from maskwright.rl.clicks import ClickState, first_click, start
from maskwright.sam.sam import Sam

BAND = 2
"""Low-resolution pixels on either side of the true outline that count as its neighbourhood."""


@dataclass(frozen=True)
class Transition:
    """One step of B targets.

    Attributes:
        bank: of the targets.
        before, after: the states; equal for targets whose episode was stopped.
        place: (B, 2) x y of the clicks in canvas pixels.
        label: (B,) 1 = on the object, 0 = off it.
        dice_before, dice_after: (B,) on the low-resolution grid.
        stopped: (B,) bool, the agent stopped the episode instead of clicking.
    """

    bank: Bank
    before: ClickState
    after: ClickState
    place: Tensor
    label: Tensor
    dice_before: Tensor
    dice_after: Tensor
    stopped: Tensor


class Reward(Protocol):
    """The reward of a step: (B,) float32."""

    def __call__(self, step: Transition) -> Tensor: ...


class ClickLabeller(Protocol):
    """Decides whether places (B, 2) lie on the object: (B,) int64, 1 or 0."""

    def __call__(self, bank: Bank, state: ClickState, place: Tensor) -> Tensor: ...


class Opening(Protocol):
    """How episodes of some targets (B,) begin: their states after the prompts that the agent does not place itself."""

    def __call__(
        self, sam: Sam, bank: Bank, rows: Tensor, slots: int, generator: np.random.Generator
    ) -> ClickState: ...


def oracle_opening(sam: Sam, bank: Bank, rows: Tensor, slots: int, generator: np.random.Generator) -> ClickState:
    """One click of the oracle, in the middle of the object. Needs the truth; ``generator`` is not used."""
    place, label, _ = first_click(bank, rows)
    return start(sam, bank, rows, place, label, slots=slots)


@dataclass(frozen=True)
class DiceReward:
    """The change of Dice by a click, less what a click costs.

    Attributes:
        cost: of each click, in units of Dice.
        boundary: weight of the change of agreement near the true outline. Its share of the reward is at most half of the
            change of Dice, so that this bonus never turns a worse mask into a gain, nor a better one into a loss.
    """

    cost: float = 0.0
    boundary: float = 0.0

    def __call__(self, step: Transition) -> Tensor:
        change = step.dice_after - step.dice_before
        bonus = torch.zeros_like(change)
        if self.boundary:
            outline = [boundary_agreement(step.bank, state) for state in (step.before, step.after)]
            limit = change.abs() / 2
            bonus = torch.minimum(torch.maximum(self.boundary * (outline[1] - outline[0]), -limit), limit)
        return change + bonus - torch.where(step.stopped, 0.0, self.cost)


def foreground_reward(step: Transition) -> Tensor:
    """+1 for a place on the true object, -1 for another, 0 for stopping (AlignSAM, section 3.2), and where nobody knows."""
    on, known = truth_label(step.bank, step.after, step.place) == 1, is_known(step.bank, step.after.rows, step.place)
    return torch.where(step.stopped | ~known, 0.0, torch.where(on, 1.0, -1.0))


def is_known(bank: Bank, rows: Tensor, place: Tensor) -> Tensor:
    """(B,) bool: whether places (B, 2) lie within the image, where the truth of targets (B,) is labelled."""
    column, row = place.floor().long().clamp(0, bank.size - 1).unbind(-1)
    return bank.known_truth.known[rows, row, column]


def truth_label(bank: Bank, state: ClickState, place: Tensor) -> Tensor:
    """The labeller that reads the truth: for tests, and as an upper bound for other labellers."""
    column, row = place.floor().long().clamp(0, bank.size - 1).unbind(-1)
    return bank.known_truth.canvas[state.rows, row, column].long()


def boundary_agreement(bank: Bank, state: ClickState) -> Tensor:
    """(B,) in 0..1: share of the known area within ``BAND`` low-resolution pixels of the true outline that the mask has right.

    1 where there is no outline.
    """
    truth = bank.known_truth
    area, counted = truth.area[state.rows], truth.counted[state.rows]
    window = 2 * BAND + 1
    object_near, other_near = (
        F.max_pool2d(part[:, None], window, 1, BAND)[:, 0] > 0 for part in (area, counted - area)
    )
    band = counted * (object_near & other_near)
    right = torch.where(state.logits > 0, area, counted - area) * (object_near & other_near)
    total = band.sum((1, 2))
    return torch.where(total > 0, right.sum((1, 2)) / total.clamp(min=1e-6), 1.0)
