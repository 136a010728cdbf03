"""A dense instance segmenter: maps of what is an object and how deep inside it each place lies, on a copy of SAM's image encoder.

Queries that start from nothing need many images before each finds an object of its own. A map is learnt from every pixel, so a few
dozen labelled images are enough. Objects are read off the maps by :mod:`maskwright.methods.instances.grouping`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from maskwright.data.schema import Fields, OneOf, Real, Whole
from maskwright.errors import WeightsError
from maskwright.nets.answer_maps import doubled
from maskwright.sam.config_fields import Complete
from maskwright.sam.pretrained import build_model, closed
from maskwright.sam.sam import MEAN, STD, Sam
from maskwright.sam.trunks import TRUNK_TYPES, trunk_of

CATEGORY_HEADS = ("foreground.",)
"""Beginnings of the names of the tensors that have one row for each category but the background."""

_FINE = 48  # channels of the finest level, where the maps are drawn
_LATERAL = 32  # channels that the trunk's own map of stride 2 is narrowed to


@dataclass(frozen=True)
class Maps:
    """What a dense segmenter makes of B images; cells of stride 2.

    Attributes:
        foreground: (B, C - 1, H/2, W/2) logits of the categories but the background (category c in channel c - 1); above 0 = on an
            object of it.
        distance: (B, H/2, W/2) logits; their sigmoid is the distance to the border of the object, divided by the object's largest.
        features: (B, D, H/4, W/4), what the maps of stride 2 are drawn from.
    """

    foreground: Tensor
    distance: Tensor
    features: Tensor

    @property
    def probability(self) -> Tensor:
        """(B, C - 1, H/2, W/2) of each category, 0..1."""
        return self.foreground.float().sigmoid()

    @property
    def depth(self) -> Tensor:
        """(B, H/2, W/2) distance to the border as a share of the object's largest, 0..1."""
        return self.distance.float().sigmoid()


class DenseSegmenter(nn.Module):
    """A feature pyramid on a trunk of SAM 2, and two kinds of maps at stride 2.

    Levels are narrowed to ``width`` channels and summed from coarse to fine down to stride 4; the trunk's map of stride 2, where it
    has one, joins at the end. Group normalisation, as batches are small. Nothing in it is random but its initialisation.

    Args:
        trunk: of SAM 2, as ``transformers`` holds it.
        categories: number of categories, background included (C).
        size: side of the square canvas that it is trained on; it takes any canvas of sides that are multiples of 32.
        zoom: pixels of the canvas along a pixel of the image, in training and in use.
        width: channels of the pyramid, a multiple of 8.
    """

    mean: Tensor
    std: Tensor
    trunk: Any

    def __init__(self, trunk: nn.Module, categories: int, size: int, zoom: float, width: int = 64) -> None:
        super().__init__()
        self.trunk, self.categories, self.size, self.zoom, self.width = trunk, categories, size, zoom, width
        asked = trunk_of(trunk)
        self.narrow = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in asked.widths)
        self.refine = nn.ModuleList(_conv(width, width) for _ in asked.widths)
        lateral = _LATERAL if asked.fine_width else 0
        self.lateral = nn.Conv2d(asked.fine_width, lateral, 1) if asked.fine_width else None
        self.fine = nn.Sequential(_conv(width + lateral, _FINE), _conv(_FINE, _FINE))
        self.foreground = nn.Conv2d(_FINE, categories - 1, 1)
        self.distance = nn.Conv2d(_FINE, 1, 1)
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(STD)[:, None, None], persistent=False)
        self.eval()

    def forward(self, images: Tensor) -> Maps:
        """(B, 3, H, W) in 0..1, both sides multiples of 32."""
        found = self.trunk((images.float() - self.mean) / self.std)
        # The trunk may compute in half precision; all else does not.
        stages = [stage.permute(0, 3, 1, 2).float() for stage in found.intermediate_hidden_states]
        x: Tensor | None = None
        for stage, narrow, refine in reversed(list(zip(stages, self.narrow, self.refine, strict=True))):
            level = narrow(stage)
            x = refine(level if x is None else level + doubled(x))
        assert x is not None
        fine = doubled(x)
        if self.lateral is not None:
            fine = torch.cat([fine, self.lateral(found.stride_2.permute(0, 3, 1, 2).float())], 1)
        fine = self.fine(fine)
        return Maps(self.foreground(fine), self.distance(fine)[:, 0], x)

    def description(self) -> dict[str, Any]:
        """What ``build`` needs to make this network again, as JSON."""
        return {"type": "dense", "encoder": closed(self.trunk.config), "width": self.width, "zoom": self.zoom}

    def pretrained(self) -> list[nn.Parameter]:
        """The trunk's parameters, which learn at a lower rate."""
        return list(self.trunk.parameters())

    @property
    def backbone(self) -> nn.Module:
        """The image encoder below the pyramid."""
        return self.trunk


def _conv(inside: int, outside: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inside, outside, 3, padding=1, bias=False), nn.GroupNorm(8, outside), nn.ReLU(inplace=True)
    )


def create(sam: Sam, categories: int, size: int, zoom: float) -> DenseSegmenter:
    """A segmenter to be trained, on a copy of SAM's image encoder; arguments as of :class:`DenseSegmenter`."""
    trunk = copy.deepcopy(sam.model.vision_encoder.backbone).float().requires_grad_(True)
    return DenseSegmenter(trunk, categories, size, zoom)


DESCRIPTION = Fields(
    {
        "type": OneOf(("dense",)),
        "encoder": Complete(TRUNK_TYPES),
        "width": Whole(8, 1024, step=8),
        "zoom": Real(1 / 64, 64),
    }
)
"""What a ``description()`` is."""


def build(description: Mapping[str, Any], categories: int, size: int) -> DenseSegmenter:
    """An untrained segmenter with the architecture in a ``description()``; its weights are loaded afterwards.

    Raises:
        WeightsError: no network can be built from the description.
    """
    if problems := list(DESCRIPTION.problems(description, "segmenter")):
        raise WeightsError("; ".join(problems))
    trunk = build_model(description["encoder"], "the segmenter's encoder", TRUNK_TYPES)
    return DenseSegmenter(trunk, categories, size, description["zoom"], description["width"])
