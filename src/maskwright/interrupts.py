"""Ctrl-C (SIGINT) and SIGTERM: a command says how to go on and ends with status 130 or 143, and nothing is left half-written.

- While Python imports there is nothing to clean up, and an exception could get lost in the modules' own handlers: the process ends at once.
- Inside a training's steps the step under way is finished and a checkpoint written first; a second signal does not wait for that.
- Everywhere else :class:`Interrupted` is raised where the program is, and files that are being written are removed on the way out.

Light, because it must be there before anything else is imported.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """One of :data:`SIGNALS` came.

    Attributes:
        number: the signal's.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class _State:
    """What the handler goes by. Signals come to the process, so there is one of it."""

    received: int | None = None
    waits: bool = False
    args: Sequence[str] = ()


@contextmanager
def handled(args: Sequence[str]) -> Iterator[None]:
    """Answer both signals, inside the ``with``; one that is ignored, as under ``nohup``, stays ignored.

    Args:
        args: of the command line, for the message.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Python lets no other thread answer signals.
        return
    _State.args, _State.received, _State.waits = args, None, False
    before: dict[int, Any] = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        if before[number] is not signal.SIG_IGN:
            signal.signal(number, _answer)
    try:
        yield
    finally:
        _State.received, _State.waits = None, False
        for number, handler in before.items():
            signal.signal(number, handler)


def wait(waits: bool) -> None:
    """Whether the first signal is only noted, for :func:`received` to tell."""
    _State.waits = waits


def ignore() -> None:
    """Nothing more is to be stopped: the command is at its last words. Until the end of :func:`handled`."""
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)


def received() -> int | None:
    """The number of the signal that came; None before one has come."""
    return _State.received


def status(error: KeyboardInterrupt) -> int:
    """The exit status that tells a shell which signal ended the command."""
    return 128 + (error.number if isinstance(error, Interrupted) else signal.SIGINT)


def told(number: int = signal.SIGINT) -> str:
    """What a user reads at the end: the command that goes on."""
    what = "terminated" if number == signal.SIGTERM else "interrupted"
    args = list(_State.args)
    if args[:1] != ["train"]:
        return f"{what}; give the same command again to go on"
    args = [word for word in args if word not in ("--overwrite", "--resume")]
    return f"{what}; continue with: maskwright {shlex.join([*args, '--resume'])}"


def _answer(number: int, frame: FrameType | None) -> None:
    first, _State.received = _State.received is None, number
    if _State.waits and first:
        _tell("\nstopping: the step under way is finished and saved first; once more, and it stops at once")
    elif not _State.waits and _imports(frame):
        _tell(told(number))
        os._exit(128 + number)
    else:
        raise Interrupted(number)


def _imports(frame: FrameType | None) -> bool:
    """Whether a module is being imported."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _tell(text: str) -> None:
    """On standard error, past Python's own buffers, which a handler must not touch; of several processes the first speaks."""
    if os.environ.get("RANK", "0") == "0":
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"{text}\n".encode())
