"""`maskwright data split`, `merge` and `sample`: datasets made of others."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from maskwright.api import ImageReading, KindName, Twins
from maskwright.cli.shared import (
    OPTIONAL,
    Column,
    Data,
    Format,
    Group,
    Reading,
    Table,
    print_table,
    print_warnings,
    print_written,
    without_zeros,
)


@dataclass
class Split:
    """Deal the images into train, val and test: alike in what they hold, the frames of one patient together."""

    data: Data
    """Dataset: a folder, or its JSON, XML or YAML file."""
    out: Path
    """New folder for the copy."""
    val: float = 0.15
    """Share of the images that goes to `val`, 0..1. Where there are masks, these are images with a mask: on others nothing
    can be scored."""
    test: float = 0.15
    """Share that goes to `test`; what remains is `train`."""
    group: Group = None
    """What names the images that belong together: a regular expression that is sought in each image's path, such as
    'patient(\\d+)'. Images that show the same picture always stay together."""
    table: Table = None
    """Instead: a table with a row for each image."""
    column: Column = None
    """Its column that names the group; the image's is called image, id, file or filename."""
    of: tuple[str, ...] = ("train",)
    """Splits whose images are dealt; others stay as they are. `all` deals every image."""
    seed: int = 0
    """Same seed, same splits."""
    format: Format = None
    """What the dataset is read as, where several formats fit; left out, what is there decides."""
    image_reading: Reading = field(default_factory=ImageReading)

    def __call__(self) -> None:
        from maskwright.api import split

        shares = {"val": self.val, "test": self.test}
        result = split(
            self.data,
            self.out,
            shares,
            of=self.of,
            group=self.group,
            table=self.table,
            column=self.column,
            seed=self.seed,
            format=self.format,
            image_reading=self.image_reading,
            progress=True,
        )
        splits: dict[str, Counter[Any]] = {name: Counter() for name in result.groups}
        for sample in result.dataset:
            splits.setdefault(sample.split, Counter())[sample.labels.kind] += 1
        grouped = self.group is not None or self.table is not None
        kinds = sorted(set().union(*splits.values()), reverse=True)
        rows = [
            [name, counts.total(), result.groups.get(name) if grouped else None, *(counts[kind] for kind in kinds)]
            for name, counts in splits.items()
        ]
        names = ["split", "images", "groups", *map(str, kinds)]
        print_table("images by split", *without_zeros(names, rows, keep=2))
        if result.unscored:
            print(f"{result.unscored:,} images have no mask and cannot be scored: they are in train")
        if result.kept:
            print(f"{result.kept:,} images stayed in their split, as only {', '.join(self.of)} was dealt")
        print_warnings(result.warnings)
        print_written(result.folder)


@dataclass
class Merge:
    """Write several datasets into one; categories are the same where their names are."""

    data: Annotated[Positional[tuple[Path, ...]], arg(metavar="DATA")]
    """Datasets, two or more."""
    out: Path
    """New folder for all of them."""
    twins: Twins = "refuse"
    """Of a picture that several datasets hold: refuse, take it from the first, or keep all."""
    image_reading: Reading = field(default_factory=ImageReading)

    def __call__(self) -> None:
        from maskwright.api import merge

        result = merge(self.data, self.out, twins=self.twins, image_reading=self.image_reading, progress=True)
        print_table("images", ["dataset", "images"], list(zip(map(str, self.data), result.images)))
        for count, what in (
            (result.left_out, "pictures left out, as an earlier dataset holds them"),
            (result.renamed, "ids that several datasets had now begin with their dataset's name"),
            (result.rewritten, "masks rewritten, as their categories have other ids now"),
        ):
            if count:
                print(f"{count:,} {what}")
        print(f"categories: {', '.join(result.dataset.categories)}")
        print_warnings(result.warnings)
        print_written(result.folder)


@dataclass
class Sample:
    """Keep the labels of some images only, for studies of how many it takes: nested shares, a manifest for each."""

    data: Data
    """Dataset: a folder, or its JSON, XML or YAML file."""
    out: Path
    """New folder; `labels-5-percent.json` in it is a dataset, `manifest.json` has all labels."""
    shares: tuple[float, ...] = ()
    """Of the labelled images, such as 0.05 0.1 0.2."""
    counts: tuple[int, ...] = ()
    """Numbers of labelled images, such as 8 40."""
    split: str = "train"
    """Whose labels are taken away; other splits stay as they are."""
    kind: Annotated[KindName | None, OPTIONAL] = None
    """Only of images whose finest label is of this kind."""
    group: Group = None
    """What names the images that keep their labels together; see `maskwright data split --help`."""
    table: Table = None
    """Instead: a table with a row for each image."""
    column: Column = None
    """Its column that names the group."""
    seed: int = 0
    """Same seed, same order of the images."""
    format: Format = None
    """What the dataset is read as, where several formats fit; left out, what is there decides."""
    image_reading: Reading = field(default_factory=ImageReading)

    def __call__(self) -> None:
        from maskwright.api import sample

        result = sample(**vars(self), progress=True)
        rows = [[each.path.name, each.labelled, each.share] for each in result.samples]
        print_table(f"of {result.labelled:,} labelled images in {self.split}", ["dataset", "labelled", "share"], rows)
        print_warnings(result.warnings)
        print_written(*(each.path for each in result.samples))
