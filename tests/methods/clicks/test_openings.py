"""How episodes draw_openings, and the states that are kept."""

from __future__ import annotations

import pytest
import torch

from maskwright.data.scenes import render
from maskwright.methods.clicks.agent import mask_logits
from maskwright.methods.clicks.openings import draw_openings, imperfect_masks, stray_click
from maskwright.methods.clicks.visited_states import VisitedStates
from maskwright.rl.bank import Bank
from maskwright.rl.clicks import dice
from maskwright.sam.sam import Sam


@pytest.fixture
def bank(tiny_sam: Sam) -> Bank:
    return Bank.of_scenes(tiny_sam, render(10, tiny_sam.size, seed=3, difficulty=0.2))


def test_openings_are_on_the_object_and_repeat_with_the_seed(bank: Bank, tiny_sam: Sam):
    rows = torch.arange(len(bank)).repeat(4)
    place, label, _ = stray_click(bank, rows, torch.Generator().manual_seed(0))
    column, row = place.floor().long().unbind(1)
    assert bank.known_truth.canvas[rows, row, column].all()
    assert (label == 1).all()
    first, again = (draw_openings(tiny_sam, bank, rows, torch.Generator().manual_seed(3), slots=8) for _ in range(2))
    assert torch.equal(first.logits, again.logits)
    assert torch.equal(first.rows, rows)
    # All four ways to draw_openings: clicks take one slot, boxes two, masks none.
    assert set(first.tokens.tolist()) == {0, 1, 2}


def test_imperfect_masks_are_of_the_object(bank: Bank):
    rows = torch.arange(len(bank)).repeat(4)
    logits = imperfect_masks(bank, rows, torch.Generator().manual_seed(0))
    scores = dice(bank, rows, logits)
    assert 0.4 < scores.mean() < 0.95
    assert scores.std() > 0.05
    assert logits.abs().max() <= 8
    better = dice(bank, rows, imperfect_masks(bank, rows, torch.Generator().manual_seed(0), 0.4))
    exact = dice(bank, rows, imperfect_masks(bank, rows, torch.Generator().manual_seed(0), 0.0))
    unspoilt = mask_logits(bank.known_truth.area[rows])
    assert torch.allclose(exact, dice(bank, rows, unspoilt))
    assert exact.mean() > better.mean() > scores.mean() + 0.05


def test_mirror_images_have_mirrored_truths(bank: Bank, tiny_sam: Sam):
    both = bank.mirrored(tiny_sam)
    count = len(bank)
    assert len(both) == 2 * count
    assert torch.equal(both.known_truth.canvas[count:], bank.known_truth.canvas.flip(-1))
    assert torch.equal(both.pixels[both.image[count:]], bank.pixels[bank.image].flip(-1))
    assert torch.equal(both.embedding.low[: len(bank.pixels)], bank.embedding.low)
    again = Bank.of_images(tiny_sam, bank.pixels.flip(-1))
    assert torch.allclose(both.embedding.low[len(bank.pixels) :], again.embedding.low, atol=1e-5)


def test_visited_states_grow_and_come_back():
    states, generator = VisitedStates(2**30, 0, {}), torch.Generator()
    for number in range(3):
        states.add(generator, rows=torch.full((700,), number), gains=torch.rand(700, 4))
    assert states.count == 2100
    back = VisitedStates(2**30, 0, {})
    back.load_state_dict(states.state_dict())
    drawn, again = (m.draw(50, torch.Generator().manual_seed(0)) for m in (states, back))
    assert drawn["rows"].unique().tolist() == [0, 1, 2]
    assert all(torch.equal(drawn[name], again[name]) for name in drawn)
    assert drawn["gains"].dtype == torch.float32


def test_visited_states_keep_to_their_memory_and_repeat_after_a_resume():
    def fill(states: VisitedStates, numbers: range) -> VisitedStates:
        for number in numbers:
            generator = torch.Generator().manual_seed(number)
            states.add(generator, rows=torch.full((30,), number), gains=torch.full((30, 4), number / 8))
        return states

    # A state takes 8 bytes of row and 4 x 2 of gains: 100 of them.
    whole = fill(VisitedStates(1600, 0, {}), range(12))
    assert whole.count == 100
    assert all(len(column) == 100 for column in whole.columns.values())
    assert torch.equal(whole.columns["gains"].float(), (whole.columns["rows"] / 8)[:, None].expand(100, 4))
    counts = whole.columns["rows"].bincount(minlength=12)
    assert counts[11] == 30
    assert counts[:4].sum() > 0
    half = fill(VisitedStates(1600, 0, {}), range(6))
    back = VisitedStates(1600, 0, {})
    back.load_state_dict({name: tensor.clone() for name, tensor in half.state_dict().items()})
    again = fill(back, range(6, 12)).columns
    assert all(torch.equal(whole.columns[name], again[name]) for name in again)
