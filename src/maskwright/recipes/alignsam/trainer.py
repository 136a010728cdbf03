"""AlignSAM's training, in the order in which ``main`` calls it.

All images are one vector environment: an episode clicks on each of them ``--clicks`` times, SRM learns after every click, the policy at
the episode's end. All random numbers are functions of (seed, stream, episode and click), so a resumed run repeats an uninterrupted one
exactly.
"""

from __future__ import annotations

import math
from enum import IntEnum
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor, nn

from maskwright.data.dataset import Dataset
from maskwright.engine.best import Best
from maskwright.engine.origin import Origin
from maskwright.engine.scoring import evenly_spread
from maskwright.engine.session import Session, Trainable
from maskwright.engine.timer import Part, Validations
from maskwright.errors import DataError
from maskwright.methods.autoprompt.agent import (
    OPENING,
    Recalibrator,
    SelfPrompter,
    SelfPromptRules,
    last_mask,
    resized,
    start_with_clicks,
)
from maskwright.methods.autoprompt.scores import foreground_bank, foreground_of, scores_on_canvas
from maskwright.nets.clip_surgery import ClipSurgery
from maskwright.nets.place_policy import PlacePolicy
from maskwright.nets.recalibrate import SemanticRecalibration, recalibration_loss
from maskwright.recipes.alignsam.config import Config
from maskwright.recipes.alignsam.strong import Coach
from maskwright.rl import ppo
from maskwright.rl.bank import Bank
from maskwright.rl.clicks import ClickState
from maskwright.rl.envs import ClickEnvSettings, ClickVectorEnv
from maskwright.rl.rewards import foreground_reward
from maskwright.sam.sam import Sam

BLANK_SHARE = 0.2
"""Share of SRM's training samples without a mask (M = 1), as at the start of every prediction. Not given in the paper."""

VALIDATION_COST = 0.3
"""Time of an image in a validation relative to one in an episode: an estimate, to bound the time of validations."""


class Stream(IntEnum):
    """Purposes of the run's random numbers; see ``Session.generator``."""

    ACTIONS = 0
    SRM = 1
    COACH = 2


class Trainer(Trainable):
    """Networks, images and optimisers of one run. Methods in the order in which ``main`` calls them."""

    recipe = "alignsam"
    networks: ClassVar = {"model": "policy", "srm": "srm", "prompter": "prompter", "quality": "quality"}

    def __init__(self, config: Config, session: Session) -> None:
        self.config, self.session, self.device = config, session, session.device
        (self.stage,) = session.plan(config.length, Part("episodes", "training"))
        # Errors in the words are raised before anything that takes time.
        clip = ClipSurgery.load(config.clip, size=config.clip_size).to(self.device) if config.text else None
        if clip is not None:
            clip.check_names(config.text)
        self.foreground = foreground_of(session.dataset, config.category, config.text)
        self.sam = Sam.load(config.sam, size=config.size).to(self.device).requires_grad_(False)
        session.crop_images(self.sam.size)
        dataset = session.dataset
        # The networks that learn are tiny, and stay in float32.
        session.precision.lower(self.sam.networks())
        self.bank = self._shots(dataset)
        val = dataset.split("val")
        val = val.with_samples([sample for sample in val if sample.labels.mask is not None])
        val = evenly_spread(val, config.validation_images)
        self.val = foreground_bank(self.sam, val, self.foreground) if len(val) else None
        self.validations = Validations(config.validations, VALIDATION_COST * len(val) / len(self.bank))
        torch.manual_seed(config.seed)
        branch = "explicit" if config.text else "implicit"
        srm = SemanticRecalibration(self.sam.width, branch).to(self.device)
        policy = PlacePolicy(self.sam.width, config.grid).to(self.device)
        # Last, so that policy and SRM begin alike in both presets.
        self.coach = Coach(self.sam, self.bank) if config.preset == "strong" else None
        self.agent = SelfPrompter(
            self.sam,
            srm,
            policy,
            clip,
            config.text,
            SelfPromptRules(clicks=config.clicks, refine=self.coach is not None),
            None if self.coach is None else self.coach.agent,
        )
        self.srm, self.policy = self.agent.srm, self.agent.policy
        modules: dict[str, nn.Module] = {"policy": self.policy, "srm": self.srm}
        if self.coach is not None:
            modules |= {"prompter": self.coach.prompter, "quality": self.coach.quality}
        self.best = Best(modules, config.keep, config.patience)
        self.optimizer = torch.optim.Adam(self.policy.parameters(), lr=config.lr)
        self.srm_optimizer = torch.optim.Adam(self.srm.parameters(), lr=config.srm_lr)
        self.recalibrator = Recalibrator(self.srm, self.agent.semantic(self.bank))
        self.target = self._target()
        self.env = ClickVectorEnv(
            self.sam,
            self.bank,
            len(self.bank),
            ClickEnvSettings(
                observation=None,
                grid=config.grid,
                labeller=self.recalibrator,
                max_clicks=config.clicks,
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
        )
        self.states: list[ClickState] = []

    # ------------------------------------------------------------------------------------------------ set-up

    def _shots(self, dataset: Dataset) -> Bank:
        """The training images, encoded once: ``--shots`` of those that show foreground and background."""
        train = dataset.split("train")
        masked = [sample for sample in train if sample.labels.mask is not None]
        order = np.random.default_rng(self.config.seed).permutation(len(masked)).tolist()
        shots = self.config.shots or None
        bank = foreground_bank(
            self.sam, train.with_samples([masked[i] for i in order]), self.foreground, both=True, limit=shots
        )
        if shots and len(bank) < shots:
            raise DataError(
                [
                    f"{len(bank)} of {len(train)} images of split 'train' have a mask that shows {self.foreground.name!r} and "
                    f"something else; --shots asks for {shots}. Label more, or ask for fewer"
                ],
                dataset.source or str(dataset.root),
            )
        return bank

    def _target(self) -> Tensor:
        """(N, h, w) share of each place of SRM that is foreground; 255 where less than half of it is labelled."""
        truth, size = self.bank.known_truth, self.bank.embedding.low.shape[-2:]
        area, counted = resized(truth.area, size), resized(truth.counted, size)
        return torch.where(counted > 0.5, area / counted.clamp(min=1e-6), 255.0)

    # ------------------------------------------------------------------------------------------------ checkpoints

    def parts(self) -> dict[str, Any]:
        parts: dict[str, Any] = {
            "policy": self.policy,
            "srm": self.srm,
            "optimizer": self.optimizer,
            "srm_optimizer": self.srm_optimizer,
            "best": self.best,
        }
        if self.coach is not None:
            parts |= {"prompter": self.coach.prompter, "quality": self.coach.quality}
            parts["coach_optimizer"] = self.coach.optimizer
        return parts

    def start_from(self, origin: Origin) -> None:
        """Policy and SRM; with the preset ``strong`` also value map and quality head, where the earlier run had them."""
        then = origin.config.get("sam", {}).get("signature")
        origin.require_sam(self.config.sam, self.sam.signature(configured=origin.config.get("version", 1) > 1), then)
        origin.fill(self.policy, "model", flags="--grid")
        origin.fill(self.srm, "srm", flags="--text, --clip")
        if self.coach is not None and "prompter" in origin.tensors:
            origin.fill(self.coach.prompter, "prompter", flags="--preset")
            origin.fill(self.coach.quality, "quality", flags="--preset")

    # ------------------------------------------------------------------------------------------------ learning

    def fit(self) -> None:
        """Play episodes on all images; SRM learns after each click, the policy after each episode."""
        session, scalars = self.session, dict[str, float]()

        def log_and_validate() -> None:
            session.log(**scalars)
            self._validate_if_due()

        for _ in session.steps(self.stage, log_every=None, then=log_and_validate, stop=self.best.is_exhausted):
            rollout = self.play()
            losses = ppo.update(self.policy, self.optimizer, rollout, self.ppo) | self.coach_step()
            session.watch(torch.tensor([*losses.values()]))
            reward = float(rollout.rewards.mean())
            # +1 on the foreground, −1 off it: the share of places on it is half-way in between.
            scalars = {"reward": reward, "foreground_rate": (reward + 1) / 2} | session.averages() | losses
            session.show(reward=reward)

    def play(self) -> ppo.Rollout:
        """One episode on all images."""
        config, count = self.config, len(self.bank)
        self.env.reset(seed=self.config.seed * 1_000_003 + self.stage.step, options={"rows": np.arange(count)})
        features = self.bank.embedding.low[self.bank.image].float()
        free = torch.ones(count, config.grid**2, dtype=torch.bool, device=self.device)
        steps, self.states = [], []
        for number in range(config.clicks):
            moment = self.stage.step * config.clicks + number
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
            # No place twice, as in prediction; else clicking one good place again and again would be rewarded each time.
            free = free.scatter(1, actions[:, None], False)
            self.states.append(before)
            self.log_label_accuracy(before, self.env.state)
            self.srm_step(last_mask(self.bank, self.env.state), self.session.generator(Stream.SRM, moment))
        return ppo.Rollout.stack(steps)

    def coach_step(self) -> dict[str, float]:
        """With the preset ``strong``: value map and quality head learn from the states of the episode."""
        if self.coach is None:
            return {}
        rows = torch.arange(len(self.bank), device=self.device)
        with torch.no_grad():
            blank = torch.ones_like(self.target)
            recalibrated = self.recalibrator.logits(self.bank, rows, blank).sigmoid()
        rate = 0.05 + 0.95 * (0.5 + 0.5 * math.cos(math.pi * self.stage.fraction))
        return self.coach.learn(self.states, recalibrated, rate, self.session.generator(Stream.COACH, self.stage.step))

    def log_label_accuracy(self, before: ClickState, after: ClickState) -> None:
        """Average for the log how often SRM's label of the click is right."""
        slot = before.tokens
        rows = torch.arange(len(slot), device=self.device)
        column, row = after.points[rows, slot].long().unbind(1)
        truth = self.bank.known_truth.canvas[after.rows, row, column]
        self.session.average(label_accuracy=(after.labels[rows, slot] == truth).float().mean())

    def srm_step(self, mask: Tensor, generator: torch.Generator) -> None:
        """Passes of SRM over all images, given their present masks (N, h, w)."""
        assert self.config.srm_updates is not None
        for _ in range(self.config.srm_updates):
            order = torch.randperm(len(self.bank), generator=generator).to(self.device)
            blank = torch.rand(len(self.bank), generator=generator).to(self.device) < BLANK_SHARE
            inputs = torch.where(blank[:, None, None], 1.0, mask)
            for rows in order.split(self.config.srm_batch):
                loss = recalibration_loss(self.recalibrator.logits(self.bank, rows, inputs[rows]), self.target[rows])
                self.session.descend(loss, self.srm_optimizer, self.srm.parameters())
                self.session.average(srm_loss=loss)

    # ------------------------------------------------------------------------------------------------ validation

    def _validate_if_due(self) -> None:
        val = self.val
        if val is not None:
            self.session.validate_if_due(self.stage, self.validations, self.best, lambda: self.validate(val), "miou")

    def validate(self, bank: Bank) -> dict[str, float]:
        """Scores on the canvas, without any prompt."""
        scores = scores_on_canvas(self.agent, bank)
        return {name: scores[name] for name in ("miou", "mae", "f", "e", "fr") if scores[name] is not None}


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
