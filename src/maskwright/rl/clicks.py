"""Clicks on many images at once: pure functions from one batch of states to the next, all on tensors.

A state holds the prompts given to SAM for each of B targets, and SAM's last output for them; ``click`` adds a prompt to
every target and runs SAM's mask decoder once for all of them, through the ``FrozenDecoder``: the mask of a target does not
depend on the others of the batch. Nothing is encoded here: embeddings come from a ``Bank``. There is no loop over targets,
and no randomness.

Example::

    bank = Bank.of_scenes(sam, render(8, sam.size, seed=0))
    rows = torch.arange(len(bank))
    place, label, _ = first_click(bank, rows)
    state = start(sam, bank, rows, place, label)
    place, label, wrong = oracle_click(bank, state)
    state = click(sam, bank, state, place, label, active=wrong)
    dice(bank, state.rows, state.logits)  # (B,) in 0..1
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from maskwright.data.geometry import on_canvas
from maskwright.rl.bank import Bank
from maskwright.rl.oracle import next_click
from maskwright.sam.frozen import FrozenDecoder
from maskwright.sam.prompts import NEGATIVE, PADDING, POSITIVE, Prompts
from maskwright.sam.sam import Sam

SLOTS = 8
"""Default number of prompt tokens that a state has room for; a box takes two, a click one."""

STABILITY_OFFSET = 1.0
"""Logits by which the threshold is moved either way for the stability score (SAM's ``stability_score_offset``)."""


@dataclass(frozen=True)
class ClickState:
    """The prompts given to SAM for B targets, and its last output.

    Attributes:
        rows: (B,) int64, the targets in the bank.
        points: (B, C, 2) float32 prompt tokens in canvas pixels, in the order they were given; C slots.
        labels: (B, C) int64: 1 = on the object, 0 = off it, 2 and 3 the corners of a box, -1 = the slot is free.
        logits: (B, h, w) low-resolution logits of the last mask.
        iou: (B,) in 0..1, the IoU of that mask as SAM predicts it.
        stability: (B,) in 0..1, see ``stability``.
        done: (B,) bool, the episode is over: further clicks change nothing.
    """

    rows: Tensor
    points: Tensor
    labels: Tensor
    logits: Tensor
    iou: Tensor
    stability: Tensor
    done: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def tokens(self) -> Tensor:
        """(B,) int64: slots that are taken."""
        return (self.labels != PADDING).sum(1)

    @property
    def is_click(self) -> Tensor:
        """(B, C) bool: slots that hold a click, not the corner of a box."""
        return (self.labels == POSITIVE) | (self.labels == NEGATIVE)

    @property
    def clicks(self) -> Tensor:
        """(B,) int64: clicks so far."""
        return self.is_click.sum(1)

    def __getitem__(self, index: Any) -> ClickState:
        """Some of the targets, in the order of the index."""
        return ClickState(**{name: getattr(self, name)[index] for name in self.__dataclass_fields__})

    @staticmethod
    def cat(parts: Sequence[ClickState]) -> ClickState:
        """States with equally many slots, one after the other."""
        names = ClickState.__dataclass_fields__
        return ClickState(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})

    def put(self, index: Tensor, other: ClickState) -> ClickState:
        """The same with the targets at ``index`` (R,) taken from another state of R targets."""
        return ClickState(
            **{
                name: getattr(self, name).index_copy(0, index, getattr(other, name))
                for name in self.__dataclass_fields__
            }
        )

    def where(self, chosen: Tensor, other: ClickState) -> ClickState:
        """This state where ``chosen`` (B,) bool, else the other: undo, or "the best so far"."""
        pairs = {name: (getattr(self, name), getattr(other, name)) for name in self.__dataclass_fields__}
        return ClickState(
            **{name: torch.where(chosen.view(-1, *[1] * (a.ndim - 1)), a, b) for name, (a, b) in pairs.items()}
        )


def start(sam: Sam, bank: Bank, rows: Tensor, place: Tensor, label: Tensor, *, slots: int = SLOTS) -> ClickState:
    """The first click: of SAM's three candidates the one with the highest predicted IoU counts.

    Args:
        rows: (B,) targets.
        place: (B, 2) x y in canvas pixels.
        label: (B,) 1 = on the object, 0 = off it.
        slots: prompt tokens that the state has room for.
    """
    points, labels = _empty(rows, slots)
    points[:, 0], labels[:, 0] = place.to(points), label.to(labels)
    return _state(rows, points, labels, *_decode(sam, bank, rows, points, labels, None, multimask=True))


def start_box(sam: Sam, bank: Bank, rows: Tensor, boxes: Tensor, *, slots: int = SLOTS) -> ClickState:
    """From boxes (B, 4) ``x0 y0 x1 y1`` in canvas pixels, half-open; they take two slots."""
    points, labels = _empty(rows, slots)
    corners = Prompts.of_boxes(boxes[:, None])
    points[:, :2], labels[:, :2] = corners.points[:, 0].to(points), corners.labels[:, 0]
    return _state(rows, points, labels, *_decode(sam, bank, rows, points, labels, None))


def start_mask(sam: Sam, bank: Bank, rows: Tensor, logits: Tensor, *, slots: int = SLOTS) -> ClickState:
    """From masks of any origin: logits (B, h, w) at SAM's low resolution. The state holds them unchanged.

    ``iou`` is the IoU that SAM predicts for its output with this mask as the only prompt, as SAM has no estimate for a mask
    that it has not made.
    """
    points, labels = _empty(rows, slots)
    logits = logits.to(bank.device, torch.float32)
    return _state(rows, points, labels, logits, _decode(sam, bank, rows, points, labels, logits)[1])


def click(
    sam: Sam, bank: Bank, state: ClickState, place: Tensor, label: Tensor, active: Tensor | None = None
) -> ClickState:
    """One more click on each target: SAM gets all prompts so far and its last logits, and gives one mask.

    Args:
        place: (B, 2) x y in canvas pixels.
        label: (B,) 1 = on the object, 0 = off it.
        active: (B,) bool, the targets that get a click; left out: all. Targets that are ``done`` never get one.

    Raises:
        ValueError: a target that clicks has no free slot.
    """
    active = ~state.done if active is None else active & ~state.done
    index = active.nonzero()[:, 0]
    if not len(index):
        return state
    part = state if len(index) == len(state) else state[index]
    points, labels = _add(part, place[index][:, None], label[index][:, None])
    logits, iou = _decode(sam, bank, part.rows, points[:, 0], labels[:, 0], part.logits)
    after = replace(part, points=points[:, 0], labels=labels[:, 0], logits=logits, iou=iou, stability=stability(logits))
    return after if part is state else state.put(index, after)


def counterfactual(sam: Sam, bank: Bank, state: ClickState, places: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """SAM's output for each of M alternative clicks, every one added to the same state.

    Args:
        places: (B, M, 2) x y in canvas pixels.
        labels: (B, M) 1 = on the object, 0 = off it.

    Returns:
        (B, M, h, w) logits and (B, M) predicted IoU; row b, column m is what ``click`` gives for that click.

    Raises:
        ValueError: a target has no free slot.
    """
    points, tokens = _add(state, places, labels)
    return FrozenDecoder.of(sam).decode(bank.cells, bank.image[state.rows], points, tokens, state.logits)


# --------------------------------------------------------------------------------------------------------- measures


def dice(bank: Bank, rows: Tensor, logits: Tensor) -> Tensor:
    """Dice of masks with the truth, on the low-resolution grid; unknown pixels do not count.

    It is exactly the Dice on the canvas of the mask enlarged without smoothing: every low-resolution pixel counts with
    the share of it that is on the object.

    Args:
        rows: (B,) targets.
        logits: (B, h, w) or (B, M, h, w).

    Returns:
        (B,) or (B, M) float32 in 0..1; 1 where mask and truth are both empty.
    """
    truth = bank.known_truth
    masks = (logits > 0).float().flatten(-2)
    masks = masks if logits.ndim == 4 else masks[:, None]
    area, counted = truth.area[rows].flatten(1), truth.counted[rows].flatten(1)
    both, size = (masks @ torch.stack([area, counted], 2)).unbind(-1)
    total = size + area.sum(1, keepdim=True)
    scores = torch.where(total > 0, 2 * both / total.clamp(min=1e-6), 1.0)
    return scores if logits.ndim == 4 else scores[:, 0]


def canvas_dice(bank: Bank, rows: Tensor, logits: Tensor) -> Tensor:
    """(B,) Dice on the canvas of logits (B, h, w), enlarged bilinearly; unknown pixels do not count."""
    truth = bank.known_truth
    scores = []
    for part in torch.arange(len(rows), device=logits.device).split(64):
        masks = on_canvas(logits[part], bank.size) & truth.known[rows[part]]
        true = truth.canvas[rows[part]]
        both, total = (masks & true).sum((1, 2)), masks.sum((1, 2)) + true.sum((1, 2))
        scores.append(torch.where(total > 0, 2 * both / total.clamp(min=1), 1.0))
    return torch.cat(scores) if scores else logits.new_zeros(0)


def stability(logits: Tensor, offset: float = STABILITY_OFFSET) -> Tensor:
    """(..., h, w) → (...) in 0..1: IoU of the masks with the threshold moved up and down; 1 where both are empty."""
    inner, outer = ((logits > threshold).flatten(-2).sum(-1) for threshold in (offset, -offset))
    return torch.where(outer > 0, inner / outer.clamp(min=1), 1.0)


def entropy(logits: Tensor) -> Tensor:
    """Of every pixel's probability, in bits: 1 = undecided, 0 = certain; same shape."""
    # p = sigmoid(x): H = softplus(x) - x p, without the cancellation at large x.
    size = logits.abs()
    return (F.softplus(-size) + size * torch.sigmoid(-size)) / 0.6931471805599453


# ----------------------------------------------------------------------------------------------------------- oracle


def first_click(bank: Bank, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The oracle's first click on some targets: the point deepest inside. See ``rl.oracle.next_click``.

    Returns:
        Place (B, 2), label (B,), and (B,) bool: there is something to click on.
    """
    truth = bank.known_truth.canvas[rows]
    return next_click(torch.zeros_like(truth), truth)


def oracle_click(bank: Bank, state: ClickState) -> tuple[Tensor, Tensor, Tensor]:
    """The click an oracle would place next, in the middle of what is most wrong on the canvas.

    Returns:
        Place (B, 2), label (B,), and (B,) bool: something is wrong that was not clicked on before.
    """
    truth = bank.known_truth
    true, known = truth.canvas[state.rows], truth.known[state.rows]
    masks = torch.where(known, on_canvas(state.logits, bank.size), true)
    return next_click(masks, true, clicked_pixels(state, bank.size))


def clicked_pixels(state: ClickState, size: int) -> Tensor:
    """(B, S, S) bool: canvas pixels that were clicked on."""
    column, row = state.points.floor().long().clamp(0, size - 1).unbind(-1)
    clicked = torch.zeros(len(state), size * size, dtype=torch.bool, device=state.points.device)
    # Slots without a click point at the first pixel: they must not wipe out a click there.
    place = torch.where(state.is_click, row * size + column, -1)
    return F.pad(clicked, (1, 0)).scatter(1, place + 1, True)[:, 1:].unflatten(1, (size, size))


# -------------------------------------------------------------------------------------------------------- decoding


def _empty(rows: Tensor, slots: int) -> tuple[Tensor, Tensor]:
    points = torch.zeros(len(rows), slots, 2, device=rows.device)
    return points, torch.full((len(rows), slots), PADDING, device=rows.device)


def _state(rows: Tensor, points: Tensor, labels: Tensor, logits: Tensor, iou: Tensor) -> ClickState:
    return ClickState(rows, points, labels, logits, iou, stability(logits), torch.zeros_like(rows, dtype=torch.bool))


def _add(state: ClickState, places: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Prompts (B, M, C, 2) and (B, M, C) with one of M clicks (B, M, 2), (B, M) more, in the first free slot."""
    if bool((state.tokens >= state.labels.shape[1]).any()):
        raise ValueError(f"all {state.labels.shape[1]} slots of a state are taken; start it with more")
    count = places.shape[1]
    slot = state.tokens[:, None, None].expand(-1, count, 1)
    points = state.points[:, None].expand(-1, count, -1, -1)
    points = points.scatter(2, slot[..., None].expand(-1, -1, -1, 2), places[:, :, None].to(points))
    tokens = state.labels[:, None].expand(-1, count, -1)
    return points, tokens.scatter(2, slot, labels[..., None].to(tokens))


def _decode(
    sam: Sam, bank: Bank, rows: Tensor, points: Tensor, labels: Tensor, previous: Tensor | None, *, multimask=False
) -> tuple[Tensor, Tensor]:
    """Logits (B, h, w) and predicted IoU (B,) for prompts (B, C, 2) and (B, C)."""
    logits, iou = FrozenDecoder.of(sam).decode(
        bank.cells, bank.image[rows], points[:, None], labels[:, None], previous, multimask
    )
    return logits[:, 0], iou[:, 0]
