"""Mask2Former on SAM's encoder, and those of transformers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation

from maskwright.engine.weights import load_state
from maskwright.errors import WeightsError
from maskwright.nets.instance import InstanceSegmenter, build, create
from maskwright.sam.sam import Sam


def small(labels: int = 2) -> Mask2FormerConfig:
    backbone = {
        "model_type": "swin",
        "embed_dim": 8,
        "depths": [1, 1, 1, 1],
        "num_heads": [1, 1, 2, 2],
        "window_size": 4,
    }
    return Mask2FormerConfig(
        backbone_config=backbone | {"out_features": ["stage1", "stage2", "stage3", "stage4"]},
        num_labels=labels,
        num_queries=7,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_layers=1,
        encoder_feedforward_dim=32,
        decoder_layers=3,
        dim_feedforward=32,
        num_attention_heads=4,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mask2former")
    torch.manual_seed(0)
    Mask2FormerForUniversalSegmentation(small()).save_pretrained(folder)
    return folder


def again(network: InstanceSegmenter, categories: int) -> InstanceSegmenter:
    """Built from its description as JSON, with its weights."""
    other = build(json.loads(json.dumps(network.description())), categories, network.size)
    load_state(other, network.state_dict(), "here")
    return other


@pytest.mark.parametrize("size", [64, 96])
def test_on_sams_encoder(any_sam: Sam, size: int):
    torch.manual_seed(0)
    network = create("sam", any_sam, 4, size, queries=11)
    images = torch.rand(2, 3, size, size)
    found = network(images)
    layers = found.classes.shape[0]
    assert found.classes.shape == (layers, 2, 11, 4)
    assert found.masks.shape == (layers, 2, 11, size // 4, size // 4)
    assert found.features.shape[0] == 2
    assert found.features.shape[2:] == (size // 4, size // 4)
    other = again(network, 4)(images)
    assert torch.equal(other.masks, found.masks)
    assert torch.equal(other.classes, found.classes)


def test_it_starts_from_a_copy_of_sams_encoder_and_all_of_it_learns(any_sam: Sam):
    network = create("sam", any_sam.requires_grad_(False), 2, 64)
    theirs = any_sam.model.vision_encoder.backbone.state_dict()
    mine = network.model.model.pixel_level_module.encoder.hiera.state_dict()
    assert all(torch.equal(mine[name], value) for name, value in theirs.items())
    found = network(torch.rand(1, 3, 64, 64))
    (found.masks.sum() + found.classes.sum() + found.features.sum()).backward()
    idle = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert idle == []
    assert all(parameter.grad is None for parameter in any_sam.parameters())
    assert {id(p) for p in network.pretrained()} < {id(p) for p in network.parameters()}


def test_a_place_is_part_of_the_features(any_sam: Sam):
    backbone = create("sam", any_sam, 2, 64).model.model.pixel_level_module.encoder
    maps = backbone(torch.zeros(1, 3, 64, 64)).feature_maps
    assert [m.shape[-1] for m in maps] == [16, 8, 4, 2]
    assert [m.shape[1] for m in maps] == backbone.channels
    places = maps[0][0, -4 * backbone.waves :].flatten(1).T
    distance = torch.cdist(places, places) + 9 * torch.eye(len(places))
    assert distance.min() > 0.05  # no two cells have the same


def test_one_of_transformers(folder: Path, tiny_sam: Sam):
    network = create(str(folder), tiny_sam, 3, 64)
    reference = Mask2FormerForUniversalSegmentation.from_pretrained(folder).eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        wanted = reference(pixel_values=(images - network.mean) / network.std)
        found = network(images)
    assert torch.allclose(found.masks[-1], wanted.masks_queries_logits, atol=1e-5)
    assert torch.allclose(found.classes[-1], wanted.class_queries_logits, atol=1e-5)
    assert torch.allclose(again(network, 3)(images).masks, found.masks, atol=1e-5)


def test_another_number_of_categories_gets_a_new_head_alone(folder: Path, tiny_sam: Sam):
    network = create(str(folder), tiny_sam, 6, 64)
    assert network(torch.rand(1, 3, 64, 64)).classes.shape == (3, 1, 7, 6)
    reference = Mask2FormerForUniversalSegmentation.from_pretrained(folder)
    mine = network.model.model.state_dict()
    assert all(torch.equal(mine[name], value) for name, value in reference.model.state_dict().items())


def test_a_bare_configuration(tmp_path: Path, tiny_sam: Sam):
    small(9).to_json_file(tmp_path / "config.json")
    network = create(str(tmp_path / "config.json"), tiny_sam, 3, 64)
    assert network(torch.rand(1, 3, 64, 64)).classes.shape == (3, 1, 7, 3)


def test_what_is_no_mask2former_is_refused(tmp_path: Path, tiny_sam: Sam, tiny_sam_folder: Path):
    for source in (str(tmp_path / "none"), str(tiny_sam_folder)):
        with pytest.raises(WeightsError, match="Mask2Former"):
            create(source, tiny_sam, 3, 64)
    with pytest.raises(WeightsError, match=r"segmenter.type: must be one of 'mask2former', found 'x'"):
        build({"type": "x"}, 3, 64)
