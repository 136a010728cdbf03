"""State of a training as tensors and JSON, and stateless random numbers, so that a resumed run equals an uninterrupted one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from maskwright.engine.values import plain
from maskwright.engine.weights import key_problems, load_state, raise_weights

Groups = dict[str, dict[str, Tensor]]
"""Tensors as a checkpoint holds them: name of a file → name of a tensor → tensor."""


@runtime_checkable
class Composite(Protocol):
    """A part of a training whose state is several groups of tensors, and JSON."""

    def state(self) -> tuple[Groups, dict[str, Any]]: ...
    def load_state(self, tensors: Groups, state: Mapping[str, Any]) -> None: ...


class Tensors(Protocol):
    """A part of a training whose state is one group of tensors."""

    def state_dict(self) -> dict[str, Tensor]: ...
    def load_state_dict(self, tensors: dict[str, Tensor]) -> Any: ...


Part = nn.Module | torch.optim.Optimizer | Composite | Tensors


def pack(parts: Mapping[str, Part]) -> tuple[Groups, dict[str, Any]]:
    """The state of the parts of a training, for :meth:`Run.save_checkpoint`: tensors by group, and JSON by part.

    A module, and anything else with ``state_dict``, is one group under the part's name; a :class:`Composite` has groups
    ``<part>.<group>``.
    """
    tensors: Groups = {}
    state: dict[str, Any] = {}
    for name, part in parts.items():
        if isinstance(part, torch.optim.Optimizer):
            tensors[name], state[name] = flatten_optimizer(part)
        elif isinstance(part, Composite):
            groups, state[name] = part.state()
            tensors |= {f"{name}.{group}": values for group, values in groups.items()}
        else:
            tensors[name] = dict(part.state_dict())
    return tensors, state


def unpack(parts: Mapping[str, Part], tensors: Mapping[str, dict[str, Tensor]], state: Mapping[str, Any]) -> None:
    """Load the state from :func:`pack` into the parts of a training.

    Raises:
        WeightsError: parts are missing, or tensors do not fit; all of a part are named at once.
    """
    owners = {group: group if group in parts else group.partition(".")[0] for group in tensors}
    plain_parts = [name for name, part in parts.items() if not isinstance(part, Composite)]
    expected = [group for group, owner in owners.items() if owner in parts]
    raise_weights("the checkpoint", key_problems([*plain_parts, *expected], tensors))
    for name, part in parts.items():
        if isinstance(part, torch.optim.Optimizer):
            unflatten_optimizer(part, tensors[name], state[name])
        elif isinstance(part, nn.Module):
            load_state(part, tensors[name], name)
        elif isinstance(part, Composite):
            groups = {group.partition(".")[2]: dict(tensors[group]) for group, owner in owners.items() if owner == name}
            part.load_state(groups, state[name])
        else:
            part.load_state_dict(dict(tensors[name]))


def seeded(seed: int, stream: int, step: int) -> torch.Generator:
    """Stateless random numbers: a function of the run's seed, their purpose (``stream``, below 16) and the step alone."""
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
    """Load the state from :func:`flatten_optimizer` into an optimiser over the same parameters in the same order.

    Raises:
        WeightsError: tensors missing or unexpected, or the optimiser has other parameters; all are named at once.
    """
    problems = key_problems(state["keys"], tensors)
    shapes = _shapes(optimizer)
    if len(shapes) != len(state["shapes"]):
        problems.append(f"{len(state['shapes'])} parameter groups, and the optimiser has {len(shapes)}")
    for number, (stored, present) in enumerate(zip(state["shapes"], shapes, strict=False)):
        if stored != present:
            problems.append(f"group {number}: parameters of shapes {stored}, and the optimiser has {present}")
    raise_weights("optimiser state", problems)
    groups = [dict(group) for group in state["groups"]]
    for number, (group, present) in enumerate(zip(groups, optimizer.param_groups, strict=True)):
        for name, value in group.items():  # JSON knows no tuples
            if isinstance(present.get(name), tuple):
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
