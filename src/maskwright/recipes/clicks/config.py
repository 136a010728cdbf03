"""Settings of ``maskwright train clicks``. The text under a field is its help."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from maskwright.data.image_reading import PLAIN, ImageReading
from maskwright.data.registry import ReadName
from maskwright.engine.budget import Budget
from maskwright.engine.hints import default
from maskwright.engine.values import settings_of
from maskwright.errors import canvas_rule, crop_rules, require, validation_rules


@dataclass
class Config:
    """Train an agent that answers clicks, boxes and masks better than SAM does, by corrective clicks and by what it has learnt."""

    data: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DATA")]
    """Dataset with masks: a folder, or its manifest (see `maskwright data check`)."""
    out: Path
    """Run directory."""
    format: Annotated[ReadName | None, default("what is there decides")] = None
    """What the dataset is read as, where several formats fit."""
    image_reading: tyro.conf.OmitArgPrefixes[ImageReading] = PLAIN
    sam: str = "nano"
    """SAM 2: `nano` (bundled), a Hugging Face id such as facebook/sam2.1-hiera-tiny, a folder, or an official .pt file. It stays frozen."""
    size: Annotated[int | None, default("that of the weights")] = None
    """Side of the square canvas, a multiple of 32."""
    crop: Annotated[
        int | None, default("whole images, unless that would lose the objects; the start says which and why")
    ] = None
    """Learn from square crops of so many pixels of the images, brought to the canvas; prediction and evaluation slide the same
    square over images. 0: whole images, squashed. See docs/large.md."""
    scale: Annotated[float | None, default("given by --crop")] = None
    """The same by pixels of the canvas along a pixel of the image: 1 takes crops of --size pixels, at the images' own resolution."""
    epochs: Annotated[float | None, default("given by --minutes")] = None
    """Length of the training in passes over its targets: in one, as many states are visited as there are targets."""
    steps: Annotated[int | None, default("given by --minutes")] = None
    """Length of the training in steps."""
    minutes: Annotated[float | None, default("10, without --epochs and --steps")] = None
    """Length of the whole training by the clock, from the command to its end: the embedding of all images, learning, calibration,
    validation, model and report included."""
    learner: Literal["own", "sb3"] = "own"
    """`sb3`: Stable-Baselines3's PPO on pixels with the settings of the published agent, as a baseline. Of the
    options below it uses clicks, batch (environments), held_out, mirror and seed; a step is then one step of every environment."""
    learn: Literal["values", "imitation"] = "values"
    """Target of the policy: the true change of Dice of every click that is tried, or the oracle's click alone."""
    rounds: int = 4
    """Rounds of DAgger: in each the expert makes half as many moves as in the one before. 1: the expert makes all moves."""
    quality: bool = True
    """Train a quality head that judges masks, and undo clicks that make them worse. `--no-quality`: every click is kept."""
    fusion: bool = True
    """Train a network that makes one answer of SAM's mask and of what was learnt about the objects; on held-out images it is seen whether
    that answer is better than SAM's mask, and after how many clicks. `--no-fusion`: the agent answers with SAM's masks."""
    stop: bool = True
    """The agent may stop before it has placed all its clicks."""
    rl_share: float = 0.0
    """Share of the training, at its end, in which the policy learns by reinforcement (GRPO); 0: none, as it brought no
    gain that could be told from chance."""
    clicks: int = 4
    """Corrective clicks after the first prompt, at most: on held-out images fewer may prove to be as good."""
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
    keep: Literal["best", "last"] = "best"
    """The agent that is calibrated and written: the one with the best Dice (smoothed) on the validation split, or the last. Without
    images for validation the last."""
    patience: Annotated[int | None, default("none: train to the end")] = None
    """End the training after so many validations in a row without a better Dice."""
    validations: int = 5
    """Validations, at most: they take no more than a tenth of the time."""
    validation_images: int = 100
    """Images of the validation split that are used, evenly spread; 0: all."""
    seed: int = 0
    """Seed of all random numbers."""
    device: str = "auto"
    """`auto`: a GPU if there is one; or `cpu`, `cuda`, `cuda:1`, `mps`."""
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    """What the networks compute in. `bf16` and `fp16` are faster on most GPUs; weights, losses and optimisers stay in float32."""
    checkpoint_seconds: float = 60.0
    """Seconds between checkpoints: a killed run loses at most so much."""
    init: Annotated[Path | None, default("none: from untrained networks")] = None
    """Start from the networks of this earlier run, or model folder, of the same recipe: for data that changed, labels that were added."""
    resume: bool = False
    """Continue the run in --out from its newest checkpoint."""
    overwrite: bool = False
    """Delete the run that is already in --out."""

    def __post_init__(self) -> None:
        if self.epochs is None and self.steps is None and self.minutes is None:
            self.minutes = 10.0
        _ = self.length
        rules = {
            **validation_rules(self.validations, self.validation_images, self.patience),
            **canvas_rule("size", self.size),
            **crop_rules(self.crop, self.scale),
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

    @property
    def length(self) -> Budget:
        """Of the whole training."""
        return Budget(self.epochs, self.steps, self.minutes)

    def settings(self) -> dict[str, Any]:
        """The settings that decide the result, for ``config.json``."""
        return settings_of(self, "out", "format", "resume", "overwrite", "device", "checkpoint_seconds")
