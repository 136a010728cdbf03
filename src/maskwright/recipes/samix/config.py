"""Settings of ``maskwright train samix``. The text under a field is its help."""

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
from maskwright.nets.selector_names import SelectorName


@dataclass
class Config:
    """Train a segmenter from mixed labels."""

    data: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DATA")]
    """Dataset: a folder, or its manifest (see `maskwright data check`)."""
    out: Path
    """Run directory."""
    format: Annotated[ReadName | None, default("what is there decides")] = None
    """What the dataset is read as, where several formats fit."""
    image_reading: tyro.conf.OmitArgPrefixes[ImageReading] = PLAIN
    labels: Literal["all", "masks-only"] = "all"
    """`masks-only` is the baseline that ignores every weak label and every unlabelled image."""
    pseudo: Literal["sam", "ellipse", "none"] = "sam"
    """Source of the pseudo-masks. `none`: no pseudo-masks, weak losses alone. `ellipse`: the ellipse inscribed in each box (a baseline)."""
    no_sam: tyro.conf.FlagCreatePairsOff[bool] = False
    """The same as `--pseudo none`."""
    sam: str = "nano"
    """SAM 2: `nano` (bundled), a Hugging Face id such as facebook/sam2.1-hiera-tiny, a folder, or an official .pt file."""
    adapters: bool = True
    """Train adapters inside SAM's image encoder."""
    tune_decoder: bool = True
    """Also train SAM's mask decoder and memory attention, at a quarter of the adapters' rate (not in the paper; helps small SAMs)."""
    closer_look: bool = True
    """SAM answers each box on a crop around it, at the object's own scale (not in the paper; better for small objects, and costs a pass
    of its encoder for each box)."""
    segmenter: str = "sam"
    """`sam`: a copy of SAM's image encoder with a light decoder; or a SegFormer's Hugging Face id or folder, or its
    config.json to start from random weights."""
    size: int = 256
    """Side of the square canvas, a multiple of 32."""
    crop: Annotated[
        int | None, default("whole images, unless that would lose the objects; the start says which and why")
    ] = None
    """Learn from square crops of so many pixels of the images, brought to the canvas; prediction and evaluation slide the same
    square over images. 0: whole images, squashed. See docs/large.md."""
    scale: Annotated[float | None, default("given by --crop")] = None
    """The same by pixels of the canvas along a pixel of the image: 1 takes crops of --size pixels, at the images' own resolution."""
    epochs: Annotated[float | None, default("20, without --steps and --minutes")] = None
    """Length of the whole training in passes over the training images, the stages before the segmenter's included."""
    steps: Annotated[int | None, default("given by --epochs")] = None
    """Length of the whole training in steps, the stages before the segmenter's included."""
    minutes: Annotated[float | None, default("given by --epochs")] = None
    """Length of the whole training by the clock, from the command to its end: set-up, all stages, validation, model and report included."""
    warm_up: Annotated[int | None, default("a fifth of the training, at most 150")] = None
    """Steps of stage 1 (adapters only), part of the length. By the clock at most half of what is left when the stage begins."""
    batch: int = 4
    """Images per step, over all processes."""
    lr: float = 1.2e-3
    """Learning rate of the segmenter's new layers (AdamW); its pretrained encoder learns at half of it."""
    adapter_lr: float = 1e-3
    """Learning rate of the adapters."""
    weight_decay: float = 1e-4
    """Weight decay of all optimisers (AdamW)."""
    ema: float = 0.999
    """Decay of the mean teacher; in short runs lowered, so that the average spans at most a fifth of the run."""
    mask_share: float = 0.25
    """At least this share of the images in a batch have masks, on average."""
    selector: SelectorName = "similar"
    """How the reference images of a query are chosen. `policy`: by SPNet, trained by reinforcement learning (GRPO)."""
    references: int = 4
    """Reference images per query (T in the paper)."""
    policy_warm_up: Annotated[int | None, default("a tenth of the training, at most 100")] = None
    """Steps of the policy before stage 2, on images with masks, part of the length; with --selector policy."""
    policy_lr: float = 1e-4
    """Learning rate of the policy."""
    coarse_share: float = 0.0
    """Share of stage 2, from its start, in which the segmenter works at half the resolution (not below 128 pixels): a step costs a
    quarter, and teaches less than that."""
    sam_every: int = 6
    """Every so many steps of stage 2 the pseudo-masks of the step's images are renewed and SAM's adapters trained."""
    blend: float = 0.8
    """Share of the mean teacher's prediction in the pseudo-masks of tagged and unlabelled images; times 0.6 where SAM had clicks or
    scribbles, times 0.3 where it had boxes. Grows from 0 over the first third of stage 2 (not in the paper: teacher and SAM make
    different errors)."""
    pseudo_weight: float = 1.0
    """Weight of the loss on pseudo-masks."""
    weak_weight: float = 0.5
    """Weight of the losses on weak labels (points, scribbles, boxes, tags), for the segmenter and for SAM."""
    consistency_weight: float = 0.2
    """Weight of the loss between student and mean teacher."""
    flips: Literal["horizontal", "all"] = "all"
    """`all` also flips vertically and rotates by 90 degrees: for images without a fixed orientation."""
    keep: Literal["best", "last"] = "best"
    """The segmenter in the model folder: the one with the best Dice (smoothed) on the validation split, or the last. Without images
    for validation the last."""
    patience: Annotated[int | None, default("none: train to the end")] = None
    """End the training after so many validations in a row without a better Dice."""
    validations: int = 10
    """Validations in stage 2, at most: they take no more than a tenth of its time."""
    validation_images: int = 100
    """Images of the validation split in a validation, evenly spread; 0: all."""
    seed: int = 0
    """Seed of all random numbers."""
    workers: int = 1
    """Threads that prepare batches ahead."""
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
            self.epochs = 20.0
        _ = self.length
        if self.no_sam:
            self.pseudo = "none"
        shares = ("mask_share", "coarse_share", "ema", "blend")
        rules = {
            **canvas_rule("size", self.size),
            **crop_rules(self.crop, self.scale),
            f"--batch {self.batch}: must be at least 1": self.batch >= 1,
            f"--references {self.references}: must be at least 1": self.references >= 1,
            f"--sam-every {self.sam_every}: must be at least 1": self.sam_every >= 1,
            f"--warm-up {self.warm_up}: must be 0 or more": (self.warm_up or 0) >= 0,
            f"--policy-warm-up {self.policy_warm_up}: must be 0 or more": (self.policy_warm_up or 0) >= 0,
            **validation_rules(self.validations, self.validation_images, self.patience),
            **{
                f"--{n.replace('_', '-')} {getattr(self, n)}: must lie in 0..1": 0 <= getattr(self, n) <= 1
                for n in shares
            },
        }
        require(rules)

    @property
    def length(self) -> Budget:
        """Of the whole training."""
        return Budget(self.epochs, self.steps, self.minutes)

    def settings(self) -> dict[str, Any]:
        """The settings that decide the result, for ``config.json``."""
        free = ("out", "format", "resume", "overwrite", "workers", "device", "checkpoint_seconds", "no_sam")
        return settings_of(self, *free)
