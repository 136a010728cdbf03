"""Quick segmenters learn what can be learnt, and the same seed gives the same one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from maskwright.methods.curate.features import Features
from maskwright.methods.curate.quick import answers, steps_for, train_quick

SIDES = {"high0": 16, "high1": 8, "low": 4}


def squares(count: int, seed: int) -> tuple[Features, np.ndarray]:
    """Features that show a bright square in noise, and where it is."""
    random = np.random.default_rng(seed)
    truth = np.zeros((count, 32, 32), np.uint8)
    for each in truth:
        y, x = random.integers(0, 16, 2)
        each[y : y + 14, x : x + 14] = 1
    levels = {}
    for name, side in SIDES.items():
        share = truth.reshape(count, side, 32 // side, side, 32 // side).mean((2, 4))
        noise = random.normal(scale=0.5, size=(count, 4, side, side))
        levels[name] = (noise + 2 * share[:, None]).astype(np.float16)
    return Features(Path("."), np.arange(count), levels), truth


def test_it_learns_to_see_a_square() -> None:
    features, truth = squares(24, 0)
    unseen, there = squares(20, 1)
    network = train_quick(features, truth, 2, steps=120, seed=0)
    predicted = np.concatenate([p.argmax(1).numpy() for _, p in answers(network, unseen, 32, batch=7)])
    dice = 2 * ((predicted == 1) & (there == 1)).sum() / ((predicted == 1).sum() + (there == 1).sum())
    assert dice > 0.85


def test_the_seed_decides_everything_and_nothing_else_does() -> None:
    features, truth = squares(6, 0)
    torch.manual_seed(1)
    first = train_quick(features, truth, 2, steps=5, seed=3)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second = train_quick(features, truth, 2, steps=5, seed=3)
    assert torch.equal(before, torch.get_rng_state())
    other = train_quick(features, truth, 2, steps=5, seed=4)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


def test_unknown_pixels_and_images_without_weight_teach_nothing() -> None:
    features, truth = squares(8, 0)
    spoiled = truth.copy()
    spoiled[4:] = 1 - spoiled[4:]
    weights = np.array([1.0] * 4 + [0.0] * 4)
    first = train_quick(features, truth, 2, weights=weights, steps=5, seed=0)
    second = train_quick(features, spoiled, 2, weights=weights, steps=5, seed=0)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    unknown = np.full_like(truth, 255)
    untrained = train_quick(features, unknown, 2, steps=0, seed=0)
    assert torch.isfinite(next(answers(untrained, features))[1]).all()


def test_more_images_take_more_steps_up_to_a_bound() -> None:
    assert steps_for(5) < steps_for(100) < steps_for(1000) == steps_for(10_000)


def test_nothing_to_learn_from() -> None:
    features, truth = squares(3, 0)
    with pytest.raises(ValueError, match="no images"):
        train_quick(features.subset(np.array([], int)), truth[:0], 2)
