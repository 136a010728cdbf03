"""SAM 2 as an in-context labeller in training: it makes pseudo-masks of weakly labelled images, and learns to make better ones.

``Labeller`` is an ``Answerer`` whose answers become ``PseudoMasks`` and references. Its methods stand in the order of a training.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maskwright.data.batch import Batch
from maskwright.data.labels import IGNORE, Kind
from maskwright.methods.in_context.answerer import Answerer, RowReferences
from maskwright.methods.in_context.closer import answer_boxes
from maskwright.methods.in_context.episodes import Practice, box_loss, episode_loss, practice_batch, sample_rows
from maskwright.methods.in_context.pool import ReferencePool
from maskwright.methods.in_context.pseudo_masks import PseudoMask, PseudoMasks
from maskwright.methods.in_context.rows import (
    RowPrompts,
    Rows,
    is_unlocated,
    merge_rows,
    rows_of,
    teacher_logits,
    truth_of,
    weak_prompts,
    with_teacher,
)
from maskwright.methods.in_context.selection import ReferencePolicy
from maskwright.methods.in_context.streams import Stream
from maskwright.nets.losses import consistency_loss, partial_cross_entropy
from maskwright.nets.selector_names import SelectorName
from maskwright.nets.spnet import pooled, pooled_memory
from maskwright.sam.sam import Embedding, Masks, Memory, Sam


@dataclass(frozen=True)
class ReferenceSets:
    """References for some rows of a batch, chosen beforehand: R rows, and (R, T) places in the pool."""

    rows: Rows
    places: Tensor

    def put_into(self, rows: Rows, chosen: RowReferences, categories: int) -> RowReferences:
        """The result of ``Answerer.choose`` for N rows of the batch, with these sets in place of its own where there are any."""
        keys, preset = (each.image * categories + each.category for each in (rows, self.rows))
        row, number = (keys[:, None] == preset).nonzero(as_tuple=True)
        return RowReferences(
            chosen.has_references.index_fill(0, row, True), chosen.places.index_copy(0, row, self.places[number])
        )


@dataclass(frozen=True)
class Requests:
    """N rows that SAM is to answer.

    Attributes:
        rows, prompts: N of each.
        has_references: (N,) bool, and places: (N, T) in the pool; see ``Answerer.choose``.
    """

    rows: Rows
    prompts: RowPrompts
    has_references: Tensor
    places: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Tensor) -> Requests:
        """Some of the requests."""
        return Requests(self.rows[index], self.prompts.rows(index), self.has_references[index], self.places[index])

    @property
    def chosen(self) -> Tensor:
        """(M, T) places of the references, of the M rows that have any."""
        return self.places[self.has_references]


@dataclass
class Visit:
    """The new pseudo-masks and pool entries of one process; exchanged between processes, then absorbed by each.

    Attributes:
        masks: pseudo-masks by position in the dataset.
        entries: new entries of the pool: the arguments of ``ReferencePool.update``, the memory as ``features`` and
            ``pointers``; None: there are none.
    """

    masks: dict[int, PseudoMask] = field(default_factory=dict)
    entries: dict[str, Tensor] | None = None


class Labeller(Answerer):
    """Makes pseudo-masks, and learns to make better ones.

    Args:
        sam, categories, selector, references, policy: see ``Answerer``.
        blend: see ``PseudoMasks``.
        weak_weight: weight of the losses on boxes, points and scribbles.
        generator: (stream, number) → stateless random numbers, a function of both alone.
        closer_look: pseudo-masks of boxes are SAM's answers on crops around them; SAM still learns on whole images.
        folder: of a pool that is too large for the memory; see ``ReferencePool``.

    Attributes:
        pseudo_masks: its answers.
    """

    def __init__(
        self,
        sam: Sam,
        categories: int,
        *,
        selector: SelectorName,
        references: int,
        blend: float,
        weak_weight: float,
        generator: Callable[[Stream, int], torch.Generator],
        policy: ReferencePolicy | None = None,
        closer_look: bool = False,
        folder: Path | None = None,
    ) -> None:
        pool = ReferencePool(folder=folder)
        super().__init__(sam, categories, selector=selector, references=references, policy=policy, pool=pool)
        self.closer_look = closer_look
        self.weak_weight, self.generator = weak_weight, generator
        self.pseudo_masks = PseudoMasks(categories, sam.size, blend)

    # ------------------------------------------------------------------------------------------------ practice

    @torch.no_grad()
    def practice(self, batch: Batch, generator: torch.Generator) -> Practice:
        """The images that SAM can practise on, for ``episode``: see ``episodes.practice_batch``.

        Args:
            batch: without augmentation.
            generator: on the CPU, of the clicks that are drawn.
        """
        maps, confidence = self.pseudo_masks.in_view(batch)
        return practice_batch(batch, maps, confidence, generator)

    def episode(self, embedding: Embedding, practice: Practice, generator: torch.Generator) -> Tensor:
        """The loss of in-context learning inside a batch: see ``episodes.episode_loss``."""
        return episode_loss(self, embedding, practice, generator, self.weak_weight)

    # ------------------------------------------------------------------------------------------------ pseudo-masks

    def visit(
        self,
        batch: Batch,
        embedding: Embedding,
        number: int,
        teacher: Tensor | None = None,
        maturity: float = 0.0,
        best: ReferenceSets | None = None,
    ) -> tuple[Tensor, Visit]:
        """Make pseudo-masks and pool entries of a batch of images on the plain canvas.

        Args:
            batch: without augmentation.
            embedding: of its images; gradients flow into it where they are enabled.
            number: of the visit, for its randomness; see ``streams``.
            teacher: (B, C, h, w) probabilities of the mean teacher, None before its first update.
            maturity: 0..1, how far the teacher's prediction is blended in.
            best: the references of some rows, in place of those that the selector would choose.

        Returns:
            SAM's loss against the weak labels (zero without gradients), and the new pseudo-masks and pool entries.
        """
        rows = rows_of(self.query_categories(batch, teacher), batch.kinds, batch.indices)
        if not len(rows):
            return embedding.low.sum() * 0, Visit()
        prompts = self._label_prompts(batch, rows, teacher, maturity)
        with torch.no_grad():
            query = self.query(embedding, rows, prompts, teacher)
            chosen = self.choose(rows, query, self.generator(Stream.REFERENCES, number))
            if best is not None:
                chosen = best.put_into(rows, chosen, self.categories)
        # An image with a mask needs no pseudo-mask, and without references and prompt SAM has nothing to go by.
        is_request = (rows.kind != Kind.MASK) & (chosen.has_references | prompts.prompted)
        requests = Requests(rows, prompts, chosen.has_references, chosen.places)[is_request.nonzero()[:, 0]]
        loss, logits, iou = self._answer_and_learn(embedding, requests, batch.target, number, teacher)
        with torch.no_grad():
            if self.closer_look and len(requests):
                at, *closer = answer_boxes(self.sam, batch, requests.rows)
                logits[at], iou[at] = closer
            probabilities, confidence = self._merge(requests.rows, logits, iou, len(batch))
            visit = Visit(self._new_masks(requests, probabilities, confidence))
            probabilities, _ = self.pseudo_masks.blended(batch, probabilities, confidence, teacher, maturity)
            visit.entries = self._new_entries(embedding, rows, batch.target, is_request, probabilities)
        return loss, visit

    def _label_prompts(self, batch: Batch, rows: Rows, teacher: Tensor | None, maturity: float) -> RowPrompts:
        """Each row's weak label as its prompt, or the teacher's prediction: see ``rows.with_teacher``."""
        is_weak = rows.kind != Kind.MASK
        prompts = weak_prompts(batch, rows, self.sam.size, boxes=is_weak, points=is_weak)
        return prompts if teacher is None else with_teacher(prompts, rows, teacher, maturity)

    def _answer_and_learn(
        self, embedding: Embedding, requests: Requests, target: Tensor, number: int, teacher: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """SAM's answers to N requests, and the loss of those that it learns from, if gradients are enabled.

        Returns:
            The loss; (N, h, w) logits and (N,) predicted IoU, both without gradients.
        """
        loss = embedding.low.sum() * 0
        logits = embedding.low.new_empty(len(requests), self.map_size, self.map_size)
        iou = embedding.low.new_empty(len(requests))
        learns = torch.zeros(len(requests), dtype=torch.bool, device=logits.device)
        if torch.is_grad_enabled():
            generator = self.generator(Stream.LEARNING_ROWS, number)
            learns[sample_rows(requests.rows.category, self.categories, generator)] = True
        for learn, at in ((True, learns.nonzero()[:, 0]), (False, (~learns).nonzero()[:, 0])):
            if not len(at):
                continue
            with torch.set_grad_enabled(learn):
                part = requests[at]
                memory = self.pool.memory(part.chosen) if len(part.chosen) else None
                masks, logits_of_part, iou_of_part = self.answer(
                    embedding, part.rows, part.prompts, part.has_references, memory
                )
                if learn:
                    loss = loss + self._weak_loss(masks, logits_of_part, part, target, teacher)
            logits[at], iou[at] = logits_of_part.detach(), iou_of_part.detach()
        return loss, logits, iou

    def _weak_loss(
        self, masks: Masks, logits: Tensor, requests: Requests, target: Tensor, teacher: Tensor | None
    ) -> Tensor:
        """SAM's answers against the weak labels themselves, and against the teacher where there was no prompt."""
        rows, prompts = requests.rows, requests.prompts
        target = target[rows.image][:, 2::4, 2::4]
        is_object = torch.where(target == IGNORE, IGNORE, (target == rows.category[:, None, None]).long())
        loss = partial_cross_entropy(torch.stack([torch.zeros_like(logits), logits], 1), is_object)
        loss = loss + box_loss(masks.best, prompts, self.sam.size)
        if teacher is not None and not prompts.prompted.all():
            target_logits = teacher_logits(teacher, rows)
            loss = loss + consistency_loss(logits[:, None], target_logits[:, None], (~prompts.prompted).float())
        return self.weak_weight * loss

    def _merge(self, rows: Rows, logits: Tensor, iou: Tensor, images: int) -> tuple[Tensor, Tensor]:
        """Answers to N rows → (B, C, h, w) probabilities and (B,) confidence, the mean predicted IoU of an image's rows."""
        probabilities = merge_rows(logits, rows, images, self.categories).softmax(1)
        count = torch.zeros(images, device=logits.device).index_add(0, rows.image, torch.ones_like(iou))
        confidence = torch.zeros(images, device=logits.device).index_add(0, rows.image, iou)
        return probabilities, confidence / count.clamp(min=1)

    def _new_masks(self, requests: Requests, probabilities: Tensor, confidence: Tensor) -> dict[int, PseudoMask]:
        """The pseudo-masks of the requests' images, by position in the dataset."""
        references: dict[int, set[int]] = defaultdict(set)
        for image, places in zip(requests.rows.image[requests.has_references].tolist(), requests.chosen):
            references[image] |= set(self.pool.tensors["sample"][places].tolist())
        images = dict(zip(requests.rows.image.tolist(), requests.rows.sample.tolist()))
        return {
            sample: PseudoMask(probabilities[image].half().cpu(), float(confidence[image]), sorted(references[image]))
            for image, sample in sorted(images.items())
        }

    def _new_entries(
        self, embedding: Embedding, rows: Rows, target: Tensor, has_answer: Tensor, probabilities: Tensor
    ) -> dict[str, Tensor] | None:
        """Pool entries of labelled images: with the true mask, or with the pseudo-mask of boxes, points and scribbles."""
        truth, counted = truth_of(target, rows, self.map_size)
        is_mask = rows.kind == Kind.MASK
        masks = torch.where(is_mask[:, None, None], truth * counted, probabilities[rows.image, rows.category])
        usable = (is_mask | has_answer) & ~is_unlocated(rows.kind) & (masks.flatten(1).amax(1) > 0.5)
        if not usable.any():
            return None
        rows, masks = rows[usable], masks[usable]
        row_embedding = embedding[rows.image].detach()
        memory = self.sam.remember(row_embedding, masks[:, None])[:, 0]
        whole, foreground = pooled(row_embedding.low, masks)
        return {
            "samples": rows.sample,
            "categories": rows.category,
            "kinds": rows.kind,
            "features": memory.features,
            "pointers": memory.pointers,
            "whole": whole,
            "foreground": foreground,
            "memory_vector": pooled_memory(memory.features, masks),
        }

    def absorb(self, visits: Iterable[Visit]) -> None:
        """Take over the pseudo-masks and entries of this and the other processes' visits."""
        for visit in visits:
            self.pseudo_masks.newest |= visit.masks
            if visit.entries is not None:
                entries = {name: tensor.to(self.sam.device) for name, tensor in visit.entries.items()}
                self.pool.update(memory=Memory(entries.pop("features"), entries.pop("pointers")), **entries)

    # ------------------------------------------------------------------------------------------------ state

    def state(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """Pool and pseudo-masks as tensors (groups ``pool`` and ``masks``) and JSON, for a checkpoint."""
        tensors, state = self.pseudo_masks.state()
        if len(self.pool):
            tensors["pool"] = self.pool.state_dict()
        if self.pool.index is not None:
            tensors["pool_index"] = self.pool.index.state_dict()
        return tensors, state

    def load_state(self, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
        """The counterpart of ``state``."""
        pool = tensors.get("pool", {})
        if not self.pool.columns.go_into_files(sum(value.nbytes for value in pool.values())):
            pool = {name: value.to(self.sam.device) for name, value in pool.items()}
        self.pool.load_state_dict(pool, tensors.get("pool_index"))
        self.pseudo_masks.load_state(tensors, state)
