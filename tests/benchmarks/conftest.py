"""What the tests of benchmarks share: running one as its command line does, at its smallest size."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

Figures = dict[str, Any]


@pytest.fixture
def benchmark(script: Callable[[str, str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """A benchmark by its name. What it would measure in processes of their own it measures in this one: each takes seconds to start."""

    def load(name: str) -> ModuleType:
        module = script("benchmarks", name)
        if hasattr(module, "in_own_process"):
            monkeypatch.setattr(module, "in_own_process", in_this_process)
        return module

    return load


def in_this_process(call: Callable[..., Any], *arguments: Any) -> Any:
    """As ``measure.in_own_process``; a measurement that turns gradients off turns them off for itself."""
    with torch.set_grad_enabled(torch.is_grad_enabled()):
        return call(*arguments)


@pytest.fixture
def figures_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[Figures, str]]:
    """Run a benchmark with some settings: the JSON that it wrote, and what it printed, on one line."""

    def run(module: ModuleType, **settings: Any) -> tuple[Figures, str]:
        path = tmp_path / "figures.json"
        path.unlink(missing_ok=True)
        module.main(module.Config(json=path, **settings))
        figures = json.loads(path.read_text())
        assert figures["machine"]["threads"] == settings.get("threads", 1)
        return figures, " ".join(capsys.readouterr().out.split())

    return run
