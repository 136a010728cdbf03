"""SAM as a labeller: what it practises on, and what it decodes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from maskwright.data.labels import Kind
from maskwright.methods.in_context.labeller import Labeller
from maskwright.methods.in_context.rows import EMPTY, rows_of, weak_prompts
from maskwright.sam.sam import Sam
from tests.methods.in_context.batches import GRID, SIZE, C, answer_of, batch_of, rows_at


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
    found = labeller.practice(batch, torch.Generator().manual_seed(0))
    assert not found.is_true.any()
    practice = found.batch
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
    practice = labeller.practice(batch, torch.Generator().manual_seed(0)).batch
    assert torch.equal(practice.kinds, batch.kinds)
    assert torch.equal(practice.target, batch.target)
    assert practice.present[0].tolist() == batch.present[0].tolist()
    assert not practice.present[1:].any()


def test_its_own_answers_do_not_teach_sam_how_sure_to_be(labeller: Labeller):
    batch = batch_of(images=torch.rand(5, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)))
    labeller.pseudo_masks.newest = {0: answer_of(2, 0.9)}
    practice = labeller.practice(batch, torch.Generator().manual_seed(0))
    head = labeller.sam.model.mask_decoder.iou_prediction_head.requires_grad_(True)
    for is_true in (False, True):
        head.zero_grad()
        some = replace(practice, is_true=torch.full((5,), is_true))
        labeller.episode(labeller.sam.encode(batch.images), some, torch.Generator().manual_seed(3)).backward()
        assert any(p.grad is not None and bool(p.grad.any()) for p in head.parameters()) == is_true


def test_the_teacher_is_shown_only_where_the_label_is_no_prompt(labeller: Labeller):
    batch = batch_of()
    rows = rows_of(batch.present, batch.kinds, batch.indices)
    teacher = torch.rand(5, C, GRID, GRID, generator=torch.Generator().manual_seed(0)).softmax(1)
    prompts = labeller._label_prompts(batch, rows, teacher, 1.0)
    assert torch.equal(prompts.hinted, prompts.boxed | ~prompts.prompted[:, None] & (torch.arange(2) == 0))
    blind = (~prompts.prompted).nonzero()[:, 0]
    assert rows.kind[blind].tolist() == [Kind.TAG]
    torch.testing.assert_close(prompts.hint[blind, 0].sigmoid(), teacher[rows.image[blind], rows.category[blind]])
    assert torch.equal(labeller._label_prompts(batch, rows, teacher, 0.5).hinted, prompts.boxed)
