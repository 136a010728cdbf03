"""A run directory that survives being killed: configuration, metrics, checkpoints, the final model.

::

    runs/polyps/
      config.json      what is needed to repeat the run: settings with seeds, versions, command line, the data's digest
      data.json        the fingerprint of its data: what tells, when it is resumed, which of them changed
      metrics.jsonl    one JSON object per logged step; TensorBoard files in tb/, if that is installed
      last/            the newest checkpoint, ``step-000001200/`` with ``*.safetensors`` and ``state.json``
      model/           the exported model: config.json, model.safetensors, README.md

A recipe names what else it writes there; config.json keeps these names, so that a run can be deleted whole.

Everything is written aside in the same folder, flushed to the disk, and then renamed, so at every instant the directory
holds one complete checkpoint. Weights are safetensors, all else is JSON; a pickle is never read or written. A lock keeps
other processes from writing there meanwhile.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import math
import os
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from maskwright.data.fields import read_json
from maskwright.data.fingerprint import Fingerprint
from maskwright.data.schema import Anything, Fields, Items, Maybe, Named, Text, Whole
from maskwright.engine import locks
from maskwright.engine.checkpoints import Checkpoint, log_was_changed, newest_step, read_checkpoint, write_checkpoint
from maskwright.engine.files import disk, remove, replace_text
from maskwright.engine.locks import FolderLock
from maskwright.engine.values import number, plain, strict_json
from maskwright.engine.weights import restore_folder, save_model
from maskwright.errors import DataError, RunError

logger = logging.getLogger(__name__)

_FORMAT = "maskwright run 1"
# config.json comes last: as long as it is there, the folder is recognised as a run
_FILES = ("last", "model", "tb", "metrics.jsonl", "report.html", "data.json", "config.json")
_SCORES = re.compile(r"evaluation-.*\.json")
_ASIDE = re.compile(r"(.+)\.(tmp|old)-\d+")
_REMEDY = "name another folder with --out"
_RECORD = Fields(
    {
        "format": Text(),
        "config": Named(Anything()),
        "files": Items(Text(), 0, 1000),
        "versions": Named(Text()),
        "command": Items(Text(100_000), 0, 100_000),
        "platform": Text(),
        "resumed": Items(Named(Anything()), 0, 1_000_000),
        "recipe": Maybe(Text()),
        "data": Maybe(Text()),
        "origin": Anything(),
    },
    optional=frozenset(["recipe", "data", "origin"]),
)
_NOT_FINITE = ("nan", "inf", "-inf")
_PACKAGES = ("maskwright", "torch", "transformers", "safetensors", "numpy")


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
        self._without_tensorboard = False
        self._metrics: Any = None
        self._lock: FolderLock | None = None
        self._files: tuple[str, ...] = ()
        self._folders: tuple[str, ...] = ("model",)

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
        files: Sequence[str] = (),
        folders: Sequence[str] = (),
        data: Fingerprint | None = None,
        recipe: str | None = None,
        origin: Mapping[str, Any] | None = None,
    ) -> Run:
        """Start a run in a new or empty folder, or continue the one that is there.

        Args:
            folder: the run directory, made if need be.
            config: all settings and seeds: str keys, and numbers, strings, None, paths, enums, dataclasses, lists,
                dicts.
            resume: continue the run in ``folder``; where there is none yet, start one. Metrics that were
                logged after the last checkpoint are dropped, so that the log ends up equal to that of an uninterrupted
                run.
            overwrite: delete the run in ``folder`` and start anew. Files that are not a run's own stay.
            may_differ: settings (dotted for nested ones, a prefix covers what is under it) that a resumed run may
                change, such as ``workers``.
            is_main: False in all but one process of a distributed run: nothing is checked or written then, so let the
                main process come first (``accelerator.main_process_first()``).
            files: names of further files and folders of this kind of run, deleted when it is overwritten.
            folders: names of model folders beside ``model``, likewise; a kill while one is written is mended.
            data: of what is trained on. A resumed run refuses other data than it was started with.
            recipe, origin: its name, and the earlier run or model that it starts from, for the record.

        Raises:
            RunError: the folder is not empty and neither ``resume`` nor ``overwrite`` is given; it holds something that
                is not a run; another process is writing there; the stored settings or the data differ (all that differs
                is named); it cannot be written.
            TypeError: ``config`` holds something that JSON cannot.
        """
        run = cls(Path(folder), plain(config, "config"), is_main=is_main)
        run._files, run._folders = (*folders, *files), ("model", *folders)
        if resume and overwrite:
            raise RunError("--resume continues a run and --overwrite deletes it: give one of the two")
        if not is_main:
            return run
        with disk(run.folder, "the run cannot be set up"):
            run._stored()  # before the lock: a folder that is no run is left as it is
            run._lock = FolderLock(run.folder, _REMEDY)
            try:
                stored = run._stored()
                if stored is not None and not (resume or overwrite):
                    raise RunError(
                        f"{run.folder} already holds a run: continue it with --resume, {_REMEDY}, "
                        "or delete it and start anew with --overwrite"
                    )
                if stored is not None and resume:
                    run._resume(stored, may_differ, data)
                else:
                    run._start(stored, data, recipe, origin)
                run._metrics = open(run.folder / "metrics.jsonl", "a", encoding="utf-8")  # noqa: SIM115 (closed by close)
            except BaseException:
                run.close()
                raise
        return run

    def log(self, step: int, **scalars: Any) -> None:
        """Append one line to ``metrics.jsonl`` and, where it is installed, the same scalars to TensorBoard, flushed.

        Args:
            step: optimiser steps done, counted over the whole run.
            scalars: numbers, or tensors and arrays of one element. Names with a slash go in as ``**{"val/dice": 0.8}``.
                NaN and infinities are written as the strings "nan", "inf", "-inf", which :func:`read_metrics` undoes.
        """
        if not self.is_main:
            return
        values = {name: number(name, value) for name, value in scalars.items()}
        line = {"step": int(step)} | {k: v if math.isfinite(v) else str(v) for k, v in values.items()}
        with disk(self.folder, "the metrics cannot be written"):
            self._metrics.write(json.dumps(line, allow_nan=False) + "\n")
            self._metrics.flush()
            if writer := self._tensorboard():
                for name, value in values.items():
                    writer.add_scalar(name, value, step)
                writer.flush()

    def log_once(self, step: int, **scalars: Any) -> None:
        """The same, unless the line is there already: for scalars of after the last checkpoint, which a resumed run computes again."""
        if self.is_main and not any(
            entry["step"] == step and scalars.keys() <= entry.keys() for entry in read_metrics(self.folder)
        ):
            self.log(step, **scalars)

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
        write_checkpoint(self.folder, self._metrics, step, tensors, state)

    def load_checkpoint(self) -> Checkpoint | None:
        """The newest checkpoint, or None where none was saved yet.

        Raises:
            WeightsError: a file or tensor of it is missing or damaged, or there is one too many.
        """
        return read_checkpoint(self.folder)

    @staticmethod
    def has_checkpoint(folder: Path) -> bool:
        """Whether a run directory has a checkpoint to go on from."""
        with disk(folder, "the checkpoint cannot be read"):
            return newest_step(folder) >= 0

    def newest_step(self) -> int:
        """The step of the newest checkpoint, -1 where there is none."""
        return newest_step(self.folder)

    def save_model(
        self,
        modules_state: Mapping[str, Tensor],
        config: Mapping[str, Any],
        card: str,
        beside: Mapping[str, Mapping[str, Tensor]] | None = None,
        name: str = "model",
    ) -> Path:
        """Write ``model/``, or another folder of the run (see :func:`save_model`), and return its path."""
        path = self.folder / name
        return save_model(path, modules_state, config, card, beside) if self.is_main else path

    def close(self) -> None:
        """Close the log files and let others write; the run directory stays as it is."""
        for stream in (self._metrics, self._writer):
            if stream is not None:
                stream.close()
        self._metrics = self._writer = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _stored(self) -> dict[str, Any] | None:
        """The config.json of the run in this folder; None for a new or empty folder. Anything else there is refused."""
        if self.folder.exists() and not self.folder.is_dir():
            raise RunError(f"{self.folder} is a file: name a folder with --out")
        names = os.listdir(self.folder) if self.folder.is_dir() else []
        if all(self._is_aside(name) for name in names):
            return None
        path = self.folder / "config.json"
        try:
            stored = read_json(path) if path.exists() else None
        except DataError as error:
            raise RunError(f"{error}; restore the file, or name another folder with --out") from error
        if not isinstance(stored, dict) or stored.get("format") != _FORMAT:
            raise RunError(
                f"{self.folder} holds files but no run of maskwright, and is left alone: name another folder with --out"
            )
        if problems := list(_RECORD.problems(stored, "")):
            raise RunError(f"{path}: {'; '.join(problems)}; restore the file, or name another folder with --out")
        return stored

    def _is_aside(self, name: str) -> bool:
        """Whether a kill while a file or folder of this run was written left this beside it; the lock counts as such."""
        match = _ASIDE.fullmatch(name)
        kept = ("config.json", "data.json", "metrics.jsonl", "last", *self._folders)
        return name == locks.NAME or (match is not None and match[1] in kept)

    def _start(
        self,
        stored: Mapping[str, Any] | None,
        data: Fingerprint | None,
        recipe: str | None,
        origin: Mapping[str, Any] | None,
    ) -> None:
        """Delete the run that is there, if any, and begin. Its own record says which files it wrote."""
        os.makedirs(self.folder, exist_ok=True)
        names = os.listdir(self.folder)
        leftovers = [*filter(self._is_aside, names), *filter(_SCORES.fullmatch, names)]
        leftovers = [name for name in leftovers if name != locks.NAME]
        recorded = (stored or {}).get("files", [])
        for name in [*leftovers, *(name for name in (*recorded, *self._files, *_FILES) if name in names)]:
            remove(self.folder / name)
        record = {
            "format": _FORMAT,
            "recipe": recipe,
            "config": self.config,
            "data": data.digest if data else None,
            "origin": plain(origin, "origin"),
            "files": self._files,
            **_circumstances(),
            "resumed": [],
        }
        replace_text(self.folder / "config.json", strict_json(record, "config", indent=2))
        if data:
            replace_text(self.folder / "data.json", data.to_json())

    def _resume(self, stored: dict[str, Any], may_differ: Sequence[str], data: Fingerprint | None) -> None:
        then, now = _flat(stored["config"]), _flat(self.config)
        differing = [
            f"{key}: {_show(then, key)} there, {_show(now, key)} now"
            for key in sorted(then.keys() | now.keys())
            if _show(then, key) != _show(now, key) and not any(key == f or key.startswith(f + ".") for f in may_differ)
        ]
        problems = []
        if differing:
            problems.append(
                "\n  - ".join([f"{self.folder} cannot be resumed, its settings differ:", *differing])
                + f"\nGive the settings of the stored run, or {_REMEDY}."
            )
        if data and data.digest != stored.get("data"):
            problems.append(
                "\n  - ".join([f"{self.folder} cannot be resumed, its data changed:", *self._changes(stored, data)])
                + f"\nBring the data back as they were, or start a new training on the new data from what this one has "
                f"learnt: the same command with --init {self.folder} and another --out, without --resume."
            )
        if problems:
            raise RunError("\n".join(problems))
        if data and not (self.folder / "data.json").is_file():  # a kill came between the two files
            replace_text(self.folder / "data.json", data.to_json())
        circumstances = _circumstances()
        if circumstances["versions"] != stored["versions"]:
            logger.warning(
                "%s: resumed with other versions than it was started with, so numbers may differ", self.folder
            )
        for name in self._folders:
            restore_folder(self.folder / name)
        for name in filter(self._is_aside, os.listdir(self.folder)):
            if name != locks.NAME:
                remove(self.folder / name)
        step = newest_step(self.folder)
        if log_was_changed(self.folder):
            logger.warning(
                "%s: changed since the last checkpoint; the report will show what it holds now",
                self.folder / "metrics.jsonl",
            )
        self._purge_step = step + 1
        _truncate_metrics(self.folder / "metrics.jsonl", step)
        stored["resumed"].append({"step": max(step, 0), **circumstances})
        replace_text(self.folder / "config.json", strict_json(stored, "config", indent=2))

    def _changes(self, stored: Mapping[str, Any], now: Fingerprint) -> list[str]:
        """What became of the data since the run was started."""
        if stored.get("data") is None:
            return ["it was started by an older maskwright, which did not record its data"]
        path = self.folder / "data.json"
        try:
            then = Fingerprint.from_json(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            return [f"what changed cannot be told, since {path} cannot be read ({error})"]
        if then.digest != stored["data"]:
            return [f"what changed cannot be told, since {path} is that of other data than config.json"]
        return then.changes_to(now)

    def _tensorboard(self) -> Any:
        """The writer of TensorBoard's files; None where the package is missing, which is said once."""
        if self._writer is None and not self._without_tensorboard:
            try:
                # Seconds to import, and only the main process needs it.
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                self._without_tensorboard = True
                logger.warning(
                    "%s: no files for TensorBoard are written (%s); metrics.jsonl holds the same numbers. "
                    "For TensorBoard: pip install 'maskwright[tensorboard]'",
                    self.folder,
                    error,
                )
            else:
                self._writer = SummaryWriter(str(self.folder / "tb"), purge_step=self._purge_step)
        return self._writer


def read_metrics(folder: str | Path) -> list[dict[str, float]]:
    """All lines of a run's ``metrics.jsonl``, in order, non-finite numbers as floats again. Empty without a log.

    Raises RunError naming a damaged line; a last line that is still being written is left out.
    """
    entries = _metric_lines(Path(folder) / "metrics.jsonl")
    return [{k: float(v) if isinstance(v, str) else v for k, v in entry.items()} for entry in entries]


def _metric_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of the log. A last line that a kill cut off is left out; damage elsewhere is an error."""
    try:
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
    except UnicodeDecodeError as error:
        raise RunError(f"{path}: not UTF-8 text (byte {error.start}): mend or delete it") from error
    entries: list[dict[str, Any]] = []
    for place, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            if not _is_line(entry):
                raise ValueError("no step and numbers")
        except (ValueError, RecursionError) as error:
            if place < len(lines):
                raise RunError(f"{path}, line {place}: not a line of metrics: mend or delete it") from error
        else:
            entries.append(entry)
    return entries


def _is_line(entry: Any) -> bool:
    """Whether it is what :meth:`Run.log` writes: a step, and numbers by their names."""
    if not isinstance(entry, dict) or [*Whole(0, 10**15).problems(entry.get("step"), "")]:
        return False
    return all(value in _NOT_FINITE or type(value) in (int, float) for value in entry.values())


def _truncate_metrics(path: Path, step: int) -> None:
    """Drop the lines after ``step``."""
    lines = [json.dumps(entry, allow_nan=False) + "\n" for entry in _metric_lines(path) if entry["step"] <= step]
    replace_text(path, "".join(lines))


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
