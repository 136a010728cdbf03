"""Boxes answered on crops: all objects of a row united, and all other rows as they were."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from maskwright.data.batch import Batch
from maskwright.methods.in_context.closer import answer_boxes
from maskwright.methods.in_context.labeller import Labeller
from maskwright.methods.in_context.rows import EMPTY
from maskwright.sam.closer_look import CHUNK, look_closer
from maskwright.sam.sam import Sam
from tests.methods.in_context.batches import BOX_1, BOX_2, BOX_3, SIZE, C, batch_of, rows_at

GRID = SIZE // 4


def labeller_of(sam: Sam, closer_look: bool) -> Labeller:
    return Labeller(
        sam,
        C,
        selector="similar",
        references=2,
        blend=0.5,
        weak_weight=0.5,
        generator=lambda stream, step: torch.Generator().manual_seed(stream + 16 * step),
        closer_look=closer_look,
    )


@pytest.fixture
def batch() -> Batch:
    return batch_of(images=torch.rand(5, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)))


def shares(sam: Sam, batch: Batch, boxes: list[list[float]]) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, GRID, GRID) mean probability in each cell, and (N,) predicted IoU, of boxes in the first image."""
    looks = look_closer(sam, batch.images, torch.zeros(len(boxes), dtype=torch.long), torch.tensor(boxes))
    return looks.on_image((SIZE, SIZE)).sigmoid().reshape(-1, GRID, 4, GRID, 4).mean((2, 4)), looks.iou


def test_rows_with_boxes_are_answered_box_by_box_and_united(tiny_sam: Sam, batch: Batch):
    which, logits, iou = answer_boxes(tiny_sam, batch, rows_at([1, 0, 0], [1, 2, 1], batch))
    assert which.tolist() == [1, 2]
    expected, predicted = shares(tiny_sam, batch, [BOX_2, BOX_1, BOX_3])
    torch.testing.assert_close(logits[0].sigmoid(), expected[0], rtol=0, atol=1e-4)
    torch.testing.assert_close(logits[1].sigmoid(), torch.maximum(expected[1], expected[2]), rtol=0, atol=1e-4)
    assert iou.tolist() == pytest.approx([predicted[0].item(), predicted[1:].mean().item()], abs=1e-5)
    # Nothing is on the object beyond its box, which begins at x = 30.
    assert (logits[0, :, : 30 // 4] == EMPTY).all()


def test_however_many_boxes_a_row_has_all_are_answered(tiny_sam: Sam, batch: Batch):
    many = 2 * CHUNK + 1
    corners = torch.stack([torch.arange(many) * 1.0, torch.arange(many) * 0.5], 1)
    boxes = torch.cat([corners, corners + 12], 1)[None].expand(5, -1, -1)
    batch = replace(batch, boxes=boxes, box_categories=torch.ones(5, many, dtype=torch.long))
    which, logits, iou = answer_boxes(tiny_sam, batch, rows_at([0], [1], batch))
    expected, predicted = shares(tiny_sam, batch, boxes[0].tolist())
    assert which.tolist() == [0]
    torch.testing.assert_close(logits[0].sigmoid(), expected.amax(0), rtol=0, atol=1e-4)
    assert iou.item() == pytest.approx(predicted.mean().item(), abs=1e-5)


def test_without_a_box_there_is_nothing_to_look_at(tiny_sam: Sam, batch: Batch):
    without = replace(batch, boxes=batch.boxes[:, :0], box_categories=batch.box_categories[:, :0])
    for some, rows in ((batch, rows_at([1], [1], batch)), (without, rows_at([0, 1], [1, 1], batch))):
        which, logits, iou = answer_boxes(tiny_sam, some, rows)
        assert (which.shape, logits.shape, iou.shape) == ((0,), (0, GRID, GRID), (0,))


def test_pseudo_masks_of_boxes_alone_change_with_a_closer_look(tiny_sam: Sam, batch: Batch):
    embedding = tiny_sam.encode(batch.images).detach()
    with torch.no_grad():
        _, plain = labeller_of(tiny_sam, False).visit(batch, embedding, 0)
        _, closer = labeller_of(tiny_sam, True).visit(batch, embedding, 0)
    assert closer.masks.keys() == plain.masks.keys()
    expected, predicted = shares(tiny_sam, batch, [BOX_1, BOX_3, BOX_2])
    first, second = torch.maximum(expected[0], expected[1]), expected[2]
    odds = torch.stack([torch.ones_like(first), first / (1 - first), second / (1 - second)])
    torch.testing.assert_close(closer.masks[0].maps.float(), odds / odds.sum(0), rtol=0, atol=2e-3)
    confidence = (predicted[:2].mean() + predicted[2]).item() / 2
    assert closer.masks[0].confidence == pytest.approx(confidence, abs=1e-5)
    assert not torch.equal(closer.masks[0].maps, plain.masks[0].maps)
    for sample in (1, 2):
        assert torch.equal(closer.masks[sample].maps, plain.masks[sample].maps)
        assert closer.masks[sample].confidence == plain.masks[sample].confidence


def test_the_loss_is_that_of_whole_images(tiny_sam: Sam, batch: Batch):
    embedding = tiny_sam.encode(batch.images).detach()
    losses = [labeller_of(tiny_sam, closer_look).visit(batch, embedding, 0)[0] for closer_look in (False, True)]
    assert losses[0].item() == losses[1].item() > 0
