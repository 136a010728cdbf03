"""Forecasts of learning curves whose end is known."""

from __future__ import annotations

import numpy as np
import pytest

from maskwright.methods.curate.learning_curve import forecast

AMOUNTS = np.array([6, 9, 12, 18, 24, 36, 48], float)


def noisy(curve: np.ndarray, seed: int, noise: float = 0.01, images: int = 60, orders: int = 3) -> np.ndarray:
    """(S, O, I) scores about a curve: images differ, orders differ a little."""
    random = np.random.default_rng(seed)
    easy = random.normal(scale=0.15, size=(1, 1, images))
    easy -= easy.mean()
    luck = random.normal(scale=noise, size=(len(curve), orders, 1))
    return np.clip(curve[:, None, None] + easy + luck, 0, 1)


def power(n: np.ndarray | float) -> np.ndarray:
    return 1 - 0.15 - 0.9 * np.asarray(n, float) ** -0.5


def test_a_power_law_without_noise_is_continued_exactly() -> None:
    said = forecast(AMOUNTS, noisy(power(AMOUNTS), 0, noise=0.0))
    assert said.score == pytest.approx(float(power(96.0)), abs=0.004)
    assert said.now == pytest.approx(float(power(48.0)), abs=0.004)
    assert said.calibrated
    assert said.says_something
    assert said.high - said.low < 0.02


def test_the_band_holds_the_truth_about_as_often_as_it_says() -> None:
    held = widths = 0.0
    for seed in range(40):
        random = np.random.default_rng(seed)
        asymptote, scale, rate = random.uniform(0.05, 0.3), random.uniform(0.5, 1.2), random.uniform(0.3, 0.8)
        truth = lambda n: 1 - asymptote - scale * np.asarray(n, float) ** -rate  # noqa: B023, E731
        said = forecast(AMOUNTS, noisy(truth(AMOUNTS), seed), seed, bootstraps=60)
        held += said.low <= float(truth(96.0)) <= said.high
        widths += said.high - said.low
    assert held / 40 >= 0.75
    assert widths / 40 < 0.08


def test_where_more_labels_change_nothing_it_says_nothing() -> None:
    said = forecast(AMOUNTS, noisy(np.full(7, 0.8), 1))
    assert not said.says_something
    assert said.low <= 0.8 <= said.high


def test_few_shares_leave_it_uncalibrated() -> None:
    said = forecast(AMOUNTS[-3:], noisy(power(AMOUNTS[-3:]), 0))
    assert not said.calibrated
    assert said.backtests == ()


def test_a_curve_takes_three_amounts() -> None:
    with pytest.raises(ValueError, match="three"):
        forecast(AMOUNTS[:2], noisy(power(AMOUNTS[:2]), 0))
