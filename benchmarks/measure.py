"""What the benchmarks share: loading a SAM, honest timing, the machine in words, one table, one JSON file."""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console
from rich.table import Table

from maskwright.data.images import write_atomic
from maskwright.sam.sam import Sam
from maskwright.sam.weights import nano_config

T = TypeVar("T")


def load_sam(source: str, size: int | None) -> Sam:
    """What ``Sam.load`` takes, or ``random``: nano's architecture with random weights, which is as fast."""
    return Sam.from_config(nano_config(), size=size) if source == "random" else Sam.load(source, size=size)


def median_seconds(call: Callable[[], object], repeats: int) -> float:
    """Median over ``repeats`` calls, after one that is not counted."""
    taken = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[1:])


def in_own_process(call: Callable[..., T], *args: Any) -> T:
    """What a call returns or raises, in a fresh process (a forked one would start with this one's memory): peaks are its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(call, *args).result()


def peak_bytes() -> int:
    """Largest resident size of this process so far. macOS counts in bytes, all others in KiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def machine() -> dict[str, Any]:
    """What the figures depend on besides the code."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], facts: dict[str, Any], notes: str) -> None:
    """One table, with the machine and the notes below it."""
    table = Table(title=title, title_justify="left")
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False, markup=False)
    console.print(table)
    threads = f"{facts['threads']} thread{'s' if facts['threads'] > 1 else ''}"
    console.print(f"{facts['cpu']}, {facts['cores']} cores, {threads}, torch {facts['torch']}. {notes}")


def save(path: Path | None, figures: dict[str, Any]) -> None:
    """Write the figures as JSON, where a file was asked for."""
    if path is not None:
        write_atomic(path, json.dumps(figures, indent=1) + "\n")


def claimed(out: Path, settings: dict[str, Any], what: str) -> dict[str, Any]:
    """Make a folder for the results of these settings, and give them as JSON has them. Ends the program if it holds those of others."""
    out.mkdir(parents=True, exist_ok=True)
    same = out / "settings.json"
    settings = json.loads(json.dumps(settings))
    if same.is_file():
        found = json.loads(same.read_text())
        if different := [k for k in settings if found.get(k) != settings[k]]:
            raise SystemExit(f"{out}: its {what} were made with other {', '.join(different)}; name another --out")
    write_atomic(same, json.dumps(settings, indent=1) + "\n")
    return settings


def kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A result of an earlier call, or of this one, which is written then."""
    if not path.is_file():
        write_atomic(path, json.dumps(make()) + "\n")
    return json.loads(path.read_text())


def rows_of(
    out: Path, names: Sequence[str], wanted: Sequence[tuple[str, int]], make: Callable[[str, int], dict[str, Any]]
) -> dict[tuple[str, int], dict[str, Any]]:
    """Rows by name and seed, each a file in OUT that is made if it is not there; in the order of ``names``, then of the seeds.

    Args:
        wanted: which, in the order in which they are made.
    """
    rows = {}
    for name, seed in wanted:
        slug = "".join(c if c.isalnum() else "-" for c in name)
        rows[name, seed] = kept(out / f"row-{slug}-s{seed}.json", lambda name=name, seed=seed: make(name, seed))
    order = {name: place for place, name in enumerate(names)}
    return dict(sorted(rows.items(), key=lambda item: (order[item[0][0]], item[0][1])))


def refuse_unknown(rows: Sequence[str], names: Sequence[str]) -> None:
    """End the program where ``--rows`` names one that is not there."""
    if unknown := [name for name in rows if name not in names]:
        raise SystemExit(f"--rows: {unknown[0]!r} is none of: {', '.join(names)}")
