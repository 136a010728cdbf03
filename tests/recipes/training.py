"""What the tests of the recipe share: the smallest training there is, and how two of its runs are compared."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import maskwright
from maskwright.data.labels import Kind
from maskwright.data.scene_dataset import write_scenes
from maskwright.engine.session import Session
from maskwright.recipes.samix import Config

SMALLEST = {
    "size": 64,
    "steps": 6,
    "warm_up": 2,
    "policy_warm_up": 2,
    "batch": 4,
    "references": 2,
    "workers": 0,
    "device": "cpu",
}


def settings(data: Path, out: Path, weights: Path, **changed: Any) -> Config:
    return Config(**{"data": data, "out": out, "sam": str(weights), **SMALLEST, **changed})


def arguments(data: Path, out: Path, sam: Path, **changed: Any) -> list[str]:
    """The same for the command line."""
    options = {"out": out, "sam": sam, **SMALLEST, **changed}
    flags = [f"--{name.replace('_', '-')}" if value is True else "" for name, value in options.items()]
    pairs = [[flag] if flag else [f"--{n.replace('_', '-')}", str(v)] for flag, (n, v) in zip(flags, options.items())]
    return ["train", "samix", str(data), *(word for pair in pairs for word in pair)]


def environment() -> dict[str, str]:
    """For a process that runs maskwright from where these tests found it."""
    source, tests = Path(maskwright.__file__).parents[1], Path(__file__).parents[2]
    path = os.pathsep.join(filter(None, [str(source), str(tests), os.environ.get("PYTHONPATH")]))
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


class Stopped(Exception):
    """What ends a training in the middle."""


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Let the next training die right after the checkpoint of a step, counted over all its stages."""
    save = Session.save

    def save_and_die(self: Session, *, force: bool = False) -> None:
        save(self, force=force)
        if self.clock == steps:
            raise Stopped

    monkeypatch.setattr(Session, "save", save_and_die)


def session_of(config: Any) -> Session:
    """A session whose run has no folder yet."""
    return Session.open(config, config.settings())


def python(*args: object) -> list[str]:
    return [sys.executable, "-m", *map(str, args)]


def tensors(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def log(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def assert_same_run(run: Path, expected: Path) -> None:
    """Every number of the model and of the log, to the last bit."""
    found, wanted = tensors(run), tensors(expected)
    assert found.keys() == wanted.keys()
    assert [name for name, tensor in wanted.items() if not torch.equal(found[name], tensor)] == []
    assert log(run) == log(expected)


def binary_scenes(folder: Path, **changed: Any) -> Path:
    """Eight training images of one category with all six kinds of label, two for validation and two for testing."""
    shares = {Kind.MASK: 2, Kind.BOX: 2, Kind.SCRIBBLE: 1, Kind.POINT: 1, Kind.TAG: 1, Kind.NONE: 1}
    scenes = {
        "train": 8,
        "val": 2,
        "test": 2,
        "size": 64,
        "categories": ("disc",),
        "difficulty": 0.0,
        "shares": {kind: count / 8 for kind, count in shares.items()},
    }
    write_scenes(folder, **{**scenes, **changed})
    return folder


def started(config: Any, trainer: Callable[[Any, Session], Any]) -> Any:
    """The trainer of a run that has begun, and has made no step."""
    with session_of(config) as session:
        made = trainer(config, session)
        session.begin(made)
    return made


def same(network: torch.nn.Module, weights: Path, but: tuple[str, ...] = ()) -> bool:
    """Whether a network has the weights of a file, but for some tensors."""
    found = network.state_dict()
    return all(torch.equal(found[name], tensor) for name, tensor in load_file(weights).items() if name not in but)
