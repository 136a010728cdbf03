"""Tensors that grow by rows: without copying all rows each time and, once they are large, in files instead of in memory."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from maskwright.engine.files import disk

IN_MEMORY = 4 << 30
"""Most bytes that columns take in memory; larger ones move into files."""


class Columns:
    """Tensors by name, of one length.

    Those in files are mapped into memory: of them the system holds what there is room for, and no more. The files have no name, so
    that they are gone with the process, however it ends.

    Args:
        folder: the disk that files lie on; None: everything stays in memory.
        limit: in bytes; left out, ``IN_MEMORY``.

    Attributes:
        tensors: (E, ...) each. From files they are on the CPU, whatever the device of the rows.
    """

    def __init__(self, folder: Path | None = None, limit: int | None = None) -> None:
        self.folder, self.limit = folder, IN_MEMORY if limit is None else limit
        self.tensors: dict[str, Tensor] = {}
        self._room: dict[str, Tensor] = {}
        self._files: dict[str, IO[bytes]] = {}

    def clear(self) -> None:
        self.tensors, self._room, self._files = {}, {}, {}

    def extend(self, rows: Mapping[str, Tensor]) -> None:
        """Append (N, ...) rows; the first ones say which columns there are, of which type and on which device.

        Raises:
            RunError: there is no room for them on the disk.
        """
        if not self.tensors:
            self.tensors = {name: value[:0] for name, value in rows.items()}
            self._room = dict(self.tensors)
        name = next(iter(rows))
        before, room = len(self.tensors[name]), len(self._room[name])
        after = before + len(rows[name])
        if after > room:
            # Half as much again: rows that grow one by one are copied three times at most.
            self._make_room(max(after, room + room // 2))
        for name, value in rows.items():
            self._room[name][before:after] = value.to(self._room[name])
        self.tensors = {name: whole[:after] for name, whole in self._room.items()}

    def go_into_files(self, size: int) -> bool:
        """Whether columns of ``size`` bytes lie in files; they stay there, too."""
        return self.folder is not None and (size > self.limit or bool(self._files))

    def _make_room(self, rows: int) -> None:
        size = {name: rows * column[0].nbytes for name, column in self._shapes().items()}
        if self.folder is None or not self.go_into_files(sum(size.values())):
            for name, column in self.tensors.items():
                self._room[name] = column.new_empty(rows, *column.shape[1:])
                self._room[name][: len(column)] = column
            return
        moved = {} if self._files else self.tensors
        self.tensors = {}
        with disk(self.folder, "the reference pool cannot be kept here"):
            for name, column in self._shapes().items():
                if name not in self._files:
                    self._files[name] = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115 (open as long as the column is)
                file = self._files[name].fileno()
                _reserve(file, size[name])
                flat = torch.frombuffer(mmap.mmap(file, size[name]), dtype=column.dtype)
                self._room[name] = flat.view(rows, *column.shape[1:])
        for name, column in moved.items():
            self._room[name][: len(column)] = column.cpu()

    def _shapes(self) -> dict[str, Tensor]:
        """One row of each column, without its contents."""
        return {name: room.new_empty(1, *room.shape[1:], device="meta") for name, room in self._room.items()}


def _reserve(file: int, size: int) -> None:
    """Have ``size`` bytes on the disk. Without, a full disk would end the process at a write into mapped memory, without a word."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
    else:
        os.truncate(file, size)
