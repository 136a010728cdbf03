"""Boxes answered on crops: the objects of a row united, with the row's references, and all other rows as they were."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from maskwright.data.batch import Batch
from maskwright.methods.in_context import pseudo
from maskwright.methods.in_context.closer import answer_boxes
from maskwright.methods.in_context.labeller import Labeller
from maskwright.methods.in_context.pseudo import EMPTY, RowPrompts, Rows
from maskwright.sam.closer_look import ellipse_logits, look_closer
from maskwright.sam.sam import Sam
from tests.methods.in_context.batches import BOX_1, BOX_2, BOX_3, SIZE, C, batch_of, rows_at

GRID = SIZE // 4
NONE = torch.zeros(3, dtype=torch.bool)
PLACES = torch.zeros(3, 2, dtype=torch.long)


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
def asked() -> tuple[Batch, Rows, RowPrompts]:
    """Three rows: two boxes of category 1, one of category 2, and clicks in another image."""
    batch = batch_of(images=torch.rand(5, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)))
    rows = rows_at([0, 0, 1], [1, 2, 1], batch)
    yes = torch.ones(3, dtype=torch.bool)
    return batch, rows, pseudo.weak_prompts(batch, rows, SIZE, boxes=yes, points=yes)


def test_rows_with_boxes_are_answered_box_by_box(tiny_sam: Sam, asked):
    batch, rows, prompts = asked
    labeller = labeller_of(tiny_sam, True)
    which, logits, iou = answer_boxes(labeller, batch.images, rows, prompts, NONE, PLACES)
    assert which.tolist() == [0, 1]
    boxes = torch.tensor([BOX_1, BOX_3, BOX_2])
    looks = look_closer(tiny_sam, batch.images, torch.zeros(3, dtype=torch.long), boxes)
    pixels = looks.on_image((SIZE, SIZE)).sigmoid()
    shares = pixels.reshape(3, GRID, 4, GRID, 4).mean((2, 4))
    torch.testing.assert_close(logits[0].sigmoid(), torch.maximum(shares[0], shares[1]), rtol=0, atol=1e-4)
    torch.testing.assert_close(logits[1].sigmoid(), shares[2], rtol=0, atol=1e-4)
    assert iou.tolist() == pytest.approx([looks.iou[:2].mean().item(), looks.iou[2].item()], abs=1e-5)
    assert logits.min() >= EMPTY - 0.01
    # Nothing is on the object beyond its boxes.
    assert (logits[1][:, : GRID // 2 - 2] < -9).all()


def test_a_crop_recalls_the_references_of_its_row(tiny_sam: Sam, asked):
    batch, rows, prompts = asked
    labeller = labeller_of(tiny_sam, True)
    embedding = tiny_sam.encode(batch.images)
    masks = torch.zeros(2, 1, SIZE, SIZE)
    masks[:, :, 8:40, 8:40] = 1
    memory = tiny_sam.remember(embedding[:2], masks)[:, 0]
    labeller.pool.update(
        samples=torch.tensor([90, 91]),
        categories=torch.tensor([1, 1]),
        kinds=torch.tensor([5, 5]),
        memory=memory,
        whole=torch.zeros(2, tiny_sam.width),
        foreground=torch.zeros(2, tiny_sam.width),
        memory_vector=torch.zeros(2, 64),
    )
    has_references = torch.tensor([True, False, True])
    places = torch.tensor([[0, 1], [0, 0], [1, 1]])
    with torch.no_grad():
        _, logits, _ = answer_boxes(labeller, batch.images, rows, prompts, has_references, places)
        _, plain, _ = answer_boxes(labeller, batch.images, rows, prompts, NONE, PLACES)
        assert torch.equal(logits[1], plain[1])
        assert not torch.allclose(logits[0], plain[0], atol=1e-3)

        def recalled(crops, which):
            return tiny_sam.recall(crops, labeller.pool.memory(torch.tensor([[0, 1]])))

        alone = [
            look_closer(tiny_sam, batch.images, torch.tensor([0]), torch.tensor([box]), condition=recalled)
            for box in (BOX_1, BOX_3)
        ]
        shares = [one.on_image((SIZE, SIZE)).sigmoid().reshape(GRID, 4, GRID, 4).mean((1, 3)) for one in alone]
        torch.testing.assert_close(logits[0].sigmoid(), torch.maximum(*shares), rtol=0, atol=1e-4)


def test_without_a_box_there_is_nothing_to_look_at(tiny_sam: Sam, asked):
    batch, rows, prompts = asked
    at = torch.tensor([2])
    labeller = labeller_of(tiny_sam, True)
    which, logits, iou = answer_boxes(labeller, batch.images, rows[at], prompts.rows(at), NONE[:1], PLACES[:1])
    assert (which.shape, logits.shape, iou.shape) == ((0,), (0, GRID, GRID), (0,))


def test_the_hint_of_a_crop_is_that_of_the_whole_image(asked):
    _, _, prompts = asked
    assert torch.equal(ellipse_logits(prompts.boxes, SIZE)[prompts.boxed], prompts.hint[prompts.boxed])


def test_pseudo_masks_of_boxes_alone_change_with_a_closer_look(tiny_sam: Sam, asked):
    batch, _, _ = asked
    embedding = tiny_sam.encode(batch.images).detach()
    with torch.no_grad():
        _, plain = labeller_of(tiny_sam, False).visit(batch, embedding, 0)
        closer = labeller_of(tiny_sam, True)
        _, visit = closer.visit(batch, embedding, 0)
    assert visit.masks.keys() == plain.masks.keys()
    assert not torch.equal(visit.masks[0].maps, plain.masks[0].maps)
    for sample in (1, 2):
        assert torch.equal(visit.masks[sample].maps, plain.masks[sample].maps)
        assert visit.masks[sample].confidence == plain.masks[sample].confidence
    without_boxes = replace(batch, boxes=batch.boxes[:, :0], box_categories=batch.box_categories[:, :0])
    with torch.no_grad():
        _, visit = labeller_of(tiny_sam, True).visit(without_boxes, embedding, 0)
        _, plain = labeller_of(tiny_sam, False).visit(without_boxes, embedding, 0)
    assert all(torch.equal(visit.masks[sample].maps, plain.masks[sample].maps) for sample in plain.masks)
