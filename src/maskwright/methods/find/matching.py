"""Matching: where an image looks like the objects of the examples, by ridge regression on frozen features, solved at once.

Every cell of an example is a row of features with the share of it that the object covers; what separates the two is a linear map,
found in closed form. That one was ahead of cosines with prototypes of object and background (PerSAM; Matcher, ICLR 2024) wherever
it was measured with more than one example, see ``docs/find.md``. Leaving one example out costs one small system more, so the
threshold is chosen on examples that the map has not seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from maskwright.sam.sam import Embedding

CELLS = 32
"""Cells along a side that are compared."""

_THRESHOLDS = torch.linspace(-0.6, 0.9, 31)
_USUAL, _USUAL_COUNTS = 0.25, 6
# The threshold that is about right everywhere, and how many examples it is worth: few examples say little about theirs.
_TOP = 0.02
# Share of an image's cells that tells how much of the object it shows at best.


def cells_of(embedding: Embedding) -> Tensor:
    """What cells are compared by: (B, C, CELLS, CELLS), the levels ``low`` and ``high1``, each of deviation 1 in each image."""
    return torch.cat([_on_cells(_scaled(level)) for level in (embedding.low, embedding.high1)], 1)


def shares_of(masks: Tensor) -> Tensor:
    """(N, S, S) bool or 0..1 → (N, CELLS, CELLS), the share of each cell that is covered."""
    return F.adaptive_avg_pool2d(masks[:, None].float(), CELLS)[:, 0]


@dataclass(frozen=True)
class Sums:
    """What the map of any set of examples is solved from.

    Attributes:
        rows: (N, K, C + 1) cells of each example, standardised, with a 1 for the bias; ``mean`` and ``deviation`` (C,) are what was
            taken off and divided by.
        shares, known: (N, K) of each cell, the object's and what is labelled.
        grams: (N, 2, C + 1, C + 1) and ``means`` (N, 2, C + 1): of the object's part of each example, and of the rest.
        areas: (N, 2) cells of both parts.
    """

    rows: Tensor
    mean: Tensor
    deviation: Tensor
    shares: Tensor
    known: Tensor
    grams: Tensor
    means: Tensor
    areas: Tensor

    @staticmethod
    def of(cells: Tensor, shares: Tensor, known: Tensor) -> Sums:
        """Of N examples: cells (N, C, g, g), shares and known (N, g, g) in 0..1."""
        rows = cells.flatten(2).transpose(1, 2).double()
        mean, deviation = rows.mean((0, 1)), rows.std((0, 1)) + 1e-4
        rows = torch.cat([(rows - mean) / deviation, rows.new_ones(*rows.shape[:2], 1)], 2)
        flat, counted = shares.flatten(1).double(), known.flatten(1).double()
        parts = torch.stack([flat * counted, (1 - flat) * counted], 1)
        weighted = parts[..., None] * rows[:, None]
        grams = weighted.transpose(2, 3) @ rows[:, None]
        return Sums(rows, mean, deviation, flat, counted, grams, weighted.sum(2), parts.sum(2))

    @property
    def shows(self) -> Tensor:
        """(N,) bool: which examples show the object."""
        return self.areas[:, 0] > 0

    def solve(self, chosen: Tensor) -> Tensor:
        """The map (C + 1,) of the examples that are chosen, (N,) bool; object and rest count alike, whatever their areas."""
        penalty = 1 / (1 + 0.5 * float((self.shows & chosen).sum()))
        weight = 0.5 / self.areas[chosen].sum(0).clamp(min=1e-3)
        gram = (weight[:, None, None] * self.grams[chosen].sum(0)).sum(0)
        target = weight[0] * self.means[chosen, 0].sum(0) - weight[1] * self.means[chosen, 1].sum(0)
        return torch.linalg.solve(gram + penalty * torch.eye(len(gram), dtype=gram.dtype, device=gram.device), target)

    def unscaled(self, solution: Tensor) -> Tensor:
        """A map (C + 1,) for cells as they are, float32."""
        weights = solution[:-1] / self.deviation
        return torch.cat([weights, (solution[-1] - weights @ self.mean)[None]]).float()


@dataclass(frozen=True)
class Matcher:
    """The map from cells to "looks like the object", 1, or "looks like the rest", -1; for one category.

    Attributes:
        weights: (C,) and ``bias``: of the map.
        threshold: above it a cell belongs to the object.
        halves: (2, C + 1) of the same from each half of the examples alone; empty for a single example.
        own: Dice that the examples get at this threshold from maps that have not seen them; of a single example, from its own map.
        own_top: the mean of :func:`top` over the examples that show the object, likewise.
        examples: how many show the object.
    """

    weights: Tensor
    bias: Tensor
    threshold: float
    halves: Tensor
    own: float
    own_top: float
    examples: int

    @staticmethod
    def fit(sums: Sums, chosen: Tensor | None = None) -> Matcher:
        """Solve for the map of all examples, or of those that are chosen, (N,) bool; one at least must show the object."""
        every = torch.ones_like(sums.shows) if chosen is None else chosen
        shows = (sums.shows & every).nonzero()[:, 0]
        place = torch.arange(len(every), device=every.device)
        solution = sums.solve(every)
        alone = [solution] if len(shows) == 1 else [sums.solve(every & (place != one)) for one in shows]
        maps = torch.stack([sums.rows[one] @ each for one, each in zip(shows, alone, strict=True)])
        order = torch.arange(len(shows), device=every.device)
        parts = [every & (~sums.shows | torch.isin(place, shows[order % 2 == half])) for half in (0, 1)]
        halves = [sums.unscaled(sums.solve(part)) for part in parts] if len(shows) > 1 else []
        truths, counted = sums.shares[shows], sums.known[shows]
        scores = torch.stack([_dice(maps > threshold, truths, counted).mean() for threshold in _THRESHOLDS])
        heard = len(shows) if len(shows) > 1 else 0  # A single example has seen itself.
        best = (_USUAL_COUNTS * _USUAL + heard * float(_THRESHOLDS[int(scores.argmax())])) / (_USUAL_COUNTS + heard)
        side = round(maps.shape[1] ** 0.5)
        whole = sums.unscaled(solution)
        return Matcher(
            whole[:-1],
            whole[-1],
            threshold=best,
            halves=torch.stack(halves) if halves else whole.new_zeros(0, len(whole)),
            own=float(scores.max()),
            own_top=float(top(maps.unflatten(1, (side, side)).float()).mean()),
            examples=len(shows),
        )

    def map(self, cells: Tensor) -> Tensor:
        """(B, C, g, g) → (B, g, g), about -1..1."""
        return torch.einsum("bchw,c->bhw", cells, self.weights) + self.bias

    def half_maps(self, cells: Tensor) -> Tensor:
        """The same from each half of the examples: (B, 2, g, g), or (B, 0, g, g) for a single example."""
        return torch.einsum("bchw,kc->bkhw", cells, self.halves[:, :-1]) + self.halves[:, -1][:, None, None]


def top(maps: Tensor) -> Tensor:
    """(..., g, g) → (...): the mean of the highest cells, one in fifty."""
    flat = maps.flatten(-2)
    return flat.topk(max(1, round(_TOP * flat.shape[-1])), -1).values.mean(-1)


def _dice(answers: Tensor, truths: Tensor, counted: Tensor) -> Tensor:
    """(N,) of (N, K) cells: answers bool, truths and what counts of them 0..1."""
    answered, truths = answers * counted, truths * counted
    return 2 * (answered * truths).sum(1) / (answered.sum(1) + truths.sum(1)).clamp(min=1e-6)


def _scaled(level: Tensor) -> Tensor:
    return level.float() / level.float().flatten(1).std(1).clamp(min=1e-6)[:, None, None, None]


def _on_cells(level: Tensor) -> Tensor:
    side = level.shape[-1]
    if side > CELLS:
        return F.adaptive_avg_pool2d(level, CELLS)
    return F.interpolate(level, (CELLS, CELLS), mode="bilinear", align_corners=False) if side < CELLS else level


def resized(maps: Tensor, side: int) -> Tensor:
    """(..., g, g) → (..., side, side)."""
    leading = maps.shape[:-2]
    flat = maps.reshape(-1, 1, *maps.shape[-2:])
    return F.interpolate(flat, (side, side), mode="bilinear", align_corners=False).reshape(*leading, side, side)
