"""A trained instance segmenter on images: its objects as COCO results, as masks of instance ids, and as pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from maskwright.data.dataset import Dataset
from maskwright.data.geometry import Size, resize_matrix
from maskwright.data.instances import is_labelled, read_ids
from maskwright.data.large.image import Rectangle
from maskwright.data.schema import Maybe, Whole
from maskwright.engine.base_predictor import Canvas, FoundObject
from maskwright.engine.model import Model
from maskwright.engine.prediction import Prediction
from maskwright.engine.predictor import Predictor
from maskwright.engine.scoring import ScoreTable
from maskwright.engine.sliding import Read, Slide
from maskwright.methods.instances import beyond_ap, coco, large
from maskwright.methods.instances.coco import Detection
from maskwright.methods.instances.dense_detections import logits_of, look_densely
from maskwright.methods.instances.dense_views import objects_of
from maskwright.methods.instances.detections import detect, squashed
from maskwright.methods.instances.prediction import InstancePrediction, prediction_of, write_results
from maskwright.nets import dense_instances
from maskwright.nets.dense_instances import DenseSegmenter
from maskwright.nets.instance import DESCRIPTION, InstanceSegmenter, build, completed


class InstancePredictor(Predictor):
    """An instance segmenter: each image is seen as in training. A dense one sees it whole at the scale of training; one of queries
    sees it squashed to the canvas, or in overlapping tiles.

    The option ``threshold`` is the score from which an object is drawn into masks and overlays; COCO results also hold
    objects that score less, see ``InstancePrediction.detections``.
    """

    network: InstanceSegmenter | DenseSegmenter
    options: ClassVar[Mapping[str, Any]] = {"threshold": 0.5}
    holds_instances = True

    def __init__(self, network: InstanceSegmenter | DenseSegmenter, model: Model, crop: int | None) -> None:
        super().__init__(network, model)
        self.crop = crop

    @property
    def slides(self) -> bool:
        return True

    @property
    def slide_side(self) -> float | None:
        return self.size / self.network.zoom if isinstance(self.network, DenseSegmenter) else self.crop

    @property
    def area_side(self) -> int:
        return large.AREA

    def with_crop(self, crop: float | None) -> Self:
        """As of every model; a dense one looks at another scale."""
        other = super().with_crop(crop)
        if crop is not None and isinstance(self.network, DenseSegmenter):
            other.network = copy(self.network)
            other.network.zoom = self.size / crop
        return other

    def predict_area(
        self, read: Read, slide: Slide, area: Rectangle, *, batch: int, **options: Any
    ) -> dict[str, NDArray[Any]]:
        network, view = self.network, large.view_of(area, slide)
        pixels = read(view)
        if isinstance(network, DenseSegmenter):
            # At the scale of the grid's windows, which is that of training unless the image has another one.
            look: Callable[[NDArray[np.uint8]], NDArray[np.float32]] = lambda part: logits_of(network, part)  # noqa: E731
            found = objects_of(look, pixels, self.size / slide.side)
        else:
            found = detect(network, pixels, slide.side, batch)
        return large.packed(found, view, area, slide.size)

    def join_areas(self, areas: Sequence[Mapping[str, NDArray[Any]]], **options: Any) -> list[FoundObject]:
        return [one for one in large.joined(areas) if one.score >= options["threshold"]]

    def prepare(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Tiles are cut when they are looked at: together they are larger than the image. So is the view of a dense segmenter."""
        return pixels if self.crop or isinstance(self.network, DenseSegmenter) else super().prepare(pixels)

    def finish(self, canvases: Sequence[Canvas], *, threshold: float = 0.5) -> Iterator[Prediction]:
        network = self.network
        if isinstance(network, DenseSegmenter):
            per_image = (look_densely(network, one.pixels) for one in canvases)
        elif self.crop:
            per_image = (detect(network, one.pixels, self.crop, len(canvases)) for one in canvases)
        else:
            sizes = [one.size for one in canvases]
            matrices = [resize_matrix(size, self.size) for size in sizes]
            pixels = np.stack([one.pixels for one in canvases])
            per_image = iter(squashed(network, pixels, matrices, sizes))
        for canvas, detections in zip(canvases, per_image, strict=True):
            yield prediction_of(canvas, detections, threshold, self.categories)

    def score_problems(self, dataset: Dataset, split: str) -> list[str]:
        part = dataset.split(split)
        semantic = [sample.id for sample in part if sample.labels.mask is not None and not is_labelled(sample)]
        listed = ", ".join(semantic[:3]) + (" ..." if len(semantic) > 3 else "")
        what = f"{len(semantic)} images of split {split!r} have semantic masks ({listed})"
        problems = [f"{what}, which do not tell objects apart; give masks of instance ids"] if semantic else []
        return super().score_problems(dataset, split) + problems

    def score(
        self, part: Dataset, *, batch: int, progress: Callable[[int, int], None] | None, **options: Any
    ) -> dict[str, Any]:
        """COCO's scores, see :func:`maskwright.methods.instances.coco.scores`, and those of
        :func:`maskwright.methods.instances.beyond_ap.scores`."""
        order = [part.categories.index(name) for name in self.categories]
        truths: list[list[Detection]] = []
        detections: list[list[Detection]] = []
        sizes: list[Size] = []
        predictions = self.predict((part.image_path(sample) for sample in part), batch=batch, **options)
        for number, (sample, prediction) in enumerate(zip(part, predictions, strict=True), start=1):
            assert isinstance(prediction, InstancePrediction)
            ids, categories = read_ids(part, sample)
            truths.append(coco.of_ids(ids, [order.index(int(c)) for c in categories]))
            detections.append(list(prediction.detections))
            sizes.append((ids.shape[1], ids.shape[0]))
            if progress:
                progress(number, len(part))
        scores = coco.scores(truths, detections, sizes, self.categories)
        more = beyond_ap.scores(truths, detections, sizes, self.categories, options["threshold"])
        per_category = {name: row | more["per_category"][name] for name, row in scores["per_category"].items()}
        return {**scores, **more, "threshold": options["threshold"], "per_category": per_category}

    def score_table(self, scores: Mapping[str, Any]) -> ScoreTable:
        names = ("ap", "ceiling", "ap50", "ap75", "box_ap", "f1", "objects")
        rows = [[name, *(row[key] for key in names)] for name, row in scores["per_category"].items()]
        rows.append(["all", *(scores[key] for key in names)])
        return ScoreTable(
            ["category", "AP", "ceiling", "AP50", "AP75", "box AP", "F1", "objects"],
            rows,
            f"COCO's protocol on {scores['images']} images: the best {coco.MOST} detections of each count, and those of the truth itself "
            f"would score the ceiling. AP of all detections: {_shown(scores['ap_all'])}. F1: objects found at an IoU of .5, of a score "
            f"from {scores['threshold']:g} on.",
        )

    def conclude(self, folder: Path, rows: Mapping[str, Mapping[str, Any]]) -> list[Path]:
        """``coco.json``: images, categories and, as annotations with a score, the results of the whole folder."""
        return [write_results(folder, rows, self.categories)]


def load_instances(model: Model) -> InstancePredictor:
    """The predictor of a model folder with an instance segmenter. Raises WeightsError where it does not fit."""
    is_dense = _type_of(model.config.get("segmenter")) == "dense"
    parts = model.parts(
        {"segmenter": dense_instances.DESCRIPTION if is_dense else DESCRIPTION, "crop": Maybe(Whole(32, 1 << 20))},
        older=lambda parts: {**parts, "segmenter": completed(parts.get("segmenter"))},
    )
    make: Callable[..., InstanceSegmenter | DenseSegmenter] = dense_instances.build if is_dense else build
    network = model.build(lambda: make(parts["segmenter"], len(model.categories), model.size))
    return InstancePredictor(network, model, parts["crop"])


def _shown(score: float | None) -> str:
    return "none, as there is no object" if score is None else f"{score:.4f}"


def _type_of(description: Any) -> Any:
    return description.get("type") if isinstance(description, Mapping) else None
