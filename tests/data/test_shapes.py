"""Boxes of masks and masks of boxes, against plain loops."""

from __future__ import annotations

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from maskwright.data.shapes import ellipse_radius, filled_boxes, tight_boxes, touched_cells


@settings(max_examples=60, deadline=None)
@given(arrays(np.bool_, st.tuples(st.integers(1, 3), st.just(7), st.just(9))))
def test_boxes_and_shapes_equal_a_plain_reference(masks: np.ndarray):
    masks = masks[masks.any((1, 2))]
    boxes = tight_boxes(torch.from_numpy(masks))
    filled, ellipse = filled_boxes(boxes, 7, 9), ellipse_radius(boxes, 7, 9) <= 1
    assert boxes.shape == (len(masks), 4)
    for n, mask in enumerate(masks):
        ys, xs = np.nonzero(mask)
        x0, y0, x1, y1 = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
        assert boxes[n].tolist() == [x0, y0, x1, y1]
        for y in range(7):
            for x in range(9):
                assert bool(filled[n, y, x]) == (x0 <= x < x1 and y0 <= y < y1)
                across = (2 * (x + 0.5) - x0 - x1) / (x1 - x0)
                down = (2 * (y + 0.5) - y0 - y1) / (y1 - y0)
                if not math.isclose(across**2 + down**2, 1, abs_tol=1e-6):
                    assert bool(ellipse[n, y, x]) == (across**2 + down**2 < 1)


def test_an_empty_mask_has_the_whole_canvas_for_its_box():
    masks = torch.zeros(2, 3, 5, 8, dtype=torch.bool)
    masks[1, 2, 4, 7] = True
    boxes = tight_boxes(masks)
    assert boxes.shape == (2, 3, 4)
    assert boxes[0, 0].tolist() == [0, 0, 8, 5]
    assert boxes[1, 2].tolist() == [7, 4, 8, 5]


def test_boxes_touch_cells():
    touched = touched_cells(torch.tensor([[4.0, 8, 12, 16], [5.0, 9, 9, 10], [0.0, 0, 0, 0]]), 16, 64)
    assert touched.sum((1, 2)).tolist() == [4, 2, 0]
    assert touched[0].nonzero().tolist() == [[2, 1], [2, 2], [3, 1], [3, 2]]
    assert touched[1].nonzero().tolist() == [[2, 1], [2, 2]]


def test_cells_are_measured_at_their_centres():
    fine = ellipse_radius(torch.tensor([8.0, 0, 40, 24]), 64, 64)
    coarse = ellipse_radius(torch.tensor([8.0, 0, 40, 24]), 16, 16, stride=4)
    torch.testing.assert_close(coarse, (fine[1::4, 1::4] + fine[2::4, 2::4]) / 2, atol=5e-3, rtol=0)
