"""Segmentation of new images in context: SAM is conditioned on references of a pool and segments their categories (SAMIX, sec. 3).

Without training and without a prompt: encode, select references, recall them, decode.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskwright.data.batch import Batch
from maskwright.engine.base_predictor import Canvas
from maskwright.engine.devices import find_device
from maskwright.engine.model import Model
from maskwright.engine.prediction import Prediction
from maskwright.engine.state import seeded
from maskwright.engine.weights import require_finite
from maskwright.errors import MaskwrightError
from maskwright.methods.in_context.answerer import Answerer
from maskwright.methods.in_context.report import write_report
from maskwright.methods.in_context.rows import Rows, merge_rows, resize, rows_of, weak_prompts
from maskwright.methods.in_context.selection import ReferenceChoice
from maskwright.methods.in_context.streams import Stream
from maskwright.methods.semantic.predictor import SegmenterPredictor
from maskwright.nets.segmenter import Segmenter
from maskwright.nets.spnet import Query
from maskwright.sam.sam import Embedding

AT_ONCE = 32
"""Rows that are recalled and decoded in one batch, to bound the memory."""

SIZE_OF_REPORT = 60
"""Images that the page of references shows: those of which SAM is least sure."""


@dataclass(frozen=True)
class Reference:
    """One reference of an answer, and how similar it is to the query.

    Attributes:
        place: its position in the pool.
        similarity: cosine of the mean features of both images, in -1..1.
        object_similarity: the same of the objects, the query's being where the segmenter sees it.
        probability: of the policy's choice, given the references before it; None for other selectors.
    """

    place: int
    similarity: float
    object_similarity: float
    probability: float | None


@dataclass(frozen=True)
class Evidence:
    """The references of one mask, that of one category in one image.

    Attributes:
        image: its number in the batch.
        category: its id.
        iou: predicted by SAM, in 0..1.
        references: in the order in which they were chosen.
    """

    image: int
    category: int
    iou: float
    references: tuple[Reference, ...]


class InContextSegmenter:
    """SAM in context, and the segmenter that finds the categories it looks for.

    Args:
        answerer: with its pool filled; its SAM is adapted, and in evaluation mode.
        segmenter: images → logits; predicts which categories are looked for, and the region of the object that references are
            compared with.
        names: of the pool's images, by its ``sample``.
        pictures: of the pool's entries, as JPEG files.
    """

    def __init__(
        self,
        answerer: Answerer,
        segmenter: Callable[[Tensor], Tensor],
        names: Sequence[str],
        pictures: Sequence[bytes],
    ) -> None:
        self.answerer, self.segmenter = answerer, segmenter
        self.names, self.pictures = tuple(names), tuple(pictures)

    def to(self, device: str | torch.device) -> InContextSegmenter:
        """Move all but the segmenter, which belongs to the predictor."""
        answerer = self.answerer
        answerer.sam.to(device)
        answerer.pool.load_state_dict({name: part.to(device) for name, part in answerer.pool.state_dict().items()})
        if answerer.policy is not None:
            answerer.policy.net.to(device)
        return self

    @torch.no_grad()
    def segment(
        self, images: Tensor, embedding: Embedding | None = None, *, look: bool = True
    ) -> tuple[Tensor, list[Evidence]]:
        """The masks of B images, and what they were made with.

        Args:
            images: (B, 3, S, S) in 0..1.
            embedding: of them; left out, SAM encodes them.
            look: a policy may have SAM answer several sets before it chooses, see ``ReferencePolicy.choose``.

        Returns:
            (B, C, S/4, S/4) logits, background at 0, and the references of every mask, image by image.
        """
        answerer = self.answerer
        batch, side = Batch.unlabelled(images, answerer.categories), answerer.map_size
        embedding = answerer.sam.encode(images) if embedding is None else embedding
        prediction = resize(self.segmenter(images).float(), side).softmax(1)
        rows = rows_of(answerer.query_categories(batch, prediction), batch.kinds, batch.indices)
        if not len(rows):
            return merge_rows(images.new_zeros(0, side, side), rows, len(images), answerer.categories), []
        no = torch.zeros(len(rows), dtype=torch.bool, device=images.device)
        prompts = weak_prompts(batch, rows, answerer.sam.size, boxes=no, points=no)
        query = answerer.query(embedding, rows, prompts, prediction)
        predict_masks = answerer.mask_predictor(embedding, rows, prompts)
        # A fixed seed, so that a prediction does not depend on those before it.
        chosen = answerer.choose(rows, query, seeded(0, Stream.REFERENCES, 0), predict_masks if look else None)
        at = chosen.has_references.nonzero()[:, 0]
        rows, query, choice = rows[at], query[at], chosen.choice or ReferenceChoice(chosen.places[at])
        logits, iou = choice.logits, choice.iou
        if logits is None or iou is None:
            logits, iou = images.new_zeros(len(at), side, side), images.new_zeros(len(at))
            for part in torch.arange(len(at), device=images.device).split(AT_ONCE):
                logits[part], iou[part] = predict_masks(at[part], choice.places[part])
        merged = merge_rows(logits, rows, len(images), answerer.categories)
        return merged, self._evidence(rows, query, choice, iou)

    def _evidence(self, rows: Rows, query: Query, choice: ReferenceChoice, iou: Tensor) -> list[Evidence]:
        entries, places = self.answerer.pool.entries(), choice.places
        at = places.to(entries.whole.device)
        whole, foreground = (
            torch.cosine_similarity(vector[:, None], of_entries[at].to(vector.device), dim=-1)
            for vector, of_entries in ((query.whole, entries.whole), (query.foreground, entries.foreground))
        )
        probability: list[list[float | None]] = [[None] * places.shape[1]] * len(places)
        if choice.probability is not None:
            probability = choice.probability.tolist()
        columns = zip(
            rows.image.tolist(),
            rows.category.tolist(),
            iou.tolist(),
            places.tolist(),
            whole.tolist(),
            foreground.tolist(),
            probability,
        )
        return [
            Evidence(image, category, predicted, tuple(Reference(*values) for values in zip(*references)))
            for image, category, predicted, *references in columns
        ]


@dataclass(frozen=True)
class InContextPrediction(Prediction):
    """The mask of one image, and the references that it was made with.

    Attributes:
        references: for each category that was looked for, its entry in ``predictions.json``.
    """

    references: list[dict[str, Any]] = field(default_factory=list, repr=False)

    def record(self) -> dict[str, Any]:
        return super().record() | {"references": self.references}


class InContextPredictor(SegmenterPredictor):
    """A SAMIX model that segments with SAM and its references instead of with the segmenter. Made by ``files.load``.

    Args:
        model: the folder of both.
        segmenter: of the model.
        context: SAM with pool and selector, and the same segmenter.
    """

    options: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, model: Model, segmenter: Segmenter, context: InContextSegmenter) -> None:
        super().__init__(segmenter, model)
        policy = context.answerer.policy
        looks = f", {policy.settings.looks} looks" if policy else ""
        settings = f"{model.signature} in context, {context.answerer.references} references{looks}"
        self.signature = hashlib.sha256(settings.encode()).hexdigest()[:16]
        self.context = context

    def to(self, device: str | torch.device) -> Self:
        """Move to another device. Raises MaskwrightError for one that is not here."""
        super().to(device)
        self.context.to(find_device(device))
        return self

    def with_defaults(self, options: Mapping[str, Any]) -> dict[str, Any]:
        if options.get("flip"):
            raise MaskwrightError("--flip: in context images are not looked at in the mirror; leave out one of the two")
        return super().with_defaults(options)

    def scores_ending(self, options: Mapping[str, Any]) -> str:
        return "-in-context"

    def window_logits(self, canvases: NDArray[np.uint8], /, **options: Any) -> Tensor:
        return self.answer(canvases)[0]

    def finish(self, canvases: Sequence[Canvas], **options: Any) -> Iterator[InContextPrediction]:
        if self.crop:
            # Each window has references of its own, far too many to name.
            for canvas in canvases:
                mask, scores = self.slid(canvas.pixels)
                yield InContextPrediction(canvas.id, canvas.image, mask, self.categories, scores)
            return
        logits, evidence = self.answer(np.stack([canvas.pixels for canvas in canvases]))
        require_finite(logits)
        for number, (canvas, image_logits) in enumerate(zip(canvases, logits)):
            mask, scores = self.restore(image_logits, canvas.size)
            references = [self._record(one) for one in evidence if one.image == number]
            yield InContextPrediction(canvas.id, canvas.image, mask, self.categories, scores, references)

    def answer(self, canvases: NDArray[np.uint8]) -> tuple[Tensor, list[Evidence]]:
        """Squashed images ``(B, S, S, 3)`` uint8 → see ``InContextSegmenter.segment``."""
        return self.context.segment(torch.from_numpy(canvases).to(self.device).permute(0, 3, 1, 2).float() / 255)

    def conclude(self, folder: Path, rows: Mapping[str, Mapping[str, Any]]) -> list[Path]:
        """``references.html``: the images with their references."""
        return [write_report(folder, rows, self.categories, self.context.pictures, SIZE_OF_REPORT, self.image_reading)]

    def _record(self, evidence: Evidence) -> dict[str, Any]:
        """As it stands in ``predictions.json``."""
        samples = self.context.answerer.pool.tensors["sample"]
        return {
            "category": self.categories[evidence.category],
            "iou": round(evidence.iou, 4),
            "chosen": [
                {
                    "image": self.context.names[int(samples[one.place])],
                    "entry": one.place,
                    "similarity": round(one.similarity, 4),
                    "object_similarity": round(one.object_similarity, 4),
                    **({} if one.probability is None else {"probability": round(one.probability, 4)}),
                }
                for one in evidence.references
            ],
        }
