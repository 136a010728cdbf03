"""What SAMIX trains, at which rates, and how often it sees each image."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from maskwright.data.labels import Kind
from maskwright.engine.session import rated_groups
from maskwright.nets.segmenter import Segmenter
from maskwright.sam.adapter import add_adapters
from maskwright.sam.sam import Sam

DRAWS = {Kind.MASK: 1.0, Kind.SCRIBBLE: 1.0, Kind.BOX: 6.0, Kind.POINT: 1.0, Kind.TAG: 0.5, Kind.NONE: 0.5}
"""How often an image of each kind is drawn, relative to each other: what its pseudo-mask is worth."""


def sampling_weights(kinds: Tensor, mask_share: float) -> list[float]:
    """Weights with which images are drawn: finer weak labels come more often, and masks fill at least ``mask_share`` of the batches.

    Args:
        kinds: (N,) kind of each training image's finest label.
        mask_share: 0..1.
    """
    weight = torch.tensor([DRAWS[Kind(kind)] for kind in kinds.tolist()])
    is_mask = kinds == Kind.MASK
    masks, others = weight[is_mask].sum(), weight[~is_mask].sum()
    if not masks or not others or masks / (masks + others) >= mask_share:
        return weight.tolist()
    return torch.where(is_mask, weight * mask_share / masks, weight * (1 - mask_share) / others).tolist()


def trainable_parameters(sam: Sam, tune_decoder: bool) -> list[nn.Parameter]:
    """Add adapters to a frozen SAM; returns them and, with ``tune_decoder``, all that follows the encoder's trunk."""
    parameters = add_adapters(sam)
    if tune_decoder:
        model = sam.model
        for module in (model.mask_decoder, model.memory_attention, model.memory_encoder, model.vision_encoder.neck):
            parameters += module.requires_grad_(True).parameters()
    return parameters


def sam_optimizer(sam: Sam, parameters: list[nn.Parameter], rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW: adapters at ``rate``, the rest of SAM's ``parameters`` at a quarter of it."""
    adapters = [parameter for name, parameter in sam.named_parameters() if ".adapter." in name]
    groups = rated_groups([(adapters, rate), (_without(parameters, adapters), rate / 4)])
    return torch.optim.AdamW(groups, weight_decay=weight_decay)


def segmenter_optimizer(segmenter: Segmenter, rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW: new layers at ``rate``, pretrained ones at half of it."""
    pretrained = segmenter.pretrained()
    groups = rated_groups([(pretrained, rate / 2), (_without(segmenter.parameters(), pretrained), rate)])
    return torch.optim.AdamW(groups, weight_decay=weight_decay)


def _without(parameters: Iterable[nn.Parameter], others: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """The parameters that are not among ``others``, in order."""
    left_out = {id(parameter) for parameter in others}
    return [parameter for parameter in parameters if id(parameter) not in left_out]
