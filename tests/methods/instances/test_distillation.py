"""Structural distillation: against the naive way, on grids of any shape, and zero where features are equal."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from maskwright.methods.instances.distillation import (
    distillation_loss,
    query_points,
    sam_similarities,
    similarities,
)
from maskwright.sam.click_grid import cell_numbers
from maskwright.sam.prompts import Prompts
from maskwright.sam.sam import Sam


def tapped(sam: Sam, embedding, prompts: Prompts) -> torch.Tensor:
    """The second output of the mask decoder's transformer, while the whole decoder runs."""
    caught = []
    hook = sam.model.mask_decoder.transformer.register_forward_hook(lambda _, __, out: caught.append(out[1]))
    sam.decode(embedding, prompts, multimask=True)
    hook.remove()
    return caught[0]


@torch.no_grad()
def test_the_tap_is_what_the_decoder_sees(tiny_sam: Sam):
    embedding = tiny_sam.encode(torch.rand(2, 3, 64, 64))
    points = torch.rand(2, 5, 1, 2) * 64
    prompts = Prompts.of_points(points, torch.ones(2, 5, 1, dtype=torch.long))
    wanted = tapped(tiny_sam, embedding, prompts)
    assert torch.allclose(tiny_sam.attend(embedding, prompts).flatten(0, 1), wanted[:, 0], atol=1e-5)


@torch.no_grad()
def test_batched_similarities_equal_the_naive_loop(tiny_sam: Sam):
    embedding = tiny_sam.encode(torch.rand(2, 3, 64, 64))
    points = torch.rand(2, 7, 2) * 64
    found = sam_similarities(tiny_sam, embedding, points, 64, chunk=4)
    assert found.shape == (2, 7, 16)
    for row in range(2):
        for number in range(7):
            click = Prompts.of_points(points[row, number].view(1, 1, 1, 2), torch.ones(1, 1, 1, dtype=torch.long))
            tokens = tapped(tiny_sam, embedding[[row]], click)[0, 0]
            x, y = (points[row, number] / 16).long().tolist()
            own = F.cosine_similarity(tokens[y * 4 + x][None], tokens, dim=1)
            assert torch.allclose(found[row, number], own, atol=1e-5)


@settings(deadline=None, max_examples=25)
@given(
    st.integers(1, 3), st.integers(2, 5), st.integers(2, 5), st.integers(1, 4), st.integers(1, 4), st.integers(0, 999)
)
def test_equal_features_give_zero(batch: int, height: int, width: int, points: int, zoom: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(batch, 6, height, width, generator=generator)
    places = torch.rand(batch, points, 2, generator=generator) * 64
    cells = cell_numbers(places, (64, 64), (height, width))
    tokens = features.flatten(2).transpose(1, 2)
    target = similarities(tokens[:, None].expand(-1, points, -1, -1), cells)
    assert target.shape == (batch, points, height * width)
    fine = features.repeat_interleave(zoom, 2).repeat_interleave(zoom, 3)
    loss = distillation_loss(features, target, places, 64, (height, width))
    assert loss.item() == pytest.approx(0, abs=1e-10)
    if zoom in (1, 2, 4):  # then bilinear resizing takes the same values back
        assert distillation_loss(fine, target, places, 64, (height, width)) < 1e-8


def test_a_cell_is_where_the_click_is_on_the_canvas():
    # Not square: rows count first.
    points = torch.tensor([[[0.5, 0.5], [63.9, 0.5], [0.5, 31.9], [63.9, 31.9]]])
    assert cell_numbers(points, (32, 64), (2, 4)).tolist() == [[0, 3, 4, 7]]
    assert cell_numbers(torch.tensor([[64.0, 32.0]]), (32, 64), (2, 4)).tolist() == [7]


def test_the_loss_is_huber_and_pulls():
    features = torch.randn(1, 4, 3, 3, requires_grad=True)
    target = torch.full((1, 2, 9), 0.3)
    points = torch.tensor([[[5.0, 5.0], [40.0, 40.0]]])
    loss = distillation_loss(features, target, points, 48, (3, 3))
    own = similarities(features.flatten(2).transpose(1, 2), cell_numbers(points, (48, 48), (3, 3)))
    error = (own - target).abs()
    wanted = torch.where(error < 1, error**2 / 2, error - 0.5).mean()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-6)
    loss.backward()
    assert features.grad is not None
    assert features.grad.abs().sum() > 0


def test_features_of_zeros_are_no_trouble():
    features = torch.zeros(1, 4, 3, 3, requires_grad=True)
    points = torch.tensor([[[5.0, 5.0]]])
    loss = distillation_loss(features, torch.zeros(1, 1, 9), points, 48, (3, 3))
    loss.backward()
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()


def test_half_of_the_points_are_on_objects():
    inside = torch.zeros(3, 32, 32, dtype=torch.bool)
    inside[:, 4:28, 4:28] = True
    objects = torch.zeros_like(inside)
    objects[0, 8:20, 8:20] = True  # more than enough
    objects[1, 8:10, 8:11] = True  # six pixels
    points = query_points(objects, inside, torch.Generator().manual_seed(0), 40)
    assert points.shape == (3, 40, 2)
    assert ((points - 0.5) == (points - 0.5).round()).all()  # centres of pixels
    x, y = (points - 0.5).long().unbind(-1)
    rows = torch.arange(3)[:, None].expand(-1, 40)
    assert inside[rows, y, x].all()
    on = objects[rows, y, x]
    assert on[0, :20].all()
    assert on[1, :20].sum() == 6
    assert not on[2].any()
    assert not on[0, 20:].all()


def test_points_are_found_even_where_next_to_nothing_is_valid():
    inside = torch.zeros(1, 8, 8, dtype=torch.bool)
    inside[0, 0, 0] = True
    points = query_points(inside, inside, torch.Generator().manual_seed(0), 10)
    assert points.shape == (1, 10, 2)
    assert [0.5, 0.5] in points[0].tolist()
