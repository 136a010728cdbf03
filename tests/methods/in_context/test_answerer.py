"""SAM with a pool of references: what it looks for, what it is shown, and that its answers are those of the four verbs."""

from __future__ import annotations

import pytest
import torch

from maskwright.data.labels import Kind
from maskwright.methods.in_context.answerer import Answerer
from maskwright.methods.in_context.rows import weak_prompts
from maskwright.nets.spnet import pooled, pooled_memory
from maskwright.sam.prompts import PADDING, Prompts
from maskwright.sam.sam import Embedding, Sam
from tests.methods.in_context.batches import BOX_1, BOX_3, SIZE, C, batch_of, rows_at

REFERENCES = 3


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def answerer(tiny_sam: Sam) -> Answerer:
    return Answerer(tiny_sam, C, selector="random", references=REFERENCES)


@torch.no_grad()
def fill(answerer: Answerer, samples: list[int], categories: list[int]) -> None:
    """Mask images with random pixels and masks."""
    images = torch.rand(len(samples), 3, SIZE, SIZE, generator=seeded(1))
    masks = (torch.rand(len(samples), SIZE // 4, SIZE // 4, generator=seeded(2)) > 0.5).float()
    embedding = answerer.sam.encode(images)
    memory = answerer.sam.remember(embedding, masks[:, None])[:, 0]
    kinds = torch.full((len(samples),), int(Kind.MASK))
    vectors = pooled(embedding.low, masks)
    answerer.pool.update(
        torch.tensor(samples), torch.tensor(categories), kinds, memory, *vectors, pooled_memory(memory.features, masks)
    )


def encoded(answerer: Answerer) -> Embedding:
    return answerer.sam.encode(torch.rand(5, 3, SIZE, SIZE, generator=seeded(3)))


def test_what_is_looked_for(answerer: Answerer):
    batch = batch_of()
    assert answerer.query_categories(batch, None).tolist() == [[0, 1, 1], [0, 1, 1], [0, 0, 1], [0, 1, 0], [0, 1, 1]]
    teacher = torch.zeros(5, C, 16, 16)
    teacher[:, 0] = 0.5
    teacher[4, 2, 3, :2] = 0.9  # 2 of 256 pixels
    categories = answerer.query_categories(batch, teacher)
    assert categories[:4].tolist() == [[0, 1, 1], [0, 1, 1], [0, 0, 1], [0, 1, 0]]
    assert categories[4].tolist() == [0, 0, 1]


@torch.no_grad()
def test_objects_are_pooled_where_boxes_or_the_teacher_say(answerer: Answerer):
    embedding, rows = encoded(answerer), rows_at([0, 1], [1, 2])
    yes, no = torch.ones(2, dtype=torch.bool), torch.zeros(2, dtype=torch.bool)
    prompts = weak_prompts(batch_of(), rows, SIZE, boxes=yes, points=no)
    teacher = torch.zeros(5, C, 16, 16)
    teacher[1, 2, :, 8:] = 1
    query = answerer.query(embedding, rows, prompts, teacher)
    low = embedding.low
    torch.testing.assert_close(query.whole, low[:2].mean((2, 3)))
    cells = torch.zeros(4, 4, dtype=torch.bool)
    for x0, y0, x1, y1 in (BOX_1, BOX_3):
        cells[int(y0 // 16) : int(-(-y1 // 16)), int(x0 // 16) : int(-(-x1 // 16))] = True
    torch.testing.assert_close(query.foreground[0], low[0][:, cells].mean(1))
    torch.testing.assert_close(query.foreground[1], low[1, :, :, 2:].mean((1, 2)))
    # Without a teacher the whole image stands for an object of which nothing is known.
    torch.testing.assert_close(answerer.query(embedding, rows, prompts, None).foreground[1], query.whole[1])


@torch.no_grad()
def test_references_are_of_the_category_and_of_other_images(answerer: Answerer):
    embedding, rows = encoded(answerer), rows_at([0, 3, 4], [1, 1, 2])
    no = torch.zeros(3, dtype=torch.bool)
    prompts = weak_prompts(batch_of(), rows, SIZE, boxes=no, points=no)
    query = answerer.query(embedding, rows, prompts, None)
    found = answerer.choose(rows, query, seeded())
    assert not found.has_references.any()
    assert found.places.shape == (3, REFERENCES)
    fill(answerer, [3, 10, 11, 12, 13], [1] * 5)
    found = answerer.choose(rows, query, seeded())
    places = found.places
    assert found.has_references.tolist() == [True, True, False]
    assert found.choice is None
    assert torch.equal(places, answerer.choose(rows, query, seeded()).places)
    # Row 1 is image 3, whose own entry stands first.
    assert 0 not in places[1].tolist()
    assert all(len(set(row)) == REFERENCES for row in places[:2].tolist())


@torch.no_grad()
def test_answers_are_those_of_the_four_verbs(answerer: Answerer):
    fill(answerer, [10, 11, 12], [1] * 3)
    embedding, rows = encoded(answerer), rows_at([2, 4], [1, 1])
    no = torch.zeros(2, dtype=torch.bool)
    prompts = weak_prompts(batch_of(), rows, SIZE, boxes=no, points=no)
    places = torch.tensor([[0, 2], [1, 1]])
    sam, memory = answerer.sam, answerer.pool.memory(places)
    # As while training: boxes and clicks that are not there are padding, and SAM attends to it.
    length = prompts.tokens.labels.shape[2]
    nothing = Prompts(torch.zeros(2, 1, length, 2), torch.full((2, 1, length), PADDING))
    expected = sam.decode(sam.recall(embedding[rows.image], memory), nothing)
    logits, iou = answerer.mask_predictor(embedding, rows, prompts)(torch.arange(2), places)
    torch.testing.assert_close(logits, expected.best[:, 0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(iou, expected.best_iou[:, 0], atol=1e-4, rtol=1e-4)
    # A row without references is decoded from its plain embedding, whatever the others are shown.
    _, mixed, _ = answerer.answer(embedding, rows, prompts, torch.tensor([False, True]), memory[1:])
    plain = sam.decode(embedding[rows.image[:1]], Prompts(nothing.points[:1], nothing.labels[:1]))
    torch.testing.assert_close(mixed[0], plain.best[0, 0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(mixed[1], logits[1], atol=1e-4, rtol=1e-4)


def test_a_policy_is_needed_where_it_is_to_choose(tiny_sam: Sam):
    with pytest.raises(ValueError, match="needs a policy"):
        Answerer(tiny_sam, C, selector="policy", references=2)
