"""The command line. Every command is a dataclass whose fields are its arguments; calling it does the work.

Nothing heavy is imported before a command is known, so that help comes at once.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from tyro.conf import FlagCreatePairsOff, Positional, arg
from tyro.extras import SubcommandApp

from maskwright.errors import DataError, MaskwrightError
from maskwright.recipes import RECIPES

if TYPE_CHECKING:
    from maskwright.engine.predictor import Predictor
    from maskwright.predictions import Processes

Progress: TypeAlias = Callable[[int, int], None]
Data: TypeAlias = Annotated[Positional[Path], arg(metavar="DATA")]
RunFolder: TypeAlias = Annotated[Positional[Path], arg(metavar="RUN")]
Source: TypeAlias = Annotated[Positional[str], arg(metavar="SAM")]

DESCRIPTION = """Segmentation models from whatever labels there are: masks, boxes, scribbles, points, tags, or none.

From labels to masks in four steps:
  maskwright data check DATA
  maskwright train samix DATA --out RUN
  maskwright evaluate RUN DATA
  maskwright predict RUN IMAGES --out DIR

`maskwright demo` shows all of it on pictures that it draws itself. With several GPUs write `accelerate launch -m
maskwright` instead of `maskwright`."""

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 1 for what the user can mend, 130 after an interrupt.

    Usage errors end in SystemExit with status 2, and --help with status 0.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    if args == ["--version"]:
        from maskwright import __version__

        print(f"maskwright {__version__}")
        return 0
    # The other libraries' chatter is not the user's business; warnings and what goes wrong is.
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        try:
            return _run(args)
        finally:
            _leave_processes()
    except MaskwrightError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        remedy = "continue with --resume" if args[:1] == ["train"] else "give the same command again to go on"
        _tell(f"interrupted; {remedy}")
        return 130
    except BrokenPipeError:
        # The reader of a pipe (head, less) has gone. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        if error.errno in _NO_SPACE:
            return _fail(f"{where}the disk is full; free some space and give the command again")
        if error.errno in _NOT_ALLOWED:
            return _fail(f"{where}{os.strerror(error.errno)}; choose another place or change its permissions")
        raise
    except RuntimeError as error:
        # Named rather than imported: torch takes seconds.
        if type(error).__name__ != "OutOfMemoryError":
            raise
        return _fail("the GPU's memory is full; give a smaller --batch or --size, or --device cpu")


def _run(args: list[str]) -> int:
    recipe = args[1] if args[:1] == ["train"] and args[1:2] and args[1] in RECIPES else None
    command = _app(recipe).cli(prog="maskwright", description=DESCRIPTION, args=args)
    if recipe is None:
        return command() or 0
    run = RECIPES[recipe].module().main(command)
    if _is_main():
        print(f"trained: {run}\npredict with: maskwright predict {run} IMAGES --out DIR")
    return 0


def _app(recipe: str | None) -> SubcommandApp:
    """All commands. A recipe's own settings are imported only where it was asked for, as they need PyTorch."""
    app, train, data, sam = SubcommandApp(), SubcommandApp(), SubcommandApp(), SubcommandApp()
    train.__doc__ = "Train a model."
    data.__doc__ = "Check, count, weaken and convert datasets."
    sam.__doc__ = "The foundation model: facts, official checkpoints, embeddings ahead of time."
    for name, known in RECIPES.items():
        settings = known.module().Config if name == recipe else dataclasses.make_dataclass(name, [])
        train.command(name=name, help=known.text)(settings)
    groups = (
        (data, {"check": Check, "stats": Stats, "weaken": Weaken, "convert": Convert}),
        (sam, {"info": SamInfo, "evaluate": SamEvaluate, "convert": SamConvert, "precompute": SamPrecompute}),
    )
    for group, commands in groups:
        for name, command in commands.items():
            group.command(name=name)(command)
    app.command(train, name="train")
    app.command(name="predict")(Predict)
    app.command(name="evaluate")(Evaluate)
    app.command(name="demo")(Demo)
    app.command(data, name="data")
    app.command(sam, name="sam")
    return app


# ------------------------------------------------------------------------------------------------------ use a model


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
    threshold: float | None = None
    """Of a model of instances: score from which an object is drawn into masks and overlays (default .5)."""
    batch: int = 8
    """Images per pass of the network."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:1."""
    overwrite: bool = False
    """Replace predictions of another model."""

    def __call__(self) -> None:
        _at_least_1(batch=self.batch)
        from maskwright.api import load
        from maskwright.predictions import find_images, predict_folder

        processes, device = _processes(self.device)
        jobs = find_images(self.images, self.out, self.split)
        options = _given(flip=self.flip, threshold=self.threshold, **self._prompts(len(jobs)))
        model = _load_model(self, device)
        model.chosen(options)
        settings: dict[str, Any] = {"batch": self.batch, "overwrite": self.overwrite, "processes": processes}
        if self.masks is not None and _holds_model(self.masks):
            first = load(self.masks, device=device)
            options["masks"] = self.out / "given"
            with _advance("masks to refine", processes) as progress:
                predict_folder(first, jobs, options["masks"], overlays=False, progress=progress, **settings)
        with _advance("predicting", processes) as progress:
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
    RUN/evaluation-SPLIT-in-context.json)."""

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
    masks: Path | None = None
    """For an agent of `clicks`: score it on refining these masks, instead of its clicks after an oracle's first one."""
    batch: int = 8
    """Images per pass of the network."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:1."""

    def __call__(self) -> None:
        _at_least_1(batch=self.batch)
        from maskwright.api import evaluate
        from maskwright.data.images import write_atomic
        from maskwright.data.labels import Dataset

        model = _load_model(self, self.device)
        with _advance("evaluating") as progress:
            data, options = Dataset.load(self.data), _given(flip=self.flip, masks=self.masks)
            scores = evaluate(model, data, self.split, batch=self.batch, progress=progress, **options)
        table = model.score_table(scores)
        _print_table(f"{scores['split']} of {scores['dataset']}", table.columns, table.rows)
        if table.note:
            print(table.note)
        text = json.dumps(scores, indent=1) + "\n"
        # A copied model folder has no run around it, and nothing but the model belongs into it.
        is_run = self.run.resolve() != model.folder.resolve()
        name = _as_name(self.split) + ("-in-context" if self.in_context else "")
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


# ------------------------------------------------------------------------------------------------------------- data


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
        from maskwright.data.check import check
        from maskwright.data.labels import Dataset

        problems, found = [], {}
        try:
            dataset = Dataset.load(self.data)
        except DataError as error:
            problems = [str(error)] if len(error.problems) == 1 else error.problems
        else:
            with _bar("checking", len(dataset)) as progress:
                problems = check(dataset, progress=progress, training=self.training)
            splits = {name: len(dataset.split(name)) for name in dict.fromkeys(sample.split for sample in dataset)}
            found = {"images": len(dataset), "splits": splits, "categories": list(dataset.categories)}
        if self.json:
            print(json.dumps({"data": str(self.data), **found, "problems": problems}, indent=1))
        elif problems:
            print(f"{len(problems)} problem{'s' if len(problems) > 1 else ''}:", *problems, sep="\n  - ")
        else:
            splits = ", ".join(f"{count} {name}" for name, count in found["splits"].items())
            print(f"no problems: {found['images']} images ({splits}); categories: {', '.join(found['categories'])}")
        return 1 if problems else 0


@dataclass
class Stats:
    """What is in a dataset: images by split and label, categories, sizes."""

    data: Data
    """Dataset: a folder, or its JSON file."""
    json: bool = False
    """Print JSON."""

    def __call__(self) -> None:
        from maskwright.data.labels import Dataset
        from maskwright.data.stats import stats

        numbers = stats(Dataset.load(self.data))
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
    none: float | None = None
    """Share that loses all labels; left out, what remains to 1."""
    seed: int = 0
    """Which image gets which kind."""
    split: str = "train"
    """Whose masks are weakened; other splits stay as they are."""

    def __call__(self) -> None:
        from maskwright.data.labels import Dataset, Kind
        from maskwright.data.weaken import weaken

        shares = {kind: getattr(self, str(kind)) for kind in reversed(Kind) if kind != Kind.NONE}
        rest = max(0.0, 1 - sum(shares.values())) if self.none is None else self.none
        result = weaken(Dataset.load(self.data), self.out, shares | {Kind.NONE: rest}, self.seed, self.split)
        part = result.split(self.split)
        kinds = [sample.labels.kind for sample in part]
        told = ", ".join(f"{kinds.count(kind)} {kind}" for kind in reversed(Kind) if kind in kinds)
        print(f"{len(result)} images, of these {len(part)} in {self.split}: {told}\nwritten: {self.out}")


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
        from maskwright.data.formats import convert
        from maskwright.data.labels import Dataset

        print(f"written: {convert(Dataset.load(self.data), self.out, self.to, allow_loss=self.allow_loss)}")


# -------------------------------------------------------------------------------------------------------------- sam


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
        _canvas_size(self.size)
        from maskwright.engine.predictor import find_device
        from maskwright.sam.info import info

        facts = info(self.sam, size=self.size, device=find_device(self.device))
        files = facts.pop("files")
        lines = {
            "parameters": f"{facts['parameters'] / 1e6:.2f} M, {facts['encoder_parameters'] / 1e6:.2f} M to encode",
            "canvas": f"{facts['size']} x {facts['size']} pixels",
            "embedding": f"{facts['width']} channels",
            "files": "\n".join(f"{path} ({size / 2**20:.1f} MiB)" for path, size in files.items()) or "none here",
            "encode": f"{facts['encode_ms']:.1f} ms for an image on {facts['device']}, {facts['threads']} CPU threads",
            "decode": f"{facts['decode_ms']:.1f} ms for a click",
        }
        _print_table(facts["name"], ["", ""], list(lines.items()), header=False)


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
        _at_least_1(limit=self.limit, objects=self.objects, clicks=self.clicks, batch=self.batch)
        _canvas_size(self.size)
        from maskwright.data.images import write_atomic
        from maskwright.data.labels import Dataset
        from maskwright.engine.predictor import find_device
        from maskwright.sam.sam import Sam
        from maskwright.sam_evaluation import evaluate_sam
        from maskwright.sam_evaluation.report import COLUMNS, explanation, table, title

        dataset, device = Dataset.load(self.data), find_device(self.device)
        model = Sam.load(self.sam, size=self.size).to(device)
        with _advance("evaluating") as progress:
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
        _print_table(title(scores), COLUMNS, table(scores))
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
        _at_least_1(batch=self.batch)
        _canvas_size(self.size)
        from maskwright.data.labels import Dataset
        from maskwright.sam.precompute import precompute, signature
        from maskwright.sam.sam import Sam
        from maskwright.sam.store import EmbeddingStore

        processes, device = _processes(self.device)
        dataset = Dataset.load(self.data)
        model = Sam.load(self.sam, size=self.size).to(device)
        made_with = signature(model, self.dtype)
        # The main process first, so that a store to be emptied is empty before anyone else opens it.
        if not processes.is_main_process:
            processes.wait_for_everyone()
        store = EmbeddingStore(self.store, made_with, memory_bytes=0, overwrite=self.overwrite)
        if processes.is_main_process:
            processes.wait_for_everyone()
        with _advance("encoding", processes) as progress:
            encoded, there = precompute(
                model,
                dataset,
                store,
                batch=self.batch,
                rank=processes.process_index,
                world=processes.num_processes,
                progress=progress,
            )
        if processes.num_processes > 1:
            from accelerate.utils import gather_object

            counts = gather_object([(encoded, there)])
            encoded, there = (sum(column) for column in zip(*counts))
        if processes.is_main_process:
            print(f"{encoded} images encoded, {there} were there already: {self.store}")


# --------------------------------------------------------------------------------------------------- shared by them


def _load_model(command: Predict | Evaluate, device: Any) -> Predictor:
    """The model that a command names, as a segmenter or in context."""
    if command.in_context:
        from maskwright.api import load_in_context

        if command.flip:
            raise MaskwrightError("--flip: in context images are not looked at in the mirror; leave out one of the two")
        return load_in_context(command.run, references=command.references, device=device)
    from maskwright.api import load

    if command.references is not None:
        raise MaskwrightError("--references: counts references in context; give --in-context too, or leave it out")
    return load(command.run, device=device)


def _processes(device: str) -> tuple[Processes, Any]:
    """The processes that share the work (one, unless `accelerate launch` started several), and this one's device."""
    from maskwright.engine.predictor import find_device
    from maskwright.predictions import Alone

    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Alone(), find_device(device)
    from accelerate import PartialState

    state = PartialState(cpu=device == "cpu")
    return state, state.device if device in ("auto", "cuda") else find_device(device)


@contextmanager
def _advance(description: str, processes: Processes | None = None) -> Iterator[Progress]:
    """A progress bar, or lines in a log, of the main process; starts at the first call."""
    from contextlib import ExitStack

    from maskwright.engine.budget import progress

    with ExitStack() as stack:
        state: dict[str, Any] = {"advance": None, "done": 0}

        def advance(done: int, total: int) -> None:
            if state["advance"] is None:
                is_main = processes is None or processes.is_main_process
                state["advance"] = stack.enter_context(progress(total, description, is_main=is_main))
            state["advance"](done - state["done"])
            state["done"] = done

        yield advance


@contextmanager
def _bar(description: str, total: int) -> Iterator[Progress]:
    """A progress bar on a terminal, without PyTorch."""
    from rich.console import Console
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    with Bar(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(description, total=total)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, header: bool = True) -> None:
    """A table on standard output; all columns but the first are numbers, unless there is no header."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), title_justify="left", show_header=header)
    for number, name in enumerate(columns):
        table.add_column(escape(name), justify="right" if number and header else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(_shown(cell)) for cell in row))
    Console().print(table)


def _given(**options: Any) -> dict[str, Any]:
    """The options that were given: which of them a model has is known when it is loaded."""
    return {name: value for name, value in options.items() if value is not None and value is not False}


def _print_stats(numbers: dict[str, Any]) -> None:
    kinds = list(dict.fromkeys(kind for split in numbers["splits"].values() for kind in split["kinds"]))
    rows = [
        [name, split["images"], *(split["kinds"].get(kind, 0) for kind in kinds)]
        for name, split in numbers["splits"].items()
    ]
    _print_table("images by split and finest label", ["split", "images", *kinds], rows)
    columns = ["id", "name", "images", "pixel_share", "instances", "boxes", "scribbles", "points", "tags"]
    rows = [[row[column] for column in columns] for row in numbers["categories"]]
    _print_table("categories", [column.replace("_", " ") for column in columns], rows)
    ranges = dict(numbers["size"] or {})
    if numbers["instances"]:
        ranges["instances in an image"] = numbers["instances"]["per_image"]
    rows = [[name, values["min"], values["median"], values["max"]] for name, values in ranges.items()]
    _print_table("sizes", ["", "min", "median", "max"], rows)


def _shown(value: Any) -> str:
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _as_name(split: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in split)


def _numbers(name: str, text: str, count: int) -> tuple[float, ...]:
    """``"3,4.5"`` as numbers. Raises MaskwrightError."""
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if len(found) != count or not all(math.isfinite(number) for number in found):
        raise MaskwrightError(f"--{name} {text}: must be {count} numbers with commas between them")
    return found


def _holds_model(path: Path) -> bool:
    """Whether a folder is a run or a model folder, not one of masks."""
    return any((folder / "model.safetensors").is_file() for folder in (path, path / "model"))


def _at_least_1(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise MaskwrightError(f"--{name} {value}: must be at least 1")


def _canvas_size(size: int | None) -> None:
    if size is not None and (size < 32 or size % 32):
        raise MaskwrightError(f"--size {size}: must be a multiple of 32")


def _leave_processes() -> None:
    """Part from the other processes in order; a group that is still up when Python ends can abort the process."""
    if "torch" in sys.modules:
        from torch import distributed

        if distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()


def _is_main() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _fail(text: str) -> int:
    _tell(f"error: {text}")
    return 1


def _tell(text: str) -> None:
    """On standard error, once: of several processes the main one speaks."""
    if _is_main():
        print(text, file=sys.stderr)
