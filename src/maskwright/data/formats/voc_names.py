"""What the folders and lists of Pascal VOC say: images with their splits, files that belong together, names of categories."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path, PurePosixPath

from maskwright.data.fields import Fields, is_name, leaves_folder, shown
from maskwright.data.formats.splits import split_of
from maskwright.data.formats.voc_boxes import Described
from maskwright.data.formats.voc_masks import Look
from maskwright.data.image_files import IMAGE_SUFFIXES
from maskwright.data.labels import IGNORE
from maskwright.data.paths import Files
from maskwright.data.reading import Reading

MASKS = ("SegmentationClass", "SegmentationClassPNG")
"""Folders of semantic masks; the second is LabelMe's."""
OBJECTS, XML, LISTS = "SegmentationObject", "Annotations", "ImageSets"
LABELMAP, CLASS_NAMES = "labelmap.txt", "class_names.txt"

OFFICIAL = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
_BACKGROUND = ("background", "_background_")
_BORDER = 0xE0E0C0
_MOST_BYTES = 100_000_000
_FOLDER_SPLITS = ("train", "val", "test")


class Names(Fields):
    """Attributes:
    root: the dataset's folder.
    base: the folder of its images, "" where they lie beside their XML files.
    """

    def __init__(self, root: Path, reading: Reading, data: Path) -> None:
        super().__init__(reading, data)
        self.root, self.files = root, Files(root)
        self.base = next((f"{name}/" for name in ("JPEGImages", "images") if (root / name).is_dir()), "")
        self.has_masks = any((root / name).is_dir() for name in (*MASKS, OBJECTS))
        self._of_classes: set[str] = set()
        self._left_out: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def leave_out(self, what: str, place: str) -> None:
        self._left_out[what] += 1
        self._first.setdefault(what, place)

    def tell(self) -> None:
        for what, count in self._left_out.items():
            self.warn("", f"{count} {what} are left out, such as {self._first[what]}", "left-out")

    # ------------------------------------------------------------------------------------------------------- images

    def images(self) -> dict[str, str]:
        """Path of each image that counts → its split."""
        found = self._below(self.base, IMAGE_SUFFIXES)
        if not self.base:
            folders = (*MASKS, OBJECTS, "SegmentationClassVisualization", "SegmentationObjectVisualization")
            found = [path for path in found if path.split("/")[0] not in folders]
        stems: dict[str, str] = {}
        for path in found:
            stem = PurePosixPath(path).with_suffix("").as_posix().removeprefix(self.base)
            if stem in stems:
                self.note(path, f"has the same name as {stems[stem]}; rename one", "stem")
            stems[stem] = path
        if not found:
            self.note(self.base or str(self.root), "holds no image; add them")
        listed = self._listed(stems)
        if not listed:
            return {path: self._split_of_folder(path) for path in found}
        named = {stems[stem]: split for stem, split in listed.items()}
        for path in found:
            if path not in named:
                self.leave_out(f"images in no list of {LISTS}/", path)
        return named

    def _split_of_folder(self, path: str) -> str:
        first, _, rest = path.removeprefix(self.base).partition("/")
        split = split_of(first) if rest else "train"
        return split if split in _FOLDER_SPLITS else "train"

    def _listed(self, stems: dict[str, str]) -> dict[str, str]:
        """The split of each image that a list names; empty where there is no list."""
        splits: dict[str, str] = {}
        rest: dict[str, str] = {}
        for kind in ("Segmentation", "Main"):
            for file in sorted((self.root / LISTS / kind).glob("*.txt")):
                name = file.relative_to(self.root).as_posix()
                lines = self._lines(name)
                if self._is_of_a_class(file.stem, lines, stems):
                    continue
                split = split_of(file.stem)
                for number, line in lines:
                    stem = line if line in stems else line.strip('"')
                    if stem not in stems:
                        what = f"there is no image {self.base}{shown(stem)[1:-1]}.*"
                        self.note(f"{name}: line {number}", f"{what}; add it or remove the line", "missing-image")
                    elif file.stem == "trainval":
                        rest.setdefault(stem, "train")
                    elif splits.setdefault(stem, split) != split and kind == "Segmentation":
                        what = f"{shown(stem)} is in {splits[stem]} too"
                        self.note(f"{name}: line {number}", f"{what}; name it once", "two-splits")
        return splits | {stem: split for stem, split in rest.items() if stem not in splits}

    def _is_of_a_class(self, name: str, lines: list[tuple[int, str]], stems: dict[str, str]) -> bool:
        """Whether a list says which images show a class, by -1, 0 or 1 after each: ``cat_train.txt``."""
        if not lines or lines[0][1] in stems or lines[0][1].rpartition(" ")[2] not in ("-1", "0", "1"):
            return False
        self._of_classes.add(name.rpartition("_")[0] or name)
        return True

    def mask_of(self, image: str, *folders: str) -> str | None:
        """The mask of an image in the first of some folders that has one."""
        stem = PurePosixPath(image).with_suffix("").as_posix().removeprefix(self.base)
        return next(
            (path for f in folders if self.files.is_file(path := f"{f}/{stem}.png") and self._inside(path)), None
        )

    def xml_of(self, image: str) -> str | None:
        """The XML file of an image: in ``Annotations/``, else beside it."""
        stem = PurePosixPath(image).with_suffix("").as_posix()
        names = [f"{XML}/{stem.removeprefix(self.base)}.xml", f"{stem}.xml"]
        return next((path for path in names if self.files.is_file(path) and self._inside(path)), None)

    def tell_unpaired(self, images: dict[str, str]) -> None:
        """Count masks and XML files that belong to no image at all."""
        stems = {
            PurePosixPath(path).with_suffix("").as_posix().removeprefix(self.base)
            for path in (images if not self.base else self._below(self.base, IMAGE_SUFFIXES))
        }
        for folder, suffix in [*((f, ".png") for f in (*MASKS, OBJECTS)), (XML, ".xml")]:
            for path in self._below(f"{folder}/", {suffix}):
                if path.removeprefix(f"{folder}/").removesuffix(suffix) not in stems:
                    self.leave_out(f"files of {folder}/ without an image", path)

    def _inside(self, path: str) -> bool:
        if (reason := leaves_folder(self.root, path)) is not None:
            self.note(path, reason)
        return reason is None

    def _below(self, folder: str, suffixes: frozenset[str] | set[str]) -> list[str]:
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

    def _lines(self, file: str) -> list[tuple[int, str]]:
        """The lines of a text file that hold something, with their numbers; none where it cannot be read (noted)."""
        if not self._inside(file):
            return []
        try:
            if os.path.getsize(self.root / file) > _MOST_BYTES:
                self.note(file, f"has more than the {_MOST_BYTES:,} bytes that are read; correct it")
                return []
            text = (self.root / file).read_text("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            self.note(file, f"cannot be read as text ({error}); correct it")
            return []
        return [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]

    # -------------------------------------------------------------------------------------------------------- names

    def named_colours(self) -> dict[int, int] | None:
        """The category of each colour (0xRRGGBB) that ``labelmap.txt`` gives; None where it gives none."""
        rows = self._labelmap()
        if not any(colour is not None for _, colour in rows):
            return None
        names = ["background", *(name for name, _ in rows if name not in _BACKGROUND)]
        ids = {name: id for id, name in enumerate(names)} | dict.fromkeys(_BACKGROUND, 0)
        return {_BORDER: IGNORE} | {colour: ids[name] for name, colour in rows if colour is not None}

    def names_of(self, files: list[Described], looks: list[Look]) -> tuple[str, ...]:
        """All categories; names in XML files that the lists lack are noted."""
        used = {one.name: one.place for file in files for one in file.objects}
        highest = max((id for one in looks for id in one.values or () if id != IGNORE), default=0)
        listed = [name for name, _ in self._labelmap()] or self._class_names() or sorted(self._of_classes)
        if not listed and used and used.keys() <= set(OFFICIAL):
            listed = list(OFFICIAL)
        names = [name for name in dict.fromkeys(listed) if name not in _BACKGROUND]
        if listed:
            for name, place in used.items():
                if name not in names and name not in _BACKGROUND:
                    self.note(f"{place}.name", f"{shown(name)} is in no list of names; add it there", "category")
            return ("background", *names)
        names = [name for name in used if name not in _BACKGROUND]
        if highest > len(names) or (len(names) > 1 and highest):
            if names:
                what = f"masks hold ids up to {highest}, and only XML files name categories, in no order"
                self.note(
                    LABELMAP, f"{what}; write {LABELMAP} with a line name::: for each, background first", "no-names"
                )
            names = ["object"] if highest == 1 else [f"class_{id}" for id in range(1, highest + 1)]
            what = f"no {LABELMAP}: categories are called by their ids"
            self.warn("", f"{what}; write it with a line name::: for each, background first", "no-names")
        return ("background", *(names or ["object"]))

    def _labelmap(self) -> list[tuple[str, int | None]]:
        """Names in ``labelmap.txt`` with their colours."""
        rows: list[tuple[str, int | None]] = []
        for number, line in self._lines(LABELMAP) if self.files.is_file(LABELMAP) else []:
            if line.startswith("#"):
                continue
            place = f"{LABELMAP}: line {number}"
            name, _, rest = line.partition(":")
            colour = rest.partition(":")[0].strip()
            parts = [part.strip() for part in colour.split(",")] if colour else []
            if parts and not (
                len(parts) == 3 and all(p.isascii() and p.isdecimal() and len(p) < 4 and int(p) < 256 for p in parts)
            ):
                self.note(place, f"{shown(colour)} is no colour red,green,blue of 0 to 255; correct it")
                parts = []
            if not is_name(name) or name in [before for before, _ in rows]:
                self.note(place, f"{shown(name)} is no name, or is there twice; correct it")
                continue
            value = sum(int(part) << shift for part, shift in zip(parts, (16, 8, 0))) if parts else None
            rows.append((name, value))
        return rows

    def _class_names(self) -> list[str]:
        """The names that LabelMe's converter writes, one in a line."""
        lines = self._lines(CLASS_NAMES) if self.files.is_file(CLASS_NAMES) else []
        return [line for _, line in lines if line != "__ignore__"]
