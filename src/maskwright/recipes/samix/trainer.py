"""SAMIX's training, in the order in which ``main`` calls it.

- Stage 1, ``warm_up``: adapters only, episodes on images with masks and boxes.
- ``visit_all``: SAM makes the first pseudo-mask of every image, and the labelled images fill the pool of references.
- ``warm_up_policy``: with ``--selector policy``, the choice of references is learnt on images with masks.
- Stage 2, ``fit``: segmenter, adapters and policy together.

All random numbers are functions of (seed, stream, step), so a resumed run repeats an uninterrupted one exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskwright.data.augment import strong_view, training_geometry
from maskwright.data.batch import Batch
from maskwright.data.dataset import Dataset
from maskwright.data.implied import with_implied_labels
from maskwright.data.labels import IGNORE, Kind
from maskwright.data.loader import Loader
from maskwright.engine.best import Best
from maskwright.engine.ema import Ema, spanning
from maskwright.engine.metrics import SegmentationMetrics
from maskwright.engine.origin import Heads, Origin
from maskwright.engine.scoring import evenly_spread
from maskwright.engine.session import Session, Trainable, set_rate
from maskwright.engine.timer import Part, Validations
from maskwright.methods.in_context import files as in_context_files
from maskwright.methods.in_context.labeller import Labeller, ReferenceSets, Visit
from maskwright.methods.in_context.policy_batch import draw_policy_batch
from maskwright.methods.in_context.predictor import InContextSegmenter
from maskwright.methods.in_context.pseudo_masks import ellipse_masks
from maskwright.methods.in_context.rows import is_unlocated, resize
from maskwright.methods.in_context.selection import ReferencePolicy, with_head_room
from maskwright.methods.in_context.streams import Stream, visit_before_stage_2, visit_in_step
from maskwright.nets.losses import (
    box_projection_loss,
    consistency_loss,
    foreground_logit,
    mask_loss,
    partial_cross_entropy,
    pseudo_mask_loss,
    semantic_mask_loss,
    tag_loss,
)
from maskwright.nets.segmenter import CATEGORY_HEADS, create
from maskwright.recipes.samix import setup
from maskwright.recipes.samix.config import Config
from maskwright.sam.sam import Embedding, Sam

CLEAR = (0.6, 0.2)
"""Least margin of probability of an object, and of the background, for a pixel of a pseudo-mask to count like one of a true mask.
Overlap losses make SAM's uncertain masks too large: with equal margins, answers to clicks are 1.5 times too large, and so are the
segmenter's masks."""

WARM_UP_COST, POLICY_COST, VISIT_COST, BLEND_COST, VALIDATION_COST, CONTEXT_COST = 2.0, 2.0, 1.5, 0.6, 0.5, 4.0
"""Time of a step of the warm-ups, and of as many images as a batch holds in other works, relative to a step of stage 2 at half the
resolution: estimates for CPU cores. For the bar's time left, and to bound the time of validations."""

FINE_COST = 3.0
"""The same of a step of stage 2 at the full resolution."""

VISITS_SHARE = 0.15
"""By the clock: share of the time left that the first visit of all images may take; the others are visited in stage 2."""

MASKS_AT_FIRST, MASKS_THEN = 0.75, 0.4
"""Share of images with masks in the batches of the warm-up, before and after images with boxes have pseudo-masks; the others have boxes."""

RISE = 20
"""Steps in which learning rates rise, in each stage."""

SAM_RATE = 0.5
"""Factor on the adapters' learning rate in stage 2."""

MATURE, CONSISTENT = 1 / 3, 1 / 5
"""Shares of stage 2 in which the teacher's part of the pseudo-masks, and the weight of the consistency loss, grow from 0."""


class Trainer(Trainable):
    """Networks, data and optimisers of one run. Methods in the order in which ``main`` calls them."""

    recipe = "samix"
    networks: ClassVar = {"model": "teacher:model.", "sam": "sam", "selector": "policy.policy"}

    def __init__(self, config: Config, session: Session) -> None:
        self.config, self.session, self.device = config, session, session.device
        session.crop_images(config.size)
        self.categories = session.dataset.categories
        train, val = setup.training_images(session.dataset, config), session.dataset.split("val")
        # Images without a mask cannot be scored.
        val = val.with_samples([s for s in val if s.labels.mask is not None])
        self.val = evenly_spread(val, config.validation_images)
        self.val_loader = Loader(self.val, config.size, config.batch, shuffle=False) if len(self.val) else None
        self.kinds = torch.tensor([int(s.labels.kind) for s in train])
        self.masked = (self.kinds == Kind.MASK).nonzero()[:, 0].tolist()
        self.boxed = (self.kinds == Kind.BOX).nonzero()[:, 0].tolist()
        self.weak_kinds = [kind for kind in Kind if kind != Kind.MASK and (self.kinds == kind).any()]
        # With masks alone there is nothing to make pseudo-masks of.
        self.use_sam = config.pseudo == "sam" and len(self.masked) < len(train)
        # Images with masks also get the weak labels that their masks imply: SAM practises on these prompts, and its loss is the true one.
        self.train = with_implied_labels(train, seed=config.seed) if self.use_sam else train
        self.loader = self._loader(self.train, setup.sampling_weights(self.kinds, config.mask_share))

        adapts, has_policy = self.use_sam and config.adapters, self.use_sam and config.selector == "policy"
        length = replace(config.length, steps_per_epoch=len(self.loader))
        self.warm_up_stage, self.policy_stage, self.stage = session.plan(
            length,
            Part(
                "warm_up",
                "warming up SAM",
                share=0.2,
                most=150,
                steps=config.warm_up,
                wanted=adapts and bool(self.masked),
                cost=WARM_UP_COST,
                option="--warm-up",
            ),
            Part(
                "policy",
                "warming up the policy",
                share=0.1,
                most=100,
                steps=config.policy_warm_up,
                wanted=has_policy and bool(self.masked),
                cost=POLICY_COST,
                option="--policy-warm-up",
            ),
            Part("fit", "training", grows=self._cost_of_step),
        )
        visits = len(train) if self.use_sam else 0
        again = len(self.masked) + len(self.boxed) if self.boxed and not self.warm_up_stage.left_out else 0
        self.first_visits = session.work("first pseudo-masks", visits + again, cost=VISIT_COST / config.batch)
        self.last_visits = session.work("last pseudo-masks", visits, cost=BLEND_COST / config.batch)
        in_context = len(self.val) if has_policy else 0
        self.context_scores = session.work("validating references", in_context, cost=CONTEXT_COST / config.batch)
        self.validations = Validations(config.validations, cost=VALIDATION_COST * len(self.val) / config.batch)

        torch.manual_seed(config.seed)
        self.sam = Sam.load(config.sam, size=config.size).to(self.device)
        self.segmenter = create(config.segmenter, self.sam, len(self.categories), config.size).to(self.device)
        # After the segmenter was copied from SAM, and before the teacher is from the segmenter.
        session.precision.lower([self.segmenter, *self.sam.networks()])
        self.teacher = Ema(self.segmenter, self._decay(), warmup=20)
        self.policy = setup.create_policy(config, self.sam, self.device) if config.selector == "policy" else None
        self.labeller = Labeller(
            self.sam,
            len(self.categories),
            selector=config.selector,
            references=config.references,
            blend=config.blend,
            weak_weight=config.weak_weight,
            generator=session.generator,
            policy=self.policy,
            closer_look=config.closer_look,
            folder=Path(config.out),
        )
        self.sam.requires_grad_(False)
        self.sam_parameters = setup.trainable_parameters(self.sam, config.tune_decoder) if adapts else []
        self.sizes: dict[
            int, tuple[int, int]
        ] = {}  # width and height of images with a pseudo-mask, noted as they are blended
        self.newest_scores: tuple[int, dict[str, Any]] = (
            -1,
            {},
        )  # the step of the newest validation, and all of its scores
        self.best = Best({"teacher": self.teacher.model}, config.keep, config.patience)
        self.optimizer = setup.segmenter_optimizer(self.segmenter, config)
        self.sam_optimizer = setup.sam_optimizer(self.sam, self.sam_parameters, config) if adapts else None

    # ------------------------------------------------------------------------------------------------ set-up

    def _loader(self, dataset: Dataset, weights: list[float] | None) -> Loader:
        return Loader(
            dataset,
            self.config.size,
            self.config.batch,
            augment=training_geometry(upright=self.config.flips == "horizontal"),
            seed=self.config.seed,
            weights=weights,
            workers=self.config.workers,
            rank=self.session.accelerator.process_index,
            world=self.session.accelerator.num_processes,
        )

    @contextmanager
    def _batches(self, images: list[int], weights: list[float] | None = None) -> Iterator[Callable[[int], Batch]]:
        """Augmented batches of some of the training images, by step; their ``indices`` are positions in the whole training set."""
        places = torch.tensor(images, device=self.device)
        part = self.train.with_samples([self.train[i] for i in images])
        with self._loader(part, weights) as loader:

            def batch_of(step: int) -> Batch:
                batch = loader.batch(step).to(self.device)
                return replace(batch, indices=places[batch.indices])

            yield batch_of

    def _cost_of_step(self, fraction: float) -> float:
        """Of stage 2, relative to its first."""
        return 1.0 if self._is_coarse(fraction) else FINE_COST

    def _decay(self) -> float:
        return spanning(self.config.ema, self.stage.expected_steps, 1 / 5)

    # ------------------------------------------------------------------------------------------------ checkpoints

    def parts(self) -> dict[str, Any]:
        parts: dict[str, Any] = {
            "segmenter": self.segmenter,
            "teacher": self.teacher,
            "optimizer": self.optimizer,
            "labeller": self.labeller,
            "best": self.best,
        }
        if self.sam_optimizer is not None:
            parts |= {"sam": self.sam, "sam_optimizer": self.sam_optimizer}
        if self.policy is not None:
            parts["policy"] = self.policy
        return parts

    def start_from(self, origin: Origin) -> None:
        """Segmenter, the trained part of SAM, and the policy; pool and pseudo-masks are made anew of this training's images."""
        flags = "--sam, --segmenter, --size"
        origin.fill(self.segmenter, "model", flags=flags, heads=Heads(CATEGORY_HEADS), categories=self.categories)
        self.teacher.copy_from(self.segmenter)
        if self.sam_optimizer is not None and "sam" in origin.tensors:
            in_context_files.start_from(origin, self.sam, self.sam_parameters, self.config.sam)
        if self.policy is not None and "selector" in origin.tensors:
            origin.fill(self.policy.net, "selector", flags="--selector")

    # ------------------------------------------------------------------------------------------------ stage 1

    def warm_up(self) -> None:
        """Stage 1: adapters learn in-context segmentation on images with masks or boxes.

        Half-way the images with boxes get their first pseudo-masks; those that SAM is sure of count as masks from then on.
        """
        stage = self.warm_up_stage
        if self.sam_optimizer is None or stage.left_out or stage.over or self.stage.step:
            return
        half = 0.5 if self.boxed else 1.0
        self._practise(self.sam_optimizer, half, MASKS_AT_FIRST)
        if self.boxed:
            if not self.labeller.pseudo_masks.newest:
                self._visit([*self.masked, *self.boxed])
            self._practise(self.sam_optimizer, 1.0, MASKS_THEN)

    def _practise(self, optimizer: torch.optim.Optimizer, until: float, mask_share: float) -> None:
        """Episodes on images with masks and boxes up to the share ``until`` of the warm-up."""
        masked, boxed, stage, session = self.masked, self.boxed, self.warm_up_stage, self.session
        share = [mask_share / len(masked)] * len(masked) + [(1 - mask_share) / max(1, len(boxed))] * len(boxed)
        with self._batches([*masked, *boxed], share) as batch_of:
            for step in session.steps(stage, until=until):
                set_rate(optimizer, min(1.0, (step + 1) / RISE) * (1 - 0.7 * stage.fraction))
                batch = batch_of(step)
                generator = session.generator(Stream.WARM_UP, step)
                images = strong_view(batch.images, generator)
                practice = self.labeller.practice(batch, generator)
                loss = self.labeller.episode(self.sam.encode(images), practice, generator)
                session.descend(loss, optimizer, self.sam_parameters)
                session.latest(warm_up=loss)
                session.show(loss=loss)

    # ------------------------------------------------------------------------------------------------ first pseudo-masks

    def visit_all(self) -> None:
        """Between the stages: SAM makes the pseudo-mask of every training image once."""
        if self.use_sam and not self.stage.step and not self.policy_stage.step:
            self._visit(range(len(self.train)))
        self.first_visits.total = self.first_visits.done

    @torch.no_grad()
    def _visit(self, images: Iterable[int]) -> None:
        """Visit training images once each, finest labels first, so that the pool holds finer labels than each query's.

        By the clock only as many as there is time for, one batch at least: see ``VISITS_SHARE``.
        """
        is_over = self.session.deadline(VISITS_SHARE)
        order = sorted(images, key=lambda i: (-int(self.kinds[i]), i))
        world, rank = self.session.accelerator.num_processes, self.session.accelerator.process_index
        with self.session.doing(self.first_visits) as advance:
            for start in range(0, len(order), self.config.batch):
                chunk = order[start : start + self.config.batch]
                if start and is_over():
                    break
                visit = Visit()
                if part := chunk[rank::world]:
                    batch = self.loader.take(part).to(self.device)
                    _, visit = self.labeller.visit(batch, self.sam.encode(batch.images), visit_before_stage_2(start))
                self.labeller.absorb(self.session.gather(visit))
                advance(len(chunk))

    # ------------------------------------------------------------------------------------------------ the policy

    def warm_up_policy(self) -> None:
        """Between the stages: the policy learns on images with masks, for which the true Dice is the reward."""
        stage, session, policy = self.policy_stage, self.session, self.policy
        if policy is None or stage.left_out or stage.over or self.stage.step:
            return
        scalars: dict[str, float] = {}

        def log() -> None:
            if session.at_end:
                scalars.update(self._assess(policy, batch, embedding))
            if scalars and (stage.step % 10 == 0 or session.at_end):
                session.log(**scalars)

        with self._batches(self.masked) as batch_of:
            for step in session.steps(stage, log_every=None, then=log):
                batch = batch_of(step)
                with torch.no_grad():
                    embedding = self.sam.encode(batch.images)
                scalars, _ = self.policy_step(policy, batch, embedding, session.generator(Stream.POLICY_WARM_UP, step))
                session.show(**{name: scalars[name] for name in ("policy_true",) if name in scalars})

    def policy_step(
        self,
        policy: ReferencePolicy,
        batch: Batch,
        embedding: Embedding,
        generator: torch.Generator,
        teacher: Tensor | None = None,
        maturity: float = 0.0,
    ) -> tuple[dict[str, float], ReferenceSets | None]:
        """One round of GRPO on rows of a batch: scalars for the log, and the best references of weakly labelled rows.

        A process without a query takes part with gradients of zero, so that all step equally often.
        """

        def descend(loss: Tensor) -> None:
            self.session.descend(loss, policy.optimizer, policy.net.parameters())

        def agree(active: bool) -> bool:
            return any(self.session.gather(active))

        queries = draw_policy_batch(self.labeller, batch, embedding, generator, self.weak_kinds, teacher, maturity)
        if queries is None:
            policy.step_without_queries(descend, agree)
            return {}, None
        result = policy.step(
            queries.query,
            queries.candidates.entries,
            queries.candidates.allowed,
            queries.predict_masks,
            queries.judge,
            generator,
            descend=descend,
            agree=agree,
        )
        return result.scalars, queries.best(result)

    def _assess(self, policy: ReferencePolicy, batch: Batch, embedding: Embedding) -> dict[str, float]:
        """Dice of the most similar, the policy's and the best references on the images with masks of the batch; see ``with_head_room``."""
        generator = self.session.generator(Stream.ASSESSMENT, self.policy_stage.step)
        queries = draw_policy_batch(self.labeller, batch, embedding, generator, self.weak_kinds)
        scores = None
        if queries is not None:
            scores = policy.assess(
                queries.query,
                queries.candidates.entries,
                queries.candidates.allowed,
                queries.predict_masks,
                queries.judge,
                "similar",
                generator,
            )
        return with_head_room([part for part in self.session.gather(scores) if part])

    # ------------------------------------------------------------------------------------------------ stage 2

    def fit(self) -> None:
        """Stage 2: the segmenter on labels and pseudo-masks, and SAM's adapters with it."""
        with self.loader:
            for step in self.session.steps(self.stage, then=self._validate_if_due, stop=self.best.is_exhausted):
                fraction = self.stage.fraction
                rate = min(1.0, (step + 1) / RISE) * (0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * fraction)))
                batch = self.loader.batch(step).to(self.device)
                if self.use_sam and step % self.config.sam_every == 0:
                    self.sam_step(batch, rate)
                self.segmenter_step(batch, rate, fraction)
                self.session.latest(lr=rate * self.config.lr)

    def sam_step(self, batch: Batch, rate: float) -> None:
        """Renew the pseudo-masks of this step's images; train the adapters on the mask images and on weak labels."""
        session, step, maturity = self.session, self.stage.step, self.maturity
        plain = self.loader.take(batch.indices.cpu().numpy()).to(self.device)
        with torch.no_grad():
            teacher = self._segment(self.teacher.model, plain.images).softmax(1) if step else None
        trains_sam, best = self.sam_optimizer is not None, None
        with torch.set_grad_enabled(trains_sam):
            embedding = self.sam.encode(plain.images)
        if self.policy is not None:
            generator = session.generator(Stream.POLICY, step)
            scalars, best = self.policy_step(self.policy, plain, embedding.detach(), generator, teacher, maturity)
            session.average(**scalars)
        with torch.set_grad_enabled(trains_sam):
            loss, visit = self.labeller.visit(plain, embedding, visit_in_step(step), teacher, maturity, best)
        self.labeller.absorb(session.gather(visit))
        if self.sam_optimizer is not None:
            generator = session.generator(Stream.EPISODE, step)
            loss = loss + self.labeller.episode(embedding, self.labeller.practice(plain, generator), generator)
            set_rate(self.sam_optimizer, SAM_RATE * rate)
            session.descend(loss, self.sam_optimizer, self.sam_parameters)
            session.average(sam=loss)

    def segmenter_step(self, batch: Batch, rate: float, fraction: float) -> None:
        """One step of the student: true masks on the plain view, weak labels and pseudo-masks on the strong one."""
        config = self.config
        is_mask, weak = batch.kinds == Kind.MASK, batch.kinds != Kind.MASK
        strong = strong_view(batch.images, self.session.generator(Stream.STRONG_VIEW, self.stage.step))
        # From masks, and from pseudo-masks of boxes, a small network learns faster without colour jitter; the consistency loss needs it.
        plain = is_mask | (batch.kinds == Kind.BOX)
        logits = self._segment(self.segmenter, torch.where(plain[:, None, None, None], batch.images, strong))
        fine = resize(logits, config.size // 2)
        target = batch.target[:, ::2, ::2]
        losses = {"mask": self._mask_loss(fine, target, is_mask.float())}
        if weak.any():
            losses["drawn"] = config.weak_weight * partial_cross_entropy(fine[weak], target[weak])
            losses["tag"] = config.weak_weight * tag_loss(logits[weak], _objects_present(batch)[weak], top_k=4)
            losses["box"] = config.weak_weight * self._box_loss(logits[weak], batch, weak)
            teacher = torch.zeros_like(logits)
            with torch.no_grad():
                teacher[weak] = self._segment(self.teacher.model, batch.images[weak])
            trust = min(1.0, fraction / CONSISTENT)
            losses["consistency"] = config.consistency_weight * trust * consistency_loss(logits[weak], teacher[weak])
            losses |= self._pseudo_losses(logits, fine, batch, teacher.softmax(1))
        set_rate(self.optimizer, rate)
        self.session.descend(torch.stack(list(losses.values())).sum(), self.optimizer, self.segmenter.parameters())
        self.teacher.decay = self._decay()
        self.teacher.update(self.segmenter)
        self.session.average(**losses)

    def _is_coarse(self, fraction: float) -> bool:
        """Whether the segmenter works at half the resolution at this point of stage 2."""
        return fraction < self.config.coarse_share and self.config.size >= 256

    def _segment(self, model: nn.Module, images: Tensor) -> Tensor:
        """Logits on a quarter of the canvas, from images at the resolution of the run's present part."""
        size = self.config.size
        if self._is_coarse(self.stage.fraction):
            # A multiple of 32, as the encoder's strides want it.
            images = F.interpolate(images, size // 64 * 32, mode="area")
        return resize(model(images), size // 4)

    def _mask_loss(self, fine: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """Mean over the images, weighted by (B,) ``weight``."""
        if len(self.categories) == 2:
            truth = torch.where(target == IGNORE, IGNORE, (target == 1).long())
            return mask_loss(foreground_logit(fine, 1), truth, weight)
        return semantic_mask_loss(fine, target, weight)

    def _box_loss(self, logits: Tensor, batch: Batch, weak: Tensor) -> Tensor:
        """Mask-to-box projection of each box's own category."""
        boxes, categories = batch.boxes[weak], batch.box_categories[weak]
        if not boxes.shape[1] or not (categories >= 0).any():
            return logits.sum() * 0
        foreground = torch.stack([foreground_logit(logits, c) for c in range(1, logits.shape[1])], 1)
        index = (categories.clamp(min=1) - 1)[..., None, None].expand(-1, -1, *logits.shape[-2:])
        logits_of_box = foreground.gather(1, index)
        boxes = boxes * (logits.shape[-1] / self.config.size)
        return box_projection_loss(logits_of_box, boxes, categories > 0, cut=batch.box_cut[weak])

    def _pseudo_losses(self, logits: Tensor, fine: Tensor, batch: Batch, teacher: Tensor) -> dict[str, Tensor]:
        """Losses on pseudo-masks: ``pseudo`` of those from prompts, which count like masks where their margin is at least ``CLEAR``;
        ``blind`` of those without a prompt, where each pixel is weighed by margin and confidence.
        """
        maps, confidence = self._pseudo_masks(batch, teacher)
        first, second = maps.topk(2, 1).values.unbind(1)
        answer, margin = maps.argmax(1), (first - second) * batch.inside[:, 2::4, 2::4]
        unlocated = is_unlocated(batch.kinds)
        pixel_weight = confidence[:, None, None] * margin
        loss = pseudo_mask_loss(logits[unlocated], answer[unlocated], pixel_weight[unlocated])
        weight = confidence * (~unlocated & (batch.kinds != Kind.MASK))
        clear = torch.where(margin > torch.where(answer > 0, *CLEAR), answer, IGNORE)
        clear = clear.repeat_interleave(2, 1).repeat_interleave(2, 2)
        # The means over the images with and without prompts become parts of one mean over all of them.
        share = self.config.pseudo_weight / (batch.kinds != Kind.MASK).sum()
        return {
            "pseudo": share * weight.sum() * self._mask_loss(fine, clear, weight),
            "blind": share * unlocated.sum() * loss,
        }

    def _pseudo_masks(self, batch: Batch, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Pseudo-masks in the batch's augmented view: (B, C, S/4, S/4) probabilities, and (B,) confidence in 0..1."""
        if self.config.pseudo == "ellipse":
            masks, boxed = ellipse_masks(batch, len(self.categories), self.config.size)
            return masks, boxed.float()
        return self.labeller.pseudo_masks.in_view(batch, teacher, self.maturity)

    @property
    def maturity(self) -> float:
        """How far the teacher's prediction is blended into pseudo-masks: grows from 0 to 1 over the first third of stage 2."""
        return min(1.0, self.stage.fraction / MATURE)

    # ------------------------------------------------------------------------------------------------ validation, export

    def _validate_if_due(self) -> None:
        if self.val_loader is not None:
            self.session.validate_if_due(self.stage, self.validations, self.best, self.validate, "dice")

    def validate(self) -> dict[str, float | None]:
        """Dice and IoU of the teacher on images of the validation split, on the canvas and at its full resolution, as it is exported."""
        (scores,) = self.val_scores(lambda batch: [self.predict(batch.images)])
        self.newest_scores = self.session.clock, scores
        return {"dice": scores["dice"], "iou": scores["iou"]}

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """(B, S, S) categories that the teacher finds in images on the canvas."""
        return resize(self.teacher.model(images), self.config.size).argmax(1)

    @torch.no_grad()
    def val_scores(self, masks_of: Callable[[Batch], Sequence[Tensor]]) -> list[dict[str, Any]]:
        """The scores of several ways to make masks of the validation images, on the canvas.

        Args:
            masks_of: a batch → for each way (B, S, S) categories.

        Returns:
            For each way what ``SegmentationMetrics.compute`` gives.
        """
        assert self.val_loader is not None
        metrics: dict[int, SegmentationMetrics] = {}
        for batch in self.val_loader.ordered():
            target = batch.target.numpy()
            for way, found in enumerate(masks_of(batch.to(self.device))):
                collected = metrics.setdefault(way, SegmentationMetrics(self.categories))
                masks = found.byte().cpu().numpy()
                for row, index in enumerate(batch.indices.tolist()):
                    if (target[row] != IGNORE).any():
                        collected.update(masks[row], target[row], self.val[index].id)
        return [collected.compute() for collected in metrics.values()]

    def decide_looks(self) -> dict[str, float]:
        """Whether the policy, as it is exported, tries sets of references on new images before it chooses one.

        Which is better depends on the images: what is learnt helps on some, looking on others (docs/results.md). So the images of the
        validation split decide; without any the policy looks.

        Returns:
            The Dice of both ways in context, ``looking`` and ``unseen``; empty where there is nothing to decide.
        """
        policy = self.policy
        if policy is None or self.val_loader is None or not len(self.labeller.pool):
            return {}
        with self.session.doing(self.context_scores) as advance:

            def masks_of(batch: Batch) -> list[Tensor]:
                masks = self.masks_in_context(batch, self.teacher.model)
                advance(len(batch))
                return masks

            looking, unseen = (scores["dice"] for scores in self.val_scores(masks_of))
        if looking is None or unseen is None:
            return {}
        if unseen >= looking:
            policy.settings = replace(policy.settings, looks=0)
        return {"looking": looking, "unseen": unseen}

    @torch.no_grad()
    def masks_in_context(self, batch: Batch, segmenter: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """(B, S, S) categories that SAM finds in images with the policy's references, chosen with and without looking.

        Args:
            batch: of B images; its labels are not used.
            segmenter: see ``InContextSegmenter``.
        """
        context = InContextSegmenter(self.labeller, segmenter, [], [])
        embedding = self.sam.encode(batch.images)
        answers = (context.segment(batch.images, embedding, look=look)[0] for look in (True, False))
        return [resize(logits, self.config.size).argmax(1) for logits in answers]

    @torch.no_grad()
    def blend_pseudo_masks(self) -> None:
        """Blend the prediction of the exported teacher into SAM's answers: the pseudo-masks that are written and reported."""
        order = sorted(self.labeller.pseudo_masks.newest)
        self.last_visits.total = len(order)
        with self.session.doing(self.last_visits) as advance:
            for start in range(0, len(order), self.config.batch):
                batch = self.loader.take(order[start : start + self.config.batch]).to(self.device)
                teacher = self._segment(self.teacher.model, batch.images).softmax(1)
                maps, confidence = self.labeller.pseudo_masks.in_view(batch, teacher, self.maturity)
                for row, index in enumerate(batch.indices.tolist()):
                    width, height = batch.sizes[row].tolist()
                    self.sizes[index] = width, height
                    self.labeller.pseudo_masks.newest[index] = replace(
                        self.labeller.pseudo_masks.newest[index],
                        maps=maps[row].half().cpu(),
                        confidence=float(confidence[row]),
                    )
                advance(len(batch))


def _objects_present(batch: Batch) -> Tensor:
    """(B, C) the batch's ``present``, with the background unknown (-1)."""
    present = batch.present.clone()
    present[:, 0] = -1
    return present
