"""The weak labels that a mask implies, added beside it, so that a model can learn from weak labels where the mask is known."""

from __future__ import annotations

from dataclasses import replace

from maskwright.data.dataset import Dataset
from maskwright.data.labels import Sample
from maskwright.data.mask_files import read_mask
from maskwright.data.weaken import mask_to_boxes, mask_to_points, mask_to_scribbles


def with_implied_labels(dataset: Dataset, *, seed: int = 0) -> Dataset:
    """Every sample with a mask also gets that mask's boxes, and its points or its scribbles (every second sample each).

    Samples without a mask, and labels that are already there, stay as they are.

    Raises:
        DataError: a mask cannot be read.
    """
    return dataset.with_samples([_implied(dataset, s, (i + seed) % 2 == 0) for i, s in enumerate(dataset)])


def _implied(dataset: Dataset, sample: Sample, points: bool) -> Sample:
    mask, path = sample.labels.mask, dataset.mask_path(sample)
    if mask is None or path is None:
        return sample
    values = read_mask(path)
    labels = sample.labels
    if not labels.boxes:
        labels = replace(labels, boxes=mask_to_boxes(values, mask))
    if points and not labels.points:
        labels = replace(labels, points=mask_to_points(values, mask))
    if not points and not labels.scribbles:
        labels = replace(labels, scribbles=mask_to_scribbles(values, mask))
    return replace(sample, labels=labels)
