"""How calls tell how far they are: a bar on standard error, or a function of the caller."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeAlias

ProgressCall: TypeAlias = Callable[[int, int], None]
Progress: TypeAlias = bool | ProgressCall
"""What users give: a function that is called as ``progress(done, total)``, or True for a bar on standard error."""


@contextmanager
def progress_of(progress: Progress, description: str) -> Iterator[ProgressCall | None]:
    """What to call as ``call(done, total)`` while something goes on, or None.

    Of several processes the main one shows the bar. Away from a terminal it is a line about every 30 seconds. On one it
    moves without an end until the first call, as loading PyTorch and a model takes seconds.
    """
    if not isinstance(progress, bool):
        yield progress
    elif not progress or os.environ.get("RANK", "0") != "0":
        yield None
    else:
        with _Bar(description) as bar:
            yield bar


StageCall: TypeAlias = Callable[[str, int, int], None]


@contextmanager
def stages_of(progress: Progress) -> Iterator[StageCall | None]:
    """The same for work in several parts: what to call as ``call(part, done, total)``, or None. Each part has a bar of its own."""
    if not isinstance(progress, bool):
        told = progress
        yield lambda part, done, total: told(done, total)
        return
    with ExitStack() as stack:
        current: dict[str, ProgressCall | None] = {}

        def call(part: str, done: int, total: int) -> None:
            if part not in current:
                stack.close()
                current.clear()
                current[part] = stack.enter_context(progress_of(progress, part))
            if (bar := current[part]) is not None:
                bar(done, total)

        yield call if progress else None


@contextmanager
def busy(description: str) -> Iterator[None]:
    """Show on a terminal that something of unknown length goes on."""
    with progress_of(True, description):
        yield


class _Bar:
    def __init__(self, description: str) -> None:
        self.description, self.done = description, 0
        self.advance: Callable[..., None] | None = None
        self.stack = ExitStack()

    def __enter__(self) -> _Bar:
        from rich.console import Console

        console = Console(stderr=True)
        if console.is_terminal:
            self.stack.enter_context(console.status(f"{self.description} ..."))
        return self

    def __exit__(self, *exception: object) -> None:
        self.stack.close()

    def __call__(self, done: int, total: int) -> None:
        if self.advance is None:
            from maskwright.engine.budget import progress

            self.stack.close()
            self.advance = self.stack.enter_context(progress(total, self.description))
        self.advance(done - self.done)
        self.done = done
