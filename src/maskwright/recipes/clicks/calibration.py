"""Calibration on training images that were held out: of the quality head's guesses, and the choice of policy, margins, answer and number
of clicks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskwright.methods.clicks.agent import CandidateClicks, ClickAgent, ClickRules
from maskwright.methods.clicks.openings import imperfect_masks
from maskwright.methods.clicks.scores import Curve, curve, first_answers
from maskwright.nets.quality import QualityHead
from maskwright.rl.bank import Bank
from maskwright.rl.clicks import ClickState, dice, start_mask

MARGINS = (0.0, 0.005, 0.01, 0.02, 0.04)
"""Margins of acceptance that are tried on the images that are held out."""

MASK_MARGINS = (0.01, 0.02, 0.04, 0.08, 0.15, 1.0)
"""The same for masks to refine. The last one keeps every mask as it is, for agents that would make masks worse."""


@dataclass(frozen=True)
class Calibration:
    """The agent's rules as chosen on held-out targets.

    Attributes:
        policy: name of the candidate that was chosen.
        rules: the agent's, with its margins, its kind of answer and its number of clicks.
        trials: what was tried, with the scores.
        held_out: number of held-out targets.
        reliability: the quality head's raw guesses, and the true Dice; None without a quality head.
    """

    policy: str
    rules: ClickRules
    trials: list[dict[str, Any]]
    held_out: int
    reliability: tuple[NDArray[np.floating], NDArray[np.floating]] | None

    def summary(self) -> dict[str, Any]:
        """For the model folder and the report."""
        return {
            "trials": self.trials,
            "policy": self.policy,
            "margin": self.rules.margin,
            "mask_margin": self.rules.mask_margin,
            "answer": self.rules.answer,
            "clicks": self.rules.clicks,
            "held_out": self.held_out,
        }


def calibrate(
    candidates: Mapping[str, ClickAgent],
    bank: Bank,
    slots: int,
    cost: float,
    generator: Callable[[], torch.Generator],
) -> Calibration:
    """Calibrate the quality head, then choose the policy, the margins, what the agent answers with, and how many clicks it places.

    Args:
        candidates: agents by the name of their policy, with the same other networks; the guesses on the last one's masks are calibrated.
        bank: held-out targets, with truth.
        slots: room for prompts in the states of masks to refine.
        cost: what a click must bring, in units of Dice.
        generator: makes the random numbers of the masks to refine, the same at each call.
    """
    agent = list(candidates.values())[-1]
    quality, reliability = agent.quality, None
    with torch.no_grad():
        if quality is not None:
            reliability = _calibrate_quality(quality, agent, bank)
        trials = []
        for name, candidate in candidates.items():
            for margin in MARGINS if quality is not None else (0.0,):
                found = curve(candidate, bank, replace(candidate.rules, margin=margin))
                tried = {"policy": name, "margin": margin}
                trials += [tried | ended | scores.summary() for ended, scores in _endings(found, candidate.rules)]
        best = max(trials, key=lambda trial: _worth(trial, 0.25, 0.1) - cost * trial["clicks"])
        agent = candidates[best["policy"]]
        rules = replace(
            agent.rules,
            margin=best["margin"],
            answer=best["answer"],
            clicks=best["most_clicks"],
            mask_clicks=agent.rules.clicks,
        )
        masks = _mask_trials(agent, rules, bank, slots, generator) if quality is not None else []
    mask_margin = max(masks, key=lambda trial: _worth(trial, 0.5, 0.1))["margin"] if masks else 0.0
    rules = replace(rules, mask_margin=mask_margin)
    return Calibration(best["policy"], rules, trials + masks, len(bank), reliability)


def _endings(found: Curve, rules: ClickRules) -> Iterator[tuple[dict[str, Any], Curve]]:
    """An agent that answers with SAM's masks, and those that answer with the fused one and place no, one, ... clicks: all in one curve."""
    yield {"answer": "sam", "most_clicks": rules.clicks}, found.of_sam()
    if rules.answer == "fused":
        for clicks in range(rules.clicks + 1):
            yield {"answer": "fused", "most_clicks": clicks}, found.until(clicks)


def _calibrate_quality(
    quality: QualityHead, agent: ClickAgent, bank: Bank
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Fit the quality head's calibration to the true Dice; returns the raw guesses and the true Dice."""
    guesses, true = [], []

    def watch(state: ClickState, candidates: CandidateClicks, raw: Tensor | None) -> None:
        assert raw is not None
        guesses.append(raw.flatten())
        dice_now = dice(bank, state.rows, state.logits)[:, None]
        true.append(torch.cat([dice_now, dice(bank, state.rows, candidates.logits)], 1).flatten())

    rules = replace(agent.rules, stop=False)
    for rows in torch.arange(len(bank), device=bank.device).split(16):
        refinement = agent.refine(bank, first_answers(agent, bank, rows, rules.clicks), rules, watch=watch)
        for state in refinement.states if rules.answer == "fused" else ():
            answer = agent.answer(bank, state)
            guesses.append(answer.guesses)
            true.append(dice(bank, state.rows, answer.logits))
    reliability = torch.cat(guesses).cpu().numpy(), torch.cat(true).cpu().numpy()
    quality.calibrate(*reliability)
    return reliability


def _mask_trials(
    agent: ClickAgent, rules: ClickRules, bank: Bank, slots: int, generator: Callable[[], torch.Generator]
) -> list[dict[str, Any]]:
    """The gain of refining masks with every margin; half of the masks are poor, half good and easily made worse."""
    trials = []
    for margin in MASK_MARGINS:
        draws = generator()

        def begin(rows: Tensor, draws: torch.Generator = draws) -> ClickState:
            severity = torch.where(rows % 2 == 0, 1.0, 0.4)
            return start_mask(agent.sam, bank, rows, imperfect_masks(bank, rows, draws, severity), slots=slots)

        scores = curve(agent, bank, replace(rules, mask_margin=margin), begin=begin).summary()
        ended = {"answer": rules.answer, "most_clicks": rules.mask_clicks}
        trials.append({"policy": "masks refined", "margin": margin, **ended, **scores})
    return trials


def _worth(trial: dict[str, Any], doubt: float, loss: float) -> float:
    """The mean gain, less ``doubt`` times the width of its interval and ``loss`` times the share of targets that lose: few targets have
    wide intervals, and then the most cautious rules win."""
    gain, low, high = trial["gain"]
    return gain - doubt * (high - low) - loss * trial["lost"]
