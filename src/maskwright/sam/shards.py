"""Entries of a store in a few large files, for datasets of which a file for each image would be too many.

::

    shards/
      3f2c….data     entries, one after the other
      3f2c….index    a line of 56 bytes for each: its key (32), where it begins, how long it is and a check sum (8 each, little endian)
      3f2c….lock     held by the process that writes this shard

A shard has one writer at a time, who appends an entry first and then its line in the index; all may read. Whoever is killed leaves an
entry without a line, or a line cut short, which nobody looks at. Its shard is free then, and the next process goes on in it.
"""

from __future__ import annotations

import os
import uuid
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from maskwright.data.files import reason_of
from maskwright.errors import WeightsError
from maskwright.sam.store_files import unreadable, unwritable

SHARD_BYTES = 4 << 30
"""A shard that is as large is not written to any more."""

_LINE = np.dtype([("key", "V32"), ("begin", "<u8"), ("length", "<u8"), ("check", "<u8")])
_MOST_OPEN = 64
_MOST_OWN = 1 << 16
# Entries of this process that are kept in mind one by one, before its index is read again.

_WEIGHTS = np.array([1, 3, 5, 7, 0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F], np.uint64)
# Odd, so that no flipped bit of a line leaves its check sum as it is.


@dataclass
class _Known:
    """What was read of an index: its lines, sorted by the first eight bytes of the key as a number, those of one key by age."""

    lines: int
    numbers: NDArray[np.uint64]
    keys: NDArray[np.void]
    begins: NDArray[np.uint64]
    lengths: NDArray[np.uint64]


class Shards:
    """Entries in the shards of a folder; see :class:`maskwright.sam.store_files.Entries`.

    Args:
        folder: made at the first entry.
        shard_bytes: of a file, about; an entry is never divided.
    """

    def __init__(self, folder: Path, shard_bytes: int = SHARD_BYTES) -> None:
        self.folder, self.shard_bytes = folder, shard_bytes
        self._known: dict[Path, _Known] = {}
        self._own: dict[bytes, list[tuple[Path, int, int]]] = {}
        self._readers: OrderedDict[Path, BinaryIO] = OrderedDict()
        self._writer: _Writer | None = None
        self.refresh()

    def refresh(self) -> None:
        self._own = {}
        for index in sorted(self.folder.glob("*.index")):
            known = self._known.get(index)
            try:
                lines = index.stat().st_size // _LINE.itemsize
                if known is None or lines > known.lines:
                    self._known[index] = _read_index(index, lines)
            except OSError as error:
                raise unreadable(index, error) from error

    def get(self, key: str) -> Iterator[tuple[Path, bytes]]:
        wanted = bytes.fromhex(key)
        places = self._own.get(wanted, [])[::-1]
        for index, known in self._known.items():
            places += _places(index, known, wanted)
        for path, begin, length in places:
            yield path, self._content(path, begin, length)

    def put(self, key: str, content: bytes) -> None:
        if self._writer is None or self._writer.size >= self.shard_bytes:
            self.close()
            self._writer = _writer(self.folder, self.shard_bytes)
        begin = self._writer.append(bytes.fromhex(key), content)
        self._own.setdefault(bytes.fromhex(key), []).append((self._writer.path, begin, len(content)))
        if len(self._own) > _MOST_OWN:
            self.refresh()

    def clear(self) -> None:
        self.close()
        for path in self.folder.glob("*"):
            path.unlink(missing_ok=True)
        self._known, self._own = {}, {}

    def close(self) -> None:
        """Let go of the shard that is written; the next entry finds another, or this one again."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        while self._readers:
            self._readers.popitem()[1].close()

    def _content(self, path: Path, begin: int, length: int) -> bytes:
        try:
            if path not in self._readers:
                self._readers[path] = path.open("rb")
                if len(self._readers) > _MOST_OPEN:
                    self._readers.popitem(last=False)[1].close()
            self._readers.move_to_end(path)
            reader = self._readers[path]
            reader.seek(begin)
            return reader.read(length)
        except OSError as error:
            raise unreadable(path, error) from error


class _Writer:
    """The one who appends to a shard, as long as its lock is held."""

    def __init__(self, path: Path, lock: FileLock) -> None:
        self.path, self.lock = path, lock
        # Not buffered: what could not be written must not come later, when there is space again.
        self.data, self.index = (part.open("ab", buffering=0) for part in (path, path.with_suffix(".index")))

    @property
    def size(self) -> int:
        return os.fstat(self.data.fileno()).st_size

    def append(self, key: bytes, content: bytes) -> int:
        """Write an entry, and say where it begins."""
        line = np.array([(key, self.size, len(content), 0)], _LINE)
        line["check"] = _checks(line)
        try:
            # A kill, or a disk that was full, may have cut the last line short.
            self.index.truncate(os.fstat(self.index.fileno()).st_size // _LINE.itemsize * _LINE.itemsize)
            _write_all(self.data, content)
            _write_all(self.index, line.tobytes())
        except OSError as error:
            raise unwritable(self.path, len(content), error) from error
        return int(line["begin"][0])

    def close(self) -> None:
        self.data.close()
        self.index.close()
        self.lock.release()


def _write_all(file: FileIO, content: bytes) -> None:
    """Write all of it, in as many pieces as the system takes it in."""
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]


def _writer(folder: Path, shard_bytes: int) -> _Writer:
    """A shard that nobody writes and that is not full, or a new one."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(folder.glob("*.data")):
            if path.stat().st_size < shard_bytes and (lock := _lock(path)):
                return _Writer(path, lock)
        path = folder / f"{uuid.uuid4().hex}.data"
        lock = _lock(path)
        if lock is None:
            raise WeightsError(f"{path}: its lock is held although it is new; give another folder")
        return _Writer(path, lock)
    except OSError as error:
        raise WeightsError(f"{folder}: cannot be written: {reason_of(error)}; give another folder") from error


def _lock(path: Path) -> FileLock | None:
    """The lock of a shard; None where another process holds it."""
    lock = FileLock(path.with_suffix(".lock"), timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        return None
    return lock


def _read_index(index: Path, lines: int) -> _Known:
    """The lines of an index that are as they were written."""
    table = np.fromfile(index, _LINE, lines)
    table = table[table["check"] == _checks(table)]
    numbers = _words(table)[:, 0]
    order = np.argsort(numbers, kind="stable")
    return _Known(lines, numbers[order], table["key"][order], table["begin"][order], table["length"][order])


def _words(table: NDArray[np.void]) -> NDArray[np.uint64]:
    """Lines (n,) as numbers (n, 7)."""
    return np.frombuffer(table.tobytes(), "<u8").reshape(-1, _LINE.itemsize // 8).astype(np.uint64)


def _checks(table: NDArray[np.void]) -> NDArray[np.uint64]:
    """(n,) the check sum of each line, over all of it but the check sum."""
    return (_words(table)[:, :-1] * _WEIGHTS).sum(1, dtype=np.uint64)


def _places(index: Path, known: _Known, key: bytes) -> list[tuple[Path, int, int]]:
    """Where the entries of a key lie in a shard, the latest first."""
    first = np.frombuffer(key, "<u8")[0].astype(np.uint64)
    low, high = (np.searchsorted(known.numbers, first, side) for side in ("left", "right"))
    path = index.with_suffix(".data")
    rows = [row for row in range(int(low), int(high)) if bytes(known.keys[row]) == key]
    return [(path, int(known.begins[row]), int(known.lengths[row])) for row in reversed(rows)]
