"""The quality head's measures against independent ones, and that its guesses become true."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from maskwright.nets.prompter import Advice
from maskwright.nets.quality import Answers, QualityHead, euler_number, expected_dice, quality_loss


def answers(logits: torch.Tensor) -> Answers:
    generator = torch.Generator().manual_seed(0)
    shape = logits.shape[:2]
    iou, stability = torch.rand(shape, generator=generator), torch.rand(shape, generator=generator)
    return Answers(logits, iou, stability, torch.ones(shape[0], dtype=torch.long))


def advice(truth: torch.Tensor, hidden: int = 8, seed: int = 0) -> Advice:
    """Of states whose object is believed to be at ``truth`` (B, g, g) logits."""
    features = torch.randn(len(truth), hidden, *truth.shape[1:], generator=torch.Generator().manual_seed(seed))
    nothing = torch.zeros(len(truth))
    return Advice(torch.zeros(len(truth), 2, *truth.shape[1:]), nothing[:, None], truth, nothing, features)


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
    head = QualityHead(hidden=8)
    head.calibrate(guesses, true)
    found = head.calibrated(torch.linspace(-0.1, 1.1, 200))
    assert (found.diff() >= 0).all()
    assert 0 <= found.min() <= found.max() <= 1


def test_calibration_mends_guesses_that_are_too_high():
    generator = np.random.default_rng(0)
    true = generator.random(2000)
    guesses = np.sqrt(true)
    head = QualityHead(hidden=8)
    untouched = head.calibrated(torch.from_numpy(guesses).float())
    assert torch.allclose(untouched, torch.from_numpy(guesses).float(), atol=1e-5)
    head.calibrate(guesses, np.clip(true + 0.1 * generator.standard_normal(2000), 0, 1))
    mended = head.calibrated(torch.from_numpy(guesses).float()).numpy()
    assert np.abs(mended - true).mean() < 0.03 < np.abs(guesses - true).mean()
    assert torch.equal(head.calibrated(torch.tensor([[0.3, 0.6]])), head.calibrated(torch.tensor([0.3, 0.6]))[None])


def test_only_clear_pairs_of_one_state_are_ranked():
    guesses = torch.tensor([[0.2, 0.9], [0.5, 0.5]])
    right = quality_loss(guesses, torch.tensor([[0.1, 0.9], [0.5, 0.505]]))
    wrong = quality_loss(guesses, torch.tensor([[0.9, 0.1], [0.5, 0.505]]))
    assert wrong["rank"] > 0.5 > 0.05 > right["rank"]
    alike = quality_loss(guesses, torch.tensor([[0.4, 0.4], [0.5, 0.505]]))
    assert alike["rank"] == 0
    assert quality_loss(guesses, guesses)["huber"] == 0


def test_expected_dice_is_dice_where_the_belief_is_certain():
    generator = torch.Generator().manual_seed(0)
    masks = (torch.rand(2, 3, 8, 8, generator=generator) > 0.5).float()
    belief = (torch.rand(2, 1, 8, 8, generator=generator) > 0.5).float()
    found = expected_dice(masks, belief)
    for b in range(2):
        for m in range(3):
            mask, truth = masks[b, m].bool(), belief[b, 0].bool()
            assert found[b, m] == pytest.approx(2 * int((mask & truth).sum()) / int(mask.sum() + truth.sum()))


def test_an_untrained_head_says_what_the_belief_says():
    truth = torch.full((1, 8, 8), -8.0)
    truth[:, 2:6, 2:6] = 8
    logits = torch.full((1, 3, 16, 16), -5.0)
    logits[0, 0, 4:12, 4:12] = logits[0, 1, 4:12, 4:8] = 5
    found = QualityHead(hidden=8)(advice(truth), answers(logits))[0].detach()
    assert found[0] > 0.95
    assert found[1] == pytest.approx(2 / 3, abs=0.02)
    assert found[2] < 0.02


@pytest.mark.parametrize("count", [1, 3])
def test_what_is_said_of_a_mask_depends_on_it_and_its_state_alone(count: int):
    torch.manual_seed(0)
    head = QualityHead(hidden=8)
    for parameter in head.judge.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    logits = 3 * torch.randn(4, 5, 16, 16)
    seen, given = advice(torch.randn(4, 8, 8)), answers(logits)
    whole = head(seen, given)
    assert whole.shape == (4, 5)
    assert (whole >= 0).all()
    assert (whole <= 1).all()
    some = Answers(logits[:count, :2], given.iou[:count, :2], given.stability[:count, :2], given.clicks[:count])
    assert torch.allclose(head(seen[slice(0, count)], some), whole[:count, :2], atol=1e-5)


def test_it_learns_where_the_belief_is_wrong():
    """The belief is everywhere the same, but SAM's predicted IoU is right: the head finds out."""
    torch.manual_seed(0)
    head = QualityHead(hidden=8)
    optimizer = torch.optim.AdamW(head.parameters(), lr=3e-3)
    errors = []
    for _ in range(150):
        logits = torch.randn(8, 4, 16, 16)
        true = torch.rand(8, 4)
        given = Answers(logits, true, torch.rand(8, 4), torch.ones(8, dtype=torch.long))
        guesses = head(advice(torch.zeros(8, 8, 8)), given)
        loss = torch.stack(list(quality_loss(guesses, true).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        errors.append(float((guesses - true).abs().mean().detach()))
    assert np.mean(errors[-10:]) < 0.1 < 0.2 < np.mean(errors[:5])
