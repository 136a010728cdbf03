"""Kills and signals at chosen places of every recipe, on the smallest training: it must end as if nothing had happened.

::

    python -m tests.recipes.interrupting                          all recipes and places; some minutes
    python -m tests.recipes.interrupting --recipes s4m --every 4  every fourth place of one recipe
    python -m tests.recipes.interrupting --recipes s4m --pairs 20 pairs of processes that train in one folder

A place is a function and the number of its call in a process, such as the second file of the first checkpoint: the process gets a
signal as it enters. The trainings are forks of this process, which has imported all that is slow: no other thread may run in it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from maskwright import cli
from maskwright.data.labels import Kind
from maskwright.sam.sam import Sam
from tests.helpers import tiny_config
from tests.recipes import instance_training
from tests.recipes.training import binary_scenes

LENGTHS: dict[str, dict[str, Any]] = {
    "samix": {"size": 64, "steps": 12, "warm-up": 4, "batch": 4, "references": 2, "workers": 0},
    "s4m": {
        "size": 64,
        "steps": 12,
        "batch": 2,
        "queries": 10,
        "points": 8,
        "warm-up": 2,
        "workers": 0,
        "certain": 0.0,
        "validations": 2,
    },
    "alignsam": {"shots": 4, "epochs": 8, "clicks": 2, "views": 1, "srm-updates": 2, "grid": 4, "srm-batch": 2},
    "clicks": {"steps": 16, "batch": 3, "tries": 6, "looks": 3, "clicks": 2, "groups": 2, "held-out": 0.25},
}

PLACES = {
    "begin": "maskwright.engine.run:Run.create",
    "step": "maskwright.engine.session:Session.save",
    "log": "maskwright.engine.run:Run.log",
    "checkpoint file": "maskwright.engine.checkpoints:write_tensors",
    "checkpoint rename": "maskwright.engine.checkpoints:sync_folder",
    "last checkpoint": "maskwright.engine.session:Session.finish",
    "model file": "maskwright.engine.weights:write_tensors",
    "model rename": "maskwright.engine.weights:sync_folder",
    "report": "maskwright.engine.report:Report.save",
}
"""Of the two synchronisations of a model folder one comes before its rename and one after; of the three of a checkpoint, two come after."""

HALF = ("checkpoint file", "model file")
"""Places where half of a file is there when the signal comes."""

KILLS = [
    ("begin", 1),
    ("step", 2),
    ("checkpoint file", 1),
    ("checkpoint file", 3),
    ("checkpoint rename", 1),
    ("checkpoint rename", 2),
    ("log", 1),
    ("step", 3),
    ("model file", 1),
    ("model rename", 1),
]
"""In this order on one run: each process takes it up where the one before was killed."""

SIGNALS = [
    ("begin", 1, signal.SIGINT),
    ("begin", 1, signal.SIGTERM),
    ("step", 1, signal.SIGINT),
    ("step", 1, signal.SIGTERM),
    ("checkpoint file", 2, signal.SIGTERM),
    ("checkpoint rename", 2, signal.SIGINT),
    ("log", 1, signal.SIGTERM),
    ("last checkpoint", 1, signal.SIGINT),
    ("model file", 1, signal.SIGTERM),
    ("model rename", 1, signal.SIGINT),
    ("model rename", 2, signal.SIGTERM),
    ("report", 1, signal.SIGINT),
]

Trigger = tuple[str, int, signal.Signals]


def strike(trigger: Trigger) -> None:
    """Let this process get a signal at a place."""
    place, count, number = trigger
    module, _, path = PLACES[place].partition(":")
    *parents, name = path.split(".")
    owner: Any = importlib.import_module(module)
    for parent in parents:
        owner = getattr(owner, parent)
    function, calls = getattr(owner, name), [0]

    def struck(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == count:
            if place in HALF:
                Path(args[0]).write_bytes(b"\x40\x00\x00")
            os.kill(os.getpid(), number)
        return function(*args, **kwargs)

    setattr(owner, name, struck)


def train(args: list[str], log: Path, trigger: Trigger | None = None) -> int:
    """Run the command line in a fork; returns its status, or the negative number of the signal that killed it."""
    return ended(fork(args, log, trigger))


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def fork(args: list[str], log: Path, trigger: Trigger | None = None) -> int:
    """Begin the command line in a fork, and return its process."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    status = 99
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(stream, 1)
        os.dup2(stream, 2)
        if trigger is not None:
            strike(trigger)
        status = cli.main(args)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def arguments(recipe: str, data: Path, out: Path, sam: Path) -> list[str]:
    options = {"out": out, "sam": sam, "device": "cpu", "checkpoint-seconds": 0.0, **LENGTHS[recipe]}
    return [
        "train",
        recipe,
        str(data),
        *(word for name, value in options.items() for word in (f"--{name}", str(value))),
    ]


def numbers(run: Path) -> tuple[dict[str, bytes], list[str]]:
    """All tensors of the run's models, and its log."""
    tensors = {
        f"{path.relative_to(run)} {name}": tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        for path in sorted(run.glob("*/*.safetensors"))
        for name, tensor in load_file(path).items()
    }
    return tensors, (run / "metrics.jsonl").read_text().splitlines()


def left_behind(run: Path) -> list[str]:
    """What a process that was killed left beside the run's files."""
    return [path.name for path in run.rglob("*") if any(part in path.name for part in (".tmp-", ".old-", ".part"))]


def rehearse(recipe: str, data: Path, sam: Path, folder: Path, every: int, say: Callable[[str], None]) -> None:
    """Kill and interrupt one recipe. Raises AssertionError where a run does not end as it should."""
    log = folder / "log"
    assert train(arguments(recipe, data, folder / "whole", sam), log) == 0, log.read_text()
    expected = numbers(folder / "whole")
    chains: dict[str, list[Trigger]] = {
        "kill": [(place, count, signal.SIGKILL) for place, count in KILLS[::every]],
        "signal": SIGNALS[::every],
    }
    for name, triggers in chains.items():
        run, started = folder / name, time.monotonic()
        args = [*arguments(recipe, data, run, sam), "--resume"]
        for trigger in triggers:
            status, told = train(args, log, trigger), log.read_text()
            if trigger[2] == signal.SIGKILL:
                assert status == -signal.SIGKILL, f"{recipe}, {trigger}: status {status}\n{told}"
                continue
            assert status == 128 + trigger[2], f"{recipe}, {trigger}: status {status}\n{told}"
            assert "Traceback" not in told, f"{recipe}, {trigger}\n{told}"
            assert "continue with: maskwright train" in told.splitlines()[-1], f"{recipe}, {trigger}\n{told}"
            assert not run.exists() or not left_behind(run), f"{recipe}, {trigger}: {left_behind(run)}"
        steps = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["step"]
        assert train(args, log) == 0, log.read_text()
        assert not left_behind(run), left_behind(run)
        assert numbers(run) == expected, f"{recipe}: {name}s left a trace"
        say(
            f"{recipe}: {len(triggers)} {name}s, to step {steps} of the log: bit-equal ({time.monotonic() - started:.0f} s)"
        )


def pair_up(recipe: str, data: Path, sam: Path, folder: Path, pairs: int, say: Callable[[str], None]) -> None:
    """Start two trainings in one folder, the second as a new one, with ``--resume`` or ``--overwrite``: no line may be lost."""
    log, started = folder / "log", time.monotonic()
    assert train(arguments(recipe, data, folder / "whole", sam), log) == 0, log.read_text()
    expected, refused = numbers(folder / "whole"), 0
    for number in range(pairs):
        args = arguments(recipe, data, folder / f"pair-{number}", sam)
        logs = [folder / "first", folder / "second"]
        first = fork(args, logs[0])
        time.sleep(0.15 * number)
        second = fork([*args, *([], ["--resume"], ["--overwrite"])[number % 3]], logs[1])
        told = [(ended(child), path.read_text()) for child, path in zip((first, second), logs)]
        losers = [text for status, text in told if status]
        assert len(losers) <= 1, told
        for text in losers:
            error = text.splitlines()[-1]
            assert error.startswith("error: "), text
            assert "is writing there" in error or "already holds a run" in error, text
            refused += 1
        assert numbers(folder / f"pair-{number}") == expected, f"{recipe}, pair {number}: a line was lost\n{told}"
    say(f"{recipe}: {pairs} pairs, {refused} refused: no line lost ({time.monotonic() - started:.0f} s)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", choices=LENGTHS, default=list(LENGTHS))
    parser.add_argument("--every", type=int, default=1, help="only every so many places")
    parser.add_argument("--pairs", type=int, default=0, help="instead: so many pairs of processes in one folder")
    given = parser.parse_args()
    torch.set_num_threads(1)

    def say(text: str) -> None:
        print(text, flush=True)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        Sam.from_config(tiny_config()).model.save_pretrained(folder / "sam")
        binary = binary_scenes(folder / "scenes")
        masks = binary_scenes(folder / "masks", shares={Kind.MASK: 1.0}, train=10, val=3)
        data = {
            "samix": binary,
            "s4m": instance_training.instance_scenes(folder / "instances"),
            "alignsam": masks,
            "clicks": masks,
        }
        for recipe in given.recipes:
            (folder / recipe).mkdir()
            places = data[recipe], folder / "sam", folder / recipe
            if given.pairs:
                pair_up(recipe, *places, given.pairs, say)
            else:
                rehearse(recipe, *places, given.every, say)


if __name__ == "__main__":
    main()
