"""The finder at work: images in, masks out, and for each category whether it is there: found, not there, or unsure."""

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

from maskwright.data.geometry import squash
from maskwright.engine.base_predictor import BasePredictor, Canvas
from maskwright.engine.devices import find_device
from maskwright.engine.prediction import Prediction
from maskwright.engine.predictor import restored
from maskwright.engine.weights import require_finite
from maskwright.errors import MaskwrightError
from maskwright.methods.find.candidates import propose
from maskwright.methods.find.clues import FEATURES
from maskwright.methods.find.examples import Examples, encode_both
from maskwright.methods.find.objects import objects_of
from maskwright.methods.find.report import write_certain, write_report
from maskwright.methods.find.scorer import Scorer
from maskwright.methods.find.showing import Showing, Shown
from maskwright.methods.find.verdicts import ENOUGH, Calibration, Verdict
from maskwright.methods.instances.prediction import InstancePrediction, prediction_of
from maskwright.sam.precompute import images_of
from maskwright.sam.sam import Embedding, Sam

LOCAL = 20
"""Examples with and without the thing that are left out in turn, at most: what the thresholds are sharpened by."""

ABSENT = -10.0
"""Logit of what is not drawn."""

_STABILITY = FEATURES.index("stability")


@dataclass(frozen=True)
class Answer:
    """What is said of one category in one image.

    Attributes:
        verdict: ``found``, ``not there`` or ``unsure``.
        score: 0..1, that it is there.
        quality: 0..1, the expected Dice of the mask if it is there.
        stability: 0..1, mean IoU with the answers under other examples and in the mirror.
        p_absent, p_present: see ``verdicts``.
    """

    verdict: Verdict
    score: float
    quality: float
    stability: float
    p_absent: float
    p_present: float

    def as_json(self) -> dict[str, Any]:
        return {name: value if isinstance(value, str) else round(value, 4) for name, value in vars(self).items()}


@dataclass(frozen=True)
class FoundPrediction(Prediction):
    """The mask of one image: what was found in it, and what may be there; with an answer for each category."""

    answers: dict[str, Answer] = field(default_factory=dict, repr=False)

    def record(self) -> dict[str, Any]:
        return super().record() | _as_json(self.answers)


@dataclass(frozen=True)
class FoundInstances(InstancePrediction):
    """The same as objects."""

    answers: dict[str, Answer] = field(default_factory=dict, repr=False)

    def record(self) -> dict[str, Any]:
        return super().record() | _as_json(self.answers)


def _as_json(answers: Mapping[str, Answer]) -> dict[str, Any]:
    """As they stand in an entry of ``predictions.json``."""
    return {"find": {name: answer.as_json() for name, answer in answers.items()}}


class Finder(BasePredictor):
    """Looks for what examples show.

    Args:
        sam: that encoded the examples.
        examples: what is looked for.
        scorer: judges candidates.
        folder: where the examples come from, for messages.
        progress: called as ``progress(done, total)`` while the thresholds are sharpened.

    Attributes:
        calibrations: of each category that is looked for.
        knows_absent: "not there" is judged by the user's own examples, of every category: only then is it a label to learn from. An empty
            mask where the thing is does more harm than a missing one.
        notes: what the verdicts rest on, and what was left out.
    """

    options: ClassVar[Mapping[str, Any]] = {"alpha": 0.1}
    recipe = "find"

    def __init__(
        self,
        sam: Sam,
        examples: Examples,
        scorer: Scorer,
        folder: str | Path,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.sam, self.examples, self.scorer = sam, examples, scorer
        self.folder = Path(folder)
        self.categories = examples.dataset.categories
        self.size = 2 * sam.size
        self.image_reading = examples.dataset.image_reading
        self.holds_instances = examples.instances
        said = f"{sam.signature()} {examples.digest()} {scorer.digest()}"
        self.signature = hashlib.sha256(said.encode()).hexdigest()[:16]
        self.shown: dict[int, Shown] = {}
        self.calibrations: dict[int, Calibration] = {}
        notes = list(examples.notes)
        known = scorer.sam == sam.signature()
        todo = examples.shown
        self.knows_absent = True
        for number, category in enumerate(todo):
            showing = examples.of(sam, category)
            self.shown[category] = showing.shown()
            own = leave_one_out(sam, scorer, showing, examples.canvases, examples.embedding, examples.mirrored)
            general = scorer.calibration(int(showing.sums.shows.sum())) if known else Calibration.of([], [])
            self.calibrations[category] = general.sharpened(own)
            self.knows_absent &= len(own.present) >= ENOUGH
            notes.append(_basis(self.categories[category], own, general))
            if progress:
                progress(number + 1, len(todo))
        missing = [name for c, name in enumerate(self.categories) if c and c not in self.shown]
        if missing:
            notes.append(f"not looked for, as no example shows it: {', '.join(missing)}")
        if not self.knows_absent:
            notes.append(f'"not there" is no label in certain.json before {ENOUGH} examples show each category')
        self.notes = tuple(notes)

    @property
    def device(self) -> torch.device:
        return self.sam.device

    def to(self, device: str | torch.device) -> Self:
        if find_device(device) != self.device:
            raise MaskwrightError(f"{device}: the examples were encoded on {self.device}; load the SAM there first")
        return self

    def with_defaults(self, options: Mapping[str, Any]) -> dict[str, Any]:
        complete = super().with_defaults(options)
        alpha = complete["alpha"]
        if not 0 < alpha < 0.5:
            raise MaskwrightError(f"--alpha {alpha}: must lie above 0 and below 0.5")
        return complete

    def prepare(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """``(2S, 2S, 3)``: a closer look shows more than SAM's canvas."""
        return squash(pixels, self.size)

    def finish(self, canvases: Sequence[Canvas], **options: Any) -> Iterator[Prediction]:
        pixels = np.stack([canvas.pixels for canvas in canvases])
        embedding, mirrored = encode_both(self.sam, pixels)
        images = images_of(self.sam, pixels)
        side = self.sam.size
        logits = images.new_zeros(len(canvases), len(self.categories), side, side, dtype=torch.float32)
        logits[:, 1:] = ABSENT
        answers: list[dict[str, Answer]] = [{} for _ in canvases]
        for category, shown in self.shown.items():
            found, told = self._look_for(category, shown, images, embedding, mirrored, options["alpha"])
            for row, answer in enumerate(told):
                answers[row][self.categories[category]] = answer
                if answer.verdict != "not there":
                    logits[row, category] = found[row]
        require_finite(logits)
        for row, canvas in enumerate(canvases):
            mask, scores = restored(logits[row], canvas.size, self.size, self.categories)
            if not self.holds_instances:
                yield FoundPrediction(canvas.id, canvas.image, mask, self.categories, scores, answers=answers[row])
                continue
            detections = objects_of(mask, side, self.examples.diameters, self._sureness(answers[row]))
            drawn = prediction_of(canvas, detections, 0.0, self.categories)
            yield FoundInstances(**vars(drawn), answers=answers[row])

    def conclude(self, folder: Path, rows: Mapping[str, Mapping[str, Any]]) -> list[Path]:
        """The contact sheet, and the dataset of what is certain."""
        return [
            write_report(folder, rows, self.categories, self.examples, self.notes, self.image_reading),
            write_certain(folder, rows, self.examples, with_absent=self.knows_absent),
        ]

    def _look_for(
        self, category: int, shown: Shown, images: Tensor, embedding: Embedding, mirrored: Embedding, alpha: float
    ) -> tuple[Tensor, list[Answer]]:
        """Logits (B, S, S) of one category, and what is said of it in each image."""
        candidates = propose(self.sam, images, shown, embedding, mirrored)
        best, quality, score = self.scorer.judge(candidates.features)
        rows = torch.arange(len(images), device=best.device)
        stability = candidates.features[rows, best, _STABILITY]
        calibration = self.calibrations[category]
        absent, present = calibration.p_values(score.cpu().numpy())
        columns = zip(
            score.tolist(), quality.tolist(), stability.tolist(), absent.tolist(), present.tolist(), strict=True
        )
        told = [Answer(calibration.verdict(one[0], alpha), *one) for one in columns]
        return candidates.chosen(best), told

    def _sureness(self, answers: Mapping[str, Answer]) -> dict[int, float]:
        return {self.categories.index(name): answer.score * answer.quality for name, answer in answers.items()}


def leave_one_out(
    sam: Sam,
    scorer: Scorer,
    showing: Showing,
    canvases: NDArray[np.uint8],
    embedding: Embedding,
    mirrored: Embedding,
) -> Calibration:
    """Presence scores of N examples, each by the others: what says most about this category in these images.

    Args:
        showing: the examples of one category.
        canvases, embedding, mirrored: of the same examples, see ``examples.Examples``.
    """
    shows = showing.sums.shows
    place = torch.arange(len(shows), device=shows.device)
    scores: list[list[float]] = [[], []]
    for side, members in enumerate((shows.nonzero()[:, 0], (~shows).nonzero()[:, 0])):
        if side == 0 and len(members) < 2:
            continue
        for one in members[:LOCAL].tolist():
            row = slice(one, one + 1)
            found = propose(
                sam, images_of(sam, canvases[row]), showing.shown(place != one), embedding[row], mirrored[row]
            )
            scores[side].append(float(scorer.judge(found.features)[2]))
    return Calibration.of(*scores)


def _basis(name: str, own: Calibration, general: Calibration) -> str:
    """What the verdicts about a category rest on."""
    parts = []
    for verdict, what, mine, others in (
        ("not there", "with", own.present, general.present),
        ("found", "without", own.absent, general.absent),
    ):
        have = f"you have {len(mine)} examples {what} it"
        if len(mine) >= ENOUGH:
            by = f"judged by your {len(mine)} examples {what} it"
        elif len(others):
            by = f"judged by {len(others)} answers about other things ({have}; from {ENOUGH} on they decide)"
        else:
            by = f"never said ({have}; {ENOUGH} are needed)"
        parts.append(f'"{verdict}" is {by}')
    return f"{name}: {'; '.join(parts)}"
