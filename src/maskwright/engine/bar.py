"""The one progress bar of a training: the phase, what it counts, and the time left of the whole."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from maskwright.engine.budget import scalars_as_text

INTERVAL = 30.0
"""Seconds between two lines away from a terminal."""


READABLE = 1.0
"""Seconds between two looks at the scalars beside the bar."""


class TrainingBar:
    """On standard error; away from a terminal one line for each phase and about every 30 seconds.

    Args:
        is_main: False shows nothing: of several processes one speaks.
    """

    def __init__(self, *, is_main: bool = True) -> None:
        self.console = Console(stderr=True)
        self.is_main = is_main
        self.phase = ""
        self.printed = -INTERVAL
        self.bar: Progress | None = None
        self.task: Any = None

    def show(self, phase: str, count: str, done: float, left: float | None, **scalars: Any) -> None:
        """Where the training is.

        Args:
            phase: such as ``training``.
            count: such as ``step 12 of 40``.
            done: 0..1, of the whole training.
            left: minutes of the whole training; None: not known yet.
            scalars: shown beside it.
        """
        if not self.is_main:
            return
        rest = "" if left is None else f"about {time_as_text(left)} left"
        now = time.monotonic()
        if self.console.is_terminal:
            told: dict[str, Any] = {"description": f"{phase}, {count}", "completed": done}
            # Scalars may wait on a device: they are asked for no more often than somebody can read them.
            if phase != self.phase or now - self.printed >= READABLE:
                self.phase, self.printed = phase, now
                told["note"] = "  ".join(filter(None, [rest, scalars_as_text(scalars)]))
            self._open().update(self.task, **told)
            return
        if phase == self.phase and now - self.printed < INTERVAL:
            return
        self.phase, self.printed = phase, now
        text = ", ".join(filter(None, [f"{phase}: {count}", f"{done:.0%} of all", rest, scalars_as_text(scalars)]))
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """A line of text above the bar."""
        if self.is_main:
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def _open(self) -> Progress:
        if self.bar is None:
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
            more = (TimeElapsedColumn(), TextColumn("{task.fields[note]}"))
            self.bar = Progress(*columns, *more, console=self.console)
            self.task = self.bar.add_task("", total=1.0, note="")
            self.bar.start()
        return self.bar


def time_as_text(minutes: float) -> str:
    """Such as ``40 s``, ``4.5 min`` or ``3 h 20 min``."""
    if minutes < 1.5:
        return f"{max(0, round(60 * minutes))} s"
    if minutes < 90:
        return f"{minutes:.1f} min" if minutes < 10 else f"{minutes:.0f} min"
    return f"{int(minutes // 60)} h {int(minutes % 60):02d} min"
