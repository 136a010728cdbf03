"""New images segmented in context: SAM is shown references of a pool, and finds in the images what it sees in these (SAMIX, sec. 3).

Without training and without a prompt: encode, select references, recall them, decode.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskwright.data.batch import Batch
from maskwright.engine.devices import find_device
from maskwright.engine.model import Model
from maskwright.engine.predictor import Canvas, Prediction
from maskwright.errors import MaskwrightError
from maskwright.methods.in_context import pseudo
from maskwright.methods.in_context.labeller import Labeller
from maskwright.methods.in_context.report import write_report
from maskwright.methods.semantic.predictor import SegmenterPredictor
from maskwright.nets.segmenter import Segmenter
from maskwright.nets.spnet import Query, pooled

AT_ONCE = 32
"""Rows that are recalled and decoded in one batch, to bound the memory."""

SIZE_OF_REPORT = 60
"""Images that the page of references shows: those of which SAM is least sure."""


@dataclass(frozen=True)
class Reference:
    """One reference that SAM was shown, and what spoke for it.

    Attributes:
        place: in the pool.
        similarity: cosine of the mean features of both images, in -1..1.
        object_similarity: the same of the objects, the query's being where the segmenter sees it.
        probability: with which the policy chose it, given those before; None for other selectors.
    """

    place: int
    similarity: float
    object_similarity: float
    probability: float | None


@dataclass(frozen=True)
class Found:
    """What was asked for in one image.

    Attributes:
        image: its number in the batch.
        category: its id.
        iou: SAM's own guess of the IoU, in 0..1.
        references: what it was shown, the first choice first.
    """

    image: int
    category: int
    iou: float
    references: tuple[Reference, ...]


class InContext:
    """SAM with a pool of references and a selector.

    Args:
        labeller: with its pool filled; its SAM is adapted.
        segmenter: says which categories are asked for (those that it sees), and where the object is that references are
            compared with.
        names: of the pool's images, by its ``sample``.
        pictures: of the pool's entries, as JPEG files.
    """

    def __init__(
        self, labeller: Labeller, segmenter: Segmenter, names: Sequence[str], pictures: Sequence[bytes]
    ) -> None:
        self.labeller, self.segmenter = labeller, segmenter
        self.names, self.pictures = tuple(names), tuple(pictures)
        self.labeller.sam.eval().requires_grad_(False)

    def to(self, device: str | torch.device) -> InContext:
        """Move all but the segmenter, which belongs to the predictor."""
        own = self.labeller
        own.sam.to(device)
        own.pool.load_state_dict({name: tensor.to(device) for name, tensor in own.pool.state_dict().items()})
        if own.policy is not None:
            own.policy.net.to(device)
        return self

    @torch.inference_mode()
    def answer(self, images: Tensor) -> tuple[Tensor, list[Found]]:
        """(B, 3, S, S) in 0..1 → (B, C, S/4, S/4) logits, background at 0, and what they rest on, image by image."""
        own, batch = self.labeller, Batch.unlabelled(images, self.labeller.categories)
        embedding = own.sam.encode(images)
        seen = pseudo.resize(self.segmenter(images).float(), own.grid).softmax(1)
        rows = pseudo.rows_of(own.asked_categories(batch, seen))
        if not len(rows):
            empty = images.new_zeros(0, own.grid, own.grid)
            return pseudo.merge_rows(empty, rows, len(images), own.categories), []
        no = torch.zeros(len(rows), dtype=torch.bool, device=images.device)
        asked = pseudo.weak_prompts(batch, rows, own.sam.size, boxes=no, points=no)
        vectors = pooled(embedding.low[rows.image], own.first_guess(rows, asked, seen))
        answer = own.answers(embedding, rows, asked)
        shown, places = own.choose(batch, rows, *vectors, 0, answer)
        at = shown.nonzero()[:, 0]
        places = places[at]
        logits, score = images.new_zeros(len(at), own.grid, own.grid), images.new_zeros(len(at))
        for part in torch.arange(len(at), device=images.device).split(AT_ONCE):
            logits[part], score[part] = answer(at[part], places[part])
        rows = rows[at]
        query = Query(vectors[0][at], vectors[1][at], batch.kinds[rows.image])
        return pseudo.merge_rows(logits, rows, len(images), own.categories), self._found(rows, query, places, score)

    def _found(self, rows: pseudo.Rows, query: Query, places: Tensor, score: Tensor) -> list[Found]:
        own = self.labeller
        entries = own.pool.entries()
        whole, foreground = (
            torch.cosine_similarity(mine[:, None], theirs[places], dim=-1)
            for mine, theirs in ((query.whole, entries.whole), (query.foreground, entries.foreground))
        )
        probability: list[list[float | None]] = [[None] * places.shape[1]] * len(places)
        if own.policy is not None and len(places):
            allowed = own.pool.allowed(torch.full_like(rows.image, -1), rows.category, query.kind)
            probability = own.policy.probability(query, entries, allowed, places).tolist()
        columns = zip(
            rows.image.tolist(),
            rows.category.tolist(),
            score.tolist(),
            places.tolist(),
            whole.tolist(),
            foreground.tolist(),
            probability,
        )
        return [
            Found(image, category, iou, tuple(Reference(*values) for values in zip(*references)))
            for image, category, iou, *references in columns
        ]


@dataclass(frozen=True)
class InContextPrediction(Prediction):
    """The mask of one image, and which references it rests on.

    Attributes:
        references: for each category that was asked for, what ``predictions.json`` says of it.
    """

    references: list[dict[str, Any]] = field(default_factory=list, repr=False)

    def record(self) -> dict[str, Any]:
        return super().record() | {"references": self.references}


class InContextPredictor(SegmenterPredictor):
    """A SAMIX model that segments with SAM and its references instead of with the segmenter. Made by ``in_context_files.load``.

    Args:
        model: the folder of both.
        context: SAM, pool and selector; and the segmenter.
    """

    options: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, model: Model, context: InContext) -> None:
        super().__init__(context.segmenter, model)
        policy = context.labeller.policy
        looks = f", {policy.looks} looks" if policy else ""
        settings = f"{model.signature} in context, {context.labeller.references} references{looks}"
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

    def finish(self, canvases: Sequence[Canvas], **options: Any) -> Iterator[InContextPrediction]:
        logits, found = self.answer(np.stack([canvas.pixels for canvas in canvases]))
        for number, (canvas, own) in enumerate(zip(canvases, logits)):
            mask, scores = self.restore(own, canvas.size)
            references = [self._told(one) for one in found if one.image == number]
            yield InContextPrediction(canvas.id, canvas.image, mask, self.categories, scores, references)

    def answer(self, canvases: NDArray[np.uint8]) -> tuple[Tensor, list[Found]]:
        """Squashed images ``(B, S, S, 3)`` uint8 → see ``InContext.answer``."""
        return self.context.answer(torch.from_numpy(canvases).to(self.device).permute(0, 3, 1, 2).float() / 255)

    def conclude(self, folder: Path, rows: Mapping[str, Mapping[str, Any]]) -> list[Path]:
        """``references.html``: images with the references that SAM was shown."""
        return [write_report(folder, rows, self.categories, self.context.pictures, SIZE_OF_REPORT)]

    def _told(self, found: Found) -> dict[str, Any]:
        samples = self.context.labeller.pool.tensors["sample"]
        return {
            "category": self.categories[found.category],
            "iou": round(found.iou, 4),
            "chosen": [
                {
                    "image": self.context.names[int(samples[one.place])],
                    "entry": one.place,
                    "similarity": round(one.similarity, 4),
                    "object_similarity": round(one.object_similarity, 4),
                    **({} if one.probability is None else {"probability": round(one.probability, 4)}),
                }
                for one in found.references
            ],
        }
