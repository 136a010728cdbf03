"""What has to be known of a trained model to predict with it, whatever computes its answers: PyTorch, or ONNX Runtime alone.

Images are decoded ahead by threads, prepared and forgotten, so memory is bounded however many and however large they are. Nothing
here imports PyTorch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from maskwright.data.image_reading import ImageReading
from maskwright.data.lookahead import ahead_readable
from maskwright.engine.prediction import ImageLike, Prediction, name_of, pixels_of, turn_of
from maskwright.errors import MaskwrightError, NotFiniteError, require

if TYPE_CHECKING:
    from maskwright.data.geometry import Size
    from maskwright.data.large.image import Rectangle
    from maskwright.engine.sliding import Read, Slide


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
    load: Callable[[Path], BasePredictor]
    predict: Callable[[BasePredictor, str, str], Path]


class FoundObject(Protocol):
    """An object of a large image; ``maskwright.methods.instances.coco.Detection`` is one."""

    @property
    def category(self) -> int: ...
    @property
    def score(self) -> float: ...
    @property
    def left(self) -> int: ...
    @property
    def top(self) -> int: ...
    @property
    def mask(self) -> NDArray[np.bool_]: ...


class BasePredictor(ABC):
    """A trained model, ready for images of any size and mode.

    Attributes:
        categories: names by id, ``background`` first.
        size: side of the square canvas in pixels.
        folder: the model folder, or the file, that it came from.
        recipe: the recipe that made it.
        signature: 16 hexadecimal digits that change with the weights and the configuration.
        image_reading: how image files are read: as those that the model learnt from.
        options: what :meth:`predict` takes beyond what all take, with the defaults.
        holds_instances: masks hold ids of instances instead of categories.
        crop: side in pixels of the image of the square that fills the canvas; None: whole images are squashed to it.
    """

    options: ClassVar[Mapping[str, Any]] = {}
    holds_instances: bool = False

    categories: tuple[str, ...]
    size: int
    folder: Path
    recipe: str
    signature: str
    image_reading: ImageReading
    crop: float | None = None

    @property
    @abstractmethod
    def device(self) -> Any:
        """Where it computes, as PyTorch names devices."""

    @abstractmethod
    def to(self, device: Any) -> Self:
        """Move to another device. Raises MaskwrightError for one that is not here."""

    def with_image_reading(self, reading: ImageReading) -> Self:
        """The same model, with the same network, which reads images in this way, and in its own where that says nothing."""
        other = copy(self)
        other.image_reading = reading.over(self.image_reading)
        return other

    def with_crop(self, crop: float | None) -> Self:
        """The same model, with the same network, which slides squares of ``crop`` pixels over images; None: as it learnt.

        Raises:
            MaskwrightError: this kind of model does not slide, or the square is too small.
        """
        if crop is None:
            return self
        require({f"--crop {crop:g}: must be at least 32 pixels": crop >= 32})
        if not self.slides:
            raise MaskwrightError(
                f"{self.folder}: a model of the recipe {self.recipe} does not slide; leave out --crop"
            )
        other = copy(self)
        other.crop = crop
        return other

    @property
    def slide_side(self) -> float | None:
        """Pixels of the image along the side of a window that it sees large images through; None where nothing says so."""
        return self.crop

    @property
    def slides(self) -> bool:
        """Whether large images can be predicted area by area, see :meth:`predict_area`."""
        return False

    @property
    def area_side(self) -> int:
        """Pixels along the side of an area of a large image that :meth:`predict_area` takes without much memory."""
        return 1024

    def predict_area(
        self, read: Read, slide: Slide, area: Rectangle, *, batch: int, **options: Any
    ) -> dict[str, NDArray[Any]]:
        """What the model says of an area of a large image; only where :attr:`slides`.

        Args:
            read: gives the pixels of any rectangle of the image.
            slide: the grid of windows.
            area: ``x0 y0 x1 y1``; all areas together are the image.
            batch: windows per pass of the network.
            options: complete.

        Returns:
            Arrays by name: of a model of categories the fields of ``sliding.AreaMask``; of a model of instances what
            ``join_areas`` takes.
        """
        raise MaskwrightError(f"{self.folder}: a model of the recipe {self.recipe} does not slide over large images")

    def join_areas(self, areas: Sequence[Mapping[str, NDArray[Any]]], **options: Any) -> list[FoundObject]:
        """The objects of all areas of an image, joined across their seams; of a model of instances alone."""
        raise MaskwrightError(f"{self.folder}: a model of the recipe {self.recipe} finds no single objects")

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

    @abstractmethod
    def prepare(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """What of an image ``(H, W, 3)`` is kept until its batch is full. Called by the threads."""

    def _finished(self, ready: Sequence[Canvas], options: Mapping[str, Any]) -> Iterator[Prediction]:
        try:
            for prediction in self.finish(ready, **options):
                yield replace(prediction, reading=self.image_reading)
        except NotFiniteError as error:
            raise NotFiniteError(str(self.folder)) from error

    @abstractmethod
    def finish(self, canvases: Sequence[Canvas], **options: Any) -> Iterator[Prediction]:
        """The predictions of one batch, in order; ``options`` are complete."""

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
