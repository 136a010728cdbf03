"""Rewards of reference sets: SAM answers with each set, and its answers are compared with the truth, or with what replaces it.

Where queries come from is not decided here: a ``PredictMasks`` makes SAM's answers, a ``Judge`` computes their rewards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from maskwright.engine.metrics import soft_dice

PredictMasks = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""SAM's answers: (R,) rows of the queries, (R, T) places in the pool → (R, h, w) logits and (R,) predicted IoU in 0..1."""

REWARDS = ("true", "iou", "view", "weak")
"""True Dice; predicted IoU (r_a); Dice with the segmenter's mask (r_b); minus the loss against the weak label (r_g)."""


@dataclass(frozen=True)
class Judge:
    """Computes the rewards of answers to N queries.

    Attributes:
        has_truth: (N,) bool, the queries whose true mask is known. It is their only reward; the other queries have the others.
        truth: (N, h, w) in 0..1; anything where there is none.
        counted: (N, h, w) in 0..1, the pixels that count; None: all.
        view: (N, h, w) bool, the segmenter's mask; None before there is one.
        weak: (R,) rows, (R, h, w) logits → (R,) losses against the rows' own weak labels; None where there are no such labels.
        labelled: (N,) bool, the queries with weak labels, for which ``weak`` is defined; needed with it.
    """

    has_truth: Tensor
    truth: Tensor
    counted: Tensor | None = None
    view: Tensor | None = None
    weak: Callable[[Tensor, Tensor], Tensor] | None = None
    labelled: Tensor | None = None

    def dice(self, rows: Tensor, logits: Tensor) -> Tensor:
        """(R,) rows, (R, h, w) logits → (R,) true Dice; undefined for rows without truth."""
        return soft_dice(logits > 0, self.truth[rows], None if self.counted is None else self.counted[rows])

    def rewards(self, rows: Tensor, logits: Tensor, iou: Tensor) -> Tensor:
        """All four for every answer: (R,) rows, (R, h, w) logits, (R,) predicted IoU → (4, R) in the order of ``REWARDS``.

        Undefined where ``present`` is False.
        """
        view, weak = torch.zeros_like(iou), torch.zeros_like(iou)
        if self.view is not None:
            view = soft_dice(logits > 0, self.view[rows])
        if self.weak is not None:
            weak = -self.weak(rows, logits).to(iou)
        return torch.stack([self.dice(rows, logits), iou, view, weak])

    def present(self) -> Tensor:
        """(4, N) bool: which rewards count for which query."""
        no = torch.zeros_like(self.has_truth)
        view = no if self.view is None else ~self.has_truth
        weak = no if self.weak is None or self.labelled is None else ~self.has_truth & self.labelled
        return torch.stack([self.has_truth, ~self.has_truth, view, weak])


# ------------------------------------------------------------------------------------------------------- answering


@torch.no_grad()
def answer_groups(
    predict_masks: PredictMasks, places: Tensor, judge: Judge, at_once: int = 64
) -> tuple[Tensor, Tensor, Tensor]:
    """Answer and reward groups of reference sets. The order of references does not change SAM's
    answer, so each distinct set is answered once.

    Args:
        predict_masks: see ``PredictMasks``.
        places: (N, G, T) in the pool.
        judge: of the N queries.
        at_once: sets in one batch, to bound the memory.

    Returns:
        (4, N, G) rewards, (N, G) places of the answers among the D distinct ones, and those answers, (D, h, w) logits.
    """
    rows, logits, iou, back = _answer_distinct(predict_masks, places, at_once)
    parts = zip(rows.split(at_once), logits.split(at_once), iou.split(at_once))
    rewards = torch.cat([judge.rewards(*part) for part in parts], 1)
    return rewards[:, back], back, logits


def promise(masks: Tensor, iou: Tensor) -> Tensor:
    """How good the answers to reference sets look without the truth: the IoU that SAM predicts, plus agreement.

    A reference that misleads SAM makes an answer that SAM is unsure of, or that the other references of the group do not support.

    Args:
        masks: (N, G, h, w) probabilities that SAM answers to G sets of each of N queries.
        iou: (N, G) that it predicts.

    Returns:
        (N, G) predicted IoU + soft Dice with the mean answer of the group, in 0..2.
    """
    mean = masks.mean(1, keepdim=True).expand_as(masks)
    return iou + soft_dice((masks > 0.5).flatten(0, 1), mean.flatten(0, 1)).view_as(iou)


@torch.no_grad()
def most_promising(predict_masks: PredictMasks, places: Tensor, at_once: int = 64) -> tuple[Tensor, Tensor, Tensor]:
    """The set of each group whose answer has the most ``promise``, and that answer.

    Args:
        predict_masks: see ``PredictMasks``.
        places: (N, G, T) in the pool.
        at_once: sets in one batch, and about as many answers are held at a time.

    Returns:
        (N,) which of the G sets; (N, h, w) logits and (N,) predicted IoU of SAM's answers to them.
    """
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for rows in torch.arange(len(places), device=places.device).split(max(1, at_once // places.shape[1])):
        _, logits, iou, back = _answer_distinct(
            lambda at, sets, rows=rows: predict_masks(rows[at], sets), places[rows], at_once
        )
        best = promise(logits.sigmoid()[back], iou[back]).argmax(1)
        answer = back.gather(1, best[:, None])[:, 0]
        found.append((best, logits[answer], iou[answer]))
    best, logits, iou = (torch.cat(parts) for parts in zip(*found))
    return best, logits, iou


def _answer_distinct(
    predict_masks: PredictMasks, places: Tensor, at_once: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of D distinct sets among (N, G, T): their (D,) rows, (D, h, w) logits, (D,) predicted IoU; and (N, G) the index of each
    set among them."""
    queries, groups, _ = places.shape
    row = torch.arange(queries, device=places.device)[:, None, None].expand(-1, groups, 1)
    keys = torch.cat([row, places.sort(-1).values], -1).flatten(0, 1)
    distinct, back = keys.unique(dim=0, return_inverse=True)
    answers = [predict_masks(part[:, 0], part[:, 1:]) for part in distinct.split(at_once)]
    logits, iou = (torch.cat(parts) for parts in zip(*answers))
    return distinct[:, 0], logits, iou, back.view(queries, groups)


@torch.no_grad()
def oracle(
    predict_masks: PredictMasks, judge: Judge, index: Tensor, allowed: Tensor, count: int, at_once: int = 64
) -> tuple[Tensor, Tensor]:
    """Choose references by the true Dice, greedily: each time the one that raises it most, or lowers it least. Evaluation only.

    Args:
        predict_masks: see ``PredictMasks``.
        judge: all of its N queries must have a truth.
        index: (N, K) places of the candidates in the pool.
        allowed: (N, K) bool, at least one per query; where there are fewer than T the last choice repeats.
        count: T.
        at_once: sets in one batch.

    Returns:
        (N, T) places; the first t of them are the choice of t references. (N, T) Dice after each choice.
    """
    if not bool(judge.has_truth.all()):
        raise ValueError("the oracle needs the truth of every query")
    if not bool(allowed.any(1).all()):
        raise ValueError("a query without any allowed reference cannot be given one")
    free, choices = allowed.clone(), index[:, :0]
    dice_after: list[Tensor] = []
    for _ in range(count):
        rows, columns = free.nonzero(as_tuple=True)
        sets = torch.cat([choices[rows], index[rows, columns][:, None]], 1)
        dice = [
            judge.dice(row, predict_masks(row, places)[0])
            for row, places in zip(rows.split(at_once), sets.split(at_once))
        ]
        score = torch.full(index.shape, -torch.inf, device=index.device)
        best = score.index_put((rows, columns), torch.cat(dice)).max(1)
        dice_after.append(best.values)
        choices = torch.cat([choices, index.gather(1, best.indices[:, None])], 1)
        latest = torch.zeros_like(free).scatter(1, best.indices[:, None], True)
        free = free & ~latest
        free = torch.where(free.any(1, keepdim=True), free, latest)
    return choices, torch.stack(dice_after, 1)
