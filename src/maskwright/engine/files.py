"""Files that a kill, a power cut or a full disk cannot leave half written."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from maskwright.errors import RunError

if TYPE_CHECKING:
    from torch import Tensor


@contextlib.contextmanager
def disk(folder: Path, consequence: str) -> Iterator[None]:
    """Raise errors of the disk as one RunError that says ``consequence``. safetensors has I/O errors of its own, with the number in the
    text.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = getattr(error, "errno", None)
        if number is None and (match := re.search(r"\(os error (\d+)\)", str(error))):
            number = int(match[1])
        if number in (errno.ENOSPC, errno.EDQUOT):
            raise RunError(
                f"{folder}: the disk of this folder is full: {consequence}. Free some space and resume."
            ) from error
        raise RunError(f"{folder}: {consequence}: {os.strerror(number) if number else error}") from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file and bring it to the disk. Tensors that share memory are written once per name.

    Args:
        facts: more for the file's metadata.

    Raises:
        RunError: values are NaN or infinite, as after a training that diverged; nothing is written.
    """
    from safetensors.torch import save_file  # brings PyTorch, which not everybody who writes files needs

    contents: dict[str, Tensor] = {}
    pointers: set[int] = set()
    broken: list[str] = []
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        # The least and the greatest carry a NaN along, and a large tensor is looked through without another of its size.
        if value.is_floating_point() and value.numel() and not all(math.isfinite(float(v)) for v in value.aminmax()):
            broken.append(name)
        pointer = value.untyped_storage().data_ptr()
        contents[name] = value.clone() if pointer in pointers else value  # safetensors refuses memory that is shared
        pointers.add(pointer)
    if broken:
        more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
        raise RunError(f"{path}: not written, since values are NaN or infinite: {', '.join(broken[:3])}{more}")
    with open(path, "wb") as stream:
        mode = os.fstat(stream.fileno()).st_mode & 0o777
    save_file(contents, path, metadata={"format": "pt", **(facts or {})})
    os.chmod(path, mode)  # safetensors leaves its files readable by their owner alone, whatever the umask
    with open(path, "rb+") as stream:
        os.fsync(stream.fileno())


def write_synced(path: Path, text: str) -> None:
    """Write a text file and bring it to the disk."""
    with open(path, "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def replace_text(path: Path, text: str) -> None:
    """Replace a text file in one rename: a kill leaves the old text or the new one, complete."""
    aside = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        write_synced(aside, text)
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut; only POSIX can open a folder."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove(path: Path) -> None:
    """Delete a file, a link or a whole folder, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def stamp_of(path: Path) -> dict[str, int]:
    """Length and time of modification of a file, by which it is seen to have changed; of a zarr store those of its metadata."""
    files = [path]
    if path.is_dir():
        files = [path / name for name in ("zarr.json", ".zarray", ".zattrs", ".zgroup") if (path / name).exists()]
    statuses = [file.stat() for file in files]
    return {"bytes": sum(s.st_size for s in statuses), "modified": max(s.st_mtime_ns for s in statuses)}
