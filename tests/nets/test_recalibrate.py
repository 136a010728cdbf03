"""SRM: each image for itself, any size, either branch, and a mask that it can learn."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from maskwright.nets.recalibrate import SelfAttention, SemanticRecalibration, recalibration_loss
from maskwright.sam.sam import Embedding


def inputs(batch: int, height: int = 6, width: int = 7, seed: int = 0) -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(seed)
    features = torch.randn(batch, 16, height, width, generator=g)
    return features, torch.rand(batch, height, width, generator=g), torch.rand(batch, height, width, generator=g)


def answer(net: SemanticRecalibration, maps: tuple[torch.Tensor, ...], rows: slice = slice(None)) -> torch.Tensor:
    features, mask, semantic = (x[rows] for x in maps)
    return net(features, mask, semantic if net.branch == "explicit" else None)


@pytest.fixture(params=["implicit", "explicit", "implicit, unmasked", "explicit, unmasked"])
def net(request) -> SemanticRecalibration:
    torch.manual_seed(1)
    branch, _, unmasked = request.param.partition(", ")
    return SemanticRecalibration(16, branch, hidden=16, unmasked=bool(unmasked))


@torch.no_grad()
def test_an_image_does_not_know_its_neighbours(net) -> None:
    maps = inputs(5)
    together = answer(net, maps)
    assert together.shape == (5, 6, 7)
    alone = torch.cat([answer(net, maps, slice(i, i + 1)) for i in range(5)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    # Also in training mode, and with neighbours that are nothing like it.
    net.train()
    changed = tuple(torch.cat([x[:1], 100 * x[1:]]) for x in maps)
    torch.testing.assert_close(answer(net, changed)[0], together[0], atol=1e-5, rtol=1e-5)


def test_nothing_is_normalised_over_the_batch(net) -> None:
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in net.modules())


@torch.no_grad()
def test_any_size_and_translation(net) -> None:
    for height, width in ((4, 4), (16, 16), (9, 20)):
        assert answer(net, inputs(2, height, width)).shape == (2, height, width)


@torch.no_grad()
def test_what_each_branch_sees(net) -> None:
    features, mask, semantic = inputs(2)
    reference = answer(net, (features, mask, semantic))
    # Where both maps are zero the features are out of sight.
    hidden = torch.ones(6, 7)
    hidden[:3] = 0
    maps = (features, mask * hidden, semantic * hidden)
    other = (torch.where(hidden == 0, torch.randn_like(features), features), *maps[1:])
    # Unless F itself is an input.
    assert torch.allclose(answer(net, maps), answer(net, other), atol=1e-5) == (not net.unmasked)
    moved = answer(net, (features, mask, semantic.flip(1)))
    assert torch.equal(moved, reference) == (net.branch == "implicit")


def test_a_map_too_many_or_too_few() -> None:
    features, mask, semantic = inputs(1)
    with pytest.raises(ValueError, match="implicit branch takes no semantic map"):
        SemanticRecalibration(16, "implicit", 16)(features, mask, semantic)
    with pytest.raises(ValueError, match="explicit branch needs a semantic map"):
        SemanticRecalibration(16, "explicit", 16)(features, mask)
    with pytest.raises(ValueError, match="unknown branch 'both'"):
        SemanticRecalibration(16, "both", 16)  # type: ignore[arg-type]


@torch.no_grad()
def test_attention_equals_torchs_own() -> None:
    torch.manual_seed(2)
    own = SelfAttention(16, 4)
    theirs = nn.MultiheadAttention(16, 4, batch_first=True)
    theirs.in_proj_weight.copy_(own.project.weight[:, :, 0, 0])
    theirs.in_proj_bias.copy_(own.project.bias)
    theirs.out_proj.weight.copy_(own.out.weight[:, :, 0, 0])
    theirs.out_proj.bias.copy_(own.out.bias)
    x = torch.randn(3, 16, 4, 5)
    tokens = own.norm(x).flatten(2).transpose(1, 2)
    expected = x + theirs(tokens, tokens, tokens, need_weights=False)[0].transpose(1, 2).unflatten(2, (4, 5))
    torch.testing.assert_close(own(x), expected, atol=1e-5, rtol=1e-5)


def test_loss_by_hand_and_with_unknown_places() -> None:
    logits = torch.tensor([[[0.0, 2.0], [-2.0, 5.0]]])
    target = torch.tensor([[[1.0, 1.0], [0.0, 255.0]]])
    p = logits.sigmoid()[0].flatten()[:3]
    y = torch.tensor([1.0, 1.0, 0.0])
    dice = 1 - (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1)
    expected = dice + F.binary_cross_entropy(p, y)
    assert float(recalibration_loss(logits, target)) == pytest.approx(float(expected), rel=1e-5)
    other = torch.tensor([[[0.0, 2.0], [-2.0, -5.0]]])
    assert float(recalibration_loss(other, target)) == pytest.approx(float(expected), rel=1e-5)


def test_it_learns_what_its_maps_show(net) -> None:
    """Foreground = a channel of the features above zero, seen through a mask of ones (and a map that is the foreground)."""
    features, _, _ = inputs(8, 8, 8)
    target = (F.avg_pool2d(features[:, :1], 3, 1, 1) > 0).float()[:, 0]
    maps = (features, torch.ones(8, 8, 8), 0.5 + 0.5 * target)
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    first = float(recalibration_loss(answer(net, maps), target).detach())
    for _ in range(80):
        loss = recalibration_loss(answer(net, maps), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.35 * first
    assert ((answer(net, maps) > 0) == (target > 0)).float().mean() > 0.95


def test_fine_features_are_both_levels_place_by_place() -> None:
    """A place of F is beside the 2 x 2 places of the finer level that lie in it, and no others."""
    g = torch.Generator().manual_seed(0)
    embedding = Embedding(torch.zeros(2, 2, 24, 28), torch.randn(2, 4, 12, 14, generator=g), torch.randn(2, 16, 6, 7))
    plain, fine = (SemanticRecalibration(16, "implicit", 16, unmasked=True, fine=fine) for fine in (False, True))
    assert torch.equal(plain.features(embedding), embedding.low)
    found = fine.features(embedding)
    assert found.shape == (2, 32, 6, 7)
    assert torch.equal(found[:, :16], embedding.low)
    expected = embedding.high1[:, :, 6:8, 10:12].flatten(1)
    assert torch.equal(found[:, 16:, 3, 5], expected)
    again = SemanticRecalibration(**fine.description())
    again.load_state_dict(fine.state_dict())
    assert again(found, torch.rand(2, 6, 7)).shape == (2, 6, 7)


def test_description_makes_it_again(net) -> None:
    again = SemanticRecalibration(**net.description())
    again.load_state_dict(net.state_dict())
    maps = inputs(2)
    assert torch.equal(answer(again, maps), answer(net, maps))
