"""The published agent as a baseline: a convolutional network that sees pixels, mask and clicks.

Its policy is that of Stable-Baselines3 (``CnnPolicy``), learnt by PPO in ``rl.envs``. Every click is kept, and it never stops.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from torch import Tensor

from maskwright.methods.clicks.agent import CandidateClicks, ClickAgent, ClickRules, Refinement
from maskwright.rl.bank import Bank
from maskwright.rl.clicks import ClickState
from maskwright.rl.envs import GRID, PIXELS, ClickEnvSettings, ClickVectorEnv
from maskwright.rl.sb3 import ActorCriticCnnPolicy
from maskwright.sam.sam import Sam


def pixel_policy(grid: int = GRID, pixels: int = PIXELS) -> ActorCriticCnnPolicy:
    """An untrained policy over ``2 · grid²`` clicks that sees 6 x ``pixels`` x ``pixels``."""
    observation = spaces.Box(0, 255, (6, pixels, pixels), np.uint8)
    return ActorCriticCnnPolicy(observation, spaces.Discrete(2 * grid * grid), lambda _: 0.0)


class PixelAgent(ClickAgent):
    """An agent whose clicks come from a pixel policy.

    Args:
        sam: frozen.
        policy: of :func:`pixel_policy`'s shape.
        clicks: how many it places.
        grid, pixels: what the policy was trained with.
    """

    def __init__(
        self, sam: Sam, policy: ActorCriticCnnPolicy, clicks: int, grid: int = GRID, pixels: int = PIXELS
    ) -> None:
        super().__init__(sam, None, None, ClickRules(clicks, 1, "policy", "always", stop=False))
        self.policy, self.grid, self.pixels = policy, grid, pixels

    @torch.no_grad()
    def refine(
        self,
        bank: Bank,
        state: ClickState,
        rules: ClickRules | None = None,
        generator: torch.Generator | None = None,
        watch: Callable[[ClickState, CandidateClicks, Tensor | None], None] | None = None,
    ) -> Refinement:
        """As in ``ClickAgent``; with other ``places`` than ``policy`` it acts as a ``ClickAgent``."""
        rules = rules or self.rules
        if rules.places != "policy":
            return super().refine(bank, state, rules, generator, watch)

        def opening(sam: Sam, bank: Bank, rows: Tensor, slots: int, generator: np.random.Generator) -> ClickState:
            return state

        env = ClickVectorEnv(
            self.sam,
            bank,
            len(state),
            ClickEnvSettings(
                observation="pixels",
                pixels=self.pixels,
                grid=self.grid,
                max_clicks=rules.clicks,
                reward=lambda step: torch.zeros_like(step.dice_after),
                opening=opening,
            ),
            autoreset_mode=AutoresetMode.DISABLED,
        )
        observation, _ = env.reset(options={"rows": state.rows.cpu().numpy()})
        history = [state]
        for _ in range(rules.clicks):
            actions, _ = self.policy.predict(observation, deterministic=True)
            observation, *_ = env.step(actions)
            history.append(env.state)
        clicks = torch.full_like(state.rows, rules.clicks)
        quality = torch.zeros(len(state), device=state.rows.device)
        return Refinement(history, quality, clicks, clicks)

    def description(self) -> dict[str, Any]:
        """The arguments of :func:`pixel_policy`, as JSON."""
        return {"grid": self.grid, "pixels": self.pixels}
