"""What the policy that chooses references learns from: rows of a batch as queries, SAM's answers to them, and their rewards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from maskwright.data.batch import Batch
from maskwright.data.labels import IGNORE, Kind
from maskwright.methods.in_context.judging import Judge, PredictMasks
from maskwright.methods.in_context.labeller import Labeller, ReferenceSets
from maskwright.methods.in_context.pool import Candidates, needed
from maskwright.methods.in_context.rows import (
    RowPrompts,
    Rows,
    is_unlocated,
    rows_of,
    truth_of,
    weak_prompts,
    with_teacher,
)
from maskwright.methods.in_context.selection import PolicySettings, Round
from maskwright.nets.losses import box_projection_loss
from maskwright.nets.spnet import Query
from maskwright.sam.sam import Embedding

DRAWN = 256
"""Random entries of a large pool among a query's candidates: so many that those that the policy tries at random are hardly ever similar."""


@dataclass(frozen=True)
class PolicyBatch:
    """The N queries of one round of ``ReferencePolicy.step``.

    Attributes:
        rows: the N rows of the batch that are the queries.
        query: their pooled features.
        candidates: the entries of the pool that each may refer to.
        predict_masks: SAM's answers to the queries, by numbers of candidates.
        judge: what their rewards are computed from.
    """

    rows: Rows
    query: Query
    candidates: Candidates
    predict_masks: PredictMasks
    judge: Judge

    def best(self, round: Round) -> ReferenceSets:
        """The best sets of a round, for the pseudo-masks of the weakly labelled rows (SAMIX: the set with the largest advantage)."""
        at = (round.decided & ~self.judge.has_truth).nonzero()[:, 0]
        return ReferenceSets(self.rows[at], self.candidates.in_pool(round.places[at]))


@torch.no_grad()
def draw_policy_batch(
    labeller: Labeller,
    batch: Batch,
    embedding: Embedding,
    generator: torch.Generator,
    kinds: Sequence[Kind],
    teacher: Tensor | None = None,
    maturity: float = 0.0,
    most: int = 8,
) -> PolicyBatch | None:
    """Draw queries for the policy to learn from. An image with a mask takes the part of a weakly labelled one, and is rewarded by its mask.

    Args:
        labeller: whose pool is chosen from, and whose SAM answers.
        batch: mask images with the weak labels that their masks imply, and weakly labelled images.
        embedding: of its images.
        generator: on the CPU; of the kinds and of the rows.
        kinds: the weak kinds of which one is drawn for each row of an image with a mask.
        teacher, maturity: as in ``Labeller.visit``.
        most: rows at most, drawn at random.

    Returns:
        None where no row has a choice between references.
    """
    pool, size = labeller.pool, labeller.sam.size
    rows = rows_of(labeller.query_categories(batch, teacher), batch.kinds, batch.indices)
    if not len(pool) or not len(rows):
        return None
    is_mask = rows.kind == Kind.MASK
    weak_kind = torch.tensor([int(k) for k in kinds])[torch.randint(len(kinds), (len(rows),), generator=generator)]
    rows = replace(rows, kind=torch.where(is_mask, weak_kind.to(is_mask.device), rows.kind))
    at = (pool.choices(rows.sample, rows.category, rows.kind) > 1).nonzero()[:, 0]
    at = at[torch.randperm(len(at), generator=generator)[:most].to(at.device)]
    if not len(at):
        return None
    rows, is_mask = rows[at], is_mask[at]
    is_point = (rows.kind == Kind.POINT) | (rows.kind == Kind.SCRIBBLE)
    boxes, points = ~is_mask | (rows.kind == Kind.BOX), ~is_mask | is_point
    prompts = weak_prompts(batch, rows, size, boxes=boxes, points=points)
    view = None
    if teacher is not None:
        view = teacher.argmax(1)[rows.image] == rows.category[:, None, None]
        prompts = with_teacher(prompts, rows, teacher, maturity)
    query = labeller.query(embedding, rows, prompts, teacher)
    settings = labeller.policy.settings if labeller.policy is not None else PolicySettings()
    near, _ = needed("policy", labeller.references, settings.shortlist_size)
    candidates = pool.candidates(rows.sample, rows.category, rows.kind, query, near, DRAWN, generator)
    answers = labeller.mask_predictor(embedding, rows, prompts)
    truth, counted = truth_of(batch.target, rows, labeller.map_size)
    label_loss = label_losses(batch.target, rows, prompts)
    judge = Judge(is_mask, truth, counted, view, label_loss, ~is_mask & ~is_unlocated(rows.kind))
    return PolicyBatch(rows, query, candidates, lambda some, sets: answers(some, candidates.in_pool(sets)), judge)


def label_losses(target: Tensor, rows: Rows, prompts: RowPrompts) -> Callable[[Tensor, Tensor], Tensor]:
    """(R,) rows, (R, S/4, S/4) logits → (R,) losses against the drawn labels of these rows (clicks, scribbles), and against their boxes."""
    target = target[rows.image][:, 2::4, 2::4]
    counted, is_object = (target != IGNORE).float(), (target == rows.category[:, None, None]).float()
    boxes, boxed, cut = prompts.boxes / 4, prompts.boxed, prompts.cut

    def losses(at: Tensor, logits: Tensor) -> Tensor:
        entropy = F.binary_cross_entropy_with_logits(logits, is_object[at], reduction="none") * counted[at]
        entropy = entropy.sum((1, 2)) / counted[at].sum((1, 2)).clamp(min=1)
        objects = logits[:, None].expand(-1, boxes.shape[1], -1, -1)
        projection = box_projection_loss(objects, boxes[at], boxed[at], cut=cut[at], per_box=True)
        return entropy + projection.sum(1) / boxed[at].sum(1).clamp(min=1)

    return losses
