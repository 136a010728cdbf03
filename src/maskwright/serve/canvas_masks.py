"""Between SAM's canvas and an image: prompts onto the canvas, masks back onto the image's own pixels, and objects made of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from maskwright.data.geometry import resize_matrix, warp_maps
from maskwright.sam.prompts import Prompts
from maskwright.serve.wire import Runs, Size

SMALLEST = 12
"""Pixels of a proposal's part at least: smaller ones are noise of a segmenter's outline."""


def prompts_of(points: Sequence[Sequence[float]], box: Sequence[float] | None, scale: Tensor) -> Prompts | None:
    """Clicks x, y, 1 or 0, and a box, moved by ``scale`` (2,) onto the canvas."""
    parts = []
    if points:
        table = torch.tensor(points, dtype=torch.float32)
        parts.append(Prompts.of_points((table[:, :2] * scale)[None, None], table[None, None, :, 2].long()))
    if box is not None:
        parts.append(Prompts.of_boxes(torch.tensor(box, dtype=torch.float32)[None, None] * scale.repeat(2)))
    return None if not parts else parts[0] if len(parts) == 1 else parts[0].join(parts[1])


def to_grid(mask: Tensor, side: int) -> Tensor:
    """(H, W) in 0..1 → (side, side), the share of each cell that is covered; of an image smaller than that, bilinearly."""
    return torch.nn.functional.interpolate(
        mask.float()[None, None], (side, side), mode="bilinear", antialias=True, align_corners=False
    )[0, 0].clamp(0, 1)


def to_image(logits: Tensor, size: Size) -> tuple[NDArray[np.bool_], tuple[int, int]] | None:
    """Logits (h, w) that cover an image → the mask within the part that it may reach, and where that lies; None: it is empty.

    Only this part is enlarged: most objects are small, and some images very large.
    """
    on = (logits > 0).nonzero()
    if not len(on):
        return None
    rows, columns = logits.shape
    (y0, x0), (y1, x1) = (on.amin(0) - 1).clamp(min=0).tolist(), (on.amax(0) + 2).tolist()
    left, top = int(x0 * size[0] / columns), int(y0 * size[1] / rows)
    right = min(size[0], int(np.ceil(min(x1, columns) * size[0] / columns)))
    bottom = min(size[1], int(np.ceil(min(y1, rows) * size[1] / rows)))
    matrix = torch.from_numpy(resize_matrix((columns, rows), size)).float()
    matrix[:, 2] -= torch.tensor([left, top])
    part = warp_maps(logits[None, None].float(), matrix[None], (right - left, bottom - top))[0, 0]
    return (part > 0).cpu().numpy(), (left, top)


def runs_of(logits: Tensor, size: Size) -> Runs | None:
    found = to_image(logits, size)
    return None if found is None else Runs.of_mask(*found)


def parts_of(mask: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """Connected parts of a mask, but for specks, each as a mask of the same size."""
    labels, count = ndimage.label(mask)  # type: ignore[misc]
    sizes = np.bincount(labels.reshape(-1), minlength=count + 1)
    return [labels == number for number in range(1, count + 1) if sizes[number] >= SMALLEST]


def objects_of(parts: Iterable[tuple[Any, ...]]) -> list[dict[str, Any]]:
    """Objects of proposals from (mask, category, score) or (mask, category, score, offset)."""
    found = []
    for mask, category, score, *offset in parts:
        runs = Runs.of_mask(mask, *offset)
        if runs is not None:
            entry = {"kind": "mask", "category": category, "source": "proposal", "mask": runs.as_json()}
            found.append(entry | {"id": f"proposal-{len(found)}", "score": round(float(score), 4)})
    return found
