"""Learning curves: what more labels would bring, with a band that is as wide as the curve has been wrong before.

A curve that fits well may foretell badly (Mahmood et al., CVPR 2022). So three forms are fitted, each counts by how well it foretold
doublings that are known already, and the band is widened to what these doublings say. Nothing is foretold beyond twice the labels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

RATE = 0.8
"""How often the truth is to lie in a band."""

_NORMAL = 1.2816
"""Half the width of a normal distribution's band at that rate, in deviations."""

LEAST_BACKTESTS = 4
"""Known doublings, below which a band is called uncalibrated."""

BOOTSTRAPS = 500

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Forecast:
    """What twice the labels would bring.

    Attributes:
        now: the score with the labels that there are, 0..1, as the curve has it.
        score: with twice as many.
        low, high: the band.
        calibrated: whether the band's width was tested on enough known doublings.
        backtests: truth − forecast of the known doublings, brought to the size that such an error would have now.
    """

    now: float
    score: float
    low: float
    high: float
    calibrated: bool
    backtests: tuple[float, ...]

    @property
    def says_something(self) -> bool:
        """Whether a gain is certain enough to be told: the band lies above the present score."""
        return self.low > self.now


def _power(p: Vector, n: Vector) -> Vector:
    """1 − a − b·n^−c (Hestness et al. 2017)."""
    return 1 - p[0] - p[1] * n ** -p[2]


def _log(p: Vector, n: Vector) -> Vector:
    return p[0] + p[1] * np.log(n)


def _mmf(p: Vector, n: Vector) -> Vector:
    """(a·b + c·n^d) / (b + n^d), Morgan-Mercer-Flodin; the upper end c at most 1."""
    power = n ** p[3]
    return (p[0] * p[1] + p[2] * power) / (p[1] + power)


@dataclass(frozen=True)
class _Form:
    predict: Callable[[Vector, Vector], Vector]
    start: Callable[[float, float], tuple[float, ...]]
    low: tuple[float, ...]
    high: tuple[float, ...]
    prior: tuple[float, ...]
    """How far each parameter may lie from its start, in scores: keeps curves of few points from running away."""


_FORMS = (
    _Form(
        _power,
        lambda first, last: (max(0.0, 0.8 * (1 - last)), max(0.02, last - first + 0.1), 0.5),
        low=(0, 0, 0.05),
        high=(1, 5, 1.5),
        prior=(0, 0, 0.3),
    ),
    _Form(_log, lambda first, last: (first, max(0.0, last - first) / 2.8), low=(-1, 0), high=(1, 1), prior=(0, 0)),
    _Form(
        _mmf,
        lambda first, last: (max(0.0, first - 0.1), 1.0, min(1.0, last + 0.1), 0.7),
        low=(0, 0.01, 0, 0.1),
        high=(1, 100, 1, 3),
        prior=(0, 0, 0, 0.5),
    ),
)


def fit(amounts: Vector, scores: Vector, form: _Form) -> Callable[[float], float]:
    """The curve of one form through points; amounts are relative to the smallest, so that numbers stay near 1."""
    unit = float(amounts.min())
    n = amounts / unit
    start = np.clip(np.array(form.start(float(scores[n.argmin()]), float(scores[n.argmax()]))), form.low, form.high)
    wide = np.array(form.prior)

    def residuals(p: Vector) -> Vector:
        # What lies nearer to the forecast counts more: the beginning of a curve often has another shape than its end.
        apart = (form.predict(p, n) - scores) * np.sqrt(n / n.max())
        held = (p - start)[wide > 0] / wide[wide > 0] * 0.01
        return np.concatenate([apart, held])

    # Inside of the bounds, as the method wants it.
    low, high = np.array(form.low, float), np.array(form.high, float)
    inner = np.clip(start, low + 1e-6, high - 1e-6)
    result = least_squares(residuals, inner, bounds=(low, high), max_nfev=300)
    return lambda amount: float(form.predict(result.x, np.array([amount / unit]))[0])


def foretell(amounts: Vector, scores: Vector, to: float, weights: Vector) -> float:
    """The weighted mean of the forms' forecasts for an amount."""
    return float(np.average([fit(amounts, scores, form)(to) for form in _FORMS], weights=weights))


def forecast(amounts: Vector, scores: NDArray[np.float64], seed: int = 0, bootstraps: int = BOOTSTRAPS) -> Forecast:
    """What twice the largest amount would bring, on the same test images.

    Args:
        amounts: (S,) of labels, rising; at least three, the last is what there is. Nested: each holds those before it.
        scores: (S, O, I) of each test image, 0..1, for O orders in which labels were drawn.
        seed: of the bootstrap.

    Raises:
        ValueError: fewer than three amounts.
    """
    if len(amounts) < 3:
        raise ValueError(f"{len(amounts)} amounts of labels; a curve takes three")
    tests = [test for curve in _curves(scores.mean(2)) for test in _known_doublings(amounts, curve)]
    # Later doublings are foretold from more and steadier trainings: an error at half of the labels counts half at all of them.
    errors = np.array([[e * share for e in missed] for share, missed in tests]).reshape(-1, len(_FORMS))
    # A form that was wrong by 1 point counts four times as much as one that was wrong by 2.
    spread = np.sqrt((errors**2).mean(0) + 0.005**2) if len(errors) else np.ones(len(_FORMS))
    weights = spread**-2.0 / (spread**-2.0).sum()
    now, then = float(amounts[-1]), 2.0 * float(amounts[-1])
    curve = scores.mean(axis=(1, 2))
    at_now, said = foretell(amounts, curve, now, weights), foretell(amounts, curve, then, weights)
    gains = _bootstrap(amounts, scores, weights, np.random.default_rng([seed, 5]), bootstraps)
    tail = (1 - RATE) / 2
    low, high = (said + float(np.quantile(gains, share)) - (said - at_now) for share in (tail, 1 - tail))
    missed = tuple(float(np.average(row, weights=weights)) for row in errors)
    if missed:
        reach = float(np.quantile(np.abs(missed), RATE))
        low, high = min(low, said - reach), max(high, said + reach)
    # Which images come next is a matter of luck as well; all orders end with the same images, so that their ends do not show it.
    luck = _NORMAL * _luck(amounts, scores.mean(2))
    low, high = said - float(np.hypot(said - low, luck)), said + float(np.hypot(high - said, luck))
    said, low, high = (float(min(1.0, max(0.0, value))) for value in (said, low, high))
    return Forecast(at_now, said, low, high, len(missed) >= LEAST_BACKTESTS, missed)


def _luck(amounts: Vector, means: Vector) -> float:
    """How much the score with twice the labels depends on which these are: half as much as with half of the labels, a quarter as many."""
    half = means[int(np.abs(amounts - amounts[-1] / 2).argmin())]
    return float(half.std(ddof=1)) / 2 if len(half) > 1 else 0.0


def _curves(means: Vector) -> list[Vector]:
    """Curves (S,) to test forecasts on: of the mean of all orders but one, for each; of one order that one."""
    orders = means.shape[1]
    if orders < 3:
        return [means[:, order] for order in range(orders)]
    return [np.delete(means, order, axis=1).mean(1) for order in range(orders)]


def _known_doublings(amounts: Vector, means: Vector) -> list[tuple[float, list[float]]]:
    """Doublings whose end is known: the share of all labels there, and truth − forecast of each form from what came before."""
    tests = []
    for place, amount in enumerate(amounts):
        before = amounts <= amount / 2 * 1.02
        if before.sum() >= 3 and amounts[before].max() >= amount / 2 * 0.8:
            said = [fit(amounts[before], means[before], form)(float(amount)) for form in _FORMS]
            tests.append((float(amount / amounts[-1]), [float(means[place]) - each for each in said]))
    return tests


def _bootstrap(
    amounts: Vector,
    scores: NDArray[np.float64],
    weights: Vector,
    generator: np.random.Generator,
    bootstraps: int,
) -> Vector:
    """Gains of a doubling, from orders and test images drawn with replacement. The fit is replaced by its gradient: it is nearly linear."""
    curve = scores.mean(axis=(1, 2))
    now, then = float(amounts[-1]), 2.0 * float(amounts[-1])

    def gain(points: Vector) -> float:
        return foretell(amounts, points, then, weights) - foretell(amounts, points, now, weights)

    said, step = gain(curve), 1e-3
    slope = np.array([(gain(curve + step * unit) - said) / step for unit in np.eye(len(amounts))])
    _, orders, images = scores.shape
    draws = np.empty(bootstraps)
    for number in range(bootstraps):
        some = scores[:, generator.integers(orders, size=orders)][:, :, generator.integers(images, size=images)]
        draws[number] = said + slope @ (some.mean(axis=(1, 2)) - curve)
    return draws
