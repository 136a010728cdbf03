"""A temporary folder of a server, which the next server deletes where this one was killed before it could."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from filelock import FileLock, Timeout

PREFIX = "maskwright-images-"


class ScratchFolder:
    """A new folder for temporary files, whose lock is held for as long as it is in use.

    The lock is a file beside the folder. A process that ends gives its locks back, however it ends, so that a folder whose lock can be had
    is one that nobody uses.

    Attributes:
        path: of the folder, which only this user can look into.
    """

    def __init__(self) -> None:
        # Not `mkdtemp`: the lock must be held before there is a folder that another server may find.
        self.path = Path(tempfile.gettempdir(), f"{PREFIX}{uuid4().hex}")
        self._lock = FileLock(_lock_of(self.path))
        self._lock.acquire()
        delete_left_over(self.path.parent)
        self.path.mkdir(mode=0o700)

    def close(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.release()
        _lock_of(self.path).unlink(missing_ok=True)


def delete_left_over(parent: Path) -> None:
    """Delete this user's scratch folders that no process uses any more."""
    for lock_file in parent.glob(f"{PREFIX}*.lock"):
        # Others have folders here too, and may be deleting the same ones at the same time.
        with suppress(OSError, Timeout):
            if not lock_file.is_symlink() and _is_mine(lock_file):
                with FileLock(lock_file, blocking=False):
                    folder = lock_file.with_suffix("")
                    if folder.is_dir() and not folder.is_symlink() and _is_mine(folder):
                        shutil.rmtree(folder)
                    lock_file.unlink(missing_ok=True)


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def _is_mine(path: Path) -> bool:
    return not hasattr(os, "getuid") or path.lstat().st_uid == os.getuid()
