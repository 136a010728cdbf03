"""`maskwright sam`: the foundation model by itself."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from maskwright.cli.shared import Data, Source, advancing, at_least_1, canvas_size, print_table, processes_for
from maskwright.errors import DataError


@dataclass
class SamInfo:
    """Size and speed of a SAM on this machine."""

    sam: Source = "nano"
    """nano (bundled), a Hugging Face id such as facebook/sam2.1-hiera-tiny, a folder, or an official .pt file."""
    size: int | None = None
    """Canvas size in pixels other than the checkpoint's."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:1."""

    def __call__(self) -> None:
        canvas_size(self.size)
        from maskwright.engine.devices import find_device
        from maskwright.sam.info import info

        facts = info(self.sam, size=self.size, device=find_device(self.device))
        files = facts.pop("files")
        lines = {
            "trunk": f"{facts['trunk']}, {', '.join(map(str, facts['trunk_widths']))} channels at strides 4, 8, 16, 32",
            "parameters": f"{facts['parameters'] / 1e6:.2f} M, {facts['encoder_parameters'] / 1e6:.2f} M to encode",
            "canvas": f"{facts['size']} x {facts['size']} pixels",
            "embedding": f"{facts['width']} channels",
            "files": "\n".join(f"{path} ({size / 2**20:.1f} MiB)" for path, size in files.items()) or "none here",
            "encode": f"{facts['encode_ms']:.1f} ms for an image on {facts['device']}, {facts['threads']} CPU threads",
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
    split: str = "test"
    """Which images are asked; references in context are from `train`."""
    size: int | None = None
    """Canvas size in pixels other than the checkpoint's."""
    limit: int = 100
    """Images at most, drawn by the seed."""
    objects: int = 3
    """Objects of an image at most, drawn by the seed."""
    clicks: int = 5
    """How many corrective clicks an oracle makes."""
    seed: int = 0
    """Which images, objects and references."""
    json: Path | None = None
    """Write the numbers, also those of every object, to this file."""
    report: Path | None = None
    """Write a page with a curve and pictures to this HTML file."""
    batch: int = 8
    """Images per pass of the encoder."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:1."""

    def __call__(self) -> None:
        at_least_1(limit=self.limit, objects=self.objects, clicks=self.clicks, batch=self.batch)
        canvas_size(self.size)
        from maskwright.data.images import write_atomic
        from maskwright.data.labels import Dataset
        from maskwright.engine.devices import find_device
        from maskwright.methods.zero_shot import evaluate_sam
        from maskwright.methods.zero_shot.report import COLUMNS, explanation, table, title
        from maskwright.sam.sam import Sam

        dataset, device = Dataset.load(self.data), find_device(self.device)
        model = Sam.load(self.sam, size=self.size).to(device).requires_grad_(False)
        with advancing("evaluating") as progress:
            scores = evaluate_sam(
                model,
                dataset,
                self.split,
                limit=self.limit,
                objects=self.objects,
                batch=self.batch,
                clicks=self.clicks,
                seed=self.seed,
                progress=progress,
                report=self.report,
            )
        print_table(title(scores), COLUMNS, table(scores))
        print(*explanation(scores), sep="\n")
        if self.json:
            write_atomic(self.json, json.dumps(scores, indent=1) + "\n")
        for path in (self.json, self.report):
            if path:
                print(f"written: {path}")


@dataclass
class SamConvert:
    """Turn an official SAM 2 or SAM 2.1 checkpoint (.pt) into a folder that all commands take."""

    file: Annotated[Positional[Path], arg(metavar="FILE.pt")]
    """The checkpoint; code in it is never run."""
    out: Path
    """New folder."""
    image_size: int | None = None
    """Side of the canvas it was made for, where it is not a released model."""
    heads: int | None = None
    """Attention heads of the first stage, likewise."""
    windows: tuple[int, ...] | None = None
    """Attention window of each stage in cells, likewise."""
    global_blocks: tuple[int, ...] | None = None
    """Blocks with global attention, counted from 0, likewise."""

    def __call__(self) -> None:
        from maskwright.sam.convert import convert

        folder = convert(
            self.file,
            self.out,
            image_size=self.image_size,
            heads=self.heads,
            windows=self.windows,
            global_blocks=self.global_blocks,
        )
        print(f"written: {folder}")


@dataclass
class SamPrecompute:
    """Encode all images of a dataset once and keep the embeddings; what is there is not made again."""

    sam: Source
    """nano (bundled), a Hugging Face id, a folder, or an official .pt file."""
    data: Data
    """Dataset: a folder, or its JSON file."""
    store: Path
    """Folder for the embeddings."""
    size: int | None = None
    """Canvas size in pixels other than the checkpoint's."""
    dtype: Literal["float32", "float16"] = "float32"
    """float16 takes half the space."""
    batch: int = 8
    """Images per pass of the encoder."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:1."""
    overwrite: bool = False
    """Empty a store that was made with other weights."""

    def __call__(self) -> None:
        at_least_1(batch=self.batch)
        canvas_size(self.size)
        from maskwright.data.labels import Dataset
        from maskwright.sam.precompute import precompute, signature
        from maskwright.sam.sam import Sam
        from maskwright.sam.store import EmbeddingStore

        processes, device = processes_for(self.device)
        dataset = Dataset.load(self.data)
        model = Sam.load(self.sam, size=self.size).to(device).requires_grad_(False)
        made_with = signature(model, self.dtype)
        # The main process first, so that a store to be emptied is empty before anyone else opens it.
        if not processes.is_main_process:
            processes.wait_for_everyone()
        store = EmbeddingStore(self.store, made_with, memory_bytes=0, overwrite=self.overwrite)
        if processes.is_main_process:
            processes.wait_for_everyone()
        problems: list[str] = []
        encoded = there = 0
        with advancing("encoding", processes) as progress:
            try:
                encoded, there = precompute(
                    model,
                    dataset,
                    store,
                    batch=self.batch,
                    rank=processes.process_index,
                    world=processes.num_processes,
                    progress=progress,
                )
            except DataError as error:
                problems = error.problems
        if processes.num_processes > 1:
            from accelerate.utils import gather_object

            parts = gather_object([(encoded, there, problems)])
            encoded, there = (sum(part[column] for part in parts) for column in (0, 1))
            problems = [problem for part in parts for problem in part[2]]
        if problems:
            raise DataError(problems, dataset.source or str(dataset.root))
        if processes.is_main_process:
            print(f"{encoded} images encoded, {there} were there already: {self.store}")
