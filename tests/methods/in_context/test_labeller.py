"""SAM as a labeller: what it practises on, what it decodes, and how the teacher's view is blended in."""

from __future__ import annotations

import pytest
import torch

from maskwright.data.labels import Kind
from maskwright.methods.in_context import pseudo_masks as pseudo
from maskwright.methods.in_context.episodes import MOST_ROWS, sample_rows
from maskwright.methods.in_context.labeller import FLOOR, Labeller, PseudoMask
from maskwright.methods.in_context.pseudo_masks import EMPTY
from maskwright.sam.sam import Sam
from tests.methods.in_context.batches import BOX_1, SIZE, C, batch_of, rows_at

GRID = SIZE // 4


@pytest.fixture
def labeller(tiny_sam: Sam) -> Labeller:
    return Labeller(
        tiny_sam,
        C,
        selector="similar",
        references=2,
        blend=0.5,
        weak_weight=0.5,
        generator=lambda stream, step: torch.Generator().manual_seed(stream + 16 * step),
    )


def answer(category: int, confidence: float) -> PseudoMask:
    """Category in the upper left quarter, background elsewhere."""
    maps = torch.zeros(C, GRID, GRID)
    maps[0] = 1
    maps[:, : GRID // 2, : GRID // 2] = 0
    maps[category, : GRID // 2, : GRID // 2] = 1
    return PseudoMask(maps.half(), confidence)


def test_padding_is_not_decoded_and_objects_answer_as_if_alone(labeller: Labeller):
    batch = batch_of(images=torch.rand(5, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)))
    rows = rows_at([0, 0, 1], [1, 2, 1], batch)
    yes = torch.ones(3, dtype=torch.bool)
    prompts = pseudo.weak_prompts(batch, rows, SIZE, boxes=yes, points=yes)
    assert prompts.valid.tolist() == [[True, True], [True, False], [True, False]]
    with torch.no_grad():
        embedding = labeller.sam.encode(batch.images)
        conditioned = labeller.condition(embedding, rows, torch.zeros(3, dtype=torch.bool), None)
        masks = labeller.decode(conditioned, prompts)
        whole = labeller.sam.decode(conditioned, prompts.tokens, prompts.hint, previous_valid=prompts.hinted)
    assert (masks.logits[1:, 1] == EMPTY).all()
    assert (masks.iou[1:, 1] == 0).all()
    for flat, padded in zip((masks.logits, masks.iou, masks.pointers), (whole.logits, whole.iou, whole.pointers)):
        torch.testing.assert_close(flat[prompts.valid], padded[prompts.valid], atol=1e-5, rtol=1e-4)


def test_practice_takes_sure_box_answers_for_masks(labeller: Labeller):
    batch = batch_of()
    labeller.masks = {0: answer(2, 0.9), 1: answer(1, 0.9), 2: answer(2, 0.9)}
    practice = labeller.practice(batch, torch.Generator().manual_seed(0))
    assert practice.kinds.tolist() == [Kind.MASK, Kind.POINT, Kind.SCRIBBLE, Kind.TAG, Kind.NONE]
    assert (practice.target[0, : SIZE // 2, : SIZE // 2] == 2).all()
    assert (practice.target[0, SIZE // 2 :] == 0).all()
    # Only images with masks and boxes take part.
    assert practice.present[0].tolist() == batch.present[0].tolist()
    assert not practice.present[1:].any()
    drawn = practice.point_categories[0] >= 0
    assert drawn.any()
    assert (practice.point_categories[0][drawn] == 2).all()
    assert (practice.points[0][drawn] < SIZE // 2).all()
    # The clicks of other images stay as they are.
    kept = batch.point_categories.shape[1]
    assert torch.equal(practice.point_categories[1:, :kept], batch.point_categories[1:])
    assert torch.equal(practice.points[1:, :kept], batch.points[1:])
    assert (practice.point_categories[1:, kept:] == -1).all()


def test_practice_leaves_out_what_sam_doubts(labeller: Labeller):
    batch = batch_of()
    labeller.masks = {0: answer(2, 0.5)}
    practice = labeller.practice(batch, torch.Generator().manual_seed(0))
    assert torch.equal(practice.kinds, batch.kinds)
    assert torch.equal(practice.target, batch.target)
    assert practice.present[0].tolist() == batch.present[0].tolist()
    assert not practice.present[1:].any()


def test_the_teacher_is_blended_in_as_far_as_it_is_mature(labeller: Labeller):
    batch = batch_of()
    labeller.masks = {i: answer(1, 0.8) for i in range(5)}
    teacher = torch.zeros(5, C, GRID, GRID)
    teacher[:, 1] = 1
    alone, confidence = labeller.pseudo_masks(batch)
    # Where SAM had no prompt (tag, nothing) it counts for nothing before there is a teacher.
    torch.testing.assert_close(confidence, torch.tensor([0.8, 0.8, 0.8, 0.0, 0.0]))
    far = (GRID - 1, GRID - 1)
    assert (alone[(slice(None), 1, *far)] < 2 * FLOOR).all()
    mixed, confidence = labeller.pseudo_masks(batch, teacher, 1.0)
    # Boxes rule the far corner out; clicks take 0.6 of the blend, blind kinds all of it.
    # SAM gives the categories 1, FLOOR and FLOOR, the teacher FLOOR, 1 and FLOOR.
    clicked, blind = (FLOOR ** (1 - w) / (FLOOR**w + FLOOR ** (1 - w) + FLOOR) for w in (0.3, 0.5))
    expected = torch.tensor([FLOOR, clicked, clicked, blind, blind])
    torch.testing.assert_close(mixed[(slice(None), 1, *far)], expected, atol=2e-3, rtol=1e-3)
    overlap = 2 * GRID**2 / 4 / (GRID**2 / 4 + GRID**2)
    torch.testing.assert_close(confidence[3:], torch.full((2,), 0.8 * overlap), atol=1e-4, rtol=0)
    inside = (int(BOX_1[1] // 4) + 1, int(BOX_1[0] // 4) + 1)
    assert (mixed[(slice(None), 1, *inside)] > 0.99).all()
    half, _ = labeller.pseudo_masks(batch, teacher, 0.5)
    assert (half[(slice(3, None), 1, *far)] < 0.5).all()


def test_sampled_rows_are_whole_categories():
    categories = torch.arange(40) % 10
    some = sample_rows(categories, 10, torch.Generator().manual_seed(0))
    assert len(some) == MOST_ROWS
    assert (some[1:] > some[:-1]).all()
    counts = categories[some].bincount(minlength=10)
    # Four rows each: four categories are whole.
    assert counts.tolist().count(4) == MOST_ROWS // 4
    assert sample_rows(categories[:5], 10, torch.Generator()).tolist() == [0, 1, 2, 3, 4]
