"""A semantic segmenter at work: squashed images in, category masks of the images' own size out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskwright.data.dataset import Dataset
from maskwright.data.schema import Anything
from maskwright.engine.base_predictor import Canvas
from maskwright.engine.model import Model
from maskwright.engine.prediction import Prediction
from maskwright.engine.predictor import Predictor
from maskwright.engine.scoring import ScoreTable
from maskwright.engine.weights import require_finite
from maskwright.methods.semantic.scores import semantic_scores, semantic_table
from maskwright.nets.segmenter import DESCRIPTION, Segmenter, build, completed


class SegmenterPredictor(Predictor):
    """A semantic segmenter: the best category wins in each of the image's own pixels.

    Every image is squashed to the network's canvas, and its logits are brought back to the image's own pixels. A model that
    learnt from crops slides over the image instead, see ``engine.sliding``. Probabilities are those of the softmax there. The
    option ``flip`` also looks at the mirror image and averages the logits: twice the time, slightly better outlines.
    """

    network: Segmenter
    options: ClassVar[Mapping[str, Any]] = {"flip": False}

    def finish(self, canvases: Sequence[Canvas], *, flip: bool = False) -> Iterator[Prediction]:
        if self.crop:
            for canvas in canvases:
                mask, scores = self.slid(canvas.pixels, batch=max(8, len(canvases)), flip=flip)
                yield Prediction(canvas.id, canvas.image, mask, self.categories, scores)
            return
        logits = self.logits(np.stack([canvas.pixels for canvas in canvases]), flip=flip)
        require_finite(logits)
        for canvas, own in zip(canvases, logits):
            mask, scores = self.restore(own, canvas.size)
            yield Prediction(canvas.id, canvas.image, mask, self.categories, scores)

    @torch.inference_mode()
    def logits(self, canvases: NDArray[np.uint8], *, flip: bool = False) -> Tensor:
        """Squashed images ``(B, S, S, 3)`` uint8 → logits ``(B, C, S/4, S/4)`` float32 on the predictor's device."""
        images = torch.from_numpy(canvases).to(self.device).permute(0, 3, 1, 2).float() / 255
        logits = self.network(images).float()
        if flip:
            logits = (logits + self.network(images.flip(-1)).float().flip(-1)) / 2
        return logits

    def window_logits(self, canvases: NDArray[np.uint8], /, **options: Any) -> Tensor:
        return self.logits(canvases, **options)

    def score(
        self, part: Dataset, *, batch: int, progress: Callable[[int, int], None] | None, **options: Any
    ) -> dict[str, Any]:
        """Dice and IoU, see :func:`maskwright.methods.semantic.scores.semantic_scores`."""
        return semantic_scores(self, part, batch=batch, progress=progress, **options)

    def score_table(self, scores: Mapping[str, Any]) -> ScoreTable:
        return semantic_table(scores)


def load_segmenter(model: Model) -> SegmenterPredictor:
    """The predictor of a model folder with a semantic segmenter. Raises WeightsError where it does not fit."""
    # What segments in context is checked where that is asked for.
    fields = {"segmenter": DESCRIPTION, "in_context": Anything()}
    parts = model.parts(
        fields,
        optional=["in_context"],
        older=lambda parts: {**parts, "segmenter": completed(parts.get("segmenter"))},
    )
    network = model.build(lambda: build(parts["segmenter"], len(model.categories), model.size))
    return SegmenterPredictor(network, model)
