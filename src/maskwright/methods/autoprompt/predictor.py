"""A trained SAM that prompts itself, on a user's images: they need no click, no box and no text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskwright.data.dataset import Dataset
from maskwright.data.geometry import Size, resize_matrix, unwarp_logits
from maskwright.data.labels import IGNORE
from maskwright.data.schema import Items, Kind, Maybe, Text, Whole
from maskwright.engine.base_predictor import Canvas
from maskwright.engine.metrics import BinaryMetrics
from maskwright.engine.model import CLIP_BESIDE, SAM_BESIDE, Model
from maskwright.engine.prediction import Prediction
from maskwright.engine.predictor import Predictor
from maskwright.engine.scoring import ScoreTable, split_problems, true_mask
from maskwright.engine.sliding import Slide, areas_of, reader_of
from maskwright.engine.weights import require_finite
from maskwright.errors import MaskwrightError
from maskwright.methods.autoprompt.agent import OPENING, RULES, SelfPrompter, SelfPromptRules, Trace
from maskwright.methods.autoprompt.scores import Foreground, foreground_of
from maskwright.nets.clip_surgery import ClipSurgery
from maskwright.nets.place_policy import DESCRIPTION as PLACE_POLICY
from maskwright.nets.place_policy import PlacePolicy
from maskwright.nets.recalibrate import DESCRIPTION as SRM
from maskwright.nets.recalibrate import SemanticRecalibration
from maskwright.rl.bank import Bank
from maskwright.rl.clicks import ClickState
from maskwright.sam.sam import Sam
from maskwright.sam.store import weights_signature
from maskwright.sam.weights import EARLIER

SCORES = {
    "miou": "mIoU",
    "miou_present": "mIoU of images that show the foreground",
    "iou_pooled": "IoU of all pixels together",
    "f": "F-measure",
    "f_adaptive": "F-measure, adaptive threshold",
    "f_max": "F-measure, best threshold",
    "e": "E-measure",
    "e_max": "E-measure, best threshold",
    "s": "S-measure",
    "mae": "MAE (lower is better)",
    "fr": "share of clicks that lie on the foreground",
    "presence": "AUROC of telling images with and without foreground apart",
}
"""Names of the scores of ``BinaryMetrics`` in tables."""

Output = Literal["mask", "srm", "clip"]
"""The map that becomes the mask: SAM's last answer, or the map of SRM or CLIP before the first click."""


@dataclass(frozen=True)
class PromptedPrediction(Prediction):
    """A mask with the clicks that SAM was prompted with.

    Attributes:
        clicks: those that led to the mask, in order: x and y in pixels of the image, and ``fg`` or ``bg``.
        policy_places: x and y of all clicks of the policy, whether or not the mask is its last answer.
        logits: ``(s, s)`` of the foreground on the canvas, at SAM's low resolution; None where the model slid over the image.
        probability: ``(H, W)`` of the foreground, where it did; its clicks are too many to name then.
        presence: 0..1, how sure SRM is before the first click that the image shows any foreground; None where the model slid over it.
    """

    clicks: tuple[tuple[float, float, str], ...] = ()
    policy_places: tuple[tuple[float, float], ...] = ()
    logits: Tensor | None = field(default=None, repr=False)
    probability: NDArray[np.float32] | None = field(default=None, repr=False)
    presence: float | None = None

    def record(self) -> dict[str, Any]:
        presence = {} if self.presence is None else {"presence": round(self.presence, 4)}
        clicks = [[round(x, 1), round(y, 1), label] for x, y, label in self.clicks]
        return super().record() | {"clicks": clicks} | presence


class AutoPromptPredictor(Predictor):
    """Finds the foreground of images by prompting a frozen SAM itself.

    Option of :meth:`predict`: ``clicks``, how many the policy places (left out: as many as in training).
    """

    network: SelfPrompter
    options: ClassVar[Mapping[str, Any]] = {"clicks": None}

    def __init__(self, agent: SelfPrompter, foreground: Sequence[str], model: Model) -> None:
        super().__init__(agent, model)
        self.foreground = tuple(foreground)

    def with_defaults(self, options: Mapping[str, Any]) -> dict[str, Any]:
        complete = super().with_defaults(options)
        clicks = complete["clicks"]
        if clicks is not None and not (isinstance(clicks, int) and clicks >= 0):
            raise MaskwrightError(f"--clicks {clicks}: must be a whole number, 0 or more")
        return complete

    def finish(
        self,
        canvases: Sequence[Canvas],
        *,
        clicks: int | None = None,
        rules: SelfPromptRules | None = None,
        output: Output = "mask",
        generator: torch.Generator | None = None,
    ) -> Iterator[Prediction]:
        if self.crop:
            yield from (self._slid_over(canvas, rules or self.rules(clicks), output, generator) for canvas in canvases)
            return
        trace = self.trace(canvases, rules or self.rules(clicks), generator)
        maps = self.output_logits(trace, output)
        require_finite(maps)
        for place, (canvas, logits) in enumerate(zip(canvases, maps)):
            # Of background and foreground, with the foreground's probability as their softmax.
            mask, scores = self.restore(torch.stack([torch.zeros_like(logits), logits]), canvas.size)
            yield PromptedPrediction(
                canvas.id,
                canvas.image,
                mask,
                self.categories,
                scores,
                clicks=_clicks(trace.answer, place, canvas.size, self.size),
                policy_places=tuple((x, y) for x, y, _ in _clicks(trace.last, place, canvas.size, self.size)[OPENING:]),
                logits=logits,
                presence=float(trace.presence[place]),
            )

    def _slid_over(
        self, canvas: Canvas, rules: SelfPromptRules, output: Output, generator: torch.Generator | None
    ) -> PromptedPrediction:
        """The prediction of an image that is seen window by window."""
        assert self.crop is not None
        slide, read = Slide.of(canvas.size, self.crop), reader_of(canvas.pixels)
        probability = np.empty(canvas.size[::-1], np.float32)
        for x0, y0, x1, y1 in areas_of(canvas.size, self.area_side):
            options = {"rules": rules, "output": output, "generator": generator}
            logits = self.area_logits(read, slide, (x0, y0, x1, y1), batch=8, **options)
            probability[y0:y1, x0:x1] = (logits[1] - logits[0]).sigmoid().numpy()
        mask = (probability > 0.5).astype(np.uint8)
        parts = ((self.categories[0], 1 - probability[mask == 0]), (self.categories[1], probability[mask == 1]))
        scores = {name: float(part.mean()) for name, part in parts if len(part)}
        return PromptedPrediction(canvas.id, canvas.image, mask, self.categories, scores, probability=probability)

    def window_logits(
        self,
        canvases: NDArray[np.uint8],
        *,
        clicks: int | None = None,
        rules: SelfPromptRules | None = None,
        output: Output = "mask",
        generator: torch.Generator | None = None,
    ) -> Tensor:
        logits = self.output_logits(self._trace_of(canvases, rules or self.rules(clicks), generator), output)
        return torch.stack([torch.zeros_like(logits), logits], 1)

    def rules(self, clicks: int | None) -> SelfPromptRules:
        """The model's own rules, with another number of clicks where one is given."""
        return self.network.rules if clicks is None else replace(self.network.rules, clicks=clicks)

    @torch.no_grad()
    def trace(
        self, canvases: Sequence[Canvas], rules: SelfPromptRules, generator: torch.Generator | None = None
    ) -> Trace:
        """All steps on the way to the masks of some images; ``generator`` is for random places."""
        return self._trace_of(np.stack([canvas.pixels for canvas in canvases]), rules, generator)

    def _trace_of(
        self, canvases: NDArray[np.uint8], rules: SelfPromptRules, generator: torch.Generator | None
    ) -> Trace:
        """The same of squashed images ``(B, S, S, 3)``."""
        pixels = torch.from_numpy(canvases).permute(0, 3, 1, 2).contiguous()
        return self.network.segment(Bank.of_images(self.network.sam, pixels), rules, generator)

    def output_logits(self, trace: Trace, output: Output) -> Tensor:
        """(B, s, s) logits of one of the agent's maps; see ``Output``. Raises MaskwrightError where there is no map of CLIP."""
        if output == "mask":
            return trace.answer.logits
        maps = trace.recalibrated if output == "srm" else trace.semantic
        if maps is None:
            raise MaskwrightError("this model was trained without --text, so it has no map of CLIP")
        return maps.clamp(1e-6, 1 - 1e-6).logit()

    # ------------------------------------------------------------------------------------------------ scores

    def score_problems(self, dataset: Dataset, split: str) -> list[str]:
        """The dataset may have further categories: they are background."""
        absent = [name for name in self.foreground if name not in dataset.categories]
        problems = (
            [f"the model finds {', '.join(map(repr, absent))}, the dataset has no such category"] if absent else []
        )
        return problems + split_problems(dataset, split)

    def score(
        self,
        part: Dataset,
        *,
        batch: int = 8,
        progress: Callable[[int, int], None] | None = None,
        clicks: int | None = None,
        rules: SelfPromptRules | None = None,
        output: Output = "mask",
        seed: int = 0,
    ) -> dict[str, Any]:
        """Score the foreground of images, at their own resolution.

        Args:
            clicks: how many the policy places; left out, as many as in training.
            rules: other rules to act by, instead of ``clicks``.
            output: what is scored.
            seed: of random places, with rules that ask for them.

        Returns:
            ``foreground``, and what :meth:`maskwright.engine.metrics.BinaryMetrics.compute` gives.
        """
        foreground, metrics = foreground_of(part, self.foreground), BinaryMetrics()
        images = (part.image_path(sample) for sample in part)
        generator = torch.Generator().manual_seed(seed)
        options = {"rules": rules or self.rules(clicks), "output": output, "generator": generator}
        predictions = self._predict(images, batch, 2, None, options)
        for number, (sample, prediction) in enumerate(zip(part, predictions, strict=True), start=1):
            assert isinstance(prediction, PromptedPrediction)
            truth = foreground_mask(true_mask(part, sample), foreground)
            at_places = [truth[int(y), int(x)] for x, y in prediction.policy_places]
            on_foreground = [value == 1 for value in at_places if value != IGNORE]
            height, width = truth.shape
            if prediction.probability is not None:
                probability = prediction.probability.astype(np.float64)
            else:
                assert prediction.logits is not None
                probability = self.probability(prediction.logits, (width, height))
            metrics.update(probability, truth, sample.id, places=on_foreground, presence=prediction.presence)
            if progress:
                progress(number, len(part))
        return {"foreground": list(self.foreground)} | metrics.compute()

    def probability(self, logits: Tensor, size: tuple[int, int]) -> NDArray[np.float64]:
        """Logits ``(s, s)`` of the canvas → probabilities ``(H, W)`` of an image of that (width, height)."""
        matrix = torch.from_numpy(resize_matrix(size, self.size))[None].float()
        image_logits = unwarp_logits(logits[None, None].float(), matrix, [size], canvas=self.size)[0][0]
        return image_logits.sigmoid().cpu().numpy().astype(np.float64)

    def score_table(self, scores: Mapping[str, Any]) -> ScoreTable:
        rows = [[text, scores[name]] for name, text in SCORES.items()]
        ber = "not defined" if scores["ber"] is None else f"{scores['ber']:.1f}"
        note = (
            f"{scores['images']} images, foreground: {', '.join(scores['foreground'])}. BER over all pixels: {ber} %."
        )
        return ScoreTable(["score", "value"], rows, note)


def _clicks(state: ClickState, place: int, size: Size, canvas: int) -> tuple[tuple[float, float, str], ...]:
    """The clicks on one target, in pixels of its image of that (width, height)."""
    scale = np.array(size) / canvas
    placed = zip((state.points[place].cpu().numpy() * scale).tolist(), state.labels[place].tolist(), strict=True)
    return tuple((x, y, "fg" if label == 1 else "bg") for (x, y), label in placed if label in (0, 1))


def foreground_mask(mask: NDArray[np.integer], foreground: Foreground) -> NDArray[np.uint8]:
    """Category ids → 1 = foreground, 0 = anything else, 255 = unknown."""
    return np.where(mask == IGNORE, IGNORE, np.isin(mask, foreground.ids)).astype(np.uint8)


def load_self_prompter(model: Model) -> AutoPromptPredictor:
    """The predictor of a model folder of the recipe ``alignsam``.

    Raises:
        WeightsError: files that are missing or damaged, tensors that do not fit, or a SAM or CLIP other than those that
            the agent was trained for.
    """
    parts = model.parts(_FIELDS)
    source, size, signature = (parts["sam"][name] for name in ("source", "size", "signature"))
    if (parts["srm"]["branch"] == "explicit") != (parts["clip"] is not None and len(parts["text"]) > 0):
        model.refuse(["srm.branch, clip and text: the explicit branch, and it alone, needs a CLIP and names"])
    described = parts["policy"]
    policy = None if described is None else model.build(lambda: PlacePolicy(**described))
    srm = model.build(lambda: SemanticRecalibration(**parts["srm"]), "model" if policy is None else "srm")
    sam = Sam.load(source, size=size)
    model.require_weights("SAM", source, sam.signature(configured=model.version > 1), signature, EARLIER.get(signature))
    clip = _clip_of(model, parts["clip"], parts["text"])
    network = SelfPrompter(sam, srm, policy, clip, parts["text"], SelfPromptRules(**parts["rules"]), parts["grid"])
    return AutoPromptPredictor(network, parts["foreground"], model)


_FIELDS: dict[str, Kind] = {
    "sam": SAM_BESIDE,
    "clip": Maybe(CLIP_BESIDE),
    "text": Items(Text(), 0, 1000),
    "foreground": Items(Text(), 1, IGNORE),
    "policy": Maybe(PLACE_POLICY),
    "grid": Whole(2, 512),
    "srm": SRM,
    "rules": RULES,
}


def _clip_of(model: Model, described: Mapping[str, Any] | None, names: Sequence[str]) -> ClipSurgery | None:
    if described is None:
        return None
    clip = ClipSurgery.load(described["source"], size=described["size"])
    now = clip.signature(names) if model.version > 1 else weights_signature(clip.model)
    model.require_weights("CLIP", described["source"], now, described["signature"])
    return clip
