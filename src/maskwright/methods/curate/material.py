"""What all of curating works with: a dataset, a SAM, frozen features of the images, what labels say, and what a trained model says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from maskwright.data.check import require_clean
from maskwright.data.dataset import Dataset
from maskwright.data.fingerprint import Fingerprint, file_digest
from maskwright.data.geometry import squash
from maskwright.data.groups import ALONE, Grouping
from maskwright.data.intensity import settled
from maskwright.data.labels import IGNORE, Kind
from maskwright.data.lookahead import ahead
from maskwright.engine.devices import find_device
from maskwright.engine.scoring import category_problems
from maskwright.errors import DataError, RunError
from maskwright.methods.curate.features import Features, compute_features
from maskwright.methods.curate.targets import GRID, LOCATED, label_maps
from maskwright.methods.semantic.predictor import SegmenterPredictor
from maskwright.sam.sam import Sam

Stage = Callable[[str, int, int], None]
"""Called with what is being done, and how much of how much of it is done."""


@dataclass(frozen=True)
class Material:
    """Of N images.

    Attributes:
        maps: (N, g, g) category ids, 255 = unknown: what labels say, see ``targets.label_maps``; all unknown where they were not read.
        groups: (N,) images with the same number belong together.
    """

    sam: Sam
    dataset: Dataset
    features: Features
    maps: NDArray[np.uint8]
    groups: NDArray[np.int64]

    def subset(self, which: NDArray[np.int64]) -> Material:
        """The material of some of the images."""
        dataset = self.dataset.with_samples([self.dataset[place] for place in which.tolist()])
        return Material(self.sam, dataset, self.features.subset(which), self.maps[which], self.groups[which])

    @property
    def categories(self) -> int:
        """C, background included."""
        return len(self.dataset.categories)


def prepare(
    sam: Sam,
    dataset: Dataset,
    *,
    grouping: Grouping = ALONE,
    most: int | None = None,
    seed: int = 0,
    stage: Stage | None = None,
) -> Material:
    """Check a dataset, encode its images and fill its weak labels in.

    Args:
        most: labelled images, drawn by the seed, those with masks first, that are checked and read at most; the labels of others are
            unknown then. Left out: all images are checked, and all labels read.

    Raises:
        DataError: whatever is wrong with the dataset, or with what is read of it; all of it.
    """

    def told(what: str) -> Callable[[int, int], None] | None:
        return None if stage is None else partial(stage, what)

    names = grouping.names(dataset)
    read = np.arange(len(dataset))
    if most is not None:
        kinds = np.array([sample.labels.kind for sample in dataset])
        labelled = np.random.default_rng([seed, 10]).permutation(np.flatnonzero(np.isin(kinds, LOCATED)))
        read = np.sort(labelled[np.argsort(kinds[labelled] != Kind.MASK, kind="stable")][:most])
    part = dataset.with_samples([dataset[place] for place in read.tolist()])
    require_clean(part, training=False)
    dataset = settled(dataset)
    features = compute_features(sam, dataset, progress=told("encoding images"))
    maps = np.full((len(dataset), GRID, GRID), IGNORE, np.uint8)
    maps[read] = label_maps(sam, part.with_image_reading(dataset.image_reading), progress=told("reading labels"))
    if grouping == ALONE:
        # Files that are equal to the byte are one image.
        return Material(sam, dataset, features, maps, features.rows)
    return Material(sam, dataset, features, maps, np.unique(names, return_inverse=True)[1])


def run_probabilities(
    model: SegmenterPredictor, dataset: Dataset, cells: int, *, batch: int = 8, stage: Stage | None = None
) -> NDArray[np.float16]:
    """What a trained segmenter says of N images: (N, C, cells, cells) probabilities, in the dataset's order of categories.

    Raises:
        DataError: the model has other categories, or images cannot be read.
    """
    if problems := category_problems(model.categories, dataset):
        raise DataError(problems, dataset.source or str(dataset.root))
    order = [model.categories.index(name) for name in dataset.categories]
    result = np.zeros((len(dataset), len(order), cells, cells), np.float16)

    def canvas(place: int) -> NDArray[np.uint8]:
        return squash(dataset.pixels(dataset[place]), model.size)

    canvases = ahead(canvas, range(len(dataset)), 2, 2 * batch)
    for start in range(0, len(dataset), batch):
        places = range(start, min(start + batch, len(dataset)))
        probability = model.logits(np.stack([next(canvases) for _ in places])).softmax(1)[:, order]
        result[start : start + len(places)] = F.adaptive_avg_pool2d(probability, cells).cpu().numpy()
        if stage:
            stage("asking the run's model", start + len(places), len(dataset))
    return result


def learnt(run: Path, dataset: Dataset) -> NDArray[np.bool_]:
    """Which images a run has learnt from: (N,) bool, by what the files hold, whatever their names.

    Raises:
        RunError: the run does not say what it learnt from.
    """
    path = run / "data.json"
    try:
        fingerprint = Fingerprint.from_json(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        remedy = "give the run directory itself, made by this version of maskwright, or leave out --run"
        raise RunError(f"{path}: does not tell which images {run} has learnt from ({error}); {remedy}") from None
    seen = {entry.image for entry in fingerprint.entries if entry.split == "train"}
    digits = len(next(iter(seen), ""))
    return np.array([file_digest(dataset.image_path(sample)).hex()[:digits] in seen for sample in dataset])


def load_sam(source: str | Path, device: str | torch.device | None) -> Sam:
    """A SAM that answers, and learns nothing."""
    return Sam.load(source).to(find_device(device or "auto")).eval().requires_grad_(False)
