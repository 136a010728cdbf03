"""A network from ``Sam.from_config`` can be trained from scratch: it over-fits a dozen prompts, which needs prompts to be heard."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from transformers import Sam2VideoConfig, Sam2VisionConfig

from maskwright.data.scenes import render
from maskwright.nets.losses import sam_loss
from maskwright.sam.prompts import Prompts
from maskwright.sam.sam import Sam
from maskwright.sam.weights import nano_config


def on_hiera() -> Sam2VideoConfig:
    """The bundled architecture on a small Hiera: norms that are frozen, as those of its own trunk are, learn slowly from random weights."""
    config = nano_config()
    config.vision_config = Sam2VisionConfig(
        backbone_config={
            "model_type": "sam2_hiera_det_model",
            "hidden_size": 32,
            "image_size": [256, 256],
            "blocks_per_stage": [1, 2, 4, 1],
            "embed_dim_per_stage": [32, 64, 128, 256],
            "num_attention_heads_per_stage": [1, 2, 4, 8],
            "window_size_per_stage": [8, 4, 8, 8],
            "global_attention_blocks": [4, 5, 6],
        },
        backbone_channel_list=[256, 128, 64, 32],
        backbone_feature_sizes=[[64, 64], [32, 32], [16, 16]],
        fpn_hidden_size=128,
        fpn_top_down_levels=[0, 1, 2, 3],
    )
    return config


@pytest.mark.slow
def test_over_fits_boxes():
    torch.manual_seed(0)
    scenes = render(6, 128, seed=5, difficulty=0.3, max_objects=6)
    ids = scenes.instances
    area = torch.stack([(ids == k).flatten(1).sum(1) for k in range(1, 7)], 1)
    chosen = area.topk(3, 1).indices + 1
    targets = ids[:, None] == chosen[:, :, None, None]
    valid = targets.flatten(2).sum(-1) > 250  # 16 cells of the answer, at least
    boxes = torch.zeros(6, 3, 4)
    for i in range(6):
        for k in range(3):
            if valid[i, k]:
                y, x = targets[i, k].nonzero(as_tuple=True)
                boxes[i, k] = torch.tensor([x.min(), y.min(), x.max() + 1, y.max() + 1])
    sam = Sam.from_config(on_hiera(), size=128).train()
    optimizer = torch.optim.AdamW(sam.parameters(), lr=1e-3)
    truth = F.interpolate(targets.float(), (32, 32), mode="area")
    for _ in range(160):
        masks = sam.decode(sam.encode(scenes.images), Prompts.of_boxes(boxes, valid))
        loss = sam_loss(masks.logits, masks.iou, truth, valid.float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    answer, hard = masks.logits[:, :, 0] > 0, truth > 0.5
    iou = ((answer & hard).sum((2, 3)) / (answer | hard).sum((2, 3)).clamp(min=1))[valid]
    assert len(iou) >= 6
    assert iou.mean() > 0.85, iou
