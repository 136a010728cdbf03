"""Folders ``images/`` and ``masks/``: each image has the mask PNG of the same stem, or none and is unlabelled.

Splits: ``splits.json`` beside the folders, with one list of stems per split (images that no list names are left out);
or folders ``train/``, ``val/`` (or ``valid/``), ``test/`` that each hold ``images/`` and ``masks/``; or none, then all
is ``train``.

``splits.json`` may also hold

- ``categories``: names, the first ``background`` (or ``categories.json``, the list alone),
- ``kind``: ``semantic`` or ``instance``, of all masks,
- ``instances``: stem → {instance id: category name} for instances of another category than the first,
- ``ignore``: 255, the only value that means ignore here,
- anything whose lists lie deeper, such as ``labelled`` or ``shots`` → {name: list of stems}: subsets for studies that
  are not read here.

What the pixel values mean is decided in this order:

1. ``kind``, if given.
2. 16-bit PNGs hold instance ids.
3. With ``categories``, 8-bit PNGs hold category ids.
4. Values 0, 1 and 255: category ids, where 1 is ``object`` and 255 is ignore.
5. Background and 1..n without a gap in every mask, n differing between masks: instance ids of the category ``object``.
6. Anything else is refused, as nobody can know; the message says what to add.

A mask that cannot be read has no say in this; ``maskwright.data.check`` reports it.

Masks that hold nothing but 0 and 255, all of them, where at most one category besides background is named, are the
common "white is the object" and are read as such: copies with 1 for 255 are kept in ``.maskwright/masks`` of the
folder. Where ``ignore`` (or the kind ``instance``) is given, that holds instead.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maskwright.data.fields import Fields, category_problems, names_a_file, read_json
from maskwright.data.formats.contents import mask_kinds, weak_labels
from maskwright.data.images import (
    IMAGE_SUFFIXES,
    cached_mask,
    count_values,
    mask_bits,
    read_mask,
    write_atomic,
    write_mask,
)
from maskwright.data.labels import IGNORE, Labels, Mask, MaskKind, Sample, Samples
from maskwright.data.lookahead import ahead
from maskwright.data.manifest import copy_files
from maskwright.data.masks import semantic_of
from maskwright.data.reading import STRICT, Reading
from maskwright.errors import DataError
from maskwright.problems import as_problem

LAYOUT = (
    "a folder with images/ and masks/ (PNG of the same stem), also with splits.json, or train/, val/, test/ of these"
)
SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "test": "test"}
_SETTINGS = {"categories": list, "kind": str, "instances": dict, "ignore": int}


def detect(path: Path, document: Any) -> bool:
    """Whether a folder has this layout, or the parsed JSON of a file is a ``splits.json`` of it."""
    if path.is_dir():
        beside = (path, *(path / name for name in SPLIT_FOLDERS))
        return (path / "splits.json").is_file() or any((folder / "images").is_dir() for folder in beside)
    return _is_splits(document) and (path.parent / "images").is_dir()


def _is_splits(document: Any) -> bool:
    return isinstance(document, dict) and any(
        key in _SETTINGS or (isinstance(value, list) and all(isinstance(stem, str) for stem in value))
        for key, value in document.items()
    )


def read(path: str | Path, reading: Reading = STRICT) -> Samples:
    """Read ``images/`` and ``masks/``.

    Args:
        path: the folder, or a ``splits*.json`` in it.

    Raises:
        DataError: every structural problem at once: stems without image, masks without image, an image in two splits,
            unknown settings, pixel values whose meaning cannot be known.
    """
    path = Path(path)
    root = path if path.is_dir() else path.parent
    parse = _Parse(root)
    file = root / "splits.json" if path.is_dir() else path
    settings = parse.settings(file)
    files = parse.files(parse.lists(settings))
    if parse.problems:
        raise DataError(parse.problems, str(path))
    categories, kind, white = parse.meaning(settings, [item.mask for item in files if item.mask])
    samples = [parse.sample(item, categories, kind, white, settings.get("instances", {})) for item in files]
    for stem in settings.get("instances", {}).keys() - {item.stem for item in files}:
        parse.note(f"instances.{stem}", "there is no such image; remove it")
    if parse.problems:
        raise DataError(sorted(parse.problems), str(path))
    return Samples(root, categories, tuple(samples), str(file if file.is_file() else root))


@dataclass(frozen=True)
class _Found:
    stem: str
    id: str
    image: str
    mask: str | None
    split: str


class _Parse(Fields):
    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root
        self.unreadable: set[str] = set()

    def settings(self, file: Path) -> dict[str, Any]:
        """``splits.json`` with the types of its known keys checked; what is no setting stays as it is."""
        document = read_json(file) if file.is_file() else {}
        names = self.root / "categories.json"
        if not isinstance(document, dict):
            self.note(file.name, "must be an object of lists; write {...}")
            return {}
        if "categories" not in document and names.is_file():
            document["categories"] = read_json(names)
        valid_fields = self.fields(document, file.name, _SETTINGS, extra=True)
        if valid_fields.get("kind", "semantic") not in ("semantic", "instance"):
            self.note("kind", f"{valid_fields['kind']!r} is unknown; write semantic or instance")
        if valid_fields.get("ignore", IGNORE) != IGNORE:
            self.note("ignore", f"must be {IGNORE}; change the ignored pixels of the masks to {IGNORE}")
        if "categories" in valid_fields:
            self.problems += map(as_problem, category_problems(valid_fields["categories"]))
        return {key: value for key, value in document.items() if key not in _SETTINGS} | valid_fields

    def lists(self, settings: dict[str, Any]) -> dict[str, str]:
        """The split of each stem that a list names, in the order of the lists."""
        splits: dict[str, str] = {}
        for split, stems in settings.items():
            # Lists that lie deeper are subsets for studies.
            if split in _SETTINGS or isinstance(stems, dict) or (stems and _all_are(stems, list)):
                continue
            if not _all_are(stems, str):
                self.note(split, "must be a list of file stems; correct or remove it")
                continue
            for stem in stems:
                if stem in splits:
                    where = f"{splits[stem]!r} too" if splits[stem] != split else "it twice"
                    self.note(split, f"{stem!r} is in {where}; name it once")
                splits[stem] = split
        return splits

    def files(self, lists: dict[str, str]) -> list[_Found]:
        """Images and their masks."""
        flat = (self.root / "images").is_dir()
        folders = {"train": ""} if flat else {}
        for name, split in SPLIT_FOLDERS.items():
            if not flat and (self.root / name / "images").is_dir():
                if split in folders:
                    self.note(name, f"is the split {split!r} as well as {folders[split]}; keep one folder")
                folders[split] = f"{name}/"
        if lists and not flat:
            self.note("images", f"the lists need one folder {self.root / 'images'}; put all images into it")
        images = {split: self.folder(f"{folder}images", IMAGE_SUFFIXES) for split, folder in folders.items()}
        masks = {split: self.folder(f"{folder}masks", {".png"}) for split, folder in folders.items()}
        for split, folder in folders.items():
            for stem in masks[split].keys() - images[split].keys():
                self.note(masks[split][stem], f"there is no image {folder}images/{stem}.*; add it or remove the mask")
        if lists and flat:
            for stem in lists.keys() - images["train"].keys():
                image = self.root / "images" / stem
                self.note(lists[stem], f"there is no image {image}.*; add it or remove it from the list")
            stems = [(split, stem, "train") for stem, split in lists.items() if stem in images["train"]]
        else:
            stems = [(split, stem, split) for split in folders for stem in sorted(images[split])]
        unique = len({stem for _, stem, _ in stems}) == len(stems)
        entries = []
        for split, stem, at in stems:
            id = stem if unique else f"{split}_{stem}"
            if not names_a_file(id):
                self.note(images[at][stem], "this name cannot be an id; use printable text of at most 200 bytes")
            entries.append(_Found(stem, id, images[at][stem], masks[at].get(stem), split))
        self.problems.sort()
        return entries

    def folder(self, name: str, suffixes: Collection[str]) -> dict[str, str]:
        """Stem → path of the files in a folder; files of other kinds are noted."""
        files: dict[str, str] = {}
        if not (self.root / name).is_dir():
            return files
        for entry in os.scandir(self.root / name):
            stem, suffix = os.path.splitext(entry.name)
            path = f"{name}/{entry.name}"
            if entry.name.startswith(".") or entry.name in ("Thumbs.db", "desktop.ini"):
                continue
            if entry.is_dir():
                self.note(path, "folders in here are not read; move its files up")
            elif suffix.lower() not in suffixes:
                self.note(
                    path, f"is no {'/'.join(sorted(suffixes))} file; convert it (masks without loss) or remove it"
                )
            elif stem in files:
                self.note(path, f"has the same stem as {files[stem]}; rename one")
            else:
                files[stem] = path
        return files

    def meaning(self, settings: dict[str, Any], masks: list[str]) -> tuple[tuple[str, ...], MaskKind, bool]:
        """Categories, kind of the masks, and whether 255 is the object, decided as the module's docstring says."""
        names = tuple(settings.get("categories", ()))
        default = names or ("background", "object")
        kind = settings.get("kind")
        if kind == "instance" or not masks:
            return default, kind or "semantic", False
        if kind is None and 16 in ahead(self.bits, masks):
            if len(names) > 2 and "instances" not in settings:
                problem = "the masks have 16 bits and there are several categories"
                self.note("kind", f'{problem}; add "kind": "semantic", or "instance" and "instances"')
            return default, "instance", False
        if len(names) > 2:
            return default, "semantic", False
        values = [value for value in ahead(self.values, masks) if value]
        union = set().union(*values)
        if "ignore" not in settings and union in ({0, IGNORE}, {IGNORE}):
            return default, "semantic", True
        if names or kind or union <= {0, 1, IGNORE}:
            if not names and not union <= {0, 1, IGNORE}:
                self.note("categories", f"the masks hold the values {_some(union)}; name them, the first is background")
            return default, "semantic", False
        instances = [value - {0} for value in values]
        counted = all(0 in value for value in values) and all(max(v, default=0) == len(v) for v in instances)
        if counted and len({len(v) for v in instances}) > 1:
            return default, "instance", False
        what = f"the masks hold the values {_some(union)}, which may be categories or instances"
        remedy = 'add "categories": ["background", ...] or "kind": "instance" to splits.json'
        self.note("masks", f"{what}; {remedy} in {self.root}")
        return default, "semantic", False

    def bits(self, path: str) -> int:
        try:
            return mask_bits(self.root / path)
        except DataError:
            self.unreadable.add(path)
            return 0

    def values(self, path: str) -> set[int]:
        try:
            return set(np.flatnonzero(count_values(read_mask(self.root / path))).tolist())
        except DataError:
            self.unreadable.add(path)
            return set()

    def sample(
        self, item: _Found, categories: tuple[str, ...], kind: MaskKind, white: bool, instances: dict[str, Any]
    ) -> Sample:
        if item.mask is None:
            return Sample(item.id, item.image, item.split)
        path = item.mask
        if white and path not in self.unreadable:
            file = self.root / path
            path = cached_mask(
                self.root, item.id, file.read_bytes(), lambda: (read_mask(file) == IGNORE).astype(np.uint8)
            )
        named: dict[int, int] = {}
        for key, name in self.fields(instances, "instances", {item.stem: dict}, extra=True).get(item.stem, {}).items():
            if not (key.isascii() and key.isdigit()) or name not in categories:
                self.note(
                    f"instances.{item.stem}", f"{key!r}: {name!r} is no instance id with a known category; correct it"
                )
            else:
                named[int(key)] = categories.index(name)
        if named and kind == "semantic":
            self.note(f"instances.{item.stem}", "the masks are semantic; remove it, or set kind to instance")
        return Sample(item.id, item.image, item.split, Labels(Mask(path, kind, named)))


def loss(dataset: Samples) -> list[str]:
    """What of a dataset this layout cannot hold, one line each."""
    lost = weak_labels(dataset, ("boxes", "scribbles", "points", "tags"))
    if len(kinds := mask_kinds(dataset)) > 1:
        lost.append(
            f"{kinds['instance']} instance masks beside {kinds['semantic']} semantic ones (they become semantic)"
        )
    return lost


def write(dataset: Samples, folder: str | Path) -> Path:
    """Write ``images/``, ``masks/`` and ``splits.json`` into a new folder; what :func:`loss` names is left out.

    Masks are bit-exact copies (or hard links), except instance masks beside semantic ones, which become semantic.

    Returns:
        The folder.

    Raises:
        DataError: the folder is not empty, a file is missing, or a split has the name of a setting.
    """
    folder = Path(folder)
    if conflicts := sorted({sample.split for sample in dataset} & _SETTINGS.keys()):
        raise DataError([f"split {conflicts[0]!r} has the name of a setting in splits.json; rename the split"])
    copied = copy_files(dataset, folder)
    kinds = mask_kinds(dataset)
    document: dict[str, Any] = {"categories": list(dataset.categories), "ignore": IGNORE}
    document["kind"] = "instance" if set(kinds) == {"instance"} else "semantic"
    for sample in copied:
        document.setdefault(sample.split, []).append(sample.id)
        mask = sample.labels.mask
        if mask and mask.kind != document["kind"]:
            write_mask(folder / mask.path, semantic_of(read_mask(folder / mask.path), mask))
        elif mask and mask.categories:
            named = {str(id): dataset.categories[category] for id, category in mask.categories.items()}
            document.setdefault("instances", {})[sample.id] = named
    write_atomic(folder / "splits.json", json.dumps(document, ensure_ascii=False, indent=1) + "\n")
    return folder


def _all_are(values: Any, kind: type) -> bool:
    return isinstance(values, list) and all(isinstance(value, kind) for value in values)


def _some(values: set[int]) -> str:
    return ", ".join(map(str, sorted(values)[:8])) + (", ..." if len(values) > 8 else "")
