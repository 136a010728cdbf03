"""The quality head's measures against independent ones, and that its guesses become true."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from maskwright.nets.quality import Answers, Judgement, QualityHead, euler_number, quality_loss


def answers(count: int, seed: int = 0) -> Answers:
    generator = torch.Generator().manual_seed(seed)
    return Answers(
        logits=3 * torch.randn(count, 16, 16, generator=generator),
        before=3 * torch.randn(count, 16, 16, generator=generator),
        points=torch.rand(count, 3, 2, generator=generator) * 64,
        labels=torch.tensor([[1, 0, -1]]).expand(count, -1),
        iou=torch.rand(count, generator=generator),
        stability=torch.rand(count, generator=generator),
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.05, 0.95))
def test_euler_number_counts_pieces_and_holes(seed: int, share: float):
    mask = np.random.default_rng(seed).random((9, 11)) < share
    pieces = ndimage.label(mask, structure=np.ones((3, 3)))[1]
    # The outside is a piece of background too, but no hole.
    holes = ndimage.label(np.pad(~mask, 1, constant_values=True))[1] - 1
    found = euler_number(torch.from_numpy(mask).float()[None])
    assert found.tolist() == [pieces - holes]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 300))
def test_calibration_keeps_the_order_and_stays_in_range(seed: int, count: int):
    generator = np.random.default_rng(seed)
    guesses, true = generator.random(count), generator.random(count)
    head = QualityHead(64, hidden=8)
    head.calibrate(guesses, true)
    found = head.calibrated(torch.linspace(-0.1, 1.1, 200))
    assert (found.diff() >= 0).all()
    assert 0 <= found.min() <= found.max() <= 1


def test_calibration_mends_guesses_that_are_too_high():
    generator = np.random.default_rng(0)
    true = generator.random(2000)
    guesses = np.sqrt(true)
    head = QualityHead(64, hidden=8)
    untouched = head.calibrated(torch.from_numpy(guesses).float())
    assert torch.allclose(untouched, torch.from_numpy(guesses).float(), atol=1e-5)
    head.calibrate(guesses, np.clip(true + 0.1 * generator.standard_normal(2000), 0, 1))
    mended = head.calibrated(torch.from_numpy(guesses).float()).numpy()
    assert np.abs(mended - true).mean() < 0.03 < np.abs(guesses - true).mean()
    assert torch.equal(head.calibrated(torch.tensor([[0.3, 0.6]])), head.calibrated(torch.tensor([0.3, 0.6]))[None])


def test_only_masks_of_one_object_are_ranked_and_only_clear_pairs():
    truth = torch.zeros(4, 2, 2)
    judged = Judgement(torch.tensor([0.2, 0.9, 0.5, 0.5]), truth)
    group = torch.tensor([0, 0, 1, 1])
    right = quality_loss(judged, torch.tensor([0.1, 0.9, 0.5, 0.5]), truth, group)
    wrong = quality_loss(judged, torch.tensor([0.9, 0.1, 0.5, 0.5]), truth, group)
    across = quality_loss(judged, torch.tensor([0.9, 0.1, 0.5, 0.5]), truth, torch.tensor([0, 2, 1, 1]))
    assert wrong["rank"] > 0.5 > 0.05 > right["rank"]
    assert across["rank"] == 0
    same = quality_loss(Judgement(torch.tensor([0.4]), truth[:1]), torch.tensor([0.4]), truth[:1], group[:1])
    assert same["huber"] == 0
    assert torch.isclose(same["truth"], torch.tensor(2.0).log())


@pytest.mark.parametrize("count", [1, 5])
def test_what_is_said_of_a_mask_depends_on_it_alone(count: int):
    torch.manual_seed(0)
    head = QualityHead(64, hidden=8)
    features, given = torch.randn(5, 8, 8, 8), answers(5)
    whole = head(features, given)
    part = head(features[:count], given[slice(0, count)])
    assert whole.dice.shape == (5,)
    assert whole.truth.shape == (5, 8, 8)
    assert (whole.dice >= 0).all()
    assert (whole.dice <= 1).all()
    assert torch.allclose(whole.dice[:count], part.dice, atol=1e-6)


def test_it_learns_to_tell_good_masks_from_bad_ones():
    torch.manual_seed(0)
    head = QualityHead(64, hidden=8)
    optimizer = torch.optim.AdamW(head.parameters(), lr=3e-3)
    errors = []
    for step in range(60):
        generator = torch.Generator().manual_seed(step)
        cells = torch.zeros(16, 16)
        cells[4:12, 4:12] = 1
        flipped = torch.rand(12, 1, 1, generator=generator) * 0.5 > torch.rand(12, 16, 16, generator=generator)
        mask = torch.where(flipped, 1 - cells, cells)
        dice = 2 * (mask * cells).sum((1, 2)) / (mask.sum((1, 2)) + cells.sum())
        given = answers(12, step)
        given = Answers(8 * mask - 4, given.before, given.points, given.labels, given.iou, given.stability)
        truth = torch.nn.functional.avg_pool2d(cells[None], 2).expand(12, -1, -1)
        judged = head(torch.zeros(12, 8, 8, 8), given)
        loss = sum(quality_loss(judged, dice, truth, torch.zeros(12, dtype=torch.long)).values())
        optimizer.zero_grad()
        torch.as_tensor(loss).backward()
        optimizer.step()
        errors.append(float((judged.dice - dice).abs().mean().detach()))
    assert np.mean(errors[-10:]) < 0.06 < np.mean(errors[:5])
