"""Reinforcement of the click agent: GRPO on whole roll-outs (Shao et al., "DeepSeekMath", 2024)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from maskwright.methods.clicks.agent import allowed_cells, observe, peaks
from maskwright.nets.prompter import Observation, Prompter
from maskwright.recipes.clicks.config import Config
from maskwright.rl import grpo
from maskwright.rl.bank import Bank
from maskwright.rl.clicks import ClickState, click, dice
from maskwright.sam.click_grid import places_of
from maskwright.sam.sam import Sam

UPDATES = 2
"""Steps of the optimiser on each round of roll-outs."""


@dataclass(frozen=True)
class Trajectories:
    """Roll-outs of T moves: G from each of B first states.

    Attributes:
        observations: T of B·G states.
        cells: T of (B·G, M), the clicks that an action chooses from.
        actions: (B, G, T) index of the click; M is "stop", which then repeats to the end.
        reward, gain, clicks: (B, G) reward, change of Dice, and number of clicks of a roll-out.
    """

    observations: list[Observation]
    cells: list[Tensor]
    actions: Tensor
    reward: Tensor
    gain: Tensor
    clicks: Tensor


class RollOuts:
    """GRPO of the policy: roll-outs from the same first state are compared with each other.

    Args:
        sam: frozen.
        bank: targets with truth.
        prompter: the policy that acts and learns.
        reference: the policy before reinforcement; it proposes the clicks to choose from, and the policy is kept close to it.
        config: of the recipe.
    """

    def __init__(self, sam: Sam, bank: Bank, prompter: Prompter, reference: Prompter, config: Config) -> None:
        self.sam, self.bank, self.config = sam, bank, config
        self.prompter, self.reference = prompter, reference
        self.grid = sam.size // 8

    def learn(
        self, first: ClickState, generator: torch.Generator, descend: Callable[[Tensor], None]
    ) -> dict[str, Tensor]:
        """One round of GRPO from the states ``first``; ``descend`` takes an optimiser step on a loss. Returns scalars for the log."""
        with torch.no_grad():
            trajectories = self._play(first, generator)
        present = torch.ones(1, len(first), dtype=torch.bool, device=trajectories.reward.device)
        advantage = grpo.advantages(trajectories.reward[None], present)
        with torch.no_grad():
            anchor = self._log_probabilities(self.reference, trajectories)
        old, diagnostics = None, None
        for _ in range(UPDATES):
            new = self._log_probabilities(self.prompter, trajectories)
            old = new.detach() if old is None else old
            loss, diagnostics = grpo.grpo_loss(new, old, advantage, reference=anchor, kl=self.config.kl)
            if not int(diagnostics.groups):
                break
            descend(loss)
        means = {"reward": trajectories.reward, "rl_gain": trajectories.gain, "rl_clicks": trajectories.clicks}
        scalars = {name: values.mean() for name, values in means.items()}
        return scalars if diagnostics is None else scalars | {"rl_kl": diagnostics.kl}

    def _play(self, first: ClickState, generator: torch.Generator) -> Trajectories:
        """Let the policy act: ``groups`` roll-outs from each first state."""
        config, device, groups = self.config, first.rows.device, self.config.groups
        state = first[torch.arange(len(first), device=device).repeat_interleave(groups)]
        over = torch.zeros(len(state), dtype=torch.bool, device=device)
        best = now = before = dice(self.bank, state.rows, state.logits)
        clicks = torch.zeros(len(state), device=device)
        observations, cells, actions = [], [], []
        for _ in range(config.clicks):
            observation = observe(self.bank, state)
            allowed = allowed_cells(state, self.bank.size)
            scores = self.reference(observation).policy[:, :-1].unflatten(1, (2, self.grid, self.grid))
            choices = peaks(scores, allowed, config.tries)
            logits = self._choices(self.prompter, observation, choices)
            noise = torch.rand(logits.shape, generator=generator).to(device).clamp(1e-9, 1 - 1e-9)
            action = (logits - (-noise.log()).log()).argmax(1)
            over = over | (action == choices.shape[1])
            action = torch.where(over, choices.shape[1], action)
            observations.append(observation)
            cells.append(choices)
            actions.append(action)
            cell = choices.gather(1, action.clamp(max=choices.shape[1] - 1)[:, None])
            places, labels = places_of(cell[:, 0], self.bank.size, self.grid)
            state = click(self.sam, self.bank, state, places, labels, active=~over)
            clicks = clicks + (~over)
            now = dice(self.bank, state.rows, state.logits)
            best = torch.maximum(best, now)
        reward = (now - before) - config.cost * clicks - (best - now)
        shape = (len(first), groups)
        return Trajectories(
            observations,
            cells,
            torch.stack(actions, 1).view(*shape, -1),
            reward.view(shape),
            (now - before).view(shape),
            clicks.view(shape),
        )

    def _choices(self, prompter: Prompter, observation: Observation, cells: Tensor) -> Tensor:
        """(N, M + 1) unnormalised log-probabilities of the cells (N, M), and of "stop"."""
        policy = prompter(observation).policy
        stop = policy[:, -1:] if self.config.stop else torch.full_like(policy[:, -1:], -1e9)
        return torch.cat([policy[:, :-1].gather(1, cells), stop], 1)

    def _log_probabilities(self, prompter: Prompter, trajectories: Trajectories) -> Tensor:
        """(B, G, T) log-probabilities of the actions; 0 after the end, where there was nothing to choose."""
        moves = []
        over = torch.zeros(trajectories.actions.shape[:2], dtype=torch.bool, device=trajectories.actions.device)
        for move, (observation, cells) in enumerate(zip(trajectories.observations, trajectories.cells)):
            action = trajectories.actions[..., move]
            log_probability = (
                self._choices(prompter, observation, cells).log_softmax(1).gather(1, action.reshape(-1, 1))
            )
            moves.append(log_probability.view(action.shape).masked_fill(over, 0))
            over = over | (action == cells.shape[1])
        return torch.stack(moves, -1)
