"""Finding the files that a dataset names: as written, or as another system wrote the same name."""

from __future__ import annotations

import os
import shlex
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from urllib.parse import unquote

from maskwright.data.fields import Fields, leaves_folder, shown


class Files:
    """The files of a dataset's folder, looked up by names that people and tools wrote. Folders are listed once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._folders: dict[str, dict[str, str]] = {}

    def is_file(self, path: str) -> bool:
        """Whether a path relative to the folder is a file there; False, not an error, for paths that cannot be."""
        return os.path.isfile(self.root / path) if "\0" not in path else False

    def like(self, path: str) -> str | None:
        """The file whose path differs from ``path`` in its Unicode form or in the case of letters, or None."""
        found = ""
        for part in path.split("/"):
            names = self._names(found)
            match = names.get(unicodedata.normalize("NFC", part)) or names.get(_folded(part))
            if not match:
                return None
            found = f"{found}/{match}" if found else match
        return found if self.is_file(found) else None

    def _names(self, folder: str) -> dict[str, str]:
        """Name in normal form, and in normal form without case → name, of what is in a folder; no ambiguous ones."""
        if folder not in self._folders:
            try:
                entries = sorted(os.listdir(self.root / folder))
            except OSError:
                entries = []
            counts = Counter(map(_folded, entries))
            names = {folded: entry for entry in entries if counts[folded := _folded(entry)] == 1}
            self._folders[folder] = names | {unicodedata.normalize("NFC", entry): entry for entry in entries}
        return self._folders[folder]


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


@dataclass(frozen=True)
class _Reading:
    """Another way to read a written path."""

    path: str
    kind: str
    what: str


def resolve(fields: Fields, files: Files, written: str, place: str, bases: Sequence[str] = ("",)) -> str | None:
    """The path, relative to the dataset's folder, of a file that JSON names; None where it may not be used (noted).

    Taken is, in this order: the path as written, below the first of ``bases`` where there is such a file; with / for
    back-slashes or characters for URL codes (%20), with a warning; in another Unicode form, with a warning; in
    another case of letters, or (from outside of the folder) by its last name alone: these two are noted as faults that
    ``data fix`` mends. A file that is found nowhere is taken to lie below the first base; the check reports it.

    Args:
        bases: folders that the path may be relative to, each "" or ending in "/".
    """
    reason = leaves_folder(files.root, written)
    if reason is None and (found := _below(files, written, bases)):
        return found
    for other in _readings(written):
        if leaves_folder(files.root, other.path) is None and (found := _below(files, other.path, bases)):
            fields.warn(place, f"path {shown(written)} {other.what}: read as {found}", other.kind)
            return found
    path = written.replace("\\", "/")
    inner = leaves_folder(files.root, path)
    for base in bases if inner is None else ():
        if found := files.like(f"{base}{path}"):
            return _in_another_form(fields, written, found, f"{base}{path}", place)
    outside = inner is None or "is absolute" in inner or "(..)" in inner
    if outside and (found := _by_name(fields, files, written, bases)):
        return _from_elsewhere(fields, written, found, inner or "is not there", place)
    if reason is not None:
        fields.note(place, f"path {shown(written)} {reason}", "path")
        return None
    return f"{bases[0]}{written}"


def _readings(written: str) -> list[_Reading]:
    slashes, text = written.replace("\\", "/"), unquote(written)
    readings = []
    if slashes != written:
        readings.append(_Reading(slashes, "back-slash", "is written with back-slashes"))
    if text != written:
        readings.append(_Reading(text, "url-code", "is written with URL codes"))
        if "\\" in text:
            readings.append(_Reading(text.replace("\\", "/"), "url-code", "is written with URL codes"))
    return readings


def _below(files: Files, path: str, bases: Sequence[str]) -> str | None:
    return next((f"{base}{path}" for base in bases if files.is_file(f"{base}{path}")), None)


def _in_another_form(fields: Fields, written: str, found: str, path: str, place: str) -> str | None:
    if unicodedata.normalize("NFC", found) == unicodedata.normalize("NFC", path):
        fields.warn(place, f"path {shown(written)} is the file {shown(found)} in another Unicode form", "unicode-form")
        return found
    what = f"path {shown(written)} is not there; {shown(found)} differs in the case of its letters only"
    return found if fields.mendable(place, f"{what}; rename one", "letter-case", f"taken for {shown(found)}") else None


def _by_name(fields: Fields, files: Files, written: str, bases: Sequence[str]) -> str | None:
    """The file of the same last name in ``reading.root`` if that is given, else below the bases or ``images/``."""
    name, given = unquote(PureWindowsPath(written).name), fields.reading.root
    if not name or leaves_folder(files.root, name) is not None:
        return None
    if given is None:
        return _below(files, name, [*bases, "images/"])
    folder = "" if given == Path(".") else f"{given.as_posix()}/"
    return _below(files, name, [folder]) if leaves_folder(files.root, f"{folder}{name}") is None else None


def _from_elsewhere(fields: Fields, written: str, found: str, reason: str, place: str) -> str | None:
    folder = found.rpartition("/")[0] or "."
    what = f"path {shown(written)} {reason.partition(';')[0]}, but {shown(found)} has its name; write that"
    mended = fields.mendable(
        place, what, "path-elsewhere", f"taken for {shown(found)}", f"--root {shlex.quote(folder)}"
    )
    return found if mended else None
