"""What is wrong with a user's data: one record for each fault, which is also its line of text, and how many are shown.

Readers (``maskwright.data.formats``) and the check (``maskwright.data.check``) make these records, ``DataError`` carries
them, and the commands print them in groups.
"""

from __future__ import annotations

import os
import re
import shlex
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Severity = Literal["problem", "warning"]

OTHER = "other"
"""The kind of a fault that has no name of its own; such faults are grouped by their wording."""


class Problem(str):
    """A fault in a dataset. As a ``str`` it is one line: ``file: place: message; remedy``, without control characters.

    Attributes:
        kind: a short name that never changes, such as ``crowd`` or ``grey-mask``; faults of one kind are shown as a group.
        severity: ``problem``: the dataset is refused. ``warning``: it was read all the same, and the user is told.
        file: the file, as a path that the user can open; empty where the whole dataset is meant.
        place: where in the file: a field, an annotation, a sample; may be empty.
        message: what is wrong.
        remedy: what to do about it.
        fix: the options with which ``maskwright data fix`` mends it, such as ``--crowd objects``, or "" if it needs none;
            None where it cannot.
    """

    kind: str
    severity: Severity
    file: str
    place: str
    message: str
    remedy: str
    fix: str | None

    def __new__(
        cls,
        message: str,
        *,
        kind: str = OTHER,
        severity: Severity = "problem",
        file: str | os.PathLike[str] = "",
        place: str = "",
        remedy: str = "",
        fix: str | None = None,
        data: str | os.PathLike[str] = "",
    ) -> Problem:
        """
        Args:
            message, kind, severity, file, place, remedy, fix: as above.
            data: the dataset as the user named it. Together with ``fix`` it gives the remedy: the exact command.
        """
        message, name, place = printable(message), printable(os.fspath(file)), printable(place)
        if fix is not None and data:
            command = f"mend it with: {fix_command(data, fix)}"
            remedy = f"{remedy}, or {command}" if remedy else command
        remedy = printable(remedy)
        head = ": ".join(part for part in (name, place, message) if part)
        record = super().__new__(cls, f"{head}; {remedy}" if remedy else head)
        record.kind, record.severity, record.fix = kind, severity, fix
        record.file, record.place, record.message, record.remedy = name, place, message, remedy
        return record

    def with_context(self, after: str) -> Problem:
        """The same fault with some words after its message, such as which sample the file belongs to."""
        return self.replaced(message=f"{self.message} {after}")

    def replaced(self, **changes: Any) -> Problem:
        """The same fault with other attributes."""
        names = ("message", "kind", "severity", "file", "place", "remedy", "fix")
        return Problem(**{name: getattr(self, name) for name in names} | changes)


def as_problem(line: str) -> Problem:
    """A record as it is; a plain line of text as a record of kind ``other``."""
    return line if isinstance(line, Problem) else Problem(line)


def problems_of(records: Iterable[Problem]) -> list[Problem]:
    """Those for which the dataset is refused."""
    return [record for record in records if record.severity == "problem"]


def warnings_of(records: Iterable[Problem]) -> list[Problem]:
    """Those with which it was read all the same."""
    return [record for record in records if record.severity == "warning"]


def fix_command(data: str | os.PathLike[str], options: str = "") -> str:
    """The command that writes a mended copy of a dataset beside it, ready for a shell."""
    path = Path(data)
    folder = path.parent if path.suffix.lower() == ".json" and not path.is_dir() else path
    if folder.name in ("", ".."):  # "." has no name to put an ending to.
        target = Path("..") / f"{folder.resolve().name or 'data'}-fixed"
    else:
        target = folder.with_name(f"{folder.name}-fixed")
    parts = ["maskwright data fix", shlex.quote(os.fspath(data)), "--out", shlex.quote(str(target)), options]
    return " ".join(part for part in parts if part)


def printable(text: str) -> str:
    """A text on one line, in which characters that a terminal obeys instead of showing are escaped: ``\\x1b``, ``\\n``."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_shown(character) for character in text)


def _shown(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii") if is_control(character) else character


def is_control(character: str) -> bool:
    """Whether a terminal or a page obeys a character instead of showing it."""
    # Control (Cc), format (Cf: turns the direction of a text), surrogate (Cs), line and paragraph separators (Zl, Zp). The
    # joiners among the format characters stay: scripts of India and Persia, and emoji, are written with them.
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") and character not in "\u200c\u200d"


@dataclass(frozen=True)
class Group:
    """Faults of one kind, in the order in which they were found."""

    kind: str
    severity: Severity
    problems: tuple[Problem, ...]

    def lines(self, most: int | None = 3) -> list[str]:
        """The first ``most`` of them (all where None), then how many more there are."""
        shown = self.problems[:most]
        left = len(self.problems) - len(shown)
        return [*shown, *([f"... and {left:,} more of this kind"] if left else [])]


def grouped(problems: Iterable[str]) -> list[Group]:
    """Faults by severity and kind, problems first, in the order in which each kind was first found."""
    groups: dict[tuple[str, str, str], list[Problem]] = {}
    for line in problems:
        problem = as_problem(line)
        wording = _wording(problem.message) if problem.kind == OTHER else ""
        groups.setdefault((problem.severity, problem.kind, wording), []).append(problem)
    found = [Group(kind, members[0].severity, tuple(members)) for (_, kind, _), members in groups.items()]
    return sorted(found, key=lambda group: group.severity)  # "problem" before "warning"


def lines(problems: Sequence[str], most: int | None = 3) -> list[str]:
    """All faults as lines of text, of each kind the first ``most`` and a count; all of them where ``most`` is None."""
    return [line for group in grouped(problems) for line in group.lines(most)]


def _wording(message: str) -> str:
    """A message without what differs from place to place: quoted texts, paths, indices and numbers."""
    message = re.sub(r"'[^']*'|\"[^\"]*\"", "'", message)
    message = re.sub(r"\S*/\S*", "/", message)
    return re.sub(r"\d+(\.\d+)?", "0", message)
