"""The model that a training keeps: the best on the validation split, or the last one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

from torch import Tensor, nn

from maskwright.engine.state import Groups
from maskwright.engine.weights import load_state

Keep: TypeAlias = Literal["best", "last"]

SMOOTHING = 0.5
"""Share of the scores so far in the smoothed score (exponential smoothing, as of curves in TensorBoard)."""

_STATE = ("score", "step", "smoothed", "highest", "waited", "kept_values")


class Best:
    """Keeps a copy of a model's modules where its smoothed score on the validation split was highest.

    A score of few images jumps; smoothed, one lucky validation is not enough to be kept. The copy is part of a
    checkpoint (``engine.state.Composite``), so a resumed run keeps the same one.

    Args:
        modules: of the model, by name. What :meth:`restore` fills again.
        keep: ``"last"`` copies nothing, and :meth:`restore` leaves the modules as they are.
        patience: validations in a row without a better score after which :meth:`is_exhausted` is true; None: never.
        values: further JSON-able state of the model, as it is now.

    Attributes:
        score: of the kept model, not smoothed; None before the first validation.
        step: of the kept model, over the whole training.
        smoothed, highest: the newest smoothed score, and the highest.
        kept_values: what ``values`` gave for the kept model.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        keep: Keep = "best",
        patience: int | None = None,
        values: Callable[[], Any] = lambda: None,
    ) -> None:
        self.modules, self.keep, self.patience, self.values = dict(modules), keep, patience, values
        self.score: float | None = None
        self.step: int | None = None
        self.smoothed: float | None = None
        self.highest: float | None = None
        self.kept_values: Any = None
        self.waited = 0
        self.tensors: Groups = {}

    def is_exhausted(self) -> bool:
        """Whether ``patience`` is used up."""
        return self.patience is not None and self.waited >= self.patience

    def update(self, step: int, score: float) -> None:
        """Note the score, higher is better, of the modules as they are after ``step`` steps."""
        self.smoothed = score if self.smoothed is None else SMOOTHING * self.smoothed + (1 - SMOOTHING) * score
        better = self.highest is None or self.smoothed > self.highest
        self.waited = 0 if better else self.waited + 1
        # As good is kept too: it has learnt longer, and a score that is still 0 everywhere must not keep the beginning.
        if self.keep == "last" or better or self.smoothed == self.highest:
            self.score, self.step, self.kept_values = score, step, self.values()
            if self.keep == "best":
                self.tensors = {
                    name: {key: value.detach().cpu().clone() for key, value in module.state_dict().items()}
                    for name, module in self.modules.items()
                }
        if better:
            self.highest = self.smoothed

    def restore(self) -> None:
        """Fill the modules with the kept model, if there is one."""
        for name, tensors in self.tensors.items():
            load_state(self.modules[name], tensors, name)

    def state(self) -> tuple[Groups, dict[str, Any]]:
        return self.tensors, {name: getattr(self, name) for name in _STATE}

    def load_state(self, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> None:
        self.tensors = {name: dict(values) for name, values in tensors.items()}
        for name in _STATE:
            setattr(self, name, state[name])
