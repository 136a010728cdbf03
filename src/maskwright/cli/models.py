"""Commands that use a trained model, and the demo that trains one."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import FlagCreatePairsOff, Positional, arg

from maskwright.cli.shared import Data, RunFolder, advancing, at_least_1, given, print_table, processes_for
from maskwright.errors import DataError, MaskwrightError

if TYPE_CHECKING:
    from maskwright.engine.predictor import Predictor


@dataclass
class Predict:
    """Masks of images: OUT/masks/*.png (category or instance ids), OUT/overlays/*.jpg and OUT/predictions.json.

    A model of instances also writes OUT/coco.json: its results, with scores, as a COCO file.

    Images that are done already are skipped, so an interrupted call goes on when it is given again."""

    run: RunFolder
    """Run directory, or the model folder in it."""
    images: Annotated[Positional[list[Path]], arg(metavar="IMAGES", help_behavior_hint="(required)")]
    """Image files and folders (with all their sub-folders), or one dataset."""
    out: Path
    """Folder for the results."""
    split: str | None = None
    """Of a dataset: only this split."""
    overlay: bool = True
    """Also write pictures of the masks over their images."""
    flip: bool = False
    """Of a semantic model: also look at the mirror images: twice the time, slightly better."""
    in_context: FlagCreatePairsOff[bool] = False
    """Segment with SAM and the model's reference pool; which references it was shown stands in OUT/references.html."""
    references: int | None = None
    """In context: how many references SAM is shown; left out, as many as in training."""
    looks: int | None = None
    """In context: sets of references that SAM answers before one is chosen, by how sure it is and how far the answers agree; slower, and
    better the less SAM knows the data; 0 chooses unseen; left out, 16 with the selector `policy`, else 0."""
    click: Annotated[tuple[str, ...], arg(metavar="X,Y ...")] = ()
    """For an agent of `clicks`: where you click, in pixels of the image. One image at a time."""
    label: tuple[Literal["fg", "bg"], ...] = ()
    """What each click is on: fg (the object) or bg; left out, all are on the object."""
    box: Annotated[str | None, arg(metavar="X0,Y0,X1,Y1")] = None
    """For an agent: a box around the object. One image at a time."""
    category: str | None = None
    """What a click or a box is about; left out, the first category."""
    masks: Path | None = None
    """For an agent: masks to refine: a folder that `predict` wrote, a folder of PNGs named as the images, or the run of a segmenter,
    whose masks are then made first, in OUT/given."""
    clicks: int | None = None
    """Of a model of `alignsam`: how many clicks it places on an image; left out, as many as in training."""
    threshold: float | None = None
    """Of a model of instances: score from which an object is drawn into masks and overlays (default .5)."""
    batch: int = 8
    """Images per pass of the network."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:1."""
    overwrite: bool = False
    """Replace predictions of another model."""

    def __call__(self) -> None:
        at_least_1(batch=self.batch)
        from maskwright.api import load
        from maskwright.engine.prediction_folder import find_images, predict_folder

        processes, device = processes_for(self.device)
        jobs = find_images(self.images, self.out, self.split)
        options = given(flip=self.flip, clicks=self.clicks, threshold=self.threshold, **self._prompts(len(jobs)))
        model = _load_model(self, device)
        model.with_defaults(options)
        settings: dict[str, Any] = {"batch": self.batch, "overwrite": self.overwrite, "processes": processes}
        if self.masks is not None and _holds_model(self.masks):
            from maskwright.methods.clicks.predictor import ClickPredictor

            first = load(self.masks, device=device)
            assert isinstance(model, ClickPredictor)  # others have no --masks
            model.refuse_masks_of(first)
            options["masks"] = self.out / "given"
            with advancing("masks to refine", processes) as progress:
                predict_folder(first, jobs, options["masks"], overlays=False, progress=progress, **settings)
        with advancing("predicting", processes) as progress:
            summary = predict_folder(
                model, jobs, self.out, overlays=self.overlay, progress=progress, **settings, **options
            )
        if processes.is_main_process:
            skipped = f", {summary.skipped} were there already" if summary.skipped else ""
            print(f"{summary.predicted} images predicted{skipped}: {self.out}")
            for path in summary.written:
                print(f"written: {path}")
        if summary.problems:
            raise DataError(summary.problems)

    def _prompts(self, images: int) -> dict[str, Any]:
        """What the user tells an agent, as its options."""
        click = tuple(_numbers("click", text, 2) for text in self.click)
        box = None if self.box is None else _numbers("box", self.box, 4)
        if (click or box) and images > 1:
            what = "--click" if click else "--box"
            raise MaskwrightError(f"{what} is about one image, and {images} were given; name one, or give --masks")
        found = {"click": click, "label": self.label, "box": box, "category": self.category, "masks": self.masks}
        return {name: value for name, value in found.items() if value}


@dataclass
class Evaluate:
    """Dice and IoU, or AP of instances, of a model on a split with masks; also written to RUN/evaluation-SPLIT.json (in context:
    RUN/evaluation-SPLIT-in-context.json; with --masks: RUN/evaluation-SPLIT-refined.json)."""

    run: RunFolder
    """Run directory, or the model folder in it."""
    data: Data
    """Dataset with the model's categories."""
    split: str = "test"
    """Which images."""
    json: Path | None = None
    """Write the numbers, also those of every image, to this file instead."""
    flip: bool = False
    """Also look at the mirror images: twice the time, slightly better."""
    in_context: FlagCreatePairsOff[bool] = False
    """Score SAM with the model's reference pool instead of the segmenter."""
    references: int | None = None
    """In context: how many references SAM is shown; left out, as many as in training."""
    looks: int | None = None
    """In context: sets of references that SAM answers before one is chosen, by how sure it is and how far the answers agree; slower, and
    better the less SAM knows the data; 0 chooses unseen; left out, 16 with the selector `policy`, else 0."""
    masks: Path | None = None
    """For an agent of `clicks`: score it on refining these masks, instead of its clicks after an oracle's first one."""
    batch: int = 8
    """Images per pass of the network."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:1."""

    def __call__(self) -> None:
        at_least_1(batch=self.batch)
        from maskwright.api import evaluate
        from maskwright.data.dataset import Dataset
        from maskwright.data.images import write_atomic

        model = _load_model(self, self.device)
        with advancing("evaluating") as progress:
            data, options = Dataset.load(self.data), given(flip=self.flip, masks=self.masks)
            scores = evaluate(model, data, self.split, batch=self.batch, progress=progress, **options)
        table = model.score_table(scores)
        print_table(f"{scores['split']} of {scores['dataset']}", table.columns, table.rows)
        if table.note:
            print(table.note)
        text = json.dumps(scores, indent=1) + "\n"
        # A copied model folder has no run around it, and nothing but the model belongs into it.
        is_run = self.run.resolve() != model.folder.resolve()
        name = _as_name(self.split) + ("-in-context" if self.in_context else "-refined" if self.masks else "")
        path = self.json or (self.run / f"evaluation-{name}.json" if is_run else None)
        if path:
            print(f"written: {write_atomic(path, text)}")


@dataclass
class Demo:
    """What cheap labels are worth: three trainings on pictures that it draws itself; no download, no GPU."""

    out: Path = Path("maskwright-demo")
    """Folder for everything; a demo that was interrupted in it goes on."""
    minutes: float = 6.0
    """About how long it takes on two CPU cores."""
    seed: int = 0
    """Of the pictures and the trainings."""

    def __call__(self) -> None:
        from maskwright import demo

        demo.main(self.out, minutes=self.minutes, seed=self.seed)


def _load_model(command: Predict | Evaluate, device: Any) -> Predictor:
    """The model that a command names, as a segmenter or in context."""
    if command.in_context:
        from maskwright.api import load_in_context

        if command.flip:
            raise MaskwrightError("--flip: in context images are not looked at in the mirror; leave out one of the two")
        return load_in_context(command.run, references=command.references, looks=command.looks, device=device)
    from maskwright.api import load

    for name in ("references", "looks"):
        if getattr(command, name) is not None:
            raise MaskwrightError(f"--{name}: is about references in context; give --in-context too, or leave it out")
    return load(command.run, device=device)


def _holds_model(path: Path) -> bool:
    """Whether a folder is a run or a model folder, not one of masks."""
    return any((folder / "model.safetensors").is_file() for folder in (path, path / "model"))


def _numbers(name: str, text: str, count: int) -> tuple[float, ...]:
    """``"3,4.5"`` as numbers. Raises MaskwrightError."""
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if len(found) != count or not all(math.isfinite(number) for number in found):
        raise MaskwrightError(f"--{name} {text}: must be {count} numbers with commas between them")
    return found


def _as_name(split: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in split)
