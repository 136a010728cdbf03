"""A trained model at work: images of any size and mode in, masks of their own size out.

Images are decoded ahead by threads, squashed to the network's canvas and forgotten, so memory is bounded however many
and however large they are. :class:`Predictor` is what all kinds of model share; each method has its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from maskwright.data.check import require_clean
from maskwright.data.dataset import Dataset
from maskwright.data.geometry import Size, compose, resize_matrix, squash, unwarp_logits
from maskwright.data.image_reading import ImageReading
from maskwright.data.lookahead import ahead_readable
from maskwright.engine.devices import find_device
from maskwright.engine.model import Model
from maskwright.engine.prediction import ImageLike, Prediction, name_of, pixels_of, turn_of
from maskwright.engine.scoring import ScoreTable, category_problems, split_problems
from maskwright.engine.weights import NotFiniteError
from maskwright.errors import DataError, MaskwrightError

_PIECE = 1 << 24
# Logits of this many pixels times categories are brought back to the original resolution at once (64 MiB in float32).


@dataclass(frozen=True)
class FolderTask:
    """Images that are about to be predicted into a folder, as :meth:`Predictor.prepare_folder` sees them.

    Attributes:
        images: how many.
        load: a run directory or model folder → its predictor, on the same device.
        predict: lets another predictor predict the same images first: the predictor, the name of a folder below that of
            the results, and what a progress bar calls it → the folder.
    """

    images: int
    load: Callable[[Path], Predictor]
    predict: Callable[[Predictor, str, str], Path]


class Predictor(ABC):
    """A trained model, ready for images of any size and mode. Made by :func:`maskwright.load`.

    Attributes:
        network: what computes, in evaluation mode.
        categories: names by id, ``background`` first.
        size: side of the square canvas in pixels.
        folder: the model folder it came from.
        recipe: the recipe that made it.
        signature: 16 hexadecimal digits that change with the weights and the configuration.
        image_reading: how image files are read: as those that the model learnt from.
        options: what :meth:`predict` takes beyond what all take, with the defaults.
        holds_instances: masks hold ids of instances instead of categories.
    """

    options: ClassVar[Mapping[str, Any]] = {}
    holds_instances: ClassVar[bool] = False

    def __init__(self, network: nn.Module, model: Model) -> None:
        self.network = network.eval().requires_grad_(False)
        self.categories, self.size = model.categories, model.size
        self.folder, self.recipe, self.signature = model.folder, model.recipe, model.signature
        self.image_reading = model.image_reading

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def to(self, device: str | torch.device) -> Self:
        """Move to another device. Raises MaskwrightError for one that is not here."""
        self.network.to(find_device(device))
        return self

    def with_image_reading(self, reading: ImageReading) -> Self:
        """The same model, with the same network, which reads images in this way, and in its own where that says nothing."""
        other = copy(self)
        other.image_reading = reading.over(self.image_reading)
        return other

    def predict(
        self,
        images: ImageLike | Iterable[ImageLike],
        *,
        batch: int = 8,
        workers: int = 2,
        unreadable: list[str] | None = None,
        **options: Any,
    ) -> Iterator[Prediction]:
        """Masks of images, one after the other in the order given; memory is bounded however many there are.

        Args:
            images: paths, Pillow images, or arrays ``(H, W)``, ``(H, W, 1)``, ``(H, W, 3)`` or ``(H, W, 4)`` as
                :func:`maskwright.data.images.read_image` understands the modes of files; or a single one of these.
            batch: images per pass of the network.
            workers: threads that decode images ahead.
            unreadable: where given, images that cannot be read are left out and their problems are appended here.
            options: those of this kind of model, see ``options``.

        Raises:
            DataError: an image cannot be read, and ``unreadable`` is not given.
            MaskwrightError: an option that this kind of model does not have.
            ValueError: ``batch`` or ``workers`` below 1.
        """
        if batch < 1 or workers < 1:
            raise ValueError(f"batch {batch} and workers {workers} must be at least 1")
        complete = self.with_defaults(options)
        many = [images] if isinstance(images, str | Path | Image.Image | np.ndarray) else images
        return self._predict(many, batch, workers, unreadable, complete)

    def with_defaults(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """All options of this kind of model, those left out with their defaults. Raises MaskwrightError for any that it does not have,
        or a value that it cannot work with.
        """
        foreign = sorted(options.keys() - self.options.keys())
        if foreign:
            own = ", ".join(_flag(name) for name in self.options) or "none"
            raise MaskwrightError(
                f"{self.folder}: a model of the recipe {self.recipe} has no {', '.join(map(_flag, foreign))} "
                f"(its options: {own}); leave it out"
            )
        return {**self.options, **options}

    def prepare_folder(self, options: Mapping[str, Any], task: FolderTask) -> dict[str, Any]:
        """Do what has to be done before images are predicted into a folder, such as making masks that are refined then.

        Args:
            options: as :meth:`predict` takes them; those of some kinds of model may mean more for a folder.
            task: the images, and the means to have other models predict them.

        Returns:
            The options for :meth:`predict`, complete.

        Raises:
            MaskwrightError: an option that this kind of model does not have, or that does not go with these images.
        """
        return self.with_defaults(options)

    def companion_of(self, image: Path) -> Path | None:
        """A second file that the prediction of an image is made from, such as a mask to refine, with the options that
        ``with_defaults`` completed last; when it changes, so does the prediction. None where there is none.
        """
        return None

    def _predict(
        self,
        images: Iterable[ImageLike],
        batch: int,
        workers: int,
        unreadable: list[str] | None,
        options: Mapping[str, Any],
    ) -> Iterator[Prediction]:
        def canvas_of(numbered: tuple[int, ImageLike]) -> Canvas:
            number, image = numbered
            return _canvas(image, number, self.prepare, self.image_reading)

        ready: list[Canvas] = []
        for canvas in ahead_readable(canvas_of, enumerate(images), workers, 2 * batch, unreadable):
            ready.append(canvas)
            if len(ready) == batch:
                yield from self._finished(ready, options)
                ready = []
        if ready:
            yield from self._finished(ready, options)

    def prepare(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """What of an image ``(H, W, 3)`` is kept until its batch is full: ``(S, S, 3)``, squashed. Called by the threads."""
        return squash(pixels, self.size)

    def _finished(self, ready: Sequence[Canvas], options: Mapping[str, Any]) -> Iterator[Prediction]:
        try:
            for prediction in self.finish(ready, **options):
                yield replace(prediction, reading=self.image_reading)
        except NotFiniteError as error:
            raise NotFiniteError(str(self.folder)) from error

    @abstractmethod
    def finish(self, canvases: Sequence[Canvas], **options: Any) -> Iterator[Prediction]:
        """The predictions of one batch, in order; ``options`` are complete."""

    @torch.inference_mode()
    def restore(self, logits: Tensor, size: Size) -> tuple[NDArray[np.uint8], dict[str, float]]:
        """Logits ``(C, s, s)`` → the mask ``(H, W)`` and the scores; in strips of rows, so that memory is bounded."""
        (width, height), count = size, len(self.categories)
        mask = np.empty((height, width), np.uint8)
        area, certainty = np.zeros(count), np.zeros(count)
        rows = max(1, _PIECE // (width * count))
        for top in range(0, height, rows):
            tall = min(rows, height - top)
            matrix = compose(resize_matrix(size, self.size), np.array([[1.0, 0, 0], [0, 1, top]]))
            matrices = torch.from_numpy(matrix)[None].float()
            strip = unwarp_logits(logits[None], matrices, [(width, tall)], canvas=self.size)[0]
            # The probability of the best category is exp(its logit - logsumexp): the softmax of all is never needed.
            best, category = strip.max(0)
            probability = (best - strip.logsumexp(0)).exp().cpu().numpy()
            mask[top : top + tall] = category.to(torch.uint8).cpu().numpy()
            flat = mask[top : top + tall].reshape(-1)
            area += np.bincount(flat, minlength=count)
            certainty += np.bincount(flat, probability.reshape(-1), minlength=count)
        pairs = zip(self.categories, certainty.tolist(), area.tolist())
        return mask, {name: total / pixels for name, total, pixels in pairs if pixels}

    # -------------------------------------------------------------------------------------------------- scores

    def evaluate(
        self,
        dataset: Dataset,
        split: str = "test",
        *,
        batch: int = 8,
        progress: Callable[[int, int], None] | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Score the labels of one split, at the images' own resolution; see :func:`maskwright.evaluate`.

        The same for every kind of model: refuse options and data that cannot be scored, all problems at once; check the
        files; then :meth:`score` them.

        Returns:
            ``model`` (its signature), ``dataset`` and ``split``, and what :meth:`score` gives.
        """
        complete = self.scoring_options(options)
        # What the dataset says of its images comes first; the check reads them as the model does.
        reader = self.with_image_reading(dataset.image_reading)
        part = self.require_scorable(dataset.with_image_reading(reader.image_reading), split)
        head = {"model": self.signature, "dataset": dataset.source or str(dataset.root), "split": split}
        return head | reader.score(part, batch=batch, progress=progress, **complete)

    def scoring_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options with which a split is scored, complete. Raises MaskwrightError for those that it cannot be scored with."""
        return self.with_defaults(options)

    def require_scorable(self, dataset: Dataset, split: str) -> Dataset:
        """The samples of a split that can be scored. Raises DataError with all that keeps it from being scored."""
        if problems := self.score_problems(dataset, split):
            raise DataError(problems, dataset.source or str(dataset.root))
        part = dataset.split(split)
        require_clean(part, training=False)
        return part

    def score_problems(self, dataset: Dataset, split: str) -> list[str]:
        """What keeps a split from being scored by what the dataset says of itself, one line each; files are checked later."""
        return category_problems(self.categories, dataset) + split_problems(dataset, split)

    @abstractmethod
    def score(
        self, part: Dataset, *, batch: int, progress: Callable[[int, int], None] | None, **options: Any
    ) -> dict[str, Any]:
        """The scores of a split that can be scored, as JSON; ``options`` are complete, the rest as for :meth:`evaluate`."""

    @abstractmethod
    def score_table(self, scores: Mapping[str, Any]) -> ScoreTable:
        """What :meth:`evaluate` gave, to be printed."""

    def scores_path(self, run: str | Path, split: str, **options: Any) -> Path | None:
        """Where scores are kept: ``evaluation-<split>.json`` in the run directory, with other endings for other ways to predict.

        Args:
            run: what the model was loaded from.
            split, options: as :meth:`evaluate` takes them.

        Returns:
            None for a model folder by itself: there is no run around it, and nothing but the model belongs into it.
        """
        if Path(run).resolve() == self.folder.resolve():
            return None
        name = "".join(c if c.isalnum() or c in "._-" else "_" for c in split)
        return Path(run, f"evaluation-{name}{self.scores_ending(options)}.json")

    def scores_ending(self, options: Mapping[str, Any]) -> str:
        """What tells scores of another way to predict from the usual ones, such as ``-in-context``."""
        return ""

    def conclude(self, folder: Path, rows: Mapping[str, Mapping[str, Any]]) -> list[Path]:
        """Write what a whole folder of predictions has beside its index, and say which files these are.

        Args:
            folder: of the predictions.
            rows: the entries of the index by name.
        """
        return []


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


# ---------------------------------------------------------------------------------------------------------- images


@dataclass(frozen=True)
class Canvas:
    """One image as the network sees it; the decoded image itself is not kept.

    Attributes:
        id, image: see :class:`Prediction`.
        size: (width, height) of the image as it is displayed.
        pixels: what the predictor's ``prepare`` made of the image; by default ``(S, S, 3)`` uint8, squashed to the canvas.
    """

    id: str
    image: ImageLike
    size: Size
    pixels: NDArray[np.uint8]


def _canvas(
    image: ImageLike, number: int, prepare: Callable[[NDArray[np.uint8]], NDArray[np.uint8]], reading: ImageReading
) -> Canvas:
    id = name_of(image) or str(number)
    with turn_of(image):
        pixels = pixels_of(image, id, reading)
        height, width = pixels.shape[:2]
        prepared = prepare(pixels)
    return Canvas(id, image, (width, height), prepared)
