"""What the policy that chooses references learns on: rows of a batch as queries, SAM's answers to them, and their judge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from maskwright.data.batch import Batch
from maskwright.data.labels import IGNORE, Kind
from maskwright.methods.in_context import pseudo
from maskwright.methods.in_context.judging import Judge, PredictMasks
from maskwright.methods.in_context.labeller import Labeller, ReferenceSets
from maskwright.methods.in_context.selection import Round
from maskwright.nets.losses import box_projection_loss
from maskwright.nets.spnet import Query
from maskwright.sam.sam import Embedding


@dataclass(frozen=True)
class Questions:
    """For ``ReferencePolicy.step``: N rows of a batch, (N, E) allowed entries, SAM's answers, their judge."""

    rows: pseudo.Rows
    query: Query
    allowed: Tensor
    predict_masks: PredictMasks
    judge: Judge

    def best(self, round: Round) -> ReferenceSets:
        """The best sets of a round, for the pseudo-masks of the weakly labelled rows (SAMIX: the set with the largest advantage)."""
        at = (round.decided & ~self.judge.has_truth).nonzero()[:, 0]
        return ReferenceSets(self.rows[at], round.places[at])


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
    rows = pseudo.rows_of(labeller.wanted_categories(batch, teacher), batch.kinds, batch.indices)
    if not len(pool) or not len(rows):
        return None
    is_mask = rows.kind == Kind.MASK
    posed = torch.tensor([int(k) for k in kinds])[torch.randint(len(kinds), (len(rows),), generator=generator)]
    rows = replace(rows, kind=torch.where(is_mask, posed.to(is_mask.device), rows.kind))
    allowed = pool.allowed(rows.sample, rows.category, rows.kind)
    at = (allowed.sum(1) > 1).nonzero()[:, 0]
    at = at[torch.randperm(len(at), generator=generator)[:most].to(at.device)]
    if not len(at):
        return None
    rows, is_mask, allowed = rows[at], is_mask[at], allowed[at]
    drawn = (rows.kind == Kind.POINT) | (rows.kind == Kind.SCRIBBLE)
    boxes, points = ~is_mask | (rows.kind == Kind.BOX), ~is_mask | drawn
    prompts = pseudo.weak_prompts(batch, rows, size, boxes=boxes, points=points)
    view = None
    if teacher is not None:
        view = teacher.argmax(1)[rows.image] == rows.category[:, None, None]
        if maturity > 0.5:
            prompts = prompts.with_hint(pseudo.view_logits(teacher, rows), ~prompts.hinted.any(1))
    query = labeller.query(embedding, rows, prompts, teacher)
    truth, counted = pseudo.truth_of(batch.target, rows, labeller.map_size)
    weak = label_losses(batch.target, rows, prompts)
    judge = Judge(is_mask, truth, counted, view, weak, ~is_mask & ~pseudo.blind(rows.kind))
    return Questions(rows, query, allowed, labeller.mask_predictor(embedding, rows, prompts), judge)


def label_losses(target: Tensor, rows: pseudo.Rows, prompts: pseudo.RowPrompts) -> Callable[[Tensor, Tensor], Tensor]:
    """(R,) rows, (R, S/4, S/4) logits → (R,) losses against what is drawn in these rows, and against their boxes."""
    drawn = target[rows.image][:, 2::4, 2::4]
    known, is_object = (drawn != IGNORE).float(), (drawn == rows.category[:, None, None]).float()
    boxes, boxed = prompts.boxes / 4, prompts.boxed

    def losses(some: Tensor, logits: Tensor) -> Tensor:
        entropy = F.binary_cross_entropy_with_logits(logits, is_object[some], reduction="none") * known[some]
        entropy = entropy.sum((1, 2)) / known[some].sum((1, 2)).clamp(min=1)
        objects = logits[:, None].expand(-1, boxes.shape[1], -1, -1)
        projection = box_projection_loss(objects, boxes[some], boxed[some], per_box=True)
        return entropy + projection.sum(1) / boxed[some].sum(1).clamp(min=1)

    return losses
