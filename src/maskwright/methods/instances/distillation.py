"""Structural distillation (S⁴M, section 3.2): a segmenter's features learn which places are similar to SAM.

SAM is prompted with one click at each of P pixels of an image. The segmenter's pixel embeddings must reproduce the cosine similarity of
the clicked token with all tokens of its map, after the last two-way block of the mask decoder.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from maskwright.sam.click_grid import cell_numbers
from maskwright.sam.prompts import Prompts
from maskwright.sam.sam import Embedding, Sam


def query_points(objects: Tensor, inside: Tensor, generator: torch.Generator, count: int = 128) -> Tensor:
    """Draw query pixels: half of them on objects, half anywhere; where there are too few on objects, the rest is drawn at random.

    Args:
        objects: (B, S, S) bool, the union of each image's true masks.
        inside: (B, S, S) bool, the canvas pixels that show the image; all are drawn from these while there are enough.
        generator: on the CPU.

    Returns:
        (B, P, 2) float32 xy, pixel centres on the canvas.
    """
    batch, height, width = inside.shape
    half, valid = count // 2, inside.flatten(1).cpu()
    draws = torch.rand(2, batch, height * width, generator=generator)
    # Whole numbers set the order of preference, the draw decides within each class.
    on = (draws[0] + valid + (valid & objects.flatten(1).cpu())).topk(half, 1).indices
    anywhere = (draws[1] + valid).topk(count - half, 1).indices
    place = torch.cat([on, anywhere], 1).to(inside.device)
    return torch.stack([place % width, place // width], -1) + 0.5


def similarities(tokens: Tensor, cells: Tensor) -> Tensor:
    """Cosine of one token with all tokens of its map, in float32.

    Args:
        tokens: (B, P, N, D): a map for every query; or (B, N, D): one map for all queries of an image.
        cells: (B, P), the query's place in the map.

    Returns:
        (B, P, N) in -1..1.
    """
    # A normal token must not become infinite where a feature is all zeros.
    unit = F.normalize(tokens.float(), dim=-1, eps=1e-6)
    if unit.ndim == 3:
        token = unit.gather(1, cells[..., None].expand(-1, -1, unit.shape[-1]))
        return token @ unit.transpose(1, 2)
    token = unit.gather(2, cells[..., None, None].expand(-1, -1, 1, unit.shape[-1]))
    return (unit @ token.transpose(2, 3)).squeeze(3)


@torch.no_grad()
def sam_similarities(sam: Sam, embedding: Embedding, points: Tensor, canvas: int, chunk: int = 1024) -> Tensor:
    """SAM's similarities of the query points with all places.

    Args:
        sam: frozen.
        embedding: of the B images.
        points: (B, P, 2) on a canvas of ``canvas`` pixels, which SAM's own canvas covers.
        chunk: prompts that are decoded at once, over all images; bounds the memory, not the result.

    Returns:
        (B, P, h·w) for SAM's grid (h, w).
    """
    grid = embedding.low.shape[-2], embedding.low.shape[-1]
    cells = cell_numbers(points, (canvas, canvas), grid)
    clicks = points[:, :, None] * (sam.size / canvas)
    parts = []
    for places, cells_of_part in zip(
        clicks.split(max(1, chunk // len(points)), 1), cells.split(max(1, chunk // len(points)), 1)
    ):
        labels = torch.ones(places.shape[:3], dtype=torch.long, device=places.device)
        parts.append(similarities(sam.attend(embedding, Prompts.of_points(places, labels)), cells_of_part))
    return torch.cat(parts, 1)


def distillation_loss(features: Tensor, target: Tensor, points: Tensor, canvas: int, grid: tuple[int, int]) -> Tensor:
    """Mean Huber loss between the segmenter's similarities and SAM's.

    Args:
        features: (B, D, h', w') pixel embeddings over the canvas.
        target: (B, P, h·w) of :func:`sam_similarities`.
        points: (B, P, 2) on the canvas.
        grid: (h, w) of SAM's tokens.
    """
    with torch.autocast(features.device.type, enabled=False):
        resized = F.interpolate(features.float(), grid, mode="bilinear", align_corners=False)
        student = similarities(resized.flatten(2).transpose(1, 2), cell_numbers(points, (canvas, canvas), grid))
        return F.smooth_l1_loss(student, target)
