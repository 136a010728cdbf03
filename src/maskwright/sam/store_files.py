"""Where a store keeps its entries: a file for each, which is simple, and what a store asks of such a place."""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from maskwright.data.files import reason_of
from maskwright.errors import WeightsError


class Entries(Protocol):
    """Contents by key, a key being 64 hexadecimal digits."""

    def refresh(self) -> None:
        """Take notice of what other processes have written meanwhile."""
        ...

    def get(self, key: str) -> Iterator[tuple[Path, bytes]]:
        """What was written under a key, the latest first, each with the file it is in. Raises WeightsError for a disk that fails."""
        ...

    def put(self, key: str, content: bytes) -> None:
        """Write; from then on it comes first. Raises WeightsError where it cannot be written."""
        ...

    def clear(self) -> None:
        """Delete everything."""
        ...


class OneFileEach:
    """One safetensors file for each entry, in sub-folders by the first two digits of its key, written aside and renamed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def refresh(self) -> None:
        """Nothing: the folder is looked into each time."""

    def get(self, key: str) -> Iterator[tuple[Path, bytes]]:
        path = self.folder / key[:2] / f"{key}.safetensors"
        try:
            # Read rather than mapped: a disk that fails under a map kills the process.
            content = path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            raise unreadable(path, error) from error
        yield path, content

    def put(self, key: str, content: bytes) -> None:
        write_aside(self.folder / key[:2] / f"{key}.safetensors", content)

    def clear(self) -> None:
        for entry in self.folder.glob("[0-9a-f][0-9a-f]/*.safetensors*"):
            entry.unlink(missing_ok=True)

    def is_empty(self) -> bool:
        return next(self.folder.glob("[0-9a-f][0-9a-f]/*.safetensors"), None) is None


def write_aside(path: Path, content: bytes) -> None:
    """Write a file by rename, its folder as needed. Raises WeightsError where it cannot be written."""
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(exist_ok=True)
        aside.write_bytes(content)
        os.replace(aside, path)
    except OSError as error:
        raise unwritable(path, len(content), error) from error
    finally:
        # Only what an error left there: a second error must not hide the first.
        with contextlib.suppress(OSError):
            aside.unlink()


def unreadable(path: Path, error: OSError) -> WeightsError:
    return WeightsError(f"{path}: cannot be read: {reason_of(error)}; mend the disk or give another folder")


def unwritable(path: Path, size: int, error: OSError) -> WeightsError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return WeightsError(
            f"{path}: the disk is full ({size / 2**20:.1f} MiB for one entry); free space, or give a folder on another disk, "
            "or store float16"
        )
    return WeightsError(f"{path}: cannot be written: {reason_of(error)}; give another folder")
