"""SAM 2 as an in-context labeller: shown reference images with their masks, it makes pseudo-masks of other images.

For one query (SAMIX, sec. 3): a selector picks references from the pool → SAM's memory attention conditions the query on them → the
query's own weak label, if any, is given as a prompt as well → ``decode(recall(F, references), prompts)``. With several categories once
per category that the labels name, merged by argmax against background.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from maskwright.data.batch import Batch
from maskwright.data.geometry import compose, invert, resize_matrix, warp_maps
from maskwright.data.labels import IGNORE, Kind
from maskwright.data.shapes import touched_cells
from maskwright.methods.in_context import pseudo
from maskwright.methods.in_context.pool import ReferencePool
from maskwright.methods.in_context.selection import Answer, ReferencePolicy
from maskwright.nets.losses import (
    box_projection_loss,
    consistency_loss,
    iou_regression,
    mask_loss,
    partial_cross_entropy,
)
from maskwright.nets.selector import SelectorName, select
from maskwright.nets.spnet import Query, pooled, pooled_memory
from maskwright.sam.prompts import Prompts
from maskwright.sam.sam import Embedding, Masks, Memory, Sam

FLOOR = 1e-3
"""No source is surer than this that a category is not there, so that the other can still be heard."""

MOST_ROWS = 16
"""Rows that SAM learns from in one step at most. An image of many categories has many, and each costs a recall and its gradient."""


@dataclass
class PseudoMask:
    """SAM's newest answer for one image: (C, h, w) float16 probabilities on the plain canvas, how far to trust it, what SAM was shown."""

    maps: Tensor
    confidence: float
    references: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Shown:
    """References for some rows of a batch, chosen beforehand: R rows, and (R, T) places in the pool."""

    rows: pseudo.Rows
    places: Tensor


@dataclass
class Visit:
    """What one process found out about its images; exchanged between processes, then absorbed by each."""

    masks: dict[int, PseudoMask] = field(default_factory=dict)
    entries: list[Tensor] | None = None


class Labeller:
    """Makes pseudo-masks, and learns to make better ones.

    Args:
        sam: with or without adapters.
        categories: C, background included.
        selector: how references are chosen.
        references: T, how many.
        blend: share of the teacher's own view in the pseudo-masks of images without a prompt, once it is mature; less of it elsewhere.
        weak_weight: weight of the losses on boxes, points and scribbles.
        generator: (stream, step) → randomness that depends on nothing else.
        policy: chooses the references where ``selector`` is ``policy``.
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
        generator: Callable[[int, int], torch.Generator],
        policy: ReferencePolicy | None = None,
    ) -> None:
        if selector == "policy" and policy is None:
            raise ValueError("the selector 'policy' needs a policy")
        self.sam, self.categories = sam, categories
        self.selector: SelectorName = selector
        self.references, self.blend, self.weak_weight = references, blend, weak_weight
        self.generator, self.policy = generator, policy
        self.pool = ReferencePool()
        self.masks: dict[int, PseudoMask] = {}

    @property
    def grid(self) -> int:
        """Side of the decoder's maps."""
        return self.sam.size // 4

    # ------------------------------------------------------------------------------------------------ learning

    def episode(self, embedding: Embedding, batch: Batch, generator: torch.Generator) -> Tensor:
        """In-context learning inside a batch: mask images are references for each other and for box images.

        Every image is encoded and remembered once. The prompt of a mask row is, by chance, its boxes, its clicks, a spoilt copy of
        its mask (which is what the teacher's view of an image amounts to), clicks and such a copy, or nothing, so that SAM learns to
        answer every kind of weak label; the row's own mask is never shown to it.

        Args:
            embedding: of the batch's images.
            batch: mask images with the weak labels that their masks imply, and box images; other rows must not be ``present``.

        Returns:
            Mask loss and error of the predicted IoU on mask rows, box projection on box rows.
        """
        rows = pseudo.rows_of(batch.present)
        if not len(rows):
            return embedding.low.sum() * 0
        rows = rows[self._few(rows.category, generator)]
        is_mask = batch.kinds[rows.image] == Kind.MASK
        truth = (batch.target[rows.image] == rows.category[:, None, None]).float()
        draw = torch.rand(len(rows), generator=generator).to(truth.device)
        asked = pseudo.weak_prompts(
            batch, rows, self.sam.size, boxes=~is_mask | (draw < 0.35), points=is_mask & (draw >= 0.35) & (draw < 0.7)
        ).with_hint(pseudo.rough(truth, generator), is_mask & (draw >= 0.5) & (draw < 0.85))
        column = is_mask.nonzero()[:, 0]
        allowed = (rows.category[:, None] == rows.category[column]) & (rows.image[:, None] != rows.image[column])
        shown = allowed.any(1)

        def references(at: Tensor) -> Memory:
            """For the rows ``at``: 1 to T memories each of other images, at random."""
            memory = self.sam.remember(embedding[rows.image[column]], truth[column][:, None])[:, 0]
            mine = allowed[at]
            noise = torch.rand(mine.shape, generator=generator).to(truth.device).masked_fill(~mine, -1)
            count = 1 + int(torch.randint(self.references, (), generator=generator))
            order = noise.topk(min(count, len(column)), 1).indices
            return memory[torch.where(mine.gather(1, order), order, order[:, :1])]

        masks = self.decode(self.condition(embedding, rows, shown, references), asked)
        logits, _ = pseudo.row_logits(masks, asked, self.sam.size)
        loss = logits.sum() * 0
        if is_mask.any():
            loss = loss + self._mask_row_loss(logits[is_mask], truth[is_mask])
            single = asked.valid[is_mask].sum(1) == 1
            coarse = F.interpolate(truth[is_mask][:, None], logits.shape[-2:], mode="area")
            error = iou_regression(masks.iou[is_mask, 0], masks.logits[is_mask, 0], coarse).mean(-1)
            loss = loss + (error * single).sum() / single.sum().clamp(min=1)
        if (~is_mask).any():
            loss = loss + self.weak_weight * self._box_loss(masks.best[~is_mask], asked, ~is_mask)
        return loss

    @torch.no_grad()
    def practice(self, batch: Batch, generator: torch.Generator, trust: float = 0.7, clicks: int = 6) -> Batch:
        """What SAM can practise on: mask images, and box images of whose pseudo-mask it is sure, which stand in for masks.

        A box says so much that its answer can teach clicks and in-context answers, where a few masks alone are soon learnt by heart.

        Args:
            batch: without augmentation.
            trust: least predicted IoU of a pseudo-mask that counts as a mask.
            clicks: of each such mask and category, at most so many are drawn, deep inside it.

        Returns:
            The batch for ``episode``; rows of other images are not ``present``.
        """
        maps, confidence = self.pseudo_masks(batch)
        taught = (batch.kinds == Kind.BOX) & (confidence > trust)
        known = (batch.kinds == Kind.BOX) | (batch.kinds == Kind.MASK)
        answer = maps.argmax(1)
        target = answer.repeat_interleave(4, 1).repeat_interleave(4, 2)
        own = F.one_hot(answer, self.categories)[..., 1:].permute(0, 3, 1, 2).float()
        depth = (F.avg_pool2d(own, 7, 1, 3) ** 4 * own).flatten(0, 1).flatten(1).cpu()
        empty = depth.sum(1) <= 0
        index = torch.multinomial(depth.masked_fill(empty[:, None], 1.0), clicks, replacement=True, generator=generator)
        drawn = torch.arange(clicks) <= torch.randint(clicks, (len(depth), 1), generator=generator)
        category = torch.arange(1, self.categories).repeat(len(batch))[:, None]
        category = torch.where(drawn & ~empty[:, None], category, -1).view(len(batch), -1)
        at = ((torch.stack([index % self.grid, index // self.grid], -1) + 0.5) * 4).view(len(batch), -1, 2)
        room = category.shape[1] - batch.point_categories.shape[1]
        category, at = category.to(taught.device), at.to(batch.points)
        if room >= 0:
            old_category, old = F.pad(batch.point_categories, (0, room), value=-1), F.pad(batch.points, (0, 0, 0, room))
        else:
            category, at = F.pad(category, (0, -room), value=-1), F.pad(at, (0, 0, 0, -room))
            old_category, old = batch.point_categories, batch.points
        return replace(
            batch,
            kinds=torch.where(taught, int(Kind.MASK), batch.kinds),
            target=torch.where(taught[:, None, None], target, batch.target),
            points=torch.where(taught[:, None, None], at, old),
            point_categories=torch.where(taught[:, None], category, old_category),
            present=torch.where(known[:, None], batch.present, 0),
        )

    def _few(self, categories: Tensor, generator: torch.Generator) -> Tensor:
        """(N,) categories of rows → places of at most ``MOST_ROWS``, in order: whole categories at random, to refer to each other."""
        if len(categories) <= MOST_ROWS:
            return torch.arange(len(categories), device=categories.device)
        rank = torch.randperm(self.categories, generator=generator).to(categories.device)[categories]
        return rank.argsort(stable=True)[:MOST_ROWS].sort().values

    def _mask_row_loss(self, logits: Tensor, truth: Tensor) -> Tensor:
        size = 2 * logits.shape[-1]
        target = F.interpolate(truth[:, None], (size, size), mode="area")[:, 0]
        return mask_loss(pseudo.resize(logits[:, None], size)[:, 0], target)

    def _box_loss(self, objects: Tensor, asked: pseudo.RowPrompts, rows: Tensor) -> Tensor:
        """Box projection of (N, K, h, w) object logits for those rows' own boxes."""
        boxes = asked.boxes[rows] * (objects.shape[-1] / self.sam.size)
        return box_projection_loss(objects, boxes, asked.boxed[rows])

    def _weak_loss(
        self,
        logits: Tensor,
        objects: Tensor,
        batch: Batch,
        rows: pseudo.Rows,
        asked: pseudo.RowPrompts,
        teacher: Tensor | None,
    ) -> Tensor:
        """SAM's answers against the weak labels themselves, and against the teacher where there was no prompt."""
        drawn = batch.target[rows.image][:, 2::4, 2::4]
        target = torch.where(drawn == IGNORE, IGNORE, (drawn == rows.category[:, None, None]).long())
        loss = partial_cross_entropy(torch.stack([torch.zeros_like(logits), logits], 1), target)
        loss = loss + self._box_loss(objects, asked, torch.arange(len(rows), device=logits.device))
        if teacher is not None and not asked.prompted.all():
            seen = pseudo.view_logits(teacher, rows)
            loss = loss + consistency_loss(logits[:, None], seen[:, None], (~asked.prompted).float())
        return self.weak_weight * loss

    # ------------------------------------------------------------------------------------------------ labelling

    def visit(
        self,
        batch: Batch,
        embedding: Embedding,
        step: int,
        teacher: Tensor | None = None,
        maturity: float = 0.0,
        best: Shown | None = None,
    ) -> tuple[Tensor, Visit]:
        """Answer for a batch of images on the plain canvas.

        Args:
            batch: without augmentation.
            embedding: of its images; gradients flow into it where they are enabled.
            step: for the selector's randomness.
            teacher: (B, C, h, w) probabilities of the mean teacher, None before it has learnt anything.
            maturity: 0..1, how far the teacher's view is blended in.
            best: what some rows are shown, instead of what the selector would choose.

        Returns:
            SAM's loss against the weak labels (zero without gradients), and the new pseudo-masks and pool entries.
        """
        rows = pseudo.rows_of(self.asked_categories(batch, teacher))
        if not len(rows):
            return embedding.low.sum() * 0, Visit()
        weak = (batch.kinds != Kind.MASK)[rows.image]
        asked = pseudo.weak_prompts(batch, rows, self.sam.size, boxes=weak, points=weak)
        if teacher is not None and maturity > 0.5:
            asked = asked.with_hint(pseudo.view_logits(teacher, rows), weak & ~asked.hinted.any(1))
        with torch.no_grad():
            whole, foreground = pooled(embedding.low[rows.image], self.first_guess(rows, asked, teacher))
            shown, order = self.choose(batch, rows, whole, foreground, step)
            if best is not None:
                shown, order = _replaced(rows, shown, order, best, self.categories)
        answerable = (weak & (shown | asked.prompted)).nonzero()[:, 0]
        logits = embedding.low.new_full((len(rows), self.grid, self.grid), pseudo.EMPTY)
        score = embedding.low.new_zeros(len(rows))
        loss = embedding.low.sum() * 0
        learns = torch.zeros_like(shown)
        if torch.is_grad_enabled():
            learns[answerable[self._few(rows.category[answerable], self.generator(5, step + (1 << 32)))]] = True
        for at in (answerable[learns[answerable]], answerable[~learns[answerable]]):
            if not len(at):
                continue
            with torch.set_grad_enabled(bool(learns[at[0]])):
                part = asked.rows(at)
                conditioned = self.condition(
                    embedding, rows[at], shown[at], lambda some, at=at: self.pool.memory(order[at][some])
                )
                masks = self.decode(conditioned, part)
                answer, confidence = pseudo.row_logits(masks, part, self.sam.size)
                if torch.is_grad_enabled():
                    loss = self._weak_loss(answer, masks.best, batch, rows[at], part, teacher)
            logits = logits.index_copy(0, at, answer.detach())
            score = score.index_copy(0, at, confidence.detach())
        with torch.no_grad():
            probabilities, confidence = self._merge(rows, answerable, logits, score, len(batch))
            found = Visit(self._stored(batch, rows, answerable, probabilities, confidence, shown, order))
            probabilities, _ = self._blend(batch, probabilities, confidence, teacher, maturity)
            found.entries = self._entries(batch, embedding, rows, answerable, probabilities)
        return loss, found

    def absorb(self, visits: Iterable[Visit]) -> None:
        """Take over what this and the other processes found."""
        for visit in visits:
            self.masks |= visit.masks
            if visit.entries is not None:
                sample, category, kind, features, pointers, *vectors = (e.to(self.sam.device) for e in visit.entries)
                self.pool.update(sample, category, kind, Memory(features, pointers), *vectors)

    def pseudo_masks(self, batch: Batch, teacher: Tensor | None = None, maturity: float = 0.0) -> tuple[Tensor, Tensor]:
        """The newest pseudo-masks in the batch's view: SAM's answers, as old as their last visit, and the teacher's view of today.

        Args:
            batch: in any augmentation.
            teacher: (B, C, S/4, S/4) its probabilities for the batch's own images, None before it has learnt anything.
            maturity: 0..1, how far the teacher's view is blended in.

        Returns:
            (B, C, S/4, S/4) probabilities, and (B,) how far to trust each image's; 0 where SAM has no answer yet.
        """
        device, grid = batch.images.device, self.grid
        maps = torch.zeros(len(batch), self.categories, grid, grid, device=device)
        confidence = torch.zeros(len(batch), device=device)
        for row, index in enumerate(batch.indices.tolist()):
            if index in self.masks:
                maps[row] = self.masks[index].maps.to(device).float()
                confidence[row] = self.masks[index].confidence
        plain = torch.stack([torch.from_numpy(resize_matrix(tuple(s), self.sam.size)) for s in batch.sizes.tolist()])
        # In double precision, which not every device has.
        moves = compose(batch.matrices.cpu().double(), invert(plain))
        # Between canvases a quarter as large only the translation changes.
        moves = torch.cat([moves[..., :2], moves[..., 2:] / 4], -1).float().to(device)
        foreground = warp_maps(maps[:, 1:], moves, grid)
        maps = torch.cat([1 - foreground.sum(1, keepdim=True), foreground], 1)
        return self._blend(batch, maps, confidence, teacher, maturity)

    def asked_categories(self, batch: Batch, teacher: Tensor | None) -> Tensor:
        """(B, C): the categories that labels name; for unlabelled images those that the teacher sees (all, as long as there is none)."""
        present = (batch.present > 0).clone()
        present[:, 0] = False
        if teacher is None:
            seen = torch.ones_like(present)
        else:
            won = F.one_hot(teacher.argmax(1), self.categories).float().mean((1, 2))
            seen = won > 2e-3
        seen[:, 0] = False
        return torch.where((batch.kinds == Kind.NONE)[:, None], seen, present).long()

    def first_guess(self, rows: pseudo.Rows, asked: pseudo.RowPrompts, teacher: Tensor | None) -> Tensor:
        """(N, g, g): where a row's object may be, to pool its features: its boxes, else the teacher's view; empty = everywhere."""
        grid = self.sam.size // 16
        boxed = asked.boxed
        guess = (touched_cells(asked.boxes, grid, self.sam.size) & boxed[..., None, None]).any(1).float()
        if teacher is None:
            return guess
        seen = F.interpolate(teacher, (grid, grid), mode="area")[rows.image, rows.category]
        return torch.where(boxed.any(1)[:, None, None], guess, seen)

    def choose(
        self,
        batch: Batch,
        rows: pseudo.Rows,
        whole: Tensor,
        foreground: Tensor,
        step: int,
        answer: Answer | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Which rows have references at all (N,), and which ones: (N, T) places in the pool.

        With SAM's ``answer`` to these rows, the policy looks before it chooses; other selectors take no notice of it.
        """
        order = torch.zeros(len(rows), self.references, dtype=torch.long, device=whole.device)
        if not len(self.pool):
            return torch.zeros(len(rows), dtype=torch.bool, device=whole.device), order
        allowed = self.pool.allowed(batch.indices[rows.image], rows.category, batch.kinds[rows.image])
        shown = allowed.any(1)
        if shown.any() and self.selector == "policy":
            assert self.policy is not None
            at = shown.nonzero()[:, 0]
            query = Query(whole[at], foreground[at], batch.kinds[rows.image[at]])
            look = None if answer is None else (lambda own, places: answer(at[own], places))
            order[at] = self.policy.choose(query, self.pool.entries(), allowed[at], look)
        elif shown.any():
            assert self.selector != "policy"
            tensors = self.pool.tensors
            order[shown] = select(
                self.selector,
                whole[shown],
                foreground[shown],
                tensors["whole"],
                tensors["foreground"],
                allowed[shown],
                self.references,
                self.generator(4, step + (1 << 32)),
            )
        return shown, order

    def answers(self, embedding: Embedding, rows: pseudo.Rows, asked: pseudo.RowPrompts) -> Answer:
        """SAM's answers to rows with their prompts, shown references of the pool."""

        def answer(at: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
            part, every = asked.rows(at), torch.ones_like(at, dtype=torch.bool)
            conditioned = self.condition(embedding, rows[at], every, lambda some: self.pool.memory(places[some]))
            return pseudo.row_logits(self.decode(conditioned, part), part, self.sam.size)

        return answer

    def condition(
        self, embedding: Embedding, rows: pseudo.Rows, shown: Tensor, memory: Callable[[Tensor], Memory]
    ) -> Embedding:
        """Recall the rows that are shown references; the others keep the plain embedding."""
        mine = embedding[rows.image]
        low = mine.low + self.sam.model.no_memory_embedding[0, :, :, None, None]
        at = shown.nonzero()[:, 0]
        if len(at):
            low = low.index_copy(0, at, self.sam.recall(mine[at], memory(at)).low)
        return replace(mine, low=low, conditioned=True)

    def decode(self, conditioned: Embedding, asked: pseudo.RowPrompts) -> Masks:
        """SAM's answers (N, K, 1, ...). Only objects that exist are decoded: with many categories most places are padding."""
        row, place = asked.valid.nonzero(as_tuple=True)
        answers = self.sam.decode(
            conditioned[row],
            Prompts(asked.prompts.points[row, place, None], asked.prompts.labels[row, place, None]),
            asked.hint[row, place, None],
            previous_valid=asked.hinted[row, place, None],
        )

        def in_place(flat: Tensor, empty: float = 0.0) -> Tensor:
            table = flat.new_full((*asked.valid.shape, *flat.shape[2:]), empty)
            return table.index_put((row, place), flat[:, 0])

        return Masks(
            in_place(answers.logits, pseudo.EMPTY),
            in_place(answers.iou),
            in_place(answers.presence, pseudo.EMPTY),
            in_place(answers.pointers),
        )

    def _merge(
        self, rows: pseudo.Rows, answerable: Tensor, logits: Tensor, score: Tensor, images: int
    ) -> tuple[Tensor, Tensor]:
        """Rows → (B, C, h, w) probabilities and (B,) confidence, the mean predicted IoU of an image's rows."""
        probabilities = pseudo.merge_rows(logits, rows, images, self.categories).softmax(1)
        image, score = rows.image[answerable], score[answerable]
        answers = torch.zeros(images, device=logits.device).index_add(0, image, torch.ones_like(score))
        confidence = torch.zeros(images, device=logits.device).index_add(0, image, score)
        return probabilities, confidence / answers.clamp(min=1)

    def _blend(
        self, batch: Batch, probabilities: Tensor, confidence: Tensor, teacher: Tensor | None, maturity: float
    ) -> tuple[Tensor, Tensor]:
        """SAM's answer and the teacher's view, less what the labels rule out, as one.

        Where SAM was blind (no prompt), its confidence counts as far as the two agree: nothing before there is a teacher.
        """
        blind = pseudo.blind(batch.kinds)
        if teacher is None:
            return probabilities, torch.where(blind, 0.0, confidence)
        agreed = maturity * pseudo.agreement(probabilities, teacher)
        boxed = batch.kinds == Kind.BOX
        share = self.blend * maturity * torch.where(blind, 1.0, torch.where(boxed, 0.3, 0.6))
        view = pseudo.constrain(teacher, batch, self.sam.size)
        # Between logarithms: who is sure counts more than who is not.
        mixed = torch.lerp(
            probabilities.clamp(min=FLOOR).log(), view.clamp(min=FLOOR).log(), share[:, None, None, None]
        )
        return mixed.softmax(1), torch.where(blind, confidence * agreed, confidence)

    def _stored(
        self,
        batch: Batch,
        rows: pseudo.Rows,
        answerable: Tensor,
        probabilities: Tensor,
        confidence: Tensor,
        shown: Tensor,
        order: Tensor,
    ) -> dict[int, PseudoMask]:
        references: dict[int, set[int]] = defaultdict(set)
        for row in answerable.tolist():
            if shown[row]:
                references[int(rows.image[row])] |= set(self.pool.tensors["sample"][order[row]].tolist())
        return {
            int(batch.indices[image]): PseudoMask(
                probabilities[image].half().cpu(), float(confidence[image]), sorted(references[image])
            )
            for image in sorted(set(rows.image[answerable].tolist()))
        }

    def _entries(
        self, batch: Batch, embedding: Embedding, rows: pseudo.Rows, answerable: Tensor, probabilities: Tensor
    ) -> list[Tensor] | None:
        """Pool entries of labelled images: with the true mask, or with the pseudo-mask of boxes, points and scribbles."""
        kinds = batch.kinds[rows.image]
        truth, known = pseudo.truth_of(batch.target, rows, self.grid)
        is_mask = kinds == Kind.MASK
        masks = torch.where(is_mask[:, None, None], truth * known, probabilities[rows.image, rows.category])
        answered = torch.zeros_like(is_mask).index_fill(0, answerable, True)
        usable = (is_mask | answered) & ~pseudo.blind(kinds) & (masks.flatten(1).amax(1) > 0.5)
        at = usable.nonzero()[:, 0]
        if not len(at):
            return None
        own = embedding[rows.image[at]].detach()
        memory = self.sam.remember(own, masks[at][:, None])[:, 0]
        entries = [batch.indices[rows.image[at]], rows.category[at], kinds[at], memory.features, memory.pointers]
        return [*entries, *pooled(own.low, masks[at]), pooled_memory(memory.features, masks[at])]

    # ------------------------------------------------------------------------------------------------ state

    def state(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, object]]:
        """Pool and pseudo-masks as tensors (groups ``pool`` and ``masks``) and JSON, for a checkpoint."""
        order = sorted(self.masks)
        tensors: dict[str, dict[str, Tensor]] = {}
        if len(self.pool):
            tensors["pool"] = self.pool.state_dict()
        if order:
            tensors["masks"] = {"maps": torch.stack([self.masks[i].maps for i in order])}
        return tensors, {
            "index": order,
            "confidence": [self.masks[i].confidence for i in order],
            "references": [self.masks[i].references for i in order],
        }

    def load_state(self, tensors: dict[str, dict[str, Tensor]], state: dict) -> None:
        """The counterpart of ``state``."""
        self.pool.load_state_dict({k: v.to(self.sam.device) for k, v in tensors.get("pool", {}).items()})
        self.masks = {
            index: PseudoMask(tensors["masks"]["maps"][i].clone(), state["confidence"][i], state["references"][i])
            for i, index in enumerate(state["index"])
        }


def _replaced(rows: pseudo.Rows, shown: Tensor, order: Tensor, best: Shown, categories: int) -> tuple[Tensor, Tensor]:
    """``shown`` (N,) and ``order`` (N, T), with the rows of ``best`` as it says."""
    keys, wanted = (r.image * categories + r.category for r in (rows, best.rows))
    row, its = (keys[:, None] == wanted).nonzero(as_tuple=True)
    return shown.index_fill(0, row, True), order.index_copy(0, row, best.places[its])
