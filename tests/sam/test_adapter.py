"""Adapters: nothing changes until they learn, and nothing else learns."""

from __future__ import annotations

import pytest
import torch

from maskwright.errors import WeightsError
from maskwright.sam.adapter import AdaptedMlp, adapter_state, add_adapters, load_adapters
from maskwright.sam.sam import Sam
from tests.helpers import tiny_config


def picture() -> torch.Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def stirred(sam: Sam) -> Sam:
    """With adapters that do something."""
    with torch.no_grad():
        for name, tensor in adapter_state(sam).items():
            tensor.normal_(generator=torch.Generator().manual_seed(len(name)))
    return sam


@torch.no_grad()
def test_a_fresh_adapter_changes_nothing(tiny_sam: Sam):
    before = tiny_sam.encode(picture())
    add_adapters(tiny_sam)
    after = tiny_sam.encode(picture())
    for level in ("high0", "high1", "low"):
        assert torch.equal(getattr(before, level), getattr(after, level))
    assert not torch.allclose(stirred(tiny_sam).encode(picture()).low, before.low, atol=1e-3)


@pytest.mark.parametrize("stages", [1, 2, 4])
def test_they_sit_in_the_last_stages_and_alone_learn(tiny_sam: Sam, stages: int):
    parameters = add_adapters(tiny_sam, stages=stages)
    backbone = tiny_sam.model.vision_encoder.backbone
    first = 0 if stages == len(backbone.stage_ends) else backbone.stage_ends[-1 - stages] + 1
    assert [isinstance(block.mlp, AdaptedMlp) for block in backbone.blocks] == [
        i >= first for i in range(len(backbone.blocks))
    ]
    trainable = {name: p for name, p in tiny_sam.named_parameters() if p.requires_grad}
    assert all(".adapter." in name for name in trainable)
    assert {id(p) for p in trainable.values()} == {id(p) for p in parameters}
    tiny_sam.encode(picture()).low.square().mean().backward()
    assert all(block.mlp.adapter.up.weight.grad.abs().sum() > 0 for block in backbone.blocks[first:])
    assert all(p.grad is None for name, p in tiny_sam.named_parameters() if name not in trainable)


def test_the_bottleneck_is_a_share_of_the_blocks_width(tiny_sam: Sam):
    add_adapters(tiny_sam, ratio=0.5, scale=0.2)
    adapter = tiny_sam.model.vision_encoder.backbone.blocks[-1].mlp.adapter
    assert (adapter.down.in_features, adapter.down.out_features, adapter.scale) == (64, 32, 0.2)


@torch.no_grad()
def test_state_round_trip(tiny_sam: Sam):
    add_adapters(tiny_sam)
    state = {name: tensor.clone() for name, tensor in adapter_state(stirred(tiny_sam)).items()}
    other = Sam.from_config(tiny_config())
    assert adapter_state(other) == {}
    add_adapters(other)
    load_adapters(other, state)
    assert torch.equal(other.encode(picture()).low, tiny_sam.encode(picture()).low)


def test_adapters_that_do_not_fit_are_named(tiny_sam: Sam):
    add_adapters(tiny_sam)
    state = {name: tensor.clone() + 1 for name, tensor in adapter_state(tiny_sam).items()}
    kept = {name: tensor.clone() for name, tensor in adapter_state(tiny_sam).items()}
    gone = next(iter(state))
    with pytest.raises(WeightsError) as caught:
        load_adapters(tiny_sam, {**{k: v for k, v in state.items() if k != gone}, "foreign": torch.zeros(1)})
    assert gone in str(caught.value)
    assert "foreign" in str(caught.value)
    last = list(state)[-1]
    with pytest.raises(WeightsError, match="needs"):
        load_adapters(tiny_sam, state | {last: torch.zeros(3, 3)})
    assert all(torch.equal(tensor, kept[name]) for name, tensor in adapter_state(tiny_sam).items())


def test_a_second_set_is_refused(tiny_sam: Sam):
    add_adapters(tiny_sam)
    with pytest.raises(WeightsError, match="has adapters already"):
        add_adapters(tiny_sam)
