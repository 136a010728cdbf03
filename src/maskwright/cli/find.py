"""`maskwright find`: one example → a folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from maskwright.api import ImageReading, ToolName
from maskwright.cli.shared import OPTIONAL, Format, Reading, is_main, print_written
from maskwright.errors import DataError


@dataclass
class Find:
    """Look for what a few masks show in many images, without training; and say where it is not, and where that cannot be said."""

    examples: Annotated[Positional[Path], arg(metavar="EXAMPLES")]
    """Dataset with one or more masks, of one or more categories; masks without any object show where it is not."""
    images: Annotated[Positional[list[Path]], arg(metavar="IMAGES", help_behavior_hint="(optional)")] = field(
        default_factory=list
    )
    """Image files and folders, or one dataset; left out, the images of EXAMPLES that have no label."""
    out: Path = field(kw_only=True)
    """Folder for masks/, overlays/, predictions.json, the contact sheet report.html, and certain.json, a dataset of what is certain."""
    alpha: float = 0.1
    """Share of wrong verdicts that you accept; the smaller, the more images are unsure. Below .1 more examples are needed."""
    sam: str = "nano"
    """nano (bundled), a Hugging Face id, a folder, or an official .pt file."""
    scorer: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(optional)")] = None
    """For another SAM than nano: what tools/train_find_scorer.py learnt for it; left out, its verdicts come from your examples alone."""
    split: Annotated[str | None, OPTIONAL] = None
    """Of a dataset of images: only this split."""
    format: Format = None
    """What EXAMPLES is read as, where several formats fit; left out, what is there decides."""
    image_reading: Reading = field(default_factory=ImageReading)
    overlay: bool = True
    """Also write pictures of the masks over their images."""
    to: Annotated[ToolName | None, OPTIONAL] = None
    """Also write OUT/TO in a format that annotation tools read, with the images."""
    batch: int = 8
    """Images per pass of the network."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:1."""
    overwrite: bool = False
    """Replace what another call left in OUT."""

    def __call__(self) -> None:
        from maskwright.api import find

        options = {name: value for name, value in vars(self).items() if name not in ("images", "overlay")}
        result = find(images=self.images or None, overlays=self.overlay, progress=True, **options)
        if is_main():
            skipped = f" ({result.summary.skipped} were there already)" if result.summary.skipped else ""
            counts = ", ".join(f"{count:,} {verdict}" for verdict, count in result.verdicts.items())
            print(f"{sum(result.verdicts.values()):,} images{skipped}: {counts}")
            print(*result.notes, sep="\n")
            print_written(*result.summary.written)
            if result.summary.lost:
                print(f"not held by {self.to}: {', '.join(result.summary.lost)}")
        if result.summary.problems:
            raise DataError(result.summary.problems)
