"""The preset ``paper``: AlignSAM's training, in the order in which things happen (paper, section 3).

All images are one vector environment: an episode clicks on each of them ``--clicks`` times, SRM learns after every click, the policy at
the episode's end. All random numbers are functions of (seed, stream, episode and click), so a resumed run repeats an uninterrupted one
exactly.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

from maskwright.engine.origin import Origin
from maskwright.methods.autoprompt.agent import (
    OPENING,
    Recalibrator,
    SelfPrompter,
    SelfPromptRules,
    foreground_share,
    last_mask,
    start_with_clicks,
)
from maskwright.nets.place_policy import PlacePolicy
from maskwright.nets.recalibrate import SemanticRecalibration, recalibration_loss
from maskwright.recipes.alignsam.trainer import Stream, Trainer
from maskwright.rl import ppo
from maskwright.rl.bank import Bank
from maskwright.rl.clicks import ClickState
from maskwright.rl.envs import ClickEnvSettings, ClickVectorEnv
from maskwright.rl.rewards import foreground_reward, is_known, truth_label
from maskwright.sam.click_grid import cells_of
from maskwright.sam.sam import Sam

BLANK_SHARE = 0.2
"""Share of SRM's training samples without a mask (M = 1), as at the start of every prediction. Not given in the paper."""


class PaperTrainer(Trainer):
    """Policy and SRM, learnt as published."""

    networks: ClassVar = {"model": "policy", "srm": "srm"}

    def build(self) -> SelfPrompter:
        config = self.config
        self.srm = SemanticRecalibration(self.sam.width, self.branch).to(self.device)
        self.policy = PlacePolicy(self.sam.width, config.grid).to(self.device)
        self.modules = {"policy": self.policy, "srm": self.srm}
        self.optimizer = torch.optim.Adam(self.policy.parameters(), lr=config.lr)
        self.srm_optimizer = torch.optim.Adam(self.srm.parameters(), lr=config.srm_lr)
        agent = SelfPrompter(
            self.sam, self.srm, self.policy, self.clip, config.text, SelfPromptRules(clicks=self.clicks)
        )
        self.recalibrator = Recalibrator(self.srm, agent.semantic(self.bank))
        truth = self.bank.known_truth
        self.target = foreground_share(truth.area, truth.counted, self.bank.embedding.low.shape[-2:])
        self.env = ClickVectorEnv(
            self.sam,
            self.bank,
            len(self.bank),
            ClickEnvSettings(
                observation=None,
                grid=config.grid,
                labeller=self.recalibrator,
                max_clicks=self.clicks,
                reward=foreground_reward,
                opening=truth_opening,
                shuffle=False,
            ),
            autoreset_mode=AutoresetMode.DISABLED,
        )
        self.ppo = ppo.Settings(
            epochs=config.ppo_epochs,
            clip=config.ppo_clip,
            gamma=config.gamma,
            smoothing=config.smoothing,
            entropy=config.entropy,
            normalise=config.normalise,
            max_kl=config.max_kl,
        )
        return agent

    def start_from(self, origin: Origin) -> None:
        self.require_sam(origin)
        origin.fill(self.policy, "model", flags="--grid, --preset")
        origin.fill(self.srm, "srm", flags="--text, --clip, --preset")

    def learning(self) -> dict[str, Any]:
        return {
            "policy": self.policy,
            "srm": self.srm,
            "optimizer": self.optimizer,
            "srm_optimizer": self.srm_optimizer,
        }

    # ------------------------------------------------------------------------------------------------ an episode

    def episode(self) -> dict[str, float]:
        """Play on all images; SRM learns after each click, the policy at the end."""
        rollout = self.play()
        losses = ppo.update(self.policy, self.optimizer, rollout, self.ppo)
        self.session.watch(torch.tensor([*losses.values()]))
        rewards = rollout.rewards
        self.session.show(reward=float(rewards.mean()))
        # +1 on the foreground, −1 off it, 0 where that is unknown.
        rate = float((rewards > 0).sum() / (rewards != 0).sum().clamp(min=1))
        return {"reward": float(rewards.mean()), "foreground_rate": rate} | losses

    def play(self) -> ppo.Rollout:
        """One episode on all images."""
        config, count = self.config, len(self.bank)
        self.env.reset(seed=self.config.seed * 1_000_003 + self.stage.step, options={"rows": np.arange(count)})
        features = self.bank.embedding.low[self.bank.image].float()
        # No cell twice, as in prediction; else clicking one good place again and again would be rewarded each time.
        clicked = self.env.state.points[:, :OPENING]
        free = torch.ones(count, config.grid**2, dtype=torch.bool, device=self.device)
        free = free.scatter(
            1, cells_of(clicked, torch.zeros_like(clicked[..., 0]).long(), self.bank.size, config.grid), False
        )
        steps = []
        for number in range(self.clicks):
            moment = self.stage.step * self.clicks + number
            mask = last_mask(self.bank, self.env.state)
            with torch.no_grad():
                state = self.policy.state(features, mask)
                logits, values = self.policy(state)
            free = free | ~free.any(1, keepdim=True)
            log_probs = ppo.log_probabilities(logits, free)
            actions = ppo.sampler(self.session.generator(Stream.ACTIONS, moment))(log_probs)
            log_prob = log_probs.gather(1, actions[:, None])[:, 0]
            before = self.env.state
            _, rewards, *_ = self.env.step(actions.cpu().numpy())
            steps.append(
                {
                    "states": state,
                    "allowed": free,
                    "actions": actions,
                    "log_probs": log_prob,
                    "values": values,
                    "rewards": torch.from_numpy(rewards).to(self.device),
                }
            )
            free = free.scatter(1, actions[:, None], False)
            self.log_label_accuracy(before, self.env.state)
            self.srm_step(last_mask(self.bank, self.env.state), self.session.generator(Stream.SRM, moment))
        return ppo.Rollout.stack(steps)

    def log_label_accuracy(self, before: ClickState, after: ClickState) -> None:
        """Average for the log how often SRM's label of the click is right."""
        slot = before.tokens
        rows = torch.arange(len(slot), device=self.device)
        place = after.points[rows, slot]
        known = is_known(self.bank, after.rows, place)
        right = (after.labels[rows, slot] == truth_label(self.bank, after, place)) & known
        self.session.average(label_accuracy=right.sum() / known.sum().clamp(min=1))

    def srm_step(self, mask: Tensor, generator: torch.Generator) -> None:
        """Passes of SRM over all images, given their present masks (N, h, w)."""
        for _ in range(self.srm_updates):
            order = torch.randperm(len(self.bank), generator=generator).to(self.device)
            blank = torch.rand(len(self.bank), generator=generator).to(self.device) < BLANK_SHARE
            inputs = torch.where(blank[:, None, None], 1.0, mask)
            for rows in order.split(self.config.srm_batch):
                loss = recalibration_loss(self.recalibrator.logits(self.bank, rows, inputs[rows]), self.target[rows])
                self.session.descend(loss, self.srm_optimizer, self.srm.parameters())
                self.session.average(srm_loss=loss)


def truth_opening(sam: Sam, bank: Bank, rows: Tensor, slots: int, generator: np.random.Generator) -> ClickState:
    """The opening of training episodes: one click on the foreground and one off it, each at a random pixel of the truth."""
    truth = bank.known_truth[rows]
    places = []
    for region in (truth.canvas, truth.known & ~truth.canvas):
        # The position of the largest of random numbers over the region is a uniform draw from it, the same on every device.
        chance = torch.from_numpy(generator.random(region.shape, dtype=np.float32)).to(region.device)
        pixel = torch.where(region, chance, -1.0).flatten(1).argmax(1)
        places.append(torch.stack([pixel % bank.size, pixel // bank.size], 1) + 0.5)
    labels = torch.tensor([1, 0], device=rows.device).expand(len(rows), OPENING)
    return start_with_clicks(sam, bank, rows, torch.stack(places, 1), labels, slots)
