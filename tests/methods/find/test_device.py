"""A search on a device of its own, rehearsed: nothing of it stays on the CPU by mistake."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.slow
def test_a_search_on_another_device() -> None:
    # In a process of its own: a device, once pretended, stays.
    code = "from tests.methods.find.device_rehearsal import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip() == "searched"
