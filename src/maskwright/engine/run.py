"""A run directory that survives being killed: configuration, metrics, checkpoints, the final model.

::

    runs/polyps/
      config.json      what is needed to repeat the run: settings with seeds, versions, command line
      metrics.jsonl    one JSON object per logged step; TensorBoard files in tb/
      last/            the newest checkpoint, ``step-000001200/`` with ``*.safetensors`` and ``state.json``
      model/           the model to take home: config.json, model.safetensors, README.md

Everything is written aside in the same folder, flushed to the disk, and then renamed, so at every instant the directory
holds one complete checkpoint. Weights are safetensors, all else is JSON; a pickle is never read or written.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.metadata
import json
import logging
import math
import os
import platform
import random
import re
import shutil
import struct
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from maskwright.errors import RunError, WeightsError

logger = logging.getLogger(__name__)

_FORMAT = "maskwright run 1"
# config.json comes last: it marks a folder as ours
_OWN = ("last", "model", "tb", "metrics.jsonl", "report.html", "config.json")
_ASIDE = re.compile(r"(config\.json|metrics\.jsonl|last|model)\.(tmp|old)-\d+")
_CHECKPOINT = re.compile(r"step-(\d+)(?:\.(\d+))?")
_PACKAGES = ("maskwright", "torch", "transformers", "safetensors", "numpy")


# ---------------------------------------------------------------------------------------------------- run directory


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint in memory.

    Attributes:
        step: the step after which it was saved.
        tensors: group name → tensor name → tensor on the CPU.
        state: whatever JSON-able state was saved with it.
        folder: where it was read from.
    """

    step: int
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]
    folder: Path


class Run:
    """One run directory. Make it with :meth:`create`.

    Only the main process (``is_main=True``) writes; in the others every writing method does nothing.
    Log everything about a step before saving its checkpoint: what a kill cuts off after the checkpoint is not logged
    again.

    >>> run = Run.create("runs/polyps", {"lr": 1e-4, "seed": 0}, resume=True)
    >>> checkpoint = run.load_checkpoint()          # None at the first start
    >>> run.log(100, loss=0.3)
    >>> run.save_checkpoint(100, {"model": model.state_dict()}, {"best": 0.7})
    """

    def __init__(self, folder: Path, config: dict[str, Any], *, is_main: bool = True) -> None:
        self.folder = folder
        self.config = config
        self.is_main = is_main
        self._purge_step: int | None = None
        self._writer: Any = None
        self._metrics: Any = None

    @classmethod
    def create(
        cls,
        folder: str | Path,
        config: Mapping[str, Any],
        *,
        resume: bool,
        overwrite: bool = False,
        may_differ: Sequence[str] = (),
        is_main: bool = True,
    ) -> Run:
        """Start a run in a new or empty folder, or continue the one that is there.

        Args:
            folder: the run directory, made if need be.
            config: all settings and seeds: str keys, and numbers, strings, None, paths, enums, dataclasses, lists,
                dicts.
            resume: continue the run found in ``folder``; where there is none yet, simply start. Metrics that were
                logged after the last checkpoint are dropped, so that the log ends up equal to that of an uninterrupted
                run.
            overwrite: delete the run found in ``folder`` and start anew. Files that are not a run's own stay.
            may_differ: settings (dotted for nested ones, a prefix covers what is under it) that a resumed run may
                change, such as ``workers``.
            is_main: False in all but one process of a distributed run: nothing is checked or written then, so let the
                main process come first (``accelerator.main_process_first()``).

        Raises:
            RunError: the folder is not empty and neither ``resume`` nor ``overwrite`` is given; it holds something that
                is not a run; the stored settings differ (all are named); it cannot be written.
            TypeError: ``config`` holds something that JSON cannot.
        """
        run = cls(Path(folder), _plain(config, "config"), is_main=is_main)
        if resume and overwrite:
            raise RunError("--resume continues a run and --overwrite deletes it: give one of the two")
        if not is_main:
            return run
        with _disk(run.folder, "the run cannot be set up"):
            stored = run._stored()
            if stored is not None and not (resume or overwrite):
                raise RunError(
                    f"{run.folder} already holds a run: continue it with --resume, name another folder with --out, "
                    "or delete it and start anew with --overwrite"
                )
            if stored is not None and resume:
                run._resume(stored, may_differ)
            else:
                run._start()
            run._metrics = open(run.folder / "metrics.jsonl", "a", encoding="utf-8")  # noqa: SIM115 (closed by close)
        return run

    def log(self, step: int, **scalars: Any) -> None:
        """Append one line to ``metrics.jsonl`` and the same scalars to TensorBoard, flushed.

        Args:
            step: optimiser steps done, counted over the whole run.
            scalars: numbers, or tensors and arrays of one element. Names with a slash go in as ``**{"val/dice": 0.8}``.
                NaN and infinities are written as the strings "nan", "inf", "-inf", which :func:`read_metrics` undoes.
        """
        if not self.is_main:
            return
        values = {name: _number(name, value) for name, value in scalars.items()}
        line = {"step": int(step)} | {k: v if math.isfinite(v) else str(v) for k, v in values.items()}
        with _disk(self.folder, "the metrics cannot be written"):
            self._metrics.write(json.dumps(line) + "\n")
            self._metrics.flush()
            writer = self._tensorboard()
            for name, value in values.items():
                writer.add_scalar(name, value, step)
            writer.flush()

    def save_checkpoint(self, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> None:
        """Replace the checkpoint in ``last/``; a kill at any instant leaves the old one or the new one, complete.

        The folder is written aside, flushed, renamed to ``last/step-<n>``, and only then the older one is deleted. The
        newest name in ``last/`` is therefore always complete.

        Args:
            step: optimiser steps done; never below that of the previous checkpoint.
            tensors: group name → state dict, for example ``{"model": model.state_dict(), "optimizer": ...}``. Tensors
                that share memory (tied weights) are written once per name.
            state: JSON-able state with str keys.

        Raises:
            RunError: the disk is full or cannot be written; the previous checkpoint is intact, nothing is left behind.
        """
        if not self.is_main:
            return
        state = _plain(state, "state")
        header = {"step": step, "tensors": {group: sorted(values) for group, values in tensors.items()}, "state": state}
        aside = self.folder / f"last.tmp-{os.getpid()}"
        try:
            with _disk(self.folder, "the checkpoint cannot be saved, the last complete one is intact"):
                older = _checkpoints(self.folder / "last")
                final = self.folder / "last" / _checkpoint_name(step, older)
                os.fsync(self._metrics.fileno())
                _remove(aside)
                os.makedirs(aside)
                for group, values in tensors.items():
                    _write_tensors(aside / f"{group}.safetensors", values)
                _write_synced(aside / "state.json", json.dumps(header, indent=1))
                _sync_folder(aside)
                os.makedirs(final.parent, exist_ok=True)
                os.rename(aside, final)
                _sync_folder(final.parent)
                _sync_folder(self.folder)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)  # the error that is under way matters more than a leftover folder
            raise
        for path in older:
            try:
                shutil.rmtree(path)
            except OSError as error:  # no reason to end a run: the next save tries again
                logger.warning("%s: an old checkpoint cannot be deleted: %s", path, error.strerror)

    def load_checkpoint(self) -> Checkpoint | None:
        """The newest checkpoint, or None where none was saved yet.

        Raises:
            WeightsError: a file or tensor of it is missing or damaged, or there is one too many.
        """
        with _disk(self.folder, "the checkpoint cannot be read"):
            found = _checkpoints(self.folder / "last")
        if not found:
            return None
        folder = found[-1]
        header = _read_json(folder / "state.json")
        tensors = {group: load_tensors(folder / f"{group}.safetensors") for group in header["tensors"]}
        problems = [
            f"{group}.safetensors: {problem}"
            for group, names in header["tensors"].items()
            for problem in _key_problems(names, tensors[group])
        ]
        _raise_weights(str(folder), problems)
        return Checkpoint(header["step"], tensors, header["state"], folder)

    def save_model(self, modules_state: Mapping[str, Tensor], config: Mapping[str, Any], card: str) -> Path:
        """Write ``model/`` (see :func:`save_model`) and return its path."""
        path = self.folder / "model"
        return save_model(path, modules_state, config, card) if self.is_main else path

    def close(self) -> None:
        """Close the log files; the run directory stays as it is."""
        for stream in (self._metrics, self._writer):
            if stream is not None:
                stream.close()
        self._metrics = self._writer = None

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _stored(self) -> dict[str, Any] | None:
        """The config.json of the run in this folder; None for a new or empty folder. Anything else there is refused."""
        if self.folder.exists() and not self.folder.is_dir():
            raise RunError(f"{self.folder} is a file: name a folder with --out")
        names = os.listdir(self.folder) if self.folder.is_dir() else []
        if not [name for name in names if not _ASIDE.fullmatch(name)]:
            return None
        try:
            stored = json.loads((self.folder / "config.json").read_text("utf-8"))
        except (FileNotFoundError, ValueError):
            stored = None
        if not isinstance(stored, dict) or stored.get("format") != _FORMAT:
            raise RunError(
                f"{self.folder} holds files but no run of maskwright, and is left alone: name another folder with --out"
            )
        return stored

    def _start(self) -> None:
        os.makedirs(self.folder, exist_ok=True)
        names = os.listdir(self.folder)
        for name in [*filter(_ASIDE.fullmatch, names), *(own for own in _OWN if own in names)]:
            _remove(self.folder / name)
        record = {"format": _FORMAT, "config": self.config, **_circumstances(), "resumed": []}
        _replace_text(self.folder / "config.json", json.dumps(record, indent=2))

    def _resume(self, stored: dict[str, Any], may_differ: Sequence[str]) -> None:
        then, now = _flat(stored["config"]), _flat(self.config)
        free = tuple(may_differ)
        differing = [
            f"{key}: {_show(then, key)} there, {_show(now, key)} now"
            for key in sorted(then.keys() | now.keys())
            if _show(then, key) != _show(now, key) and not any(key == f or key.startswith(f + ".") for f in free)
        ]
        if differing:
            raise RunError(
                "\n  - ".join([f"{self.folder} cannot be resumed, its settings differ:", *differing])
                + "\nGive the settings of the stored run, or name another folder with --out."
            )
        circumstances = _circumstances()
        if circumstances["versions"] != stored["versions"]:
            logger.warning(
                "%s: resumed with other versions than it was started with, so numbers may differ", self.folder
            )
        _restore_folder(self.folder / "model")
        for name in filter(_ASIDE.fullmatch, os.listdir(self.folder)):
            _remove(self.folder / name)
        found = _checkpoints(self.folder / "last")
        step = _read_json(found[-1] / "state.json")["step"] if found else -1
        self._purge_step = step + 1
        _truncate_metrics(self.folder / "metrics.jsonl", step)
        stored["resumed"].append({"step": max(step, 0), **circumstances})
        _replace_text(self.folder / "config.json", json.dumps(stored, indent=2))

    def _tensorboard(self) -> Any:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter  # seconds to import, and only the main process needs it

            self._writer = SummaryWriter(str(self.folder / "tb"), purge_step=self._purge_step)
        return self._writer


def read_metrics(folder: str | Path) -> list[dict[str, float]]:
    """All lines of a run's ``metrics.jsonl``, in order, non-finite numbers as floats again. Empty without a log.

    Raises RunError naming a damaged line; a last line that is still being written is left out.
    """
    entries = _metric_lines(Path(folder) / "metrics.jsonl")
    return [{k: float(v) if isinstance(v, str) else v for k, v in entry.items()} for entry in entries]


# ------------------------------------------------------------------------------------------------- weights on disk


def save_model(folder: str | Path, modules_state: Mapping[str, Tensor], config: Mapping[str, Any], card: str) -> Path:
    """Write a model folder: ``model.safetensors``, ``config.json`` and ``README.md`` (the model card).

    A first save is one rename. Replacing an existing model takes two; a kill exactly between them leaves the old model,
    complete, under ``<folder>.old-<pid>``, and the next ``save_model`` or ``Run.create(resume=True)`` puts it back.

    Args:
        folder: new, empty, or a model folder written before; anything else is refused.
        modules_state: tensor name → tensor; tied weights may appear under several names.
        config: JSON-able description that is enough to build the module again.
        card: Markdown.

    Raises:
        RunError: the folder holds other files, or the disk is full or cannot be written; an older model is intact.
    """
    folder = Path(folder)
    text = json.dumps(_plain(config, "config"), indent=2)
    aside = folder.with_name(f"{folder.name}.tmp-{os.getpid()}")
    old = folder.with_name(f"{folder.name}.old-{os.getpid()}")
    with _disk(folder, "the model cannot be saved"):
        _restore_folder(folder)
        _refuse_foreign(folder)
        try:
            os.makedirs(aside)
            _write_tensors(aside / "model.safetensors", modules_state)
            _write_synced(aside / "config.json", text)
            _write_synced(aside / "README.md", card)
            _sync_folder(aside)
            if folder.exists():
                os.rename(folder, old)
            os.rename(aside, folder)
            _sync_folder(folder.parent)
        except BaseException:
            if old.exists() and not folder.exists():
                os.rename(old, folder)
            shutil.rmtree(aside, ignore_errors=True)  # the error that is under way matters more than a leftover folder
            raise
        _remove(old)
    return folder


def load_model(folder: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and config of a folder that :func:`save_model` wrote. Raises WeightsError for missing or damaged ones."""
    folder = Path(folder)
    return load_tensors(folder / "model.safetensors"), _read_json(folder / "config.json")


def load_tensors(path: str | Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, on the CPU, in memory of their own (the file may be replaced afterwards).

    Raises:
        WeightsError: missing, cut off, or not safetensors. A pickle (``.pt``, ``.pth``, ``.bin``) is recognised and
            refused
            unread: unpickling runs whatever code the file brings.
    """
    path = Path(path)
    try:
        with open(path, "rb") as stream:
            head = stream.read(64)
            size = os.fstat(stream.fileno()).st_size
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        raise WeightsError(f"{path}: {reason}") from error
    if head[:4] == b"PK\x03\x04" or head[:1] == b"\x80":
        raise WeightsError(
            f"{path}: this is a pickle, not safetensors, and pickles are never loaded because they can run code; "
            "turn an official .pt file into safetensors with `maskwright sam convert`"
        )
    if head.startswith(b"version https://git-lfs"):
        raise WeightsError(
            f"{path}: this is a Git LFS pointer, not the weights themselves; fetch them with `git lfs pull`"
        )
    if len(head) < 9 or head[8:9] != b"{":
        raise WeightsError(f"{path}: not a safetensors file, or cut off ({size} bytes)")
    if struct.unpack("<Q", head[:8])[0] > size - 8:
        raise WeightsError(f"{path}: cut off ({size} bytes): copy or download it again")
    try:
        return {name: tensor.clone() for name, tensor in load_file(path).items()}
    except SafetensorError as error:
        raise WeightsError(f"{path}: damaged or cut off ({error}): copy or download it again") from error


def load_state(module: nn.Module, tensors: Mapping[str, Tensor], where: str | Path) -> None:
    """Load a complete state dict into a module; values are cast to the module's dtypes and devices.

    Args:
        where: names the source in messages.

    Raises:
        WeightsError: any missing or unexpected name, or other shape; all are named at once and nothing is loaded.
    """
    own = module.state_dict()
    problems = _key_problems(own, tensors)
    problems += [
        f"{name}: shape {tuple(tensors[name].shape)}, and the model has {tuple(value.shape)}"
        for name, value in own.items()
        if name in tensors and tensors[name].shape != value.shape
    ]
    _raise_weights(str(where), problems)
    module.load_state_dict(tensors)


# ------------------------------------------------------------------- training state as tensors and JSON, and back


def flatten_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimiser's state as ``(tensors, state)`` for :meth:`Run.save_checkpoint`: ``{"0.exp_avg": ...}`` and JSON.

    Raises TypeError for state that is neither tensor, number, string nor None (L-BFGS keeps lists of tensors).
    """
    saved = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    values: dict[str, Any] = {}
    for index, entry in saved["state"].items():
        for name, value in entry.items():
            (tensors if isinstance(value, Tensor) else values)[f"{index}.{name}"] = value
    groups: list[dict[str, Any]] = []
    for number, group in enumerate(saved["param_groups"]):
        tensors |= {f"group.{number}.{k}": v for k, v in group.items() if isinstance(v, Tensor)}
        groups.append({k: v for k, v in group.items() if not isinstance(v, Tensor)})
    state = {"values": values, "groups": groups, "shapes": _shapes(optimizer), "keys": sorted(tensors)}
    return tensors, _plain(state, "optimizer")


def unflatten_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], state: Mapping[str, Any]
) -> None:
    """Load what :func:`flatten_optimizer` gave into an optimiser over the same parameters in the same order.

    Raises:
        WeightsError: tensors missing or unexpected, or the optimiser has other parameters; all are named at once.
    """
    problems = _key_problems(state["keys"], tensors)
    shapes = _shapes(optimizer)
    if len(shapes) != len(state["shapes"]):
        problems.append(f"{len(state['shapes'])} parameter groups, and the optimiser has {len(shapes)}")
    for number, (theirs, ours) in enumerate(zip(state["shapes"], shapes, strict=False)):
        if theirs != ours:
            problems.append(f"group {number}: parameters of shapes {theirs}, and the optimiser has {ours}")
    _raise_weights("optimiser state", problems)
    groups = [dict(group) for group in state["groups"]]
    for number, (group, own) in enumerate(zip(groups, optimizer.param_groups, strict=True)):
        for name, value in group.items():  # JSON knows no tuples
            if isinstance(own.get(name), tuple):
                group[name] = tuple(value)
        prefix = f"group.{number}."
        group.update({key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)})
    entries: dict[int, dict[str, Any]] = {}
    for key, value in [*state["values"].items(), *tensors.items()]:
        index, _, name = key.partition(".")
        if index != "group":  # a clone, because the optimiser updates its state in place
            entries.setdefault(int(index), {})[name] = value.clone() if isinstance(value, Tensor) else value
    optimizer.load_state_dict({"state": entries, "param_groups": groups})


def scheduler_state(scheduler: torch.optim.lr_scheduler.LRScheduler) -> dict[str, Any]:
    """A learning-rate scheduler's state as JSON. Raises TypeError for what JSON cannot hold (MultiStepLR)."""
    return _plain(scheduler.state_dict(), type(scheduler).__name__)


def load_scheduler(scheduler: torch.optim.lr_scheduler.LRScheduler, state: Mapping[str, Any]) -> None:
    """Load what :func:`scheduler_state` gave. Raises WeightsError that names missing and unexpected entries."""
    _raise_weights("scheduler state", _key_problems(scheduler.state_dict(), state))
    scheduler.load_state_dict(dict(state))


def flatten_rng(**generators: torch.Generator | np.random.Generator) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state of the global generators of Python, NumPy and torch (CPU, CUDA), and of any named ones, as (tensors,
    JSON).

    It is this process's state: the promise "resumed = never stopped" is for one process.
    """
    version, words, python_gauss = random.getstate()
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)  # noqa: NPY002 (libraries draw from it)
    tensors = {
        "python": torch.tensor(words),
        "numpy": torch.from_numpy(np.asarray(keys).astype(np.int64)),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_initialized():
        tensors |= {f"cuda.{i}": value for i, value in enumerate(torch.cuda.get_rng_state_all())}
    named = {name: g.bit_generator.state for name, g in generators.items() if isinstance(g, np.random.Generator)}
    tensors |= {f"generator.{k}": g.get_state() for k, g in generators.items() if isinstance(g, torch.Generator)}
    state = {
        "python": {"version": version, "gauss": python_gauss},
        "numpy": {"kind": kind, "position": position, "has_gauss": has_gauss, "gauss": gauss},
        "generators": named,
        "keys": sorted(tensors),
    }
    return tensors, _plain(state, "rng")


def unflatten_rng(
    tensors: Mapping[str, Tensor], state: Mapping[str, Any], **generators: torch.Generator | np.random.Generator
) -> None:
    """Set the generators to what :func:`flatten_rng` gave; the same named ones must be given.

    CUDA states are set for the devices that exist here; a warning says so where their number differs.

    Raises:
        WeightsError: states missing or unexpected, or other named generators; all are named at once and nothing is set.
    """
    stored = {*state["generators"], *(k.removeprefix("generator.") for k in tensors if k.startswith("generator."))}
    _raise_weights("random state", _key_problems(state["keys"], tensors) + _key_problems(generators, stored))
    python, numpy = state["python"], state["numpy"]
    random.setstate((python["version"], tuple(tensors["python"].tolist()), python["gauss"]))
    keys = tensors["numpy"].numpy().astype(np.uint32)
    np.random.set_state((numpy["kind"], keys, numpy["position"], numpy["has_gauss"], numpy["gauss"]))  # noqa: NPY002
    torch.set_rng_state(tensors["torch"])
    cuda = [tensors[f"cuda.{i}"] for i in range(sum(key.startswith("cuda.") for key in tensors))]
    here = torch.cuda.device_count() if cuda else 0
    if len(cuda) != here:
        logger.warning(
            "random states of %d CUDA devices were saved and %d are here, so numbers may differ", len(cuda), here
        )
    for device, value in zip(range(here), cuda, strict=False):
        torch.cuda.set_rng_state(value, device)
    for name, generator in generators.items():
        if isinstance(generator, torch.Generator):
            generator.set_state(tensors[f"generator.{name}"])
        else:
            generator.bit_generator.state = state["generators"][name]


# ---------------------------------------------------------------------------------------------- budget and progress


@dataclass(frozen=True)
class Budget:
    """How long to train: exactly one of epochs, steps or minutes.

    With epochs or steps the progress is a function of the step alone, so schedules that follow it are deterministic.
    With minutes it follows the clock: two runs are never quite alike. Processes of a distributed run must then not ask
    each for
    itself: let the main process decide and broadcast.

    Attributes:
        epochs: passes over the data; may be a fraction.
        steps: optimiser steps.
        minutes: wall clock, counted over all sessions of a resumed run.
        steps_per_epoch: needed with epochs.
        used_minutes: what earlier sessions used; ``budget.resumed(checkpoint.state["minutes"])`` sets it.

    >>> budget, started = Budget(minutes=45), time.monotonic()
    >>> while not budget.done(step, started): ...
    """

    epochs: float | None = None
    steps: int | None = None
    minutes: float | None = None
    steps_per_epoch: int | None = None
    used_minutes: float = 0.0

    def __post_init__(self) -> None:
        given = {k: v for k in ("epochs", "steps", "minutes") if (v := getattr(self, k)) is not None}
        if len(given) != 1:
            named = " and ".join(f"--{name}" for name in given) or "none"
            raise RunError(f"give exactly one of --epochs, --steps and --minutes; given: {named}")
        for name, value in given.items():
            if not (math.isfinite(value) and value > 0):
                raise RunError(f"--{name} must be a number above 0, not {value}")
        if self.epochs is not None and self.steps_per_epoch is not None and self.steps_per_epoch < 1:
            raise ValueError(f"an epoch of {self.steps_per_epoch} steps")

    @property
    def total_steps(self) -> int | None:
        """Steps in all; None with minutes."""
        if self.epochs is None:
            return self.steps
        if self.steps_per_epoch is None:
            raise ValueError("a budget in epochs needs steps_per_epoch")
        return math.ceil(self.epochs * self.steps_per_epoch)

    def resumed(self, used_minutes: float) -> Budget:
        """The same budget after earlier sessions of ``used_minutes`` in all."""
        return replace(self, used_minutes=used_minutes)

    def minutes_used(self, started: float) -> float:
        """Minutes of all sessions, to save with checkpoints. ``started``: ``time.monotonic()`` at this one's start."""
        return self.used_minutes + (time.monotonic() - started) / 60

    def progress(self, step: int, started: float) -> float:
        """The share of the budget that is used, 0..1, after ``step`` steps."""
        total = self.total_steps
        share = step / total if total is not None else self.minutes_used(started) / (self.minutes or math.inf)
        return min(1.0, share)

    def done(self, step: int, started: float) -> bool:
        """Whether the budget is used up after ``step`` steps."""
        return self.progress(step, started) >= 1.0


@contextlib.contextmanager
def progress(
    total: float, description: str, *, completed: float = 0, is_main: bool = True, interval: float = 30.0
) -> Iterator[Callable[..., None]]:
    """A progress bar on standard error; away from a terminal one line about every ``interval`` seconds instead.

    Yields ``advance(amount=1, **scalars)``; the scalars are shown beside the bar. ``completed`` is where a resumed run
    starts. Other processes than the main one show nothing.

    >>> with progress(1000, "training") as advance:
    ...     advance(loss=0.31)
    """
    console = Console(stderr=True)
    if not is_main:
        yield lambda amount=1, **scalars: None
    elif not console.is_terminal:
        yield _ProgressLines(console, total, description, completed, interval)
    else:
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
        with Progress(*columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=console) as bar:
            task = bar.add_task(description, total=total, completed=int(completed), note="")
            yield lambda amount=1, **scalars: bar.update(task, advance=amount, note=_note(scalars))


class _ProgressLines:
    def __init__(self, console: Console, total: float, description: str, completed: float, interval: float) -> None:
        self.console, self.total, self.description, self.interval = console, total, description, interval
        self.completed = self.first = completed
        self.started = self.printed = time.monotonic()

    def __call__(self, amount: float = 1, **scalars: Any) -> None:
        self.completed += amount
        now = time.monotonic()
        if now - self.printed < self.interval:
            return
        self.printed = now
        rate = (self.completed - self.first) / (now - self.started)
        left = f", about {max(0.0, self.total - self.completed) / rate / 60:.1f} min left" if rate > 0 else ""
        share = self.completed / self.total if self.total else 1.0
        text = f"{self.description}: {self.completed:g} of {self.total:g} ({share:.0%}){left}  {_note(scalars)}"
        self.console.print(text.rstrip(), markup=False, highlight=False, soft_wrap=True)


def _note(scalars: Mapping[str, Any]) -> str:
    return "  ".join(f"{name} {_number(name, value):.4g}" for name, value in scalars.items())


# --------------------------------------------------------------------------------------------------------- files


@contextlib.contextmanager
def _disk(folder: Path, consequence: str) -> Iterator[None]:
    """Turn a failing disk into one message. safetensors has I/O errors of its own, with the number in the text."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = getattr(error, "errno", None)
        if number is None and (found := re.search(r"\(os error (\d+)\)", str(error))):
            number = int(found[1])
        if number in (errno.ENOSPC, errno.EDQUOT):
            raise RunError(
                f"{folder}: the disk of this folder is full: {consequence}. Free some space and resume."
            ) from error
        raise RunError(f"{folder}: {consequence}: {os.strerror(number) if number else error}") from error


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    ready: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        pointer = value.untyped_storage().data_ptr()
        ready[name] = value.clone() if pointer in seen else value  # safetensors refuses memory that is shared
        seen.add(pointer)
    with open(path, "wb") as stream:
        mode = os.fstat(stream.fileno()).st_mode & 0o777
    save_file(ready, path, metadata={"format": "pt"})
    os.chmod(path, mode)  # safetensors leaves its files readable by their owner alone, whatever the umask
    with open(path, "rb+") as stream:
        os.fsync(stream.fileno())


def _write_synced(path: Path, text: str) -> None:
    with open(path, "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def _replace_text(path: Path, text: str) -> None:
    aside = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        _write_synced(aside, text)
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut; only POSIX can open a folder."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _restore_folder(folder: Path) -> None:
    """Undo what a kill inside :func:`save_model` left: put the old folder back if the new one never came, then tidy."""
    escaped = re.escape(folder.name)
    names = sorted(os.listdir(folder.parent)) if folder.parent.is_dir() else []
    for name in names:
        if re.fullmatch(rf"{escaped}\.old-\d+", name) and not folder.exists():
            os.rename(folder.parent / name, folder)
        elif re.fullmatch(rf"{escaped}\.(old|tmp)-\d+", name):
            _remove(folder.parent / name)


def _refuse_foreign(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file, not a model folder: name another one")
    names = set(os.listdir(folder)) if folder.is_dir() else set()
    foreign = sorted(n for n in names - {"config.json", "README.md"} if not n.endswith(".safetensors"))
    if foreign or (names and "config.json" not in names):
        raise RunError(
            f"{folder} is no model folder and is left alone (it holds {_listing(foreign or names)}): name another one"
        )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise WeightsError(f"{path}: damaged, not JSON: {error}") from error


def _checkpoints(last: Path) -> list[Path]:
    """Checkpoint folders from old to new. A name without the prefix ``step-`` is none."""
    found = [
        (m, last / m[0]) for name in (os.listdir(last) if last.is_dir() else []) if (m := _CHECKPOINT.fullmatch(name))
    ]
    return [path for _, path in sorted(found, key=lambda item: (int(item[0][1]), int(item[0][2] or 0)))]


def _checkpoint_name(step: int, older: Sequence[Path]) -> str:
    """The name of the next checkpoint, above all others. Saving a step again counts up a suffix."""
    if older and (newest := _CHECKPOINT.fullmatch(older[-1].name)):
        if int(newest[1]) > step:
            raise ValueError(f"a checkpoint of step {step} after one of step {int(newest[1])}")
        if int(newest[1]) == step:
            return f"step-{step:09d}.{int(newest[2] or 0) + 1}"
    return f"step-{step:09d}"


def _metric_lines(path: Path) -> list[dict[str, Any]]:
    """The log as it was written. A last line that a kill cut off is no line; damage elsewhere is an error."""
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    entries: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            int(entry["step"])
        except (ValueError, KeyError, TypeError) as error:
            if number < len(lines):
                raise RunError(f"{path}, line {number}: not a line of metrics: mend or delete it") from error
        else:
            entries.append(entry)
    return entries


def _truncate_metrics(path: Path, step: int) -> None:
    """Drop the lines after ``step``."""
    kept = [json.dumps(entry) + "\n" for entry in _metric_lines(path) if entry["step"] <= step]
    _replace_text(path, "".join(kept))


# ---------------------------------------------------------------------------------------------------------- values


def _plain(value: Any, where: str) -> Any:
    """``value`` as JSON gives it back. Raises TypeError naming the place of what JSON would refuse or change."""
    if isinstance(value, Enum):
        return value.name
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return value.as_posix()
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value), where)
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _plain(entry, f"{where}.{key}") for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry, f"{where}[{i}]") for i, entry in enumerate(value)]
    raise TypeError(
        f"{where}: {type(value).__name__} has no place in JSON (keys must be str, tensors go with the tensors)"
    )


def _number(name: str, value: Any) -> float:
    if isinstance(value, Tensor | np.generic | np.ndarray):
        value = value.item()
    if not isinstance(value, int | float):
        raise TypeError(f"{name}: a scalar to log must be a number, not {type(value).__name__}")
    return value


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return flat


def _show(flat: Mapping[str, Any], key: str) -> str:
    return json.dumps(flat[key]) if key in flat else "not set"


def _circumstances() -> dict[str, Any]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # maskwright itself may run from its source folder
            versions[package] = "not installed as a package"
    return {"versions": versions, "command": sys.argv[:], "platform": platform.platform()}


def _shapes(optimizer: torch.optim.Optimizer) -> list[list[list[int]]]:
    return [[list(parameter.shape) for parameter in group["params"]] for group in optimizer.param_groups]


def _key_problems(expected: Iterable[str], found: Iterable[str]) -> list[str]:
    expected, found = set(expected), set(found)
    missing, unexpected = sorted(expected - found), sorted(found - expected)
    problems = [f"{len(missing)} missing: {_listing(missing)}"] if missing else []
    return problems + ([f"{len(unexpected)} unexpected: {_listing(unexpected)}"] if unexpected else [])


def _listing(names: Iterable[str], limit: int = 20) -> str:
    names = list(names)
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def _raise_weights(where: str, problems: Sequence[str]) -> None:
    if problems:
        raise WeightsError("\n  - ".join([f"{where} does not fit:", *problems]))
