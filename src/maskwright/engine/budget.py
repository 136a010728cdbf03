"""How long a training lasts, and a progress bar for it."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from maskwright.engine.values import number
from maskwright.errors import RunError


@dataclass(frozen=True)
class Budget:
    """How long a training lasts, everything included: exactly one of epochs, steps or minutes.

    With epochs or steps the share that is used is a function of the step alone, so schedules that follow it are
    deterministic. With minutes it follows the clock, so that two runs differ.

    Attributes:
        epochs: passes over the data; may be a fraction.
        steps: optimiser steps.
        minutes: wall clock, counted over all sessions of a resumed run.
        steps_per_epoch: needed for the steps of epochs.

    >>> budget = Budget(minutes=45)
    >>> while budget.share(step, minutes_used) < 1: ...
    """

    epochs: float | None = None
    steps: int | None = None
    minutes: float | None = None
    steps_per_epoch: int | None = None

    def __post_init__(self) -> None:
        lengths = {k: v for k in ("epochs", "steps", "minutes") if (v := getattr(self, k)) is not None}
        if len(lengths) != 1:
            named = " and ".join(f"--{name}" for name in lengths) or "none"
            raise RunError(f"give exactly one of --epochs, --steps and --minutes; given: {named}")
        for name, value in lengths.items():
            if not (math.isfinite(value) and value > 0):
                raise RunError(f"--{name} must be a number above 0, not {value}")
        if self.epochs is not None and self.steps_per_epoch is not None and self.steps_per_epoch < 1:
            raise ValueError(f"an epoch of {self.steps_per_epoch} steps")

    def __str__(self) -> str:
        name, value = next((k, v) for k in ("epochs", "steps", "minutes") if (v := getattr(self, k)) is not None)
        return f"{value:g} {name.removesuffix('s') if value == 1 else name}"

    @property
    def total_steps(self) -> int | None:
        """Steps in all; None with minutes."""
        if self.epochs is None:
            return self.steps
        if self.steps_per_epoch is None:
            raise ValueError("a budget in epochs needs steps_per_epoch")
        return math.ceil(self.epochs * self.steps_per_epoch)

    def share(self, step: int, minutes_used: float) -> float:
        """The share of the budget that is used, 0..1, after so many steps and minutes."""
        total = self.total_steps
        return min(1.0, step / total if total is not None else minutes_used / (self.minutes or math.inf))


@contextlib.contextmanager
def progress(
    total: float, description: str, *, completed: float = 0, is_main: bool = True, interval: float = 30.0
) -> Iterator[Callable[..., None]]:
    """A progress bar on standard error; away from a terminal one line about every ``interval`` seconds instead.

    Yields ``advance(amount=1, **scalars)``; the scalars are shown beside the bar. ``completed`` is where a resumed run
    starts. Other processes than the main one show nothing.

    >>> with progress(1000, "training") as advance:
    ...     advance(loss=0.31)
    """
    # Not above: the settings of recipes have a Budget, and their help should come at once.
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    if not is_main:
        yield lambda amount=1, **scalars: None
    elif not console.is_terminal:
        yield _ProgressLines(console, total, description, completed, interval)
    else:
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
        with Progress(*columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=console) as bar:
            task = bar.add_task(description, total=total, completed=int(completed), note="")
            yield lambda amount=1, **scalars: bar.update(task, advance=amount, note=scalars_as_text(scalars))


class _ProgressLines:
    def __init__(self, console: Any, total: float, description: str, completed: float, interval: float) -> None:
        self.console, self.total, self.description, self.interval = console, total, description, interval
        self.completed = self.first = completed
        self.started = self.printed = time.monotonic()

    def __call__(self, amount: float = 1, **scalars: Any) -> None:
        self.completed += amount
        now = time.monotonic()
        if now - self.printed < self.interval:
            return
        self.printed = now
        progress = self.completed - self.first
        remaining = ""
        if progress > 0.005 * self.total:  # an estimate from less is too inaccurate
            remaining = (
                f", about {max(0.0, self.total - self.completed) * (now - self.started) / progress / 60:.1f} min left"
            )
        share = self.completed / self.total if self.total else 1.0
        text = f"{self.description}: {self.completed:.4g} of {self.total:g} ({share:.0%}){remaining}  {scalars_as_text(scalars)}"
        self.console.print(text.rstrip(), markup=False, highlight=False, soft_wrap=True)


def scalars_as_text(scalars: Mapping[str, Any]) -> str:
    """Such as ``loss 0.25  reward 1``."""
    return "  ".join(f"{name} {number(name, value):.4g}" for name, value in scalars.items())
