"""The smallest models that tests can predict with: a random SAM encoder, and a network that sees nothing but colour."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Sam2VideoConfig

from maskwright.engine.run import save_model
from maskwright.nets.segmenter import SamSegmenter, Segmenter
from maskwright.sam.sam import Sam

CATEGORIES = ("background", "red", "blue")


def tiny_config(size: int = 64) -> Sam2VideoConfig:
    """SAM 2 at 64 pixels with about 0.2 M parameters; memory channels cannot be below 64."""
    grid, width = size // 16, 64
    return Sam2VideoConfig(
        image_size=size,
        vision_config={
            "model_type": "sam2_vision_model",
            "backbone_config": {
                "model_type": "sam2_hiera_det_model",
                "hidden_size": 8,
                "image_size": [size, size],
                "blocks_per_stage": [1, 1, 1, 1],
                "embed_dim_per_stage": [8, 16, 32, 64],
                "num_attention_heads_per_stage": [1, 2, 4, 8],
                "window_size_per_stage": [4, 4, 4, 2],
                "global_attention_blocks": [2],
            },
            "backbone_channel_list": [64, 32, 16, 8],
            "backbone_feature_sizes": [[4 * grid] * 2, [2 * grid] * 2, [grid] * 2],
            "fpn_hidden_size": width,
        },
        prompt_encoder_config={"hidden_size": width, "image_size": size},
        mask_decoder_config={
            "hidden_size": width,
            "mlp_dim": 64,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 32,
        },
        memory_attention_hidden_size=width,
        memory_attention_num_layers=1,
        memory_attention_feed_forward_hidden_size=64,
        memory_attention_rope_feat_sizes=[grid, grid],
        memory_encoder_hidden_size=width,
        mask_downsampler_embed_dim=width,
        memory_fuser_embed_dim=width,
        memory_fuser_intermediate_dim=64,
    )


def tiny_sam(seed: int = 0) -> Sam:
    return Sam.from_config(tiny_config(), seed=seed)


def tiny_segmenter(seed: int = 0) -> SamSegmenter:
    torch.manual_seed(seed)
    return SamSegmenter.of(tiny_sam(seed), len(CATEGORIES), 64)


def model_config(segmenter: Segmenter, **changed: Any) -> dict[str, Any]:
    config = {
        "format": "maskwright-segmenter",
        "version": 1,
        "recipe": "samix",
        "categories": list(CATEGORIES),
        "size": segmenter.size,
        "segmenter": segmenter.description(),
    }
    return config | changed


def save_run(folder: Path, segmenter: Segmenter | None = None, **changed: Any) -> Path:
    """A run directory with nothing in it but the model."""
    segmenter = segmenter or tiny_segmenter()
    save_model(folder / "model", segmenter.state_dict(), model_config(segmenter, **changed), "# card")
    return folder


class Colours(Segmenter):
    """Category 1 where it is red, 2 where it is blue, else background; sharp, so that a pixel's colour decides."""

    def __init__(self, size: int = 64) -> None:
        super().__init__(len(CATEGORIES), size)
        self.sharpness = nn.Parameter(torch.tensor(100.0))

    def logits(self, pixels: Tensor) -> Tensor:
        red, _, blue = F.avg_pool2d(pixels * self.std + self.mean, 4).unbind(1)
        return self.sharpness * torch.stack([torch.zeros_like(red), red - blue - 0.5, blue - red - 0.5], 1)
