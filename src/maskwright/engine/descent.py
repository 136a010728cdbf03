"""One optimiser step over all processes, without a distributed wrapper around the networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn


def descend(
    accelerator: Accelerator,
    loss: Tensor,
    optimizer: torch.optim.Optimizer,
    parameters: Sequence[nn.Parameter],
    clip: float = 1.0,
) -> None:
    """One optimiser step; gradients are averaged over the processes, then clipped to a norm of ``clip``."""
    optimizer.zero_grad(set_to_none=True)
    # Not by accelerate, whose environment may ask for scaled or accumulated gradients.
    loss.backward()
    if accelerator.num_processes > 1:
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        flat = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
        mean: Any = accelerator.reduce(flat, "mean")
        for parameter, grad in zip(parameters, mean.split([p.numel() for p in parameters])):
            parameter.grad = grad.view_as(parameter)
    nn.utils.clip_grad_norm_(parameters, clip)
    optimizer.step()


def agree(accelerator: Accelerator, value: Any) -> Any:
    """The main process' value, for all: its clock decides."""
    return value if accelerator.num_processes == 1 else broadcast_object_list([value])[0]


def set_rate(optimizer: torch.optim.Optimizer, share: float) -> None:
    """Set every group to a share of its ``peak`` learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = share * group["peak"]
