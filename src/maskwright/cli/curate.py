"""`maskwright audit`, `next` and `budget`: help with the labelling that is still missing, or wrong."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, TypeAlias

from tyro.conf import arg

from maskwright.api import ImageReading
from maskwright.cli.shared import OPTIONAL, Column, Data, Format, Group, Reading, Table, print_table, print_written
from maskwright.errors import MaskwrightError

Run: TypeAlias = Annotated[Path | None, arg(metavar="RUN", help_behavior_hint="(optional)")]


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
