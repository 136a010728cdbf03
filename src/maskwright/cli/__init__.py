"""The command line. Every command is a dataclass whose fields are its arguments; calling it does the work.

Nothing heavy is imported before a command is known, so that help comes at once.
"""

from __future__ import annotations

import dataclasses
import errno
import logging
import os
import shlex
import sys
from collections.abc import Collection, Sequence
from contextlib import redirect_stdout, suppress
from io import StringIO
from typing import Any

from tyro.conf import DisallowNone
from tyro.extras import SubcommandApp

from maskwright import interrupts
from maskwright.api import RECIPES
from maskwright.cli.arrange import Merge, Sample, Split
from maskwright.cli.completion import Completion
from maskwright.cli.curate import Audit, Budget, Next
from maskwright.cli.data import Check, Convert, Fix, Stats, Weaken
from maskwright.cli.export import Export, SamExport
from maskwright.cli.find import Find
from maskwright.cli.hub import Push
from maskwright.cli.label import Label, Serve
from maskwright.cli.models import Demo, Evaluate, Predict
from maskwright.cli.sam import SamConvert, SamEvaluate, SamInfo, SamPrecompute
from maskwright.cli.shared import is_main
from maskwright.errors import MaskwrightError
from maskwright.version import __version__

DESCRIPTION = """Segmentation models from whatever labels there are: masks, boxes, scribbles, points, tags, or none.

From labels to masks in four steps:
  maskwright data check DATA
  maskwright train samix DATA --out RUN
  maskwright evaluate RUN DATA
  maskwright predict RUN IMAGES --out DIR

`maskwright demo` shows all of it on pictures that it draws itself. With several GPUs write `accelerate launch -m
maskwright` instead of `maskwright`."""

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 1 for what the user can mend, 130 after Ctrl-C, 143 after SIGTERM.

    Usage errors end in SystemExit with status 2, and --help with status 0.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    with interrupts.handled(args):
        return _answer(args)


def _answer(args: Sequence[str]) -> int:
    """Run one command; whatever is the user's to mend becomes one message and a status."""
    if args == ["--version"]:
        print(f"maskwright {__version__}")
        return 0
    # The other libraries' chatter is not the user's business; warnings and what goes wrong is.
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        try:
            return _run(args)
        finally:
            _leave_processes()
    except MaskwrightError as error:
        return _fail(str(error))
    except KeyboardInterrupt as error:
        interrupts.ignore()
        _tell(interrupts.told(interrupts.status(error) - 128))
        return interrupts.status(error)
    except BrokenPipeError:
        # The reader of a pipe (head, less) has gone. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        if error.errno in _NO_SPACE:
            return _fail(f"{where}the disk is full; free some space and give the command again")
        if error.errno in _NOT_ALLOWED:
            return _fail(f"{where}{os.strerror(error.errno)}; choose another place or change its permissions")
        raise
    except RuntimeError as error:
        # Named rather than imported: torch takes seconds.
        if type(error).__name__ != "OutOfMemoryError":
            raise
        return _fail("the GPU's memory is full; give a smaller --batch or --size, or --device cpu")


def parse(args: Sequence[str]) -> Any:
    """The command that some arguments name, with its settings; of ``train`` the recipe's settings.

    Usage errors end in SystemExit with status 2, and --help with status 0.
    """
    recipe = _recipe_of(args)
    return _parsed(args, [] if recipe is None else [recipe])


def _parsed(args: Sequence[str], recipes: Collection[str]) -> Any:
    return _app(recipes).cli(prog="maskwright", description=DESCRIPTION, args=args, config=(DisallowNone,))


def completion_script(shell: str) -> str:
    """What ``bash``, ``zsh`` or ``fish`` runs to complete all commands, with the settings of all recipes."""
    with redirect_stdout(StringIO()) as script, suppress(SystemExit):
        _parsed(["--tyro-print-completion", shell], RECIPES)
    return script.getvalue()


def _run(args: Sequence[str]) -> int:
    recipe, command = _recipe_of(args), parse(args)
    if isinstance(command, Completion):
        command.offer(completion_script(command.shell))
        return 0
    if recipe is None:
        return command() or 0
    run = RECIPES[recipe].module().main(command)
    if is_main():
        print(f"trained: {run}\n\nGo on with")
        path, data = shlex.quote(str(run)), shlex.quote(str(command.data))
        data += f" --format {command.format}" if command.format else ""
        commands = [(f"evaluate {path} {data}", "scores on the split test, which it has not seen; or --split NAME")]
        commands += [(f"predict {path} {arguments}", what) for arguments, what in RECIPES[recipe].uses]
        width = max(len(line) for line, _ in commands)
        print(*(f"  maskwright {line:{width}}  {what}" for line, what in commands), sep="\n")
    return 0


def _recipe_of(args: Sequence[str]) -> str | None:
    return args[1] if len(args) > 1 and args[0] == "train" and args[1] in RECIPES else None


def _app(recipes: Collection[str]) -> SubcommandApp:
    """All commands. A recipe's own settings are imported only where it is asked for, so that other commands come at once."""
    app, train, data, sam = SubcommandApp(), SubcommandApp(), SubcommandApp(), SubcommandApp()
    train.__doc__ = "Train a model."
    data.__doc__ = "Check, mend, count, convert, split and merge datasets; take labels away."
    sam.__doc__ = "The foundation model: facts, official checkpoints, embeddings ahead of time."
    for name, entry in RECIPES.items():
        settings = entry.module().Config if name in recipes else dataclasses.make_dataclass(name, [])
        train.command(name=name, help=entry.text)(settings)
    groups = (
        (data, {"check": Check, "fix": Fix, "stats": Stats, "convert": Convert}),
        (data, {"split": Split, "merge": Merge, "sample": Sample, "weaken": Weaken}),
        (sam, {"info": SamInfo, "evaluate": SamEvaluate, "convert": SamConvert, "precompute": SamPrecompute}),
        (sam, {"export": SamExport}),
    )
    for group, commands in groups:
        for name, command in commands.items():
            group.command(name=name)(command)
    app.command(train, name="train")
    app.command(name="label")(Label)
    app.command(name="serve")(Serve)
    app.command(name="predict")(Predict)
    app.command(name="evaluate")(Evaluate)
    app.command(name="find")(Find)
    app.command(name="next")(Next)
    app.command(name="audit")(Audit)
    app.command(name="budget")(Budget)
    app.command(name="export")(Export)
    app.command(name="push")(Push)
    app.command(name="demo")(Demo)
    app.command(data, name="data")
    app.command(sam, name="sam")
    app.command(name="completion")(Completion)
    return app


def _leave_processes() -> None:
    """Part from the other processes in order; a group that is still up when Python ends can abort the process."""
    if "torch" in sys.modules:
        from torch import distributed

        if distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()


def _fail(text: str) -> int:
    _tell(f"error: {text}")
    return 1


def _tell(text: str) -> None:
    """On standard error, once: of several processes the main one speaks."""
    if is_main():
        print(text, file=sys.stderr)
