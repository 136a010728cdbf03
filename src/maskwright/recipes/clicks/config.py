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
    """SAM 2: `nano` (bundled), a Hugging Face id such as facebook/sam2.1-hiera-tiny, a folder, or an official .pt file. Stays as it is."""
    size: int | None = None
    """Side of the square canvas, a multiple of 32; left out, the weights' own."""
    steps: int | None = None
    """Length of the training in steps."""
    minutes: float | None = None
    """Length of the training by the clock."""
    learner: Literal["own", "sb3"] = "own"
    """`sb3`: Stable-Baselines3's PPO on pixels with the settings of the published agent, as a baseline; it ignores what follows but for
    clicks, batch (environments), steps or minutes (one step is one of every environment), held_out, mirror and seed."""
    learn: Literal["values", "imitation"] = "values"
    """What teaches where to click: the true change of Dice of every click that is tried, or the oracle's click alone."""
    rounds: int = 4
    """Rounds of DAgger: in each the expert makes half as many moves as in the one before. 1: all states are the expert's."""
    quality: bool = True
    """Learn to judge masks, and undo clicks that made them worse. `--no-quality`: every click is kept."""
    stop: bool = True
    """The agent may stop before its clicks are used up."""
    rl_share: float = 0.15
    """Last share of the training in which the policy learns by reinforcement (GRPO); 0: not at all."""
    clicks: int = 4
    """Corrective clicks after the first prompt."""
    looks: int = 24
    """Clicks that are tried, in one decode, for each one that is placed."""
    spread: float = 0.5
    """Share of these clicks that lie all over the image, contradicting the mask at hand, instead of where the policy wants to click."""
    batch: int = 16
    """Episodes side by side."""
    tries: int = 16
    """Clicks that are tried from each state that is visited in training."""
    updates: int = 2
    """Updates of the prompter for each step, from all states so far."""
    lr: float = 1.5e-3
    """Learning rate (AdamW)."""
    rl_lr: float = 2e-4
    """Learning rate of the policy in `reinforce`."""
    groups: int = 8
    """Roll-outs from each beginning that are compared with each other."""
    kl: float = 0.05
    """Weight of the divergence from the policy before `reinforce`."""
    cost: float = 0.003
    """What a click costs, in units of Dice."""
    weight_decay: float = 1e-2
    memory: float = 8.0
    """GiB for images, their embeddings and masks, and for the states visited (a tenth): of more training images those are used that
    fit, drawn by the seed."""
    objects: int = 8
    """Objects of one image that are learnt from, at most. 0: all."""
    held_out: float = 0.12
    """Share of the training images that nothing learns from: guesses are calibrated on them."""
    mirror: bool = True
    """Also train on the mirror images, left to right."""
    seed: int = 0
    device: Literal["auto", "cpu"] = "auto"
    checkpoint_seconds: float = 60.0
    """Time between checkpoints: what a killed run loses at most."""
    resume: bool = False
    """Continue a run that was stopped."""
    overwrite: bool = False
    """Delete a run that is already in the folder."""

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
        """What decides the result, for ``config.json``."""
        return settings_of(self, "out", "resume", "overwrite", "device", "checkpoint_seconds")
