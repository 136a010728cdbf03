"""A trained network at work: images of any size and mode in, masks of their own size out.

:class:`Predictor` is what all kinds of model share that PyTorch computes; each method has its own.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from maskwright.data.check import require_clean
from maskwright.data.dataset import Dataset
from maskwright.data.geometry import Size, compose, resize_matrix, squash, unwarp_logits
from maskwright.data.large.image import Rectangle
from maskwright.engine.base_predictor import BasePredictor
from maskwright.engine.devices import find_device
from maskwright.engine.model import Model
from maskwright.engine.scoring import ScoreTable, category_problems, split_problems
from maskwright.engine.sliding import AreaMask, Read, Slide, area_side, areas_of, blended, mask_of, reader_of, scores_of
from maskwright.engine.weights import require_finite
from maskwright.errors import DataError

_PIECE = 1 << 24
# Logits of this many pixels times categories are brought back to the original resolution at once (64 MiB in float32).


class Predictor(BasePredictor):
    """A trained network, ready for images of any size and mode. Made by :func:`maskwright.load`.

    Attributes:
        network: what computes, in evaluation mode.
    """

    def __init__(self, network: nn.Module, model: Model) -> None:
        self.network = network.eval().requires_grad_(False)
        self.categories, self.size = model.categories, model.size
        self.folder, self.recipe, self.signature = model.folder, model.recipe, model.signature
        self.image_reading, self.crop = model.image_reading, model.crop

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def to(self, device: str | torch.device) -> Self:
        """Move to another device. Raises MaskwrightError for one that is not here."""
        self.network.to(find_device(device))
        return self

    def prepare(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """What of an image ``(H, W, 3)`` is kept until its batch is full: ``(S, S, 3)``, squashed; all of it where the model
        slides. Called by the threads."""
        return pixels if self.crop else squash(pixels, self.size)

    @property
    def slides(self) -> bool:
        return type(self).window_logits is not Predictor.window_logits

    @property
    def area_side(self) -> int:
        return area_side(len(self.categories))

    def window_logits(self, canvases: NDArray[np.uint8], /, **options: Any) -> Tensor:
        """Canvases ``(B, S, S, 3)`` uint8 → logits ``(B, C, s, s)`` of the categories; of models that slide alone."""
        raise NotImplementedError

    def area_logits(self, read: Read, slide: Slide, area: Rectangle, *, batch: int, **options: Any) -> Tensor:
        """The blended logits ``(C, h, w)`` of an area; arguments as of :meth:`predict_area`. Raises NotFiniteError."""

        def look(windows: Sequence[NDArray[np.uint8]]) -> Tensor:
            logits = self.window_logits(np.stack([squash(one, self.size) for one in windows]), **options)
            require_finite(logits)
            return logits

        return blended(look, read, slide, area, batch)

    def predict_area(
        self, read: Read, slide: Slide, area: Rectangle, *, batch: int, **options: Any
    ) -> dict[str, NDArray[Any]]:
        return vars(mask_of(self.area_logits(read, slide, area, batch=batch, **options)))

    def slid(
        self, pixels: NDArray[np.uint8], *, batch: int = 8, **options: Any
    ) -> tuple[NDArray[np.uint8], dict[str, float]]:
        """The mask ``(H, W)`` and the scores of an image in memory, where the model has a ``crop`` to slide."""
        assert self.crop is not None
        size = pixels.shape[1], pixels.shape[0]
        slide, read = Slide.of(size, self.crop), reader_of(pixels)
        mask = np.empty(pixels.shape[:2], np.uint8)
        parts = []
        for area in areas_of(size, self.area_side):
            one = AreaMask(**self.predict_area(read, slide, area, batch=batch, **options))
            mask[area[1] : area[3], area[0] : area[2]] = one.mask
            parts.append(one)
        return mask, scores_of(parts, self.categories)

    def restore(self, logits: Tensor, size: Size) -> tuple[NDArray[np.uint8], dict[str, float]]:
        """See :func:`restored`."""
        return restored(logits, size, self.size, self.categories)

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
            None for a model folder by itself, or one of a hub: there is no run around it, and nothing but the model belongs into it.
        """
        if not Path(run).is_dir() or Path(run).resolve() == self.folder.resolve():
            return None
        name = "".join(c if c.isalnum() or c in "._-" else "_" for c in split)
        return Path(run, f"evaluation-{name}{self.scores_ending(options)}.json")

    def scores_ending(self, options: Mapping[str, Any]) -> str:
        """What tells scores of another way to predict from the usual ones, such as ``-in-context``."""
        return ""


@torch.inference_mode()
def restored(
    logits: Tensor, size: Size, canvas: int, categories: Sequence[str]
) -> tuple[NDArray[np.uint8], dict[str, float]]:
    """Logits ``(C, s, s)`` that cover a canvas → the mask ``(H, W)`` and the scores; in strips of rows, so that memory is bounded."""
    (width, height), count = size, len(categories)
    mask = np.empty((height, width), np.uint8)
    area, certainty = np.zeros(count), np.zeros(count)
    rows = max(1, _PIECE // (width * count))
    for top in range(0, height, rows):
        tall = min(rows, height - top)
        matrix = compose(resize_matrix(size, canvas), np.array([[1.0, 0, 0], [0, 1, top]]))
        matrices = torch.from_numpy(matrix)[None].float()
        strip = unwarp_logits(logits[None], matrices, [(width, tall)], canvas=canvas)[0]
        # The probability of the best category is exp(its logit - logsumexp): the softmax of all is never needed.
        best, category = strip.max(0)
        probability = (best - strip.logsumexp(0)).exp().cpu().numpy()
        mask[top : top + tall] = category.to(torch.uint8).cpu().numpy()
        flat = mask[top : top + tall].reshape(-1)
        area += np.bincount(flat, minlength=count)
        certainty += np.bincount(flat, probability.reshape(-1), minlength=count)
    pairs = zip(categories, certainty.tolist(), area.tolist())
    return mask, {name: total / pixels for name, total, pixels in pairs if pixels}
