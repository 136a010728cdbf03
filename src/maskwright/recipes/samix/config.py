"""Settings of ``maskwright train samix``. The text under a field is its help."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from maskwright.engine.run import settings_of
from maskwright.errors import canvas_rule, require
from maskwright.nets.selector import SelectorName


@dataclass
class Config:
    """Train a segmenter from mixed labels."""

    data: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DATA")]
    """Dataset: a folder, or its manifest (see `maskwright data check`)."""
    out: Path
    """Run directory."""
    labels: Literal["all", "masks-only"] = "all"
    """`masks-only` is the baseline that ignores every weak label and every unlabelled image."""
    pseudo: Literal["sam", "ellipse", "none"] = "sam"
    """Where pseudo-masks come from. `none`: weak losses alone. `ellipse`: the ellipse inscribed in each box, nothing else (a baseline)."""
    no_sam: tyro.conf.FlagCreatePairsOff[bool] = False
    """The same as `--pseudo none`."""
    sam: str = "nano"
    """SAM 2: `nano` (bundled), a Hugging Face id such as facebook/sam2.1-hiera-tiny, a folder, or an official .pt file."""
    adapters: bool = True
    """Train adapters inside SAM's image encoder."""
    tune_decoder: bool = True
    """Also train SAM's mask decoder and memory attention, at a quarter of the adapters' rate (not in the paper; helps small SAMs)."""
    closer_look: bool = False
    """SAM answers each box on a crop around it, at the object's own scale (not in the paper; better for small objects, and costs a pass
    of its encoder for each box)."""
    segmenter: str = "sam"
    """`sam`: a copy of SAM's image encoder with a light decoder; or a SegFormer's Hugging Face id or folder, or its
    config.json to start from random weights."""
    size: int = 256
    """Side of the square canvas, a multiple of 32."""
    epochs: float | None = None
    """Length of stage 2 in passes over the training images."""
    steps: int | None = None
    """Length of stage 2 in steps."""
    minutes: float | None = None
    """Length of stage 2 by the clock."""
    warm_up: int = 150
    """Steps of stage 1 (adapters only)."""
    batch: int = 8
    """Images per step, over all processes."""
    lr: float = 1.2e-3
    """Learning rate of the segmenter's new layers (AdamW); its pretrained encoder learns at half of it."""
    adapter_lr: float = 1e-3
    """Learning rate of the adapters."""
    weight_decay: float = 1e-4
    ema: float = 0.999
    """Decay of the mean teacher; lowered for short runs so that it spans a fifth of the run at most."""
    mask_share: float = 0.25
    """At least this share of the images in a batch have masks, on average."""
    selector: SelectorName = "similar"
    """How the reference images of a query are chosen. `policy`: SPNet, which learns it by reinforcement."""
    references: int = 4
    """Reference images per query (T)."""
    policy_warm_up: int = 100
    """Steps in which the policy learns alone, on images with masks, before stage 2."""
    policy_lr: float = 1e-4
    """Learning rate of the policy."""
    coarse_share: float = 0.7
    """First share of stage 2 in which the segmenter works at half the resolution, where a step costs a quarter (not below 128 pixels)."""
    sam_every: int = 6
    """Pseudo-masks of a step's images are renewed every so many steps, and SAM's adapters trained."""
    blend: float = 0.8
    """Share of the mean teacher's own view in the pseudo-masks of tagged and unlabelled images; 0.6 of it where SAM had clicks, 0.3 where
    it had boxes (not in the paper: two sources that err differently). Grows from 0 over the first third of stage 2."""
    pseudo_weight: float = 1.0
    weak_weight: float = 0.5
    consistency_weight: float = 0.2
    flips: Literal["horizontal", "all"] = "all"
    """`all` also flips vertically and turns by quarters: right where images have no upright."""
    seed: int = 0
    workers: int = 1
    """Threads that prepare batches ahead."""
    device: Literal["auto", "cpu"] = "auto"
    checkpoint_seconds: float = 60.0
    """Time between checkpoints: what a killed run loses at most."""
    resume: bool = False
    """Continue a run that was stopped."""
    overwrite: bool = False
    """Delete a run that is already in the folder."""

    def __post_init__(self) -> None:
        if self.epochs is None and self.steps is None and self.minutes is None:
            self.epochs = 20.0
        if self.no_sam:
            self.pseudo = "none"
        shares = ("mask_share", "coarse_share", "ema", "blend")
        rules = {
            **canvas_rule("size", self.size),
            f"--batch {self.batch}: must be at least 1": self.batch >= 1,
            f"--references {self.references}: must be at least 1": self.references >= 1,
            f"--sam-every {self.sam_every}: must be at least 1": self.sam_every >= 1,
            f"--warm-up {self.warm_up}: must be 0 or more": self.warm_up >= 0,
            f"--policy-warm-up {self.policy_warm_up}: must be 0 or more": self.policy_warm_up >= 0,
            **{
                f"--{n.replace('_', '-')} {getattr(self, n)}: must lie in 0..1": 0 <= getattr(self, n) <= 1
                for n in shares
            },
        }
        require(rules)

    def settings(self) -> dict[str, Any]:
        """What decides the result, for ``config.json``."""
        free = ("out", "resume", "overwrite", "workers", "device", "checkpoint_seconds", "no_sam")
        return settings_of(self, *free)
