"""What several tests share and pytest's fixtures cannot give: functions that take arguments."""

from __future__ import annotations

from typing import Any

from transformers import Sam2VideoConfig

import maskwright.sam.trunks  # noqa: F401  the trunks must be registered before a configuration can name them

TINY_SIZE = 64


def tiny_config() -> Sam2VideoConfig:
    """SAM 2's architecture at 64 pixels with every width at its smallest (memory channels are 64 in any SAM 2)."""
    hiera = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 8,
        "image_size": [TINY_SIZE, TINY_SIZE],
        "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 1, 1, 1],
        "window_size_per_stage": [4, 4, 4, 2],
        "global_attention_blocks": [3],
    }
    return _tiny(hiera, [64, 32, 16, 8])


def tiny_lite_config() -> Sam2VideoConfig:
    """The same on an EfficientNet-Lite of seven blocks, with both sizes of kernel and short cuts in two stages."""
    lite = {
        "model_type": "efficientnet_lite",
        "stem_channels": 8,
        "out_channels": [4, 8, 12, 16, 24],
        "num_block_repeats": [1, 1, 2, 2, 1],
        "strides": [1, 2, 2, 2, 2],
        "kernel_sizes": [3, 3, 5, 3, 5],
        "expand_ratios": [1, 2, 2, 2, 2],
        "image_size": [TINY_SIZE, TINY_SIZE],
    }
    return _tiny(lite, [24, 16, 12, 8])


def _tiny(trunk: dict[str, Any], widths: list[int]) -> Sam2VideoConfig:
    width, size = 64, TINY_SIZE
    return Sam2VideoConfig(
        image_size=size,
        vision_config={
            "model_type": "sam2_vision_model",
            "backbone_config": trunk,
            "backbone_channel_list": widths,
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
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
        memory_attention_rope_feat_sizes=[4, 4],
        memory_attention_dropout=0.0,
        memory_attention_rope_dropout=0.0,
        memory_encoder_hidden_size=width,
        mask_downsampler_embed_dim=width,
        memory_fuser_num_layers=1,
        memory_fuser_embed_dim=width,
        memory_fuser_intermediate_dim=64,
    )
