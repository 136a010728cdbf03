"""What commands share: arguments of the same kind, progress, tables, checks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from tyro.conf import Positional, arg

from maskwright.errors import canvas_rule, require

if TYPE_CHECKING:
    from maskwright.engine.prediction_folder import Processes

Progress: TypeAlias = Callable[[int, int], None]
Data: TypeAlias = Annotated[Positional[Path], arg(metavar="DATA")]
RunFolder: TypeAlias = Annotated[Positional[Path], arg(metavar="RUN")]
Source: TypeAlias = Annotated[Positional[str], arg(metavar="SAM")]


def processes_for(device: str) -> tuple[Processes, Any]:
    """The processes that share the work (one, unless `accelerate launch` started several), and this one's device."""
    from maskwright.engine.devices import find_device
    from maskwright.engine.prediction_folder import Alone

    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Alone(), find_device(device)
    from accelerate import PartialState

    state = PartialState(cpu=device == "cpu")
    return state, state.device if device in ("auto", "cuda") else find_device(device)


@contextmanager
def advancing(description: str, processes: Processes | None = None) -> Iterator[Progress]:
    """A progress bar, or lines in a log, of the main process; starts at the first call."""
    from contextlib import ExitStack

    from maskwright.engine.budget import progress

    with ExitStack() as stack:
        state: dict[str, Any] = {"advance": None, "done": 0}

        def advance(done: int, total: int) -> None:
            if state["advance"] is None:
                is_main = processes is None or processes.is_main_process
                state["advance"] = stack.enter_context(progress(total, description, is_main=is_main))
            state["advance"](done - state["done"])
            state["done"] = done

        yield advance


@contextmanager
def light_bar(description: str, total: int) -> Iterator[Progress]:
    """A progress bar on a terminal, without PyTorch."""
    from rich.console import Console
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    with Bar(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(description, total=total)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, header: bool = True) -> None:
    """A table on standard output; all columns but the first are numbers, unless there is no header."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), title_justify="left", show_header=header)
    for number, name in enumerate(columns):
        table.add_column(escape(name), justify="right" if number and header else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(_shown(cell)) for cell in row))
    Console().print(table)


def _shown(value: Any) -> str:
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def given(**options: Any) -> dict[str, Any]:
    """The options that were given: which of them a model has is known when it is loaded."""
    return {name: value for name, value in options.items() if value is not None and value is not False}


def at_least_1(**values: int) -> None:
    require({f"--{name} {value}: must be at least 1": value >= 1 for name, value in values.items()})


def canvas_size(size: int | None) -> None:
    require(canvas_rule("size", size))
