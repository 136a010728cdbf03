"""Prompts: a padded batch of clicks and boxes, one row per image and one column per object."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

NEGATIVE, POSITIVE, TOP_LEFT, BOTTOM_RIGHT, PADDING = 0, 1, 2, 3, -1
"""SAM's own labels of a prompt token; padding is embedded as "not a point"."""


@dataclass(frozen=True)
class Prompts:
    """Clicks and boxes for ``K`` objects in each of ``B`` images, in pixels of the canvas that was encoded.

    Coordinates follow the whole project: x right, y down, the centre of the first pixel at (0.5, 0.5); boxes are half-open.

    Attributes:
        points: (B, K, N, 2) float xy.
        labels: (B, K, N) int: 1 on the object, 0 off it, 2 and 3 the corners of a box, -1 padding.

    Example:
        >>> clicks = Prompts.of_points(torch.tensor([[[[40.5, 32.5]]]]), torch.tensor([[[1]]]))
        >>> boxes = Prompts.of_boxes(torch.tensor([[[8.0, 8.0, 64.0, 48.0]]]))
        >>> clicks.join(boxes).labels
        tensor([[[1, 2, 3]]])
    """

    points: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.points.ndim != 4 or self.points.shape[-1] != 2 or self.points.shape[:-1] != self.labels.shape:
            raise ValueError(
                f"prompts need points (B, K, N, 2) and labels (B, K, N); got {tuple(self.points.shape)} and "
                f"{tuple(self.labels.shape)}"
            )

    @classmethod
    def none(cls, batch: int, objects: int = 1, device: torch.device | str | None = None) -> Prompts:
        """No prompt: the decoder then answers from the memory alone (or with whatever stands out)."""
        return cls(
            torch.zeros(batch, objects, 1, 2, device=device),
            torch.full((batch, objects, 1), PADDING, device=device),
        )

    @classmethod
    def of_points(cls, points: Tensor, labels: Tensor) -> Prompts:
        """Clicks: points (B, K, N, 2), labels (B, K, N) with 1 = on, 0 = off, -1 = padding."""
        return cls(points, labels)

    @classmethod
    def of_boxes(cls, boxes: Tensor, valid: Tensor | None = None) -> Prompts:
        """Boxes (B, K, 4) ``x0 y0 x1 y1``, half-open; ``valid`` (B, K) bool, False = no box for this object.

        SAM names a box by the centres of its corner pixels, hence half a pixel inwards.
        """
        half = boxes.new_tensor([0.5, 0.5, -0.5, -0.5])
        points = (boxes + half).unflatten(-1, (2, 2))
        labels = torch.tensor([TOP_LEFT, BOTTOM_RIGHT], device=boxes.device).expand(*boxes.shape[:-1], 2)
        if valid is not None:
            labels = torch.where(valid[..., None], labels, PADDING)
        return cls(points, labels)

    def join(self, other: Prompts) -> Prompts:
        """Both sets of prompts for the same objects."""
        return Prompts(
            torch.cat([self.points, other.points.to(self.points)], dim=2), torch.cat([self.labels, other.labels], dim=2)
        )

    def rows(self, index: Tensor | slice) -> Prompts:
        """The prompts of some of the images."""
        return Prompts(self.points[index], self.labels[index])

    @property
    def shape(self) -> tuple[int, int]:
        """(B, K)."""
        return self.points.shape[0], self.points.shape[1]
