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
2. Masks that say "object or not" in any way (0 and 1, 0 and 255, 0 and 128, with grey edges; ``conventions``), all of them,
   where at most one category besides background is named: category ids. Where all are white, they are read; in other
   ways or in several, ``maskwright.data.check`` refuses them and names the command that mends them.
3. Masks of 16 bits hold instance ids, and a warning says so.
4. With ``categories``, masks of 8 bits hold category ids.
5. Values 0, 1 and 255: category ids, where 1 is ``object`` and 255 is ignore.
6. Background and 1..n without a gap in every mask, n differing between masks: instance ids of the category ``object``.
7. Anything else is refused, as nobody can know; the message says what to add.

A mask that cannot be read has no say in this; ``maskwright.data.check`` reports it.

Masks that hold nothing but 0 and white (255, or 65535 in 16 bits) are the common "white is the object" and are read as
such: copies with 1 for white are kept in a cache. Where ``ignore`` (or the kind ``instance``) is given, that holds instead.

Folders and files that are called a little differently (``labels/``, ``a_mask.png``, ``a.PNG``) are noticed, and refused
with the command that mends them; names that differ in their Unicode form alone are the same name.
"""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maskwright.data.conventions import WHITES, convention_of
from maskwright.data.fields import Fields, category_problems, names_a_file, read_json, shown
from maskwright.data.files import write_atomic
from maskwright.data.formats.contents import mask_kinds, weak_labels
from maskwright.data.image_files import IMAGE_SUFFIXES
from maskwright.data.labels import IGNORE, Labels, Mask, MaskKind, Sample, Samples
from maskwright.data.lookahead import ahead
from maskwright.data.manifest import copy_files
from maskwright.data.mask_files import cached_mask, count_values, mask_bits, read_mask, write_mask
from maskwright.data.masks import semantic_of
from maskwright.data.reading import STRICT, Reading
from maskwright.errors import DataError
from maskwright.problems import as_problem

LAYOUT = "a folder with images/ and masks/ (PNG or TIFF of the same stem), also with splits.json, or train/, val/, test/ of these"
SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "test": "test"}
IMAGE_FOLDERS = ("image", "imgs", "img")
"""Other names of ``images/``, where masks lie beside it."""
MASK_FOLDERS = ("mask", "labels", "label", "annotations", "annotation", "segmentations", "gt", "groundtruth")
"""Other names of ``masks/``."""
_OF_A_MASK = re.compile(
    r"[-_. ]?(masks?|segmentation|seg|labels?|labelids|gt|groundtruth)$|^(masks?|segmentation|seg|labels?|gt)[-_. ]",
    re.IGNORECASE,
)
_SETTINGS = {"categories": list, "kind": str, "instances": dict, "ignore": int}


def detect(path: Path, document: Any) -> bool:
    """Whether a folder has this layout, or the parsed JSON of a file is a ``splits.json`` of it."""
    if path.is_dir():
        beside = (path, *(path / name for name in SPLIT_FOLDERS))
        if (path / "splits.json").is_file() or any((folder / "images").is_dir() for folder in beside):
            return True
        return bool(_other_folder(path, IMAGE_FOLDERS) and _other_folder(path, ("masks", *MASK_FOLDERS)))
    return _is_splits(document) and (path.parent / "images").is_dir()


def _other_folder(folder: Path, names: Sequence[str]) -> str:
    """The first of these names that a folder has, with images in it; empty if there is none."""
    for name in names:
        if (folder / name).is_dir() and any(
            Path(entry.name).suffix.lower() in IMAGE_SUFFIXES for entry in os.scandir(folder / name)
        ):
            return name
    return ""


def has_labels(path: Path) -> bool:
    """Whether a folder of this layout holds masks, or a ``splits.json``."""
    beside = (path, *(path / name for name in SPLIT_FOLDERS))
    if (path / "splits.json").is_file():
        return True
    return any((folder / "masks").is_dir() or _other_folder(folder, MASK_FOLDERS) for folder in beside)


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
    parse = _Parse(root, reading, path)
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
    source = str(file if file.is_file() else root)
    return Samples(root, categories, tuple(samples), source, "folders images/ and masks/", tuple(parse.warnings))


@dataclass(frozen=True)
class _Look:
    """The values of a mask; none where it cannot be read. And whether they say "object or not", and nothing else."""

    values: set[int]
    two_levels: bool


@dataclass(frozen=True)
class _Found:
    stem: str
    id: str
    image: str
    mask: str | None
    split: str


class _Parse(Fields):
    def __init__(self, root: Path, reading: Reading, data: Path) -> None:
        super().__init__(reading, data)
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
        flat = (self.root / "images").is_dir() or not any((self.root / s / "images").is_dir() for s in SPLIT_FOLDERS)
        folders = {"train": ""} if flat else {}
        for name, split in SPLIT_FOLDERS.items():
            if not flat and (self.root / name / "images").is_dir():
                if split in folders:
                    self.note(name, f"is the split {split!r} as well as {folders[split]}; keep one folder")
                folders[split] = f"{name}/"
        if lists and not flat:
            self.note("images", f"the lists need one folder {self.root / 'images'}; put all images into it")
        images = {split: self.folder(self.called(folder, "images", IMAGE_FOLDERS)) for split, folder in folders.items()}
        masks = {split: self.folder(self.called(folder, "masks", MASK_FOLDERS)) for split, folder in folders.items()}
        for split, folder in folders.items():
            masks[split] = self.paired(images[split], masks[split], f"{folder}images")
        if lists and flat:
            lists = self.named(lists, images["train"])
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

    def called(self, base: str, name: str, others: Sequence[str]) -> str:
        """The folder of images or masks: the name that it should have, or another where that is to be mended."""
        if (self.root / base / name).is_dir() or not (other := _other_folder(self.root / base, others)):
            return f"{base}{name}"
        what = f"there is no {base}{name}/, but {base}{other}/ holds images; rename it to {name}"
        mended = self.mendable(f"{base}{other}", what, f"{name}-folder", f"taken for {base}{name}/")
        return f"{base}{other}" if mended else f"{base}{name}"

    def folder(self, name: str) -> dict[str, str]:
        """Stem → path of the files in a folder; files of other kinds are noted."""
        files: dict[str, str] = {}
        if not (self.root / name).is_dir():
            return files
        for entry in sorted(os.scandir(self.root / name), key=lambda entry: entry.name):
            stem, suffix = os.path.splitext(entry.name)
            path = f"{name}/{entry.name}"
            if entry.name.startswith(".") or entry.name in ("Thumbs.db", "desktop.ini"):
                continue
            if entry.is_dir():
                self.note(path, "folders in here are not read; move its files up", "folder")
            elif not entry.is_file():
                self.note(path, "is no regular file; remove it", "file")
            elif suffix.lower() not in IMAGE_SUFFIXES:
                known = "/".join(sorted(IMAGE_SUFFIXES))
                self.note(path, f"is no {known} file; convert it (masks without loss) or remove it", "file")
            elif stem in files:
                self.note(path, f"has the same stem as {files[stem]}; rename one", "stem")
            else:
                files[stem] = path
        return files

    def paired(self, images: dict[str, str], masks: dict[str, str], folder: str) -> dict[str, str]:
        """Stem of an image → path of its mask. Masks without an image are noted, unless their name is nearly an image's."""
        pairs = {stem: path for stem, path in masks.items() if stem in images}
        composed, folded = _by_form(images, _composed), _by_form(images, _folded)
        for stem, path in masks.items():
            if stem in images:
                continue
            missing = f"there is no image {folder}/{shown(stem)[1:-1]}.*"
            if (image := composed.get(_composed(stem))) and image not in pairs:
                self.warn(
                    path, f"has the name of {images[image]} in another Unicode form: taken for its mask", "unicode-form"
                )
            elif (image := folded.get(_folded(stem))) and image not in pairs:
                what = f"{missing}; {images[image]} differs in the case of its letters only: rename one"
                if not self.mendable(path, what, "letter-case", f"taken for the mask of {images[image]}"):
                    continue
            elif (image := composed.get(_composed(_OF_A_MASK.sub("", stem)))) and image not in pairs:
                what = f"{missing}; if it is the mask of {images[image]}, call it {image}{Path(path).suffix}"
                if not self.mendable(path, what, "mask-suffix", f"taken for the mask of {images[image]}"):
                    continue
            else:
                self.note(path, f"{missing}; add it or remove the mask", "mask-without-image")
                continue
            pairs[image] = path
        return pairs

    def named(self, lists: dict[str, str], images: dict[str, str]) -> dict[str, str]:
        """The split of each image's stem, of those that the lists name; names that are none are noted."""
        composed = _by_form(images, _composed)
        splits: dict[str, str] = {}
        for name, split in lists.items():
            stem, suffix = os.path.splitext(name)
            if (other := name if name in images else composed.get(_composed(name))) is not None:
                splits[other] = split
            elif suffix.lower() in IMAGE_SUFFIXES and (other := composed.get(_composed(stem))) is not None:
                what = f"{shown(name)} has the suffix of a file; write {shown(other)}, not {shown(name)}"
                if self.mendable(split, what, "stem-with-suffix", f"taken for {shown(other)}"):
                    splits[other] = split
            else:
                image = self.root / "images" / name
                self.note(split, f"there is no image {image}.*; add it or remove it from the list", "missing-image")
        return splits

    def meaning(self, settings: dict[str, Any], masks: list[str]) -> tuple[tuple[str, ...], MaskKind, bool]:
        """Categories, kind of the masks, and whether 255 is the object, decided as the module's docstring says."""
        names = tuple(settings.get("categories", ()))
        default = names or ("background", "object")
        kind = settings.get("kind")
        if kind == "instance" or not masks:
            return default, kind or "semantic", False
        deep = kind is None and 16 in ahead(self.bits, masks)
        if len(names) > 2:
            if deep and "instances" not in settings:
                problem = "the masks have 16 bits and there are several categories"
                self.note("kind", f'{problem}; add "kind": "semantic", or "instance" and "instances"')
            return default, "instance" if deep else "semantic", False
        looks = [look for look in ahead(self.look, masks) if look.values]
        union = set[int]().union(*(look.values for look in looks))
        marks = union - {0}
        if "ignore" not in settings and all(look.two_levels for look in looks) and not marks <= {1}:
            single = marks in ({IGNORE}, {65535})
            if single and deep:
                self.warn(
                    "masks", f"have 16 bits and hold 0 and {max(marks)} alone: white is read as the object", "16-bit"
                )
            # As they are where they are to be mended; and where there are several ways, for the check to name them.
            if single or not deep or len(marks) > 1:
                return default, "semantic", single and not self.reading.mend
        if deep:
            remedy = 'if they hold categories, add "kind": "semantic" to splits.json'
            self.warn("masks", f"have 16 bits: each value is read as one object; {remedy}", "16-bit")
            return default, "instance", False
        if names or kind or union <= {0, 1, IGNORE}:
            if not names and not union <= {0, 1, IGNORE}:
                self.note("categories", f"the masks hold the values {_some(union)}; name them, the first is background")
            return default, "semantic", False
        instances = [look.values - {0} for look in looks]
        counted = all(0 in look.values for look in looks) and all(max(v, default=0) == len(v) for v in instances)
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

    def look(self, path: str) -> _Look:
        try:
            values = read_mask(self.root / path)
        except DataError:
            self.unreadable.add(path)
            return _Look(set(), False)
        present = set(np.flatnonzero(count_values(values)).tolist())
        marks = present - {0}
        if len(marks) < 4:  # Too few for grey edges.
            return _Look(present, not marks or (len(marks) == 1 and marks <= {1, *WHITES}))
        return _Look(present, convention_of(values).two_levels)

    def sample(
        self, item: _Found, categories: tuple[str, ...], kind: MaskKind, white: bool, instances: dict[str, Any]
    ) -> Sample:
        if item.mask is None:
            return Sample(item.id, item.image, item.split)
        path = item.mask
        if white and path not in self.unreadable:
            file = self.root / path
            path = cached_mask(self.root, item.id, file.read_bytes(), lambda: (read_mask(file) > 0).astype(np.uint8))
        named: dict[int, int] = {}
        for key, name in self.fields(instances, "instances", {item.stem: dict}, extra=True).get(item.stem, {}).items():
            if not (key.isascii() and key.isdigit() and len(key) <= 5) or name not in categories:
                self.note(
                    f"instances.{item.stem}",
                    f"{shown(key)}: {shown(name)} is no instance id with a known category; correct it",
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


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _folded(name: str) -> str:
    return _composed(_composed(name).casefold())


def _by_form(names: Collection[str], form: Callable[[str], str]) -> dict[str, str]:
    """Names by one of their forms, without those that share theirs with another."""
    counts = Counter(map(form, names))
    return {form(name): name for name in names if counts[form(name)] == 1}


def _all_are(values: Any, kind: type) -> bool:
    return isinstance(values, list) and all(isinstance(value, kind) for value in values)


def _some(values: set[int]) -> str:
    return ", ".join(map(str, sorted(values)[:8])) + (", ..." if len(values) > 8 else "")
