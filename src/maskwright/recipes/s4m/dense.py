"""S⁴M with a dense segmenter: the same two stages, but objects are read off maps, and what is doubtful is not learnt from.

What differs from ``trainer``:

- The scale is chosen by the size of the labelled objects; half of the labelled crops lie about one.
- Colours of labelled images are changed too.
- The student starts from the teacher, not from SAM's encoder: in a short training it would not get back to where the teacher is.
- Pseudo-labels: objects of a score above ``--certain``; where the others lie, nothing is learnt. SAM is shown box and mask, and where
  it disagrees with the teacher, what lies between the two is not learnt from either.
- True objects are pasted into images without labels, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maskwright.data.augment import Augmentation, Crop, strong_view
from maskwright.data.dataset import Dataset
from maskwright.data.instances import InstanceBatch, Instances, read_ids
from maskwright.engine.ema import Ema
from maskwright.engine.origin import Heads, Origin
from maskwright.engine.scoring import evenly_spread
from maskwright.engine.session import rated_groups
from maskwright.errors import RunError
from maskwright.methods.instances.dense_head import begin_with_head
from maskwright.methods.instances.dense_loss import DenseLoss, Targets, targets, zoom_for
from maskwright.methods.instances.dense_pseudo import PseudoLabels, refined, sure_objects, targets_of
from maskwright.methods.instances.distillation import distillation_loss, query_points, sam_similarities
from maskwright.methods.instances.paste import paste_covering
from maskwright.methods.instances.pseudo_labels import preferring, prompted
from maskwright.nets.dense_instances import CATEGORY_HEADS, DenseSegmenter, Maps, create
from maskwright.recipes.s4m.trainer import Stream, Trainer

STUDENT_RATE = 0.25
"""Learning rate of the student, as a share of the teacher's."""

DISTILL_EVERY = 4
"""Steps between two with structural distillation: SAM's answers to its clicks cost as much as all the rest of a step."""

MEASURED = 200
"""Labelled images whose objects are measured, at most."""


class DenseTrainer(Trainer):
    """A run with ``--decoder dense``. Methods in the order in which they are called."""

    network: DenseSegmenter

    def _create(self) -> DenseSegmenter:
        network, config = self._untrained(), self.config
        # A student of another run takes the weights of its teacher.
        if config.pretrained_head and config.stage != "student":
            # With --init, an earlier run's weights take the place of these but for categories that it does not know.
            self.has_head = begin_with_head(network, self.sam) and config.init is None
        return network

    def _untrained(self) -> DenseSegmenter:
        config = self.config
        zoom = config.size / self.crop if self.crop else measured_zoom(self.labelled, config.size)
        torch.manual_seed(config.seed)
        network = create(self.sam, len(self.categories), config.size, zoom).to(self.device)
        self.session.precision.lower([network.backbone])
        self.dense_loss = DenseLoss()
        return network

    def _refuse_teacher(self) -> None:
        teacher, flag = self.initial_teacher, f"--teacher {self.config.teacher}"
        if teacher is None:
            return
        if not isinstance(teacher, DenseSegmenter):
            raise RunError(f"{flag}: is a Mask2Former, not a dense segmenter; give --decoder queries")
        here, there = ({**one.description(), "zoom": None} for one in (self.network, teacher))
        if here != there:
            raise RunError(
                f"{flag}: stands on another image encoder than --sam {self.config.sam}; give the --sam it was trained with"
            )

    def geometry(self, turns: Mapping[str, Any]) -> Augmentation | Crop:
        return crop_at(self.network.zoom, self.config.size, turns)

    def values(self) -> dict[str, Any]:
        return super().values() | {"zoom": self.network.zoom}

    def restore(self, values: Mapping[str, Any]) -> None:
        # A student of --teacher sees at the scale of its teacher.
        self.network.zoom = values["zoom"]
        if values["has_student"]:
            self._start_student(self.network)
        self.burnt_in, self.teacher_kept = values["burnt_in"], values["teacher_kept"]

    def start_from(self, origin: Origin) -> None:
        if self.config.stage == "student":
            raise origin.refuse("with --stage student the earlier run is the teacher; give it to --teacher instead")
        heads = Heads(CATEGORY_HEADS, lambda categories: categories[1:])
        origin.fill(
            self.network, "model", flags="--sam, --segmenter, --decoder", heads=heads, categories=self.categories
        )

    def _optimizer(self, network: DenseSegmenter) -> torch.optim.Optimizer:
        """Biases and normalisations do not decay. A student, which starts as the teacher is, learns at a lower rate."""
        config, pretrained = self.config, {id(p) for p in network.pretrained()}
        rate = config.decoding.lr * (1.0 if self.teacher is None else STUDENT_RATE)
        groups: list[dict[str, Any]] = []
        for starts_trained, share in ((True, config.backbone_lr), (False, 1.0)):
            own = [p for p in network.parameters() if (id(p) in pretrained) == starts_trained]
            for decays in (False, True):
                some = [p for p in own if (p.ndim > 1) == decays]
                decay = config.weight_decay if decays else 0.0
                groups += [group | {"weight_decay": decay} for group in rated_groups([(some, rate * share)])]
        return torch.optim.AdamW([group for group in groups if group["params"]])

    # ------------------------------------------------------------------------------------------------ stage 1

    def teacher_step(self, batch: InstanceBatch) -> dict[str, Tensor]:
        batch = batch.to(self.device)
        maps = self.network(self._labelled_view(batch))
        losses = self.dense_loss(maps, self._truth(batch))
        if self.config.decoding.distillation and self.session.clock % DISTILL_EVERY == 0:
            losses["distillation"] = self.config.decoding.distillation * self._distilled(maps, batch)
        return losses

    def _labelled_view(self, batch: InstanceBatch) -> Tensor:
        return labelled_view(batch.images, self.generator(Stream.LABELLED_VIEW))

    def _truth(self, batch: InstanceBatch) -> Targets:
        known = batch.inside & batch.labelled[:, None, None]
        return targets(batch.instances, batch.instance_categories, known, len(self.categories))

    def _distilled(self, maps: Maps, batch: InstanceBatch) -> Tensor:
        generator = self.generator(Stream.DISTILLED_POINTS)
        points = query_points(batch.instances > 0, batch.inside, generator, self.config.points)
        with torch.no_grad():
            embedding = self.sam.encode(batch.images)
            target = sam_similarities(self.sam, embedding, points, self.config.size)
        grid = embedding.low.shape[-2], embedding.low.shape[-1]
        return distillation_loss(maps.features, target, points, self.config.size, grid)

    # ------------------------------------------------------------------------------------------------ stage 2

    def _start_student(self, teacher: Any) -> None:
        """Make a student that starts as ``teacher`` is."""
        self.teacher = Ema(teacher, self._decay())
        self.network = self._create_like(teacher)
        self.optimizer = self._optimizer(self.network)
        self.best = self._best()

    def _keep_beginning(self) -> None:
        """Where the student becomes no better than the teacher that it starts as, that is what is kept."""
        if not self.teacher_kept and len(self.val):
            scores = self.session.agree(self.validate() if self.session.is_main else {})
            self.teacher_kept = {"step": self.session.clock, "score": scores.get("ap")}
            self.session.log(**{f"val_teacher_{name}": score for name, score in scores.items()})
        if self.teacher_kept.get("score") is not None:
            self.best.update(self.teacher_kept["step"], self.teacher_kept["score"])

    def _create_like(self, teacher: DenseSegmenter) -> DenseSegmenter:
        # Made anew, as the hooks of a network that computes in another precision are not to be copied.
        network = self._untrained()
        network.load_state_dict(teacher.state_dict())
        network.zoom = teacher.zoom
        return network

    def student_step(self, labelled: InstanceBatch, unlabelled: InstanceBatch) -> dict[str, Tensor]:
        self._move_teacher()
        labelled, unlabelled = labelled.to(self.device), unlabelled.to(self.device)
        losses = self.dense_loss(self.network(self._labelled_view(labelled)), self._truth(labelled))
        if not self.config.decoding.unsupervised:
            return losses
        labels = self._refined_labels(unlabelled)
        images, objects, covered = self._pasted(unlabelled, labels, labelled)
        known = unlabelled.inside & ~labels.doubtful | covered
        strong = strong_view(images, self.generator(Stream.STRONG_VIEW))
        pseudo = self.dense_loss(self.network(strong), targets_of(objects, known, len(self.categories)))
        return losses | {f"pseudo_{name}": self.config.decoding.unsupervised * loss for name, loss in pseudo.items()}

    @torch.no_grad()
    def _refined_labels(self, batch: InstanceBatch) -> PseudoLabels:
        """The teacher's objects in images without labels, refined by SAM, and SAM's masks of weak labels."""
        config = self.config
        labels = self._teachers_labels(batch)
        weak = self.has_weak_labels and bool((batch.box_categories > 0).any() or (batch.point_categories > 0).any())
        if config.refinement and config.closer_looks:
            generator, accept = self.generator(Stream.REFINEMENT), config.decoding.accept
            labels = refined(labels, self.sam, batch.images, generator, most=config.closer_looks, accept=accept)
        if weak:
            objects = preferring(prompted(batch, self.sam, self.sam.encode(batch.images), config.size), labels.objects)
            labels = PseudoLabels(objects, torch.ones(len(objects), device=self.device), labels.doubtful)
        self.session.average(pseudo_labels=len(labels) / len(batch), doubtful=labels.doubtful.float().mean())
        return labels

    def _teachers_labels(self, batch: InstanceBatch) -> PseudoLabels:
        assert self.teacher is not None
        return sure_objects(self.teacher.model(batch.images), self.config.size, self.config.decoding.certain)

    def _pasted(
        self, batch: InstanceBatch, labels: PseudoLabels, donors: InstanceBatch | None
    ) -> tuple[Tensor, Instances, Tensor]:
        """Images, objects and where something was pasted, of a batch without labels; ``donors`` are labelled and give objects, too."""
        if self.config.arp == "none":
            return batch.images, labels.objects, torch.zeros_like(labels.doubtful)
        images, objects, count = batch.images, labels.objects, len(batch)
        if donors is not None:
            true = donors.truth()
            images = torch.cat([images, donors.images])
            objects = Instances.cat([objects, Instances(true.masks, true.rows + count, true.categories)])
        dynamic = self.config.arp == "dynamic"
        images, objects, covered = paste_covering(images, objects, self.generator(Stream.PASTING), dynamic=dynamic)
        return images[:count], objects[objects.rows < count], covered[:count]

    @torch.no_grad()
    def pseudo_labels(self, batch: InstanceBatch) -> tuple[Instances, Tensor, Instances]:
        """For pictures: the teacher's objects of an unlabelled batch, and the images and labels after refinement and pasting."""
        original = self._teachers_labels(batch).objects
        images, objects, _ = self._pasted(batch, self._refined_labels(batch), None)
        return original, images, objects


def crop_at(zoom: float, size: int, turns: Mapping[str, Any]) -> Crop:
    """Crops that fill a canvas of side ``size`` at a scale, half of those with objects about one; ``turns``: see ``trainer.turns_of``."""
    return Crop(size / zoom, scale=(0.75, 1.3), centred=0.5, **turns)


def labelled_view(images: Tensor, generator: torch.Generator) -> Tensor:
    """Labelled images (B, 3, S, S) in other colours; weaker than the strong view of images without labels."""
    return strong_view(
        images, generator, brightness=0.3, contrast=0.3, saturation=0.3, hue=0.05, grey_p=0.1, blur_p=0.1
    )


def measured_zoom(labelled: Dataset, size: int) -> float:
    """The scale for the objects of labelled images, see :func:`maskwright.methods.instances.dense_loss.zoom_for`."""
    diameters: list[float] = []
    sides = []
    for sample in evenly_spread(labelled, MEASURED):
        ids, _ = read_ids(labelled, sample)
        areas = np.bincount(ids.reshape(-1))[1:]
        diameters += (2 * np.sqrt(areas / np.pi)).tolist()
        sides.append(max(ids.shape))
    return zoom_for(diameters, sides, size)
