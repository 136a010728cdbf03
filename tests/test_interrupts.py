"""Ctrl-C and SIGTERM: a status that tells which, one message with the command that goes on, and no traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from maskwright import interrupts
from tests.recipes.training import environment

IMPORTING = """
import os, pathlib, sys, time
print("importing", flush=True)
for _ in range(600):
    time.sleep(0.1)
"""


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_while_importing_the_process_ends_at_once(number: signal.Signals, status: int, tmp_path: Path):
    # In the place of the slow import of PyTorch, one that takes for ever.
    (tmp_path / "torch.py").write_text(IMPORTING)
    (tmp_path / "DATA").mkdir()  # A path that is not there is told before.
    env = environment()
    env["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{env['PYTHONPATH']}"
    command = [sys.executable, "-m", "maskwright", "train", "samix", "DATA", "--out", "my runs/a", "--overwrite"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=pipe, stderr=pipe, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert process.returncode == status
    what = "interrupted" if status == 130 else "terminated"
    assert told.endswith(f"\n{what}; continue with: maskwright train samix DATA --out 'my runs/a' --resume\n")
    assert "Traceback" not in told


def test_the_message_names_the_command_that_goes_on():
    with interrupts.handled(["train", "s4m", "DATA", "--out", "RUN", "--resume"]):
        assert interrupts.told() == "interrupted; continue with: maskwright train s4m DATA --out RUN --resume"
    with interrupts.handled(["predict", "RUN", "IMAGES"]):
        assert interrupts.told(signal.SIGTERM) == "terminated; give the same command again to go on"


def test_signals_that_are_ignored_stay_ignored_and_handlers_are_put_back():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupts.handled([]):
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is interrupts._answer
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_a_signal_is_raised_where_the_program_is():
    with interrupts.handled([]):
        for number in interrupts.SIGNALS:
            with pytest.raises(interrupts.Interrupted) as caught:
                os.kill(os.getpid(), number)
            assert interrupts.status(caught.value) == 128 + number
    assert interrupts.status(KeyboardInterrupt()) == 130
