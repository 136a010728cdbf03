"""What the command line and a notebook both call: train, load, predict, evaluate.

>>> from maskwright.api import evaluate, load
>>> model = load("runs/polyps")
>>> for prediction in model.predict(["a.jpg", "b.tif"]):
...     prediction.overlay().show()
>>> evaluate(model, Dataset.load("polyps"))["dice"]
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import importlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from maskwright.data.check import require_clean
from maskwright.data.formats.folders import semantic_of
from maskwright.data.images import read_mask
from maskwright.data.labels import IGNORE, Dataset, Sample
from maskwright.engine import in_context_files
from maskwright.engine.in_context import InContextPredictor
from maskwright.engine.metrics import SegmentationMetrics
from maskwright.engine.predictor import Prediction, Predictor
from maskwright.engine.weights import load_state, load_tensors
from maskwright.errors import DataError, MaskwrightError, WeightsError
from maskwright.nets.segmenter import FORMAT, VERSION, build

__all__ = ["RECIPES", "Prediction", "Predictor", "evaluate", "load", "load_in_context", "train"]

RECIPES = ("samix",)


def train(recipe: str, **settings: Any) -> Path:
    """Train a model and return its run directory.

    Args:
        recipe: one of ``RECIPES``.
        settings: the fields of the recipe's ``Config``, at least ``data`` and ``out``.

    Raises:
        MaskwrightError: unknown recipe or setting, or whatever is wrong with the data or the run directory.

    >>> train("samix", data="polyps", out="runs/polyps", minutes=45)
    """
    if recipe not in RECIPES:
        raise MaskwrightError(f"there is no recipe {recipe!r}; choose one of: {', '.join(RECIPES)}")
    module = importlib.import_module(f"maskwright.recipes.{recipe}")
    known = [item.name for item in dataclasses.fields(module.Config) if item.init]
    problems = []
    for name in settings.keys() - set(known):
        near = difflib.get_close_matches(name, known, 1)
        problems.append(f"{name!r} is no setting" + (f"; did you mean {near[0]!r}?" if near else ""))
    problems += [f"{name!r} must be given" for name in ("data", "out") if name not in settings]
    if problems:
        raise MaskwrightError(f"{recipe}: " + "; ".join(sorted(problems)))
    return module.main(module.Config(**settings | {name: Path(settings[name]) for name in ("data", "out")}))


def load(path: str | Path, *, device: str | torch.device | None = None) -> Predictor:
    """Load a trained model.

    Args:
        path: a run directory, or the ``model`` folder in it (or a copy of that).
        device: such as ``"cuda:1"``; left out, a GPU if there is one, else the CPU.

    Raises:
        WeightsError: no model there, another format or version, files that are missing or damaged, or tensors that do
            not fit; all missing and unexpected ones are named.
        MaskwrightError: the device is not here.
    """
    predictor, _ = _load(Path(path))
    return predictor.to("auto" if device is None else device)


def load_in_context(
    path: str | Path, *, references: int | None = None, device: str | torch.device | None = None
) -> InContextPredictor:
    """Load a model of ``samix`` to segment new images from its reference pool: with SAM, instead of with the segmenter.

    Args:
        path, device: see :func:`load`.
        references: how many SAM is shown; left out, as many as in training.

    Raises:
        MaskwrightError: the model has no reference pool.
        WeightsError: see :func:`load`; or the SAM that the run started from is not there, or another one now.
    """
    predictor, config = _load(Path(path))
    context = in_context_files.load(predictor.folder, config, predictor.segmenter, references)
    return InContextPredictor(predictor, context).to("auto" if device is None else device)


def _load(path: Path) -> tuple[Predictor, dict[str, Any]]:
    """The segmenter of a model on the CPU, and the model's configuration."""
    folder = _model_folder(path)
    text = _read_text(folder / "config.json")
    config = _model_config(folder / "config.json", text)
    categories, size = config["categories"], config["size"]
    try:
        segmenter = build(config["segmenter"], len(categories), size)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise WeightsError(
            f"{folder / 'config.json'}: segmenter: no network can be built from this ({type(error).__name__}: "
            f"{error}); restore the file from the run that made it"
        ) from error
    weights = folder / "model.safetensors"
    try:
        load_state(segmenter, load_tensors(weights), weights)
    except WeightsError as error:
        raise WeightsError(
            f"{error}\nRestore the model folder from the run that made it, or train it again."
        ) from error
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    digest.update(text.encode())
    predictor = Predictor(
        segmenter, categories, folder=folder, recipe=config["recipe"], signature=digest.hexdigest()[:16]
    )
    return predictor, config


# -------------------------------------------------------------------------------------------------------- evaluate


def evaluate(
    model: str | Path | Predictor,
    dataset: Dataset,
    split: str = "test",
    *,
    batch: int = 8,
    flip: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Score a model on the masks of one split, at the images' own resolution.

    Instance masks count by their categories. 255 counts nowhere.

    Args:
        model: a run directory, a model folder, or what :func:`load` gave.
        dataset: with the same categories as the model, in any order; every image of the split has a mask.
        split: its name.
        batch, flip: see :meth:`Predictor.predict`.
        progress: called as ``progress(done, total)`` after each image.

    Returns:
        What :meth:`maskwright.engine.metrics.SegmentationMetrics.compute` gives, and ``model`` (its signature),
        ``dataset`` and ``split``.

    Raises:
        DataError: no such split, images without a mask, other categories, or files that cannot be read; all at once.
    """
    predictor = model if isinstance(model, Predictor) else load(model)
    _refuse_unsuited(predictor, dataset, split)
    part = dataset.split(split)
    require_clean(part, training=False)
    # Ids of the model's categories as the dataset counts them.
    order = np.array([dataset.categories.index(name) for name in predictor.categories], np.uint8)
    metrics = SegmentationMetrics(dataset.categories)
    predictions = predictor.predict((dataset.image_path(sample) for sample in part), batch=batch, flip=flip)
    for number, (sample, prediction) in enumerate(zip(part, predictions, strict=True), start=1):
        metrics.update(order[prediction.mask], _truth(dataset, sample), sample.id)
        if progress:
            progress(number, len(part))
    told = {"model": predictor.signature, "dataset": dataset.source or str(dataset.root), "split": split}
    return told | metrics.compute()


def _refuse_unsuited(predictor: Predictor, dataset: Dataset, split: str) -> None:
    """Raise one DataError with all that keeps the split from being scored."""
    problems = []
    lacking = [name for name in predictor.categories if name not in dataset.categories]
    unknown = [name for name in dataset.categories if name not in predictor.categories]
    if lacking or unknown:
        parts = [f"the model has {_names(lacking)}, the dataset does not"] if lacking else []
        parts += [f"the dataset has {_names(unknown)}, the model does not"] if unknown else []
        problems.append(f"categories differ: {' and '.join(parts)}; rename or merge them in the dataset")
    part = dataset.split(split)
    if not len(part):
        splits = _names(sorted({sample.split for sample in dataset})) or "none"
        problems.append(f"split {split!r} is empty (splits: {splits}); name another with --split")
    problems += [
        f"sample {sample.id!r} ({sample.image}) has no mask to score against; give it one or move it to another split"
        for sample in part
        if sample.labels.mask is None
    ]
    if problems:
        raise DataError(problems, dataset.source or str(dataset.root))


def _truth(dataset: Dataset, sample: Sample) -> NDArray[np.uint8]:
    """Category ids ``(H, W)`` of a sample's mask; 255 = ignore."""
    mask, path = sample.labels.mask, dataset.mask_path(sample)
    if mask is None or path is None:
        raise ValueError(f"sample {sample.id!r} has no mask")
    values = read_mask(path)
    return semantic_of(values, mask) if mask.kind == "instance" else values


# ----------------------------------------------------------------------------------------------------- model folder


def _model_folder(path: Path) -> Path:
    if not path.exists():
        raise WeightsError(f"{path}: there is no such folder; give a run directory, or the model folder in it")
    if not path.is_dir():
        raise WeightsError(f"{path}: is a file; give the run directory, or the model folder in it")
    folder = path / "model" if (path / "model").is_dir() else path
    missing = [name for name in ("config.json", "model.safetensors") if not (folder / name).is_file()]
    if (path / "last").is_dir() and folder == path:
        raise WeightsError(f"{path}: this run has no model yet; continue it with --resume until it ends")
    if missing:
        remedy = "give a run directory, or restore its model folder"
        raise WeightsError(f"{folder}: {' and '.join(missing)} missing, so this is no model folder; {remedy}")
    return folder


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise WeightsError(f"{path}: cannot be read ({reason}); check the file and its permissions") from error


def _model_config(path: Path, text: str) -> dict[str, Any]:
    """The configuration of a model folder, checked."""
    try:
        config = json.loads(text)
    except ValueError as error:
        raise WeightsError(f"{path}: not valid JSON ({error}); restore the file from the run that made it") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        found = config.get("format") if isinstance(config, dict) else None
        raise WeightsError(
            f"{path}: the format is {found!r}, not {FORMAT!r}: this is no model that maskwright trained; "
            "give a run directory, or the model folder in it"
        )
    if config.get("version") != VERSION:
        raise WeightsError(
            f"{path}: version {config.get('version')!r} of the model format, this maskwright reads {VERSION}; "
            "install the maskwright that made it, or train again"
        )
    names, size = config.get("categories"), config.get("size")
    rules = {
        "recipe must be a text": isinstance(config.get("recipe"), str),
        f"categories must be 2 to {IGNORE} different texts": isinstance(names, list)
        and 2 <= len(names) <= IGNORE
        and all(isinstance(name, str) for name in names)
        and len(set(names)) == len(names),
        "size must be a whole number above 0": isinstance(size, int) and not isinstance(size, bool) and size > 0,
        "segmenter must be an object": isinstance(config.get("segmenter"), dict),
    }
    broken = [rule for rule, holds in rules.items() if not holds]
    if broken:
        raise WeightsError(f"{path}: {'; '.join(broken)}; restore the file from the run that made it")
    return config


def _names(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)
