"""Checkpoints of a run: ``last/step-000001200/`` with ``*.safetensors`` and ``state.json``.

``state.json`` holds checksums of all files and of itself, and of the log as it was then: a flipped bit or an edit is found.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from torch import Tensor

from maskwright.data.fields import read_json
from maskwright.data.schema import Anything, Fields, Items, Named, Text, Whole
from maskwright.engine.files import disk, remove, sync_folder, write_synced, write_tensors
from maskwright.engine.values import plain
from maskwright.engine.weights import key_problems, load_tensors, raise_weights
from maskwright.errors import DataError, WeightsError

logger = logging.getLogger(__name__)

_CHECKPOINT = re.compile(r"step-(\d+)(?:\.(\d+))?")
_CRC = Whole(0, 2**32 - 1)
_HEADER = Fields(
    {
        "step": Whole(0, 10**15),
        "tensors": Named(Items(Text(), 0, 1_000_000)),
        "checksums": Named(_CRC),
        "log": Fields({"bytes": Whole(0, 10**15), "checksum": _CRC}),
        "state": Named(Anything()),
        "checksum": _CRC,
    }
)


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
    header: dict[str, Any] = {
        "step": step,
        "tensors": {group: sorted(values) for group, values in tensors.items()},
        "state": state,
    }
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
            header["checksums"] = {group: _checksum(aside / f"{group}.safetensors") for group in tensors}
            header["log"] = _measured(run / "metrics.jsonl")
            header["checksum"] = _own_checksum(header)
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
    header = _header(folder)
    changed = [
        f"{group}.safetensors changed since the checkpoint was written"
        for group, then in header["checksums"].items()
        if _checksum(folder / f"{group}.safetensors") != then
    ]
    raise_weights(str(folder), changed)
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
    return _header(folders[-1])["step"] if folders else -1


def log_was_changed(run: Path) -> bool:
    """Whether the log no longer begins with what it held when the newest checkpoint was written."""
    folders = _checkpoints(run / "last")
    if not folders:
        return False
    then = _header(folders[-1])["log"]
    return _measured(run / "metrics.jsonl", then["bytes"]) != then


def _measured(log: Path, most: int | None = None) -> dict[str, int]:
    """Length and checksum of a log, or of its first bytes; a log that is not there is empty."""
    content = log.read_bytes()[:most] if log.exists() else b""
    return {"bytes": len(content), "checksum": zlib.crc32(content)}


def _checksum(path: Path) -> int:
    """CRC-32 of a file. Raises WeightsError where it cannot be read."""
    value = 0
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 22):
                value = zlib.crc32(chunk, value)
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        raise WeightsError(f"{path}: {reason}") from error
    return value


def _own_checksum(header: Mapping[str, Any]) -> int:
    told = {name: value for name, value in header.items() if name != "checksum"}
    return zlib.crc32(json.dumps(told, sort_keys=True).encode())


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


def _header(folder: Path) -> dict[str, Any]:
    """The ``state.json`` of a checkpoint, checked. Raises WeightsError where it is missing or not as it was written."""
    path = folder / "state.json"
    try:
        header = read_json(path)
    except DataError as error:
        raise WeightsError(f"{error}; {_REMEDY}") from error
    if problems := list(_HEADER.problems(header, "")):
        raise WeightsError(f"{path}: damaged, or written by an older maskwright: {'; '.join(problems)}; {_REMEDY}")
    step = _CHECKPOINT.fullmatch(folder.name)
    if _own_checksum(header) != header["checksum"] or step is None or int(step[1]) != header["step"]:
        raise WeightsError(f"{path}: changed since the checkpoint was written; {_REMEDY}")
    return header


_REMEDY = "restore the checkpoint, or start anew with --overwrite"
