"""What commands share: arguments of the same kind, groups of options, tables, checks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from tyro.conf import OmitArgPrefixes, Positional, arg

from maskwright.api import ImageReading, ReadName
from maskwright.errors import canvas_rule, require
from maskwright.problems import Problem, lines

Data: TypeAlias = Annotated[Positional[Path], arg(metavar="DATA")]
RunFolder: TypeAlias = Annotated[Positional[Path], arg(metavar="RUN")]
Source: TypeAlias = Annotated[Positional[str], arg(metavar="SAM")]

OPTIONAL = arg(help_behavior_hint="(optional)")
"""Of an option that may be left out: its text says what holds then, and None as a default would say nothing."""

Format: TypeAlias = Annotated[ReadName | None, OPTIONAL]
Reading: TypeAlias = OmitArgPrefixes[ImageReading]
Group: TypeAlias = Annotated[str | None, arg(metavar="REGEX", help_behavior_hint="(optional)")]
Table: TypeAlias = Annotated[Path | None, arg(metavar="CSV", help_behavior_hint="(optional)")]
Column: TypeAlias = Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(optional)")]


@dataclass
class OptionGroup:
    """Options of one kind of model, a box of their own in the help. Whether a model has them is known when it is loaded."""

    def given(self) -> dict[str, Any]:
        """Those that differ from their defaults, as the functions of ``maskwright.api`` take them."""
        values = {field.name: (getattr(self, field.name), field.default) for field in fields(self)}
        return {name: value for name, (value, default) in values.items() if value != default}


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, header: bool = True) -> None:
    """A table on standard output; all columns but the first are numbers, unless there is no header.

    Texts are broken where the screen is narrow, numbers never.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    cells = [[_cell(value) for value in row] for row in rows]
    table = Table(title=escape(title), title_justify="left", show_header=header)
    for number, name in enumerate(columns):
        numeric = bool(number and header)
        width = max((len(row[number]) for row in cells), default=1)
        words = max((len(word) for word in name.split()), default=1)
        if not numeric:
            table.add_column(escape(name), justify="left", overflow="fold")
        else:
            table.add_column(escape(name), justify="right", min_width=max(width, words))
    for row in cells:
        table.add_row(*map(escape, row))
    Console().print(table)


def without_zeros(
    columns: Sequence[str], rows: Sequence[Sequence[Any]], keep: int = 1
) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of a table without those columns that hold nothing but 0 or None; the first ``keep`` stay."""
    used = [i for i in range(len(columns)) if i < keep or any(row[i] for row in rows)]
    return [columns[i] for i in used], [[row[i] for i in used] for row in rows]


def _cell(value: Any) -> str:
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def print_written(*paths: Path | None) -> None:
    """Say which files were written."""
    for path in paths:
        if path:
            print(f"written: {path}")


def print_warnings(warnings: Sequence[Problem]) -> None:
    """Say what was done with a reservation; many of a kind come as a count."""
    for line in lines(warnings):
        print(f"warning: {line}")


def is_main() -> bool:
    """Whether this is the process that speaks: of several, the first."""
    return os.environ.get("RANK", "0") == "0"


def at_least_1(**values: int) -> None:
    require({f"--{name} {value}: must be at least 1": value >= 1 for name, value in values.items()})


def canvas_size(size: int | None) -> None:
    require(canvas_rule("size", size))
