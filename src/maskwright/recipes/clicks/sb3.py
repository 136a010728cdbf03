"""The baseline ``maskwright train clicks --learner sb3``: Stable-Baselines3's PPO on pixels, with the published settings."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

from maskwright.engine.origin import Origin
from maskwright.methods.clicks.agent import ClickAgent
from maskwright.methods.clicks.pixel_agent import PixelAgent
from maskwright.nets.prompter import Prompter
from maskwright.recipes.clicks.trainer import Trainer
from maskwright.rl.envs import ClickEnvSettings, ClickVectorEnv
from maskwright.rl.published_agent import BOUNDARY
from maskwright.rl.rewards import DiceReward
from maskwright.rl.sb3 import PPO, BaseCallback, Sb3ClickVecEnv

ROLL_OUT = 2048
"""Environment steps between two updates of PPO."""

AGENT = "agent.zip"
"""What Stable-Baselines3 itself saves, in the run's folder: ``PPO.load`` continues it in a ``ClickVectorEnv`` with these rules.
Nothing of maskwright reads it: such a file may hold code."""

SETTINGS: dict[str, Any] = {"learning_rate": 2.5e-4, "clip_range": 0.1, "ent_coef": 0.02, "batch_size": 128}
"""As published; the rest is Stable-Baselines3's default."""


class Sb3Trainer(Trainer):
    """The baseline: the same data, learnt by PPO. One step of the stage is one step of every environment."""

    def parts(self) -> dict[str, Any]:
        """Nothing: Stable-Baselines3 cannot continue a training exactly."""
        return {}

    def start_from(self, origin: Origin) -> None:
        raise origin.refuse("the baseline --learner sb3 always starts anew; leave out --init")

    def fit(self) -> None:
        config = self.config
        env = ClickVectorEnv(
            self.sam,
            self.bank,
            config.batch,
            ClickEnvSettings("pixels", max_clicks=config.clicks, reward=DiceReward(boundary=BOUNDARY)),
            autoreset_mode=AutoresetMode.SAME_STEP,
        )
        moves = max(2, ROLL_OUT // config.batch)
        if self.stage.total is not None:
            moves = min(moves, int(self.stage.total))
        settings = SETTINGS | {"batch_size": min(SETTINGS["batch_size"], moves * config.batch)}
        self.ppo = PPO(
            "CnnPolicy", Sb3ClickVecEnv(env), n_steps=moves, seed=config.seed, device=self.device, **settings
        )
        self.stage.began = self.session.timer.minutes
        with self.session.timer.spending(self.stage):
            self.ppo.learn(10**12, callback=_Budgeted(self))
        self.ppo.save(self.session.run.folder / AGENT)
        self.stage.fraction, self.stage.over = 1.0, True

    def calibrate(self) -> None:
        """Nothing to choose: every click is kept."""
        self.calibration = {
            "trials": [],
            "policy": "sb3",
            "margin": 0.0,
            "mask_margin": 0.0,
            "answer": "sam",
            "clicks": self.config.clicks,
            "held_out": len(self.held_out),
        }

    def agent(self, prompter: Prompter | None = None) -> ClickAgent:
        return PixelAgent(self.sam, self.ppo.policy, self.config.clicks)  # type: ignore[arg-type]

    def exported(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, dict[str, Tensor]] | None]:
        agent = self.agent()
        assert isinstance(agent, PixelAgent)
        description = {"learner": "sb3", "pixel_policy": agent.description(), "clicks": self.config.clicks}
        return description, dict(self.ppo.policy.state_dict()), None


class _Budgeted(BaseCallback):
    """Ends the training when the budget is used up, and logs.

    A roll-out under way is finished and learnt from: Stable-Baselines3 would drop an unfinished one.
    """

    def __init__(self, trainer: Sb3Trainer) -> None:
        super().__init__()
        self.session, self.stage = trainer.session, trainer.stage
        self.over = False

    def _on_rollout_start(self) -> None:
        self.over = self.session.timer.share(self.stage) >= 1

    def _on_step(self) -> bool:
        if self.over:
            return False
        self.session.average(reward=torch.as_tensor(self.locals["rewards"]).mean())
        self.stage.step += 1
        if self.stage.step % 100 == 0:
            self.session.log_averages()
        self.stage.done = self.stage.counted = self.stage.step
        self.session.moved(self.stage)
        return True
