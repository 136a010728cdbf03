"""The further networks of AlignSAM's preset ``strong``: a value map of clicks and a quality head for masks.

After "SAM2 Click Agent", improved (see ``recipes.clicks``). SRM learns labels, not masks; here the truth of the training images is used
in full. After each episode some of its states are used again: clicks are tried from them in one decode, the value map learns their true
changes of Dice, and the quality head learns to compare all masks, SRM's among them. The states must be of images that the SRM that
led to them has not learnt from: of others the networks would learn that SRM is always right.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from maskwright.engine.session import rated_groups, set_rate
from maskwright.methods.autoprompt.agent import answers_of, as_answer, with_slots
from maskwright.methods.clicks.agent import (
    CandidateClicks,
    ClickAgent,
    ClickRules,
    allowed_cells,
    contradictions,
    observe,
    peaks_of_both,
)
from maskwright.nets.prompter import Prompter
from maskwright.nets.quality import QualityHead, belief_loss, quality_loss, value_loss
from maskwright.rl.bank import Bank
from maskwright.rl.clicks import ClickState, counterfactual, dice
from maskwright.sam.click_grid import cells_of, places_of
from maskwright.sam.sam import Sam

CLICKS = 4
"""Clicks of the agent after the policy's."""

STEPS, BATCH, MOVES, TRIES = 2, 16, 2, 12
"""After each episode, for each half of the images: batches of states, states in each, moves from a state, and clicks that are tried for a
move."""

SNAPSHOTS = 3
"""States of the episode that are compared with each other."""


class Coach:
    """Value map and quality head, with their optimiser.

    Args:
        sam: frozen.
        lr: learning rate (AdamW).
    """

    def __init__(self, sam: Sam, lr: float = 1.5e-3) -> None:
        self.sam = sam
        self.prompter = Prompter(sam.width).to(sam.device)
        self.quality = QualityHead(self.prompter.hidden).to(sam.device)
        self.parameters = [*self.prompter.parameters(), *self.quality.parameters()]
        self.optimizer = torch.optim.AdamW(rated_groups([(self.parameters, lr)]), weight_decay=1e-2)
        self.agent = ClickAgent(sam, self.prompter, self.quality, ClickRules(clicks=CLICKS))

    def learn(
        self, bank: Bank, states: Sequence[ClickState], recalibrated: Tensor, rate: float, generator: torch.Generator
    ) -> dict[str, float]:
        """Learn from one episode.

        Args:
            bank: of the images, with truth.
            states: of the episode, each of all targets in the order of the bank.
            recalibrated: (N, h, w) in 0..1, SRM's masks of all targets as at the start of a prediction.
            rate: 0..1, factor on the learning rate.
            generator: on the CPU; of the states and of the clicks that are tried.

        Returns:
            Mean losses, and ``lead``: the true change of Dice by the click that the quality head prefers.
        """
        set_rate(self.optimizer, rate)
        history: dict[str, list[Tensor]] = defaultdict(list)
        slots = states[-1].labels.shape[1] + MOVES
        for _ in range(STEPS):
            rows = torch.randperm(len(bank), generator=generator)[:BATCH].to(bank.device)
            snapshots = torch.randperm(len(states), generator=generator)[:SNAPSHOTS].tolist()
            state_of_srm = as_answer(self.sam, bank, rows, recalibrated[rows], slots)
            others = [state_of_srm, *(with_slots(states[i][rows], slots) for i in snapshots)]
            # Each target starts from one of these states at random; the masks of all are compared.
            state = state_of_srm
            which = torch.randint(len(others), (len(rows),), generator=generator).to(rows.device)
            for number, other in enumerate(others[1:], start=1):
                state = other.where(which == number, state)
            for _ in range(MOVES):
                state = self._move(bank, state, others, generator, history)
        means = torch.stack([torch.stack(values).mean() for values in history.values()]).tolist()
        return {f"strong_{name}": mean for name, mean in zip(history, means)}

    def _move(
        self,
        bank: Bank,
        state: ClickState,
        others: Sequence[ClickState],
        generator: torch.Generator,
        history: dict[str, list[Tensor]],
    ) -> ClickState:
        """Try clicks from the states, learn from SAM's answers, and go on by one of them."""
        advice = self.prompter(observe(bank, state))
        grid = advice.values.shape[-1]
        places, labels = self._tries(bank, state, advice.policy.detach(), generator)
        candidates = CandidateClicks(places, labels, *counterfactual(self.sam, bank, state, places, labels))
        answers, answers_of_others = candidates.answers(state), answers_of(others, state)
        dice_before, dice_after = dice(bank, state.rows, state.logits), dice(bank, state.rows, candidates.logits)
        dice_of_others = dice(bank, state.rows, answers_of_others.logits[:, 1:])
        guesses, guesses_of_others = self.quality(advice, answers), self.quality(advice, answers_of_others)
        quality_losses = quality_loss(
            torch.cat([guesses, guesses_of_others[:, 1:]], 1),
            torch.cat([dice_before[:, None], dice_after, dice_of_others], 1),
        )
        cells = cells_of(places, labels, bank.size, grid)
        losses = {
            "belief": belief_loss(advice.truth, bank.known_truth.area[state.rows]),
            "value": value_loss(advice.values, cells, dice_after - dice_before[:, None]),
            "quality": quality_losses["huber"],
            "rank": 8 * quality_losses["rank"],
        }
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack([*losses.values()]).sum().backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        for name, value in losses.items():
            history[name].append(value.detach())
        best = guesses.detach()[:, 1:].argmax(1)
        history["lead"].append((dice_after.gather(1, best[:, None])[:, 0] - dice_before).mean())
        any_candidate = torch.randint(labels.shape[1], (len(state),), generator=generator).to(best.device)
        takes_best = (torch.rand(len(state), generator=generator) < 0.7).to(best.device)
        return candidates.take(state, torch.where(takes_best, best, any_candidate))

    @staticmethod
    @torch.no_grad()
    def _tries(bank: Bank, state: ClickState, policy: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Places (B, M, 2) and labels (B, M): half of them where the value map is highest, the others contradict the answer."""
        grid = state.logits.shape[-1] // 2
        allowed = allowed_cells(state, bank.size)
        scores, against = policy[:, :-1].unflatten(1, (2, grid, grid)), contradictions(state, "random", generator)
        cells = peaks_of_both(scores, TRIES // 2, against, TRIES - TRIES // 2, allowed)
        return places_of(cells, bank.size, grid)
