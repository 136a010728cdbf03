"""Settings of ``maskwright train clicks``. The text under a field is its help."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from maskwright.engine.run import settings_of
from maskwright.errors import canvas_rule, require


@dataclass
class Config:
    """Train an agent that corrects masks by clicks."""

    data: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DATA")]
    """Dataset with masks: a folder, or its manifest (see `maskwright data check`)."""
    out: Path
    """Run directory."""
    sam: str = "nano"
    """SAM 2: `nano` (bundled), a Hugging Face id such as facebook/sam2.1-hiera-tiny, a folder, or an official .pt file. It stays frozen."""
    size: int | None = None
    """Side of the square canvas, a multiple of 32; left out, the weights' own."""
    steps: int | None = None
    """Length of the training in steps."""
    minutes: float | None = None
    """Length of the training by the clock. Without --steps and --minutes: 10 minutes."""
    learner: Literal["own", "sb3"] = "own"
    """`sb3`: Stable-Baselines3's PPO on pixels with the settings of the published agent, as a baseline. Of the
    options below it uses clicks, batch (environments), held_out, mirror and seed; a step is then one step of every environment."""
    learn: Literal["values", "imitation"] = "values"
    """Target of the policy: the true change of Dice of every click that is tried, or the oracle's click alone."""
    rounds: int = 4
    """Rounds of DAgger: in each the expert makes half as many moves as in the one before. 1: the expert makes all moves."""
    quality: bool = True
    """Train a quality head that judges masks, and undo clicks that make them worse. `--no-quality`: every click is kept."""
    stop: bool = True
    """The agent may stop before it has placed all its clicks."""
    rl_share: float = 0.15
    """Share of the training, at its end, in which the policy learns by reinforcement (GRPO); 0: none."""
    clicks: int = 4
    """Corrective clicks after the first prompt."""
    looks: int = 24
    """Candidate clicks that SAM answers, in one decode, for each click that is placed."""
    spread: float = 0.5
    """Share of these candidates that lie all over the image, contradicting the present mask, instead of where the policy is highest."""
    batch: int = 16
    """Episodes side by side."""
    tries: int = 16
    """Clicks that are tried from each state that is visited in training."""
    updates: int = 2
    """Updates of the prompter for each step, from all states so far."""
    lr: float = 1.5e-3
    """Learning rate (AdamW)."""
    rl_lr: float = 2e-4
    """Learning rate of the policy in reinforcement."""
    groups: int = 8
    """Roll-outs from each first state that are compared with each other."""
    kl: float = 0.05
    """Weight of the KL divergence from the policy before reinforcement."""
    cost: float = 0.003
    """What a click costs, in units of Dice."""
    weight_decay: float = 1e-2
    """Weight decay (AdamW)."""
    memory: float = 8.0
    """GiB for images, their embeddings and masks, and for visited states (a tenth of it). Of more training images a random part that
    fits is used."""
    objects: int = 8
    """Objects per image, at most. 0: all."""
    held_out: float = 0.12
    """Share of the training images that is held out for calibration."""
    mirror: bool = True
    """Also train on the mirror images, left to right."""
    seed: int = 0
    """Seed of all random numbers."""
    device: Literal["auto", "cpu"] = "auto"
    """`auto`: a GPU if there is one."""
    checkpoint_seconds: float = 60.0
    """Seconds between checkpoints: a killed run loses at most so much."""
    init: Path | None = None
    """Start from the networks of this earlier run, or model folder, of the same recipe: for data that changed, labels that were added."""
    resume: bool = False
    """Continue the run in --out from its newest checkpoint."""
    overwrite: bool = False
    """Delete the run that is already in --out."""

    def __post_init__(self) -> None:
        if self.steps is None and self.minutes is None:
            self.minutes = 10.0
        rules = {
            **canvas_rule("size", self.size),
            f"--rounds {self.rounds}: must be at least 1": self.rounds >= 1,
            f"--clicks {self.clicks}: must be at least 1": self.clicks >= 1,
            f"--looks {self.looks}: must be at least 1": self.looks >= 1,
            f"--spread {self.spread}: must lie in 0..1": 0 <= self.spread <= 1,
            f"--tries {self.tries}: must be at least 4": self.tries >= 4,
            f"--batch {self.batch}: must be at least 1": self.batch >= 1,
            f"--groups {self.groups}: must be at least 2": self.groups >= 2,
            f"--rl-share {self.rl_share}: must lie in 0..0.9": 0 <= self.rl_share <= 0.9,
            f"--memory {self.memory}: must be above 0": self.memory > 0,
            f"--objects {self.objects}: must be 0 (all) or more": self.objects >= 0,
            f"--held-out {self.held_out}: must lie in 0.02..0.5": 0.02 <= self.held_out <= 0.5,
        }
        require(rules)

    def settings(self) -> dict[str, Any]:
        """The settings that decide the result, for ``config.json``."""
        return settings_of(self, "out", "resume", "overwrite", "device", "checkpoint_seconds")
