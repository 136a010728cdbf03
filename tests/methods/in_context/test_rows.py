"""Rows: labels become prompts, answers stay in their boxes, categories become one map."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from maskwright.data.labels import Kind
from maskwright.methods.in_context.rows import (
    EMPTY,
    RowPrompts,
    is_unlocated,
    merge_rows,
    row_logits,
    rows_of,
    truth_of,
    weak_prompts,
)
from maskwright.sam.prompts import Prompts
from maskwright.sam.sam import Masks
from tests.methods.in_context.batches import BOX_1, BOX_3, SIZE, C, batch_of, rows_at

ROWS = rows_at([0, 0, 1, 1, 2, 3], [1, 2, 1, 2, 2, 1])
YES, NO = torch.ones(6, dtype=torch.bool), torch.zeros(6, dtype=torch.bool)


def tokens(prompts: RowPrompts, row: int, k: int = 0) -> list[tuple[float, float, int]]:
    """The prompt tokens of one object that are no padding."""
    points, labels = prompts.tokens.points[row, k].tolist(), prompts.tokens.labels[row, k].tolist()
    return [(x, y, label) for (x, y), label in zip(points, labels) if label >= 0]


def test_rows_are_the_categories_that_labels_name():
    batch = batch_of(indices=torch.arange(20, 25))
    rows = rows_of(batch.present, batch.kinds, batch.indices)
    assert rows.image.tolist() == ROWS.image.tolist()
    assert rows.category.tolist() == ROWS.category.tolist()
    assert rows.kind.tolist() == [Kind.BOX] * 2 + [Kind.POINT] * 2 + [Kind.SCRIBBLE, Kind.TAG]
    assert rows.sample.tolist() == [20, 20, 21, 21, 22, 23]
    part = rows[torch.tensor([5, 0])]
    assert (part.image.tolist(), part.category.tolist()) == ([3, 0], [1, 1])
    assert (part.kind.tolist(), part.sample.tolist()) == ([Kind.TAG, Kind.BOX], [23, 20])


def test_every_label_kind_becomes_its_prompt():
    prompts = weak_prompts(batch_of(), ROWS, SIZE, boxes=YES, points=YES)
    assert prompts.prompted.tolist() == [True, True, True, True, True, False]
    assert prompts.valid.tolist() == [[True, True]] + [[True, False]] * 5
    # Each box of the category is an object of its own, by the centres of its corner pixels.
    assert tokens(prompts, 0, 0) == [(4.5, 4.5, 2), (19.5, 19.5, 3)]
    assert tokens(prompts, 0, 1) == [(8.5, 40.5, 2), (23.5, 55.5, 3)]
    assert tokens(prompts, 1, 0) == [(30.5, 8.5, 2), (59.5, 39.5, 3)]
    assert tokens(prompts, 1, 1) == []
    assert prompts.boxes[0].tolist() == [BOX_1, BOX_3]
    assert (prompts.boxes[2:] == 0).all()
    # Clicks on other categories and on the background are negative, and come after the positive ones.
    assert tokens(prompts, 2) == [(9, 9, 1), (5, 5, 0), (50, 50, 0)]
    assert tokens(prompts, 3) == [(50, 50, 1), (5, 5, 0), (9, 9, 0)]
    assert tokens(prompts, 4) == [(2 * i, 2 * i + 1, 1) for i in range(8)]
    assert tokens(prompts, 5) == []


def test_a_box_brings_its_ellipse_as_a_hint():
    prompts = weak_prompts(batch_of(), ROWS, SIZE, boxes=YES, points=YES)
    assert prompts.hinted.tolist() == [[True, True], [True, False]] + [[False, False]] * 4
    for y in range(16):
        for x in range(16):
            radius = ((4 * x + 2 - 45) / 15) ** 2 + ((4 * y + 2 - 24) / 16) ** 2
            assert float(prompts.hint[1, 0, y, x]) == pytest.approx(max(4 * (1 - radius), -8), abs=1e-4)
    view = torch.full((6, 16, 16), 2.0)
    seen = prompts.with_hint(view, torch.tensor([False] * 5 + [True]))
    assert seen.hinted.tolist() == [[True, True], [True, False]] + [[False, False]] * 3 + [[True, False]]
    assert torch.equal(seen.hint[5, 0], view[5])
    assert torch.equal(seen.hint[:5], prompts.hint[:5])
    assert not seen.prompted[5]
    assert not prompts.hinted[5].any()  # a copy


def test_rows_use_only_what_they_may():
    both = batch_of(points=torch.full((5, 1, 2), 10.0), point_categories=torch.tensor([[1], [-1], [-1], [-1], [-1]]))
    first = rows_at([0, 0, 0], [1, 1, 1])
    may_box, may_click = torch.tensor([True, False, False]), torch.tensor([True, True, False])
    prompts = weak_prompts(both, first, SIZE, boxes=may_box, points=may_click)
    assert [label for *_, label in tokens(prompts, 0)] == [2, 3]  # boxes go before clicks
    assert tokens(prompts, 1) == [(10, 10, 1)]
    assert tokens(prompts, 2) == []
    assert prompts.prompted.tolist() == [True, True, False]
    assert prompts.valid.tolist() == [[True, True], [True, False], [True, False]]


def test_negative_clicks_alone_are_no_prompt():
    only = batch_of(point_categories=torch.zeros(5, 8, dtype=torch.long))
    prompts = weak_prompts(only, rows_at([1], [1]), SIZE, boxes=YES[:1], points=YES[:1])
    assert tokens(prompts, 0) == []
    assert prompts.prompted.tolist() == [False]


def test_numbers_of_prompts_are_limited():
    prompts = weak_prompts(batch_of(), ROWS, SIZE, boxes=YES, points=YES, most=1, clicks=2)
    assert prompts.valid.shape == (6, 1)
    assert tokens(prompts, 0) == [(4.5, 4.5, 2), (19.5, 19.5, 3)]
    assert tokens(prompts, 2) == [(9, 9, 1), (5, 5, 0)]


def test_a_batch_without_boxes_and_points():
    bare = batch_of(
        boxes=torch.zeros(5, 0, 4),
        box_categories=torch.zeros(5, 0, dtype=torch.long),
        points=torch.zeros(5, 0, 2),
        point_categories=torch.zeros(5, 0, dtype=torch.long),
    )
    prompts = weak_prompts(bare, ROWS, SIZE, boxes=YES, points=YES)
    assert prompts.tokens.shape == (6, 1)
    assert (prompts.tokens.labels == -1).all()
    assert prompts.valid.all()
    assert not prompts.prompted.any()
    part = prompts.rows(torch.tensor([3, 1]))
    assert part.tokens.shape == (2, 1)
    assert part.prompted.shape == (2,)


def prompts_of(boxes: Tensor, valid: Tensor) -> RowPrompts:
    """Rows (N, K) of these boxes, without hints."""
    hint = torch.zeros(*valid.shape, SIZE // 4, SIZE // 4)
    cut = torch.zeros(*valid.shape, 2, dtype=torch.bool)
    return RowPrompts(Prompts.none(*valid.shape), valid, boxes, cut, valid.any(1), hint, torch.zeros_like(valid))


def answer(logits: Tensor, iou: Tensor) -> Masks:
    rows, objects = logits.shape[:2]
    return Masks(logits[:, :, None], iou[:, :, None], torch.ones(rows, objects), torch.zeros(rows, objects, 1, 4))


def test_nothing_outside_the_boxes_and_the_union_of_objects():
    boxes = torch.tensor([[BOX_1, BOX_3], [[0.0] * 4, [0.0] * 4]])
    valid = torch.tensor([[True, True], [True, False]])
    prompts = prompts_of(boxes, valid)
    logits = torch.full((2, 2, 16, 16), 3.0)
    logits[0, 1] = 5.0
    logits[1, 1] = 99.0  # an object that does not exist
    union, score = row_logits(answer(logits, torch.tensor([[0.5, 0.9], [0.4, 1.0]])), prompts, SIZE)
    expected = torch.full((16, 16), EMPTY)
    expected[1:5, 1:5], expected[10:14, 2:6] = 3.0, 5.0
    assert torch.equal(union[0], expected)
    assert (union[1] == 3.0).all()  # no box, no limits
    assert score.tolist() == pytest.approx([0.7, 0.4])


def test_outside_its_box_an_object_keeps_a_lower_answer():
    prompts = prompts_of(torch.tensor([[BOX_1]]), YES[:1, None])
    union, _ = row_logits(answer(torch.full((1, 1, 16, 16), -30.0), torch.ones(1, 1)), prompts, SIZE)
    assert (union == -30).all()


def test_rows_are_merged_against_the_background():
    logits = torch.tensor([[-1.0, 2.0, 2.0, 30.0], [-2.0, 1.0, 3.0, EMPTY], [0.5, -0.5, -20.0, 0.1]])[:, None]
    maps = merge_rows(logits, rows_at([0, 0, 2], [1, 2, 1]), 3, C)
    assert maps.shape == (3, C, 1, 4)
    assert maps.argmax(1)[:, 0].tolist() == [[0, 1, 2, 1], [0, 0, 0, 0], [1, 0, 0, 1]]
    assert (maps[:, 0] == 0).all()
    assert (maps[1, 1:] == EMPTY).all()


def test_the_truth_of_rows_on_a_grid_leaves_out_unknown_pixels():
    target = torch.zeros(2, 8, 8, dtype=torch.long)
    target[1, :4, :2], target[1, :4, 2:4], target[1, 4:] = 2, 255, 255
    truth, known = truth_of(target, rows_at([1, 1, 0], [2, 1, 1]), 2)
    assert known.tolist() == [[[0.5, 1], [0, 0]], [[0.5, 1], [0, 0]], [[1, 1], [1, 1]]]
    assert truth.tolist() == [[[1, 0], [0, 0]], [[0, 0], [0, 0]], [[0, 0], [0, 0]]]
    whole, counted = truth_of(target, rows_at([1], [2]), 8)
    assert torch.equal(whole[0] > 0, target[1] == 2)
    assert torch.equal(counted[0] > 0, target[1] != 255)


def test_blind_are_labels_that_name_no_place():
    kinds = torch.tensor([int(kind) for kind in Kind])
    assert {kind for kind, found in zip(Kind, is_unlocated(kinds).tolist()) if found} == {Kind.TAG, Kind.NONE}
