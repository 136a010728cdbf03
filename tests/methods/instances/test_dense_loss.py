"""Targets of dense maps against their definition, and a loss that is least at the truth and blind where nothing is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from maskwright.data.instances import Instances
from maskwright.methods.instances.dense_loss import DenseLoss, Targets, targets, zoom_for
from maskwright.methods.instances.dense_pseudo import targets_of
from maskwright.methods.instances.depth import depths
from maskwright.nets.dense_instances import Maps

SIDE = 32


def some_ids(seed: int, side: int = SIDE) -> np.ndarray:
    rng = np.random.default_rng(seed)
    ids = np.zeros((side, side), np.int64)
    for number in range(1, 5):
        x, y, width, height = rng.integers(0, side - 4), rng.integers(0, side - 4), *rng.integers(3, side // 2, 2)
        ids[y : y + height, x : x + width] = number
    return ids


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_depth_is_the_distance_to_the_border_of_each_object_alone(seed: int):
    ids = some_ids(seed)
    found = depths(ids)
    assert (found[ids == 0] == 0).all()
    for number in np.unique(ids[ids > 0]):
        mask = ids == number
        # Beyond the picture the object goes on as it is at the edge.
        far = np.pad(mask, SIDE, mode="edge")
        border = far & ~ndimage.binary_erosion(far, border_value=1)
        if not (border[SIDE:-SIDE, SIDE:-SIDE]).any():
            continue
        inner = np.zeros_like(far)
        inner[SIDE:-SIDE, SIDE:-SIDE] = border[SIDE:-SIDE, SIDE:-SIDE]
        distance = (ndimage.distance_transform_edt(~inner) + 1)[SIDE:-SIDE, SIDE:-SIDE] * mask
        assert found[mask] == pytest.approx((distance / distance.max())[mask], abs=1e-6)


def test_depth_of_nothing_and_of_everything():
    assert (depths(np.zeros((4, 4), int)) == 0).all()
    assert (depths(np.ones((4, 4), int)) == 1).all()


def perfect(truth: Targets, sure: float = 1.0) -> Maps:
    depth = truth.depth.clamp(1e-6, 1 - 1e-6)
    return Maps(
        (truth.foreground.clamp(1e-3, 1 - 1e-3).logit() * sure), depth.logit(), torch.zeros(len(depth), 1, 1, 1)
    )


def test_targets_and_loss():
    ids = torch.from_numpy(np.stack([some_ids(3), some_ids(4), np.zeros((SIDE, SIDE), np.int64)]))
    categories = torch.tensor([[1, 2, 2, 1], [2, 2, 1, 1], [-1, -1, -1, -1]])
    known = torch.ones_like(ids, dtype=torch.bool)
    truth = targets(ids, categories, known, 3)
    assert truth.foreground.shape == (3, 2, SIDE // 2, SIDE // 2)
    blocks = ids.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).transpose(2, 3).flatten(3)  # (B, h, w, 4)
    for row in range(2):
        for category in (1, 2):
            numbers = 1 + (categories[row] == category).nonzero()[:, 0]
            share = torch.isin(blocks[row], numbers).float().mean(-1)
            assert torch.equal(truth.foreground[row, category - 1], share)
    assert torch.equal(truth.depth > 0, (blocks > 0).any(-1))
    cells = truth.foreground.sum(1)
    loss = DenseLoss()
    best = loss(perfect(truth), truth)
    assert sum(float(v) for v in best.values()) < 0.1 * sum(
        float(v) for v in loss(perfect(truth, -1.0), truth).values()
    )
    assert float(best["depth"]) == pytest.approx(0, abs=1e-4)
    generator = torch.Generator().manual_seed(0)
    guess = Maps(
        *(torch.randn(one.shape, generator=generator).requires_grad_() for one in (truth.foreground, truth.depth)),
        torch.zeros(1),
    )
    parts = loss(guess, truth)
    assert all(float(v) > 0.05 for v in parts.values())
    sum(parts.values()).backward()
    assert guess.foreground.grad is not None
    assert guess.distance.grad is not None
    assert (guess.distance.grad[cells == 0] == 0).all()
    assert (guess.foreground.grad[2] != 0).all()  # the image without objects teaches background


def test_nothing_is_learnt_where_nothing_is_known():
    ids = torch.from_numpy(np.stack([some_ids(7), some_ids(8)]))
    categories = torch.ones(2, 4, dtype=torch.long)
    known = torch.ones_like(ids, dtype=torch.bool)
    known[0, :, :16] = False
    known[1] = False
    truth = targets(ids, categories, known, 2)
    generator = torch.Generator().manual_seed(0)
    guess = Maps(
        torch.randn(truth.foreground.shape, generator=generator).requires_grad_(),
        torch.randn(truth.depth.shape, generator=generator).requires_grad_(),
        torch.zeros(1),
    )
    parts = DenseLoss()(guess, truth)
    assert all(torch.isfinite(v) for v in parts.values())
    sum(parts.values()).backward()
    assert guess.foreground.grad is not None
    assert guess.distance.grad is not None
    for gradient in (guess.foreground.grad[:, 0], guess.distance.grad):
        assert (gradient[0, :, :8] == 0).all()
        assert (gradient[1] == 0).all()
        assert (gradient[0, :, 8:] != 0).any()


def test_cells_are_not_moved():
    ids = torch.zeros(1, SIDE, SIDE, dtype=torch.long)
    ids[0, 7:20, 5:16] = 1
    known = torch.ones_like(ids, dtype=torch.bool)
    truth = targets(ids, torch.tensor([[1]]), known, 2)
    turned = targets(ids.flip(1, 2), torch.tensor([[1]]), known, 2)
    assert torch.equal(turned.foreground, truth.foreground.flip(2, 3))
    assert torch.allclose(turned.depth, truth.depth.flip(1, 2), atol=1e-6)


def test_objects_in_a_list_give_the_same_targets():
    ids = [some_ids(1), some_ids(2)]
    masks = [
        (row, torch.from_numpy(one == number)) for row, one in enumerate(ids) for number in np.unique(one[one > 0])
    ]
    objects = Instances(
        torch.stack([m for _, m in masks]),
        torch.tensor([r for r, _ in masks]),
        torch.ones(len(masks), dtype=torch.long),
    )
    known = torch.ones(2, SIDE, SIDE, dtype=torch.bool)
    wanted = targets(torch.from_numpy(np.stack(ids)), torch.ones(2, 4, dtype=torch.long), known, 2)
    found = targets_of(objects, known, 2)
    assert torch.equal(found.foreground, wanted.foreground)
    assert torch.equal(found.depth, wanted.depth)
    empty = targets_of(Instances.none(SIDE, SIDE), known, 2)
    assert float(empty.foreground.sum()) == 0


@pytest.mark.parametrize(
    ("diameters", "sides", "zoom"),
    [
        ([16.0] * 9, [512], 2.0),
        ([32.0, 31.0, 500.0], [1024], 1.0),
        ([4.0], [1024], 2.0),  # a canvas shows 128 pixels at least
        ([300.0], [1024], 0.25),  # and no image is smaller than the canvas
        ([64.0], [256], 1.0),
        ([], [512], 0.5),
    ],
)
def test_the_scale_is_chosen_by_the_usual_object(diameters: list[float], sides: list[int], zoom: float):
    assert zoom_for(diameters, sides, 256) == pytest.approx(zoom)
