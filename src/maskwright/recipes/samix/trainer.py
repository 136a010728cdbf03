"""SAMIX: a semantic segmenter from any mix of masks, boxes, scribbles, points, tags and unlabelled images.

Hu et al., "SAMIX: Reinforcing SAM2 with Semantic Adapter and Reference Selecting Policy for Mix-Supervised Segmentation", CVPR 2026.
Read from ``main`` downwards. SAM 2 stays frozen but for small adapters; shown a few reference images with their masks, it makes a
pseudo-mask of every weakly labelled image, with that image's own weak label as prompt. An ordinary network learns from labels
and pseudo-masks with a mean teacher, and is what the user takes home.

- Stage 1, ``warm_up``: adapters only, episodes on mask and box images.
- Between them, ``warm_up_policy``: with ``--selector policy``, which references to show is learnt on mask images.
- Stage 2, ``fit``: segmenter, adapters and policy together.

All randomness is a function of (seed, step), so a resumed run repeats an uninterrupted one exactly.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import torch
import torch.nn.functional as F
import tyro
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from maskwright.data.augment import strong_view, training_geometry
from maskwright.data.batch import Batch
from maskwright.data.check import require_clean
from maskwright.data.implied import with_implied_labels
from maskwright.data.labels import IGNORE, Dataset, Kind
from maskwright.data.loader import Loader
from maskwright.engine import descent
from maskwright.engine.budget import Budget, progress
from maskwright.engine.descent import set_rate
from maskwright.engine.ema import Ema, spanning
from maskwright.engine.metrics import SegmentationMetrics
from maskwright.engine.run import Run, settings_of
from maskwright.engine.state import flatten_optimizer, seeded, unflatten_optimizer
from maskwright.engine.weights import load_state
from maskwright.errors import DataError, canvas_rule, require
from maskwright.methods.in_context import pseudo
from maskwright.methods.in_context.labeller import Labeller, ReferenceSets, Visit
from maskwright.methods.in_context.questions import ask
from maskwright.methods.in_context.selection import PolicySettings, ReferencePolicy, with_head_room
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
from maskwright.nets.segmenter import Segmenter, create
from maskwright.nets.selector import SelectorName
from maskwright.recipes.samix.report import write_model, write_pseudo_masks, write_report
from maskwright.sam.adapter import add_adapters
from maskwright.sam.sam import Embedding, Sam

OFTEN = {Kind.MASK: 1.0, Kind.SCRIBBLE: 1.0, Kind.BOX: 6.0, Kind.POINT: 1.0, Kind.TAG: 0.5, Kind.NONE: 0.5}
"""How often an image of each kind is drawn, relative to each other: what its pseudo-mask is worth."""

T = TypeVar("T")

CLEAR = (0.6, 0.2)
"""Margins by which an object, and the background, must have won a pixel of a pseudo-mask that is learnt like a mask. Overlap losses
make SAM draw too large what it is unsure of: at equal margins, answers to clicks are 1.5 times too large, and so is what learns of them."""


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
    trainer.warm_up()
    trainer.fit()
    trainer.finish()
    trainer.run.close()
    accelerator.end_training()
    return config.out


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
        if config.labels == "masks-only":
            train = train.with_samples([s for s in train if s.labels.kind == Kind.MASK])
            if not len(train):
                raise DataError(
                    [f"{config.data}: no training image has a mask, so --labels masks-only has nothing to learn from"]
                )
        val = dataset.split("val")
        # Images without a mask cannot be scored.
        self.val = val.with_samples([s for s in val if s.labels.mask is not None])
        self.kinds = torch.tensor([int(s.labels.kind) for s in train])
        self.masked = (self.kinds == Kind.MASK).nonzero()[:, 0]
        self.weak_kinds = [kind for kind in Kind if kind != Kind.MASK and (self.kinds == kind).any()]
        # With masks alone there is nothing to make pseudo-masks of.
        self.use_sam = config.pseudo == "sam" and len(self.masked) < len(train)
        # Mask images also get the weak labels that their masks imply: SAM practises on them with the truth at hand.
        self.train = with_implied_labels(train, seed=config.seed) if self.use_sam else train

        torch.manual_seed(config.seed)
        self.sam = Sam.load(config.sam, size=config.size).to(self.device)
        self.segmenter: Segmenter = create(config.segmenter, self.sam, len(self.categories), config.size).to(
            self.device
        )
        self.loader = self._loader(self.train, config.batch, self._weights())
        self.budget = Budget(
            epochs=config.epochs, steps=config.steps, minutes=config.minutes, steps_per_epoch=len(self.loader)
        )
        self.step, self.warmed, self.taught, self.used_minutes, self.fraction = 0, 0, 0, 0.0, 0.0
        self.teacher = Ema(self.segmenter, self._decay(), warmup=20)
        self.policy = self._create_policy() if config.selector == "policy" else None
        self.labeller = Labeller(
            self.sam,
            len(self.categories),
            selector=config.selector,
            references=config.references,
            blend=config.blend,
            weak_weight=config.weak_weight,
            generator=self.generator,
            policy=self.policy,
        )
        self.sam_parameters = self._prepare_sam()
        self.optimizer = self._segmenter_optimizer()
        self.sam_optimizer = (
            torch.optim.AdamW(self._sam_groups(), weight_decay=config.weight_decay) if self.sam_parameters else None
        )
        self.saved = time.monotonic()
        self.begun: float | None = None
        self.means: dict[str, list[float]] = defaultdict(list)

    # ------------------------------------------------------------------------------------------------ set-up

    def _loader(self, dataset: Dataset, batch: int, weights: list[float] | None) -> Loader:
        return Loader(
            dataset,
            self.config.size,
            batch,
            augment=training_geometry(upright=self.config.flips == "horizontal"),
            seed=self.config.seed,
            weights=weights,
            workers=self.config.workers,
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
        )

    @contextmanager
    def _batches(self, images: list[int], weights: list[float] | None = None) -> Iterator[Callable[[int], Batch]]:
        """Augmented batches by step of some of the training images; their ``indices`` count in the whole training set."""
        places = torch.tensor(images, device=self.device)
        part = self.train.with_samples([self.train[i] for i in images])
        with self._loader(part, self.config.batch, weights) as loader:

            def batch(step: int) -> Batch:
                found = loader.batch(step).to(self.device)
                return replace(found, indices=places[found.indices])

            yield batch

    def _weights(self) -> list[float] | None:
        """Sampling weights: mask images fill at least ``mask_share`` of the batches, and finer weak labels come more often."""
        weight = torch.tensor([OFTEN[Kind(kind)] for kind in self.kinds.tolist()])
        is_mask = self.kinds == Kind.MASK
        share, masks, others = self.config.mask_share, weight[is_mask].sum(), weight[~is_mask].sum()
        if not masks or not others or masks / (masks + others) >= share:
            return weight.tolist()
        return torch.where(is_mask, weight * share / masks, weight * (1 - share) / others).tolist()

    def _decay(self) -> float:
        return spanning(self.config.ema, self.budget.foretold(self.step, self.fraction), 1 / 5)

    def _prepare_sam(self) -> list[nn.Parameter]:
        self.sam.requires_grad_(False)
        if not self.use_sam or not self.config.adapters:
            return []
        parameters = add_adapters(self.sam)
        if self.config.tune_decoder:
            model = self.sam.model
            for module in (model.mask_decoder, model.memory_attention, model.memory_encoder, model.vision_encoder.neck):
                parameters += module.requires_grad_(True).parameters()
        return parameters

    def _create_policy(self) -> ReferencePolicy:
        return ReferencePolicy(
            self.sam.width,
            self.sam.model.config.memory_encoder_output_channels,
            PolicySettings(references=self.config.references, lr=self.config.policy_lr),
            seed=self.config.seed,
            device=self.device,
        )

    def _sam_groups(self) -> list[dict[str, Any]]:
        adapters = [p for n, p in self.sam.named_parameters() if ".adapter." in n]
        known = {id(p) for p in adapters}
        rest = [p for p in self.sam_parameters if id(p) not in known]
        rate = self.config.adapter_lr
        return [{"params": adapters, "lr": rate, "peak": rate}, {"params": rest, "lr": rate / 4, "peak": rate / 4}]

    def _segmenter_optimizer(self) -> torch.optim.Optimizer:
        pretrained = self.segmenter.pretrained()
        known = {id(p) for p in pretrained}
        new = [p for p in self.segmenter.parameters() if id(p) not in known]
        rate = self.config.lr
        groups = [{"params": pretrained, "lr": rate / 2, "peak": rate / 2}, {"params": new, "lr": rate, "peak": rate}]
        return torch.optim.AdamW(groups, weight_decay=self.config.weight_decay)

    def generator(self, stream: Stream, step: int) -> torch.Generator:
        """Randomness that depends on nothing but seed, purpose and step."""
        return seeded(self.config.seed, stream, step)

    @property
    def clock(self) -> int:
        """Steps over all stages."""
        return self.warmed + self.taught + self.step

    # ------------------------------------------------------------------------------------------------ checkpoints

    def resume(self) -> None:
        checkpoint = self.run.load_checkpoint()
        if checkpoint is None:
            return
        tensors, state = checkpoint.tensors, checkpoint.state
        load_state(self.segmenter, tensors["segmenter"], "segmenter")
        self.teacher.load_state_dict(tensors["teacher"])
        unflatten_optimizer(self.optimizer, tensors["optimizer"], state["optimizer"])
        if self.sam_optimizer is not None:
            load_state(self.sam, tensors["sam"], "sam")
            unflatten_optimizer(self.sam_optimizer, tensors["sam_optimizer"], state["sam_optimizer"])
        if self.policy is not None:
            self.policy.load_state(tensors, state["policy"])
            self.taught = state["taught"]
        self.labeller.load_state(tensors, state["labeller"])
        self.means.update(state["means"])
        self.step, self.warmed, self.used_minutes = state["step"], state["warmed"], state["minutes"]

    def save(self, *, force: bool = False) -> None:
        """A checkpoint, every ``checkpoint_seconds``."""
        if not force and time.monotonic() - self.saved < self.config.checkpoint_seconds:
            return
        flat, state = flatten_optimizer(self.optimizer)
        tensors = {"segmenter": self.segmenter.state_dict(), "teacher": self.teacher.state_dict(), "optimizer": flat}
        states: dict[str, Any] = {
            "optimizer": state,
            "step": self.step,
            "warmed": self.warmed,
            "minutes": self.minutes(),
        }
        if self.sam_optimizer is not None:
            flat, states["sam_optimizer"] = flatten_optimizer(self.sam_optimizer)
            tensors |= {"sam": self.sam.state_dict(), "sam_optimizer": flat}
        if self.policy is not None:
            found, states["policy"] = self.policy.state()
            tensors |= found
            states["taught"] = self.taught
        found, states["labeller"] = self.labeller.state()
        tensors |= found
        states["means"] = dict(self.means)
        self.run.save_checkpoint(self.clock, tensors, states)
        self.saved = time.monotonic()

    def minutes(self) -> float:
        """Of stage 2, over all sessions."""
        return self.used_minutes + (0.0 if self.begun is None else (time.monotonic() - self.begun) / 60)

    # ------------------------------------------------------------------------------------------------ stage 1

    def warm_up(self) -> None:
        """Stage 1: adapters learn in-context segmentation on images whose truth (mask) or extent (box) is known.

        Half-way the box images get their first pseudo-masks; the surest of them stand in for masks from then on.
        """
        total = self.config.warm_up
        if self.sam_optimizer is None or not len(self.masked) or self.warmed >= total or self.step:
            return
        boxed = (self.kinds == Kind.BOX).nonzero()[:, 0].tolist()
        half = total // 2 if boxed else total
        self._practise(self.sam_optimizer, half, boxed, mask_share=0.75)
        if self.warmed < total:
            if not self.labeller.masks:
                self.fill_pool([*self.masked.tolist(), *boxed])
            self._practise(self.sam_optimizer, total, boxed, mask_share=0.4)

    def _practise(self, optimizer: torch.optim.Optimizer, until: int, boxed: list[int], mask_share: float) -> None:
        """Episodes on images with masks and boxes up to step ``until`` of the warm-up."""
        config, masked = self.config, self.masked.tolist()
        main = self.accelerator.is_main_process
        share = [mask_share / len(masked)] * len(masked) + [(1 - mask_share) / max(1, len(boxed))] * len(boxed)
        with (
            self._batches([*masked, *boxed], share) as batch_of,
            progress(until, "warming up SAM", completed=self.warmed, is_main=main) as advance,
        ):
            while self.warmed < until:
                rate = min(1.0, (self.warmed + 1) / 20) * (1 - 0.7 * self.warmed / config.warm_up)
                set_rate(optimizer, rate)
                batch = batch_of(self.warmed)
                generator = self.generator(Stream.WARM_UP, self.warmed)
                images = strong_view(batch.images, generator)
                taught = self.labeller.practice(batch, generator)
                loss = self.labeller.episode(self.sam.encode(images), taught, generator)
                self.descend(loss, optimizer, self.sam_parameters)
                self.warmed += 1
                advance(loss=float(loss.detach()))
                if self.warmed % 10 == 0:
                    self.run.log(self.warmed, warm_up=float(loss.detach()))
                self.save()

    # ------------------------------------------------------------------------------------------------ the policy

    def warm_up_policy(self) -> None:
        """Between the stages: the policy learns on the mask images, whose answers can be judged."""
        total = self.config.policy_warm_up
        if self.policy is None or not len(self.masked) or self.taught >= total:
            return
        main = self.accelerator.is_main_process
        with (
            self._batches(self.masked.tolist()) as batch_of,
            progress(total, "warming up the policy", completed=self.taught, is_main=main) as advance,
        ):
            while self.taught < total:
                batch = batch_of(self.taught)
                with torch.no_grad():
                    embedding = self.sam.encode(batch.images)
                scalars, _ = self.policy_step(
                    self.policy, batch, embedding, self.generator(Stream.POLICY_WARM_UP, self.taught)
                )
                self.taught += 1
                if self.taught == total:
                    scalars |= self._assess(self.policy, batch, embedding)
                if scalars and (self.taught % 10 == 0 or self.taught == total):
                    self.run.log(self.clock, **scalars)
                advance(**{name: scalars[name] for name in ("policy_true",) if name in scalars})
                self.save()

    def policy_step(
        self,
        policy: ReferencePolicy,
        batch: Batch,
        embedding: Embedding,
        generator: torch.Generator,
        teacher: Tensor | None = None,
        maturity: float = 0.0,
    ) -> tuple[dict[str, float], ReferenceSets | None]:
        """One round of GRPO on rows of a batch: what is to be logged, and the best references that it found for weakly labelled rows.

        A process without a query takes part with gradients of zero, so that all step equally often.
        """

        def descend(loss: Tensor) -> None:
            self.descend(loss, policy.optimizer, list(policy.net.parameters()))

        def agree(active: bool) -> bool:
            return any(self._of_every_process(active))

        asked = ask(self.labeller, batch, embedding, generator, self.weak_kinds, teacher, maturity)
        if asked is None:
            policy.sit_out(descend, agree)
            return {}, None
        entries = self.labeller.pool.entries()
        found = policy.step(
            asked.query,
            entries,
            asked.allowed,
            asked.predict_masks,
            asked.judge,
            generator,
            descend=descend,
            agree=agree,
        )
        return found.scalars, asked.best(found)

    def _assess(self, policy: ReferencePolicy, batch: Batch, embedding: Embedding) -> dict[str, float]:
        """How much of the way from the similar to the best references the policy goes, on the mask images of the batch."""
        generator = self.generator(Stream.ASSESSMENT, self.taught)
        asked = ask(self.labeller, batch, embedding, generator, self.weak_kinds)
        found = None
        if asked is not None:
            entries = self.labeller.pool.entries()
            found = policy.assess(
                asked.query, entries, asked.allowed, asked.predict_masks, asked.judge, "similar", generator
            )
        return with_head_room([dice for dice in self._of_every_process(found) if dice])

    def _of_every_process(self, value: T) -> list[T]:
        return [value] if self.accelerator.num_processes == 1 else gather_object([value])

    # ------------------------------------------------------------------------------------------------ stage 2

    def fit(self) -> None:
        """Stage 2: the segmenter on labels and pseudo-masks, and SAM's adapters with it."""
        config, main = self.config, self.accelerator.is_main_process
        if self.use_sam and not self.step:
            if not self.taught:
                self.fill_pool(range(len(self.train)))
            self.warm_up_policy()
        begun = self.begun = time.monotonic()
        budget = self.budget.resumed(self.used_minutes) if config.minutes else self.budget
        length, completed = budget.bar(self.step, begun)
        with (
            progress(length, "training", completed=completed, is_main=main) as advance,
            self.loader,
        ):
            while not self._agree(budget.done(self.step, begun)):
                fraction = self.fraction = self._agree(budget.progress(self.step, begun))
                rate = min(1.0, (self.step + 1) / 20) * (0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * fraction)))
                batch = self.loader.batch(self.step).to(self.device)
                if self.use_sam and self.step % config.sam_every == 0:
                    self.sam_step(batch, rate)
                self.segmenter_step(batch, rate, fraction)
                self.step += 1
                self._report_step(rate)
                advance(budget.stride(fraction, self._agree(budget.progress(self.step, begun))))
                if self.step % self._validate_every() == 0 and len(self.val):
                    self.run.log(self.clock, **{f"val_{k}": v for k, v in self.validate().items()})
                self.save()
        self.fraction = 1.0

    def segmenter_step(self, batch: Batch, rate: float, fraction: float) -> None:
        """One step of the student: true masks on the plain view, weak labels and pseudo-masks on the strong one."""
        config = self.config
        is_mask = batch.kinds == Kind.MASK
        strong = strong_view(batch.images, self.generator(Stream.STRONG_VIEW, self.step))
        # A small network learns from masks, also from those that boxes give, faster without colour jitter; consistency needs it.
        plain = is_mask | (batch.kinds == Kind.BOX)
        logits = self._segment(self.segmenter, torch.where(plain[:, None, None, None], batch.images, strong))
        grid = config.size // 2
        fine = pseudo.resize(logits, grid)
        target = batch.target[:, ::2, ::2]
        losses = {"mask": self._mask_loss(fine, target, is_mask.float())}
        weak = ~is_mask
        if weak.any():
            losses["drawn"] = config.weak_weight * partial_cross_entropy(fine[weak], target[weak])
            losses["tag"] = config.weak_weight * tag_loss(logits[weak], self._foreground_present(batch)[weak], top_k=4)
            losses["box"] = config.weak_weight * self._box_loss(logits[weak], batch, weak)
            teacher = torch.zeros_like(logits)
            with torch.no_grad():
                teacher[weak] = self._segment(self.teacher.model, batch.images[weak])
            trust = min(1.0, fraction / 0.2)
            losses["consistency"] = config.consistency_weight * trust * consistency_loss(logits[weak], teacher[weak])
            losses["pseudo"] = config.pseudo_weight * self._pseudo_loss(logits, fine, batch, teacher.softmax(1))
        set_rate(self.optimizer, rate)
        self.descend(torch.stack(list(losses.values())).sum(), self.optimizer, list(self.segmenter.parameters()))
        self.teacher.decay = self._decay()
        self.teacher.update(self.segmenter)
        for name, value in losses.items():
            self.means[name].append(float(value.detach()))

    def _segment(self, model: nn.Module, images: Tensor) -> Tensor:
        """Logits on a quarter of the canvas, from images at the resolution of the run's present part."""
        size = self.config.size
        if self.fraction < self.config.coarse_share and size >= 256:
            # A multiple of 32, as the encoder's strides want it.
            images = F.interpolate(images, size // 64 * 32, mode="area")
        return pseudo.resize(model(images), size // 4)

    def _mask_loss(self, fine: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """Mean over the images, weighted by (B,) ``weight``."""
        if len(self.categories) == 2:
            truth = torch.where(target == IGNORE, IGNORE, (target == 1).long())
            return mask_loss(foreground_logit(fine, 1), truth, weight)
        return semantic_mask_loss(fine, target, weight)

    def _foreground_present(self, batch: Batch) -> Tensor:
        present = batch.present.clone()
        present[:, 0] = -1
        return present

    def _box_loss(self, logits: Tensor, batch: Batch, weak: Tensor) -> Tensor:
        """Mask-to-box projection of each box's own category."""
        boxes, categories = batch.boxes[weak], batch.box_categories[weak]
        if not boxes.shape[1] or not (categories >= 0).any():
            return logits.sum() * 0
        others = torch.stack([foreground_logit(logits, c) for c in range(1, logits.shape[1])], 1)
        own = others.gather(1, (categories.clamp(min=1) - 1)[..., None, None].expand(-1, -1, *logits.shape[-2:]))
        return box_projection_loss(own, boxes * (logits.shape[-1] / self.config.size), categories > 0)

    def _pseudo_loss(self, logits: Tensor, fine: Tensor, batch: Batch, teacher: Tensor) -> Tensor:
        """What prompts gave is learnt like a mask where it is clear-cut; what SAM said blindly pulls each pixel as far as it is trusted."""
        maps, confidence = self.pseudo_masks(batch, teacher)
        first, second = maps.topk(2, 1).values.unbind(1)
        answer, margin = maps.argmax(1), (first - second) * batch.inside[:, 2::4, 2::4]
        blind = pseudo.blind(batch.kinds)
        loss = pseudo_mask_loss(logits[blind], answer[blind], (confidence[:, None, None] * margin)[blind])
        weight = confidence * (~blind & (batch.kinds != Kind.MASK))
        clear = torch.where(margin > torch.where(answer > 0, *CLEAR), answer, IGNORE)
        clear = clear.repeat_interleave(2, 1).repeat_interleave(2, 2)
        # Means over the images of either sort become one over all of them.
        total = blind.sum() * loss + weight.sum() * self._mask_loss(fine, clear, weight)
        return total / (batch.kinds != Kind.MASK).sum()

    def pseudo_masks(self, batch: Batch, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Pseudo-masks in the batch's augmented view: (B, C, S/4, S/4) probabilities, and (B,) how far to trust each image's."""
        if self.config.pseudo == "ellipse":
            masks, boxed = pseudo.ellipse_masks(batch, len(self.categories), self.config.size)
            return masks, boxed.float()
        return self.labeller.pseudo_masks(batch, teacher, self.maturity)

    @property
    def maturity(self) -> float:
        """How far the teacher's view counts: grows from 0 to 1 over the first third of stage 2."""
        return min(1.0, 3 * self.fraction)

    # ------------------------------------------------------------------------------------------------ SAM's part of stage 2

    @torch.no_grad()
    def fill_pool(self, images: Iterable[int]) -> None:
        """Visit each of the training images once, finest labels first, so that each query finds references with finer labels."""
        order = sorted(images, key=lambda i: (-int(self.kinds[i]), i))
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        with progress(len(order), "first pseudo-masks", is_main=self.accelerator.is_main_process) as advance:
            for start in range(0, len(order), self.config.batch):
                chunk = order[start : start + self.config.batch]
                found = Visit()
                if mine := chunk[rank::world]:
                    batch = self.loader.take(mine).to(self.device)
                    _, found = self.labeller.visit(batch, self.sam.encode(batch.images), visit_before_stage_2(start))
                self.labeller.absorb(self._gather(found))
                advance(len(chunk))

    def sam_step(self, batch: Batch, rate: float) -> None:
        """Renew the pseudo-masks of this step's images; train the adapters on the mask images and on weak labels."""
        plain = self.loader.take(batch.indices.cpu().numpy()).to(self.device)
        with torch.no_grad():
            teacher = self._segment(self.teacher.model, plain.images).softmax(1) if self.step else None
        learning, best = self.sam_optimizer is not None, None
        with torch.set_grad_enabled(learning):
            embedding = self.sam.encode(plain.images)
        if self.policy is not None:
            scalars, best = self.policy_step(
                self.policy, plain, embedding.detach(), self.generator(Stream.POLICY, self.step), teacher, self.maturity
            )
            for name, value in scalars.items():
                self.means[name].append(value)
        with torch.set_grad_enabled(learning):
            loss, found = self.labeller.visit(plain, embedding, visit_in_step(self.step), teacher, self.maturity, best)
        self.labeller.absorb(self._gather(found))
        if self.sam_optimizer is not None:
            generator = self.generator(Stream.EPISODE, self.step)
            loss = loss + self.labeller.episode(embedding, self.labeller.practice(plain, generator), generator)
            set_rate(self.sam_optimizer, 0.5 * rate)
            self.descend(loss, self.sam_optimizer, self.sam_parameters)
            self.means["sam"].append(float(loss.detach()))

    # ------------------------------------------------------------------------------------------------ shared by both stages

    def descend(self, loss: Tensor, optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> None:
        """One optimiser step; gradients are averaged over the processes."""
        descent.descend(self.accelerator, loss, optimizer, parameters)

    def _gather(self, found: Visit) -> list[Visit]:
        if self.accelerator.num_processes == 1:
            return [found]
        return gather_object([found])

    def _agree(self, value: Any) -> Any:
        """The main process' clock decides for all."""
        return descent.agree(self.accelerator, value)

    def _validate_every(self) -> int:
        total = self.budget.total_steps
        return max(1, total // 5) if total else 200

    def _report_step(self, rate: float) -> None:
        if self.step % 10 == 0:
            means = {k: sum(v) / len(v) for k, v in self.means.items()}
            self.run.log(self.clock, lr=rate * self.config.lr, **means)
            self.means.clear()

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Dice and IoU of the teacher on the validation split, on the canvas."""
        metrics = SegmentationMetrics(self.categories)
        loader = Loader(self.val, self.config.size, self.config.batch, shuffle=False)
        for batch in loader.ordered():
            logits = pseudo.resize(self._segment(self.teacher.model, batch.images.to(self.device)), self.config.size)
            for index, mask, target in zip(
                batch.indices.tolist(), logits.argmax(1).cpu().numpy(), batch.target.numpy()
            ):
                if (target != IGNORE).any():
                    metrics.update(mask, target, self.val[index].id)
        scores = metrics.compute()
        return {"dice": scores["dice"], "iou": scores["iou"]}

    def finish(self) -> None:
        """Write the model to take home (the teacher), the pseudo-masks and the report."""
        self.save(force=True)
        self.accelerator.wait_for_everyone()
        if not self.accelerator.is_main_process:
            return
        self._blend_pseudo_masks()
        write_model(self)
        write_pseudo_masks(self)
        write_report(self)

    @torch.no_grad()
    def _blend_pseudo_masks(self) -> None:
        """Blend the finished teacher's view into SAM's answers: the pseudo-masks that are written and shown."""
        order = sorted(self.labeller.masks)
        with progress(len(order), "last pseudo-masks") as advance:
            for start in range(0, len(order), self.config.batch):
                batch = self.loader.take(order[start : start + self.config.batch]).to(self.device)
                teacher = self._segment(self.teacher.model, batch.images).softmax(1)
                maps, confidence = self.labeller.pseudo_masks(batch, teacher, self.maturity)
                for row, index in enumerate(batch.indices.tolist()):
                    self.labeller.masks[index] = replace(
                        self.labeller.masks[index], maps=maps[row].half().cpu(), confidence=float(confidence[row])
                    )
                advance(len(batch))
