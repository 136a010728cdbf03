"""SAM 2 in context: from reference images with masks it segments the same categories in other images (SAMIX, sec. 3).

For one query: a selector picks references from the pool → SAM's memory attention conditions the query on them → the query's own weak
label, if any, is given as a prompt as well → ``decode(recall(F, references), prompts)``. With several categories once per category;
the answers are merged by argmax against background.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from maskwright.data.batch import Batch
from maskwright.data.labels import Kind
from maskwright.data.shapes import touched_cells
from maskwright.methods.in_context.judging import PredictMasks
from maskwright.methods.in_context.pool import Candidates, ReferencePool, needed
from maskwright.methods.in_context.rows import EMPTY, RowPrompts, Rows, row_logits
from maskwright.methods.in_context.selection import ReferenceChoice, ReferencePolicy
from maskwright.nets.selector import select
from maskwright.nets.selector_names import SelectorName
from maskwright.nets.spnet import Query, pooled
from maskwright.sam.prompts import Prompts
from maskwright.sam.sam import Embedding, Masks, Memory, Sam

VISIBLE = 2e-3
"""Share of an unlabelled image that the teacher must give to a category for it to be looked for there."""


@dataclass(frozen=True)
class RowReferences:
    """The references of N rows.

    Attributes:
        has_references: (N,) bool, the rows for which there is any.
        places: (N, T) in the pool, 0 where there is none.
        choice: the policy's, of the rows that have any, in order; None from another selector.
    """

    has_references: Tensor
    places: Tensor
    choice: ReferenceChoice | None = None


class Answerer:
    """SAM with a pool of references and a selector: makes the mask of one category in one image.

    It is all that prediction needs; ``labeller.Labeller`` adds what training needs.

    Methods stand in the order in which an image passes through them. A row is one category in one image, see ``Rows``.

    Args:
        sam: with or without adapters.
        categories: C, background included.
        selector: how references are chosen.
        references: T, references of a row.
        policy: chooses the references where ``selector`` is ``policy``.
        pool: the references that there are; left out, none yet.

    Raises:
        ValueError: the selector is ``policy``, and there is no policy.
    """

    def __init__(
        self,
        sam: Sam,
        categories: int,
        *,
        selector: SelectorName,
        references: int,
        policy: ReferencePolicy | None = None,
        pool: ReferencePool | None = None,
    ) -> None:
        if selector == "policy" and policy is None:
            raise ValueError("the selector 'policy' needs a policy")
        self.sam, self.categories = sam, categories
        self.selector: SelectorName = selector
        self.references, self.policy = references, policy
        self.pool = ReferencePool() if pool is None else pool

    @property
    def map_size(self) -> int:
        """Side of the decoder's maps, S/4."""
        return self.sam.size // 4

    def query_categories(self, batch: Batch, teacher: Tensor | None) -> Tensor:
        """The categories that are looked for in each image.

        Args:
            batch: of B images.
            teacher: (B, C, h, w) probabilities of another network; None where there is none.

        Returns:
            (B, C) 0 or 1: the categories that labels name; for unlabelled images those that the teacher predicts (without one, all).
        """
        named = (batch.present > 0).clone()
        named[:, 0] = False
        if teacher is None:
            predicted = torch.ones_like(named)
        else:
            share = F.one_hot(teacher.argmax(1), self.categories).float().mean((1, 2))
            predicted = share > VISIBLE
        predicted[:, 0] = False
        return torch.where((batch.kinds == Kind.NONE)[:, None], predicted, named).long()

    def query(self, embedding: Embedding, rows: Rows, prompts: RowPrompts, teacher: Tensor | None) -> Query:
        """The vectors that references are compared with: pooled features of each row's image, and of the region where its object may be."""
        return Query(*pooled(embedding.low[rows.image], self._first_guess(rows, prompts, teacher)), rows.kind)

    def _first_guess(self, rows: Rows, prompts: RowPrompts, teacher: Tensor | None) -> Tensor:
        """(N, S/16, S/16): where a row's object may be: in its boxes, else where the teacher predicts it; empty = everywhere."""
        side = self.sam.size // 16
        boxed = prompts.boxed
        guess = (touched_cells(prompts.boxes, side, self.sam.size) & boxed[..., None, None]).any(1).float()
        if teacher is None:
            return guess
        teacher_share = F.interpolate(teacher, (side, side), mode="area")[rows.image, rows.category]
        return torch.where(boxed.any(1)[:, None, None], guess, teacher_share)

    def choose(
        self, rows: Rows, query: Query, generator: torch.Generator, predict_masks: PredictMasks | None = None
    ) -> RowReferences:
        """Choose references for N rows, each of a finer label than the row's own image.

        Args:
            rows, query: N rows, and what ``query`` made of them.
            generator: on the CPU, for the selector ``random``.
            predict_masks: SAM's answers to these rows. With it the policy tries several sets before it chooses one, and tells how probable
                its choice was; other selectors ignore it.
        """
        places = torch.zeros(len(rows), self.references, dtype=torch.long, device=query.whole.device)
        if not len(self.pool) or not len(rows):
            return RowReferences(torch.zeros(len(rows), dtype=torch.bool, device=places.device), places)
        candidates = self.candidates(rows, query, generator)
        has_references = candidates.allowed.any(1)
        at = has_references.nonzero()[:, 0]
        if not len(at):
            return RowReferences(has_references, places)
        query, entries, allowed = query[at], candidates.entries, candidates.allowed[at]
        choice = None
        if self.selector == "policy":
            assert self.policy is not None

            def predict_part(some: Tensor, sets: Tensor) -> tuple[Tensor, Tensor]:
                assert predict_masks is not None
                return predict_masks(at[some], candidates.in_pool(sets))

            looks = predict_masks is not None
            choice = self.policy.choose(
                query, entries, allowed, predict_part if looks else None, with_probability=looks
            )
            choice = replace(choice, places=candidates.in_pool(choice.places))
            places[at] = choice.places
        else:
            chosen = select(
                self.selector,
                query.whole,
                query.foreground,
                entries.whole,
                entries.foreground,
                allowed,
                self.references,
                generator,
            )
            places[at] = candidates.in_pool(chosen)
        return RowReferences(has_references, places, choice)

    def candidates(self, rows: Rows, query: Query, generator: torch.Generator | None = None) -> Candidates:
        """The entries of the pool that the selector chooses from for N rows; ``generator``: on the CPU, for the selector ``random``."""
        shortlist = self.policy.settings.shortlist_size if self.policy is not None else 0
        near, drawn = needed(self.selector, self.references, shortlist)
        return self.pool.candidates(rows.sample, rows.category, rows.kind, query, near, drawn, generator)

    def answer(
        self, embedding: Embedding, rows: Rows, prompts: RowPrompts, has_references: Tensor, memory: Memory | None
    ) -> tuple[Masks, Tensor, Tensor]:
        """SAM's answers to N rows.

        Args:
            embedding: of the batch's images.
            rows, prompts: N rows with their prompts.
            has_references: (N,) bool.
            memory: (M, T) references of the M rows that have any, in order; None where M is 0.

        Returns:
            The masks of all objects (N, K, 1, ...); and for each row the union of its objects: (N, h, w) logits and (N,) predicted IoU.
        """
        masks = self.decode(self.condition(embedding, rows, has_references, memory), prompts)
        return masks, *row_logits(masks, prompts, self.sam.size)

    def condition(self, embedding: Embedding, rows: Rows, has_references: Tensor, memory: Memory | None) -> Embedding:
        """Recall the references of the rows that have any, see ``answer``; the other rows keep the plain embedding."""
        row_embedding = embedding[rows.image]
        low = row_embedding.low + self.sam.model.no_memory_embedding[0, :, :, None, None]
        if memory is not None:
            at = has_references.nonzero()[:, 0]
            low = low.index_copy(0, at, self.sam.recall(row_embedding[at], memory).low)
        return replace(row_embedding, low=low, conditioned=True)

    def decode(self, conditioned: Embedding, prompts: RowPrompts) -> Masks:
        """SAM's answers (N, K, 1, ...). Only objects that exist are decoded: with many categories most places are padding."""
        row, place = prompts.valid.nonzero(as_tuple=True)
        answers = self.sam.decode(
            conditioned[row],
            Prompts(prompts.tokens.points[row, place, None], prompts.tokens.labels[row, place, None]),
            prompts.hint[row, place, None],
            previous_valid=prompts.hinted[row, place, None],
        )

        def in_place(flat: Tensor, empty: float = 0.0) -> Tensor:
            table = flat.new_full((*prompts.valid.shape, *flat.shape[2:]), empty)
            return table.index_put((row, place), flat[:, 0])

        return Masks(
            in_place(answers.logits, EMPTY),
            in_place(answers.iou),
            in_place(answers.presence, EMPTY),
            in_place(answers.pointers),
        )

    def mask_predictor(self, embedding: Embedding, rows: Rows, prompts: RowPrompts) -> PredictMasks:
        """SAM's answers to some of the rows as a function of their references; see ``judging.PredictMasks``."""

        def predict_masks(at: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
            every = torch.ones_like(at, dtype=torch.bool)
            memory = self.pool.memory(places)
            _, logits, iou = self.answer(embedding, rows[at], prompts.rows(at), every, memory)
            return logits, iou

        return predict_masks
