"""S⁴M's training, in the order in which ``main`` calls it.

- Stage 1, ``fit_teacher``: a teacher on the labelled images alone. Structural distillation brings its features closer to SAM's.
- Stage 2, ``fit_student``: a student, newly initialised, on labelled images and on the teacher's pseudo-labels, which SAM refines and
  whose objects are pasted between images. After the burn-in the teacher is the student's moving average.

All random numbers are functions of (seed, stream, step), so a resumed run repeats an uninterrupted one exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import IntEnum
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from maskwright.data.augment import Augmentation, Crop, strong_view
from maskwright.data.dataset import Dataset
from maskwright.data.instances import InstanceBatch, InstanceLoader, Instances, is_labelled, read_ids, refuse_semantic
from maskwright.engine.best import Best
from maskwright.engine.ema import Ema, spanning
from maskwright.engine.model import Model
from maskwright.engine.origin import Heads, Origin
from maskwright.engine.session import Session, Trainable, rated_groups, set_rate
from maskwright.engine.timer import Part, Stage, Validations
from maskwright.errors import DataError, RunError
from maskwright.methods.instances import coco
from maskwright.methods.instances.dense_detections import find_objects
from maskwright.methods.instances.distillation import distillation_loss, query_points, sam_similarities
from maskwright.methods.instances.paste import OFFICIAL_AREA, paste
from maskwright.methods.instances.predictor import load_instances
from maskwright.methods.instances.pseudo_labels import candidates, preferring, prompted, refine, without_duplicates
from maskwright.methods.instances.set_loss import SetLoss
from maskwright.nets.dense_instances import DenseSegmenter
from maskwright.nets.instance import CATEGORY_HEADS, InstanceSegmenter, Queries, create
from maskwright.recipes.s4m.config import Config
from maskwright.recipes.s4m.images import keep_labels, scorable
from maskwright.sam.sam import Embedding, Sam


class Stream(IntEnum):
    """Purposes of the run's random numbers; see ``Session.generator``."""

    MATCHED_POINTS = 1
    DISTILLED_POINTS = 2
    REFINEMENT = 3
    PASTING = 4
    STRONG_VIEW = 5
    PSEUDO_POINTS = 6
    LABELLED_VIEW = 7


SMALLEST_PIECE = 1024
"""Pixels along the pieces that much larger images are cut into, so that a batch of crops does not read whole ones; at least."""

TEACHER_COST, VALIDATION_COST = 0.5, 0.35
"""Time of a step of the teacher, and of as many validation images as a batch holds, relative to a step of the student:
estimates for CPU cores. For the bar's time left, and to bound the time of validations."""


class Trainer(Trainable):
    """Networks, data and optimiser of one run. Methods in the order in which ``main`` calls them."""

    recipe = "s4m"
    network: Any
    networks: ClassVar = {"model": "network"}
    has_head: bool = False
    """Whether the decoder began with the bundled head."""

    def __init__(self, config: Config, session: Session) -> None:
        self.config, self.session, self.device = config, session, session.device
        refuse_semantic(session.dataset.split("train"))
        # A dense segmenter has a rule of its own for its scale, and no scale at which it loses objects.
        self.crop = config.size_of_crop if config.decoder == "dense" else session.chosen_crop(config.size)
        dataset = session.dataset
        train = keep_labels(dataset.split("train"), config.labelled, config.seed)
        dataset = dataset.with_samples([*train, *dataset.split("val")])
        view = self.crop or config.size
        pieces = {"train": max(SMALLEST_PIECE, 4 * view), "val": 2 * view}
        dataset = session.in_pieces(dataset, pieces, f"{config.labelled} {config.seed}")
        self.categories = dataset.categories
        train = dataset.split("train")
        self.labelled = train.with_samples([s for s in train if is_labelled(s)])
        self.unlabelled = train.with_samples([s for s in train if not is_labelled(s)])
        self.val = scorable(dataset.split("val"), config.validation_images)
        self._refuse_lack()
        self.has_weak_labels = any(s.labels.boxes or s.labels.points for s in self.unlabelled)
        per_epoch = max(1, math.ceil((len(self.labelled) + len(self.unlabelled)) / config.batch))
        self.teacher_stage, self.student_stage = session.plan(
            replace(config.length, steps_per_epoch=per_epoch),
            Part(
                "teacher",
                "training the teacher",
                share=config.teacher_share,
                wanted=config.stage != "student",
                cost=TEACHER_COST,
            ),
            Part("student", "training the student", wanted=config.stage != "teacher"),
        )
        self.validations = {
            stage.name: Validations(config.validations, VALIDATION_COST * len(self.val) / config.batch / stage.cost)
            for stage in (self.teacher_stage, self.student_stage)
        }

        torch.manual_seed(config.seed)
        self.sam = Sam.load(config.sam, size=config.sam_size).to(self.device).requires_grad_(False)
        self.teacher: Ema | None = None
        self.network = self._create()
        self.optimizer = self._optimizer(self.network)
        self.best = self._best()
        self.teacher_kept: dict[str, Any] = {}  # of the teacher of stage 2: step and score
        # Loaded before the run's folder is made or deleted, so that an error leaves it as it is; a resumed run may need no teacher.
        self.initial_teacher: Any = (
            load_teacher(config.teacher, self.categories) if config.teacher and not config.resume else None
        )
        self._refuse_teacher()
        self.loss = SetLoss()
        self.burnt_in = False

    # ------------------------------------------------------------------------------------------------ set-up

    def _refuse_lack(self) -> None:
        """Raise one DataError with all that is missing for the stages of ``--stage``."""
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

    def _refuse_teacher(self) -> None:
        """Raise RunError where the teacher that was given cannot be that of this student."""
        if isinstance(self.initial_teacher, DenseSegmenter):
            raise RunError(f"--teacher {self.config.teacher}: is a dense segmenter; give --decoder dense")

    def _create(self) -> Any:
        """The segmenter as both stages start from: the same seed makes the same new layers."""
        config = self.config
        torch.manual_seed(config.seed)
        network = create(config.segmenter, self.sam, len(self.categories), config.size, config.queries).to(self.device)
        # Deformable attention is not safe in half precision; the backbone is.
        self.session.precision.lower([network.backbone])
        return network

    def _optimizer(self, network: Any) -> torch.optim.Optimizer:
        pretrained = network.pretrained()
        pretrained_ids = {id(p) for p in pretrained}
        new, rate = [p for p in network.parameters() if id(p) not in pretrained_ids], self.config.decoding.lr
        groups = rated_groups([(pretrained, rate * self.config.backbone_lr), (new, rate)])
        return torch.optim.AdamW(groups, weight_decay=self.config.weight_decay)

    def loader(self, dataset: Dataset) -> InstanceLoader:
        """Endless batches of some of the training images."""
        config = self.config
        return InstanceLoader(
            dataset,
            config.size,
            config.batch,
            augment=self.geometry(turns_of(config.flips)),
            seed=config.seed,
            workers=config.workers,
            rank=self.session.accelerator.process_index,
            world=self.session.accelerator.num_processes,
        )

    def geometry(self, turns: Mapping[str, Any]) -> Augmentation | Crop:
        """How images come onto the canvas; ``turns`` are what their orientation allows."""
        if self.crop:
            return Crop(self.crop, **turns)
        return Augmentation(rotate_deg=0.0, scale=(0.75, 1.3), shift=0.1, **turns)

    def generator(self, stream: Stream) -> torch.Generator:
        """Stateless random numbers of this step and process."""
        accelerator = self.session.accelerator
        place = self.session.clock * accelerator.num_processes + accelerator.process_index
        return self.session.generator(stream, place)

    def _best(self) -> Best:
        """The network of a stage that is kept."""
        return Best({"network": self.network}, self.config.keep, self.config.patience)

    @property
    def stage(self) -> Stage:
        """The one under way, or the last one."""
        return self.teacher_stage if self.teacher is None else self.student_stage

    # ------------------------------------------------------------------------------------------------ checkpoints

    def parts(self) -> dict[str, Any]:
        parts: dict[str, Any] = {"network": self.network, "optimizer": self.optimizer, "best": self.best}
        return parts if self.teacher is None else parts | {"teacher": self.teacher}

    def values(self) -> dict[str, Any]:
        has_student = self.teacher is not None
        return {"has_student": has_student, "burnt_in": self.burnt_in, "teacher_kept": self.teacher_kept}

    def start_from(self, origin: Origin) -> None:
        """The first network to be trained; a student that follows a teacher is newly initialised, as without ``--init``."""
        if self.config.stage == "student":
            raise origin.refuse("with --stage student the earlier run is the teacher; give it to --teacher instead")
        heads = Heads(CATEGORY_HEADS, lambda categories: [*categories[1:], "no object"])
        flags = "--sam, --segmenter, --queries"
        origin.fill(self.network, "model", flags=flags, heads=heads, categories=self.categories)

    def restore(self, values: Mapping[str, Any]) -> None:
        if values["has_student"]:
            self._start_student(self._create())
        self.burnt_in, self.teacher_kept = values["burnt_in"], values["teacher_kept"]

    # ------------------------------------------------------------------------------------------------ stage 1

    def fit_teacher(self) -> bool:
        """Stage 1: the set loss and structural distillation on labelled images. Returns whether it ended in this call."""
        if self.config.stage == "student" or self.teacher is not None:
            return False
        with self.loader(self.labelled) as loader:
            self._train(self.teacher_stage, lambda step: self.teacher_step(loader.batch(step)))
        if self.config.stage == "both":
            self.best.restore()
            self.teacher_kept = {"step": self.best.step, "score": self.best.score}
        return True

    def teacher_step(self, batch: InstanceBatch) -> dict[str, Tensor]:
        """The losses of one step."""
        batch = batch.to(self.device)
        queries = self.network(batch.images)
        losses = self.set_loss(queries, batch.truth(), self.generator(Stream.MATCHED_POINTS))
        if self.config.decoding.distillation:
            points = query_points(
                batch.instances > 0, batch.inside, self.generator(Stream.DISTILLED_POINTS), self.config.points
            )
            with torch.no_grad():
                embedding = self.sam.encode(batch.images)
                target = sam_similarities(self.sam, embedding, points, self.config.size)
            grid = embedding.low.shape[-2], embedding.low.shape[-1]
            loss = distillation_loss(queries.features, target, points, self.config.size, grid)
            losses["distillation"] = self.config.decoding.distillation * loss
        return losses

    def set_loss(self, queries: Queries, truth: Instances, generator: torch.Generator) -> dict[str, Tensor]:
        return self.loss(queries.classes, queries.masks, truth, generator, self.session.mean)

    # ------------------------------------------------------------------------------------------------ stage 2

    def fit_student(self) -> None:
        """Stage 2: the student on labels and on the teacher's pseudo-labels."""
        if self.config.stage == "teacher":
            return
        if self.teacher is None:
            self._start_student(
                self.network if self.config.teacher is None else self._loaded_teacher(self.config.teacher)
            )
            self._keep_beginning()
        with self.loader(self.labelled) as labelled, self.loader(self.unlabelled) as unlabelled:
            self._train(
                self.student_stage, lambda step: self.student_step(labelled.batch(step), unlabelled.batch(step))
            )

    def _loaded_teacher(self, path: Path) -> Any:
        """The teacher of ``--teacher``."""
        teacher, self.initial_teacher = self.initial_teacher, None
        return (load_teacher(path, self.categories) if teacher is None else teacher).to(self.device)

    def _start_student(self, teacher: Any) -> None:
        """Make a newly initialised student of ``teacher``."""
        self.teacher = Ema(teacher, self._decay())
        self.network = self._create()
        self.optimizer = self._optimizer(self.network)
        self.best = self._best()

    def _keep_beginning(self) -> None:
        """A newly initialised student is not worth keeping before it has learnt anything."""

    def _decay(self) -> float:
        return spanning(self.config.ema, self.student_stage.expected_steps, 1 / 20)

    def student_step(self, labelled: InstanceBatch, unlabelled: InstanceBatch) -> dict[str, Tensor]:
        """The losses of one step; first the teacher follows the student."""
        self._move_teacher()
        labelled, unlabelled = labelled.to(self.device), unlabelled.to(self.device)
        _, images, pseudo = self.pseudo_labels(unlabelled)
        losses = self.set_loss(self.network(labelled.images), labelled.truth(), self.generator(Stream.MATCHED_POINTS))
        strong = strong_view(images, self.generator(Stream.STRONG_VIEW))
        pseudo_losses = self.set_loss(self.network(strong), pseudo, self.generator(Stream.PSEUDO_POINTS))
        weight = self.config.decoding.unsupervised
        return losses | {f"pseudo_{name}": weight * loss for name, loss in pseudo_losses.items()}

    def _move_teacher(self) -> None:
        """Frozen during the burn-in, then overwritten by the student, then its moving average."""
        assert self.teacher is not None
        if self.burnt_in:
            self.teacher.decay = self._decay()
            self.teacher.update(self.network)
        elif self.student_stage.fraction >= self.config.decoding.burn_in:
            self.teacher.copy_from(self.network)
            self.burnt_in = True

    @torch.no_grad()
    def pseudo_labels(self, batch: InstanceBatch) -> tuple[Instances, Tensor, Instances]:
        """The pseudo-labels of an unlabelled batch.

        Returns:
            The teacher's objects; the images with pasted objects; and the labels of these, after refinement, weak labels and pasting.
        """
        config, official = self.config, self.config.parity == "official"
        assert self.teacher is not None
        objects = candidates(self.teacher.model(batch.images), config.decoding.certain)
        original = objects.instances(config.size)
        weak = self.has_weak_labels and bool((batch.box_categories > 0).any() or (batch.point_categories > 0).any())
        embedding: Embedding | None = None
        if (config.refinement and len(objects)) or weak:
            embedding = self.sam.encode(batch.images)
        labels = original
        if config.refinement and embedding is not None:
            labels = refine(
                objects,
                self.sam,
                embedding,
                config.size,
                self.generator(Stream.REFINEMENT),
                show="points" if official else config.decoding.show,
                official=official,
                accept=config.decoding.accept,
            )
        if config.merge < 1:
            labels = without_duplicates(labels, objects.scores, config.merge)
        if weak and embedding is not None:
            labels = preferring(prompted(batch, self.sam, embedding, config.size), labels)
        self.session.average(pseudo_labels=len(labels) / len(batch))
        if config.arp == "none":
            return original, batch.images, labels
        images, labels = paste(
            batch.images,
            labels,
            self.generator(Stream.PASTING),
            min_area=OFFICIAL_AREA if official else None,
            dynamic=config.arp == "dynamic",
        )
        return original, images, labels

    # ------------------------------------------------------------------------------------------------ shared by both stages

    def _train(self, stage: Stage, losses_of: Callable[[int], dict[str, Tensor]]) -> None:
        """Optimiser steps until the stage's budget is used up; ``losses_of`` computes the losses of a step."""
        config, session = self.config, self.session

        def log_and_validate() -> None:
            if session.clock % 10 == 0:
                session.log_averages(f"{stage.name}_")
            if len(self.val):
                validations, prefix = self.validations[stage.name], f"val_{stage.name}_"
                session.validate_if_due(stage, validations, self.best, self.validate, "ap", prefix)

        for step in session.steps(stage, log_every=None, then=log_and_validate, stop=self.best.is_exhausted):
            rate = min(1.0, (step + 1) / max(1, config.warm_up)) * (1 - stage.fraction) ** 0.9
            set_rate(self.optimizer, rate)
            losses = losses_of(step)
            loss = torch.stack(list(losses.values())).sum()
            session.descend(loss, self.optimizer, self.network.parameters(), config.clip)
            session.average(**losses)
            session.latest(lr=self.optimizer.param_groups[-1]["lr"])

    def validate(self, network: InstanceSegmenter | DenseSegmenter | None = None) -> dict[str, float]:
        """Mask AP, AP50, AP75 and box AP of a network on images of the validation split at their own size.

        Args:
            network: left out, the one in training.
        """
        truths, detections, sizes = [], [], []
        for sample in self.val:
            ids, categories = read_ids(self.val, sample)
            truths.append(coco.of_ids(ids, categories))
            sizes.append((ids.shape[1], ids.shape[0]))
            image = self.val.pixels(sample)
            detections.append(find_objects(network or self.network, image, self.crop, self.config.batch))
        scores = coco.scores(truths, detections, sizes, self.categories)
        return {name: scores[name] for name in ("ap", "ap50", "ap75", "box_ap") if scores[name] is not None}


def turns_of(flips: Literal["horizontal", "all"]) -> dict[str, Any]:
    """What ``--flips`` allows beside mirror images, as arguments of ``Augmentation`` and ``Crop``."""
    upright = flips == "horizontal"
    return {"vertical_flip": 0.0 if upright else 0.5, "quarter_turns": not upright}


def load_teacher(path: Path, categories: tuple[str, ...]) -> InstanceSegmenter | DenseSegmenter:
    """The teacher of a run: its ``teacher`` folder where it went on to a student, else its model.

    Raises:
        WeightsError: no model there, or one that is damaged.
        RunError: a model of other categories.
    """
    model = Model.open(path / "teacher" if (path / "teacher").is_dir() else path, ("s4m",))
    if model.categories != categories:
        raise RunError(
            f"{model.folder}: the teacher knows {', '.join(model.categories)}, the dataset has {', '.join(categories)}; "
            "give the teacher of this dataset"
        )
    return load_instances(model).network
