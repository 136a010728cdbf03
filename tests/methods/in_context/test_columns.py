"""Columns that grow: what was put in stays, in memory and in files, and a full disk is an error that says so."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from maskwright.engine.files import write_tensors
from maskwright.engine.weights import load_tensors
from maskwright.errors import RunError
from maskwright.methods.in_context.columns import Columns


def rows(count: int, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "wide": torch.randn(count, 3, 5, generator=generator).half(),
        "number": torch.randint(9, (count,), generator=generator),
    }


@pytest.mark.parametrize("limit", [1 << 30, 2000, 0])
def test_rows_stay_as_they_were_put_in(tmp_path: Path, limit: int):
    columns, expected = Columns(tmp_path, limit), rows(0, 0)
    for seed, count in enumerate((1, 4, 2, 40, 1, 100)):
        part = rows(count, seed)
        columns.extend(part)
        expected = {name: torch.cat([value, part[name]]) for name, value in expected.items()}
        # A change stays, too, wherever the column goes.
        for tensors in (columns.tensors, expected):
            tensors["wide"][0] += 1
        for name, value in expected.items():
            assert columns.tensors[name].dtype == value.dtype
            assert torch.equal(columns.tensors[name], value)
    assert bool(columns._files) == (limit < 1 << 30)


def test_the_files_have_no_name(tmp_path: Path):
    columns = Columns(tmp_path, 0)
    columns.extend(rows(1000, 0))
    assert columns._files
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_columns_in_files(tmp_path: Path):
    columns = Columns(tmp_path, 0)
    columns.extend(rows(10, 0))
    columns.extend(rows(3, 1))
    write_tensors(tmp_path / "pool.safetensors", columns.tensors)
    for name, value in load_tensors(tmp_path / "pool.safetensors").items():
        assert torch.equal(value, columns.tensors[name])


def test_rows_are_copied_a_few_times_at_most(monkeypatch: pytest.MonkeyPatch):
    columns, made = Columns(), []
    make_room = columns._make_room
    monkeypatch.setattr(columns, "_make_room", lambda count: (made.append(count), make_room(count)))
    for number in range(1000):
        columns.extend({"one": torch.tensor([number])})
    assert sum(made) < 4 * 1000
    assert torch.equal(columns.tensors["one"], torch.arange(1000))


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(RunError, match="the disk of this folder is full: the reference pool cannot be kept here"):
        Columns(tmp_path, 0).extend(rows(10, 0))
