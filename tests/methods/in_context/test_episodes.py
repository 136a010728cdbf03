"""What SAM practises on: which rows, and copies of masks that are wrong enough."""

from __future__ import annotations

import torch

from maskwright.methods.in_context.episodes import MOST_ROWS, rough_copies, sample_rows
from tests.methods.in_context.batches import SIZE


def test_rough_masks_resemble_the_truth_and_no_two_are_alike():
    truth = torch.zeros(40, SIZE, SIZE)
    truth[:, 16:44, 20:52] = 1
    masks = rough_copies(truth, torch.Generator().manual_seed(0))
    assert masks.shape == (40, 16, 16)
    assert torch.equal(masks, rough_copies(truth, torch.Generator().manual_seed(0)))
    guess, small = masks > 0, truth[:, 2::4, 2::4] > 0
    iou = (guess & small).sum((1, 2)) / (guess | small).sum((1, 2))
    assert 0.4 < iou.mean() < 0.95
    assert iou.std() > 0.02


def test_sampled_rows_are_whole_categories():
    categories = torch.arange(40) % 10
    some = sample_rows(categories, 10, torch.Generator().manual_seed(0))
    assert len(some) == MOST_ROWS
    assert (some[1:] > some[:-1]).all()
    counts = categories[some].bincount(minlength=10)
    # Four rows each: four categories are whole.
    assert counts.tolist().count(4) == MOST_ROWS // 4
    assert sample_rows(categories[:5], 10, torch.Generator()).tolist() == [0, 1, 2, 3, 4]
