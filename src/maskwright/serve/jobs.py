"""Trainings started from the page: processes of their own, which go on when the page or the server is closed, and are found again."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from maskwright.data.files import write_atomic
from maskwright.data.image_reading import PLAIN, ImageReading
from maskwright.engine.run import read_metrics
from maskwright.serve.wire import WireError

RECIPES = ("samix", "s4m")
"""What the page trains."""

MAX_MINUTES = 24 * 60

LOG_PIECE = 64 * 1024
"""Bytes of a log that are sent at once."""

_PROGRESS = re.compile(r"steps? (\d+) of (\d+)")
_SCORES = ("val_smoothed", "val_dice", "val_miou", "val_ap")


class Jobs:
    """The trainings of a dataset, each a folder of its own: what it trains on, the run, its log.

    Args:
        folder: of all of them.
        snapshot: copies the dataset into a new folder, which later changes leave alone.
        sam: what is trained on top of.
        reading: which page, channels and numbers of the image files count.
    """

    def __init__(self, folder: Path, snapshot: Callable[[Path], Path], sam: str, reading: ImageReading = PLAIN) -> None:
        self.folder, self._snapshot, self.sam, self.reading = folder, snapshot, sam, reading
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, recipe: Any, minutes: Any) -> dict[str, Any]:
        """Raises WireError for what cannot be trained, or while another training is under way."""
        if recipe not in RECIPES:
            raise WireError(f"recipe {recipe!r} is none of {', '.join(RECIPES)}")
        if not isinstance(minutes, int | float) or isinstance(minutes, bool) or not 0 < minutes <= MAX_MINUTES:
            raise WireError(f"minutes must be a number above 0, at most {MAX_MINUTES}")
        if any(job["state"] == "running" for job in self.all()):
            raise WireError("a training is under way; wait until it ends, or stop it", 409)
        name = time.strftime("%Y%m%d-%H%M%S")
        if (self.folder / name).exists():
            raise WireError("a training has begun this very second; try again", 409)
        data = self._snapshot(self.folder / name / "data")
        run, log = self.folder / name / "run", self.folder / name / "log.txt"
        command = [sys.executable, "-m", "maskwright", "train", recipe, str(data), "--out", str(run)]
        command += ["--minutes", f"{minutes:g}", "--sam", self.sam, *self.reading.options.split()]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True
            )
        self._processes[name] = process
        record = {"id": name, "recipe": recipe, "minutes": minutes, "started": time.time(), "pid": process.pid}
        write_atomic(self.folder / name / "job.json", json.dumps(record | {"born": _born(process.pid)}))
        return self.describe(name)

    def all(self) -> list[dict[str, Any]]:
        """The newest first."""
        names = sorted((path.parent.name for path in self.folder.glob("*/job.json")), reverse=True)
        return [self.describe(name) for name in names]

    def describe(self, name: str) -> dict[str, Any]:
        """What the page shows of one. Raises WireError where there is none."""
        record, run = self._record(name), self.folder / name / "run"
        state = self._state(name, record)
        metrics = read_metrics(run) if (run / "metrics.jsonl").is_file() else []
        curve = [
            [entry["step"], entry[key]] for entry in metrics for key in _SCORES[:1] if entry.get(key) is not None
        ] or [[entry["step"], entry[key]] for entry in metrics for key in _SCORES[1:] if entry.get(key) is not None]
        passed = time.time() - record["started"]
        done = _PROGRESS.findall(self._tail(name))
        step, steps = map(int, done[-1]) if done else (0, 0)
        left = max(0.0, record["minutes"] * 60 - passed) if state == "running" else 0.0
        return {
            "id": name,
            "recipe": record["recipe"],
            "minutes": record["minutes"],
            "started": record["started"],
            "state": state,
            "step": step,
            "steps": steps,
            "left_seconds": left,
            "score": curve[-1][1] if curve else None,
            "curve": curve,
            "run": name if (run / "model" / "model.safetensors").is_file() else None,
        }

    def run(self, name: str) -> Path:
        """The run of a training that has left a model. Raises WireError where there is none."""
        self._record(name)
        if not (self.folder / name / "run" / "model" / "model.safetensors").is_file():
            raise WireError("this training has left no model yet", 404)
        return self.folder / name / "run"

    def stop(self, name: str) -> dict[str, Any]:
        """Ask a training to end; it leaves a checkpoint that `maskwright train --resume` goes on from."""
        record = self._record(name)
        if self._state(name, record) == "running":
            write_atomic(self.folder / name / "stopped", "")
            os.killpg(record["pid"], signal.SIGTERM)
        return self.describe(name)

    def log(self, name: str, start: int) -> dict[str, Any]:
        """A piece of a training's output from a byte on, and where the next begins."""
        self._record(name)
        with (self.folder / name / "log.txt").open("rb") as file:
            file.seek(max(0, start))
            piece = file.read(LOG_PIECE)
        return {"text": piece.decode(errors="replace"), "next": max(0, start) + len(piece)}

    def _record(self, name: str) -> dict[str, Any]:
        # Names are made above: digits and a dash, so that none leads out of the folder.
        path = self.folder / name / "job.json"
        if not re.fullmatch(r"\d{8}-\d{6}", name) or not path.is_file():
            raise WireError("there is no such training", 404)
        return json.loads(path.read_bytes())

    def _state(self, name: str, record: dict[str, Any]) -> str:
        process = self._processes.get(name)
        if process is not None:
            code = process.poll()
            if code is None:
                return "running"
        elif _born(record["pid"]) == record["born"]:
            return "running"
        if (self.folder / name / "run" / "report.html").is_file():
            return "done"
        return "stopped" if (self.folder / name / "stopped").is_file() else "failed"

    def _tail(self, name: str) -> str:
        path = self.folder / name / "log.txt"
        if not path.is_file():
            return ""
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 4096))
            return file.read().decode(errors="replace")


def _born(pid: int) -> str | None:
    """When a process began, as the system counts: another one with the same number began at another time. None: there is none.

    On systems without ``/proc`` the process itself is asked for its start.
    """
    stat = Path(f"/proc/{pid}/stat")
    if stat.parent.parent.is_dir() and stat.parent.parent.joinpath("self").exists():
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] == "Z" else fields[19]
    told = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return told.stdout.strip() or None
