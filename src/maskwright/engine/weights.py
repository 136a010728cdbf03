"""Model folders and state dicts: safetensors and JSON, never a pickle."""

from __future__ import annotations

import os
import re
import shutil
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from maskwright.engine.files import disk, remove, sync_folder, write_synced, write_tensors
from maskwright.engine.values import strict_json
from maskwright.errors import RunError, WeightsError


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
        config: JSON-able description that is enough to build the module again.
        card: Markdown.
        beside: tensors of further networks by name, written to ``<name>.safetensors``.

    Raises:
        RunError: the folder holds other files, or the disk is full or cannot be written; an older model is intact.
    """
    folder = Path(folder)
    text = strict_json(config, "config", indent=2)
    aside = folder.with_name(f"{folder.name}.tmp-{os.getpid()}")
    old = folder.with_name(f"{folder.name}.old-{os.getpid()}")
    with disk(folder, "the model cannot be saved"):
        restore_folder(folder)
        _refuse_foreign(folder)
        try:
            os.makedirs(aside)
            for name, state in {"model": modules_state, **(beside or {})}.items():
                write_tensors(aside / f"{name}.safetensors", state)
            write_synced(aside / "config.json", text)
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


def load_tensors(path: str | Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, on the CPU, in memory of their own (the file may be replaced afterwards).

    Raises:
        WeightsError: missing, cut off, or not safetensors. A pickle (``.pt``, ``.pth``, ``.bin``) is recognised and
            refused unread: unpickling runs whatever code the file brings.
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
    expected = module.state_dict()
    problems = key_problems(expected, tensors)
    problems += [
        f"{name}: shape {tuple(tensors[name].shape)}, and the model has {tuple(value.shape)}"
        for name, value in expected.items()
        if name in tensors and tensors[name].shape != value.shape
    ]
    raise_weights(str(where), problems)
    module.load_state_dict(tensors)


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
        raise WeightsError("\n  - ".join([f"{where} does not fit:", *problems]))
