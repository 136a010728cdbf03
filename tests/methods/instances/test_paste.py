"""Pasting between pairs of images: masks are disjoint, agree with the pixels, and nothing else changes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maskwright.data.instances import Instances
from maskwright.methods.instances.paste import MIN_SHARE, paste

SIZE = 32


def squares(places: list[tuple[int, int, int, int]]) -> Instances:
    """Squares: image, x, y, side."""
    masks = torch.zeros(len(places), SIZE, SIZE, dtype=torch.bool)
    for mask, (_, x, y, side) in zip(masks, places):
        mask[y : y + side, x : x + side] = True
    rows = torch.tensor([row for row, *_ in places], dtype=torch.long)
    return Instances(masks, rows, torch.arange(1, len(places) + 1))


def coloured(instances: Instances, batch: int) -> torch.Tensor:
    """Images in which every object has a colour of its own (its category), and the background of image b is -b - 1."""
    images = -(torch.arange(batch).float() + 1)[:, None, None, None].repeat(1, 3, SIZE, SIZE)
    for mask, row, category in zip(instances.masks, instances.rows, instances.categories):
        images[row, :, mask] = float(category)
    return images


place = st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(3, 11))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(place, max_size=4), min_size=2, max_size=6), st.booleans(), st.integers(0, 999))
def test_masks_are_disjoint_and_agree_with_the_pixels(images: list, dynamic: bool, seed: int):
    given_ = squares([(row, *where) for row, places in enumerate(images) for where in places])
    pixels = coloured(given_, len(images))
    new, labels = paste(pixels, given_, torch.Generator().manual_seed(seed), min_area=1, dynamic=dynamic)
    # The objects' own colours, where they overlapped before, were those of the later ones.
    changed = {int(row) for row in range(len(images)) if not torch.equal(new[row], pixels[row])}
    assert len(changed) <= 2 * max(1, len(images) // 4)
    for row in range(len(images)):
        own = labels.rows == row
        if row not in changed:
            continue
        assert (labels.masks[own].sum(0) <= 1).all()
        for mask, category in zip(labels.masks[own], labels.categories[own]):
            assert mask.any()
            shown = new[row, 0][mask]
            partly = given_.masks[int(category) - 1]
            hidden = given_.rows == given_.rows[int(category) - 1]
            later = hidden & (torch.arange(len(given_)) > int(category) - 1)
            if not (partly & given_.masks[later].any(0)).any():
                assert (shown == float(category)).all()
    assert (labels.rows.diff() >= 0).all()


def test_both_ways_in_place():
    given_ = squares([(0, 0, 0, 8), (1, 16, 16, 8)])
    new, labels = paste(coloured(given_, 2), given_, torch.Generator(), min_area=1, dynamic=False)
    assert labels.rows.tolist() == [0, 0, 1, 1]
    assert sorted(labels.categories[:2].tolist()) == [1, 2]
    assert (new[0, 0, 16:24, 16:24] == 2).all()
    assert (new[1, 0, :8, :8] == 1).all()
    assert (new[0, 0, :8, :8] == 1).all()


def test_what_is_covered_is_lost_and_both_are_cut_out_before_either_is_pasted():
    given_ = squares([(0, 4, 4, 8), (1, 4, 4, 8)])
    new, labels = paste(coloured(given_, 2), given_, torch.Generator(), min_area=1, dynamic=False)
    # Each covers the other wholly: labels change places, none is left of the old ones.
    assert labels.categories.tolist() == [2, 1]
    assert (new[0, 0, 4:12, 4:12] == 2).all()
    assert (new[1, 0, 4:12, 4:12] == 1).all()


def test_small_objects_are_not_pasted():
    enough = MIN_SHARE * SIZE * SIZE
    assert enough == pytest.approx(5.86, abs=0.01)
    given_ = squares([(0, 0, 0, 2), (1, 16, 16, 8)])
    new, labels = paste(coloured(given_, 2), given_, torch.Generator(), dynamic=False)
    assert labels.rows.tolist() == [0, 0, 1]
    assert torch.equal(new[1], coloured(given_, 2)[1])


def test_scaled_objects_stay_on_the_canvas():
    given_ = squares([(0, 10, 10, 10), (1, 0, 0, 3)])
    for seed in range(20):
        _, labels = paste(coloured(given_, 2), given_, torch.Generator().manual_seed(seed), min_area=50)
        (moved,) = labels.masks[(labels.rows == 1) & (labels.categories == 1)]
        height, width = moved.any(1).sum(), moved.any(0).sum()
        assert 8 <= height <= 12
        assert height == pytest.approx(int(width), abs=1)
        assert moved.sum() == height * width


def test_nothing_to_paste_changes_nothing():
    single = squares([(0, 0, 0, 8)])
    pixels = coloured(single, 1)
    new, labels = paste(pixels, single, torch.Generator(), min_area=1)
    assert torch.equal(new, pixels)
    assert labels is single
    none = Instances.none(SIZE, SIZE)
    new, labels = paste(coloured(none, 4), none, torch.Generator())
    assert len(labels) == 0
