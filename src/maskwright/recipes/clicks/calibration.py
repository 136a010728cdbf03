"""What is decided on training images that nothing learnt from: calibrated guesses, the policy, and the margins of acceptance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskwright.methods.clicks.agent import CandidateClicks, ClickAgent, ClickRules
from maskwright.methods.clicks.beginnings import somebodys_masks
from maskwright.methods.clicks.scores import curve, first_answers
from maskwright.nets.quality import QualityHead
from maskwright.rl.bank import Bank
from maskwright.rl.clicks import ClickState, dice, start_mask

MARGINS = (0.0, 0.005, 0.01, 0.02, 0.04)
"""Margins of acceptance that are tried on the images held out."""

MASK_MARGINS = (0.01, 0.02, 0.04, 0.08, 0.15, 1.0)
"""The same for masks to refine. The last leaves every mask as it is: better that than a loss."""


@dataclass(frozen=True)
class Settlement:
    """What was decided.

    Attributes:
        policy: name of the candidate that was chosen.
        rules: the agent's, with its margins.
        trials: what was tried, with its scores.
        held_out: targets that decided it.
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
            "held_out": self.held_out,
        }


def settle(
    candidates: Mapping[str, ClickAgent],
    held: Bank,
    slots: int,
    generator: Callable[[], torch.Generator],
) -> Settlement:
    """Calibrate the quality head, then choose the policy and the margins.

    Args:
        candidates: agents by the name of their policy, alike but for it; guesses of the last one are calibrated.
        held: targets that nothing learnt from.
        slots: prompts that a state of masks to refine has room for.
        generator: makes the random numbers of the masks to refine, the same at each call.
    """
    agent = list(candidates.values())[-1]
    quality, reliability = agent.quality, None
    with torch.no_grad():
        if quality is not None:
            reliability = _calibrate(quality, agent, held)
        trials = []
        for name, candidate in candidates.items():
            for margin in MARGINS if quality is not None else (0.0,):
                scores = curve(candidate, held, replace(candidate.rules, margin=margin)).summary()
                trials.append({"policy": name, "margin": margin, **scores})
        best = max(trials, key=lambda trial: _worth(trial, 0.25, 0.1))
        chosen = candidates[best["policy"]]
        rules = replace(chosen.rules, margin=best["margin"])
        masks = _mask_trials(chosen, rules, held, slots, generator) if quality is not None else []
    mask_margin = max(masks, key=lambda trial: _worth(trial, 0.5, 0.1))["margin"] if masks else 0.0
    rules = replace(rules, mask_margin=mask_margin)
    return Settlement(best["policy"], rules, trials + masks, len(held), reliability)


def _calibrate(
    quality: QualityHead, agent: ClickAgent, held: Bank
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Bring the quality head's guesses to what is true of them; returns the raw guesses and the true Dice."""
    guesses, true = [], []

    def watch(state: ClickState, looks: CandidateClicks, judged: Tensor | None) -> None:
        assert judged is not None
        guesses.append(judged.flatten())
        own = dice(held, state.rows, state.logits)[:, None]
        true.append(torch.cat([own, dice(held, state.rows, looks.logits)], 1).flatten())

    rules = replace(agent.rules, stop=False)
    for rows in torch.arange(len(held), device=held.device).split(16):
        agent.refine(held, first_answers(agent, held, rows, rules.clicks), rules, watch=watch)
    reliability = torch.cat(guesses).cpu().numpy(), torch.cat(true).cpu().numpy()
    quality.calibrate(*reliability)
    return reliability


def _mask_trials(
    agent: ClickAgent, rules: ClickRules, held: Bank, slots: int, generator: Callable[[], torch.Generator]
) -> list[dict[str, Any]]:
    """What refining masks gains with every margin: of poor masks, and of good ones that are easily made worse."""
    trials = []
    for margin in MASK_MARGINS:
        draws = generator()

        def begin(rows: Tensor, draws: torch.Generator = draws) -> ClickState:
            spoilt = torch.where(rows % 2 == 0, 1.0, 0.4)
            return start_mask(agent.sam, held, rows, somebodys_masks(held, rows, draws, spoilt), slots=slots)

        scores = curve(agent, held, replace(rules, mask_margin=margin), begin=begin).summary()
        trials.append({"policy": "masks refined", "margin": margin, **scores})
    return trials


def _worth(trial: dict[str, Any], doubt: float, loss: float) -> float:
    """The mean gain less what its uncertainty could hide, and less the targets that lose: where little is known, caution wins."""
    gain, low, high = trial["gain"]
    return gain - doubt * (high - low) - loss * trial["lost"]
