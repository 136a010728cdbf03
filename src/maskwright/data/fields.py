"""Reading JSON that people wrote: typed fields, names and paths, with every problem noted and none skipped."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

from maskwright.errors import DataError

MISSING = object()
"""Stands for a field that is not there or of the wrong type, which was noted already."""

_TYPES = {dict: "an object", list: "a list", str: "a text", int: "a whole number"}


class Fields:
    """Typed access to parsed JSON that notes every problem in ``problems`` instead of stopping at the first."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def note(self, place: str, problem: str) -> None:
        self.problems.append(f"{place}: {problem}")

    def fields(
        self, row: Any, place: str, known: dict[str, type], required: Sequence[str] = (), extra: bool = False
    ) -> dict[str, Any]:
        """The known fields of an object that have the right type.

        Noted are wrong types, required fields that are missing and, unless ``extra``, fields that are not known. A null
        counts as missing.
        """
        if not isinstance(row, dict):
            self.note(place, f"must be an object, found {found(row)}; write {{...}}")
            return {}
        for key in (key for key in row if key not in known and not extra):
            self.note(f"{place}.{key}", f"is unknown; known are {', '.join(known)}; remove or rename it")
        for key in (key for key in required if key not in row):
            self.note(f"{place}.{key}", "is missing; add it")
        valid_fields = {}
        for key, kind in ((key, kind) for key, kind in known.items() if key in row):
            if isinstance(row[key], kind) and not (kind is int and isinstance(row[key], bool)):
                valid_fields[key] = row[key]
            elif row[key] is not None or key in required:
                self.note(f"{place}.{key}", f"must be {_TYPES[kind]}, found {found(row[key])}; correct it")
        return valid_fields

    def numbers(self, value: Any, place: str, count: int) -> list[float] | None:
        """Finite numbers, ``count`` of them; None where they are MISSING or wrong."""
        if value is MISSING:
            return None
        fine = isinstance(value, list) and len(value) == count
        if not fine or not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in value):
            self.note(place, f"must be a list of {count} numbers, found {found(value)}; correct it")
            return None
        try:
            numbers = [float(v) for v in value]
        except OverflowError:
            numbers = [math.inf]
        if not all(math.isfinite(v) for v in numbers):
            self.note(place, f"holds a number that is not finite ({found(value)}); correct it")
            return None
        return numbers


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises DataError where it is missing, unreadable or no JSON, with line and column."""
    try:
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
    inside = os.path.realpath(root)
    if not Path(os.path.realpath(os.path.join(inside, path))).is_relative_to(inside):
        return "leaves the dataset's folder by a link; move the file into it"
    return None


def category_problems(categories: Sequence[Any]) -> list[str]:
    """What is wrong with a list of category names: they are unique texts, and the first is ``background``."""
    problems = [
        f"categories[{i}]: {name!r} is no name; write a text" for i, name in enumerate(categories) if not _is_name(name)
    ]
    if not problems:
        problems = [
            f"categories[{i}]: {name!r} is there twice; remove one"
            for i, name in enumerate(categories)
            if name in categories[:i]
        ]
    if not categories or categories[0] != "background":
        problems.append("categories[0]: must be 'background' (pixel value 0); put it first")
    return problems


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def names_a_file(name: str) -> bool:
    """Whether a sample's id can be part of a file name: 1 to 200 bytes of printable text without slashes."""
    usable = name.isprintable() and not set(name) & set("/\\") and name not in (".", "..") and bool(name.strip())
    return usable and len(name.encode()) <= 200


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Python keeps the last of two equal keys without a word; here that would be a label lost.
    result = dict(pairs)
    if len(result) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is there twice in one object")
    return result


def found(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
