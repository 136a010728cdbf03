"""Half precision in training: networks compute in it, what they give is float32 again, and so are losses, weights and optimisers."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from maskwright.errors import RunError

PrecisionName = Literal["float32", "bf16", "fp16"]

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_ENVIRONMENT = "ACCELERATE_MIXED_PRECISION"


class Precision:
    """What a training computes in.

    Args:
        name: ``float32``; ``bf16``; or ``fp16``, whose gradients are scaled so that small ones do not vanish.
        device: where it computes.

    Raises:
        RunError: this device cannot, or ``accelerate`` was told otherwise.
    """

    def __init__(self, name: PrecisionName, device: torch.device) -> None:
        told = os.environ.get(_ENVIRONMENT, "no")
        if told not in ("no", name):
            remedy = f"give --precision {told}" if told in _DTYPES else "launch with --mixed_precision no"
            raise RunError(
                f"--precision {name}: accelerate was told --mixed_precision {told} (in {_ENVIRONMENT}); {remedy}, or unset that"
            )
        if name == "fp16" and device.type != "cuda":
            raise RunError(
                f"--precision fp16: needs a GPU of CUDA, whose gradients can be scaled, and this is {device.type}; give bf16 or float32"
            )
        if name == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
            raise RunError("--precision bf16: this GPU has no bfloat16; give fp16 or float32")
        self.name, self.device = name, device
        self.scaler = torch.amp.GradScaler("cuda") if name == "fp16" else None

    def lower(self, modules: Iterable[nn.Module]) -> None:
        """Let networks compute in this precision whenever they are called, and their copies too. Nothing with float32.

        Only calls of the modules themselves count, not of what is inside them.
        """
        dtype = _DTYPES.get(self.name)
        for module in modules if dtype is not None else ():
            around = _Autocast(self.device.type, dtype)
            module.register_forward_pre_hook(around.enter)
            module.register_forward_hook(around.leave, always_call=True)

    def backward(self, loss: Tensor) -> None:
        """Gradients of a loss; scaled with ``fp16``, until :meth:`unscale`."""
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        if self.scaler is not None:
            self.scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """A step of an optimiser; with ``fp16`` none where a gradient is not finite, and the scale is lowered then."""
        if self.scaler is None:
            optimizer.step()
            return
        self.scaler.step(optimizer)
        self.scaler.update()

    def state(self) -> dict[str, Any]:
        """For a checkpoint, as JSON."""
        return {} if self.scaler is None else self.scaler.state_dict()

    def load_state(self, state: dict[str, Any]) -> None:
        if self.scaler is not None:
            self.scaler.load_state_dict(state)


class _Autocast:
    """Autocast around the calls of a module, as two hooks: these go along when the module is copied, and the state does not know them."""

    def __init__(self, device: str, dtype: torch.dtype | None) -> None:
        self.device, self.dtype = device, dtype
        self.open: list[torch.autocast] = []

    def enter(self, module: nn.Module, args: Any) -> None:
        context = torch.autocast(self.device, self.dtype)
        context.__enter__()
        self.open.append(context)

    def leave(self, module: nn.Module, args: Any, output: Any) -> Any:
        self.open.pop().__exit__(None, None, None)
        return as_float32(output)


def as_float32(value: Any) -> Any:
    """The same with every tensor of half precision in float32: tensors, and dataclasses, lists, tuples and dicts of them."""
    if isinstance(value, Tensor):
        return value.float() if value.dtype in _DTYPES.values() else value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [item.name for item in dataclasses.fields(value) if item.init]
        return dataclasses.replace(value, **{name: as_float32(getattr(value, name)) for name in names})
    if isinstance(value, dict):
        return type(value)((key, as_float32(entry)) for key, entry in value.items())
    if isinstance(value, list | tuple):
        return type(value)(map(as_float32, value))
    return value
