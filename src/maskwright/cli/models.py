"""Commands that use a trained model, and the demo that trains one."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Positional, arg

from maskwright.api import Engine, ImageReading, ToolName, WriteName
from maskwright.cli.shared import (
    OPTIONAL,
    Data,
    Format,
    OptionGroup,
    Reading,
    RunFolder,
    at_least_1,
    is_main,
    print_table,
    print_written,
)
from maskwright.errors import DataError, MaskwrightError


@dataclass
class SemanticOptions(OptionGroup):
    """For a semantic model (recipe samix)."""

    flip: bool = False
    """Also look at the mirror images: twice the time, slightly better outlines."""


@dataclass
class InContextOptions(OptionGroup):
    """For a semantic model with a reference pool (recipe samix, trained with SAM)."""

    in_context: FlagCreatePairsOff[bool] = False
    """Segment with SAM, which is shown references from the model's pool, instead of with the segmenter."""
    references: Annotated[int | None, OPTIONAL] = None
    """How many references SAM is shown; left out, as many as in training."""
    looks: Annotated[int | None, OPTIONAL] = None
    """Sets of references that SAM tries before the best is chosen, slower and often better; left out, with selector `policy` what was
    better on the validation split (16 or 0), else 0."""


@dataclass
class ClickAgentOptions(OptionGroup):
    """For a click agent (recipe clicks); one of --click, --box and --masks is needed."""

    click: Annotated[tuple[str, ...], arg(metavar="X,Y ...", help_behavior_hint="(optional)")] = ()
    """Where you click, in pixels of the image. One image at a time."""
    label: Annotated[tuple[Literal["fg", "bg"], ...], arg(metavar="{fg,bg} ...", help_behavior_hint="(optional)")] = ()
    """What each click is on: fg (the object) or bg; left out, all are on the object."""
    box: Annotated[str | None, arg(metavar="X0,Y0,X1,Y1", help_behavior_hint="(optional)")] = None
    """A box around the object. One image at a time."""
    category: Annotated[str | None, OPTIONAL] = None
    """What a click or a box is about; left out, the first category."""
    masks: Annotated[Path | None, OPTIONAL] = None
    """Masks to refine: a folder that `predict` wrote, or of PNGs named as the images; or a segmenter's run, used first, in OUT/given."""

    def given(self) -> dict[str, Any]:
        options = super().given()
        if self.click:
            options["click"] = tuple(_numbers("click", text, 2) for text in self.click)
        if self.box is not None:
            options["box"] = _numbers("box", self.box, 4)
        return options


@dataclass
class RefinedMasksOptions(OptionGroup):
    """For a click agent (recipe clicks)."""

    masks: Annotated[Path | None, OPTIONAL] = None
    """Score it on refining these masks, instead of its answers to an oracle's first click."""


@dataclass
class SelfPromptingOptions(OptionGroup):
    """For a SAM that prompts itself (recipe alignsam)."""

    clicks: Annotated[int | None, OPTIONAL] = None
    """How many clicks it places on an image; left out, as many as in training."""


@dataclass
class InstanceOptions(OptionGroup):
    """For a model of instances (recipe s4m)."""

    threshold: Annotated[float | None, OPTIONAL] = None
    """Score 0..1 from which an object is drawn into masks and overlays; left out, 0.5."""


@dataclass
class LargeOptions(OptionGroup):
    """For images too large for memory, and for small things on large images; see docs/large.md."""

    write: Annotated[
        tuple[WriteName, ...], arg(metavar="{tiff,zarr,geojson,gpkg} ...", help_behavior_hint="(optional)")
    ] = ()
    """Predict the images (tiled TIFF, OME-TIFF, GeoTIFF, zarr, slides) by windows, in bounded memory, and write their masks as these."""
    crop: Annotated[float | None, OPTIONAL] = None
    """Side in pixels of the image of the square that fills the model's canvas and slides over each image; left out, as in training."""
    mpp: Annotated[float | None, OPTIONAL] = None
    """Micrometres along a pixel of the images that the model learnt from: pyramids are read at the level that fits."""
    overlap: Annotated[float | None, OPTIONAL] = None
    """Share of the square that neighbouring ones have in common; left out, 0.25."""
    simplify: float = 0.0
    """How far in pixels an outline in vectors may leave its mask, so that it has fewer corners."""


@dataclass
class Predict:
    """Masks of images, written into a folder; images that are done already are skipped, so an interrupted call can be given again."""

    run: RunFolder
    """Run directory, the model folder in it, or a file that `maskwright export` wrote."""
    images: Annotated[Positional[list[Path]], arg(metavar="IMAGES", help_behavior_hint="(required)")]
    """Image files and folders (with all their sub-folders), or one dataset."""
    out: Path
    """Folder for masks/*.png (category or instance ids), overlays/*.jpg and predictions.json; also coco.json or references.html."""
    semantic: OmitArgPrefixes[SemanticOptions] = field(default_factory=SemanticOptions)
    in_context: OmitArgPrefixes[InContextOptions] = field(default_factory=InContextOptions)
    click_agent: OmitArgPrefixes[ClickAgentOptions] = field(default_factory=ClickAgentOptions)
    self_prompting: OmitArgPrefixes[SelfPromptingOptions] = field(default_factory=SelfPromptingOptions)
    instance: OmitArgPrefixes[InstanceOptions] = field(default_factory=InstanceOptions)
    large: OmitArgPrefixes[LargeOptions] = field(default_factory=LargeOptions)
    split: Annotated[str | None, OPTIONAL] = None
    """Of a dataset: only this split."""
    image_reading: Reading = field(default_factory=ImageReading)
    overlay: bool = True
    """Also write pictures of the masks over their images."""
    dataset: bool = True
    """Also put the images into OUT/images (hard links where the disk allows it), so that OUT is a dataset: check it, correct its
    masks, train on it."""
    to: Annotated[ToolName | None, OPTIONAL] = None
    """Also write OUT/TO in a format that annotation tools read, with the images."""
    batch: int = 8
    """Images per pass of the network."""
    engine: Annotated[Engine | None, OPTIONAL] = None
    """torch, or onnx: ONNX Runtime alone, which is faster on a CPU, with what `maskwright export RUN` wrote; left out, torch for a run."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:1."""
    overwrite: bool = False
    """Replace predictions of another model."""

    def __call__(self) -> None:
        at_least_1(batch=self.batch)
        groups = (self.semantic, self.in_context, self.click_agent, self.self_prompting, self.instance, self.large)
        options = {name: value for group in groups for name, value in group.given().items()}
        from maskwright.api import predict

        summary = predict(
            self.run,
            self.images,
            self.out,
            split=self.split,
            image_reading=self.image_reading,
            batch=self.batch,
            overlays=self.overlay,
            dataset=self.dataset,
            to=self.to,
            overwrite=self.overwrite,
            engine=self.engine,
            device=self.device,
            progress=True,
            **options,
        )
        if is_main():
            skipped = f", {summary.skipped} were there already" if summary.skipped else ""
            print(f"{summary.predicted} images predicted{skipped}: {self.out}")
            print_written(*summary.written)
            if summary.lost:
                print(f"not held by {self.to}: {', '.join(summary.lost)}")
        if summary.problems:
            raise DataError(summary.problems)


@dataclass
class Evaluate:
    """Scores of a model on a split with masks: Dice and IoU, AP of instances, or mIoU, F, E and S of a foreground."""

    run: RunFolder
    """Run directory, or the model folder in it."""
    data: Data
    """Dataset with the model's categories."""
    format: Format = None
    """What the dataset is read as, where several formats fit; left out, what is there decides."""
    image_reading: Reading = field(default_factory=ImageReading)
    semantic: OmitArgPrefixes[SemanticOptions] = field(default_factory=SemanticOptions)
    in_context: OmitArgPrefixes[InContextOptions] = field(default_factory=InContextOptions)
    click_agent: OmitArgPrefixes[RefinedMasksOptions] = field(default_factory=RefinedMasksOptions)
    split: str = "test"
    """Which images."""
    json: Annotated[Path | None, OPTIONAL] = None
    """File for all numbers, also those of every image; left out, RUN/evaluation-SPLIT.json (with -in-context or -refined after SPLIT)."""
    batch: int = 8
    """Images per pass of the network."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:1."""

    def __call__(self) -> None:
        at_least_1(batch=self.batch)
        from maskwright.api import busy, evaluate, load, require_data

        require_data(self.data)
        options = {**self.semantic.given(), **self.click_agent.given()}
        with busy("loading the model"):
            model = load(self.run, device=self.device, **self.in_context.given())
        path = self.json or model.scores_path(self.run, self.split, **options)
        scores = evaluate(
            model,
            self.data,
            self.split,
            format=self.format,
            image_reading=self.image_reading,
            batch=self.batch,
            json=path,
            progress=True,
            **options,
        )
        table = model.score_table(scores)
        print_table(f"{scores['split']} of {scores['dataset']}", table.columns, table.rows)
        if table.note:
            print(table.note)
        print_written(path)


@dataclass
class Demo:
    """What cheap labels are worth: three trainings on pictures that it draws itself; no download, no GPU."""

    out: Path = Path("maskwright-demo")
    """Folder for everything; a demo that was interrupted in it goes on."""
    minutes: float = 5.0
    """About how long it takes on two CPU cores."""
    seed: int = 0
    """Of the pictures and the trainings."""

    def __call__(self) -> None:
        from maskwright import demo

        demo.main(self.out, minutes=self.minutes, seed=self.seed)


def _numbers(name: str, text: str, count: int) -> tuple[float, ...]:
    """``"3,4.5"`` as numbers. Raises MaskwrightError."""
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != count or not all(math.isfinite(number) for number in numbers):
        raise MaskwrightError(f"--{name} {text}: must be {count} numbers with commas between them")
    return numbers
