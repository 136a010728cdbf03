"""Boxes answered with a closer look: each on a crop of its own, with the references of its row; see ``sam.closer_look``."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from maskwright.methods.in_context import pseudo
from maskwright.methods.in_context.answerer import Answerer
from maskwright.methods.in_context.pseudo import RowPrompts, Rows
from maskwright.sam.closer_look import CHUNK, Looks, look_closer
from maskwright.sam.sam import Embedding


@torch.no_grad()
def answer_boxes(
    answerer: Answerer,
    images: Tensor,
    rows: Rows,
    prompts: RowPrompts,
    has_references: Tensor,
    places: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """SAM's answers to those of N rows that have boxes, their objects united.

    Args:
        images: (B, 3, S, S) in 0..1 on the canvas.
        rows, prompts: N rows with their prompts.
        has_references, places: (N,) bool and (N, T), see ``Answerer.choose``.

    Returns:
        (M,) which of the rows; their (M, S/4, S/4) logits; and (M,) the mean predicted IoU of their objects.
    """
    row, place = prompts.boxed.nonzero(as_tuple=True)

    def with_references(crops: Embedding, which: Tensor) -> Embedding:
        at = row[which]
        some = has_references[at]
        memory = answerer.pool.memory(places[at[some]]) if some.any() else None
        return answerer.recall(crops, some, memory)

    looks = look_closer(answerer.sam, images, rows.image[row], prompts.boxes[row, place], condition=with_references)
    maps = prompts.hint.new_full((*prompts.valid.shape, answerer.map_size, answerer.map_size), pseudo.EMPTY)
    maps[row, place] = _on_grid(looks, answerer.sam.size)
    iou = maps.new_zeros(prompts.valid.shape).index_put((row, place), looks.iou)
    boxed = prompts.boxed.any(1).nonzero()[:, 0]
    return boxed, maps[boxed].amax(1), iou[boxed].sum(1) / prompts.boxed[boxed].sum(1)


def _on_grid(looks: Looks, size: int) -> Tensor:
    """(N, S/4, S/4) logits of the mean probability in each cell of four by four pixels, in -10..10."""
    parts = [looks.logits.new_zeros(0, size // 4, size // 4)]
    for start in range(0, len(looks), CHUNK):
        pixels = looks[start : start + CHUNK].on_image((size, size)).sigmoid()
        parts.append(torch.logit(F.avg_pool2d(pixels, 4), eps=4.5e-5))
    return torch.cat(parts)
