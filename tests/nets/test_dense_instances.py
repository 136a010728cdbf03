"""The dense segmenter on each trunk: shapes, what learns, and that its description makes it again."""

from __future__ import annotations

import json

import pytest
import torch

from maskwright.engine.weights import load_state
from maskwright.errors import WeightsError
from maskwright.nets.dense_instances import build, create
from maskwright.sam.sam import Sam
from maskwright.sam.trunks import trunk_of


@pytest.mark.parametrize(("height", "width"), [(64, 64), (32, 96)])
def test_maps_and_description(any_sam: Sam, height: int, width: int):
    torch.manual_seed(0)
    network = create(any_sam, 4, 64, 1.5)
    images = torch.rand(2, 3, height, width)
    maps = network(images)
    assert maps.foreground.shape == (2, 3, height // 2, width // 2)
    assert maps.distance.shape == (2, height // 2, width // 2)
    assert maps.features.shape == (2, 64, height // 4, width // 4)
    again = build(json.loads(json.dumps(network.description())), 4, 64)
    load_state(again, network.state_dict(), "here")
    assert again.zoom == 1.5
    assert torch.equal(again(images).foreground, maps.foreground)


def test_it_starts_from_a_copy_of_sams_encoder_and_all_of_it_learns(any_sam: Sam):
    network = create(any_sam.requires_grad_(False), 2, 64, 1.0)
    theirs = any_sam.model.vision_encoder.backbone.state_dict()
    assert all(torch.equal(network.trunk.state_dict()[name], value) for name, value in theirs.items())
    maps = network(torch.rand(1, 3, 64, 64))
    (maps.foreground.sum() + maps.distance.sum()).backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []
    assert all(parameter.grad is None for parameter in any_sam.parameters())
    assert {id(p) for p in network.pretrained()} < {id(p) for p in network.parameters()}


def test_the_finest_map_is_looked_at_where_the_trunk_has_one(tiny_sam: Sam, tiny_lite_sam: Sam):
    assert create(tiny_sam, 2, 64, 1.0).lateral is None
    lite = create(tiny_lite_sam, 2, 64, 1.0)
    assert lite.lateral is not None
    shown = lite.trunk(torch.zeros(1, 3, 64, 64)).stride_2
    assert shown.shape == (1, 32, 32, trunk_of(lite.trunk).fine_width)


def test_descriptions_that_are_wrong(tiny_lite_sam: Sam):
    right = create(tiny_lite_sam, 2, 64, 1.0).description()
    for changed, message in {
        "zoom": r"segmenter.zoom: must be a number from",
        "width": "segmenter.width: must be a multiple of 8",
        "type": "must be one of 'dense'",
    }.items():
        with pytest.raises(WeightsError, match=message):
            build({**right, changed: -1}, 2, 64)
