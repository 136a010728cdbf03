"""Boxes answered with a closer look, each on a crop of its own; see ``sam.closer_look``.

References are left out: they show objects at the scale of whole images, and made answers on crops worse wherever it was measured.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from maskwright.data.batch import Batch
from maskwright.methods.in_context.rows import EMPTY, Rows
from maskwright.sam.closer_look import CHUNK, Looks, look_closer
from maskwright.sam.sam import Sam


@torch.no_grad()
def answer_boxes(sam: Sam, batch: Batch, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
    """SAM's answers to those of N rows that have boxes: all boxes of the row's category, united.

    Args:
        batch: images and boxes on the plain canvas.
        rows: N of its rows.

    Returns:
        (M,) which of the rows; their (M, S/4, S/4) logits; and (M,) the mean predicted IoU of their objects.
    """
    row, place = (batch.box_categories[rows.image] == rows.category[:, None]).nonzero(as_tuple=True)
    image = rows.image[row]
    looks = look_closer(sam, batch.images, image, batch.boxes[image, place])
    boxed, number = row.unique(return_inverse=True)
    logits = looks.logits.new_full((len(boxed), sam.size // 4, sam.size // 4), EMPTY)
    iou = looks.iou.new_zeros(len(boxed)).index_add(0, number, looks.iou)
    for start in range(0, len(looks), CHUNK):
        some = slice(start, start + CHUNK)
        maps = on_grid(looks[some], sam.size)
        logits.scatter_reduce_(0, number[some, None, None].expand_as(maps), maps, "amax")
    return boxed, logits, iou / number.bincount(minlength=len(boxed)).clamp(min=1)


def on_grid(looks: Looks, size: int) -> Tensor:
    """(N, S/4, S/4) logits of the mean probability in each cell of four by four pixels, not below ``EMPTY``."""
    shares = F.avg_pool2d(looks.on_image((size, size)).sigmoid(), 4)
    return torch.logit(shares, eps=1e-6).clamp(min=EMPTY)
