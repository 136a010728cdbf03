"""Models: train, load, evaluate, predict."""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, get_args, get_origin, get_type_hints

from maskwright.api.data import as_dataset, require_data
from maskwright.api.hub import located
from maskwright.api.progress import Progress, progress_of
from maskwright.data.image_reading import PLAIN, ImageReading
from maskwright.data.large.names import WriteName
from maskwright.data.registry import ReadName, ToolName
from maskwright.errors import MaskwrightError, require
from maskwright.recipes import RECIPES

if TYPE_CHECKING:
    import torch

    from maskwright.data.dataset import Dataset
    from maskwright.engine.base_predictor import BasePredictor
    from maskwright.engine.large_prediction import LargeSettings
    from maskwright.engine.prediction_folder import Summary
    from maskwright.engine.predictor import Predictor
    from maskwright.engine.processes import Processes
    from maskwright.export.onnx_predictors import OnnxPredictor

Engine: TypeAlias = Literal["torch", "onnx"]
"""What computes: PyTorch, or ONNX Runtime alone."""

LOADING = ("in_context", "references", "looks", "revision")
"""Options that decide how a model is loaded; all others are those of its kind."""


def train(recipe: str, **settings: Any) -> Path:
    """Train a model and return its run directory.

    Args:
        recipe: one of ``maskwright.api.RECIPES``: ``samix``, ``s4m``, ``clicks``, ``alignsam``.
        settings: the fields of the recipe's ``Config``, at least ``data`` and ``out``; ``maskwright train RECIPE --help``
            tells them all. Paths may be text.

    Raises:
        MaskwrightError: unknown recipe or setting, or whatever is wrong with the data or the run directory.

    >>> maskwright.train("samix", data="polyps", out="runs/polyps", minutes=45)
    PosixPath('runs/polyps')
    """
    if recipe not in RECIPES:
        raise MaskwrightError(f"there is no recipe {recipe!r}; choose one of: {', '.join(RECIPES)}")
    module = RECIPES[recipe].module()
    names = [item.name for item in dataclasses.fields(module.Config) if item.init]
    problems = []
    for name in settings.keys() - set(names):
        near = difflib.get_close_matches(name, names, 1)
        problems.append(f"{name!r} is no setting" + (f"; did you mean {near[0]!r}?" if near else ""))
    problems += [f"{name!r} must be given" for name in ("data", "out") if name not in settings]
    if problems:
        raise MaskwrightError(f"{recipe}: " + "; ".join(sorted(problems)))
    types = get_type_hints(module.Config)
    return module.main(module.Config(**{name: _as_field(value, types[name]) for name, value in settings.items()}))


def _as_field(value: Any, hint: Any) -> Any:
    """A setting as the command line would give it: text is a path where one is wanted, and one of several where several are."""
    if not isinstance(value, str):
        return value
    kinds = (hint, *get_args(hint))
    if Path in kinds:
        return Path(value)
    return (value,) if any(get_origin(kind) is tuple for kind in kinds) else value


def load(
    path: str | Path,
    *,
    in_context: bool = False,
    references: int | None = None,
    looks: int | None = None,
    revision: str | None = None,
    device: str | torch.device | None = None,
) -> Predictor:
    """Load a trained model.

    Args:
        path: a run directory, or the ``model`` folder in it (or a copy of that); or a model on the Hugging Face hub, ``hf://OWNER/NAME``.
        in_context: of a model of ``samix``: segment with SAM and the model's reference pool, instead of with the segmenter.
        references: in context, how many SAM is shown; left out, as many as in training.
        looks: in context, sets of references that SAM answers before one is chosen; 0: chosen before SAM has answered; left out, what
            was better on the validation split (16 or 0) if the model has a policy, else 0.
        revision: of a model on the hub: a branch, a tag or a commit; left out, the newest. ``hf://OWNER/NAME@REVISION`` says the same.
        device: such as ``"cuda:1"``; left out, a GPU if there is one, else the CPU.

    Returns:
        A predictor: ``predict(images)`` gives a :class:`maskwright.Prediction` for each image.

    Raises:
        WeightsError: no model there, another format or version, files that are missing or damaged, or tensors that do
            not fit; all missing and unexpected ones are named. In context: the SAM that the run started from is not there, or
            another one now.
        MaskwrightError: the device is not here; in context, the model has no reference pool, or a number is too small.

    >>> model = maskwright.load("runs/polyps")
    >>> for prediction in model.predict(["a.jpg", "b.tif"]):
    ...     prediction.overlay().show()
    >>> next(maskwright.load("runs/polyps", in_context=True).predict("a.jpg")).references
    """
    path = located(path, revision)
    from maskwright.engine.model import Model
    from maskwright.engine.processes import processes_for

    _, own_device = processes_for(device or "auto")
    model = Model.open(path, tuple(RECIPES))
    if in_context:
        from maskwright.methods.in_context import files

        return files.load(model, references, looks).to(own_device)
    for name, value in {"references": references, "looks": looks}.items():
        if value is not None:
            raise MaskwrightError(f"--{name}: is about references in context; give --in-context too, or leave it out")
    return RECIPES[model.recipe].load(model).to(own_device)


def load_onnx(path: str | Path) -> OnnxPredictor:
    """Load a trained model that was exported to ONNX; it runs with ``onnxruntime`` on the CPU, and PyTorch is not imported.

    Args:
        path: a file that :func:`maskwright.export_model` wrote, or the run directory that it is in.

    Returns:
        A predictor: ``predict(images)`` gives a :class:`maskwright.Prediction` for each image.

    Raises:
        MissingPackageError: the extra ``onnx`` is not installed.
        WeightsError: nothing was exported there, the file is damaged or of another kind, or the run has another model by now.
    """
    from maskwright.export.onnx_predictors import open_predictor

    return open_predictor(path)


def evaluate(
    model: str | Path | Predictor,
    dataset: str | Path | Dataset,
    split: str = "test",
    *,
    format: ReadName | None = None,
    image_reading: ImageReading = PLAIN,
    batch: int = 8,
    json: str | Path | None = None,
    progress: Progress = False,
    **options: Any,
) -> dict[str, Any]:
    """Score a model on the labels of one split, at the images' own resolution.

    Args:
        model: a run directory, a model folder, or what :func:`load` gave.
        dataset: a folder, a JSON, XML or YAML file or a ``Dataset`` with the same categories as the model, in any order.
        split: its name.
        format: what the dataset is read as, where several formats fit.
        image_reading: which page, channels and range of intensity of the image files count. Left out: as in training.
        batch: images per pass of the network.
        json: also write the scores to this file.
        progress: True shows a bar; or what to call as ``progress(done, total)`` after each image.
        options: those of the kind of model, see :func:`predict`; and those of :func:`load`, where the model is a path.

    Returns:
        JSON-able numbers: ``model`` (its signature), ``dataset``, ``split``, and the scores of the kind of model:

        - semantic: ``dice``, ``iou``, ``pooled``, ``per_category``, ``per_image``, see
          :meth:`maskwright.engine.metrics.SegmentationMetrics.compute`;
        - instances: ``ap``, ``ap50``, ``ap75``, ``box_ap``, ``per_category``, see :func:`maskwright.methods.instances.coco.scores`;
        - ``alignsam``: ``miou``, ``f``, ``e``, ``s``, ``mae``, ``ber``, ``fr``, see
          :meth:`maskwright.engine.metrics.BinaryMetrics.compute`;
        - ``clicks``: ``curves``, ``head_room``, ``per_target``; with the option ``masks`` the semantic scores.

    Raises:
        DataError: no such split, images without a label to score against, other categories, or files that cannot be
            read; all at once.
        MaskwrightError: an option that the model does not have.

    >>> maskwright.evaluate("runs/polyps", "polyps", flip=True)["dice"]
    0.842
    """
    from maskwright.data.files import write_atomic
    from maskwright.engine.values import strict_json

    require_data(dataset)
    with progress_of(progress, "evaluating") as call:
        predictor, options = _opened(model, None, options)
        scores = predictor.evaluate(
            as_dataset(dataset, format, image_reading), split, batch=batch, progress=call, **options
        )
    if json is not None:
        write_atomic(Path(json), strict_json(scores, "scores", indent=1) + "\n")
    return scores


def predict(
    model: str | Path | BasePredictor,
    images: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    split: str | None = None,
    image_reading: ImageReading = PLAIN,
    batch: int = 8,
    overlays: bool = True,
    dataset: bool = True,
    to: ToolName | None = None,
    write: Sequence[WriteName] = (),
    crop: float | None = None,
    mpp: float | None = None,
    overlap: float | None = None,
    simplify: float = 0.0,
    overwrite: bool = False,
    engine: Engine | None = None,
    device: str | torch.device | None = None,
    progress: Progress = False,
    **options: Any,
) -> Summary:
    """Predict images into a folder: masks, overlays and an index. What is there already is not made again.

    ::

        out/
          predictions.json        which model, which images, and what each shows
          masks/<name>.png        category ids; ids of instances from a model of instances
          overlays/<name>.jpg     the image with the mask painted over it
          images/<name>.<suffix>  the image itself, a hard link where the disk allows it
          coco.json               results of a model of instances
          <to>/                   the same for an annotation tool, where ``to`` asks for it
          references.html         what SAM was shown, in context

    An interrupted call goes on when it is given again. Under ``accelerate launch`` each process takes its share.

    Images too large for memory are predicted area by area, where ``write`` says what of them is written::

        out/
          masks/<name>.tif, .zarr          category ids; ids of objects from a model of instances
          vectors/<name>.geojson, .gpkg    a polygon for each region, or for each object
          large/<name>.json                which model, which image at which level, and what it shows

    Args:
        model: a run directory, a model folder, a file that :func:`maskwright.export_model` wrote, or what :func:`load` gave.
        images: files and folders (with all their sub-folders), or one dataset.
        out: new, empty, or with predictions of the same model.
        split: of a dataset: only this split.
        image_reading: which page, channels and range of intensity of the image files count. Left out: as in training.
        batch: images per pass of the network.
        overlays: also write overlays.
        dataset: also put the images there: with them the folder is a dataset, which ``Dataset.load`` reads and trainings take.
        to: also write ``out/<to>`` in a format that annotation tools read; see :mod:`maskwright.engine.prediction_export`.
        write: ``tiff``, ``zarr``, ``geojson``, ``gpkg``, or several: predict the images by windows, in bounded memory, into these.
            Without it an image of more than 200 million pixels is refused.
        crop: side in pixels of the image of the square that fills the model's canvas, and slides over each image; left out, as in
            training.
        mpp: with ``write``: micrometres along a pixel of the images that the model learnt from. Of an image with several levels
            the coarsest that is not coarser is read, and the square is as large in micrometres.
        overlap: with ``write``: share of the square that neighbours have in common; left out, a quarter.
        simplify: with ``write``: how far in pixels an outline in vectors may leave its mask, so that it has fewer corners.
        overwrite: replace what another model, or another image of the same name, left in ``out``.
        engine: ``torch``, or ``onnx``: ONNX Runtime alone computes what was exported before; left out, ``onnx`` for a file of that kind.
        device: see :func:`load`; of a model that is loaded already: left out, where it is.
        progress: True shows a bar; or what to call as ``progress(done, total)`` for this process' share, begun anew for
            masks that another model makes first.
        options: of the kind of model:

            - semantic: ``flip=True`` also looks at the mirror images;
            - instances: ``threshold``, the score from which an object is drawn;
            - ``alignsam``: ``clicks``, how many it places;
            - ``clicks``: ``click=[(x, y), ...]`` with ``label=["fg", ...]``, or ``box=(x0, y0, x1, y1)``, and ``category``,
              about one image; or ``masks``: a folder of masks to refine, or the run of a segmenter, whose masks are then
              made first, in ``out/given``;

            and those of :func:`load` (``in_context``, ``references``, ``looks``, ``revision``), where the model is a path.

    Returns:
        A :class:`maskwright.engine.prediction_folder.Summary`: ``predicted``, ``skipped``, ``problems`` (one line for each
        image that cannot be read; all others are done), ``written`` (files beside masks, overlays and index) and ``lost``.

    Raises:
        DataError: ``images`` that do not exist or are none; a file that cannot be written.
        MaskwrightError: an option that the model does not have, or a folder that holds something else; nothing was exported.

    >>> summary = maskwright.predict("runs/polyps", ["new_images", "more/a.jpg"], "predictions", progress=True)
    >>> summary.predicted, summary.skipped, summary.problems
    (128, 0, [])
    """
    from maskwright.engine.base_predictor import FolderTask
    from maskwright.engine.prediction_export import require_target
    from maskwright.engine.prediction_folder import find_images, predict_folder

    settings_of_large = _large_settings(write, mpp, overlap, simplify, to)
    if to is not None:
        require({"--to needs the images in the folder; leave out --no-dataset": dataset})
        require_target(out, to)
    with progress_of(progress, "loading the model"):
        sources = [images] if isinstance(images, str | Path) else images
        jobs = find_images(sources, out, split, large=settings_of_large is not None)
        processes, predictor, options = _ready(model, engine, device, options)
        predictor = predictor.with_image_reading(image_reading).with_crop(crop)
    if settings_of_large is not None:
        from maskwright.engine.large_prediction import predict_large

        with progress_of(progress, "predicting areas") as call:
            return predict_large(
                predictor,
                jobs,
                out,
                settings_of_large,
                batch=batch,
                overwrite=overwrite,
                processes=processes,
                progress=call,
                **options,
            )
    settings: dict[str, Any] = {"batch": batch, "overwrite": overwrite, "processes": processes}

    def predict_first(other: BasePredictor, name: str, description: str) -> Path:
        folder = Path(out, name)
        with progress_of(progress, description) as call:
            predict_folder(other, jobs, folder, overlays=False, images=False, progress=call, **settings)
        return folder

    task = FolderTask(
        len(jobs), lambda path: load(path, device=predictor.device).with_image_reading(image_reading), predict_first
    )
    options = predictor.prepare_folder(options, task)
    with progress_of(progress, "predicting") as call:
        settings |= {"overlays": overlays, "images": dataset, "progress": call}
        summary = predict_folder(predictor, jobs, out, **settings, **options)
    if to is None or not processes.is_main_process:
        return summary
    return also_written(summary, out, to, progress)


def also_written(summary: Summary, out: str | Path, to: ToolName, progress: Progress) -> Summary:
    """The summary of a folder of predictions after it was also written for an annotation tool, as ``out/<to>``."""
    from maskwright.engine.prediction_export import export

    with progress_of(progress, f"writing {to}"):
        path, lost = export(out, to)
    return dataclasses.replace(summary, written=[*summary.written, path], lost=lost)


def _large_settings(
    write: Sequence[WriteName], mpp: float | None, overlap: float | None, simplify: float, to: ToolName | None
) -> LargeSettings | None:
    """How large images are predicted; None where they are not. Raises MaskwrightError for options that go with ``write`` alone."""
    alone = {"--mpp": mpp is not None, "--overlap": overlap is not None, "--simplify": simplify != 0}
    if not write:
        require(
            {f"{name}: is about large images; give --write too, or leave it out": not on for name, on in alone.items()}
        )
        return None
    require({"--to: is not written of large images; leave out --to, or --write": to is None})
    from maskwright.engine.large_prediction import LargeSettings

    given = {} if overlap is None else {"overlap": overlap}
    return LargeSettings(tuple(write), mpp=mpp, simplify=simplify, **given)


def _ready(
    model: str | Path | BasePredictor, engine: Engine | None, device: str | torch.device | None, options: dict[str, Any]
) -> tuple[Processes, BasePredictor, dict[str, Any]]:
    """The processes that share the images, the model, and the options that are left when it is loaded."""
    named = isinstance(model, str | Path)
    require(
        {f"engine {engine!r}: this model is loaded already, and has its own; leave it out": named or engine is None}
    )
    if named and (engine == "onnx" or (engine is None and Path(model).suffix == ".onnx")):
        from maskwright.engine.processes import Alone

        require({"--engine onnx: works in one process; start it without accelerate or torchrun": _is_alone()})
        predictor = load_onnx(model)
        return Alone(), predictor if device is None else predictor.to(device), options
    if named:
        model, options = located(model, options.get("revision")), {**options, "revision": None}
    from maskwright.engine.processes import processes_for

    processes, _ = processes_for(device or "auto")
    return processes, *_opened(model, device, options)


def _is_alone() -> bool:
    return os.environ.get("WORLD_SIZE", "1") == "1"


P = TypeVar("P", bound="BasePredictor")


def _opened(
    model: str | Path | P, device: str | torch.device | None, options: dict[str, Any]
) -> tuple[Predictor | P, dict[str, Any]]:
    """A model that may be named by its path, and the options that are left when it is loaded."""
    loading = {name: value for name, value in options.items() if name in LOADING}
    rest = {name: value for name, value in options.items() if name not in LOADING}
    if isinstance(model, str | Path):
        return load(model, device=device, **loading), rest
    # A predictor refuses options for loading, as they come too late.
    return model if device is None else model.to(device), options
