"""A device that is none, to rehearse what happens on a GPU: its tensors lie in the computer's memory, but an operation that mixes them
with the CPU's is an error, and so is reading one as a NumPy array.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "pretend"

_aten = torch.ops.aten
_MOVES = (_aten._to_copy.default, _aten.copy_.default)
_BY_INDEX = (
    _aten.index.Tensor,
    _aten.index_put.default,
    _aten.index_put_.default,
    _aten._index_put_impl_.default,
)
"""Here indices may lie on the CPU, as on a GPU."""


class MixedDevices(Exception):
    """An operation got tensors of two devices."""


class _Elsewhere(Tensor):
    """A tensor of the pretended device, around one of the CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> _Elsewhere:
        made = Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=f"{NAME}:0",
        )
        made.held = held
        return made

    def __repr__(self, **_: Any) -> str:
        return f"elsewhere: {self.held!r}"

    def tolist(self) -> Any:
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _run(func, args, dict(kwargs or {}))


class _Factories(TorchDispatchMode):
    """Sees operations that have no tensor of the device yet: those that make one."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _run(func, args, dict(kwargs or {}))


def _run(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """The operation on the CPU; what it gives lies where its tensors lie, or where it was told to."""
    tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
    there = [value for value in tensors if isinstance(value, _Elsewhere)]
    if there and func not in _MOVES:
        free = {id(index) for index in args[1]} if func in _BY_INDEX else set()
        here = [v for v in tensors if v.dim() and not isinstance(v, _Elsewhere) and id(v) not in free]
        if here:
            shapes = [[tuple(value.shape) for value in some] for some in (here, there)]
            raise MixedDevices(f"{func}: {shapes[0]} lie on the CPU, {shapes[1]} do not")
    wanted = kwargs.get("device")
    if wanted is not None:
        goes_there = torch.device(wanted).type == NAME
        kwargs["device"] = torch.device("cpu")
    else:
        goes_there = isinstance(args[0], _Elsewhere) if func is _aten.copy_.default else bool(there)
    owners = {id(value.held): value for value in there}
    found = func(*tree_map(_held, args), **tree_map(_held, kwargs))

    def wrapped(value: Any) -> Any:
        if not isinstance(value, Tensor) or not goes_there:
            return value
        # An operation in place gives back the tensor that it got.
        return owners.get(id(value)) if id(value) in owners else _Elsewhere(value)

    return tree_map(wrapped, found)


def _held(value: Any) -> Any:
    return value.held if isinstance(value, _Elsewhere) else value


def _enter(mode: Any) -> None:
    mode.gradients = torch.set_grad_enabled(torch.is_grad_enabled() and not mode.mode)


def _exit(mode: Any, *_: Any) -> None:
    torch.set_grad_enabled(mode.gradients.prev)


@contextmanager
def pretend_device() -> Iterator[torch.device]:
    """The device, which is there inside the block."""
    if torch._C._get_privateuse1_backend_name() != NAME:
        _setup_privateuseone_for_python_backend(NAME)
        getattr(torch, NAME).get_amp_supported_dtype = lambda: [torch.float32]
    # Tensors of inference mode cannot be wrapped: without gradients will do.
    without_gradients = patch.multiple(torch.inference_mode, __enter__=_enter, __exit__=_exit)
    # `torch.tensor(..., device=...)` then makes a tensor on the CPU and moves it, which can be seen.
    torch._C._set_only_lift_cpu_tensors(True)
    try:
        with _Factories(), without_gradients:
            yield torch.device(NAME, 0)
    finally:
        torch._C._set_only_lift_cpu_tensors(False)
