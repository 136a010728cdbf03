"""The mean teacher: an exponential moving average of a model (Tarvainen & Valpola, NeurIPS 2017)."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from maskwright.engine.weights import load_state
from maskwright.errors import WeightsError

_UPDATES = "updates"
_PREFIX = "model."


class Ema:
    """Keeps ``model``, a copy that follows a student: ``teacher ← decay · teacher + (1 − decay) · student``.

    Parameters and floating-point buffers are averaged, all else (counters, masks) is copied. The teacher is in
    evaluation mode and never requires a gradient. Averaging happens in the model's own dtype: keep the student in
    float32, because in bfloat16 steps of ``1 − decay`` are rounded away.

    Args:
        model: the student; unwrapped, if a distributed wrapper is around it.
        decay: 0..1, the share of the teacher that stays at each update.
        warmup: during the first ``warmup`` updates the decay is at most ``n / (n + 1)`` after ``n`` updates, so that
            the teacher is the plain mean of the students so far and keeps nothing of the random start (the rule of Tarvainen &
            Valpola). 0 = constant decay.

    >>> teacher = Ema(student, decay=0.999, warmup=1000)
    >>> teacher.update(student)                       # after every optimiser step
    >>> logits = teacher.model(images)
    """

    def __init__(self, model: nn.Module, decay: float, warmup: int = 0) -> None:
        if not 0.0 <= decay <= 1.0:
            raise ValueError(f"decay must lie in 0..1, not {decay}")
        if warmup < 0:
            raise ValueError(f"warmup must not be negative, not {warmup}")
        self.decay, self.warmup, self.updates = decay, warmup, 0
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @property
    def current_decay(self) -> float:
        """The decay that the next update uses."""
        if self.updates < self.warmup:
            return min(self.decay, self.updates / (self.updates + 1))
        return self.decay

    def update(self, model: nn.Module) -> None:
        """Move the teacher towards ``model``. Raises ValueError where the two have other parameters or buffers."""
        self._move(model, self.current_decay)
        self.updates += 1

    def copy_from(self, model: nn.Module) -> None:
        """Overwrite the teacher with ``model`` and count the updates from zero again (the end of a burn-in)."""
        self._move(model, 0.0)
        self.updates = 0

    def state_dict(self) -> dict[str, Tensor]:
        """The teacher's tensors under ``model.`` and the number of updates: one flat dict that safetensors can hold."""
        tensors = {_PREFIX + name: value for name, value in self.model.state_dict().items()}
        return tensors | {_UPDATES: torch.tensor(self.updates)}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """The counterpart of :meth:`state_dict`. Raises WeightsError that names all missing and unexpected tensors."""
        if _UPDATES not in tensors:
            raise WeightsError(f"teacher: the tensor {_UPDATES!r} is missing")
        rest = {name.removeprefix(_PREFIX): value for name, value in tensors.items() if name != _UPDATES}
        load_state(self.model, rest, "teacher")
        self.updates = int(tensors[_UPDATES])

    @torch.no_grad()
    def _move(self, model: nn.Module, decay: float) -> None:
        teacher, student = _named(self.model), _named(model)
        if teacher.keys() != student.keys():
            differing = ", ".join(sorted(teacher.keys() ^ student.keys()))
            raise ValueError(f"teacher and student differ in: {differing}")
        for name, average in teacher.items():
            value = student[name].to(average.device)
            if average.is_floating_point() and decay > 0.0:
                average.lerp_(value.to(average.dtype), 1.0 - decay)
            else:
                average.copy_(value)


def spanning(decay: float, steps: float, share: float) -> float:
    """The decay, lowered so that the average spans at most ``share`` (0..1) of a run of ``steps`` steps."""
    return min(decay, 1 - 1 / max(2.0, steps * share))


def _named(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, each once: tied weights have two names in a state dict and must not be moved twice."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}
