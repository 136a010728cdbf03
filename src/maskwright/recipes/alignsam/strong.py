"""What the preset ``strong`` of AlignSAM learns beside policy and SRM: a value map of clicks and the quality of masks.

From "SAM2 Click Agent", repaired (see ``recipes.clicks``). Policy and SRM are paid for labels, not for masks; here the truth of the
training images is used in full. After each episode some of its states are visited again: clicks are tried from them in one decode, their
true changes of Dice teach the value map, and all the masks at hand, SRM's own among them, teach the head that compares them.
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

STEPS, BATCH, MOVES, TRIES = 4, 16, 2, 12
"""After each episode: beginnings of so many states, moves from each, and clicks that are tried for a move."""

SNAPSHOTS = 3
"""States of the episode that are compared with each other."""


class Coach:
    """Value map and quality head, with their optimiser.

    Args:
        sam: frozen.
        bank: of the training images, with truth.
        lr: learning rate (AdamW).
    """

    def __init__(self, sam: Sam, bank: Bank, lr: float = 1.5e-3) -> None:
        self.sam, self.bank = sam, bank
        self.prompter = Prompter(sam.width).to(bank.device)
        self.quality = QualityHead(self.prompter.hidden).to(bank.device)
        self.parameters = [*self.prompter.parameters(), *self.quality.parameters()]
        self.optimizer = torch.optim.AdamW(rated_groups([(self.parameters, lr)]), weight_decay=1e-2)
        self.agent = ClickAgent(sam, self.prompter, self.quality, ClickRules(clicks=CLICKS))

    def learn(
        self, visited: Sequence[ClickState], recalibrated: Tensor, rate: float, generator: torch.Generator
    ) -> dict[str, float]:
        """Learn from one episode.

        Args:
            visited: its states, all targets in each, in the order of the bank.
            recalibrated: (N, h, w) in 0..1, SRM's masks of all targets as at the start of a prediction.
            rate: share of the learning rate.
            generator: of what is chosen and tried.

        Returns:
            Mean losses, and ``lead``: the true change of Dice by the click that the quality head prefers.
        """
        set_rate(self.optimizer, rate)
        told: dict[str, list[float]] = defaultdict(list)
        slots = visited[-1].labels.shape[1] + MOVES
        for _ in range(STEPS):
            rows = torch.randperm(len(self.bank), generator=generator)[:BATCH].to(self.bank.device)
            chosen = torch.randperm(len(visited), generator=generator)[:SNAPSHOTS].tolist()
            own = as_answer(self.sam, self.bank, rows, recalibrated[rows], slots)
            others = [own, *(with_slots(visited[i][rows], slots) for i in chosen)]
            # Each target begins with one of the masks at hand; all of them are judged.
            state = own
            which = torch.randint(len(others), (len(rows),), generator=generator).to(rows.device)
            for number, other in enumerate(others[1:], start=1):
                state = other.where(which == number, state)
            for _ in range(MOVES):
                state = self._move(state, others, generator, told)
        return {f"strong_{name}": sum(values) / len(values) for name, values in told.items()}

    def _move(
        self, state: ClickState, others: Sequence[ClickState], generator: torch.Generator, told: dict[str, list[float]]
    ) -> ClickState:
        """Try clicks from the states, learn from SAM's answers, and go on by one of them."""
        bank = self.bank
        advice = self.prompter(observe(bank, state))
        grid = advice.values.shape[-1]
        places, labels = self._tries(state, advice.policy.detach(), generator)
        looks = CandidateClicks(places, labels, *counterfactual(self.sam, bank, state, places, labels))
        tried = looks.answers(state)
        compared = answers_of(others, state)
        now, after = dice(bank, state.rows, state.logits), dice(bank, state.rows, looks.logits)
        elsewhere = dice(bank, state.rows, compared.logits[:, 1:])
        guesses, further = self.quality(advice, tried), self.quality(advice, compared)
        found = quality_loss(torch.cat([guesses, further[:, 1:]], 1), torch.cat([now[:, None], after, elsewhere], 1))
        cells = cells_of(places, labels, bank.size, grid)
        losses = {
            "belief": belief_loss(advice.truth, bank.known_truth.area[state.rows]),
            "value": value_loss(advice.values, cells, after - now[:, None]),
            "quality": found["huber"],
            "rank": 8 * found["rank"],
        }
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack([*losses.values()]).sum().backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        for name, value in losses.items():
            told[name].append(float(value.detach()))
        best = guesses.detach()[:, 1:].argmax(1)
        told["lead"].append(float((after.gather(1, best[:, None])[:, 0] - now).mean()))
        anyone = torch.randint(labels.shape[1], (len(state),), generator=generator).to(best.device)
        led = (torch.rand(len(state), generator=generator) < 0.7).to(best.device)
        return looks.take(state, torch.where(led, best, anyone))

    @torch.no_grad()
    def _tries(self, state: ClickState, policy: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Places (B, M, 2) and labels (B, M): half of them where the value map is highest, the others contradict the answer."""
        grid = state.logits.shape[-1] // 2
        allowed = allowed_cells(state, self.bank.size)
        scores, against = policy[:, :-1].unflatten(1, (2, grid, grid)), contradictions(state, "random", generator)
        cells = peaks_of_both(scores, TRIES // 2, against, TRIES - TRIES // 2, allowed)
        return places_of(cells, self.bank.size, grid)
