"""The temporary folder of a server: gone with it, and after a kill with the next one."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from maskwright.serve.scratch import PREFIX, ScratchFolder

HELD = """
import sys, time
from maskwright.serve.scratch import ScratchFolder
folder = ScratchFolder()
(folder.path / "image").write_bytes(b"1")
print(folder.path, flush=True)
time.sleep(600)
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def test_it_is_gone_when_it_is_closed(temporary: Path):
    folder = ScratchFolder()
    assert folder.path.parent == temporary
    assert folder.path.stat().st_mode & 0o777 == 0o700
    (folder.path / "image").write_bytes(b"1")
    folder.close()
    assert not list(temporary.iterdir())


def test_what_a_killed_server_left_is_deleted_and_what_is_in_use_is_not(temporary: Path):
    with subprocess.Popen([sys.executable, "-c", HELD], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        theirs = Path(other.stdout.readline().strip())
        first = ScratchFolder()
        assert (theirs / "image").exists()
        other.kill()
        other.wait()
        assert (theirs / "image").exists()
        second = ScratchFolder()
        assert not theirs.exists()
        assert first.path.exists()
        first.close()
        second.close()
    assert not list(temporary.iterdir())


def test_what_looks_like_one_and_is_not_stays(temporary: Path):
    home = temporary / "home"
    home.mkdir()
    (home / "work").write_text("a year")
    (temporary / f"{PREFIX}link").symlink_to(home)
    (temporary / f"{PREFIX}link.lock").touch()
    (temporary / f"{PREFIX}other.lock").symlink_to(home / "work")
    (temporary / f"{PREFIX}older").mkdir()  # As versions without locks made them.
    ScratchFolder().close()
    assert (home / "work").read_text() == "a year"
    assert (temporary / f"{PREFIX}older").exists()
    assert os.path.lexists(temporary / f"{PREFIX}other.lock")
