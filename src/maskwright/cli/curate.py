"""`maskwright audit`, `next` and `budget`: help with the labelling that is still missing, or wrong."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from shutil import get_terminal_size
from textwrap import fill
from typing import Annotated, TypeAlias

from tyro.conf import arg

from maskwright.api import ImageReading
from maskwright.cli.shared import OPTIONAL, Column, Data, Format, Group, Reading, Table, print_table, print_written
from maskwright.errors import MaskwrightError

Run: TypeAlias = Annotated[Path | None, arg(metavar="RUN", help_behavior_hint="(optional)")]


@dataclass
class Next:
    """Which images to label next, and with which kind of label: in the order in which they are worth it, with the reason for each."""

    data: Data
    """Dataset whose unlabelled images are looked through; it stays as it is."""
    out: Annotated[Path | None, OPTIONAL] = None
    """Folder for `next.json` and a contact sheet, `report.html`; left out, the list is only printed."""
    run: Run = None
    """A run of `samix`: every second image that is not random is one that its model is unsure about."""
    count: Annotated[int, arg(aliases=["-n"])] = 20
    """How many images."""
    split: str = "train"
    """Where they are chosen."""
    costs: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(optional)")] = None
    """JSON with the seconds that a label takes you, by kind: see `maskwright budget --help`."""
    group: Group = None
    """What names the images that belong together, such as the frames of one patient: see `maskwright data split --help`. Images of a
    group that has labels come last."""
    table: Table = None
    """Instead: a table with a row for each image."""
    column: Column = None
    """Its column that names the group."""
    sam: str = "nano"
    """nano (bundled), a Hugging Face id, a folder, or an official .pt file."""
    seed: int = 0
    """Of what is drawn."""
    device: str = "auto"
    """Of the SAM: auto, cpu, cuda or cuda:1."""
    format: Format = None
    """What the dataset is read as, where several formats fit; left out, what is there decides."""
    image_reading: Reading = field(default_factory=ImageReading)

    def __call__(self) -> None:
        from maskwright.api import next_labels

        result = next_labels(**vars(self), progress=True)
        for number, each in enumerate(result.suggestions, 1):
            print(f"{number:3}. {each.id}: {each.kind}, {each.seconds:g} s")
            print(fill(each.reason, get_terminal_size().columns, initial_indent=" " * 5, subsequent_indent=" " * 5))
        print(*result.notes, sep="\n")
        if self.out is not None:
            print_written(self.out / "next.json", self.out / "report.html")


@dataclass
class Audit:
    """Which masks look wrong, and how they would be repaired; with --apply, write accepted repairs into a new dataset."""

    data: Data
    """Dataset with at least 20 masks; it stays as it is."""
    out: Path
    """New folder: for the list, the page with pictures and the repaired masks; with --apply, for the new dataset."""
    run: Run = None
    """A run of `samix` whose model judges the images that it has not learnt from, too."""
    most: int = 100
    """How many masks are shown, with their repairs."""
    split: Annotated[tuple[str, ...], OPTIONAL] = ()
    """Only masks of these splits; left out, of all."""
    apply: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(optional)")] = None
    """The `repairs.txt` of an audit of this dataset, with `yes` where a repair is right: write them into a copy of the dataset."""
    group: Group = None
    """What names the images that belong together, such as the frames of one patient: see `maskwright data split --help`."""
    table: Table = None
    """Instead: a table with a row for each image."""
    column: Column = None
    """Its column that names the group."""
    sam: str = "nano"
    """nano (bundled), a Hugging Face id, a folder, or an official .pt file."""
    seed: int = 0
    """Of the models that judge."""
    device: str = "auto"
    """Of the SAM: auto, cpu, cuda or cuda:1."""
    format: Format = None
    """What the dataset is read as, where several formats fit; left out, what is there decides."""
    image_reading: Reading = field(default_factory=ImageReading)

    def __call__(self) -> None:
        if self.apply is not None:
            self._apply(self.apply)
            return
        from maskwright.api import audit

        result = audit(
            self.data,
            self.out,
            run=self.run,
            sam=self.sam,
            most=self.most,
            splits=self.split,
            group=self.group,
            table=self.table,
            column=self.column,
            seed=self.seed,
            format=self.format,
            image_reading=self.image_reading,
            device=self.device,
            progress=True,
        )
        rows = [[each["id"], each["kind"], each["wrong"], each["changed"] or None] for each in result.suspects[:20]]
        names = ["image", "kind", "probability", "pixels to change"]
        print_table(f"the most suspicious of {result.judged:,} masks", names, rows)
        for note in result.notes:
            print(note)
        page, choices = self.out / "report.html", self.out / "repairs.txt"
        print_written(page, choices)
        command = f"maskwright audit {shlex.quote(str(self.data))} --apply {shlex.quote(str(choices))} --out NEW-FOLDER"
        print(f"Look at {page}, write `yes` in {choices.name} where a repair is right, then: {command}")

    def _apply(self, repairs: Path) -> None:
        given = [name for name in ("run", "split", "group", "table", "column") if getattr(self, name)]
        if given:
            raise MaskwrightError(f"--{given[0]} belongs to the audit itself; leave it out with --apply")
        from maskwright.api import apply_repairs

        result = apply_repairs(self.data, repairs, self.out, format=self.format, image_reading=self.image_reading)
        print(f"{len(result.changes):,} masks repaired")
        print_written(self.out / "manifest.json", self.out / "repaired.json")


@dataclass
class Budget:
    """What twice the labels would bring, with a band that says how sure that is; or that it cannot be said."""

    data: Data
    """Dataset with labelled images in `train`, and masks to score on; it stays as it is."""
    out: Path
    """Folder for `budget.json` and `report.html`. Trainings are kept there: the same command goes on with those that are missing."""
    costs: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(optional)")] = None
    """JSON with the seconds that a label takes you, by kind: {"box": 6, "mask": 45}; or your median and how many times it is
    of: {"box": {"median": 5.2, "count": 30}}. Left out: tag 1, point 2.5, box 7, scribble 11, mask (with SAM) 20, opening an image 4."""
    orders: int = 3
    """In which labels are added; the mean of several counts."""
    minutes: Annotated[float | None, OPTIONAL] = None
    """For the trainings of this call; left out, until they are done."""
    group: Group = None
    """What names the images that belong together, such as the frames of one patient: see `maskwright data split --help`."""
    table: Table = None
    """Instead: a table with a row for each image."""
    column: Column = None
    """Its column that names the group."""
    sam: str = "nano"
    """nano (bundled), a Hugging Face id, a folder, or an official .pt file."""
    seed: int = 0
    """Of orders and models."""
    device: str = "auto"
    """Of the SAM: auto, cpu, cuda or cuda:1."""
    format: Format = None
    """What the dataset is read as, where several formats fit; left out, what is there decides."""
    image_reading: Reading = field(default_factory=ImageReading)

    def __call__(self) -> None:
        from maskwright.api import budget

        result = budget(**vars(self), progress=True)
        rows = [[row["images"], row["seconds"] / 60, row["dice"], row["low"], row["high"]] for row in result.curve]
        names = ["images", "minutes of labelling", "Dice", "lowest order", "highest order"]
        print_table("small models on shares of the labels", names, rows)
        print(*result.sentences, sep="\n")
        print_written(self.out / "report.html")
