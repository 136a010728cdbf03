"""How a training ended: its score on the validation split, against what costs nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Outcome:
    """The score of the exported model and of what needs no training; higher is better.

    Attributes:
        metric: such as ``Dice``.
        score: of the exported model on the validation split; None without one.
        baselines: the same score of what costs nothing, by name.
        step: after which the exported model was kept, and ``steps`` that were done in all.
        keep: ``best`` or ``last``.
        images: of the validation split that were scored; ``unit`` says what else was counted.
        advice: what to do where the model is worse than nothing.
        remark: what else is to be known of the exported model.
    """

    metric: str
    score: float | None
    baselines: Mapping[str, float] = field(default_factory=dict)
    step: int | None = None
    steps: int = 0
    keep: str = "best"
    images: int = 0
    unit: str = "images"
    advice: str = "train longer, label more, or look at the report before you use it"
    remark: str = ""

    @property
    def worse_than(self) -> dict[str, float]:
        """The baselines that the model does not beat."""
        if self.score is None:
            return {}
        return {name: value for name, value in self.baselines.items() if value >= self.score}

    @property
    def warning(self) -> str:
        """What has to be known before the model is used; empty where it is better than nothing."""
        worse = ", ".join(f"{name} {value:.3f}" for name, value in self.worse_than.items())
        if not worse:
            return ""
        return (
            f"WARNING: this model is no better than what costs nothing: {self.metric} {self.score:.3f} on the validation split, "
            f"and {worse}.\n{self.advice[0].upper()}{self.advice[1:]}."
        )

    @property
    def text(self) -> str:
        """One paragraph for the terminal and the model's card."""
        if self.score is None:
            return "no image of the validation split can be scored: the last model was kept, and how good it is was not measured"
        kept = (
            f"the last model, after step {self.steps}"
            if self.keep == "last"
            else f"the best model, of step {self.step} of {self.steps}"
        )
        against = ", ".join(f"{name} {value:.3f}" for name, value in self.baselines.items())
        return (
            f"validation: {self.metric} {self.score:.3f} ({kept}; {self.images} {self.unit})"
            + (f"; against: {against}" if against else "")
            + (f"; {self.remark}" if self.remark else "")
        )

    @property
    def sentences(self) -> list[str]:
        """For a model's card."""
        return [f"{self.text[0].upper()}{self.text[1:]}.", *(["", self.warning] if self.warning else [])]

    @property
    def marks(self) -> dict[str, float]:
        """For curves over steps: where the exported model was kept."""
        return {} if self.step is None else {"kept": self.step}

    @property
    def rows(self) -> list[tuple[str, float]]:
        """For a table: the model, then the baselines."""
        return [] if self.score is None else [("this model", self.score), *self.baselines.items()]
