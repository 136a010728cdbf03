"""Checkpoints of a run: ``last/step-000001200/`` with ``*.safetensors`` and ``state.json``."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from torch import Tensor

from maskwright.engine.files import disk, remove, sync_folder, write_synced, write_tensors
from maskwright.engine.values import plain
from maskwright.engine.weights import key_problems, load_tensors, raise_weights
from maskwright.errors import WeightsError

logger = logging.getLogger(__name__)

_CHECKPOINT = re.compile(r"step-(\d+)(?:\.(\d+))?")


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint in memory.

    Attributes:
        step: the step after which it was saved.
        tensors: group name → tensor name → tensor on the CPU.
        state: the JSON-able state that was saved with it.
        folder: where it was read from.
    """

    step: int
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]
    folder: Path


def write_checkpoint(
    run: Path, log: TextIO, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]
) -> None:
    """Replace the newest checkpoint of a run directory; see :meth:`Run.save_checkpoint`.

    Args:
        run: the run directory.
        log: its open metrics, brought to the disk first: a checkpoint is never newer than the log.
        step: optimiser steps done; never below that of the previous checkpoint.
        tensors: group name → state dict.
        state: JSON-able state with str keys.
    """
    state = plain(state, "state")
    header = {"step": step, "tensors": {group: sorted(values) for group, values in tensors.items()}, "state": state}
    aside = run / f"last.tmp-{os.getpid()}"
    try:
        with disk(run, "the checkpoint cannot be saved, the last complete one is intact"):
            older = _checkpoints(run / "last")
            final = run / "last" / _checkpoint_name(step, older)
            os.fsync(log.fileno())
            remove(aside)
            os.makedirs(aside)
            for group, values in tensors.items():
                write_tensors(aside / f"{group}.safetensors", values)
            write_synced(aside / "state.json", json.dumps(header, indent=1, allow_nan=False))
            sync_folder(aside)
            os.makedirs(final.parent, exist_ok=True)
            os.rename(aside, final)
            sync_folder(final.parent)
            sync_folder(run)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)  # a failure here must not hide the error that is being raised
        raise
    for path in older:
        try:
            shutil.rmtree(path)
        except OSError as error:  # no reason to end the run: the next save tries again
            logger.warning("%s: an old checkpoint cannot be deleted: %s", path, error.strerror)


def read_checkpoint(run: Path) -> Checkpoint | None:
    """The newest checkpoint of a run directory; see :meth:`Run.load_checkpoint`."""
    with disk(run, "the checkpoint cannot be read"):
        folders = _checkpoints(run / "last")
    if not folders:
        return None
    folder = folders[-1]
    header = _read_json(folder / "state.json")
    tensors = {group: load_tensors(folder / f"{group}.safetensors") for group in header["tensors"]}
    problems = [
        f"{group}.safetensors: {problem}"
        for group, names in header["tensors"].items()
        for problem in key_problems(names, tensors[group])
    ]
    raise_weights(str(folder), problems)
    return Checkpoint(header["step"], tensors, header["state"], folder)


def newest_step(run: Path) -> int:
    """The step of a run directory's newest checkpoint, -1 where there is none."""
    folders = _checkpoints(run / "last")
    return _read_json(folders[-1] / "state.json")["step"] if folders else -1


def _checkpoints(last: Path) -> list[Path]:
    """Checkpoint folders from old to new, those with names ``step-...``."""
    matches = [
        (m, last / m[0]) for name in (os.listdir(last) if last.is_dir() else []) if (m := _CHECKPOINT.fullmatch(name))
    ]
    return [path for _, path in sorted(matches, key=lambda item: (int(item[0][1]), int(item[0][2] or 0)))]


def _checkpoint_name(step: int, older: Sequence[Path]) -> str:
    """The name of the next checkpoint, above all others. Saving a step again counts up a suffix."""
    if older and (newest := _CHECKPOINT.fullmatch(older[-1].name)):
        if int(newest[1]) > step:
            raise ValueError(f"a checkpoint of step {step} after one of step {int(newest[1])}")
        if int(newest[1]) == step:
            return f"step-{step:09d}.{int(newest[2] or 0) + 1}"
    return f"step-{step:09d}"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise WeightsError(f"{path}: damaged, not JSON: {error}") from error
