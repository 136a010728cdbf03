"""What a dataset's labels say of each image, as a map of categories: masks as they are, weak labels as SAM fills them in."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from maskwright.data.batch import Batch, collate
from maskwright.data.dataset import Dataset
from maskwright.data.geometry import resize_matrix
from maskwright.data.items import read_item
from maskwright.data.labels import IGNORE, Kind
from maskwright.data.lookahead import ahead
from maskwright.methods.in_context.closer import answer_boxes, on_grid
from maskwright.methods.in_context.rows import EMPTY, Rows, merge_rows, rows_of, weak_prompts
from maskwright.sam.closer_look import look_closer_at_clicks
from maskwright.sam.prompts import Prompts
from maskwright.sam.sam import Sam

GRID = 128
"""Cells along a side of a map."""

LOCATED = (Kind.POINT, Kind.BOX, Kind.SCRIBBLE, Kind.MASK)
"""Kinds of label that say where something is."""


def label_maps(
    sam: Sam,
    dataset: Dataset,
    *,
    batch: int = 8,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.uint8]:
    """A map for each image of a dataset.

    Args:
        sam: fills in boxes, points and scribbles.
        batch: images at once.
        workers: threads that read files ahead.
        progress: called as ``progress(done, total)``.

    Returns:
        (N, ``GRID``, ``GRID``) category ids, 255 = unknown. An image without a label that says where something is, is unknown all over.

    Raises:
        DataError: files that cannot be read.
    """
    maps = np.full((len(dataset), GRID, GRID), IGNORE, np.uint8)
    located = [place for place, sample in enumerate(dataset) if sample.labels.kind in LOCATED]
    categories = len(dataset.categories)

    def item(place: int):
        return read_item(dataset, dataset[place], limit=2 * sam.size)

    items = ahead(item, located, workers, 2 * batch)
    for start in range(0, len(located), batch):
        places = located[start : start + batch]
        ready = [next(items) for _ in places]
        matrices = [resize_matrix(each.size, sam.size) for each in ready]
        collated = collate(ready, matrices, sam.size, categories, places)
        maps[places] = filled_in(sam, collated, categories).cpu().numpy()
        if progress:
            progress(start + len(places), len(located))
    return maps


@torch.no_grad()
def filled_in(sam: Sam, batch: Batch, categories: int) -> Tensor:
    """The maps of some images: (B, ``GRID``, ``GRID``) uint8.

    Boxes are answered with a closer look; clicks and points of scribbles with the whole image first and then with a closer look. Where
    the answers of several categories overlap, the surest counts.
    """
    batch = batch.to(sam.device)
    is_mask = batch.kinds == Kind.MASK
    maps = F.interpolate(batch.target[:, None].float(), (GRID, GRID), mode="nearest")[:, 0].to(torch.uint8)
    if bool(is_mask.all()):
        return maps
    wanted = (batch.present > 0) & ~is_mask[:, None]
    rows = rows_of(wanted.long(), batch.kinds, torch.full_like(batch.kinds, -1))
    logits = torch.full((len(rows), sam.size // 4, sam.size // 4), EMPTY, device=sam.device)
    asked = _answer_clicks(sam, batch, rows, logits)
    if len(rows) and batch.box_categories.shape[1]:
        boxed, answered, _ = answer_boxes(sam, batch, rows)
        logits[boxed] = answered
        asked[boxed] = True
    merged = merge_rows(logits, rows, len(batch), categories)
    best = F.interpolate(merged, (GRID, GRID), mode="bilinear", align_corners=False).argmax(1).to(torch.uint8)
    # A category that is there, but nobody knows where, could be in any pixel that was given to the background.
    lost = torch.zeros(len(batch), dtype=torch.bool, device=sam.device)
    lost[rows.image[~asked]] = True
    best = torch.where(lost[:, None, None] & (best == 0), IGNORE, best)
    known = torch.zeros_like(lost)
    known[rows.image[asked]] = True
    return torch.where(is_mask[:, None, None], maps, torch.where(known[:, None, None], best, IGNORE).to(torch.uint8))


def _answer_clicks(sam: Sam, batch: Batch, rows: Rows, logits: Tensor) -> Tensor:
    """Write SAM's answers to the rows that have clicks, and say which rows these are: (N,) bool."""
    nothing = torch.zeros(len(rows), dtype=torch.bool, device=sam.device)
    if not len(rows) or not batch.point_categories.shape[1]:
        return nothing
    prompts = weak_prompts(batch, rows, sam.size, boxes=nothing, points=~nothing)
    at = prompts.prompted.nonzero()[:, 0]
    if len(at):
        clicks = Prompts(prompts.tokens.points[at, :1], prompts.tokens.labels[at, :1])
        images = rows.image[at]
        first = sam.decode(sam.encode(batch.images)[images], clicks, multimask=True).best[:, 0]
        looks = look_closer_at_clicks(sam, batch.images, images, clicks, first)
        logits[at] = on_grid(looks, sam.size)
    return prompts.prompted
