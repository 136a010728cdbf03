"""One writer for a folder: a second process that wants to write there is refused in one line.

The operating system holds the lock and frees it when its process ends, however it ends: there is nothing to clean up after a kill.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import sys
import time
from pathlib import Path
from typing import Self

from filelock import BaseFileLock, FileLock, Timeout

from maskwright.errors import RunError

logger = logging.getLogger(__name__)

NAME = ".lock"
"""The lock's file in the folder. A kill leaves it behind, which does no harm: it is held, or free, whatever it says."""

_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


class FolderLock:
    """A folder that this process alone may write to, until :meth:`release` or the process' end.

    >>> with FolderLock(Path("predictions"), "name another folder with --out"):
    ...     write_files()

    Args:
        folder: made if need be.
        remedy: what to do instead of waiting, for the message.

    Raises:
        RunError: another process is writing there.
        OSError: the folder cannot be made or written to.
    """

    def __init__(self, folder: Path, remedy: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / NAME
        self._lock: BaseFileLock | None = FileLock(path, timeout=0, thread_local=False)
        try:
            self._lock.acquire()
        except Timeout:
            self._lock = None
            raise RunError(
                f"{folder}: {_writer(path)} is writing there; wait until it has ended, or {remedy}"
            ) from None
        except OSError as error:
            self._lock = None
            if error.errno not in _WITHOUT_LOCKS:
                raise
            logger.warning(
                "%s: this file system has no locks (%s); see to it that no other process writes there",
                folder,
                error.strerror,
            )
            return
        _sign(path)

    def release(self) -> None:
        """Let others write. Once is enough, more does no harm."""
        if self._lock is not None:
            if os.name == "posix":
                # Held still: who has opened it meanwhile sees, once it is free, that it has no name any more, and tries again.
                Path(self._lock.lock_file).unlink(missing_ok=True)
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def refuse_if_locked(folder: Path, remedy: str) -> None:
    """Raise RunError where another process is writing to a folder, before time is spent on what could not be written."""
    if (folder / NAME).is_file():
        FolderLock(folder, remedy).release()


def _sign(path: Path) -> None:
    """Write into the lock's file who holds it, for the message to others. In place: the lock is on this very file."""
    told = {"process": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:4]]) if sys.argv else ""
    path.write_text(json.dumps(told | {"command": command}), "utf-8")


def _writer(path: Path) -> str:
    """Who holds a lock, as far as its file tells."""
    try:
        told = json.loads(path.read_text("utf-8"))
        return f"process {told['process']} on {told['host']} ({told['command']}, since {told['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
