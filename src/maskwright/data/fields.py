"""Reading JSON that people wrote: typed fields and names, with every problem noted and none skipped."""

from __future__ import annotations

import json
import math
import os
import stat
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

from maskwright.data.reading import STRICT, Reading
from maskwright.errors import DataError
from maskwright.problems import OTHER, Problem, is_control

MISSING = object()
"""Stands for a field that is not there or of the wrong type, which was noted already."""

MAX_JSON_BYTES = 2_000_000_000
"""A JSON file of more bytes is refused before it is read; COCO's own largest has 0.5 GB."""

_TYPES = {dict: "an object", list: "a list", str: "a text", int: "a whole number", bool: "true or false"}


class Fields:
    """Typed access to parsed JSON that notes every problem instead of stopping at the first.

    Attributes:
        problems: faults for which the dataset is refused.
        warnings: what was understood with a reservation, left out, or mended because ``reading`` asks for it.
    """

    def __init__(self, reading: Reading = STRICT, data: str | Path = "") -> None:
        """
        Args:
            reading: how to read.
            data: the dataset as the user named it, for the command that mends it.
        """
        self.reading, self.data = reading, data
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []

    def note(self, place: str, problem: str, kind: str = OTHER) -> None:
        """A fault: ``what is wrong; what to do``."""
        message, _, remedy = problem.rpartition("; ")
        self.problems.append(Problem(message or remedy, kind=kind, place=place, remedy=remedy if message else ""))

    def warn(self, place: str, message: str, kind: str = OTHER) -> None:
        """Something that was read all the same, and that the user is told."""
        what, _, remedy = message.rpartition("; ")
        self.warnings.append(
            Problem(what or remedy, kind=kind, severity="warning", place=place, remedy=remedy if what else "")
        )

    def mendable(self, place: str, problem: str, kind: str, mended: str, fix: str = "") -> bool:
        """A fault that ``data fix`` can mend: noted with the command; or, where ``reading`` asks to mend, done.

        Args:
            place, problem, kind: as of :meth:`note`.
            mended: what mending it does, for the list of changes.
            fix: the options of the command.

        Returns:
            Whether the caller is to mend it.
        """
        if self.reading.mend:
            message = problem.rpartition("; ")[0] or problem
            self.warnings.append(Problem(f"{message}: {mended}", kind=kind, severity="warning", place=place, fix=fix))
            return True
        message, _, remedy = problem.rpartition("; ")
        if self.reading.format is not None:
            fix = f"--format {self.reading.format} {fix}".strip()
        self.problems.append(
            Problem(
                message or remedy,
                kind=kind,
                place=place,
                remedy=remedy if message else "",
                fix=fix,
                data=self.data,
            )
        )
        return False

    def fields(
        self, row: Any, place: str, known: dict[str, type], required: Sequence[str] = (), extra: bool = False
    ) -> dict[str, Any]:
        """The known fields of an object that have the right type.

        Noted are wrong types, required fields that are missing and, unless ``extra``, fields that are not known. A null
        counts as missing. A whole number may be written as 64.0; as a text ("64") it is a fault that can be mended.
        """
        if not isinstance(row, dict):
            self.note(place, f"must be an object, found {shown(row)}; write {{...}}")
            return {}
        for key in (key for key in row if key not in known and not extra):
            self.note(f"{place}.{key}", f"is unknown; known are {', '.join(known)}; remove or rename it")
        for key in (key for key in required if key not in row):
            self.note(f"{place}.{key}", "is missing; add it")
        valid_fields = {}
        for key, kind in ((key, kind) for key, kind in known.items() if key in row):
            value = row[key]
            if kind is int and isinstance(value, (float, str)):
                value = self.whole(value, f"{place}.{key}")
                if value is MISSING:
                    continue
            if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
                valid_fields[key] = value
            elif value is not None or key in required:
                self.note(f"{place}.{key}", f"must be {_TYPES[kind]}, found {shown(value)}; correct it")
        return valid_fields

    def whole(self, value: Any, place: str) -> Any:
        """A whole number that is written as one, as 64.0, or (to be mended) as "64"; else noted and MISSING."""
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if isinstance(value, str) and len(value) <= 18 and value.isascii() and value.removeprefix("-").isdigit():
            what = f"must be a whole number, found the text {shown(value)}; write it without quotes"
            return int(value) if self.mendable(place, what, "number-as-text", f"read as {int(value)}") else MISSING
        self.note(place, f"must be a whole number, found {shown(value)}; correct it")
        return MISSING

    def numbers(self, value: Any, place: str, count: int) -> list[float] | None:
        """Finite numbers, ``count`` of them; None where they are MISSING or wrong."""
        if value is MISSING:
            return None
        fine = isinstance(value, list) and len(value) == count
        if not fine or not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in value):
            self.note(place, f"must be a list of {count} numbers, found {shown(value)}; correct it")
            return None
        try:
            numbers = [float(v) for v in value]
        except OverflowError:
            numbers = [math.inf]
        if not all(math.isfinite(v) for v in numbers):
            self.note(place, f"holds a number that is not finite ({shown(value)}); correct it")
            return None
        return numbers


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises DataError where it is missing, unreadable or no JSON, with line and column."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise DataError([f"{path}: is no regular file; replace it by one"])
        if status.st_size > MAX_JSON_BYTES:
            raise DataError([f"{path}: has more than the {MAX_JSON_BYTES:,} bytes that are read; split it"])
        return json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_without_duplicates)
    except FileNotFoundError:
        raise DataError([f"{path}: missing; check the path"]) from None
    except OSError as error:
        raise DataError([f"{path}: unreadable ({error.strerror}); check the file and its permissions"]) from None
    except UnicodeDecodeError as error:
        raise DataError([f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8"]) from None
    except (ValueError, RecursionError) as error:
        raise DataError([f"{path}: not valid JSON ({error}); correct it there"]) from None


def leaves_folder(root: Path, path: str) -> str | None:
    """Why a path may not be used under ``root`` (absolute, ``..``, a link that leads out, ...), or None if it may."""
    if not path or "\0" in path:
        return "is empty or holds a zero byte"
    if "\\" in path:
        return "holds a backslash; write /"
    try:
        path.encode()
    except UnicodeEncodeError:
        return "is no valid text; rename the file"
    windows = PureWindowsPath(path)  # Knows both separators and drives, so that a dataset can move between systems.
    if path.startswith("/") or windows.drive:
        return "is absolute; write it relative to the dataset's folder"
    if ".." in windows.parts:
        return "leaves the dataset's folder (..); move the file into it"
    if len(path.encode()) > 4000 or any(len(part.encode()) > 255 for part in windows.parts):
        return "is longer than any file's name can be; correct it"
    inside = os.path.realpath(root)
    if not Path(os.path.realpath(os.path.join(inside, path))).is_relative_to(inside):
        return "leaves the dataset's folder by a link; move the file into it"
    return None


def category_problems(categories: Sequence[Any]) -> list[str]:
    """What is wrong with a list of category names: they are unique texts, and the first is ``background``."""
    problems = [
        f"categories[{i}]: {shown(name)} is no name; write a text"
        for i, name in enumerate(categories)
        if not is_name(name)
    ]
    if not problems:
        counts = Counter[str]()
        for i, name in enumerate(categories):
            counts[name] += 1
            if counts[name] > 1:
                problems.append(f"categories[{i}]: {shown(name)} is there twice; remove one")
    if not categories or categories[0] != "background":
        problems.append("categories[0]: must be 'background' (pixel value 0); put it first")
    return problems


def is_name(value: Any) -> bool:
    """Whether a value can be a category's name: a text that shows something, on one line, of at most 200 characters."""
    return isinstance(value, str) and bool(value.strip()) and len(value) <= 200 and not any(map(is_control, value))


def names_a_file(name: str) -> bool:
    """Whether a sample's id can be part of a file name: 1 to 200 bytes of printable text without slashes."""
    usable = name.isprintable() and not set(name) & set("/\\") and name not in (".", "..") and bool(name.strip())
    return usable and len(name.encode()) <= 200


def shown(value: Any) -> str:
    """A value from a file as a message shows it: short, whatever its size."""
    if isinstance(value, str):
        return repr(value) if len(value) <= 60 else f"{value[:57]!r}..."
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**40:
        return "a number of more than 40 digits"
    if isinstance(value, list) and (len(value) > 8 or any(isinstance(item, (list, dict)) for item in value)):
        return f"a list of {len(value)} items"
    if isinstance(value, dict):
        return f"an object with {', '.join(shown(key) for key in list(value)[:3])}" if value else "an empty object"
    if isinstance(value, list):
        return f"[{', '.join(shown(item) for item in value)}]"
    return (
        {True: "true", False: "false", None: "null"}[value]
        if value is None or value is True or value is False
        else repr(value)
    )


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Python keeps the last of two equal keys without a word; here that would be a label lost.
    result = dict(pairs)
    if len(result) != len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {shown(twice)} is there twice in one object")
    return result
