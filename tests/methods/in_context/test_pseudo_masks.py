"""Pseudo-masks: what labels rule out, how the teacher's view is blended in, and the ellipse that they must beat."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchmetrics.functional.segmentation import dice_score

from maskwright.data.shapes import touched_cells
from maskwright.methods.in_context.pseudo_masks import FLOOR, PseudoMasks, agreement, constrain, ellipse_masks
from tests.methods.in_context.batches import BOX_1, GRID, SIZE, C, answer_of, batch_of


def test_ellipses_by_hand():
    masks, boxed = ellipse_masks(batch_of(), C, SIZE)
    assert boxed.tolist() == [True, False, False, False, False]
    assert (masks.sum(1) == 1).all()
    assert (masks[1:, 0] == 1).all()
    for y in range(16):
        for x in range(16):
            px, py = 4 * x + 2, 4 * y + 2
            in_1 = math.hypot((px - 12) / 8, (py - 12) / 8) <= 1 or math.hypot((px - 16) / 8, (py - 48) / 8) <= 1
            in_2 = math.hypot((px - 45) / 15, (py - 24) / 16) <= 1
            assert masks[0, :, y, x].tolist() == [not (in_1 or in_2), in_1, in_2]


def test_the_ellipse_has_its_share_of_the_box():
    one = batch_of(
        boxes=torch.tensor([[[10.0, 20, 500, 300]]]).expand(5, -1, -1),
        box_categories=torch.tensor([[1], [-1], [-1], [-1], [-1]]),
    )
    masks, _ = ellipse_masks(one, 2, 512)
    assert float(masks[0, 1].sum()) * 16 / (490 * 280) == pytest.approx(math.pi / 4, abs=0.01)


def test_what_labels_rule_out_is_taken_away():
    even = torch.full((5, C, 16, 16), 1 / 3)
    kept = constrain(even, batch_of(), SIZE)
    torch.testing.assert_close(kept.sum(1), torch.ones(5, 16, 16))
    filled = touched_cells(batch_of().boxes[0], 16, SIZE)
    assert torch.equal(kept[0, 1] > 0, filled[0] | filled[2])
    assert torch.equal(kept[0, 2] > 0, filled[1])
    assert (kept[3, 2] == 0).all()  # the tags name 1 and nothing else
    assert torch.equal(kept[3, 1], even[3, 1])
    torch.testing.assert_close(kept[4], even[4])


def hard(seed: int) -> Tensor:
    """(4, C, 6, 6) one-hot maps."""
    classes = torch.randint(C, (4, 6, 6), generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.one_hot(classes, C).permute(0, 3, 1, 2).float()


@pytest.mark.filterwarnings("ignore:dice_score metric")
def test_agreement_of_hard_maps_is_the_dice_of_foregrounds():
    a, b = hard(0), hard(1)
    expected = dice_score(
        a.long(), b.long(), C, include_background=False, average="micro", aggregation_level="samplewise"
    )
    torch.testing.assert_close(agreement(a, b), expected.flatten(), atol=1e-4, rtol=0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_agreement_is_a_share(seed: int):
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(2, 3, C, 4, 4, generator=generator) * 5).softmax(2)
    found = agreement(a, b)
    assert ((found >= 0) & (found <= 1)).all()
    torch.testing.assert_close(found, agreement(b, a))
    torch.testing.assert_close(agreement(a, a), torch.ones(3))


def test_two_empty_foregrounds_agree():
    empty = torch.zeros(1, C, 4, 4)
    empty[:, 0] = 1
    assert agreement(empty, empty).tolist() == pytest.approx([1.0])


def test_the_teacher_is_blended_in_as_far_as_it_is_mature():
    batch = batch_of()
    pseudo_masks = PseudoMasks(C, SIZE, blend=0.5)
    pseudo_masks.newest = {i: answer_of(1, 0.8) for i in range(5)}
    teacher = torch.zeros(5, C, GRID, GRID)
    teacher[:, 1] = 1
    alone, confidence = pseudo_masks.in_view(batch)
    # Where SAM had no prompt (tag, nothing) it counts for nothing before there is a teacher.
    torch.testing.assert_close(confidence, torch.tensor([0.8, 0.8, 0.8, 0.0, 0.0]))
    far = (GRID - 1, GRID - 1)
    assert (alone[(slice(None), 1, *far)] < 2 * FLOOR).all()
    mixed, confidence = pseudo_masks.in_view(batch, teacher, 1.0)
    # Boxes rule the far corner out; clicks take 0.6 of the blend, blind kinds all of it.
    # SAM gives the categories 1, FLOOR and FLOOR, the teacher FLOOR, 1 and FLOOR.
    clicked, blind = (FLOOR ** (1 - w) / (FLOOR**w + FLOOR ** (1 - w) + FLOOR) for w in (0.3, 0.5))
    expected = torch.tensor([FLOOR, clicked, clicked, blind, blind])
    torch.testing.assert_close(mixed[(slice(None), 1, *far)], expected, atol=2e-3, rtol=1e-3)
    overlap = 2 * GRID**2 / 4 / (GRID**2 / 4 + GRID**2)
    torch.testing.assert_close(confidence[3:], torch.full((2,), 0.8 * overlap), atol=1e-4, rtol=0)
    inside = (int(BOX_1[1] // 4) + 1, int(BOX_1[0] // 4) + 1)
    assert (mixed[(slice(None), 1, *inside)] > 0.99).all()
    half, _ = pseudo_masks.in_view(batch, teacher, 0.5)
    assert (half[(slice(3, None), 1, *far)] < 0.5).all()
