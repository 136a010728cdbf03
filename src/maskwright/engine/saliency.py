"""Scores of one map of probabilities against a binary mask: F-measure, E-measure and S-measure.

As the salient-object literature computes them, with all constants of the authors' programs: Achanta et al., CVPR 2009 (F); Fan et al.,
IJCAI 2018 (E); Fan et al., ICCV 2017 (S). Pixels without a label count nowhere, which the authors do not provide for; where all
are labelled, the numbers equal theirs. Unlike most programs these do not stretch a prediction to 0..1 first: it is a probability.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEVELS = 256
"""Thresholds that curves are made of: level t is passed by pixels with ⌊255 · p⌋ ≥ t."""

BETA2 = 0.3
"""β² of the F-measure: precision counts more than recall."""

_EPS = np.spacing(1)


@dataclass(frozen=True)
class Counts:
    """Pixels of one image that pass a threshold, or each of several.

    Attributes:
        hit: of the foreground.
        positive: of the whole image.
        foreground: pixels of the foreground.
        size: labelled pixels.
    """

    hit: NDArray[Any]
    positive: NDArray[Any]
    foreground: int
    size: int


def counts_at(probability: NDArray[Any], target: NDArray[np.bool_], threshold: float) -> Counts:
    """Counts for ``probability >= threshold``: both (N,), the labelled pixels alone."""
    mask = probability >= threshold
    hit = np.asarray(np.count_nonzero(mask & target))
    return Counts(hit, np.asarray(np.count_nonzero(mask)), int(np.count_nonzero(target)), target.size)


def counts_of_levels(probability: NDArray[Any], target: NDArray[np.bool_]) -> Counts:
    """Counts for each of ``LEVELS``: (256,), from both (N,)."""
    level = (probability * (LEVELS - 1)).astype(np.int64)

    def passing(values: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.bincount(values, minlength=LEVELS)[::-1].cumsum()[::-1]

    hit = passing(level[target])
    return Counts(hit, hit + passing(level[~target]), int(np.count_nonzero(target)), target.size)


def adaptive_threshold(probability: NDArray[Any]) -> float:
    """Twice the mean, at most 1 (Achanta et al. 2009)."""
    return min(2 * float(probability.mean()), 1.0)


def f_measure(counts: Counts) -> NDArray[np.float64]:
    """``(1 + β²) P R / (β² P + R)`` per threshold; 0 without a hit; NaN where the image has no foreground."""
    if not counts.foreground:
        return np.full(counts.hit.shape, np.nan)
    # With P = hit / positive and R = hit / foreground the hits cancel out.
    return (1 + BETA2) * counts.hit / (BETA2 * counts.foreground + counts.positive)


def e_measure(counts: Counts) -> NDArray[np.float64]:
    """Enhanced alignment per threshold: how well mask and truth agree pixel by pixel, each relative to its own mean.

    The sum over pixels is divided by their number less 1, as the authors do, so that full agreement is slightly above 1.
    """
    hit, positive, size = counts.hit, counts.positive, counts.size
    missed = counts.foreground - hit
    if counts.foreground == 0:
        total = (size - positive).astype(np.float64)
    elif counts.foreground == size:
        total = positive.astype(np.float64)
    else:
        mask, truth = positive / size, counts.foreground / size
        parts = (
            (hit, 1 - mask, 1 - truth),
            (positive - hit, 1 - mask, -truth),
            (missed, -mask, 1 - truth),
            (size - positive - missed, -mask, -truth),
        )
        total = sum(number * (2 * a * b / (a**2 + b**2 + _EPS) + 1) ** 2 / 4 for number, a, b in parts)
    return np.asarray(total / max(size - 1, 1))


def s_measure(probability: NDArray[Any], target: NDArray[np.bool_], labelled: NDArray[np.bool_]) -> float:
    """Structure: half of it by object, half by the four regions around the object's centre. All three (H,W); some pixel labelled."""
    share = float(target[labelled].mean())
    if share in (0.0, 1.0):
        mean = float(probability[labelled].mean())
        return mean if share else 1 - mean
    score = 0.5 * _by_object(probability[labelled], target[labelled], share) + 0.5 * _by_region(
        probability, target, labelled
    )
    return max(0.0, score)


def _by_object(probability: NDArray[Any], target: NDArray[np.bool_], share: float) -> float:
    return share * _alike(probability[target]) + (1 - share) * _alike(1 - probability[~target])


def _alike(values: NDArray[Any]) -> float:
    """How close to 1, and to each other, the values are."""
    mean, deviation = float(values.mean()), float(values.std(ddof=1)) if values.size > 1 else 0.0
    return 2 * mean / (mean**2 + 1 + deviation + _EPS)


def _by_region(probability: NDArray[Any], target: NDArray[np.bool_], labelled: NDArray[np.bool_]) -> float:
    row, column = (int(place) + 1 for place in np.argwhere(target & labelled).mean(0).round())
    total = 0.0
    for rows in (slice(None, row), slice(row, None)):
        for columns in (slice(None, column), slice(column, None)):
            here = labelled[rows, columns]
            total += here.sum() * _similarity(probability[rows, columns][here], target[rows, columns][here])
    return total / labelled.sum()


def _similarity(probability: NDArray[Any], target: NDArray[np.bool_]) -> float:
    """Structural similarity of one region, as a single window; 0 for a region without pixels, which weighs nothing."""
    if not target.size:
        return 0.0
    x, y = float(probability.mean()), float(target.mean())
    dx, dy = probability - x, target - y
    size = target.size - 1 + _EPS
    covariance, spread = (dx * dy).sum() / size, ((dx**2).sum() + (dy**2).sum()) / size
    above, below = 4 * x * y * covariance, (x**2 + y**2) * spread
    if above != 0:
        return above / (below + _EPS)
    return float(below == 0)


def binary_inputs(probability: ArrayLike, target: ArrayLike, ignore: int) -> tuple[NDArray[Any], ...]:
    """(H,W) float64 probability, bool target, bool labelled. Raises ValueError naming all that is wrong."""
    values, truth = np.asarray(probability, np.float64), np.asarray(target)
    problems = []
    if values.shape != truth.shape or values.ndim != 2:
        problems.append(f"prediction {values.shape} and target {truth.shape} must be two maps of one size")
    if not ((values >= 0) & (values <= 1)).all():
        problems.append("the prediction must be probabilities, all in 0..1")
    strange = sorted(set(np.unique(truth).tolist()) - {0, 1, ignore})
    if strange:
        problems.append(f"the target holds {strange}; a binary mask is 0, 1 and {ignore} for unknown")
    if problems:
        raise ValueError(" and ".join(problems))
    return values, truth == 1, truth != ignore
