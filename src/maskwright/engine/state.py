"""What makes a resumed run the same as an uninterrupted one: an optimiser's state as tensors and JSON, and randomness without a past."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from maskwright.engine.values import plain
from maskwright.engine.weights import key_problems, raise_weights


def seeded(seed: int, stream: int, step: int) -> torch.Generator:
    """Randomness that depends on nothing but the run's seed, the purpose (``stream``, below 16) and the step."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) * 16 + stream)


def flatten_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimiser's state as ``(tensors, state)`` for :meth:`Run.save_checkpoint`: ``{"0.exp_avg": ...}`` and JSON.

    Raises TypeError for state that is neither tensor, number, string nor None (L-BFGS keeps lists of tensors).
    """
    saved = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    values: dict[str, Any] = {}
    for index, entry in saved["state"].items():
        for name, value in entry.items():
            (tensors if isinstance(value, Tensor) else values)[f"{index}.{name}"] = value
    groups: list[dict[str, Any]] = []
    for number, group in enumerate(saved["param_groups"]):
        tensors |= {f"group.{number}.{k}": v for k, v in group.items() if isinstance(v, Tensor)}
        groups.append({k: v for k, v in group.items() if not isinstance(v, Tensor)})
    state = {"values": values, "groups": groups, "shapes": _shapes(optimizer), "keys": sorted(tensors)}
    return tensors, plain(state, "optimizer")


def unflatten_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], state: Mapping[str, Any]
) -> None:
    """Load what :func:`flatten_optimizer` gave into an optimiser over the same parameters in the same order.

    Raises:
        WeightsError: tensors missing or unexpected, or the optimiser has other parameters; all are named at once.
    """
    problems = key_problems(state["keys"], tensors)
    shapes = _shapes(optimizer)
    if len(shapes) != len(state["shapes"]):
        problems.append(f"{len(state['shapes'])} parameter groups, and the optimiser has {len(shapes)}")
    for number, (theirs, ours) in enumerate(zip(state["shapes"], shapes, strict=False)):
        if theirs != ours:
            problems.append(f"group {number}: parameters of shapes {theirs}, and the optimiser has {ours}")
    raise_weights("optimiser state", problems)
    groups = [dict(group) for group in state["groups"]]
    for number, (group, own) in enumerate(zip(groups, optimizer.param_groups, strict=True)):
        for name, value in group.items():  # JSON knows no tuples
            if isinstance(own.get(name), tuple):
                group[name] = tuple(value)
        prefix = f"group.{number}."
        group.update({key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)})
    entries: dict[int, dict[str, Any]] = {}
    for key, value in [*state["values"].items(), *tensors.items()]:
        index, _, name = key.partition(".")
        if index != "group":  # a clone, because the optimiser updates its state in place
            entries.setdefault(int(index), {})[name] = value.clone() if isinstance(value, Tensor) else value
    optimizer.load_state_dict({"state": entries, "param_groups": groups})


def _shapes(optimizer: torch.optim.Optimizer) -> list[list[list[int]]]:
    return [[list(parameter.shape) for parameter in group["params"]] for group in optimizer.param_groups]
