"""Writing files by rename, so that no reader gets half of one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from maskwright.errors import DataError


def write_atomic(path: str | Path, content: bytes | str) -> Path:
    """Write a file under a temporary name and rename it, so that no reader gets half of it; folders are made as needed.

    Raises:
        DataError: the folder cannot be written to.
    """
    data = content.encode() if isinstance(content, str) else content
    return write_by_rename(Path(path), lambda aside: aside.write_bytes(data))


def write_by_rename(path: Path, write: Callable[[Path], object], suffix: str = "") -> Path:
    """Have ``write`` make a file or a folder under a temporary name, which takes the place of what is at ``path``.

    Args:
        path: folders above it are made as needed.
        write: is called with the temporary path.
        suffix: of that path, for writers that go by it; left out, nobody who lists a folder takes it for a file of that kind.

    Raises:
        DataError: the folder cannot be written to.
    """
    aside = _aside(path, suffix)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(aside)
        if path.is_dir() and aside.is_dir():
            shutil.rmtree(path)
        os.replace(aside, path)
    except OSError as error:
        remedy = "free space or choose a folder you may write to"
        raise DataError([f"{path}: cannot be written ({reason_of(error)}); {remedy}"]) from None
    finally:
        if aside.is_dir():
            shutil.rmtree(aside, ignore_errors=True)
        _discard(aside)
    return path


def place_file(source: str | Path, target: str | Path) -> Path:
    """Put the bytes of ``source`` at ``target``: a hard link where the file system allows it, else a copy by rename.

    Raises:
        DataError: the source cannot be read or the target cannot be written.
    """
    source, target = Path(source), Path(target)
    if not source.is_file():
        raise DataError([f"{source}: missing; restore the file or remove it from the dataset"])
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(os.path.realpath(source), target)
    except OSError:
        # Another file system, one without hard links, or an existing target: a copy succeeds, or raises the right error.
        aside = _aside(target)
        try:
            shutil.copyfile(source, aside)
            os.replace(aside, target)
        except OSError as error:
            remedy = "choose another folder"
            raise DataError([f"{target}: cannot copy {source} there ({reason_of(error)}); {remedy}"]) from None
        finally:
            _discard(aside)
    return target


def require_there(*paths: str | Path) -> None:
    """Raise DataError where a path that a user gave is not there, before anything is imported or loaded for it."""
    if missing := [
        f"{path}: there is no such file or folder; check the path" for path in paths if not Path(path).exists()
    ]:
        raise DataError(missing)


def reason_of(error: BaseException) -> str:
    """Why something failed, in one line."""
    text = (error.strerror if isinstance(error, OSError) and error.strerror else str(error)).strip().split("\n")[0]
    return text or type(error).__name__


def _aside(path: Path, suffix: str = "") -> Path:
    return path.with_name(f".{uuid4().hex}.part{suffix}")


def _discard(path: Path) -> None:
    with suppress(OSError):  # Gone after a rename; and where its folder cannot be reached, that was reported already.
        path.unlink()


def is_pickle(head: bytes) -> bool:
    """Whether a file that begins so is a pickle, or a zip of PyTorch with one inside. Nine bytes decide.

    A file of safetensors begins with the length of its header, whose first byte may be that of a pickle, and then has a brace.
    """
    return head[:4] == b"PK\x03\x04" or (head[:1] == b"\x80" and head[8:9] != b"{")
