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
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import torch

from maskwright.data.dataset import Dataset
from maskwright.engine.model import Model
from maskwright.engine.predictor import Prediction, Predictor
from maskwright.errors import MaskwrightError
from maskwright.methods.in_context import files as in_context_files
from maskwright.methods.in_context.predictor import InContextPredictor
from maskwright.recipes import RECIPES

__all__ = ["RECIPES", "Prediction", "Predictor", "evaluate", "load", "load_in_context", "train"]


def train(recipe: str, **settings: Any) -> Path:
    """Train a model and return its run directory.

    Args:
        recipe: one of ``RECIPES``.
        settings: the fields of the recipe's ``Config``, at least ``data`` and ``out``. Paths may be text.

    Raises:
        MaskwrightError: unknown recipe or setting, or whatever is wrong with the data or the run directory.

    >>> train("samix", data="polyps", out="runs/polyps", minutes=45)
    """
    if recipe not in RECIPES:
        raise MaskwrightError(f"there is no recipe {recipe!r}; choose one of: {', '.join(RECIPES)}")
    module = RECIPES[recipe].module()
    known = [item.name for item in dataclasses.fields(module.Config) if item.init]
    problems = []
    for name in settings.keys() - set(known):
        near = difflib.get_close_matches(name, known, 1)
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
    model = Model.open(path, tuple(RECIPES))
    return RECIPES[model.recipe].load(model).to("auto" if device is None else device)


def load_in_context(
    path: str | Path,
    *,
    references: int | None = None,
    looks: int | None = None,
    device: str | torch.device | None = None,
) -> InContextPredictor:
    """Load a model of ``samix`` to segment new images from its reference pool: with SAM, instead of with the segmenter.

    Args:
        path, device: see :func:`load`.
        references: how many SAM is shown; left out, as many as in training.
        looks: sets of references that SAM answers before one is chosen; 0: chosen unseen; left out, 16 if the model has a policy,
            else 0.

    Raises:
        MaskwrightError: the model has no reference pool, or a number is too small.
        WeightsError: see :func:`load`; or the SAM that the run started from is not there, or another one now.
    """
    model = Model.open(path, tuple(RECIPES))
    return in_context_files.load(model, references, looks).to("auto" if device is None else device)


def evaluate(
    model: str | Path | Predictor,
    dataset: Dataset,
    split: str = "test",
    *,
    batch: int = 8,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Score a model on the labels of one split, at the images' own resolution.

    Args:
        model: a run directory, a model folder, or what :func:`load` gave.
        dataset: with the same categories as the model, in any order.
        split: its name.
        batch, options: see :meth:`Predictor.predict`.
        progress: called as ``progress(done, total)`` after each image.

    Returns:
        What the model's ``evaluate`` gives: for semantic masks see
        :func:`maskwright.engine.evaluation.semantic_scores`.

    Raises:
        DataError: no such split, images without a label to score against, other categories, or files that cannot be
            read; all at once.
    """
    predictor = model if isinstance(model, Predictor) else load(model)
    return predictor.evaluate(dataset, split, batch=batch, progress=progress, **options)
