"""`maskwright sam`: the foundation model by itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import FlagCreatePairsOff, Positional, arg

from maskwright.api import ImageReading
from maskwright.cli.shared import (
    OPTIONAL,
    Data,
    Format,
    Reading,
    Source,
    at_least_1,
    canvas_size,
    is_main,
    print_table,
    print_written,
)

INTEGERS = arg(metavar="INT ...", help_behavior_hint="(optional)")


@dataclass
class SamInfo:
    """Size and speed of a SAM on this machine."""

    sam: Source = "nano"
    """nano (bundled), a Hugging Face id such as facebook/sam2.1-hiera-tiny, a folder, or an official .pt file."""
    size: Annotated[int | None, OPTIONAL] = None
    """Canvas size in pixels other than the checkpoint's."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:1."""

    def __call__(self) -> None:
        canvas_size(self.size)
        from maskwright.api import busy, sam_info

        with busy("measuring"):
            facts = sam_info(self.sam, size=self.size, device=self.device)
        files, threads = facts["files"], facts["threads"]
        cores = f"{threads} CPU thread{'s' if threads != 1 else ''}"
        lines = {
            "trunk": f"{facts['trunk']}, {', '.join(map(str, facts['trunk_widths']))} channels at strides 4, 8, 16, 32",
            "parameters": f"{facts['parameters'] / 1e6:.2f} M, {facts['encoder_parameters'] / 1e6:.2f} M to encode",
            "canvas": f"{facts['size']} x {facts['size']} pixels",
            "embedding": f"{facts['width']} channels",
            "files": "\n".join(f"{path} ({size / 2**20:.1f} MiB)" for path, size in files.items()) or "none here",
            "encode": f"{facts['encode_ms']:.1f} ms for an image on {facts['device']}, {cores}",
            "decode": f"{facts['decode_ms']:.1f} ms for a click",
        }
        print_table(facts["name"], ["", ""], list(lines.items()), header=False)


@dataclass
class SamEvaluate:
    """What a SAM does with a box, with clicks and in context, without any training; beside answers without a model."""

    sam: Source
    """nano (bundled), a Hugging Face id, a folder, or an official .pt file."""
    data: Data
    """Dataset with masks."""
    format: Format = None
    """What the dataset is read as, where several formats fit; left out, what is there decides."""
    image_reading: Reading = field(default_factory=ImageReading)
    split: str = "test"
    """Which images are asked; references in context are from `train`."""
    size: Annotated[int | None, OPTIONAL] = None
    """Canvas size in pixels other than the checkpoint's."""
    limit: int = 100
    """Images at most, drawn by the seed."""
    objects: int = 3
    """Objects of an image at most, drawn by the seed."""
    clicks: int = 5
    """How many corrective clicks an oracle makes."""
    noc: FlagCreatePairsOff[bool] = False
    """Also count the clicks to an IoU of .80, .85 and .90; the oracle then makes 20 in all, which takes longer."""
    seed: int = 0
    """Which images, objects and references."""
    json: Annotated[Path | None, OPTIONAL] = None
    """Write the numbers, also those of every object, to this file."""
    report: Annotated[Path | None, OPTIONAL] = None
    """Write a page with a curve and pictures to this HTML file."""
    batch: int = 8
    """Images per pass of the encoder."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:1."""

    def __call__(self) -> None:
        at_least_1(limit=self.limit, objects=self.objects, clicks=self.clicks, batch=self.batch)
        canvas_size(self.size)
        from maskwright.api import sam_evaluate, sam_score_table

        scores = sam_evaluate(
            self.sam,
            self.data,
            self.split,
            format=self.format,
            image_reading=self.image_reading,
            size=self.size,
            limit=self.limit,
            objects=self.objects,
            clicks=self.clicks,
            noc=self.noc,
            seed=self.seed,
            batch=self.batch,
            device=self.device,
            json=self.json,
            report=self.report,
            progress=True,
        )
        table = sam_score_table(scores)
        print_table(table.title, table.columns, table.rows)
        print(table.note)
        print_written(self.json, self.report)


@dataclass
class SamConvert:
    """Turn an official SAM 2 or SAM 2.1 checkpoint (.pt) into a folder that all commands take."""

    file: Annotated[Positional[Path], arg(metavar="FILE.pt")]
    """The checkpoint; code in it is never run."""
    out: Path
    """New folder."""
    image_size: Annotated[int | None, OPTIONAL] = None
    """Side of the canvas it was made for; needed where it is not a released model, and so are the next three."""
    heads: Annotated[int | None, OPTIONAL] = None
    """Attention heads of the first stage."""
    windows: Annotated[tuple[int, ...] | None, INTEGERS] = None
    """Attention window of each stage in cells."""
    global_blocks: Annotated[tuple[int, ...] | None, INTEGERS] = None
    """Blocks with global attention, counted from 0."""

    def __call__(self) -> None:
        from maskwright.api import busy, sam_convert

        with busy("converting"):
            folder = sam_convert(**vars(self))
        print_written(folder)


@dataclass
class SamPrecompute:
    """Encode all images of a dataset once and keep the embeddings; what is there is not made again."""

    sam: Source
    """nano (bundled), a Hugging Face id, a folder, or an official .pt file."""
    data: Data
    """Dataset: a folder, or its JSON, XML or YAML file."""
    store: Path
    """Folder for the embeddings."""
    format: Format = None
    """What the dataset is read as, where several formats fit; left out, what is there decides."""
    image_reading: Reading = field(default_factory=ImageReading)
    size: Annotated[int | None, OPTIONAL] = None
    """Canvas size in pixels other than the checkpoint's."""
    dtype: Literal["float32", "float16"] = "float32"
    """float16 takes half the space."""
    shards: FlagCreatePairsOff[bool] = False
    """Keep the embeddings in a few large files instead of one for each image: for hundreds of thousands of images."""
    batch: int = 8
    """Images per pass of the encoder."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:1."""
    overwrite: bool = False
    """Empty a store that was made with other weights."""

    def __call__(self) -> None:
        at_least_1(batch=self.batch)
        canvas_size(self.size)
        from maskwright.api import precompute

        encoded, present = precompute(
            self.sam,
            self.data,
            self.store,
            format=self.format,
            image_reading=self.image_reading,
            size=self.size,
            dtype=self.dtype,
            shards=self.shards,
            batch=self.batch,
            overwrite=self.overwrite,
            device=self.device,
            progress=True,
        )
        if is_main():
            print(f"{encoded} images encoded, {present} were there already: {self.store}")
