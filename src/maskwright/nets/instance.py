"""Instance segmenters: Mask2Former (Cheng et al., CVPR 2022) of ``transformers``, or a small one on a copy of SAM's image encoder."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation
from transformers.modeling_outputs import BackboneOutput
from transformers.models.mask2former.modeling_mask2former import Mask2FormerPixelDecoder

from maskwright.data.schema import Fields, Maybe, OneOf
from maskwright.errors import WeightsError
from maskwright.sam.config_fields import Complete
from maskwright.sam.pretrained import (
    Family,
    build_model,
    closed,
    config_of,
    load_config,
    load_pretrained,
    quiet_transformers,
    written_out,
)
from maskwright.sam.sam import MEAN, STD, Sam
from maskwright.sam.trunks import TRUNK_TYPES, trunk_of

# Parts that depend on the number of categories; they are made anew for another number of them.
_HEADS = ("class_predictor.", "criterion.")

CATEGORY_HEADS = ("model.class_predictor.",)
"""Beginnings of the names of the tensors that have one row for each category but the background, and one for "no object"."""

MASK2FORMER = Family(
    Mask2FormerForUniversalSegmentation,
    "Mask2Former",
    "Give 'sam', a Hugging Face id, a folder with config.json and model.safetensors, or a config.json to start from random weights.",
    replaced=dict.fromkeys(("missing_keys", "mismatched_keys", "unexpected_keys"), _HEADS),
)


@dataclass(frozen=True)
class Queries:
    """A segmenter's output for B images: Q queries after each of L decoder layers; the last layer is the prediction.

    Attributes:
        classes: (L, B, Q, C) logits of the C - 1 categories (category c in column c - 1), then of "no object".
        masks: (L, B, Q, S/4, S/4) logits; above 0 = on the object.
        features: (B, D, S/4, S/4) pixel embeddings that the masks are made of.
    """

    classes: Tensor
    masks: Tensor
    features: Tensor


class InstanceSegmenter(nn.Module):
    """A Mask2Former that takes images in 0..1.

    Stays in evaluation mode (no dropout, no drop path), so that nothing random depends on anything but the seed.

    Args:
        model: the network; its built-in loss (``criterion``) is not used and is removed.
        categories: number of categories, background included (C).
        size: side of the square canvas that it is trained on.
        encoder: what its backbone is: ``None`` for one of transformers, else the configuration of SAM's trunk as JSON.
    """

    mean: Tensor
    std: Tensor
    model: Any

    def __init__(self, model: nn.Module, categories: int, size: int, encoder: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.model = model
        # Loss and matching are in methods/instances/set_loss.py: it handles a batch at once and averages over all processes.
        self.model.criterion = None
        self.categories = categories
        self.size = size
        self.encoder = encoder
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(STD)[:, None, None], persistent=False)
        self.eval()

    def forward(self, images: Tensor) -> Queries:
        """(B, 3, S, S) in 0..1, S a multiple of 32, → queries of all layers."""
        # Deformable attention is not safe in half precision.
        with torch.autocast(images.device.type, enabled=False):
            output = self.model(
                pixel_values=(images.float() - self.mean) / self.std, output_auxiliary_logits=True, return_dict=True
            )
        layers = output.auxiliary_logits
        return Queries(
            torch.stack([*(layer["class_queries_logits"] for layer in layers), output.class_queries_logits]),
            torch.stack([*(layer["masks_queries_logits"] for layer in layers), output.masks_queries_logits]),
            output.pixel_decoder_last_hidden_state,
        )

    def description(self) -> dict[str, Any]:
        """What ``build`` needs to make this network again, as JSON."""
        return {
            "type": "mask2former",
            "config": closed(self.model.config),
            "encoder": self.encoder,
        }

    def pretrained(self) -> list[nn.Parameter]:
        """The backbone's parameters, which learn at a lower rate."""
        return list(self.backbone.parameters())

    @property
    def backbone(self) -> nn.Module:
        """The image encoder below the pixel decoder."""
        return self.model.model.pixel_level_module.encoder


class TrunkBackbone(nn.Module):
    """A trunk of SAM 2 as Mask2Former wants a backbone: four feature maps at strides 4, 8, 16 and 32, and where each cell lies.

    Masks are dot products of a query with every pixel's features. Two cells of equal look can get different masks only if their
    features hold their position. A network takes long to learn that from scratch, so sines of the position are appended to every map.
    """

    hiera: Any
    """The trunk. Exported models name their tensors by this attribute, whatever trunk it is, since it could be a Hiera only."""

    def __init__(self, trunk: nn.Module, waves: int = 5) -> None:
        super().__init__()
        self.hiera = trunk
        self.waves = waves

    @property
    def channels(self) -> list[int]:
        return [width + 4 * self.waves for width in trunk_of(self.hiera).widths]

    def forward(self, pixel_values: Tensor) -> Any:
        """Normalised (B, 3, S, S) → a backbone's output with ``feature_maps`` (B, C_s, S/s, S/s)."""
        stages = [stage.permute(0, 3, 1, 2) for stage in self.hiera(pixel_values).intermediate_hidden_states]
        maps: Any = tuple(torch.cat([stage, self._places(stage)], 1) for stage in stages)
        return BackboneOutput(feature_maps=maps)

    def _places(self, maps: Tensor) -> Tensor:
        """(B, 4 · waves, h, w): sine and cosine of x and y, half a wave over the canvas, then twice as many each."""
        height, width = maps.shape[-2:]
        x = (torch.arange(width, device=maps.device, dtype=maps.dtype) + 0.5) / width
        y = (torch.arange(height, device=maps.device, dtype=maps.dtype) + 0.5) / height
        waves = torch.pi * 2 ** torch.arange(self.waves, device=maps.device)
        across, down = waves[:, None] * x, waves[:, None] * y
        across = torch.cat([across.sin(), across.cos()])[:, None].expand(-1, height, -1)
        down = torch.cat([down.sin(), down.cos()])[:, :, None].expand(-1, -1, width)
        return torch.cat([across, down])[None].expand(len(maps), -1, -1, -1)


def small_config(categories: int, queries: int) -> Mask2FormerConfig:
    """The small Mask2Former of ``"sam"``: for machines without a network or a GPU.

    Swin is named because the configuration must name a backbone; the one that is built from it is thrown away at once.
    """
    tiny = {"model_type": "swin", "embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1], "window_size": 4}
    settings: dict[str, Any] = {"num_labels": categories - 1}
    return Mask2FormerConfig(
        **settings,
        backbone_config=tiny | {"out_features": ["stage1", "stage2", "stage3", "stage4"]},
        num_queries=queries,
        feature_size=64,
        mask_feature_size=64,
        hidden_dim=64,
        encoder_layers=2,
        encoder_feedforward_dim=128,
        decoder_layers=4,  # of which the first is the answer of the queries before any attention
        dim_feedforward=256,
        num_attention_heads=4,
    )


def create(name: str, sam: Sam, categories: int, size: int, queries: int = 50) -> InstanceSegmenter:
    """A segmenter to be trained.

    Args:
        name: ``"sam"`` (small, on a copy of SAM's image encoder); a Mask2Former's Hugging Face id or folder; or its config.json, to
            start from random weights.
        categories: with background.
        queries: number of queries of ``"sam"``; for the others their configuration says it.

    Raises:
        WeightsError: not found, damaged, or not the weights of a Mask2Former.
    """
    if name == "sam":
        trunk = copy.deepcopy(sam.model.vision_encoder.backbone).float().requires_grad_(True)
        return _on_trunk(trunk, small_config(categories, queries), categories, size)
    if name.endswith(".json"):
        config = load_config(MASK2FORMER, name, f"--segmenter {name}", num_labels=categories - 1)
        return InstanceSegmenter(Mask2FormerForUniversalSegmentation(config), categories, size)
    model = load_pretrained(MASK2FORMER, name, f"--segmenter {name}", num_labels=categories - 1)
    return InstanceSegmenter(model, categories, size)


DESCRIPTION = Fields(
    {"type": OneOf(("mask2former",)), "config": Complete(("mask2former",)), "encoder": Maybe(Complete(TRUNK_TYPES))}
)
"""What a ``description()`` is."""


def completed(description: Any) -> Any:
    """A ``description()`` of version 1 of the model format, which left out defaults of ``transformers``, as it is now.

    Raises:
        WeightsError: a configuration that is not allowed to be built.
    """
    match description:
        case {"type": "mask2former", "config": config, "encoder": encoder}:
            if encoder is not None:
                encoder = written_out(encoder, "the segmenter's encoder", TRUNK_TYPES)
            config = written_out(config, "the segmenter", ("mask2former",))
            return {**description, "config": config, "encoder": encoder}
    return description


def build(description: Mapping[str, Any], categories: int, size: int) -> InstanceSegmenter:
    """An untrained segmenter with the architecture in a ``description()``; its weights are loaded afterwards.

    Raises:
        WeightsError: no network can be built from the description.
    """
    if problems := list(DESCRIPTION.problems(description, "segmenter")):
        raise WeightsError("; ".join(problems))
    config = config_of(description["config"], "the segmenter", MASK2FORMER, num_labels=categories - 1)
    encoder = description["encoder"]
    if encoder is None:
        return InstanceSegmenter(Mask2FormerForUniversalSegmentation(config), categories, size)
    return _on_trunk(build_model(encoder, "the segmenter's encoder", TRUNK_TYPES), config, categories, size)


def _on_trunk(trunk: Any, config: Mask2FormerConfig, categories: int, size: int) -> InstanceSegmenter:
    """A new Mask2Former on a trunk of SAM's."""
    with quiet_transformers():  # it would warn of every backbone but Swin
        model = Mask2FormerForUniversalSegmentation(config)
    backbone = TrunkBackbone(trunk)
    decoder = Mask2FormerPixelDecoder(config, feature_channels=backbone.channels)
    decoder.apply(model._init_weights)
    level: Any = model.model.pixel_level_module
    level.encoder, level.decoder = backbone, decoder
    return InstanceSegmenter(model, categories, size, closed(trunk.config))
