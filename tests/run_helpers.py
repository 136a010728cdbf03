"""A run to test with, and a saboteur that lets any one of its file operations fail."""

from __future__ import annotations

import builtins
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from maskwright.engine import files
from maskwright.engine.run import Run
from maskwright.errors import RunError

CONFIG = {"lr": 1e-3, "seed": 0, "optim": {"name": "adamw", "betas": (0.9, 0.99)}, "workers": 2}


def start(folder: Path, resume: bool = False, **kwargs) -> Run:
    return Run.create(folder, CONFIG, resume=resume, **kwargs)


def weights(value: float) -> dict[str, dict[str, torch.Tensor]]:
    return {
        "model": {"a": torch.full((3, 2), value), "b": torch.full((), value)},
        "ema": {"a": torch.full((4,), -value)},
    }


def leftovers(folder: Path) -> list[str]:
    return [p.name for p in folder.iterdir() if ".tmp-" in p.name or ".old-" in p.name]


class Killed(BaseException):
    """kill -9: no handler of the program may do anything about it, so later file operations fail as well."""


class Saboteur:
    """Lets the n-th file operation fail, before or (for writing) half way through it."""

    NAMES = (
        "fsync",
        "makedirs",
        "mkdir",
        "rename",
        "replace",
        "open",
        "close",
        "chmod",
        "fstat",
        "unlink",
        "rmdir",
        "listdir",
    )

    def __init__(self, patch: pytest.MonkeyPatch, at: int, error: BaseException) -> None:
        self.at, self.error, self.calls = at, error, 0
        for name in self.NAMES:
            patch.setattr(os, name, self.wrap(getattr(os, name)))
        patch.setattr(files, "open", self.wrap(builtins.open), raising=False)
        patch.setattr("safetensors.torch.save_file", self.wrap(save_file, half=True))

    def wrap(self, function, half: bool = False):
        def wrapped(*args, **kwargs):
            self.calls += 1
            if self.calls == self.at or (self.calls > self.at and isinstance(self.error, Killed)):
                if half and self.calls == self.at:
                    Path(args[1]).write_bytes(b"\x40\x00\x00")
                raise self.error
            return function(*args, **kwargs)

        return wrapped


def sabotage(action, at: int, error: BaseException) -> tuple[int, BaseException | None]:
    """Run the action with its ``at``-th file operation failing; returns how many it made, and what it raised."""
    with pytest.MonkeyPatch.context() as patch:
        saboteur = Saboteur(patch, at, error)
        try:
            action()
        except (Killed, RunError) as raised:
            return saboteur.calls, raised
    return saboteur.calls, None


def prepared(folder: Path) -> Run:
    run = start(folder)
    run.save_checkpoint(1, weights(1), {"number": 1})
    return run
