"""Settings of ``maskwright train alignsam``. The text under a field is its help."""

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
    """Train a SAM that prompts itself, from about 50 images with masks."""

    data: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DATA")]
    """Dataset: a folder, or its manifest (see `maskwright data check`)."""
    out: Path
    """Run directory."""
    format: Annotated[ReadName | None, default("what is there decides")] = None
    """What the dataset is read as, where several formats fit."""
    image_reading: tyro.conf.OmitArgPrefixes[ImageReading] = PLAIN
    preset: Literal["strong", "paper"] = "strong"
    """`strong`: clicks where SRM contradicts SAM, learns from augmented views and held-out masks, and answers "nothing here". `paper`: as
    published, with a policy for the places, learnt by PPO."""
    shots: int = 50
    """Training images with masks to use, drawn by the seed; those of a smaller number are among those of a larger. 0: all."""
    text: tuple[str, ...] = ()
    """The foreground in words, for SRM's explicit branch. Left out: the implicit branch. Several names are one foreground."""
    category: tuple[str, ...] = ()
    """Categories that are foreground, together. Left out: those that --text names if the dataset has them all, else all categories."""
    sam: str = "nano"
    """SAM 2: `nano` (bundled), a Hugging Face id such as facebook/sam2.1-hiera-tiny, a folder, or an official .pt file."""
    size: Annotated[int | None, default("that of the weights")] = None
    """Side of the square canvas, a multiple of 32."""
    crop: Annotated[
        int | None, default("whole images, unless that would lose the objects; the start says which and why")
    ] = None
    """Learn from square crops of so many pixels of the images, brought to the canvas; prediction and evaluation slide the same
    square over images. 0: whole images, squashed. See docs/large.md."""
    scale: Annotated[float | None, default("given by --crop")] = None
    """The same by pixels of the canvas along a pixel of the image: 1 takes crops of --size pixels, at the images' own resolution."""
    clip: str = "nano-clip"
    """CLIP for --text: `nano-clip` (bundled, knows the words of procedural scenes only), a Hugging Face id such as
    openai/clip-vit-base-patch16, or a folder."""
    clip_size: Annotated[int | None, default("the CLIP's own")] = None
    """Side of the square that CLIP sees, a multiple of its patch: larger is finer."""
    grid: int = 10
    """Places to click along a side of the canvas."""
    clicks: Annotated[int | None, default("8, or 15 with --preset paper")] = None
    """Clicks on each image, after the two opening clicks."""
    epochs: Annotated[float | None, default("12, or 50 with --preset paper, without --steps and --minutes")] = None
    """Length of the training in episodes; each plays all training images once."""
    steps: Annotated[int | None, default("given by --epochs")] = None
    """The same: a step is an episode on all training images."""
    minutes: Annotated[float | None, default("given by --epochs")] = None
    """Length of the whole training by the clock, from the command to its end: the embedding of all images, episodes, validation, model
    and report included."""
    ppo_epochs: int = 20
    """`paper`: steps of the policy's optimiser on each episode, at most; see --max-kl."""
    max_kl: float | None = 0.1
    """`paper`: no further step on an episode once the policy has moved so far (KL divergence, in nats) from the one that played it.
    `None`: all steps, as published."""
    gamma: float = 0.99
    """`paper`: discount of future rewards."""
    ppo_clip: float = 0.2
    """`paper`: PPO's clip range, how far the ratio of probabilities may differ from 1."""
    smoothing: float = 0.0
    """`paper`: lambda of generalised advantage estimation; 0 looks one step ahead, as published."""
    entropy: float = 0.0
    """`paper`: weight of the entropy bonus."""
    normalise: bool = False
    """`paper`: normalise the advantages of an episode to mean 0 and standard deviation 1."""
    lr: float = 1e-3
    """`paper`: learning rate of the policy (Adam)."""
    views: int = 8
    """`strong`: augmented views of each training image, encoded once at the start, that SRM learns from beside the plain one."""
    flips: Literal["horizontal", "all"] = "horizontal"
    """`strong`: `all` also flips views vertically and rotates them by 90 degrees: for images without a fixed orientation."""
    srm_updates: Annotated[
        int | None, default("32; with --preset paper 1 for the implicit branch, 5 for the explicit")
    ] = None
    """`strong`: updates of SRM in each episode. `paper`: passes of SRM over all images after each click."""
    srm_batch: int = 25
    """Images in an update of SRM."""
    srm_lr: float = 1e-3
    """Learning rate of SRM (Adam)."""
    keep: Literal["best", "last"] = "best"
    """The networks in the model folder: those with the best mIoU (smoothed) on the validation split, or the last. Without images for
    validation the last."""
    patience: Annotated[int | None, default("none: train to the end")] = None
    """End the training after so many validations in a row without a better mIoU."""
    validations: int = 10
    """Validations, at most: they take no more than a tenth of the time."""
    validation_images: int = 50
    """Images of the validation split that are used, evenly spread; 0: all."""
    seed: int = 0
    """Seed of all random numbers."""
    device: str = "auto"
    """`auto`: a GPU if there is one; or `cpu`, `cuda`, `cuda:1`, `mps`."""
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    """What the networks compute in. `bf16` and `fp16` are faster on most GPUs; weights, losses and optimisers stay in float32."""
    checkpoint_seconds: float = 60.0
    """Seconds between checkpoints: a killed run loses at most so much, and the episode under way."""
    init: Annotated[Path | None, default("none: from untrained networks")] = None
    """Start from the networks of this earlier run, or model folder, of the same recipe: for data that changed, labels that were added."""
    resume: bool = False
    """Continue the run in --out from its newest checkpoint."""
    overwrite: bool = False
    """Delete the run that is already in --out."""

    def __post_init__(self) -> None:
        if self.epochs is None and self.steps is None and self.minutes is None:
            self.epochs = 50.0 if self.preset == "paper" else 12.0
        _ = self.length
        if self.clicks is None:
            self.clicks = 15 if self.preset == "paper" else 8
        if self.srm_updates is None:
            self.srm_updates = 32 if self.preset == "strong" else 5 if self.text else 1
        rules = {
            **canvas_rule("size", self.size),
            **crop_rules(self.crop, self.scale),
            f"--shots {self.shots}: must be 0 (all) or more": self.shots >= 0,
            f"--grid {self.grid}: must be at least 2": self.grid >= 2,
            f"--clicks {self.clicks}: must be at least 1": self.clicks >= 1,
            **validation_rules(self.validations, self.validation_images, self.patience),
            f"--max-kl {self.max_kl}: must be above 0": self.max_kl is None or self.max_kl > 0,
            f"--views {self.views}: must be 0 or more": self.views >= 0,
            f"--ppo-epochs {self.ppo_epochs}: must be at least 1": self.ppo_epochs >= 1,
            f"--srm-updates {self.srm_updates}: must be at least 1": self.srm_updates >= 1,
            f"--srm-batch {self.srm_batch}: must be at least 2": self.srm_batch >= 2,
            f"--seed {self.seed}: must be 0 or more": self.seed >= 0,
        }
        require(rules)

    @property
    def length(self) -> Budget:
        """Of the whole training; a step is an epoch."""
        return Budget(self.epochs, self.steps, self.minutes, steps_per_epoch=1)

    def settings(self) -> dict[str, Any]:
        """The settings that decide the result, for ``config.json``."""
        return settings_of(self, "out", "format", "resume", "overwrite", "device", "checkpoint_seconds")
