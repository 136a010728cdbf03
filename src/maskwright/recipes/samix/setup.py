"""SAMIX before the first step: its training images and how often each is sampled, the trainable parameters and their learning rates."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from maskwright.data.dataset import Dataset
from maskwright.data.labels import Kind
from maskwright.engine.session import rated_groups
from maskwright.errors import DataError
from maskwright.methods.in_context.selection import PolicySettings, ReferencePolicy
from maskwright.nets.segmenter import Segmenter
from maskwright.recipes.samix.config import Config
from maskwright.sam.adapter import add_adapters
from maskwright.sam.sam import Sam

SAMPLING = {Kind.MASK: 1.0, Kind.SCRIBBLE: 1.0, Kind.BOX: 6.0, Kind.POINT: 1.0, Kind.TAG: 0.5, Kind.NONE: 0.5}
"""How often an image of each kind is sampled, relative to the others: more often where pseudo-masks are better."""


def training_images(dataset: Dataset, config: Config) -> Dataset:
    """The images that ``config`` trains on. Raises DataError where ``--labels masks-only`` leaves none."""
    train = dataset.split("train")
    if config.labels == "masks-only":
        train = train.with_samples([s for s in train if s.labels.kind == Kind.MASK])
        if not len(train):
            problem = "no training image has a mask, so --labels masks-only has nothing to learn from"
            raise DataError([f"{config.data}: {problem}"])
    return train


def sampling_weights(kinds: Tensor, mask_share: float) -> list[float]:
    """Sampling weights of the training images: see ``SAMPLING``; and masks fill at least ``mask_share`` of the batches.

    Args:
        kinds: (N,) ``Kind`` of each training image's finest label.
        mask_share: 0..1.

    Returns:
        N weights, of any sum.
    """
    weights = torch.tensor([SAMPLING[Kind(kind)] for kind in kinds.tolist()])
    is_mask = kinds == Kind.MASK
    masks, others = weights[is_mask].sum(), weights[~is_mask].sum()
    if not masks or not others or masks / (masks + others) >= mask_share:
        return weights.tolist()
    return torch.where(is_mask, weights * mask_share / masks, weights * (1 - mask_share) / others).tolist()


def create_policy(config: Config, sam: Sam, device: torch.device) -> ReferencePolicy:
    """The untrained policy of ``--selector policy``, for the features of this SAM."""
    settings = PolicySettings(references=config.references, lr=config.policy_lr)
    memory_channels = sam.model.config.memory_encoder_output_channels
    return ReferencePolicy(sam.width, memory_channels, settings, seed=config.seed, device=device)


def trainable_parameters(sam: Sam, tune_decoder: bool) -> list[nn.Parameter]:
    """Add adapters to a frozen SAM; returns them and, with ``tune_decoder``, all that follows the encoder's trunk."""
    parameters = add_adapters(sam)
    if tune_decoder:
        model = sam.model
        for module in (model.mask_decoder, model.memory_attention, model.memory_encoder, model.vision_encoder.neck):
            parameters += module.requires_grad_(True).parameters()
    return parameters


def sam_optimizer(sam: Sam, parameters: list[nn.Parameter], config: Config) -> torch.optim.Optimizer:
    """AdamW: adapters at ``config.adapter_lr``, the rest of SAM's ``parameters`` at a quarter of it."""
    adapters = [parameter for name, parameter in sam.named_parameters() if ".adapter." in name]
    rate = config.adapter_lr
    groups = rated_groups([(adapters, rate), (_without(parameters, adapters), rate / 4)])
    return torch.optim.AdamW(groups, weight_decay=config.weight_decay)


def segmenter_optimizer(segmenter: Segmenter, config: Config) -> torch.optim.Optimizer:
    """AdamW: new layers at ``config.lr``, pretrained ones at half of it."""
    pretrained, rate = segmenter.pretrained(), config.lr
    groups = rated_groups([(pretrained, rate / 2), (_without(segmenter.parameters(), pretrained), rate)])
    return torch.optim.AdamW(groups, weight_decay=config.weight_decay)


def _without(parameters: Iterable[nn.Parameter], others: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """The parameters that are not among ``others``, in order."""
    excluded = {id(parameter) for parameter in others}
    return [parameter for parameter in parameters if id(parameter) not in excluded]
