"""The preset ``strong``: what is left of AlignSAM once each part is measured against the simplest rule that does its work, and improved.

As published, SRM says what is foreground and SAM draws it from clicks. Otherwise (docs/alignsam.md gives the numbers):

- The places are those where SRM contradicts SAM most, instead of a policy's: a policy that is rewarded for places on the foreground
  learns where the foreground is, which SRM knows already.
- SRM sees F beside F ⊙ M, and SAM's features at half the stride; it learns from augmented views of the images, and less often. It also
  learns from the images without foreground that were drawn on the way to ``--shots``, so that "nothing here" is an answer.
- Two more SRMs learn from one half of the images each, and prompt SAM on the other half. Their mistakes are those of predictions on new
  images; from these masks SRM learns to correct.

All random numbers are functions of (seed, stream, episode), so a resumed run repeats an uninterrupted one exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from maskwright.data.augment import training_geometry
from maskwright.engine.origin import Origin
from maskwright.engine.session import rated_groups, set_rate
from maskwright.methods.autoprompt.agent import SelfPrompter, SelfPromptRules, Trace, last_mask
from maskwright.methods.autoprompt.scores import labels_right, places_on
from maskwright.nets.recalibrate import SemanticRecalibration, recalibration_loss
from maskwright.recipes.alignsam.trainer import Stream, Trainer
from maskwright.recipes.alignsam.views import Views

RULES = SelfPromptRules(places="disagreement", absence=True)
"""How ``strong`` makes masks."""

FOLDS = 2
"""Parts of the images; each is prompted by an SRM that has learnt from the others."""

WEIGHT_DECAY = 0.1
"""Of SRM (AdamW)."""

VIEW_COST = 0.02
"""Time of encoding a view relative to an episode: an estimate, for the time left."""

VIEWS_SHARE = 0.3
"""By the clock: share of the time that views may take."""


class StrongTrainer(Trainer):
    """SRM alone."""

    networks: ClassVar = {"model": "srm"}

    def build(self) -> SelfPrompter:
        config = self.config
        self.srms = [
            SemanticRecalibration(self.sam.width, self.branch, unmasked=True, fine=True).to(self.device)
            for _ in range(1 + FOLDS)
        ]
        self.srm, *self.fold_srms = self.srms
        self.modules = {"srm": self.srm}
        self.srm_optimizers = [
            torch.optim.AdamW(rated_groups([(srm.parameters(), config.srm_lr)]), weight_decay=WEIGHT_DECAY)
            for srm in self.srms
        ]
        self.agent = self._prompted_by(self.srm)
        self.fold_agents = [self._prompted_by(srm) for srm in self.fold_srms]
        self.views = self._views()
        # Of each row of the bank its plain view: these come first, in the order of the images.
        image_of_id = {sample.id: number for number, sample in enumerate(self.drawn)}
        self.plain = torch.tensor([image_of_id[name] for name in self.bank.names])
        rows = torch.arange(len(self.bank))
        # With a single image there is nothing to hold out.
        self.folds = [part if len(part) else rows for part in (rows[k::FOLDS] for k in range(FOLDS))]
        self.halves = [self.bank.select(part.to(self.device)) for part in self.folds]
        self.semantic = [self.agent.semantic(half) for half in self.halves]
        self.learners = [self._learners(rows[:0]), *map(self._learners, self.folds)]
        return self.agent

    def _prompted_by(self, srm: SemanticRecalibration) -> SelfPrompter:
        rules = replace(RULES, clicks=self.clicks)
        return SelfPrompter(self.sam, srm, None, self.clip, self.config.text, rules, grid=self.config.grid)

    def _views(self) -> Views:
        config = self.config
        work = self.session.work("views of the images", len(self.drawn) * (1 + config.views), VIEW_COST)
        geometry = training_geometry(upright=config.flips == "horizontal")
        with self.session.doing(work) as advance:
            views = Views.of(
                self.sam,
                self.srm.features,
                self.drawn,
                self.foreground,
                geometry,
                config.views,
                self.agent.semantic_of,
                seed=config.seed,
                advance=advance,
                is_over=self.session.deadline(VIEWS_SHARE),
            )
        work.total = work.done
        return views

    def _learners(self, held_out: Tensor) -> tuple[Tensor, Tensor]:
        """What an SRM learns from: places of views, and rows of the bank, without those that are held out."""
        kept = torch.ones(len(self.drawn), dtype=torch.bool)
        if len(held_out) < len(self.bank):
            kept[self.plain[held_out]] = False
        return kept[self.views.image.cpu()].nonzero()[:, 0], kept[self.plain].nonzero()[:, 0]

    # ------------------------------------------------------------------------------------------------ checkpoints

    def learning(self) -> dict[str, Any]:
        parts: dict[str, Any] = {"srm": self.srm} | {f"srm_{k}": srm for k, srm in enumerate(self.fold_srms)}
        return parts | {f"srm_optimizer_{k}": optimizer for k, optimizer in enumerate(self.srm_optimizers)}

    def start_from(self, origin: Origin) -> None:
        self.require_sam(origin)
        # The halves' SRMs start untrained: the earlier one may have learnt from what they are to be held out from.
        origin.fill(self.srm, "model", flags="--text, --clip, --preset")

    # ------------------------------------------------------------------------------------------------ an episode

    def episode(self) -> dict[str, float]:
        """Prompt each half by the SRM of the other; SRM learns from the masks."""
        rate = 0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * self.stage.fraction))
        traces = [
            agent.segment(half, semantic=semantic)
            for agent, half, semantic in zip(self.fold_agents, self.halves, self.semantic)
        ]
        self.recalibrate(traces, rate)
        places = torch.cat([places_on(half, trace).flatten() for half, trace in zip(self.halves, traces)])
        right = torch.cat([labels_right(half, trace).flatten() for half, trace in zip(self.halves, traces)])
        return {"foreground_rate": float(places.nanmean()), "label_accuracy": float(right.nanmean())}

    def recalibrate(self, traces: Sequence[Trace], rate: float) -> None:
        """``--srm-updates`` updates of each SRM. One half of a batch are views without a mask (M = 1), as at the start of a prediction, the
        other half plain images with masks of this episode.

        Args:
            traces: of the halves.
            rate: 0..1, factor on the learning rate.
        """
        config, views = self.config, self.views
        generator, masks = self.session.generator(Stream.SRM, self.stage.step), self._masks(traces)
        with_mask = config.srm_batch // 2
        for srm, optimizer, (places, shots) in zip(self.srms, self.srm_optimizers, self.learners):
            set_rate(optimizer, rate)
            for _ in range(self.srm_updates):
                place = places[torch.randint(len(places), (config.srm_batch - with_mask,), generator=generator)]
                shot = shots[torch.randint(len(shots), (with_mask,), generator=generator)]
                moment = torch.randint(masks.shape[1], (with_mask,), generator=generator)
                rows = torch.cat([place, self.plain[shot]]).to(self.device)
                blank = masks.new_ones(len(place), *masks.shape[-2:])
                mask = torch.cat([blank, masks[shot.to(self.device), moment.to(self.device)]])
                semantic = None if views.semantic is None else views.semantic[rows]
                loss = recalibration_loss(srm(views.features[rows], mask, semantic), views.target[rows])
                self.session.descend(loss, optimizer, srm.parameters())
                self.session.average(srm_loss=loss)

    def _masks(self, traces: Sequence[Trace]) -> Tensor:
        """(N, T + 1, h, w) in 0..1: the masks of all images of the bank after each click."""
        parts = [
            torch.stack([last_mask(half, state) for state in trace.states], 1)
            for half, trace in zip(self.halves, traces)
        ]
        masks = parts[0].new_empty(len(self.bank), *parts[0].shape[1:])
        for rows, part in zip(self.folds, parts):
            masks[rows.to(self.device)] = part
        return masks
