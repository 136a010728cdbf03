"""AlignSAM: a frozen SAM that prompts itself, learnt from a few images with masks.

Huang et al., "AlignSAM: Aligning Segment Anything Model to Open Context via Reinforcement Learning", CVPR 2024. Read from ``main``
downwards. SAM (and CLIP, where the task has a name) stay frozen and look at every image once. Two small networks learn: a policy that
chooses where to click, by PPO, and SRM, which says whether that place is foreground, from the masks.

All images are one vector environment: an episode clicks on each of them ``--clicks`` times, SRM learns after every click, the policy at
the episode's end. All randomness is a function of (seed, episode, click), so a resumed run repeats an uninterrupted one exactly.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro
from gymnasium.vector import AutoresetMode
from torch import Tensor, nn

from maskwright.data.check import require_clean
from maskwright.data.labels import Dataset
from maskwright.engine.budget import progress
from maskwright.engine.devices import find_device
from maskwright.engine.run import Run, settings_of
from maskwright.engine.state import flatten_optimizer, seeded, unflatten_optimizer
from maskwright.engine.weights import load_state
from maskwright.errors import DataError, canvas_rule, require
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
from maskwright.recipes.alignsam.report import write_model, write_report
from maskwright.recipes.alignsam.strong import Coach
from maskwright.rl import ppo
from maskwright.rl.bank import Bank
from maskwright.rl.clicks import ClickState
from maskwright.rl.envs import ClickEnvSettings, ClickVectorEnv
from maskwright.rl.rules import foreground_reward
from maskwright.sam.sam import Sam

BLANK_SHARE = 0.2
"""Share of SRM's lessons in which it sees an image without a mask (M = 1), as at the start of every prediction. The paper is silent."""


@dataclass
class Config:
    """Train a SAM that prompts itself, from about 50 images with masks."""

    data: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DATA")]
    """Dataset: a folder, or its manifest (see `maskwright data check`)."""
    out: Path
    """Run directory."""
    preset: Literal["paper", "strong"] = "paper"
    """`paper`: as published. `strong`: a value map and a quality head learn beside them; the best of all masks on the way is chosen, and
    a click agent goes on from it, keeps what is better, undoes what is not, and stops by itself."""
    shots: int = 50
    """Training images with masks that are used, drawn by the seed; fewer are among more. 0: all."""
    text: tuple[str, ...] = ()
    """What is to be found, in words: SRM's explicit branch. Left out: the implicit branch. Several names are one foreground."""
    category: tuple[str, ...] = ()
    """Categories that are foreground, together. Left out: those that --text names if the dataset has them all, else all categories."""
    sam: str = "nano"
    """SAM 2: `nano` (bundled), a Hugging Face id such as facebook/sam2.1-hiera-tiny, a folder, or an official .pt file."""
    size: int | None = None
    """Side of the square canvas, a multiple of 32. Left out: the SAM's own."""
    clip: str = "nano-clip"
    """CLIP for --text: `nano-clip` (bundled, knows the words of procedural scenes only), a Hugging Face id such as
    openai/clip-vit-base-patch16, or a folder."""
    clip_size: int | None = None
    """Side of the square that CLIP sees, a multiple of its patch: larger is finer. Left out: the CLIP's own."""
    grid: int = 10
    """Places to click along a side of the canvas."""
    clicks: int = 15
    """Clicks of the policy on each image, after two to begin with."""
    episodes: int = 50
    """Times that every image is played."""
    ppo_epochs: int = 20
    """Steps of the policy's optimiser on each episode."""
    gamma: float = 0.99
    """Discount."""
    ppo_clip: float = 0.2
    """How far PPO's ratio may move from 1."""
    smoothing: float = 0.0
    """Lambda of generalised advantage estimation; 0: one step ahead, as in the paper."""
    entropy: float = 0.0
    """Weight of the policy's entropy."""
    normalise: bool = False
    """Bring the advantages of an episode to mean 0 and deviation 1."""
    lr: float = 1e-3
    """Learning rate of the policy (Adam)."""
    srm_updates: int | None = None
    """Passes of SRM over all images after each click. Left out: 1 for the implicit branch, 5 for the explicit."""
    srm_batch: int = 25
    """Images in an update of SRM."""
    srm_lr: float = 1e-3
    """Learning rate of SRM (Adam)."""
    seed: int = 0
    device: Literal["auto", "cpu"] = "auto"
    checkpoint_seconds: float = 60.0
    """Time between checkpoints: what a killed run loses at most, and the episode under way."""
    resume: bool = False
    """Continue a run that was stopped."""
    overwrite: bool = False
    """Delete a run that is already in the folder."""

    def __post_init__(self) -> None:
        if self.srm_updates is None:
            self.srm_updates = 5 if self.text else 1
        rules = {
            **canvas_rule("size", self.size),
            f"--shots {self.shots}: must be 0 (all) or more": self.shots >= 0,
            f"--grid {self.grid}: must be at least 2": self.grid >= 2,
            f"--clicks {self.clicks}: must be at least 1": self.clicks >= 1,
            f"--episodes {self.episodes}: must be at least 1": self.episodes >= 1,
            f"--ppo-epochs {self.ppo_epochs}: must be at least 1": self.ppo_epochs >= 1,
            f"--srm-updates {self.srm_updates}: must be at least 1": self.srm_updates >= 1,
            f"--srm-batch {self.srm_batch}: must be at least 1": self.srm_batch >= 1,
            f"--seed {self.seed}: must be 0 or more": self.seed >= 0,
        }
        require(rules)

    def settings(self) -> dict[str, Any]:
        """What decides the result, for ``config.json``."""
        free = ("out", "resume", "overwrite", "device", "checkpoint_seconds")
        return settings_of(self, *free)


def main(config: Config) -> Path:
    """Train and return the run directory."""
    torch.set_flush_denormal(True)
    dataset = Dataset.load(config.data)
    require_clean(dataset)
    trainer = Trainer(config, dataset)
    # Last of the set-up, so that a mistake in the settings leaves no run behind, and deletes none.
    trainer.run = Run.create(config.out, config.settings(), resume=config.resume, overwrite=config.overwrite)
    trainer.resume()
    trainer.fit()
    trainer.finish()
    trainer.run.close()
    return config.out


class Trainer:
    """Networks, images and optimisers of one run. Methods in the order in which ``main`` calls them, after it has set ``run``."""

    run: Run

    def __init__(self, config: Config, dataset: Dataset) -> None:
        self.config = config
        self.device = find_device(config.device)
        # What can be wrong with the words is found before anything takes time.
        clip = ClipSurgery.load(config.clip, size=config.clip_size).to(self.device) if config.text else None
        if clip is not None:
            clip.check_names(config.text)
        self.foreground = foreground_of(dataset, config.category, config.text)
        self.sam = Sam.load(config.sam, size=config.size).to(self.device).requires_grad_(False)
        self.bank = self._shots(dataset)
        val = dataset.split("val")
        val = val.with_samples([sample for sample in val if sample.labels.mask is not None])
        self.val = foreground_bank(self.sam, val, self.foreground) if len(val) else None
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
        self.optimizer = torch.optim.Adam(self.policy.parameters(), lr=config.lr)
        self.srm_optimizer = torch.optim.Adam(self.srm.parameters(), lr=config.srm_lr)
        self.judge = Recalibrator(self.srm, self.agent.semantic(self.bank))
        self.target = self._target()
        self.env = ClickVectorEnv(
            self.sam,
            self.bank,
            len(self.bank),
            ClickEnvSettings(
                observation=None,
                grid=config.grid,
                labeller=self.judge,
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
        self.episode = 0
        self.visited: list[ClickState] = []
        self.saved = time.monotonic()
        self.means: dict[str, list[float]] = defaultdict(list)

    # ------------------------------------------------------------------------------------------------ set-up

    def _shots(self, dataset: Dataset) -> Bank:
        """The training images: as many as asked for, of those that show foreground and background. Encoded here, and only here."""
        train = dataset.split("train")
        masked = [sample for sample in train if sample.labels.mask is not None]
        order = np.random.default_rng(self.config.seed).permutation(len(masked)).tolist()
        wanted = self.config.shots or None
        bank = foreground_bank(
            self.sam, train.with_samples([masked[i] for i in order]), self.foreground, both=True, limit=wanted
        )
        if wanted and len(bank) < wanted:
            raise DataError(
                [
                    f"{len(bank)} of {len(train)} images of split 'train' have a mask that shows {self.foreground.name!r} and "
                    f"something else; --shots asks for {wanted}. Label more, or ask for fewer"
                ],
                dataset.source or str(dataset.root),
            )
        return bank

    def _target(self) -> Tensor:
        """(N, h, w) share of each place of SRM that is foreground; 255 where less than half of it is known."""
        truth, size = self.bank.known_truth, self.bank.embedding.low.shape[-2:]
        area, counted = resized(truth.area, size), resized(truth.counted, size)
        return torch.where(counted > 0.5, area / counted.clamp(min=1e-6), 255.0)

    def generator(self, stream: int, step: int) -> torch.Generator:
        """Randomness that depends on nothing but seed, purpose and step."""
        return seeded(self.config.seed, stream, step)

    # ------------------------------------------------------------------------------------------------ checkpoints

    def resume(self) -> None:
        checkpoint = self.run.load_checkpoint()
        if checkpoint is None:
            return
        tensors, state = checkpoint.tensors, checkpoint.state
        load_state(self.policy, tensors["policy"], "policy")
        load_state(self.srm, tensors["srm"], "srm")
        unflatten_optimizer(self.optimizer, tensors["optimizer"], state["optimizer"])
        unflatten_optimizer(self.srm_optimizer, tensors["srm_optimizer"], state["srm_optimizer"])
        if self.coach is not None:
            load_state(self.coach.prompter, tensors["prompter"], "prompter")
            load_state(self.coach.quality, tensors["quality"], "quality")
            unflatten_optimizer(self.coach.optimizer, tensors["coach_optimizer"], state["coach_optimizer"])
        self.episode = state["episode"]

    def save(self, *, force: bool = False) -> None:
        """A checkpoint, every ``checkpoint_seconds``."""
        if not force and time.monotonic() - self.saved < self.config.checkpoint_seconds:
            return
        flat, state = flatten_optimizer(self.optimizer)
        srm_flat, srm_state = flatten_optimizer(self.srm_optimizer)
        tensors = {"policy": self.policy.state_dict(), "srm": self.srm.state_dict()}
        tensors |= {"optimizer": flat, "srm_optimizer": srm_flat}
        states = {"optimizer": state, "srm_optimizer": srm_state, "episode": self.episode}
        if self.coach is not None:
            tensors |= {"prompter": self.coach.prompter.state_dict(), "quality": self.coach.quality.state_dict()}
            tensors["coach_optimizer"], states["coach_optimizer"] = flatten_optimizer(self.coach.optimizer)
        self.run.save_checkpoint(self.episode, tensors, states)
        self.saved = time.monotonic()

    # ------------------------------------------------------------------------------------------------ learning

    def fit(self) -> None:
        """Play every image, again and again; SRM learns after each click, the policy after each episode."""
        config = self.config
        every = max(1, config.episodes // 5)
        with progress(config.episodes, "training", completed=self.episode) as advance:
            while self.episode < config.episodes:
                rollout = self.play()
                told: dict[str, float] = ppo.update(self.policy, self.optimizer, rollout, self.ppo)
                told |= self.coached()
                self.episode += 1
                reward = float(rollout.rewards.mean())
                # +1 on the foreground, −1 off it: the share of places on it is half-way in between.
                self.run.log(
                    self.episode,
                    reward=reward,
                    foreground_rate=(reward + 1) / 2,
                    **{name: sum(values) / len(values) for name, values in self.means.items()},
                    **told,
                )
                self.means.clear()
                if self.val is not None and (self.episode % every == 0 or self.episode == config.episodes):
                    self.run.log(self.episode, **{f"val_{k}": v for k, v in self.validate(self.val).items()})
                advance(reward=reward)
                self.save()

    def play(self) -> ppo.Rollout:
        """One episode on all images."""
        config, count = self.config, len(self.bank)
        self.env.reset(seed=self.config.seed * 1_000_003 + self.episode, options={"rows": np.arange(count)})
        features = self.bank.embedding.low[self.bank.image].float()
        free = torch.ones(count, config.grid**2, dtype=torch.bool, device=self.device)
        steps, self.visited = [], []
        for number in range(config.clicks):
            moment = self.episode * config.clicks + number
            mask = last_mask(self.bank, self.env.state)
            with torch.no_grad():
                state = self.policy.state(features, mask)
                logits, values = self.policy(state)
            free = free | ~free.any(1, keepdim=True)
            log_probs = ppo.log_probabilities(logits, free)
            actions = ppo.sampler(self.generator(0, moment))(log_probs)
            taken = log_probs.gather(1, actions[:, None])[:, 0]
            before = self.env.state
            _, rewards, *_ = self.env.step(actions.cpu().numpy())
            steps.append(
                {
                    "states": state,
                    "allowed": free,
                    "actions": actions,
                    "log_probs": taken,
                    "values": values,
                    "rewards": torch.from_numpy(rewards).to(self.device),
                }
            )
            # No place twice, as in prediction: the sum of the rewards is then what the places are worth.
            free = free.scatter(1, actions[:, None], False)
            self.visited.append(before)
            self.watch(before, self.env.state)
            self.teach(last_mask(self.bank, self.env.state), self.generator(1, moment))
        return ppo.Rollout.stack(steps)

    def coached(self) -> dict[str, float]:
        """With the preset ``strong``: value map and quality head learn from the states of the episode."""
        if self.coach is None:
            return {}
        rows = torch.arange(len(self.bank), device=self.device)
        with torch.no_grad():
            blank = torch.ones_like(self.target)
            recalibrated = self.judge.logits(self.bank, rows, blank).sigmoid()
        rate = 0.05 + 0.95 * (0.5 + 0.5 * math.cos(math.pi * self.episode / self.config.episodes))
        return self.coach.learn(self.visited, recalibrated, rate, self.generator(2, self.episode))

    def watch(self, before: ClickState, after: ClickState) -> None:
        """Note how often SRM was right about the place that was clicked on."""
        slot = before.tokens
        rows = torch.arange(len(slot), device=self.device)
        column, row = after.points[rows, slot].long().unbind(1)
        truth = self.bank.known_truth.canvas[after.rows, row, column]
        self.means["label_accuracy"].append(float((after.labels[rows, slot] == truth).float().mean()))

    def teach(self, mask: Tensor, generator: torch.Generator) -> None:
        """SRM learns from the masks as they are now: (N, h, w)."""
        assert self.config.srm_updates is not None
        for _ in range(self.config.srm_updates):
            order = torch.randperm(len(self.bank), generator=generator).to(self.device)
            blank = torch.rand(len(self.bank), generator=generator).to(self.device) < BLANK_SHARE
            shown = torch.where(blank[:, None, None], 1.0, mask)
            for rows in order.split(self.config.srm_batch):
                loss = recalibration_loss(self.judge.logits(self.bank, rows, shown[rows]), self.target[rows])
                self.srm_optimizer.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(self.srm.parameters(), 1.0)
                self.srm_optimizer.step()
                self.means["srm_loss"].append(float(loss.detach()))

    # ------------------------------------------------------------------------------------------------ the end

    def validate(self, bank: Bank) -> dict[str, float]:
        """Scores on the canvas, without any prompt."""
        scores = scores_on_canvas(self.agent, bank)
        return {name: scores[name] for name in ("miou", "mae", "f", "e", "fr") if scores[name] is not None}

    def finish(self) -> None:
        """Write the model to take home and the report."""
        self.save(force=True)
        write_model(self)
        write_report(self)


def truth_opening(sam: Sam, bank: Bank, rows: Tensor, slots: int, generator: np.random.Generator) -> ClickState:
    """One click on the foreground and one off it, each at a random pixel of the truth: how training episodes begin."""
    truth = bank.known_truth[rows]
    places = []
    for region in (truth.canvas, truth.known & ~truth.canvas):
        # The largest of random numbers over the region is a uniform draw from it, whatever the device.
        chance = torch.from_numpy(generator.random(region.shape, dtype=np.float32)).to(region.device)
        chosen = torch.where(region, chance, -1.0).flatten(1).argmax(1)
        places.append(torch.stack([chosen % bank.size, chosen // bank.size], 1) + 0.5)
    labels = torch.tensor([1, 0], device=rows.device).expand(len(rows), OPENING)
    return start_with_clicks(sam, bank, rows, torch.stack(places, 1), labels, slots)
