"""The objects of an image, by a dense segmenter: the whole image at the scale of training, in tiles only where it is large."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from maskwright.engine.weights import require_finite
from maskwright.methods.instances.coco import Detection
from maskwright.methods.instances.dense_views import objects_of
from maskwright.methods.instances.detections import look_at
from maskwright.nets.dense_instances import DenseSegmenter
from maskwright.nets.instance import InstanceSegmenter


def find_objects(
    segmenter: InstanceSegmenter | DenseSegmenter, image: NDArray[np.uint8], crop: float | None, batch: int = 8
) -> list[Detection]:
    """The objects of an image ``(H, W, 3)`` uint8 by a segmenter of either kind; ``crop`` and ``batch`` are for queries alone."""
    if isinstance(segmenter, DenseSegmenter):
        return look_densely(segmenter, image)
    return look_at(segmenter, image, crop, batch)


def look_densely(segmenter: DenseSegmenter, image: NDArray[np.uint8]) -> list[Detection]:
    """The objects of an image ``(H, W, 3)`` uint8, the surest first; they do not overlap."""
    return objects_of(lambda view: logits_of(segmenter, view), image, segmenter.zoom)


@torch.inference_mode()
def logits_of(segmenter: DenseSegmenter, view: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What a segmenter makes of one view, see :data:`maskwright.methods.instances.dense_views.Look`. Raises NotFiniteError."""
    pixels = torch.from_numpy(view).to(segmenter.mean.device)
    maps = segmenter(pixels.permute(2, 0, 1)[None].float() / 255)
    found = torch.cat([maps.foreground[0], maps.distance]).float()
    require_finite(found)
    return found.cpu().numpy()
