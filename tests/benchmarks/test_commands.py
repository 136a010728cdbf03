"""Every call of a benchmark or tool that a page or a program's own text names is one that the program takes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import tyro

from tests.benchmarks.test_frame import SHARED

ROOT = Path(__file__).parents[2]
SOURCES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "benchmarks").glob("*.py")),
    *sorted((ROOT / "tools").glob("*.py")),
]


def commands() -> list[str]:
    """Of all pages and programs, but for model cards, whose weights were made by programs as they were then."""
    found = set()
    for source in SOURCES:
        text = re.sub(r"\\\n *", "", source.read_text("utf-8"))  # a backslash goes on in the next line
        for command in re.findall(r"python ((?:benchmarks|tools)/\w+\.py[^`\n|]*)", text):
            command = command.split("  #")[0].strip()
            if " ... " not in command:  # cut short
                found.add(command)
    return sorted(found)


def test_commands_are_found() -> None:
    programs = {command.split()[0] for command in commands()}
    for path in (ROOT / "benchmarks").glob("*.py"):
        assert (f"benchmarks/{path.name}" in programs) == (path.stem not in SHARED)


@pytest.mark.parametrize("command", commands())
def test_every_command_is_one(command: str, script: Callable[[str, str], ModuleType]) -> None:
    program, *arguments = shlex.split(command)
    folder, name = Path(program).with_suffix("").parts
    module = script(folder, name)
    if hasattr(module, "Config"):
        assert isinstance(tyro.cli(module.Config, args=arguments), module.Config)
