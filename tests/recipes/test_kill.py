"""Kill −9 and signals: whatever the moment, the run goes on and ends as if nothing had happened."""

from __future__ import annotations

import json
import random
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from maskwright.recipes import samix
from tests.recipes.training import arguments, assert_same_run, environment, python, settings

KILLS = 6
LENGTH = {"steps": 80, "warm_up": 20, "checkpoint_seconds": 0.0}


def newest(run: Path) -> int:
    """Step of the newest checkpoint."""
    names = [path.name for path in (run / "last").glob("step-*")] if (run / "last").is_dir() else []
    return max((int(re.findall(r"\d+", name)[0]) for name in names), default=0)


def resumed(run: Path) -> int:
    """How often the run was started anew."""
    try:
        return len(json.loads((run / "config.json").read_text())["resumed"])
    except FileNotFoundError:
        return -1


def wait(process: subprocess.Popen, until, log: Path) -> None:
    deadline = time.monotonic() + 900
    while not until():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.005)


@pytest.mark.slow
def test_kills_at_random_moments_leave_no_trace(scene_folder: Path, tiny_sam_folder: Path, tmp_path: Path):
    expected = samix.main(settings(scene_folder, tmp_path / "whole", tiny_sam_folder, **LENGTH))
    run, log, rng = tmp_path / "run", tmp_path / "log", random.Random()
    command = python("maskwright", *arguments(scene_folder, run, tiny_sam_folder, resume=True, **LENGTH))

    def start(stream) -> subprocess.Popen:
        return subprocess.Popen(command, env=environment(), stdout=stream, stderr=subprocess.STDOUT)

    moments = []
    for number in range(KILLS):
        before, starts = newest(run), resumed(run)
        with open(log, "w") as stream:
            process = start(stream)
            try:
                if number % 4 == 3:  # while it takes up the run
                    wait(process, lambda was=starts: resumed(run) > was, log)
                else:  # while it trains, saves, logs or validates
                    steps = rng.randint(1, 4)
                    wait(process, lambda goal=before + steps: newest(run) >= goal, log)
                time.sleep(rng.uniform(0, 0.2))
            finally:
                process.send_signal(signal.SIGKILL)
                process.wait()
        moments.append(newest(run))
        assert process.returncode == -signal.SIGKILL, log.read_text()
    with open(log, "w") as stream:
        assert start(stream).wait(1800) == 0, log.read_text()
    assert moments == sorted(moments)
    assert moments[-1] < LENGTH["steps"], "killed too late to prove anything"
    assert_same_run(run, expected)
    assert not [path for path in run.rglob("*") if ".tmp-" in path.name or ".old-" in path.name]


@pytest.mark.slow
def test_kills_and_signals_at_chosen_places_of_every_recipe_leave_no_trace():
    command = python("tests.recipes.interrupting", "--every", 4)
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("bit-equal") == 8


@pytest.mark.slow
def test_pairs_of_processes_lose_no_line():
    command = python("tests.recipes.interrupting", "--recipes", "alignsam", "--pairs", 4)
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
