"""Scores on the images' own pixels: a bank holds its targets squashed to SAM's canvas, and users get masks of their images' size."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskwright.data.dataset import Dataset
from maskwright.data.geometry import Size, resize_matrix, unwarp_logits
from maskwright.data.labels import IGNORE
from maskwright.data.masks import label_values
from maskwright.rl.bank import Bank

IMAGES_KEPT = 16
"""Masks of images that are kept in memory: targets of one image follow each other, and an answer is scored click by click."""


def image_logits(logits: Tensor, size: Size, canvas: int) -> Tensor:
    """Logits (h, w) that cover a canvas of ``canvas`` pixels along a side, on the pixels (H, W) of an image of ``size``."""
    matrix = torch.from_numpy(resize_matrix(size, canvas))[None].float()
    return unwarp_logits(logits[None, None].float(), matrix, [size], canvas=canvas)[0][0]


class OwnSize:
    """The true masks of a bank's targets at the size of their images.

    Args:
        dataset: that the bank was made of.
    """

    def __init__(self, dataset: Dataset) -> None:
        samples = {sample.id: sample for sample in dataset}
        self._labels = lru_cache(IMAGES_KEPT)(lambda id: label_values(dataset, samples[id]))

    def truth(self, name: str) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """The mask (H, W) of the target of this name (``Bank.names``), and the pixels (H, W) that count."""
        sample, _, id = name.rpartition("/")
        values, categories = self._labels(sample)
        known = categories != IGNORE
        return (values == int(id)) & known, known

    def dice(self, bank: Bank, rows: Tensor, logits: Tensor) -> Tensor:
        """(B,) Dice of logits (B, h, w), enlarged bilinearly to the sizes of the images; unknown pixels do not count."""
        scores = []
        for row, low in zip(rows.tolist(), logits):
            truth, known = self.truth(bank.names[row])
            height, width = truth.shape
            answer = (image_logits(low, (width, height), bank.size) > 0).cpu().numpy()
            scores.append(dice_of(answer & known, truth))
        return torch.tensor(scores, dtype=torch.float32, device=logits.device)


def dice_of(mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Dice of two masks (H, W); 1 where both are empty."""
    total = int(mask.sum()) + int(truth.sum())
    return 2 * int((mask & truth).sum()) / total if total else 1.0
