"""The rehearsal of a GPU, in a process of its own: PyTorch must know the device before the first gradient is taken."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.recipes.training import environment


@pytest.mark.slow
def test_nothing_stays_behind_on_the_cpu():
    # This process' own options, such as several workers, are not those of the other.
    surroundings = {name: value for name, value in environment().items() if not name.startswith("PYTEST_")}
    file = Path(__file__).with_name("device_rehearsal.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file)]
    done = subprocess.run(command, env=surroundings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
