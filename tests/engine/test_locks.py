"""One writer for a folder: others are refused in one line, dead ones are forgotten, and nothing of a log is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from maskwright.engine import locks
from maskwright.engine.locks import FolderLock, refuse_if_locked
from maskwright.engine.run import Run
from maskwright.errors import RunError

# Loaded by its path, so that the other process need not import torch.
HOLDER = """
import importlib.util, os, pathlib, sys, time
spec = importlib.util.spec_from_file_location("locks", sys.argv[1])
locks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(locks)
lock = locks.FolderLock(pathlib.Path(sys.argv[2]), "wait")
print("held", flush=True)
time.sleep(600)
"""


@contextmanager
def holder(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds a folder's lock."""
    command = [sys.executable, "-c", HOLDER, str(locks.__file__), str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_second_process_is_refused_in_one_line_that_names_the_first(tmp_path: Path):
    with holder(tmp_path / "run") as first:
        with pytest.raises(RunError) as caught:
            FolderLock(tmp_path / "run", "name another folder with --out")
        (line,) = str(caught.value).splitlines()
        assert line.startswith(f"{tmp_path / 'run'}: process {first.pid} on ")
        assert line.endswith("is writing there; wait until it has ended, or name another folder with --out")
        with pytest.raises(RunError, match=f"process {first.pid} "):
            refuse_if_locked(tmp_path / "run", "wait")


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path: Path):
    with holder(tmp_path) as first:
        first.send_signal(signal.SIGKILL)
        first.wait()
        with FolderLock(tmp_path, "wait"):
            assert json.loads((tmp_path / locks.NAME).read_text())["process"] == os.getpid()
    with FolderLock(tmp_path, "wait"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_file_system_without_locks_is_told_and_used(tmp_path: Path, monkeypatch, caplog: pytest.LogCaptureFixture):
    def without(*_: object, **__: object) -> None:
        raise OSError(locks.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.FileLock, "acquire", without)
    with FolderLock(tmp_path, "wait"):
        assert "this file system has no locks" in caplog.text


@pytest.mark.parametrize("how", [{}, {"resume": True}, {"overwrite": True}])
def test_a_live_run_is_neither_deleted_nor_resumed_nor_cut(how: dict[str, bool], tmp_path: Path):
    first = Run.create(tmp_path, {}, resume=False)
    first.log(1, loss=1.0)
    first.log(2, loss=0.5)
    with pytest.raises(RunError, match="is writing there"):
        Run.create(tmp_path, {}, **({"resume": False} | how))
    first.log(3, loss=0.2)
    first.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    with Run.create(tmp_path, {}, **({"resume": False} | (how or {"overwrite": True}))):
        pass


def test_a_refused_start_lets_go_of_the_folder(tmp_path: Path):
    Run.create(tmp_path, {}, resume=False).close()
    with pytest.raises(RunError, match="already holds a run"):
        Run.create(tmp_path, {}, resume=False)
    with Run.create(tmp_path, {}, resume=True):
        pass


def test_twenty_pairs_of_processes_write_one_log_each(tmp_path: Path):
    """Of two processes that start at once one writes all its lines, and the other none."""
    writer = (
        HOLDER.partition("lock =")[0]
        + """
print("ready", flush=True)
input()
try:
    lock = locks.FolderLock(pathlib.Path(sys.argv[2]), "wait")
except Exception as error:
    sys.exit(f"error: {error}")
with open(pathlib.Path(sys.argv[2], "log"), "a") as log:
    for number in range(20):
        log.write(f"{os.getpid()} {number}\\n")
        log.flush()
        time.sleep(0.002)
"""
    )
    pairs = [
        [
            subprocess.Popen(
                [sys.executable, "-c", writer, str(locks.__file__), str(tmp_path / str(pair))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(2)
        ]
        for pair in range(20)
    ]
    for number, pair in enumerate(pairs):
        for process in pair:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in pair:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        errors = [process.communicate()[1] for process in pair]
        codes = sorted(process.returncode for process in pair)
        lines = (tmp_path / str(number) / "log").read_text().splitlines()
        # Where the first has ended before the second begins, both write, one after the other.
        winners = [process.pid for process in pair if process.returncode == 0]
        assert lines in (
            [f"{pid} {line}" for pid in winners for line in range(20)],
            [f"{pid} {line}" for pid in winners[::-1] for line in range(20)],
        )
        assert codes in ([0, 1], [0, 0])
        assert all("is writing there" in error for error, process in zip(errors, pair) if process.returncode)
