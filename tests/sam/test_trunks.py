"""What may be asked of a trunk, of each of them; and the weights that stand on EfficientNet-Lite0."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from maskwright.data.scenes import render
from maskwright.sam.info import info
from maskwright.sam.precompute import signature
from maskwright.sam.prompts import Prompts
from maskwright.sam.pyramid import feature_pyramid
from maskwright.sam.sam import Sam
from maskwright.sam.trunks import TRUNK_TYPES, trunk_of

NANO_LITE = Path(__file__).parents[3] / "shared" / "nano" / "model"


def picture(count: int = 2) -> Tensor:
    return torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_widths_are_those_of_the_maps_and_of_the_last_blocks(any_sam: Sam):
    trunk = trunk_of(any_sam.model.vision_encoder.backbone)
    maps = trunk.network(any_sam.normalise(picture())).intermediate_hidden_states
    assert [tuple(m.shape) for m in maps] == [(2, 64 // s, 64 // s, w) for s, w in zip((4, 8, 16, 32), trunk.widths)]
    assert tuple(trunk.blocks_of(stage)[-1].width for stage in range(4)) == trunk.widths
    assert tuple(any_sam.model.config.vision_config.backbone_channel_list) == trunk.widths[::-1]


def test_stages_share_out_all_blocks_in_order(any_sam: Sam):
    trunk = trunk_of(any_sam.model.vision_encoder.backbone)
    blocks = [getattr(block, "module", block) for stage in range(4) for block in trunk.blocks_of(stage)]
    assert blocks == list(any_sam.model.vision_encoder.backbone.blocks)
    assert len(trunk.blocks_of(-1)) == len(trunk.blocks_of(3))
    with pytest.raises(IndexError):
        trunk.blocks_of(4)


@torch.no_grad()
def test_an_adapter_changes_the_stage_it_sits_in_and_none_before(any_sam: Sam):
    trunk = trunk_of(any_sam.model.vision_encoder.backbone)
    pixels = any_sam.normalise(picture())
    before = any_sam.backbone(pixels)
    block = trunk.blocks_of(2)[0]
    block.attach(nn.Linear(block.width, block.width))
    after = any_sam.backbone(pixels)
    assert [torch.equal(a, b) for a, b in zip(before, after)] == [True, True, False, False]


def test_a_fresh_trunk_passes_the_image_on(any_sam: Sam):
    """Random weights neither drown the features nor lose them on the way down."""
    trunk = trunk_of(any_sam.model.vision_encoder.backbone)
    torch.manual_seed(0)
    trunk.initialise()
    for stage in any_sam.backbone(any_sam.normalise(picture())):
        assert 0.1 < stage.std() < 10
        assert stage.var(0).mean() > 0


def test_what_is_no_trunk():
    with pytest.raises(
        TypeError, match="Linear is no trunk of a SAM 2; these are: sam2_hiera_det_model, efficientnet_lite"
    ):
        trunk_of(nn.Linear(2, 2))


@pytest.mark.parametrize("kind", TRUNK_TYPES)
def test_transformers_knows_them(kind: str):
    with torch.device("meta"):
        network = AutoModel.from_config(AutoConfig.for_model(kind))
    assert network.config.model_type == kind
    assert len(trunk_of(network).widths) == 4


@torch.no_grad()
@pytest.mark.parametrize("levels", [[2, 3], [0, 1, 2, 3], []])
def test_the_pyramid_is_that_of_transformers_to_the_bit(any_sam: Sam, levels: list[int]):
    neck = any_sam.model.vision_encoder.neck
    neck.fpn_top_down_levels = levels
    stages = any_sam.backbone(any_sam.normalise(picture()))
    theirs, _ = neck(stages)
    assert all(torch.equal(ours, level) for ours, level in zip(feature_pyramid(neck, stages), theirs[-3:], strict=True))


def test_embeddings_are_told_apart_by_trunk_and_by_what_no_tensor_tells(
    tiny_sam: Sam, tiny_lite_sam: Sam, tmp_path: Path
):
    assert signature(tiny_sam) != signature(tiny_lite_sam)
    tiny_lite_sam.model.save_pretrained(tmp_path)
    loaded, again = Sam.load(tmp_path), Sam.load(tmp_path)
    assert signature(loaded) == signature(again)
    again.model.config.vision_config.backbone_config.batch_norm_eps = 1e-5
    assert signature(loaded) != signature(again)


def test_info_names_the_trunk(any_sam: Sam, tmp_path: Path):
    any_sam.model.save_pretrained(tmp_path)
    facts = info(tmp_path, repeats=1)
    trunk = any_sam.model.vision_encoder.backbone
    assert (facts["trunk"], tuple(facts["trunk_widths"])) == (trunk.config.model_type, trunk_of(trunk).widths)


# ------------------------------------------------------------------------------------------------------ published weights


@pytest.fixture(scope="module")
def nano_lite() -> Sam:
    if not NANO_LITE.is_dir():
        pytest.skip(f"the weights on EfficientNet-Lite0 ({NANO_LITE}) are not here")
    return Sam.load(NANO_LITE).requires_grad_(False)


@torch.no_grad()
def test_a_box_on_a_picture_is_answered(nano_lite: Sam):
    """Rendered scenes with light, texture and blur; the largest object of each. An ellipse in the box is worth about .75 here."""
    scenes = render(16, 256, seed=99, difficulty=0.3)
    ids = scenes.instances
    area = torch.stack([(ids == k).flatten(1).sum(1) for k in range(1, int(ids.max()) + 1)], 1)
    masks = ids == (area.argmax(1) + 1)[:, None, None]
    columns, rows = masks.any(1).numpy(), masks.any(2).numpy()
    boxes = torch.tensor(
        [
            [np.flatnonzero(c)[0], np.flatnonzero(r)[0], np.flatnonzero(c)[-1] + 1, np.flatnonzero(r)[-1] + 1]
            for c, r in zip(columns, rows)
        ]
    )
    answer = nano_lite.decode(nano_lite.encode(scenes.images), Prompts.of_boxes(boxes[:, None].float())).best[:, 0] > 0
    truth = F.interpolate(masks[:, None].float(), answer.shape[-2:], mode="area")[:, 0] > 0.5
    iou = (answer & truth).flatten(1).sum(1) / (answer | truth).flatten(1).sum(1)
    assert iou.mean() > 0.6, iou


def test_small_enough_to_ship(nano_lite: Sam):
    assert (NANO_LITE / "model.safetensors").stat().st_size <= 12e6
    assert 4e6 < sum(p.numel() for p in nano_lite.parameters()) < 5e6
