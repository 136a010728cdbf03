"""How well references served queries whose truth is known, and what that says of a new query.

Every mask image is asked for with one reference at a time, so that the Dice of every pair is known: full information, where GRPO
sees a few sets of each group. What of it carries over to another image is decided on images that were left out: how useful a
reference is to all of them, and to those that look like the query. Kernel ridge regression (Saunders et al. 1998) of the gain
over the query's mean reference, on the pooled object.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from maskwright.engine.in_context.selection import Answer, Judge
from maskwright.nets.selector import cosine
from maskwright.nets.spnet import Entries, Query, candidates

SHARPNESS = (0.5, 1.0, 2.0, 5.0)
RIDGE = (1.0, 3.0, 10.0, 30.0)
STRENGTH = (10.0, 30.0, 100.0, 300.0)
"""What ``fit`` tries: of the kernel, of the ridge, and logits per unit of Dice."""

FOLDS = 8


@dataclass(frozen=True)
class Table:
    """One-reference Dice of M queries with E entries.

    Attributes:
        vectors: (M, C) pooled objects of the queries.
        image, category: (M,) of the queries; views of an image have the same number.
        dice: (M, E) in 0..1; anything where not ``known``.
        known: (M, E) bool.
        start: (M, E) logits before any experience: the entries' similarity.
    """

    vectors: Tensor
    image: Tensor
    category: Tensor
    dice: Tensor
    known: Tensor
    start: Tensor

    def gain(self) -> Tensor:
        """(M, E) Dice over that of the query's mean reference; 0 where not known."""
        known = self.known.float()
        dice = torch.where(self.known, self.dice, 0.0)
        mean = dice.sum(1, keepdim=True) / known.sum(1, keepdim=True).clamp(min=1)
        return (dice - mean) * known


@dataclass(frozen=True)
class Experience:
    """What was learnt from a table: entries by their quality for all, and for queries like those of the table.

    Attributes:
        mean, deviation: (C,) of the queries' vectors.
        queries: (M, C) standardised and of length 1.
        weights: (M, E).
        quality: (E,) mean gain of each entry.
        sharpness: of the kernel.
        strength: logits per unit of Dice; 0 where experience did not help queries that were left out.
        held_out: mean Dice of the first choice on queries that chose nothing and were left out: before, and with experience.
    """

    mean: Tensor
    deviation: Tensor
    queries: Tensor
    weights: Tensor
    quality: Tensor
    sharpness: float
    strength: float
    held_out: tuple[float, float]

    def gain(self, vectors: Tensor) -> Tensor:
        """(N, C) pooled objects of queries → (N, E) expected Dice over that of the mean reference."""
        return self._kernel(vectors) @ self.weights + self.quality

    def logits(self, vectors: Tensor) -> Tensor:
        """(N, C) → (N, E) what to add to the similarity's logits."""
        if not self.strength:
            return vectors.new_zeros(len(vectors), len(self.quality))
        return self.strength * self.gain(vectors)

    def _kernel(self, vectors: Tensor) -> Tensor:
        return _kernel(_standard(vectors, self.mean, self.deviation), self.queries, self.sharpness)


@torch.no_grad()
def gather(
    query: Query,
    pool: Entries,
    allowed: Tensor,
    image: Tensor,
    category: Tensor,
    answer: Answer,
    judge: Judge,
    shortlist: int = 48,
    at_once: int = 64,
    temperature: float = 0.07,
) -> Table:
    """Ask M queries with one reference at a time.

    Args:
        query, pool, allowed: as for ``ReferencePolicy.step``; ``allowed`` leaves the queries themselves out.
        image, category: (M,) of the queries.
        answer, judge: of the queries, all of them known.
        shortlist: references per query at most, the nearest ones.
        at_once: answers in one batch.
        temperature: of the similarity that experience is added to; SPNet's.
    """
    seen = candidates(query, pool, allowed, torch.Generator(), shortlist, 0)
    rows, columns = seen.allowed.nonzero(as_tuple=True)
    places = seen.index[rows, columns]
    dice, known = torch.zeros(allowed.shape, device=allowed.device), torch.zeros_like(allowed)
    for row, place in zip(rows.split(at_once), places.split(at_once)):
        dice[row, place] = judge.dice(row, answer(row, place[:, None])[0])
    known[rows, places] = True
    start = cosine(query.foreground, pool.foreground) / temperature
    return Table(query.foreground, image, category, dice, known, start)


def fit(table: Table) -> Experience:
    """Learn from a table; how much, and whether at all, is decided on images that were left out, ``FOLDS`` parts of them.

    Every gain is predicted without the query's own image. Half of the parts choose the settings, the other half say whether these
    help: so that of many settings one that was lucky does not pass for knowledge.
    """
    gain, start = table.gain(), table.start.masked_fill(~table.known, -torch.inf)
    mean, deviation = table.vectors.mean(0), table.vectors.std(0, correction=0).clamp(min=1e-6)
    queries = _standard(table.vectors, mean, deviation)
    fold = table.image.unique(return_inverse=True)[1] % FOLDS
    choosing = fold % 2 == 0
    before = _first(start, table)
    sharpness, ridge, strength, after = SHARPNESS[0], RIDGE[0], 0.0, before
    for width in SHARPNESS:
        kernel = _kernel(queries, queries, width)
        for amount in RIDGE:
            predicted = torch.zeros_like(gain)
            for number in fold.unique().tolist():
                out = fold == number
                quality = _quality(gain[~out], table.known[~out])
                weights = _weights(kernel[~out][:, ~out], gain[~out], table, ~out, quality, amount)
                predicted[out] = kernel[out][:, ~out] @ weights + quality
            for factor in STRENGTH:
                found = _first(start + factor * predicted, table)
                if found[choosing].mean() > after[choosing].mean():
                    sharpness, ridge, strength, after = width, amount, factor, found
    if not _certain((after - before)[~choosing], table.image[~choosing]):
        strength, after = 0.0, before
    quality = _quality(gain, table.known)
    every = torch.ones_like(choosing)
    weights = _weights(_kernel(queries, queries, sharpness), gain, table, every, quality, ridge)
    held_out = float(before[~choosing].mean()), float(after[~choosing].mean())
    return Experience(mean, deviation, queries, weights, quality, sharpness, strength, held_out)


def _standard(vectors: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    # What all images share is most of a pooled vector, and would hide how they differ.
    return F.normalize((vectors - mean) / deviation, dim=-1)


def _kernel(a: Tensor, b: Tensor, sharpness: float) -> Tensor:
    return (sharpness * (a @ b.T - 1)).exp()


def _quality(gain: Tensor, known: Tensor) -> Tensor:
    return gain.sum(0) / known.sum(0).clamp(min=1)


def _weights(kernel: Tensor, gain: Tensor, table: Table, at: Tensor, quality: Tensor, ridge: float) -> Tensor:
    """(M, E) of the queries ``at``, so that kernel @ weights + quality is the gain; categories do not learn from each other."""
    category, known = table.category[at], table.known[at]
    same = (category[:, None] == category).to(kernel)
    system = kernel * same + ridge * torch.eye(len(kernel), device=kernel.device)
    return torch.linalg.solve(system, torch.where(known, gain - quality, 0.0))


def _first(logits: Tensor, table: Table) -> Tensor:
    """(M,) Dice of the first choice; -inf logits are never chosen."""
    return table.dice.gather(1, logits.argmax(1, keepdim=True))[:, 0]


def _certain(difference: Tensor, image: Tensor) -> bool:
    """Whether the mean over images is above 0 by what chance exceeds once in twenty times."""
    if len(difference) < 2:
        return False
    places, count = image.unique(return_inverse=True, return_counts=True)[1:]
    means = torch.zeros(len(count), device=difference.device).index_add(0, places, difference) / count
    return bool(means.mean() > 1.645 * means.std(correction=0) / max(1, len(means) - 1) ** 0.5)
