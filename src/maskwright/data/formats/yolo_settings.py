"""What ``data.yaml`` of YOLO says, or the folders where there is none: classes, and which images are of which split."""

from __future__ import annotations

import os
import posixpath
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from maskwright.data.fields import Fields, is_name, leaves_folder, shown
from maskwright.data.formats.splits import split_of
from maskwright.data.image_files import IMAGE_SUFFIXES
from maskwright.data.labels import IGNORE
from maskwright.data.paths import Files, resolve
from maskwright.data.reading import Reading

SPLITS = {"train": "train", "val": "val", "valid": "val", "test": "test"}
"""Names of folders and keys, and the splits that they mean."""

_MOST_CLASSES = IGNORE - 1  # Ids of semantic masks, background beside them, are 8 bits, and 255 is ignore.


@dataclass(frozen=True)
class Named:
    """An image that a description names, or a folder holds."""

    place: str
    path: str
    split: str


class Settings(Fields, ABC):
    """Attributes:
    root: the dataset's folder.
    keypoints: numbers of key-points after each box.
    """

    def __init__(self, root: Path, reading: Reading, data: Path) -> None:
        super().__init__(reading, data)
        self.root, self.files = root, Files(root)
        self.keypoints = 0
        self._names: list[str] | None = None
        self._highest = -1
        self._left_out: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    @abstractmethod
    def text(self, file: str) -> str | None:
        """The content of a text file, or None where it cannot be read (noted)."""

    def leave_out(self, what: str, place: str) -> None:
        self._left_out[what] += 1
        self._first.setdefault(what, place)

    def tell(self) -> None:
        """Warn of all that was left out, and of classes that nobody named."""
        for what, count in self._left_out.items():
            self.warn("", f"{count} {what} are left out, such as {self._first[what]}", "left-out")
        if self._names is None:
            what = "no data.yaml and no classes.txt: classes are called by their number"
            self.warn("", f"{what}; write their names into classes.txt, one in a line", "no-names")

    # ------------------------------------------------------------------------------------------------------ classes

    def categories(self) -> tuple[str, ...]:
        names = self._names
        if names is None:
            names = [f"class_{number}" for number in range(self._highest + 1)]
        return ("background", *(name for name in names if name != "background"))

    def category(self, number: int, place: str) -> int | None:
        """The id of a class, or None where it has none (noted) or is called background."""
        if self._names is None:
            if number >= _MOST_CLASSES:
                self.note(place, f"class {number} is more than the {_MOST_CLASSES} that are read; correct it", "class")
                return None
            self._highest = max(self._highest, number)
            return number + 1
        if number >= len(self._names):
            known = f"0 to {len(self._names) - 1}" if self._names else "none"
            self.note(place, f"class {number} has no name; known are {known}; correct it or name it", "class")
            return None
        if self._names[number] == "background":
            self.leave_out("rows of the class background", place)
            return None
        before = "background" in self._names[:number]
        return number + (0 if before else 1)

    def _take_names(self, names: list[Any], place: str) -> None:
        for number, name in enumerate(names):
            if not is_name(name):
                self.note(f"{place}[{number}]", f"{shown(name)} is no category's name; write a text on one line")
            elif name in names[:number]:
                self.note(f"{place}[{number}]", f"{shown(name)} is there twice; rename one")
        if len(names) > _MOST_CLASSES:
            self.note(place, f"more than the {_MOST_CLASSES} classes that are read; leave out those without a row")
        self._names = names

    # ---------------------------------------------------------------------------------------------------- data.yaml

    def described(self, file: str, document: Any) -> list[Named]:
        """The images that a ``data.yaml`` names, each once."""
        if not isinstance(document, dict):
            self.note(file, f"must be an object with names and train, found {shown(document)}; correct it")
            return []
        names = document.get("names")
        if isinstance(names, dict):
            expected = [str(number) for number in range(len(names))]
            if sorted(names) != sorted(expected):
                self.note(f"{file}: names", f"must be numbered 0 to {len(names) - 1} without a gap; correct it")
                names = []
            else:
                names = [names[key] for key in expected]
        if not isinstance(names, list):
            self.note(f"{file}: names", f"must be a list, or an object by number, found {shown(names)}; correct it")
            names = []
        self._take_names(names, f"{file}: names")
        if "nc" in document and document["nc"] != str(len(names)):
            self.note(f"{file}: nc", f"is {shown(document['nc'])}, but there are {len(names)} names; correct one")
        self._read_keypoints(file, document.get("kpt_shape"))
        return self._images(file, self._base(file, document.get("path", "")), document)

    def _read_keypoints(self, file: str, shape: Any) -> None:
        if shape is None:
            return
        if not (
            isinstance(shape, list) and len(shape) == 2 and all(isinstance(v, str) and v.isdecimal() for v in shape)
        ):
            self.note(f"{file}: kpt_shape", f"must be two whole numbers, found {shown(shape)}; correct it")
        elif len(shape[0]) < 5 and shape[1] in ("2", "3"):
            self.keypoints = int(shape[0]) * int(shape[1])
        else:
            self.note(f"{file}: kpt_shape", f"{shown(shape)} are no key-points of 2 or 3 numbers; correct it")

    def _base(self, file: str, path: Any) -> str:
        """The folder that paths are relative to: ``path`` where that is a folder here, else the file's own."""
        if not isinstance(path, str):
            self.note(f"{file}: path", f"must be a text, found {shown(path)}; correct or remove it")
            return ""
        inner = posixpath.normpath(path.replace("\\", "/")) if path else "."
        if inner == "." or leaves_folder(self.root, inner) is not None or not (self.root / inner).is_dir():
            return ""  # Most often the place of the dataset on another machine, or below a folder of all datasets.
        return f"{inner}/"

    def _images(self, file: str, base: str, document: dict[str, Any]) -> list[Named]:
        found: dict[str, Named] = {}
        missing: list[tuple[str, str]] = []
        for key, split in SPLITS.items():
            entries = document.get(key, "")
            for entry in entries if isinstance(entries, list) else [entries]:
                if not isinstance(entry, str):
                    self.note(f"{file}: {key}", f"must be a path or a list of paths, found {shown(entry)}; correct it")
                elif entry:
                    paths = self._named_by(base, entry, f"{file}: {key}")
                    if paths is None:
                        missing.append((key, entry))
                    for path in paths or ():
                        before = found.setdefault(path, Named(f"{file}: {key}", path, split))
                        if before.split != split:
                            self.leave_out(f"images that {key} names are in {before.split} too; of {key} they", path)
        for key, entry in missing:
            what = f"{shown(entry)} is not there"
            if found:
                self.warn(f"{file}: {key}", f"{what}: left out", "missing-split")
            else:
                self.note(f"{file}: {key}", f"{what}; correct the path", "path")
        if not found and not missing and not self.problems:
            self.note(file, "names no image; write train: with the folder of images")
        self._tell_unnamed(base, set(found))
        return list(found.values())

    def _tell_unnamed(self, base: str, named: set[str]) -> None:
        for path in self.below(f"{base}images", IMAGE_SUFFIXES):
            if path not in named:
                self.leave_out("images in no split", path)

    def _named_by(self, base: str, entry: str, place: str) -> list[str] | None:
        """The images that an entry means: those of a folder, of a list in a text file, or one; None where it is not there."""
        for path in _spellings(base, entry):
            if leaves_folder(self.root, path) is not None:
                continue
            if (self.root / path).is_dir():
                return self.below(path, IMAGE_SUFFIXES)
            if self.files.is_file(path):
                if PurePosixPath(path).suffix.lower() == ".txt":
                    return self._listed(base, path)
                return [path] if PurePosixPath(path).suffix.lower() in IMAGE_SUFFIXES else None
        return None

    def _listed(self, base: str, file: str) -> list[str]:
        beside = file.rpartition("/")[0]
        paths = []
        for number, line in enumerate((self.text(file) or "").splitlines(), 1):
            if not (written := line.strip()):
                continue
            bases = list(dict.fromkeys([base, f"{beside}/" if beside else ""]))
            shorter = written.partition("/")[2]  # CVAT puts data/ before all paths.
            known = next((b for b in bases if shorter and self.files.is_file(f"{b}{shorter}")), None)
            if known is not None and not any(self.files.is_file(f"{b}{written}") for b in bases):
                written = shorter
            place = f"{file}: line {number}"
            path = resolve(self, self.files, written.removeprefix("./"), place, bases)
            if path is not None:
                paths.append(path)
        return paths

    # ------------------------------------------------------------------------------------------------- without yaml

    def found(self, names: str | None) -> list[Named]:
        """The images of the folders, where there is no ``data.yaml``; names of classes from a text file."""
        if names is not None:
            lines = (self.text(names) or "").splitlines()
            while lines and not lines[-1].strip():
                lines.pop()
            self._take_names([line.strip() for line in lines], names)
        images = []
        for path in self.below("", IMAGE_SUFFIXES):
            parts = path.split("/")[:-1]
            folder = next((part for part in parts if part in SPLITS), "train")
            if "images" in parts:
                images.append(Named(path, path, split_of(folder)))
            else:
                self.leave_out("images that are not below images/", path)
        if not images:
            self.note("images", "there is no image below images/; add them")
        return images

    def below(self, folder: str, suffixes: Any) -> list[str]:
        """Paths of files with a suffix below a folder of the dataset, sorted; names that start with a dot are passed over."""
        found = []
        for parent, folders, files in os.walk(self.root / folder):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            base = Path(parent).relative_to(self.root)
            found += [
                (base / name).as_posix()
                for name in files
                if Path(name).suffix.lower() in suffixes and not name.startswith(".")
            ]
        return [path for path in sorted(found) if leaves_folder(self.root, path) is None]


def _spellings(base: str, entry: str) -> list[str]:
    """Paths that an entry may mean: as written, and without a way out of the folder, which Roboflow begins with."""
    path = posixpath.normpath(f"{base}{entry}".replace("\\", "/"))
    inner = entry.replace("\\", "/")
    while inner.startswith("../"):
        inner = inner[3:]
    shorter = inner.strip("/").partition("/")[2]
    return list(dict.fromkeys([path, posixpath.normpath(f"{base}{inner}"), *([f"{base}{shorter}"] if shorter else [])]))
