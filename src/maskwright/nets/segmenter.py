"""Semantic segmenters, the models that training exports: images in, one logit per category and cell of a stride-4 grid out."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import SegformerForSemanticSegmentation

from maskwright.data.schema import Fields, OneOf, Whole
from maskwright.errors import WeightsError
from maskwright.sam.config_fields import Complete
from maskwright.sam.pretrained import Family, build_model, closed, config_of, load_config, load_pretrained, written_out
from maskwright.sam.pyramid import feature_pyramid
from maskwright.sam.sam import MEAN, STD, Sam

SEGFORMER = Family(
    SegformerForSemanticSegmentation,
    "SegFormer",
    "Give 'sam', a Hugging Face id, a folder with config.json and model.safetensors, or a config.json to start from random weights.",
    # The head may be missing, or be one that classifies whole images; the encoder must be complete.
    replaced={
        "missing_keys": ("decode_head.",),
        "mismatched_keys": ("decode_head.classifier.",),
        "unexpected_keys": ("classifier.",),
    },
)

CATEGORY_HEADS = ("head.", "model.decode_head.classifier.")
"""Beginnings of the names of the tensors that have one row for each category."""


class Segmenter(nn.Module):
    """Base of the semantic segmenters.

    Attributes:
        categories: number of categories, background included.
        size: side of the square canvas the network was trained on.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, categories: int, size: int) -> None:
        super().__init__()
        self.categories = categories
        self.size = size
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(STD)[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) in 0..1 → logits (B, C, S/4, S/4); category 0 is background."""
        return self.logits((images - self.mean) / self.std)

    def logits(self, pixels: Tensor) -> Tensor:
        """Normalised pixels → logits at stride 4."""
        raise NotImplementedError

    def description(self) -> dict[str, Any]:
        """What ``build`` needs to make this network again, as JSON."""
        raise NotImplementedError

    def pretrained(self) -> list[nn.Parameter]:
        """The parameters that start from pretrained weights (they learn at a lower rate)."""
        raise NotImplementedError


class SamSegmenter(Segmenter):
    """A copy of SAM's image encoder with a light decoder (after SAM2-UNet: Xiong et al. 2024).

    The pyramid's three levels are narrowed, refined by one convolution each and summed from coarse to fine.
    """

    encoder: Any

    def __init__(self, encoder: nn.Module, categories: int, size: int, width: int = 64) -> None:
        super().__init__(categories, size)
        self.encoder = encoder
        self.width = width
        pyramid = self.encoder.config.fpn_hidden_size
        self.narrow = nn.ModuleList(nn.Conv2d(pyramid, width, 1) for _ in range(3))
        self.refine = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(8, width), nn.GELU()) for _ in range(3)
        )
        self.head = nn.Conv2d(width, categories, 1)

    @classmethod
    def of(cls, sam: Sam, categories: int, size: int) -> SamSegmenter:
        """Start from the weights of ``sam``'s image encoder (before adapters are added)."""
        return cls(copy.deepcopy(sam.model.vision_encoder).requires_grad_(True), categories, size)

    def logits(self, pixels: Tensor) -> Tensor:
        stages = self.encoder.backbone(pixels).intermediate_hidden_states
        levels = feature_pyramid(self.encoder.neck, stages)
        x = None
        for level, narrow, refine in zip(levels, self.narrow, self.refine):
            y = narrow(level)
            x = refine(y if x is None else y + F.interpolate(x, y.shape[-2:], mode="bilinear", align_corners=False))
        return self.head(x)

    def description(self) -> dict[str, Any]:
        return {"type": "sam", "encoder": closed(self.encoder.config), "width": self.width}

    def pretrained(self) -> list[nn.Parameter]:
        return list(self.encoder.parameters())


class SegFormerSegmenter(Segmenter):
    """Any SegFormer of ``transformers``; its logits are at stride 4 already.

    Dropout stays off and batch normalisation keeps its statistics (evaluation mode, as ``from_pretrained`` leaves a model), so that
    nothing random depends on anything but the seed.
    """

    def __init__(self, model: SegformerForSemanticSegmentation, categories: int, size: int) -> None:
        super().__init__(categories, size)
        self.model = model

    @classmethod
    def of(cls, source: str, categories: int, size: int) -> SegFormerSegmenter:
        """Start from pretrained weights, or from a bare configuration.

        Args:
            source: a Hugging Face id, a folder with config.json and model.safetensors, or a config.json itself (random weights).
            categories: a decode head with another number of them, or none, is made anew.

        Raises:
            WeightsError: not found, damaged, or not the weights of a SegFormer.
        """
        name = f"--segmenter {source}"
        if source.endswith(".json"):
            config = load_config(SEGFORMER, source, name, num_labels=categories)
            return cls(SegformerForSemanticSegmentation(config).eval(), categories, size)
        model = load_pretrained(SEGFORMER, source, name, num_labels=categories)
        return cls(model, categories, size)

    def logits(self, pixels: Tensor) -> Tensor:
        return self.model(pixel_values=pixels).logits

    def description(self) -> dict[str, Any]:
        return {"type": "segformer", "config": closed(self.model.config)}

    def pretrained(self) -> list[nn.Parameter]:
        return list(self.model.segformer.parameters())


def create(name: str, sam: Sam, categories: int, size: int) -> Segmenter:
    """A segmenter to be trained: ``"sam"`` (a copy of SAM's encoder) or a SegFormer's id or folder."""
    return SamSegmenter.of(sam, categories, size) if name == "sam" else SegFormerSegmenter.of(name, categories, size)


@dataclass(frozen=True)
class _Description:
    """What a ``description()`` may be, by its type."""

    known: Mapping[str, Fields]

    def problems(self, value: Any, place: str) -> Iterator[str]:
        stated = value.get("type") if isinstance(value, Mapping) else None
        if isinstance(stated, str) and stated in self.known:
            yield from self.known[stated].problems(value, place)
        else:
            yield f"{place}.type: {stated!r} is an unknown segmenter type; this version knows: {', '.join(self.known)}"


ENCODERS = ("sam2_vision_model",)

DESCRIPTION = _Description(
    {
        "sam": Fields({"type": OneOf(("sam",)), "encoder": Complete(ENCODERS), "width": Whole(8, 4096)}),
        "segformer": Fields({"type": OneOf(("segformer",)), "config": Complete(("segformer",))}),
    }
)
"""What a ``description()`` is."""


def completed(description: Any) -> Any:
    """A ``description()`` of version 1 of the model format, which left out defaults of ``transformers``, as it is now.

    Raises:
        WeightsError: a configuration that is not allowed to be built.
    """
    match description:
        case {"type": "sam", "encoder": encoder}:
            return {**description, "encoder": written_out(encoder, "the segmenter's encoder", ENCODERS)}
        case {"type": "segformer", "config": config}:
            return {**description, "config": written_out(config, "the segmenter", ("segformer",))}
    return description


def build(description: Mapping[str, Any], categories: int, size: int) -> Segmenter:
    """An untrained segmenter with the architecture in a ``description()``; its weights are loaded afterwards.

    Raises:
        WeightsError: no network can be built from the description.
    """
    if problems := list(DESCRIPTION.problems(description, "segmenter")):
        raise WeightsError("; ".join(problems))
    if description["type"] == "sam":
        encoder = build_model(description["encoder"], "the segmenter's encoder", ENCODERS)
        return SamSegmenter(encoder, categories, size, description["width"])
    config = config_of(description["config"], "the segmenter", SEGFORMER, num_labels=categories)
    return SegFormerSegmenter(SegformerForSemanticSegmentation(config), categories, size)
