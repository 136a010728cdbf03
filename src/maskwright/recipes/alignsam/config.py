"""Settings of ``maskwright train alignsam``. The text under a field is its help."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from maskwright.engine.run import settings_of
from maskwright.errors import canvas_rule, require


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
        return settings_of(self, "out", "resume", "overwrite", "device", "checkpoint_seconds")
