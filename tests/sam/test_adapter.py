"""Adapters: nothing changes until they learn, and nothing else learns."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from maskwright.errors import WeightsError
from maskwright.sam.adapter import Adapter, adapter_state, add_adapters, load_adapters
from maskwright.sam.sam import Sam
from maskwright.sam.trunks import Trunk, trunk_of
from maskwright.sam.trunks.hiera import HieraBlock


def picture() -> torch.Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def adapters(sam: Sam) -> list[Adapter]:
    return [module for module in sam.modules() if isinstance(module, Adapter)]


def modules(trunk: Trunk, stage: int) -> list[Any]:
    """What holds the adapters of a stage's blocks: a Hiera's MLPs, the blocks of any other trunk."""
    return [block.module.mlp if isinstance(block, HieraBlock) else block for block in trunk.blocks_of(stage)]


def stirred(sam: Sam) -> Sam:
    """With adapters that do something."""
    with torch.no_grad():
        for name, tensor in adapter_state(sam).items():
            tensor.normal_(generator=torch.Generator().manual_seed(len(name)))
    return sam


@torch.no_grad()
def test_a_fresh_adapter_changes_nothing(any_sam: Sam):
    before = any_sam.encode(picture())
    add_adapters(any_sam)
    after = any_sam.encode(picture())
    for level in ("high0", "high1", "low"):
        assert torch.equal(getattr(before, level), getattr(after, level))
    assert not torch.allclose(stirred(any_sam).encode(picture()).low, before.low, atol=1e-3)


@pytest.mark.parametrize("stages", [1, 2, 4])
def test_they_sit_in_the_last_stages_and_alone_learn(any_sam: Sam, stages: int):
    parameters = add_adapters(any_sam, stages=stages)
    trunk = trunk_of(any_sam.model.vision_encoder.backbone)
    expected = {id(module) for stage in range(4 - stages, 4) for module in modules(trunk, stage)}
    adapted = [module for stage in range(4) for module in modules(trunk, stage) if hasattr(module, "adapter")]
    assert {id(module) for module in adapted if module.adapter is not None} == expected
    trainable = {name: p for name, p in any_sam.named_parameters() if p.requires_grad}
    assert all(".adapter." in name for name in trainable)
    assert {id(p) for p in trainable.values()} == {id(p) for p in parameters}
    any_sam.encode(picture()).low.square().mean().backward()
    assert len(adapters(any_sam)) == len(expected)
    assert all(adapter.up.weight.grad.abs().sum() > 0 for adapter in adapters(any_sam))
    assert all(p.grad is None for name, p in any_sam.named_parameters() if name not in trainable)


def test_the_bottleneck_is_a_share_of_the_blocks_width(any_sam: Sam):
    add_adapters(any_sam, ratio=0.5, scale=0.2)
    trunk = trunk_of(any_sam.model.vision_encoder.backbone)
    widths = [block.width for stage in (2, 3) for block in trunk.blocks_of(stage)]
    for adapter, width in zip(adapters(any_sam), widths, strict=True):
        assert (adapter.down.in_features, adapter.down.out_features, adapter.scale) == (width, width // 2, 0.2)


@torch.no_grad()
def test_on_a_trunk_of_convolutions_an_adapter_adds_to_what_its_block_passes_on(tiny_lite_sam: Sam):
    pixels = tiny_lite_sam.normalise(picture())
    before = tiny_lite_sam.backbone(pixels)[-1]
    add_adapters(tiny_lite_sam, stages=1)
    (last,) = adapters(stirred(tiny_lite_sam))
    torch.testing.assert_close(tiny_lite_sam.backbone(pixels)[-1], before + last(before))


@torch.no_grad()
def test_state_round_trip(any_sam: Sam):
    add_adapters(any_sam)
    state = {name: tensor.clone() for name, tensor in adapter_state(stirred(any_sam)).items()}
    other = Sam.from_config(any_sam.model.config)
    assert adapter_state(other) == {}
    add_adapters(other)
    load_adapters(other, state)
    assert torch.equal(other.encode(picture()).low, any_sam.encode(picture()).low)


def test_adapters_that_do_not_fit_are_named(any_sam: Sam):
    add_adapters(any_sam)
    state = {name: tensor.clone() + 1 for name, tensor in adapter_state(any_sam).items()}
    kept = {name: tensor.clone() for name, tensor in adapter_state(any_sam).items()}
    gone = next(iter(state))
    with pytest.raises(WeightsError) as caught:
        load_adapters(any_sam, {**{k: v for k, v in state.items() if k != gone}, "foreign": torch.zeros(1)})
    assert gone in str(caught.value)
    assert "foreign" in str(caught.value)
    last = list(state)[-1]
    with pytest.raises(WeightsError, match="needs"):
        load_adapters(any_sam, state | {last: torch.zeros(3, 3)})
    assert all(torch.equal(tensor, kept[name]) for name, tensor in adapter_state(any_sam).items())


def test_a_second_set_is_refused(any_sam: Sam):
    add_adapters(any_sam)
    with pytest.raises(WeightsError, match="has adapters already"):
        add_adapters(any_sam)
