"""Where a SAM comes from: bundled, Hugging Face, a folder, an official file; and how one is made from scratch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Sam2VideoConfig, Sam2VideoModel

from maskwright.errors import WeightsError
from maskwright.sam import convert as official
from maskwright.sam.pretrained import Family, load_pretrained
from maskwright.sam.sources import BUNDLED, CHOICES, require_source
from maskwright.sam.trunks import trunk_of

EARLIER = {"94b6ec187793214d0e9401774ccd5e4d966c4f0381bc52a8575035872ae25d7b": "the `nano` of maskwright 0.1.0"}
"""Signatures (``store.weights_signature``) of weights that were bundled once: models trained for them name them."""

SAM2 = Family(
    Sam2VideoModel,
    "SAM 2 video model",
    f"{CHOICES}.",
)


def load_model(source: str | Path) -> tuple[Sam2VideoModel, str]:
    """The network in float32 on the CPU, in evaluation mode, and its name. See ``Sam.load``."""
    require_source(source)
    name = str(source)
    if name in BUNDLED:
        return load_pretrained(SAM2, BUNDLED[name], name), name
    path = Path(source).expanduser()
    if path.suffix == ".pt":
        folder = path.with_suffix("")
        _convert_once(path, folder)
        return load_pretrained(SAM2, folder, name), name
    if path.is_dir() or path.is_absolute() or name.startswith((".", "~")):
        return load_pretrained(SAM2, path, name), name
    return load_pretrained(SAM2, name, name), name


def _convert_once(path: Path, folder: Path) -> None:
    """Convert an official file beside itself. Of several processes that do so at once, the first one's result stays."""
    weights = folder / "model.safetensors"
    if weights.is_file():
        return
    try:
        official.convert(path, folder)
    except WeightsError:
        # The folder appears by one rename, so if another process was faster it is complete.
        if not weights.is_file():
            raise


def initialise(model: Sam2VideoModel, seed: int = 0) -> Sam2VideoModel:
    """Make a freshly built network trainable from scratch, in place.

    Two repairs to ``transformers``' initialisation, without which the decoder ignores its prompts: the prompts' position code is
    tied to the image's, and layers get PyTorch's own initialisation instead of N(0, 0.02), which is too small for narrow layers.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d | nn.LayerNorm):
                module.reset_parameters()
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight)
        trunk_of(model.vision_encoder.backbone).initialise()
        parameters: list[Tensor] = [
            model.memory_temporal_positional_encoding,
            model.no_memory_embedding,
            model.no_object_pointer,
        ]
        if model.occlusion_spatial_embedding_parameter is not None:
            parameters.append(model.occlusion_spatial_embedding_parameter)
        for parameter in parameters:
            nn.init.normal_(parameter, std=0.02)
        fuser: Any = model.memory_encoder.memory_fuser
        for layer in fuser.layers:
            nn.init.constant_(layer.scale, 0.1)
        shared = model.shared_image_embedding.positional_embedding
        nn.init.normal_(shared)
        with torch.no_grad():
            model.prompt_encoder.shared_embedding.positional_embedding.copy_(shared)
    return model.eval()


def nano_config() -> Sam2VideoConfig:
    """The bundled model's architecture: SAM 2 at 256 pixels on an EfficientNet-Lite0, 4.5 M parameters.

    The trunk is one whose ImageNet weights can be had without a hub. The feature pyramid is connected top-down on all levels, which
    helps a small encoder.
    """
    width = 128
    return Sam2VideoConfig(
        image_size=256,
        vision_config={
            "model_type": "sam2_vision_model",
            "backbone_config": {"model_type": "efficientnet_lite", "image_size": [256, 256]},
            "backbone_channel_list": [320, 112, 40, 24],
            "backbone_feature_sizes": [[64, 64], [32, 32], [16, 16]],
            "fpn_hidden_size": width,
            "fpn_top_down_levels": [0, 1, 2, 3],
        },
        prompt_encoder_config={"hidden_size": width, "image_size": 256},
        mask_decoder_config={
            "hidden_size": width,
            "mlp_dim": 256,
            "num_attention_heads": 4,
            "iou_head_hidden_dim": 128,
        },
        memory_attention_hidden_size=width,
        memory_attention_num_layers=2,
        memory_attention_feed_forward_hidden_size=256,
        memory_attention_rope_feat_sizes=[16, 16],
        memory_attention_dropout=0.0,
        memory_attention_rope_dropout=0.0,
        memory_encoder_hidden_size=width,
        mask_downsampler_embed_dim=width,
        memory_fuser_embed_dim=width,
        memory_fuser_intermediate_dim=256,
    )
