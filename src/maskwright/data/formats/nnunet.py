"""nnU-Net v2: a folder ``DatasetXXX_Name`` of 2D images, with ``dataset.json``, ``imagesTr/``, ``labelsTr/`` and ``imagesTs/``.

Images are ``<case>_0000.<ending>``, labels ``<case>.<ending>`` with category ids; PNG and TIFF are read. ``labels`` of
``dataset.json`` gives the categories; one called ``ignore`` becomes 255. Labels whose ids are not 0, 1, 2, ... are
renumbered in copies in a cache. ``imagesTr`` is the split ``train``, but for what ``splits_final.json`` (its first fold)
beside ``dataset.json`` says; ``imagesTs`` is ``test``, with its labels where there is ``labelsTs/``.

A case of several files (``_0001``, ``_0002``, one for each grey channel) is refused, as an image here is one file; so are
regions (labels that are lists), which overlap, and volumes (``.nii.gz`` and others).
"""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from maskwright.data.fields import Fields, is_name, leaves_folder, names_a_file, read_json, shown
from maskwright.data.formats.nnunet_writer import NAME, SPLITS, loss, write
from maskwright.data.labels import IGNORE, Labels, Mask, Sample, Samples
from maskwright.data.lookahead import ahead
from maskwright.data.mask_files import cached_mask, read_mask
from maskwright.data.reading import STRICT, Reading
from maskwright.errors import DataError
from maskwright.problems import Problem

__all__ = ["LAYOUT", "detect", "loss", "read", "write"]

LAYOUT = "nnU-Net v2: a folder with dataset.json, imagesTr/ and labelsTr/ of 2D images (PNG or TIFF)"
ENDINGS = (".png", ".tif", ".tiff", ".bmp")
_CASE = re.compile(r"(.+)_(\d{4})")
_MOST_LABELS = 254


def detect(path: Path, document: Any) -> bool:
    """Whether a folder has this layout, or the parsed JSON of a file is its ``dataset.json``."""
    if path.is_dir():
        return (path / "imagesTr").is_dir() and (path / NAME).is_file()
    return isinstance(document, dict) and {"channel_names", "labels", "file_ending"} <= document.keys()


def read(path: str | Path, reading: Reading = STRICT) -> Samples:
    """Read an nnU-Net folder, or the one of a ``dataset.json`` (see the module's docstring).

    Raises:
        DataError: every structural problem at once: settings, cases of several files, labels without image, ...
    """
    path = Path(path)
    root = path if path.is_dir() else path.parent
    parse = _Parse(root, reading, path)
    settings = parse.settings(read_json(root / NAME))
    samples = parse.samples(settings) if not parse.problems else ()
    if parse.problems:
        raise DataError(parse.problems, str(path))
    return Samples(root, tuple(parse.names), samples, str(path), "nnU-Net", tuple(parse.warnings))


class _Parse(Fields):
    def __init__(self, root: Path, reading: Reading, data: Path) -> None:
        super().__init__(reading, data)
        self.root = root
        self.names: list[str] = ["background"]
        self.table: dict[int, int] = {0: 0}
        """Values of the files → category ids."""

    def settings(self, document: Any) -> str:
        """Take the categories; the ending of files."""
        types = {"labels": dict, "file_ending": str, "channel_names": dict}
        fields = self.fields(document, NAME, types, required=("labels", "file_ending"), extra=True)
        ending = fields.get("file_ending", "")
        if "file_ending" in fields and ending not in ENDINGS:
            what = f"{shown(ending)} is not read; save the images and labels as 2D .png or .tif"
            self.note(f"{NAME}.file_ending", what, "not-read")
        values: dict[int, str] = {}
        for name, value in fields.get("labels", {}).items():
            place = f"{NAME}.labels.{shown(name)}"
            if isinstance(value, list):
                self.note(place, "is a region of several labels, which is not read; give every label one number")
            elif not is_name(name):
                self.note(place, "is no category's name; write a text on one line")
            elif type(value) is not int or not 0 <= value <= 65535:
                self.note(place, f"must be a whole number from 0 to 65535, found {shown(value)}; correct it")
            elif value in values:
                self.note(place, f"has the number of {shown(values[value])}; give it another")
            else:
                values[value] = name
        if values and not self.problems and values.get(0) != "background":
            self.note(f"{NAME}.labels", "background must be 0; add it")
        if len(values) > _MOST_LABELS:
            self.note(f"{NAME}.labels", f"has more than {_MOST_LABELS} labels; a mask here holds no more")
        elif not self.problems:
            self.take(values)
        return ending

    def take(self, values: dict[int, str]) -> None:
        for value, name in sorted(values.items()):
            if name == "ignore":
                self.table[value] = IGNORE
            elif value:
                self.table[value] = len(self.names)
                self.names.append(name)

    def samples(self, ending: str) -> tuple[Sample, ...]:
        found: list[tuple[str, str, str, str | None]] = []
        for folder, labels, split in (("imagesTr", "labelsTr", "train"), ("imagesTs", "labelsTs", "test")):
            cases = self.cases(folder, ending)
            masks = self.files(labels, ending)
            if lost := sorted(masks.keys() - cases.keys()):
                what = f"{len(lost)} labels have no image in {folder}/, such as {shown(lost[0])}"
                self.note(labels, f"{what}; add {lost[0]}_0000{ending} or remove the label", "no-image")
            if split == "train" and cases and (bare := sorted(cases.keys() - masks.keys())):
                what = f"{len(bare)} images of {folder}/ have no label, such as {shown(bare[0])}: unlabelled"
                self.warn(labels, what, "no-mask")
            found += [(case, split, image, masks.get(case)) for case, image in sorted(cases.items())]
        ids = [case for case, *_ in found]
        if twice := sorted({case for case in ids if ids.count(case) > 1} if len(set(ids)) < len(ids) else ()):
            self.note("imagesTs", f"{shown(twice[0])} is also in imagesTr/; rename one", "duplicate-image")
        if not found and not self.problems:
            self.note("imagesTr", f"holds no image <case>_0000{ending}; add some")
        validation = self.validation({case for case, split, *_ in found if split == "train"})
        if self.problems:
            return ()
        rows = [(case, "val" if case in validation else split, image, mask) for case, split, image, mask in found]
        return tuple(ahead(lambda row: self.sample(*row), rows))

    def sample(self, case: str, split: str, image: str, mask: str | None) -> Sample:
        if mask is None:
            return Sample(case, image, split)
        plain = all(value == id for value, id in self.table.items())
        path = self.verified(mask) if plain else self.renumbered(case, mask)
        return Sample(case, image, split, Labels(Mask(path)))

    def verified(self, mask: str) -> str:
        """The label itself, after a look at its values; one that cannot be read is left to the check."""
        try:
            values = read_mask(self.root / mask)
        except DataError:
            return mask
        try:
            self.refuse_strange(np.unique(values), self.root / mask)
        except DataError as error:
            self.problems += error.problems
        return mask

    def renumbered(self, case: str, mask: str) -> str:
        """A copy of a label with category ids, in a cache; the file itself where it cannot be read, which the check tells."""
        path = self.root / mask
        try:
            status = path.stat()
            key = json.dumps([3, mask, status.st_size, status.st_mtime_ns, sorted(self.table.items())]).encode()
            return cached_mask(self.root, case, key, lambda: self.mapped(path))
        except OSError as error:
            self.note(mask, f"unreadable ({error.strerror}); check the file")
        except DataError as error:
            self.problems += error.problems
        return mask

    def mapped(self, path: Path) -> np.ndarray:
        values = read_mask(path)
        present = np.unique(values)
        self.refuse_strange(present, path)
        lookup = np.zeros(int(present[-1]) + 1, np.uint8)
        for value in present:
            lookup[value] = self.table[int(value)]
        return lookup[values]

    def refuse_strange(self, present: np.ndarray, path: Path) -> None:
        if strange := [int(value) for value in present if int(value) not in self.table]:
            known = ", ".join(map(str, sorted(self.table)[:20]))
            what = f"holds the value {strange[0]}, and the labels of {NAME} are {known}"
            raise DataError([Problem(what, kind="unknown-value", file=path, remedy="add it there or mend the label")])

    # -------------------------------------------------------------------------------------------------------- files

    def files(self, folder: str, ending: str) -> dict[str, str]:
        """Stem → path, relative to the root, of the files in a folder; links that lead out are noted."""
        found: dict[str, str] = {}
        if not (self.root / folder).is_dir():
            return found
        if (reason := leaves_folder(self.root, folder)) is not None:
            self.note(folder, reason)
            return found
        others: list[str] = []
        for name in sorted(os.listdir(self.root / folder)):
            if name.startswith(".") or (self.root / folder / name).is_dir():
                continue
            if not name.endswith(ending):
                others.append(name)
            elif (reason := leaves_folder(self.root, f"{folder}/{name}")) is not None:
                self.note(f"{folder}/{name}", reason)
            else:
                found[name.removesuffix(ending)] = f"{folder}/{name}"
        if others:
            what = f"{len(others)} files do not end in {ending}, such as {shown(others[0])}: left out"
            self.warn(folder, what, "left-out")
        return found

    def cases(self, folder: str, ending: str) -> dict[str, str]:
        """Case → path of its image."""
        channels: dict[str, dict[str, str]] = defaultdict(dict)
        for stem, path in self.files(folder, ending).items():
            match = _CASE.fullmatch(stem)
            if match is None or not names_a_file(match[1]):
                self.note(path, f"is not called <case>_0000{ending}; rename it", "case-name")
            else:
                channels[match[1]][match[2]] = path
        several = {case: paths for case, paths in channels.items() if list(paths) != ["0000"]}
        if several:
            case, paths = next(iter(several.items()))
            what = f"{len(several)} cases have other files than _0000, such as {case} with _{', _'.join(sorted(paths))}"
            remedy = f"an image here is one file: write the channels into one colour image {case}_0000{ending}"
            self.note(folder, f"{what}; {remedy}", "channels")
        return {case: paths["0000"] for case, paths in channels.items() if "0000" in paths}

    def validation(self, cases: set[str]) -> set[str]:
        """The cases that the first fold of ``splits_final.json`` keeps for validation."""
        path = self.root / SPLITS
        if not path.is_file():
            return set()
        folds = read_json(path)
        first = folds[0] if isinstance(folds, list) and folds else None
        names = first.get("val") if isinstance(first, dict) else None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            self.note(SPLITS, "must be a list of folds with train and val, lists of cases; correct or remove it")
            return set()
        if unknown := sorted(set(names) - cases):
            self.note(SPLITS, f"{shown(unknown[0])} is not among the images of imagesTr/; correct it")
        if isinstance(folds, list) and len(folds) > 1:
            self.warn(SPLITS, f"has {len(folds)} folds: the first is read", "chosen")
        return set(names)
