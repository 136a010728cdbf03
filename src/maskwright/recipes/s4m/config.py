"""Settings of ``maskwright train s4m``. The text under a field is its help."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from maskwright.data.crops import given_crop
from maskwright.data.image_reading import PLAIN, ImageReading
from maskwright.data.registry import ReadName
from maskwright.engine.budget import Budget
from maskwright.engine.hints import default
from maskwright.engine.values import settings_of
from maskwright.errors import canvas_rule, crop_rules, require, validation_rules


@dataclass(frozen=True)
class Defaults:
    """Settings whose default depends on the decoder."""

    lr: float
    distillation: float
    certain: float
    show: Literal["points", "all"]
    accept: float
    unsupervised: float
    burn_in: float


_DEFAULTS = {
    "dense": Defaults(2e-3, 0.0, 0.75, "all", 0.7, 1.0, 0.5),
    "queries": Defaults(1e-3, 1.0, 0.7, "points", 0.0, 2.0, 1 / 6),
}


@dataclass
class Config:
    """Train an instance segmenter from a small labelled share."""

    data: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DATA")]
    """Dataset with instance masks or COCO annotations on some of its training images (see `maskwright data check`)."""
    out: Path
    """Run directory."""
    format: Annotated[ReadName | None, default("what is there decides")] = None
    """What the dataset is read as, where several formats fit."""
    image_reading: tyro.conf.OmitArgPrefixes[ImageReading] = PLAIN
    labelled: Annotated[str | None, default("all labels are kept")] = None
    """Keep the labels of this share of the labelled training images (10%) or of so many (47), drawn by the seed, and drop all others."""
    stage: Literal["both", "teacher", "student"] = "both"
    """Train a teacher, or a student of the teacher in --teacher, or both one after the other."""
    teacher: Annotated[Path | None, default("none; needed with --stage student")] = None
    """With --stage student: the run, or the model folder, of the teacher."""
    labels: Literal["all", "labelled-only"] = "all"
    """`labelled-only` is the baseline that ignores all images without instance labels: it trains a teacher alone."""
    sam: str = "nano"
    """SAM 2: `nano` (bundled), a Hugging Face id such as facebook/sam2.1-hiera-tiny, a folder, or an official .pt file."""
    sam_size: Annotated[int | None, default("that of the weights")] = None
    """Side of SAM's canvas, a multiple of 32."""
    segmenter: str = "sam"
    """`sam`: on a copy of SAM's image encoder, see --decoder; or a Mask2Former's Hugging Face id or folder, or its
    config.json to start from random weights."""
    decoder: Annotated[Literal["dense", "queries"] | None, default("dense; queries with a --segmenter of your own")] = (
        None
    )
    """On SAM's encoder: `dense` draws maps that objects are read off, and learns from few images; `queries` is a small Mask2Former, as in
    the paper, which needs many."""
    pretrained_head: bool = True
    """With `dense` on `nano`: begin with the bundled head, which knows objects from photographs and drawn scenes. Without: from random
    weights, as on any other SAM."""
    queries: int = 50
    """Most objects in one view with the segmenter `sam` and --decoder queries; other segmenters have a number of their own."""
    size: int = 256
    """Side of the square canvas, a multiple of 32."""
    crop: Annotated[
        int | None,
        default(
            "dense: by the size of the labelled objects; queries: whole images, unless that would lose the objects"
        ),
    ] = None
    """Learn from square crops of so many pixels, brought to the canvas. `dense` predicts whole images at the same scale, `queries` in
    tiles of that size. With `queries` 0: whole images, squashed. See docs/large.md."""
    scale: Annotated[float | None, default("given by --crop")] = None
    """The same by pixels of the canvas along a pixel of the image: 1 takes crops of --size pixels, at the images' own resolution."""
    epochs: Annotated[float | None, default("given by --steps")] = None
    """Length of the whole training, both stages, in passes over the training images."""
    steps: Annotated[
        int | None, default("4000, with --stage teacher or student 2000; without --epochs and --minutes")
    ] = None
    """Length of the whole training, both stages, in steps."""
    minutes: Annotated[float | None, default("given by --steps")] = None
    """Length of the whole training by the clock, from the command to its end: set-up, both stages, validation, model and report
    included."""
    teacher_share: float = 0.5
    """With --stage both: share of the length that the teacher gets, stage 1; the student gets the rest."""
    batch: int = 4
    """Images per step of stage 1, over all processes; in stage 2 so many labelled and as many unlabelled ones."""
    lr: Annotated[float | None, default("dense 2e-3, queries 1e-3")] = None
    """Peak learning rate (AdamW); in the paper 1e-4, for networks that are pretrained throughout."""
    backbone_lr: float = 0.3
    """Learning rate of the backbone, as a share of --lr; in the paper 0.1."""
    weight_decay: float = 0.05
    """Weight decay (AdamW)."""
    clip: float = 1.0
    """Largest norm of the gradient; in the paper 0.01."""
    warm_up: int = 20
    """Steps over which the learning rate rises at the start of each stage."""
    distillation: Annotated[float | None, default("dense 0, queries 1")] = None
    """Weight of structural distillation in stage 1; 0 leaves it out. `dense` distills every fourth step."""
    points: int = 128
    """Query pixels per image for structural distillation: one click of SAM on each."""
    unsupervised: Annotated[float | None, default("dense 1, queries 2")] = None
    """Weight of the loss on pseudo-labels."""
    certain: Annotated[float | None, default("dense 0.75, queries 0.7")] = None
    """Class probability (`dense`: score) above which an object of the teacher becomes a pseudo-label. With `dense` nothing is learnt from
    where the teacher's other objects lie."""
    refinement: bool = True
    """Refine the masks of pseudo-labels with SAM; of `dense` those of --closer-looks."""
    closer_looks: int = 0
    """With `dense`: objects of a step that SAM redraws, each on a crop about it, which takes a pass of its encoder. 0: none. Outlines of
    `nano` are better than a teacher's of photographs after some minutes, and worse than its of nuclei."""
    show: Annotated[Literal["points", "all"] | None, default("dense all, queries points")] = None
    """SAM's prompt in refinement: `points` are three clicks; `all` adds the box and the logits of the teacher's mask (not in the paper:
    stays closer to the teacher)."""
    accept: Annotated[float | None, default("dense 0.7, queries 0")] = None
    """Take SAM's outline where its IoU with the teacher's is at least this (not in the paper; 0 = always). With `dense` nothing is learnt
    from where the two differ if it is less."""
    merge: float = 1.0
    """Of pseudo-labels of one category whose IoU is above this keep the one with the highest score (not in the paper; 1 = keep all)."""
    arp: Literal["dynamic", "static", "none"] = "dynamic"
    """Paste objects of pseudo-labels between images: scaled and anywhere, in place, or not at all."""
    burn_in: Annotated[float | None, default("dense 1/2, queries 1/6")] = None
    """Share of stage 2 in which the teacher of stage 1 makes the pseudo-labels; after it the student's moving average does. Give more in
    short runs, so that the student has learnt enough by then."""
    ema: float = 0.9996
    """Decay of the teacher after the burn-in; in short runs lowered, so that the average spans at most a twentieth of the stage."""
    flips: Literal["horizontal", "all"] = "horizontal"
    """`all` also flips vertically and rotates by 90 degrees: for images without a fixed orientation."""
    parity: Literal["paper", "official"] = "paper"
    """`official` follows the released code where it differs from the paper: three clicks drawn from the whole map, and pasted objects of at
    least 3000 pixels, whatever the image's size."""
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
    keep: Literal["best", "last"] = "best"
    """The network in the model folder, and the teacher of stage 2: the one with the best mask AP (smoothed) on the validation split, or
    the last. Without images for validation the last."""
    patience: Annotated[int | None, default("none: train to the end")] = None
    """End a stage after so many validations in a row without a better AP."""
    validations: int = 5
    """Validations per stage, at most: they take no more than a tenth of its time, the last one, at its end, aside."""
    validation_images: int = 32
    """Images of the validation split in a validation, evenly spread; 0: all."""
    init: Annotated[Path | None, default("none: from untrained networks")] = None
    """Start from the networks of this earlier run, or model folder, of the same recipe: for data that changed, labels that were added."""
    resume: bool = False
    """Continue the run in --out from its newest checkpoint."""
    overwrite: bool = False
    """Delete the run that is already in --out."""

    def __post_init__(self) -> None:
        if self.labels == "labelled-only":
            self.stage = "teacher"
        if self.epochs is None and self.steps is None and self.minutes is None:
            self.steps = 4000 if self.stage == "both" else 2000
        _ = self.length
        if self.decoder is None:
            self.decoder = "dense" if self.segmenter == "sam" else "queries"
        for name, value in vars(_DEFAULTS[self.decoder]).items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        counts = {"batch": self.batch, "points": self.points, "queries": self.queries}
        rules = {
            **canvas_rule("size", self.size),
            **canvas_rule("sam-size", self.sam_size),
            **{f"--{name} {value}: must be at least 1": value >= 1 for name, value in counts.items()},
            f"--closer-looks {self.closer_looks}: must be 0 or more": self.closer_looks >= 0,
            f"--warm-up {self.warm_up}: must be 0 or more": self.warm_up >= 0,
            "--stage student needs the run of a teacher: give --teacher RUN": (
                self.stage != "student" or self.teacher is not None
            ),
            "--teacher is for --stage student alone: leave it out, or give --stage student": (
                self.stage == "student" or self.teacher is None
            ),
            f"--teacher {self.teacher}: is --out too; name another folder for the student": (
                self.teacher is None or self.teacher.resolve() != self.out.resolve()
            ),
            f"--teacher-share {self.teacher_share} must lie between 0 and 1": 0 < self.teacher_share < 1,
            **validation_rules(self.validations, self.validation_images, self.patience),
            f"--burn-in {self.burn_in} must lie in 0..1": 0 <= self.decoding.burn_in <= 1,
            f"--certain {self.certain} must lie in 0..1": 0 <= self.decoding.certain <= 1,
            f"--decoder dense stands on SAM's encoder: leave --segmenter {self.segmenter} out, or give --decoder queries": (
                self.decoder == "queries" or self.segmenter == "sam"
            ),
            **crop_rules(self.crop, self.scale),
        }
        require(rules)

    @property
    def decoding(self) -> Defaults:
        """What the decoder decides, complete."""
        assert self.lr is not None
        assert self.distillation is not None
        assert self.certain is not None
        assert self.show is not None
        assert self.accept is not None
        assert self.unsupervised is not None
        assert self.burn_in is not None
        return Defaults(
            self.lr, self.distillation, self.certain, self.show, self.accept, self.unsupervised, self.burn_in
        )

    @property
    def size_of_crop(self) -> int | None:
        """Pixels of the image along a crop, where the settings say so."""
        return given_crop(self.crop, self.scale, self.size)

    @property
    def length(self) -> Budget:
        """Of the whole training."""
        return Budget(self.epochs, self.steps, self.minutes)

    def settings(self) -> dict[str, Any]:
        """The settings that decide the result, for ``config.json``."""
        return settings_of(self, "out", "format", "resume", "overwrite", "workers", "device", "checkpoint_seconds")
