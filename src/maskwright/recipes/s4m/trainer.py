"""S⁴M: an instance segmenter from a small labelled share, and many images without labels.

Yoon et al., "S⁴M: Boosting Semi-Supervised Instance Segmentation with SAM", ICCV 2025. Read from ``main`` downwards. SAM 2 stays
frozen; the segmenter is a Mask2Former.

- Stage 1, ``fit_teacher``: a teacher on the labelled images alone. Structural distillation hands it what SAM holds to be alike.
- Stage 2, ``fit_student``: a student, from the start again, on labelled images and on the teacher's pseudo-labels, whose outlines
  SAM refines and whose objects are pasted between images. After the burn-in the teacher is the student's moving average. The
  student is what the user takes home.

All randomness is a function of (seed, step), so a resumed run repeats an uninterrupted one exactly.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro
from accelerate import Accelerator
from torch import Tensor

from maskwright.data.augment import Augmentation, Crop, strong_view
from maskwright.data.check import require_clean
from maskwright.data.dataset import Dataset
from maskwright.data.images import read_image
from maskwright.data.instances import (
    InstanceBatch,
    InstanceLoader,
    Instances,
    is_labelled,
    read_ids,
    refuse_semantic,
)
from maskwright.data.labels import Labels
from maskwright.engine import descent
from maskwright.engine.budget import Budget, progress
from maskwright.engine.ema import Ema, spanning
from maskwright.engine.model import Model
from maskwright.engine.run import Run, settings_of
from maskwright.engine.state import flatten_optimizer, seeded, unflatten_optimizer
from maskwright.engine.weights import load_state
from maskwright.errors import DataError, RunError, canvas_rule, require
from maskwright.methods.instances import coco
from maskwright.methods.instances.detections import look_at
from maskwright.methods.instances.distillation import distillation_loss, query_points, sam_similarities
from maskwright.methods.instances.paste import OFFICIAL_AREA, paste
from maskwright.methods.instances.pseudo import candidates, preferring, prompted, refine, without_duplicates
from maskwright.methods.instances.set_loss import SetLoss
from maskwright.nets.instance import InstanceSegmenter, Queries, create
from maskwright.recipes.s4m.report import write_model, write_report
from maskwright.sam.sam import Embedding, Sam


@dataclass
class Config:
    """Train an instance segmenter from a small labelled share."""

    data: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DATA")]
    """Dataset with instance masks or COCO annotations on some of its training images (see `maskwright data check`)."""
    out: Path
    """Run directory."""
    labelled: str | None = None
    """Keep the labels of this share of the labelled training images (10%) or of so many (47), drawn by the seed, and drop all others."""
    stage: Literal["both", "teacher", "student"] = "both"
    """Train the teacher, or a student of the teacher in --teacher, or one after the other."""
    teacher: Path | None = None
    """With --stage student: the run, or the model folder, of the teacher."""
    labels: Literal["all", "labelled-only"] = "all"
    """`labelled-only` is the baseline that ignores all images without instance labels; it trains the teacher alone."""
    sam: str = "nano"
    """SAM 2: `nano` (bundled), a Hugging Face id such as facebook/sam2.1-hiera-tiny, a folder, or an official .pt file."""
    sam_size: int | None = None
    """Side of the canvas on which SAM sees an image or crop, a multiple of 32; left out, the checkpoint's."""
    segmenter: str = "sam"
    """`sam`: a small Mask2Former on a copy of SAM's image encoder; or a Mask2Former's Hugging Face id or folder, or its
    config.json to start from random weights."""
    queries: int = 50
    """Objects that the segmenter `sam` can find in one view; other segmenters bring their own number."""
    size: int = 256
    """Side of the square canvas, a multiple of 32."""
    crop: int | None = None
    """Learn from square crops of so many pixels, and predict in tiles of them: for images with many small objects. Left out,
    the whole image is squashed to the canvas."""
    steps: int | None = None
    """Length of each stage in steps."""
    minutes: float | None = None
    """Length of each stage by the clock."""
    batch: int = 4
    """Images per step of stage 1, over all processes; stage 2 sees so many labelled, and so many unlabelled ones."""
    lr: float = 1e-3
    """Peak learning rate (AdamW); the paper has 1e-4, for networks that are pretrained throughout."""
    backbone_lr: float = 0.3
    """Share of it at which the backbone learns; the paper has .1."""
    weight_decay: float = 0.05
    clip: float = 1.0
    """Largest norm of the gradient; the paper has .01."""
    warm_up: int = 20
    """Steps over which the learning rate rises at the start of each stage."""
    distillation: float = 1.0
    """Weight of structural distillation in stage 1; 0 leaves it out."""
    points: int = 128
    """Pixels of an image on which SAM is clicked for it."""
    unsupervised: float = 2.0
    """Weight of the loss on pseudo-labels."""
    certain: float = 0.70
    """Class probability above which the teacher's answer becomes a pseudo-label."""
    refinement: bool = True
    """SAM draws the outlines of pseudo-labels."""
    show: Literal["points", "all"] = "points"
    """What SAM is shown for it: `points` are three clicks; `all` adds the box and the logits of the teacher's mask (not in the
    paper: keeps closer to the teacher, for better or worse)."""
    accept: float = 0.0
    """Take SAM's outline where its IoU with the teacher's is at least this (not in the paper; 0 = always)."""
    merge: float = 1.0
    """Of pseudo-labels of one category that overlap by more than this IoU keep the surest (not in the paper; 1 = keep all)."""
    arp: Literal["dynamic", "static", "none"] = "dynamic"
    """Paste objects of pseudo-labels between images: scaled and anywhere, in place, or not at all."""
    burn_in: float = 1 / 6
    """Share of stage 2 in which the teacher of stage 1 makes the pseudo-labels. Longer in short runs: the student takes its place
    then, and must have learnt more by that time."""
    ema: float = 0.9996
    """Decay of the teacher after the burn-in; lowered for short runs so that it spans a twentieth of the stage at most."""
    flips: Literal["horizontal", "all"] = "horizontal"
    """`all` also flips vertically and turns by quarters: right where images have no upright."""
    parity: Literal["paper", "official"] = "paper"
    """`official` restores what the released code does otherwise: three clicks alone, drawn from all of the map, and pasted objects of
    at least 3000 pixels, whatever the image's size."""
    seed: int = 0
    workers: int = 1
    """Threads that prepare batches ahead."""
    device: Literal["auto", "cpu"] = "auto"
    checkpoint_seconds: float = 60.0
    """Time between checkpoints: what a killed run loses at most."""
    validations: int = 2
    """How often each stage is scored on the validation split; the last time at its end."""
    validation_images: int = 32
    """Images that are looked at for it, evenly spread; 0 takes all."""
    resume: bool = False
    """Continue a run that was stopped."""
    overwrite: bool = False
    """Delete a run that is already in the folder."""

    def __post_init__(self) -> None:
        if self.steps is None and self.minutes is None:
            self.steps = 2000
        if self.labels == "labelled-only":
            self.stage = "teacher"
        counts = {"batch": self.batch, "points": self.points, "queries": self.queries}
        rules = {
            **canvas_rule("size", self.size),
            **canvas_rule("sam-size", self.sam_size),
            **{f"--{name} {value}: must be at least 1": value >= 1 for name, value in counts.items()},
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
            f"--burn-in {self.burn_in} must lie in 0..1": 0 <= self.burn_in <= 1,
            f"--certain {self.certain} must lie in 0..1": 0 <= self.certain <= 1,
            f"--crop {self.crop} must be at least 32 pixels": self.crop is None or self.crop >= 32,
        }
        require(rules)

    def settings(self) -> dict[str, Any]:
        """What decides the result, for ``config.json``."""
        free = ("out", "resume", "overwrite", "workers", "device", "checkpoint_seconds")
        return settings_of(self, *free)


def main(config: Config) -> Path:
    """Train and return the run directory."""
    torch.set_flush_denormal(True)
    # Before the processes meet: one that has failed already cannot be met.
    dataset = Dataset.load(config.data)
    accelerator = Accelerator(cpu=config.device == "cpu")
    if accelerator.is_main_process:
        require_clean(dataset)
    trainer = Trainer(config, dataset, accelerator)
    # Last of the set-up, so that a mistake in the settings leaves no run behind, and deletes none.
    with accelerator.main_process_first():
        trainer.run = Run.create(
            config.out,
            config.settings(),
            resume=config.resume,
            overwrite=config.overwrite,
            is_main=accelerator.is_main_process,
        )
    trainer.resume()
    trainer.fit_teacher()
    trainer.fit_student()
    trainer.finish()
    trainer.run.close()
    accelerator.end_training()
    return config.out


def keep_labels(dataset: Dataset, share: str | None, seed: int) -> Dataset:
    """The training split with the labels of a share of its labelled images; all labels of the others are dropped.

    Shares of one seed are nested: the images of 5 % are among those of 10 %.

    Args:
        share: such as ``"10%"`` (at least one image) or ``"47"``; None keeps all labels.

    Raises:
        DataError: something else, or more than there are.
    """
    labelled = [i for i, sample in enumerate(dataset) if is_labelled(sample)]
    if share is None:
        return dataset
    text = share.strip()
    try:
        value = float(text.removesuffix("%"))
        count = max(1, round(len(labelled) * value / 100)) if text.endswith("%") else int(text)
    except (ValueError, OverflowError):
        raise DataError([f"--labelled {share}: give a share such as 10%, or a number of images"]) from None
    if not value > 0 or not 1 <= count <= len(labelled):
        raise DataError(
            [f"--labelled {share}: there are {len(labelled)} labelled training images; give 1 to as many, or 100%"]
        )
    chosen = np.random.default_rng(seed).permutation(labelled)[:count]
    kept = set(chosen.tolist())
    return dataset.with_samples([s if i in kept else replace(s, labels=Labels()) for i, s in enumerate(dataset)])


class Trainer:
    """Networks, data and optimiser of one run. Methods in the order in which ``main`` calls them, after it has set ``run``."""

    run: Run

    def __init__(self, config: Config, dataset: Dataset, accelerator: Accelerator) -> None:
        self.config, self.accelerator = config, accelerator
        self.device = accelerator.device
        self.categories = dataset.categories
        if len(self.categories) < 2:
            raise DataError([f"{config.data}: no category but the background is named; name what is to be segmented"])
        train = dataset.split("train")
        refuse_semantic(train)
        train = keep_labels(train, config.labelled, config.seed)
        self.labelled = train.with_samples([s for s in train if is_labelled(s)])
        self.unlabelled = train.with_samples([s for s in train if not is_labelled(s)])
        self.val = _validation(dataset.split("val"), config.validation_images)
        self._refuse_lack()
        self.weak = any(s.labels.boxes or s.labels.points for s in self.unlabelled)

        torch.manual_seed(config.seed)
        self.sam = Sam.load(config.sam, size=config.sam_size).to(self.device).requires_grad_(False)
        self.network: InstanceSegmenter = self._create()
        self.optimizer = self._optimizer(self.network)
        # Before a run is made or deleted for it; a run that goes on may have its teacher already.
        self.given = load_teacher(config.teacher, self.categories) if config.teacher and not config.resume else None
        self.teacher: Ema | None = None
        self.budget = Budget(steps=config.steps, minutes=config.minutes)
        self.loss = SetLoss()
        self.taught, self.step, self.used_minutes, self.fraction = 0, 0, 0.0, 0.0
        self.burnt_in = False
        self.in_stage: Literal[1, 2] = 1
        self.started = self.saved = time.monotonic()
        self.means: dict[str, list[float]] = defaultdict(list)

    # ------------------------------------------------------------------------------------------------ set-up

    def _refuse_lack(self) -> None:
        """Raise one DataError with all that is missing for the stages that were asked for."""
        where, problems = self.config.data, []
        if not len(self.labelled):
            problems.append(f"{where}: no training image has an instance mask; give some, or COCO annotations")
        if not len(self.unlabelled) and self.config.stage != "teacher":
            problems.append(
                f"{where}: every training image has instance labels, so there is nothing for a student to learn from; "
                "give --stage teacher, or --labelled 10% to try it out"
            )
        if problems:
            raise DataError(problems)

    def _create(self) -> InstanceSegmenter:
        """The segmenter as both stages start from: the same seed makes the same new layers."""
        config = self.config
        torch.manual_seed(config.seed)
        return create(config.segmenter, self.sam, len(self.categories), config.size, config.queries).to(self.device)

    def _optimizer(self, network: InstanceSegmenter) -> torch.optim.Optimizer:
        pretrained = network.pretrained()
        known = {id(p) for p in pretrained}
        new = [p for p in network.parameters() if id(p) not in known]
        rate = self.config.lr
        groups = [
            {"params": pretrained, "lr": rate, "peak": rate * self.config.backbone_lr},
            {"params": new, "lr": rate, "peak": rate},
        ]
        return torch.optim.AdamW(groups, weight_decay=self.config.weight_decay)

    def loader(self, dataset: Dataset) -> InstanceLoader:
        """Endless batches of some of the training images."""
        upright, config = self.config.flips == "horizontal", self.config
        turns = {"vertical_flip": 0.0 if upright else 0.5, "quarter_turns": not upright}
        if config.crop:
            augment: Augmentation | Crop = Crop(config.crop, **turns)
        else:
            augment = Augmentation(rotate_deg=0.0, scale=(0.75, 1.3), shift=0.1, **turns)
        return InstanceLoader(
            dataset,
            config.size,
            config.batch,
            augment=augment,
            seed=config.seed,
            workers=config.workers,
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
        )

    def generator(self, stream: int) -> torch.Generator:
        """Randomness that depends on nothing but seed, purpose, step and process."""
        place = self.clock * self.accelerator.num_processes + self.accelerator.process_index
        return seeded(self.config.seed, stream, place)

    @property
    def clock(self) -> int:
        """Steps over both stages."""
        return self.taught + self.step

    # ------------------------------------------------------------------------------------------------ checkpoints

    def resume(self) -> None:
        checkpoint = self.run.load_checkpoint()
        if checkpoint is None:
            return
        tensors, state = checkpoint.tensors, checkpoint.state
        if state["stage"] == 2:
            self._start_student(self._create())
        load_state(self.network, tensors["network"], "network")
        if self.teacher is not None:
            self.teacher.load_state_dict(tensors["teacher"])
        unflatten_optimizer(self.optimizer, tensors["optimizer"], state["optimizer"])
        self.means.update(state["means"])
        self.taught, self.step, self.burnt_in = state["taught"], state["step"], state["burnt_in"]
        self.used_minutes = state["minutes"]

    def save(self, *, force: bool = False) -> None:
        """A checkpoint, every ``checkpoint_seconds``."""
        if not force and time.monotonic() - self.saved < self.config.checkpoint_seconds:
            return
        flat, optimizer = flatten_optimizer(self.optimizer)
        tensors = {"network": self.network.state_dict(), "optimizer": flat}
        if self.teacher is not None:
            tensors["teacher"] = self.teacher.state_dict()
        state = {
            "stage": self.in_stage,
            "optimizer": optimizer,
            "taught": self.taught,
            "step": self.step,
            "burnt_in": self.burnt_in,
            "minutes": self.minutes(),
            "means": dict(self.means),
        }
        self.run.save_checkpoint(self.clock, tensors, state)
        self.saved = time.monotonic()

    def minutes(self) -> float:
        """Of the present stage, over all sessions."""
        return self.used_minutes + (time.monotonic() - self.started) / 60

    # ------------------------------------------------------------------------------------------------ stage 1

    def fit_teacher(self) -> None:
        """Stage 1: the set loss and structural distillation on labelled images."""
        if self.config.stage == "student" or self.in_stage == 2:
            return
        with self.loader(self.labelled) as loader:
            self._train("training the teacher", "taught", lambda: self.teacher_step(loader.batch(self.taught)))

    def teacher_step(self, batch: InstanceBatch) -> dict[str, Tensor]:
        """The losses of one step."""
        batch = batch.to(self.device)
        queries = self.network(batch.images)
        losses = self.set_loss(queries, batch.truth(), self.generator(1))
        if self.config.distillation:
            points = query_points(batch.instances > 0, batch.inside, self.generator(2), self.config.points)
            with torch.no_grad():
                embedding = self.sam.encode(batch.images)
                target = sam_similarities(self.sam, embedding, points, self.config.size)
            grid = embedding.low.shape[-2], embedding.low.shape[-1]
            loss = distillation_loss(queries.features, target, points, self.config.size, grid)
            losses["distillation"] = self.config.distillation * loss
        return losses

    def set_loss(self, queries: Queries, truth: Instances, generator: torch.Generator) -> dict[str, Tensor]:
        return self.loss(queries.classes, queries.masks, truth, generator, self._mean)

    # ------------------------------------------------------------------------------------------------ stage 2

    def fit_student(self) -> None:
        """Stage 2: the student on labels and on the teacher's pseudo-labels."""
        if self.config.stage == "teacher":
            return
        if self.in_stage == 1:
            self._start_student(self._finished_teacher())
        with self.loader(self.labelled) as labelled, self.loader(self.unlabelled) as unlabelled:
            self._train(
                "training the student",
                "step",
                lambda: self.student_step(labelled.batch(self.step), unlabelled.batch(self.step)),
            )

    def _finished_teacher(self) -> InstanceSegmenter:
        """The teacher that stage 1 left, or that of ``--teacher``; stage 1's is written to ``RUN/teacher``."""
        if self.config.teacher is None:
            if self.accelerator.is_main_process:
                write_model(self, self.network, "teacher")
            return self.network
        given, self.given = self.given, None
        return (load_teacher(self.config.teacher, self.categories) if given is None else given).to(self.device)

    def _start_student(self, teacher: InstanceSegmenter) -> None:
        """A student from the backbone's initialisation, taught by ``teacher``."""
        self.teacher = Ema(teacher, self._decay())
        self.network = self._create()
        self.optimizer = self._optimizer(self.network)
        self.in_stage, self.used_minutes, self.started = 2, 0.0, time.monotonic()
        self.means.clear()

    def _decay(self) -> float:
        return spanning(self.config.ema, self.budget.foretold(self.step, self.fraction), 1 / 20)

    def student_step(self, labelled: InstanceBatch, unlabelled: InstanceBatch) -> dict[str, Tensor]:
        """The losses of one step; the teacher follows."""
        self._move_teacher()
        labelled, unlabelled = labelled.to(self.device), unlabelled.to(self.device)
        _, images, pseudo = self.pseudo_labels(unlabelled)
        losses = self.set_loss(self.network(labelled.images), labelled.truth(), self.generator(1))
        strong = strong_view(images, self.generator(5))
        found = self.set_loss(self.network(strong), pseudo, self.generator(6))
        weight = self.config.unsupervised
        return losses | {f"pseudo_{name}": weight * loss for name, loss in found.items()}

    def _move_teacher(self) -> None:
        """Frozen during the burn-in, then overwritten by the student, then its moving average."""
        assert self.teacher is not None
        if self.burnt_in:
            self.teacher.decay = self._decay()
            self.teacher.update(self.network)
        elif self.fraction >= self.config.burn_in:
            self.teacher.copy_from(self.network)
            self.burnt_in = True

    @torch.no_grad()
    def pseudo_labels(self, batch: InstanceBatch) -> tuple[Instances, Tensor, Instances]:
        """What an unlabelled batch is learnt from.

        Returns:
            What the teacher drew; the images with what was pasted; and their labels after refinement, weak labels and pasting.
        """
        config, official = self.config, self.config.parity == "official"
        assert self.teacher is not None
        found = candidates(self.teacher.model(batch.images), config.certain)
        drawn = found.instances(config.size)
        weak = self.weak and bool((batch.box_categories > 0).any() or (batch.point_categories > 0).any())
        embedding: Embedding | None = None
        if (config.refinement and len(found)) or weak:
            embedding = self.sam.encode(batch.images)
        labels = drawn
        if config.refinement and embedding is not None:
            labels = refine(
                found,
                self.sam,
                embedding,
                config.size,
                self.generator(3),
                show="points" if official else config.show,
                official=official,
                accept=config.accept,
            )
        if config.merge < 1:
            labels = without_duplicates(labels, found.scores, config.merge)
        if weak and embedding is not None:
            labels = preferring(prompted(batch, self.sam, embedding, config.size), labels)
        self.means["pseudo_labels"].append(len(labels) / len(batch))
        if config.arp == "none":
            return drawn, batch.images, labels
        images, labels = paste(
            batch.images,
            labels,
            self.generator(4),
            min_area=OFFICIAL_AREA if official else None,
            dynamic=config.arp == "dynamic",
        )
        return drawn, images, labels

    # ------------------------------------------------------------------------------------------------ shared by both stages

    def _train(self, text: str, counter: Literal["taught", "step"], losses: Callable[[], dict[str, Tensor]]) -> None:
        """Steps until the stage's budget is used up. ``losses`` gives those of one step, ``counter`` names what counts them."""
        config, begun = self.config, time.monotonic()
        main = self.accelerator.is_main_process
        budget = self.budget.resumed(self.used_minutes) if config.minutes else self.budget
        parameters = list(self.network.parameters())
        done = getattr(self, counter)
        length, completed = budget.bar(done, begun)
        with progress(length, text, completed=completed, is_main=main) as advance:
            while not self._agree(budget.done(done, begun)):
                self.fraction = self._agree(budget.progress(done, begun))
                rate = min(1.0, (done + 1) / max(1, config.warm_up)) * (1 - self.fraction) ** 0.9
                descent.set_rate(self.optimizer, rate)
                parts = losses()
                loss = torch.stack(list(parts.values())).sum()
                descent.descend(self.accelerator, loss, self.optimizer, parameters, config.clip)
                for name, value in parts.items():
                    self.means[name].append(float(value.detach()))
                done += 1
                setattr(self, counter, done)
                self._report_step(rate)
                after = self._agree(budget.progress(done, begun))
                advance(budget.stride(self.fraction, after))
                if int(config.validations * after) > int(config.validations * self.fraction) and after < 1:
                    self._log_validation()
                self.save()
        self.fraction = 1.0
        self._log_validation()

    def _mean(self, value: Tensor) -> Tensor:
        """The mean over all processes."""
        if self.accelerator.num_processes == 1:
            return value
        mean: Any = self.accelerator.reduce(value, "mean")
        return mean

    def _agree(self, value: Any) -> Any:
        return descent.agree(self.accelerator, value)

    def _report_step(self, rate: float) -> None:
        if self.clock % 10 == 0:
            stage = "teacher" if self.in_stage == 1 else "student"
            means = {f"{stage}_{k}": sum(v) / len(v) for k, v in self.means.items()}
            self.run.log(self.clock, lr=rate * self.config.lr, **means)
            self.means.clear()

    def _log_validation(self) -> None:
        if not len(self.val):
            return
        stage = "teacher" if self.in_stage == 1 else "student"
        if self.accelerator.is_main_process:
            self.run.log_once(self.clock, **{f"val_{stage}_{k}": v for k, v in self.validate().items()})
        self.accelerator.wait_for_everyone()

    def validate(self) -> dict[str, float]:
        """Mask AP, AP50, AP75 and box AP of the network in training, on images of the validation split at their own size."""
        truths, found, sizes = [], [], []
        for sample in self.val:
            ids, categories = read_ids(self.val, sample)
            truths.append(coco.of_ids(ids, categories))
            sizes.append((ids.shape[1], ids.shape[0]))
            image = read_image(self.val.image_path(sample))
            found.append(look_at(self.network, image, self.config.crop, self.config.batch))
        scores = coco.scores(truths, found, sizes, self.categories)
        return {name: scores[name] for name in ("ap", "ap50", "ap75", "box_ap") if scores[name] is not None}

    def finish(self) -> None:
        """Write the model to take home (the student, or the teacher where there is none) and the report."""
        self.save(force=True)
        self.accelerator.wait_for_everyone()
        if not self.accelerator.is_main_process:
            return
        write_model(self, self.network, "model")
        write_report(self)


def load_teacher(path: Path, categories: tuple[str, ...]) -> InstanceSegmenter:
    """The teacher of a run: its ``teacher`` folder where it went on to a student, else its model.

    Raises:
        WeightsError: no model there, or one that is damaged.
        RunError: a model of other categories.
    """
    from maskwright.methods.instances.predictor import load_instances

    model = Model.open(path / "teacher" if (path / "teacher").is_dir() else path, ("s4m",))
    if model.categories != categories:
        raise RunError(
            f"{model.folder}: the teacher knows {', '.join(model.categories)}, the dataset has {', '.join(categories)}; "
            "give the teacher of this dataset"
        )
    return load_instances(model).network


def _validation(dataset: Dataset, most: int) -> Dataset:
    """Images of the validation split that can be scored; at most so many, evenly spread."""
    usable = [sample for sample in dataset if is_labelled(sample)]
    if most and len(usable) > most:
        usable = [usable[round(i * (len(usable) - 1) / max(1, most - 1))] for i in range(most)]
    return dataset.with_samples(usable)
