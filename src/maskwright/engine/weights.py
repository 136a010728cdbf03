"""Model folders and state dicts: safetensors and JSON, never a pickle."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from maskwright.data.files import is_pickle
from maskwright.engine.files import disk, remove, sync_folder, write_synced, write_tensors
from maskwright.engine.values import plain
from maskwright.errors import NotFiniteError, RunError, WeightsError

MOST_LINES = 20
"""Of a message about weights."""

CHECKSUMS = "checksums"
"""The field of a model folder's ``config.json`` with what :func:`checksums` gives."""


def save_model(
    folder: str | Path,
    modules_state: Mapping[str, Tensor],
    config: Mapping[str, Any],
    card: str,
    beside: Mapping[str, Mapping[str, Tensor]] | None = None,
) -> Path:
    """Write a model folder: ``model.safetensors``, ``config.json`` and ``README.md`` (the model card).

    A first save is one rename. Replacing an existing model takes two; a kill exactly between them leaves the old model,
    complete, under ``<folder>.old-<pid>``, and the next ``save_model`` or ``Run.create(resume=True)`` puts it back.

    Args:
        folder: new, empty, or a model folder written before; anything else is refused.
        modules_state: tensor name → tensor; tied weights may appear under several names.
        config: JSON-able description that is enough to build the module again; ``checksums`` are added to it.
        card: Markdown.
        beside: tensors of further networks by name, written to ``<name>.safetensors``.

    Raises:
        RunError: the folder holds other files, or the disk is full or cannot be written; an older model is intact.
    """
    folder = Path(folder)
    description = plain(config, "config")
    aside = folder.with_name(f"{folder.name}.tmp-{os.getpid()}")
    old = folder.with_name(f"{folder.name}.old-{os.getpid()}")
    with disk(folder, "the model cannot be saved"):
        restore_folder(folder)
        _refuse_foreign(folder)
        try:
            os.makedirs(aside)
            for name, state in {"model": modules_state, **(beside or {})}.items():
                write_tensors(aside / f"{name}.safetensors", state)
            sealed = description | {CHECKSUMS: checksums(aside, description)}
            write_synced(aside / "config.json", json.dumps(sealed, indent=2, allow_nan=False))
            write_synced(aside / "README.md", card)
            sync_folder(aside)
            if folder.exists():
                os.rename(folder, old)
            os.rename(aside, folder)
            sync_folder(folder.parent)
        except BaseException:
            if old.exists() and not folder.exists():
                os.rename(old, folder)
            shutil.rmtree(aside, ignore_errors=True)  # a failure here must not hide the error that is being raised
            raise
        remove(old)
    return folder


def checksums(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 of each safetensors file of a folder by its name, and under ``config`` that of a configuration without its checksums.

    They find damage and edits. They are no defence against an attacker, who would write them anew.
    """
    told = {name: value for name, value in config.items() if name != CHECKSUMS}
    sums = {"config": hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()}
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            sums[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return sums


def load_tensors(path: str | Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, on the CPU, in memory of their own (the file may be replaced afterwards).

    Raises:
        WeightsError: missing, cut off, not safetensors (see :func:`require_safetensors`), or with values that are not finite.
    """
    path = Path(path)
    require_safetensors(path)
    try:
        tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    except SafetensorError as error:
        raise WeightsError(f"{path}: damaged or cut off ({error}): copy or download it again") from error
    if broken := not_finite(tensors):
        raise WeightsError(
            f"{path}: values that are not finite numbers (NaN or infinity) in {_listing(broken)}: copy it again, or train again"
        )
    return tensors


def require_safetensors(path: Path) -> None:
    """Raise WeightsError for a file that does not begin like one of safetensors, or is shorter than it says.

    A pickle (``.pt``, ``.pth``, ``.bin``) is recognised and refused unread: unpickling runs whatever code the file brings.
    """
    try:
        with open(path, "rb") as stream:
            head = stream.read(64)
            size = os.fstat(stream.fileno()).st_size
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        raise WeightsError(f"{path}: {reason}") from error
    if is_pickle(head):
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


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that hold a NaN or an infinity. One pass, without a copy: least and greatest value carry a NaN along."""
    return [
        name
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and tensor.numel() and not all(map(math.isfinite, _ends(tensor)))
    ]


def _ends(tensor: Tensor) -> tuple[float, float]:
    least, greatest = tensor.aminmax()
    return float(least), float(greatest)


def require_finite(*outputs: Tensor) -> None:
    """Raise NotFiniteError where an output of a network holds a NaN or an infinity. Waits for the device."""
    if any(output.numel() and not all(map(math.isfinite, _ends(output))) for output in outputs):
        raise NotFiniteError


def shapes_in(path: str | Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of a safetensors file, without reading them. Raises WeightsError where it is missing or damaged."""
    require_safetensors(Path(path))
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: damaged or cut off ({error}): copy or download it again") from error


def load_state(module: nn.Module, tensors: Mapping[str, Tensor], where: str | Path) -> None:
    """Load a complete state dict into a module; values are cast to the module's dtypes and devices.

    Args:
        where: names the source in messages.

    Raises:
        WeightsError: any missing or unexpected name, or other shape; all are named at once and nothing is loaded.
    """
    raise_weights(str(where), misfits(module, {name: tuple(tensor.shape) for name, tensor in tensors.items()}))
    module.load_state_dict(tensors)


def misfits(module: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """What keeps tensors of these names and shapes from being a module's state, one line each; the module may be on ``meta``."""
    expected = module.state_dict()
    return key_problems(expected, shapes) + [
        f"{name}: shape {shapes[name]}, and the model has {tuple(value.shape)}"
        for name, value in expected.items()
        if name in shapes and shapes[name] != tuple(value.shape)
    ]


def restore_folder(folder: Path) -> None:
    """Repair a folder after a kill inside :func:`save_model`: put the old one back if the new one is missing, then delete leftovers."""
    escaped = re.escape(folder.name)
    names = sorted(os.listdir(folder.parent)) if folder.parent.is_dir() else []
    for name in names:
        if re.fullmatch(rf"{escaped}\.old-\d+", name) and not folder.exists():
            os.rename(folder.parent / name, folder)
        elif re.fullmatch(rf"{escaped}\.(old|tmp)-\d+", name):
            remove(folder.parent / name)


def _refuse_foreign(folder: Path) -> None:
    """Raise RunError unless the folder is new, empty or a model folder."""
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file, not a model folder: name another one")
    names = set(os.listdir(folder)) if folder.is_dir() else set()
    foreign = sorted(n for n in names - {"config.json", "README.md"} if not n.endswith(".safetensors"))
    if foreign or (names and "config.json" not in names):
        raise RunError(
            f"{folder} is no model folder and is left alone (it holds {_listing(foreign or names)}): name another one"
        )


def key_problems(expected: Iterable[str], actual: Iterable[str]) -> list[str]:
    """What is wrong with a set of names, as messages: those missing and those unexpected. Empty if nothing is."""
    expected, actual = set(expected), set(actual)
    missing, unexpected = sorted(expected - actual), sorted(actual - expected)
    problems = [f"{len(missing)} missing: {_listing(missing)}"] if missing else []
    return problems + ([f"{len(unexpected)} unexpected: {_listing(unexpected)}"] if unexpected else [])


def _listing(names: Iterable[str], limit: int = 20) -> str:
    names = list(names)
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def raise_weights(where: str, problems: Sequence[str]) -> None:
    """Raise one WeightsError that lists all problems, if there are any."""
    if problems:
        more = [f"and {len(problems) - MOST_LINES} more"] if len(problems) > MOST_LINES else []
        raise WeightsError("\n  - ".join([f"{where} does not fit:", *problems[:MOST_LINES], *more]))
