"""The images that S⁴M trains on, and those that it is scored on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from maskwright.data.dataset import Dataset
from maskwright.data.instances import is_labelled
from maskwright.data.labels import Labels
from maskwright.engine.scoring import evenly_spread
from maskwright.errors import DataError


def keep_labels(dataset: Dataset, share: str | None, seed: int) -> Dataset:
    """The training split with the labels of a share of its labelled images; all labels of the others are dropped.

    Shares of one seed are nested: the images of 5 % are among those of 10 %.

    Args:
        share: such as ``"10%"`` (at least one image) or ``"47"``; None keeps all labels.

    Raises:
        DataError: ``share`` is no such text, or more images than there are.
    """
    labelled = [i for i, sample in enumerate(dataset) if is_labelled(sample)]
    if share is None:
        return dataset
    text = share.strip()
    try:
        value = float(text.removesuffix("%"))
        count = max(1, round(len(labelled) * value / 100)) if text.endswith("%") else int(text)
    except (ValueError, OverflowError):
        raise DataError([f"--labelled {share}: give a share such as 10%, or a number of images"]) from None
    if not value > 0 or not 1 <= count <= len(labelled):
        raise DataError(
            [f"--labelled {share}: there are {len(labelled)} labelled training images; give 1 to as many, or 100%"]
        )
    labelled = set(np.random.default_rng(seed).permutation(labelled)[:count].tolist())
    return dataset.with_samples([s if i in labelled else replace(s, labels=Labels()) for i, s in enumerate(dataset)])


def scorable(dataset: Dataset, most: int) -> Dataset:
    """Images of the validation split that can be scored; at most so many, evenly spread."""
    return evenly_spread(dataset.with_samples([sample for sample in dataset if is_labelled(sample)]), most)
