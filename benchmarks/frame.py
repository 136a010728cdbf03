"""What stands around every benchmark: its options, rows that are kept between calls, one table, one JSON file."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from rich.console import Console
from rich.table import Table as RichTable

from maskwright.api import load
from maskwright.data.files import write_atomic
from maskwright.engine.values import settings_of
from measure import machine

Row = dict[str, Any]
"""What one row of a table was made of, as JSON has it."""

Rows = dict[tuple[str, int], Row]
"""Rows by name and seed."""


FORMER_SAMIX: dict[str, Any] = {"batch": 8, "coarse_share": 0.7}
"""What `train samix` took by default when the tables were made in which it is a control."""


# --------------------------------------------------------------------------------------------------------- options


@dataclass(kw_only=True)
class Options:
    """Of every benchmark."""

    threads: int = 1
    json: Path | None = None
    """Also write the figures to this file."""

    free: ClassVar[tuple[str, ...]] = ("json",)
    """Options that do not decide the figures."""

    def settings(self) -> dict[str, Any]:
        """All options but the free ones, as JSON has them."""
        return json.loads(json.dumps(settings_of(self, *self.free)))


@dataclass(kw_only=True)
class TimingOptions(Options):
    """Of benchmarks that take the time of calls."""

    repeats: int = 5
    """Calls that the median is taken of, after one that is not counted."""
    threads: int = 2

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            numbers = value if isinstance(value, tuple) else (value,)
            if any(isinstance(number, int) and number < 1 for number in numbers):
                raise SystemExit(f"--{name.replace('_', '-')} must be at least 1")


@dataclass(kw_only=True)
class SamTimingOptions(TimingOptions):
    """Of benchmarks that take SAM's time."""

    sam: str = "nano"
    """What `Sam.load` takes, or `random`: nano's architecture with random weights."""
    size: int | None = None
    """Canvas in pixels other than the checkpoint's."""


@dataclass(kw_only=True)
class ResumableOptions(Options):
    """Of benchmarks whose rows take so long that each is kept in OUT."""

    out: Path
    """Folder for runs and finished rows."""
    sam: str = "nano"
    """What `Sam.load` takes."""

    free: ClassVar[tuple[str, ...]] = ("out", "json", "threads")

    def start(self) -> dict[str, Any]:
        """Make OUT and set torch up; gives the settings. Ends the program if OUT holds rows of other settings, which are not mixed."""
        torch.set_num_threads(self.threads)
        torch.set_flush_denormal(True)
        self.out.mkdir(parents=True, exist_ok=True)
        settings, path = self.settings(), self.out / "settings.json"
        if path.is_file():
            kept_settings = json.loads(path.read_text())
            if different := [name for name in settings if kept_settings.get(name) != settings[name]]:
                raise SystemExit(
                    f"{self.out}: its rows were made with other {', '.join(different)}; name another --out"
                )
        write_atomic(path, json.dumps(settings, indent=1) + "\n")
        return settings


@dataclass(kw_only=True)
class TrainingOptions(ResumableOptions):
    """Of benchmarks that train what they compare: rows by name and seed."""

    data: Path
    """Dataset with masks in the splits train and test."""
    split: str = "test"
    """What is scored; choose settings on `val`."""
    seeds: tuple[int, ...] = (0,)
    rows: tuple[str, ...] = ()
    """Only these rows; left out: all."""

    free: ClassVar[tuple[str, ...]] = (*ResumableOptions.free, "rows", "seeds")

    @property
    def data_name(self) -> str:
        """Of the dataset, for titles."""
        return self.data.stem if self.data.suffix else self.data.name


# ------------------------------------------------------------------------------------------------------------ rows


def refuse_unknown(option: str, rows: Collection[str], names: Collection[str]) -> None:
    """End the program where an option names a row that is not there."""
    if unknown := [name for name in rows if name not in names]:
        raise SystemExit(f"{option}: {unknown[0]!r} is none of: {', '.join(names)}")


def kept(path: Path, make: Callable[[], Row]) -> Row:
    """A result of an earlier call, or of this one, which is written then."""
    if not path.is_file():
        write_atomic(path, json.dumps(make()) + "\n")
    return json.loads(path.read_text())


def rows_of(
    out: Path, names: Collection[str], wanted: Sequence[tuple[str, int]], make: Callable[[str, int], Row]
) -> Rows:
    """Rows by name and seed, each a file in OUT that is made if it is not there; in the order of ``names``, then of the seeds.

    Args:
        wanted: which, in the order in which they are made.
    """
    rows = {}
    for name, seed in wanted:
        rows[name, seed] = kept(out / f"row-{slug(name)}-s{seed}.json", lambda name=name, seed=seed: make(name, seed))
    order = {name: place for place, name in enumerate(names)}
    return dict(sorted(rows.items(), key=lambda item: (order[item[0][0]], item[0][1])))


def slug(name: str) -> str:
    """The name of a row for that of a file."""
    return "".join(c if c.isalnum() else "-" for c in name)


def by_name(rows: Rows) -> dict[str, dict[int, Row]]:
    """The rows of each name by seed, in the order in which they come."""
    grouped: dict[str, dict[int, Row]] = {}
    for (name, seed), row in rows.items():
        grouped.setdefault(name, {})[seed] = row
    return grouped


def caching_loader() -> Callable[[Path], Any]:
    """``maskwright.load`` on the CPU that keeps its last model: rows of the same run come one after the other."""
    return lru_cache(maxsize=1)(lambda run: load(run, device="cpu"))


# ----------------------------------------------------------------------------------------------------- what is shown


@dataclass(frozen=True)
class Table:
    """What a benchmark prints.

    Attributes:
        columns: their heads; the first is set to the left, all others to the right.
        notes: said below the table, behind the machine.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: str


def publish(options: Options, table: Table, settings: dict[str, Any], **figures: Any) -> None:
    """Print the table with the machine below it, and write settings, machine and figures where ``--json`` says."""
    facts = machine()
    show(table, facts)
    if options.json is not None:
        write_atomic(options.json, json.dumps({"settings": settings, "machine": facts, **figures}, indent=1) + "\n")


def show(table: Table, facts: dict[str, Any]) -> None:
    shown = RichTable(title=table.title, title_justify="left")
    for number, name in enumerate(table.columns):
        shown.add_column(name, justify="right" if number else "left", overflow="fold")
    for row in table.rows:
        shown.add_row(*row)
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 1000  # a file has lines of any length: nothing is folded
    console.print(shown)
    threads = f"{facts['threads']} thread{'s' if facts['threads'] > 1 else ''}"
    console.print(
        f"{facts['cpu']}, {facts['cores']} cores, {threads}, torch {facts['torch']}. {table.notes}", soft_wrap=True
    )


def interval(difference: Sequence[float] | None, digits: int = 3) -> str:
    """A difference (mean, low, high) as ``+0.012 (-0.003 .. +0.027)``; nothing where there is none."""
    if difference is None:
        return ""
    mean, low, high = (f"{value:+.{digits}f}" for value in difference)
    return f"{mean} ({low} .. {high})"


def each_seed(values: Sequence[float]) -> str:
    """The score of every seed, where there are several."""
    return ", ".join(f"{value:.3f}" for value in values) if len(values) > 1 else ""
