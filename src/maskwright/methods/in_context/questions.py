"""What the policy that chooses references learns on: rows of a batch as queries, SAM's answers to them, and their judge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from maskwright.data.batch import Batch
from maskwright.data.labels import IGNORE, Kind
from maskwright.methods.in_context import pseudo
from maskwright.methods.in_context.labeller import Labeller, Shown
from maskwright.methods.in_context.selection import Answer, Judge, Round
from maskwright.nets.losses import box_projection_loss
from maskwright.nets.spnet import Query, pooled
from maskwright.sam.sam import Embedding


@dataclass(frozen=True)
class Questions:
    """For ``ReferencePolicy.step``: N rows of a batch, (N, E) allowed entries, SAM's answers, their judge."""

    rows: pseudo.Rows
    query: Query
    allowed: Tensor
    answer: Answer
    judge: Judge

    def best(self, found: Round) -> Shown:
        """The best sets of a round, for the pseudo-masks of the weakly labelled rows (SAMIX: the set with the largest advantage)."""
        at = (found.decided & ~self.judge.known).nonzero()[:, 0]
        return Shown(self.rows[at], found.places[at])


@torch.no_grad()
def ask(
    labeller: Labeller,
    batch: Batch,
    embedding: Embedding,
    generator: torch.Generator,
    kinds: Sequence[Kind],
    teacher: Tensor | None = None,
    maturity: float = 0.0,
    most: int = 8,
) -> Questions | None:
    """Queries for the policy to learn on: a mask image poses as a weakly labelled one, and is judged by its mask.

    Args:
        labeller: whose pool is chosen from, and whose SAM answers.
        batch: mask images with the weak labels that their masks imply, and weakly labelled images.
        embedding: of its images.
        generator: of the kinds and of the rows that are taken.
        kinds: as which of them mask images pose.
        teacher, maturity: as in ``Labeller.visit``.
        most: rows at most, drawn at random.

    Returns:
        None where no row has a choice between references.
    """
    pool, size = labeller.pool, labeller.sam.size
    rows = pseudo.rows_of(labeller.asked_categories(batch, teacher))
    if not len(pool) or not len(rows):
        return None
    is_mask = (batch.kinds == Kind.MASK)[rows.image]
    posed = torch.tensor([int(k) for k in kinds])[torch.randint(len(kinds), (len(rows),), generator=generator)]
    kind = torch.where(is_mask, posed.to(is_mask.device), batch.kinds[rows.image])
    allowed = pool.allowed(batch.indices[rows.image], rows.category, kind)
    at = (allowed.sum(1) > 1).nonzero()[:, 0]
    at = at[torch.randperm(len(at), generator=generator)[:most].to(at.device)]
    if not len(at):
        return None
    rows, is_mask, kind, allowed = rows[at], is_mask[at], kind[at], allowed[at]
    drawn = (kind == Kind.POINT) | (kind == Kind.SCRIBBLE)
    asked = pseudo.weak_prompts(batch, rows, size, boxes=~is_mask | (kind == Kind.BOX), points=~is_mask | drawn)
    view = None
    if teacher is not None:
        view = teacher.argmax(1)[rows.image] == rows.category[:, None, None]
        if maturity > 0.5:
            asked = asked.with_hint(pseudo.view_logits(teacher, rows), ~asked.hinted.any(1))
    whole, foreground = pooled(embedding.low[rows.image], labeller.first_guess(rows, asked, teacher))
    truth, counted = pseudo.truth_of(batch.target, rows, labeller.grid)
    weak = label_losses(batch, rows, asked, size)
    judge = Judge(is_mask, truth, counted, view, weak, ~is_mask & ~pseudo.blind(kind))
    answer = labeller.answers(embedding, rows, asked)
    return Questions(rows, Query(whole, foreground, kind), allowed, answer, judge)


def label_losses(
    batch: Batch, rows: pseudo.Rows, asked: pseudo.RowPrompts, size: int
) -> Callable[[Tensor, Tensor], Tensor]:
    """(R,) rows, (R, size / 4, size / 4) logits → (R,) losses against what is drawn in these rows, and against their boxes."""
    drawn = batch.target[rows.image][:, 2::4, 2::4]
    known, target = (drawn != IGNORE).float(), (drawn == rows.category[:, None, None]).float()
    boxes, boxed = asked.boxes / 4, asked.boxed

    def losses(some: Tensor, logits: Tensor) -> Tensor:
        entropy = F.binary_cross_entropy_with_logits(logits, target[some], reduction="none") * known[some]
        entropy = entropy.sum((1, 2)) / known[some].sum((1, 2)).clamp(min=1)
        objects = logits[:, None].expand(-1, boxes.shape[1], -1, -1)
        projection = box_projection_loss(objects, boxes[some], boxed[some], per_box=True)
        return entropy + projection.sum(1) / boxed[some].sum(1).clamp(min=1)

    return losses
