"""What the bundled SAM learns from: views, prompts drawn on them, and the loss that gets a decoder to listen."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor


@pytest.fixture
def views(script: Callable[[str, str], ModuleType]) -> ModuleType:
    return script("tools", "nano_views")


@pytest.fixture
def training(script: Callable[[str, str], ModuleType]) -> ModuleType:
    return script("tools", "pretrain_nano")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def two_discs(size: int = 64, batch: int = 3) -> Tensor:
    """(B,S,S): object 1, and object 2 that touches it."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    ids = torch.zeros(size, size, dtype=torch.long)
    for number, centre in ((1, 20), (2, 36)):
        ids[((x - centre) ** 2 + (y - 30) ** 2) < 10**2] = number
    return ids.expand(batch, -1, -1)


def photographs(count: int) -> Tensor:
    return torch.randint(256, (count, 3, 80, 80), generator=seeded(7)).byte()


def test_a_relief_shows_its_objects_by_their_borders(views: ModuleType):
    ids = two_discs(batch=24)
    flat = torch.full((24, 3, 80, 80), 128, dtype=torch.uint8)
    pictures = views.relief(ids, flat, seeded())
    assert pictures.shape == (24, 3, 64, 64)
    assert pictures.min() >= 0
    assert pictures.max() <= 1
    assert torch.equal(pictures, views.relief(ids, flat, seeded()))
    across = (pictures[..., 1:] - pictures[..., :-1]).abs().mean(1)
    border = ids[..., 1:] != ids[..., :-1]
    assert across[border].mean() > 1.5 * across[~border].mean()
    # Where two objects touch there is a crease too, and nowhere a picture in which nothing was drawn.
    between = (ids[..., 1:] > 0) & (ids[..., :-1] > 0) & border
    assert across[between].mean() > 1.5 * across[~border].mean()
    empty = views.relief(torch.zeros_like(ids), flat, seeded())
    assert not torch.equal(pictures, empty)


def test_a_collage_keeps_the_outlines(views: ModuleType):
    ids = two_discs()
    pictures = views.collage(torch.rand(3, 3, 64, 64, generator=seeded()), ids, photographs(4), seeded())
    assert pictures.shape == (3, 3, 64, 64)
    assert 0 <= pictures.min() <= pictures.max() <= 1


def test_a_view_moves_picture_and_ids_alike(views: ModuleType):
    ids = two_discs().to(torch.int16)
    images = (ids * 100).byte()[:, None].expand(-1, 3, -1, -1)
    view, moved = views.augment(images, ids, 32, (0.5, 1.0), seeded())
    assert view.shape == (3, 3, 32, 32)
    inner = torch.nn.functional.max_pool2d(moved[:, None].float(), 3, 1, 1)[:, 0] == moved
    inner &= -torch.nn.functional.max_pool2d(-moved[:, None].float(), 3, 1, 1)[:, 0] == moved
    # One is interpolated, the other is not: they may differ at a border that was folded back from the edge.
    off = (view[:, 0][inner] - moved[inner] * 100 / 255).abs() > 0.02
    assert off.float().mean() < 0.01


def test_prompts_are_on_their_objects(views: ModuleType):
    ids = two_discs()
    targets, chosen, valid = views.choose_objects(ids, 4, seeded())
    assert valid.all()
    assert set(chosen.flatten().tolist()) <= {1, 2}
    assert torch.equal(targets, ids[:, None] == chosen[:, :, None, None])
    assert not views.choose_objects(torch.zeros_like(ids), 4, seeded())[2].any()
    for seed in range(6):
        column = views.sample_in(targets, seeded(seed)).long()
        assert targets.flatten(2).gather(2, (column[..., 1] * 64 + column[..., 0])[..., None]).all()
    exact = views.boxes_of(targets, seeded(), jitter=0.0)
    for number in (1, 2):
        y, x = (ids[0] == number).nonzero(as_tuple=True)
        box = [int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1]
        assert exact[chosen == number].tolist() == [box] * int((chosen == number).sum())
    jittered = views.boxes_of(targets, seeded(), jitter=0.5)
    assert (jittered[..., 2:] - jittered[..., :2] > 1.99).all()
    assert jittered.min() >= 0
    assert jittered.max() <= 64


def test_a_decoder_that_ignores_its_prompts_pays(training: ModuleType):
    """K equal answers cost log K, whatever they say of the foreground; answers that listen cost next to nothing."""
    ids = two_discs(32, 2)
    area = torch.stack([ids == 1, ids == 2], 1).float()
    valid = torch.ones(2, 2, dtype=torch.bool)
    for deaf in (torch.zeros(2, 2, 32, 32), (ids > 0).float()[:, None].expand(-1, 2, -1, -1) * 20 - 10):
        assert float(training.contrast_loss(deaf, area, valid)) == pytest.approx(math.log(2), abs=1e-4)
    assert float(training.contrast_loss(area * 20 - 10, area, valid)) < 1e-3
    # An image with one prompt has nothing to tell apart.
    valid[:, 1] = False
    assert float(training.contrast_loss(torch.zeros(2, 2, 32, 32), area, valid)) == 0


def test_pixels_of_one_object_attract(training: ModuleType):
    ids = two_discs(32, 2)
    apart = torch.nn.functional.one_hot(ids, 3).permute(0, 3, 1, 2).float()
    alike = torch.nn.functional.normalize(torch.ones_like(apart), dim=1)
    assert training.dense_loss(apart, ids, seeded()) < training.dense_loss(alike, ids, seeded())
