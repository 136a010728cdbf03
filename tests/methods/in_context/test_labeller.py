"""SAM as a labeller: what it practises on, and what it decodes."""

from __future__ import annotations

import pytest
import torch

from maskwright.data.labels import Kind
from maskwright.methods.in_context.labeller import Labeller
from maskwright.methods.in_context.rows import EMPTY, weak_prompts
from maskwright.sam.sam import Sam
from tests.methods.in_context.batches import SIZE, C, answer_of, batch_of, rows_at


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


def test_padding_is_not_decoded_and_objects_answer_as_if_alone(labeller: Labeller):
    batch = batch_of(images=torch.rand(5, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)))
    rows = rows_at([0, 0, 1], [1, 2, 1], batch)
    yes = torch.ones(3, dtype=torch.bool)
    prompts = weak_prompts(batch, rows, SIZE, boxes=yes, points=yes)
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
    labeller.pseudo_masks.newest = {0: answer_of(2, 0.9), 1: answer_of(1, 0.9), 2: answer_of(2, 0.9)}
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
    labeller.pseudo_masks.newest = {0: answer_of(2, 0.5)}
    practice = labeller.practice(batch, torch.Generator().manual_seed(0))
    assert torch.equal(practice.kinds, batch.kinds)
    assert torch.equal(practice.target, batch.target)
    assert practice.present[0].tolist() == batch.present[0].tolist()
    assert not practice.present[1:].any()
