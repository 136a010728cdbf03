"""`maskwright data`: check, mend, count, weaken and convert datasets; `arrange` has the commands that make one of others."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from shutil import get_terminal_size
from textwrap import fill
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import FlagCreatePairsOff

from maskwright.api import Crowd, ImageReading, WrittenName
from maskwright.cli.shared import OPTIONAL, Data, Format, Reading, print_table, print_warnings, without_zeros

if TYPE_CHECKING:
    from maskwright.api import CheckResult
    from maskwright.problems import Problem


_CHANGED = {
    "16-bit": "what masks of 16 bits mean is written down",
    "back-slash": "paths with back-slashes",
    "box-outside": "boxes cut off at the border",
    "crowd": "crowds taken as objects or left out",
    "damaged-but-whole": "images written anew with the same pixels",
    "degenerate-part": "parts of outlines without area left out",
    "degenerate-polygon": "outlines without area left out",
    "flat-polygon": "outlines that were one flat list",
    "grey-mask": "masks whose grey pixels became object or background",
    "ignored-lost": "masks whose ignored pixels became background",
    "images-folder": "folders of images by another name",
    "letter-case": "names in another case",
    "made-instances": "masks split into objects",
    "made-semantic": "instance masks made semantic",
    "mask-convention": "masks rewritten with 1 for the object",
    "mask-file": "masks written as PNG with one channel",
    "mask-suffix": "masks with a suffix to their name",
    "masks-folder": "folders of masks by another name",
    "no-size": "sizes that were missing",
    "number-as-text": "numbers that were written as text",
    "outline-outside": "outlines cut off at the border",
    "page": "images written from another page",
    "path-elsewhere": "paths from elsewhere",
    "root-category": "groups of categories left out",
    "stem-with-suffix": "names with a file's suffix",
    "unicode-form": "names in another Unicode form",
    "url-code": "paths with URL codes",
}
"""Kinds of change in words; those that are not here go by their name."""


@dataclass
class Check:
    """How a dataset is understood, and every problem in it; exit status 1 if there is any."""

    data: Data
    """Dataset: a folder, or its JSON, XML or YAML file."""
    format: Format = None
    """What the dataset is read as, where several formats fit; left out, what is there decides."""
    image_reading: Reading = field(default_factory=ImageReading)
    all: FlagCreatePairsOff[bool] = False
    """List every problem and warning; else of each kind the first three, and a count."""
    json: bool = False
    """Print JSON."""
    training: bool = True
    """Also require a split `train` with labels."""
    cache: Annotated[Path | None, OPTIONAL] = None
    """Folder for masks that are made of other labels, as of COCO's outlines. Left out: in the dataset's folder, or in your
    user cache where that cannot be written."""

    def __call__(self) -> int:
        from maskwright.api import check, use_cache

        use_cache(self.cache)
        result = check(
            self.data, format=self.format, image_reading=self.image_reading, training=self.training, progress=True
        )
        if self.json:
            print(json.dumps(_as_json(self.data, result), indent=1))
        else:
            _print_check(result, None if self.all else 3)
        return 1 if result.problems else 0


@dataclass
class Fix:
    """Write a mended copy of a dataset: whatever has one meaning, with a list of all that was changed."""

    data: Data
    """Dataset: a folder, or its JSON, XML or YAML file. It stays as it is."""
    out: Path
    """New folder for the mended copy; it is written whole or not at all."""
    format: Format = None
    """What the dataset is read as, where several formats fit; left out, what is there decides."""
    crowd: Annotated[Crowd | None, OPTIONAL] = None
    """What becomes of COCO annotations with `iscrowd`: each an `object`, or left out. Left out: taken as objects where all
    annotations of a category are crowds."""
    root: Annotated[Path | None, OPTIONAL] = None
    """Folder of the dataset in which files are that the labels name by a path outside it, such as C:\\images\\a.jpg."""
    threshold: float = 0.5
    """Share of white, 0..1, from which a grey pixel of a mask is the object's."""
    instances: FlagCreatePairsOff[bool] = False
    """Turn semantic masks into instance masks: each connected part of a category becomes an object."""
    semantic: FlagCreatePairsOff[bool] = False
    """Turn instance masks into semantic ones."""
    image_reading: Reading = field(default_factory=ImageReading)
    json: bool = False
    """Print JSON: what is in fixed.json."""
    cache: Annotated[Path | None, OPTIONAL] = None
    """Folder for masks that are made of other labels; see `maskwright data check --help`."""

    def __call__(self) -> None:
        from maskwright.api import fix, use_cache

        use_cache(self.cache)
        fixed = fix(
            self.data,
            self.out,
            format=self.format,
            crowd=self.crowd,
            root=self.root,
            threshold=self.threshold,
            instances=self.instances,
            semantic=self.semantic,
            image_reading=self.image_reading,
            progress=True,
        )
        if self.json:
            print(json.dumps(fixed.as_dict(), indent=1))
            return
        if fixed.changes:
            rows = [[_CHANGED.get(kind, kind), count, fixed.pixels[kind]] for kind, count in fixed.counts.items()]
            print_table("changed", *without_zeros(["what", "times", "pixels"], rows))
            examples = {change.kind: change for change in reversed(fixed.changes)}
            for example in map(examples.__getitem__, fixed.counts):
                print(f"  for example {': '.join(filter(None, (example.file, example.place, example.what)))}")
        else:
            print("nothing needed mending: the copy says what the dataset says")
        print_warnings(fixed.warnings)
        print(f"written: {fixed.folder} (all changes: {fixed.folder / 'fixed.json'})")


@dataclass
class Stats:
    """What is in a dataset: images by split and label, categories, sizes."""

    data: Data
    """Dataset: a folder, or its JSON, XML or YAML file."""
    format: Format = None
    """What the dataset is read as, where several formats fit; left out, what is there decides."""
    image_reading: Reading = field(default_factory=ImageReading)
    json: bool = False
    """Print JSON."""
    cache: Annotated[Path | None, OPTIONAL] = None
    """Folder for masks that are made of other labels; see `maskwright data check --help`."""

    def __call__(self) -> None:
        from maskwright.api import busy, stats, use_cache

        use_cache(self.cache)
        with busy("counting"):
            numbers = stats(self.data, format=self.format, image_reading=self.image_reading).as_dict()
        if self.json:
            print(json.dumps(numbers, indent=1))
        else:
            _print_stats(numbers)


@dataclass
class Weaken:
    """Turn masks into weaker labels, for studies; every image of the split keeps exactly one kind."""

    data: Data
    """Dataset with masks."""
    out: Path
    """New folder for the result."""
    mask: float = 0.0
    """Share of the images that keep their mask, 0..1."""
    scribble: float = 0.0
    """Share that gets scribbles."""
    box: float = 0.0
    """Share that gets boxes."""
    point: float = 0.0
    """Share that gets points."""
    tag: float = 0.0
    """Share that gets tags."""
    none: Annotated[float | None, OPTIONAL] = None
    """Share that loses all labels; left out, what remains to 1."""
    seed: int = 0
    """Which image gets which kind."""
    split: str = "train"
    """Whose masks are weakened; other splits stay as they are."""
    format: Format = None
    """What the dataset is read as, where several formats fit; left out, what is there decides."""
    image_reading: Reading = field(default_factory=ImageReading)

    def __call__(self) -> None:
        from maskwright.api import busy, weaken

        with busy("weakening"):
            dataset = weaken(**vars(self))
        part = dataset.split(self.split)
        counts = Counter(sample.labels.kind for sample in part)
        kinds = ", ".join(f"{counts[kind]} {kind}" for kind in sorted(counts, reverse=True))
        print(f"{len(dataset)} images, of these {len(part)} in {self.split}: {kinds}\nwritten: {self.out}")


@dataclass
class Convert:
    """Write a dataset in another format; images are linked or copied, masks stay as they are to the bit."""

    data: Data
    """Dataset: a folder, or its JSON, XML or YAML file."""
    to: WrittenName
    """`manifest` holds everything, `folders` and `nnunet` masks, the others objects and boxes; what one cannot hold is said."""
    out: Path
    """New folder for the result."""
    format: Format = None
    """What the dataset is read as, where several formats fit; left out, what is there decides."""
    image_reading: Reading = field(default_factory=ImageReading)
    allow_loss: bool = False
    """Write even if the format cannot hold all labels."""

    def __call__(self) -> None:
        from maskwright.api import busy, convert

        with busy("converting"):
            folder = convert(**vars(self))
        print(f"written: {folder}")


def _as_json(data: Path, result: CheckResult) -> dict[str, Any]:
    """What the check found, as JSON; each problem as a line, and its parts under ``details``."""
    facts = {"images": result.images, "splits": result.splits, "categories": list(result.categories)}
    said = {"format": result.format, "stats": result.stats.as_dict() if result.stats else None}
    records = [*result.problems, *result.warnings]
    findings = {"problems": result.problems, "warnings": result.warnings, "details": [_parts(r) for r in records]}
    return {"data": str(data), **facts, **said, **findings}


def _parts(problem: Problem) -> dict[str, Any]:
    return {key: getattr(problem, key) for key in ("kind", "severity", "file", "place", "message", "remedy", "fix")}


def _print_check(result: CheckResult, most: int | None) -> None:
    problems, warnings = result.problems, result.warnings
    width = get_terminal_size().columns
    for line in result.understood:
        print(fill(line, width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False))
    if warnings:
        print(f"{len(warnings):,} warning{'s' if len(warnings) > 1 else ''}:", *result.lines("warning", most), sep="\n")
    if problems:
        print(f"{len(problems):,} problem{'s' if len(problems) > 1 else ''}:", *result.lines("problem", most), sep="\n")
    else:
        print("no problems")


def _print_stats(numbers: dict[str, Any]) -> None:
    kinds = list(dict.fromkeys(kind for split in numbers["splits"].values() for kind in split["kinds"]))
    rows = [
        [name, split["images"], *(split["kinds"].get(kind, 0) for kind in kinds)]
        for name, split in numbers["splits"].items()
    ]
    print_table("images by split and finest label", *without_zeros(["split", "images", *kinds], rows, keep=2))
    counted = ["instances", "boxes", "scribbles", "points", "tags"]
    rows = [[name, *(split[key] for key in counted)] for name, split in numbers["splits"].items()]
    if any(any(row[1:]) for row in rows):
        print_table("labels by split", *without_zeros(["split", *counted], rows))
    columns = ["name", "id", "images", "pixel_share", *counted]
    rows = [[row[column] for column in columns] for row in numbers["categories"]]
    names = [column.replace("_", " ") for column in columns]
    print_table("categories", *without_zeros(names, rows, keep=2))
    ranges = {
        "width": numbers["width"],
        "height": numbers["height"],
        "objects in an image": numbers["instances_in_image"],
    }
    rows = [[name, values["min"], values["median"], values["max"]] for name, values in ranges.items() if values]
    print_table("sizes", ["", "min", "median", "max"], rows)
    facts = {"ignored_share": "ignored share of mask pixels", "empty_masks": "empty masks"}
    facts |= {"tiny_masks": "masks of fewer than 4 pixels", "tiny_objects": "objects of fewer than 4 pixels"}
    for key, text in facts.items():
        if numbers[key]:
            value = numbers[key]
            print(f"{text}: {value:.2%}" if isinstance(value, float) else f"{text}: {value}")
