"""`maskwright data`: check, count, weaken and convert datasets."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from maskwright.cli.shared import OPTIONAL, Data, print_table


@dataclass
class Check:
    """Every problem of a dataset, one line each; exit status 1 if there is any."""

    data: Data
    """Dataset: a folder, or its JSON file."""
    json: bool = False
    """Print JSON."""
    training: bool = True
    """Also require a split `train` with labels."""

    def __call__(self) -> int:
        from maskwright.api import check

        result = check(self.data, training=self.training, progress=True)
        problems = result.problems
        if self.json:
            facts = {"images": result.images, "splits": result.splits, "categories": list(result.categories)}
            print(json.dumps({"data": str(self.data), **facts, "problems": problems}, indent=1))
        elif problems:
            print(f"{len(problems)} problem{'s' if len(problems) > 1 else ''}:", *problems, sep="\n  - ")
        else:
            splits = ", ".join(f"{count} {name}" for name, count in result.splits.items())
            print(f"no problems: {result.images} images ({splits}); categories: {', '.join(result.categories)}")
        return 1 if problems else 0


@dataclass
class Stats:
    """What is in a dataset: images by split and label, categories, sizes."""

    data: Data
    """Dataset: a folder, or its JSON file."""
    json: bool = False
    """Print JSON."""

    def __call__(self) -> None:
        from maskwright.api import busy, stats

        with busy("counting"):
            numbers = stats(self.data)
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
    """Dataset: a folder, or its JSON file."""
    to: Literal["manifest", "coco", "folders"]
    """`manifest` holds everything, `coco` instances and boxes, `folders` masks."""
    out: Path
    """New folder for the result."""
    allow_loss: bool = False
    """Write even if the format cannot hold all labels."""

    def __call__(self) -> None:
        from maskwright.api import busy, convert

        with busy("converting"):
            folder = convert(**vars(self))
        print(f"written: {folder}")


def _print_stats(numbers: dict[str, Any]) -> None:
    kinds = list(dict.fromkeys(kind for split in numbers["splits"].values() for kind in split["kinds"]))
    rows = [
        [name, split["images"], *(split["kinds"].get(kind, 0) for kind in kinds)]
        for name, split in numbers["splits"].items()
    ]
    print_table("images by split and finest label", ["split", "images", *kinds], rows)
    columns = ["id", "name", "images", "pixel_share", "instances", "boxes", "scribbles", "points", "tags"]
    rows = [[row[column] for column in columns] for row in numbers["categories"]]
    print_table("categories", [column.replace("_", " ") for column in columns], rows)
    ranges = dict(numbers["size"] or {})
    if numbers["instances"]:
        ranges["instances in an image"] = numbers["instances"]["per_image"]
    rows = [[name, values["min"], values["median"], values["max"]] for name, values in ranges.items()]
    print_table("sizes", ["", "min", "median", "max"], rows)
