"""The first states of the click agent's episodes: after the oracle's click, another point, a loose box, or an imperfect mask."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from maskwright.data.geometry import warp_maps
from maskwright.data.shapes import tight_boxes
from maskwright.methods.clicks.agent import mask_logits
from maskwright.rl.bank import Bank
from maskwright.rl.clicks import ClickState, first_click, start, start_box, start_mask
from maskwright.rl.oracle import squared_distance
from maskwright.sam.sam import Sam

OPENINGS = {"click": 0.5, "stray": 0.2, "box": 0.12, "mask": 0.18}
"""Share of episodes that begin with the oracle's first click, another point of the object, a box, an imperfect mask."""


def draw_openings(sam: Sam, bank: Bank, rows: Tensor, generator: torch.Generator, *, slots: int) -> ClickState:
    """The first states of an episode on each of the targets ``rows`` (B,), drawn by the shares of ``OPENINGS``."""
    shares = torch.tensor(list(OPENINGS.values())).cumsum(0)
    kind = torch.bucketize(torch.rand(len(rows), generator=generator) * float(shares[-1]), shares).clamp(max=3)
    parts: list[tuple[Tensor, ClickState]] = []
    for number, name in enumerate(OPENINGS):
        index = (kind == number).nonzero()[:, 0].to(rows.device)
        if not len(index):
            continue
        part = rows[index]
        if name == "mask":
            state = start_mask(sam, bank, part, imperfect_masks(bank, part, generator), slots=slots)
        elif name == "box":
            state = start_box(sam, bank, part, loose_boxes(bank, part, generator), slots=slots)
        else:
            place, label, _ = first_click(bank, part) if name == "click" else stray_click(bank, part, generator)
            state = start(sam, bank, part, place, label, slots=slots)
        parts.append((index, state))
    order = torch.cat([index for index, _ in parts]).argsort()
    fields = ClickState.__dataclass_fields__
    return ClickState(**{name: torch.cat([getattr(state, name) for _, state in parts])[order] for name in fields})


def stray_click(bank: Bank, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """A point of each object, deep ones more often: place (B, 2), label (B,) 1, and (B,) True, as
    ``first_click`` returns them."""
    depth = squared_distance(bank.known_truth.canvas[rows]).float().flatten(1)
    pixel = torch.multinomial(depth.cpu(), 1, generator=generator)[:, 0].to(rows.device)
    label = torch.ones_like(rows)
    return torch.stack([pixel % bank.size, pixel // bank.size], 1) + 0.5, label, label.bool()


def loose_boxes(bank: Bank, rows: Tensor, generator: torch.Generator) -> Tensor:
    """(B, 4) boxes of the objects, each side moved by up to a tenth of the box."""
    boxes = tight_boxes(bank.known_truth.canvas[rows])
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    moved = boxes + sides * 0.1 * (2 * torch.rand(len(rows), 4, generator=generator).to(rows.device) - 1)
    return moved.clamp(0, bank.size)


def imperfect_masks(bank: Bank, rows: Tensor, generator: torch.Generator, severity: Tensor | float = 1.0) -> Tensor:
    """(B, h, w) logits of imperfect masks, as another model might have made them: truths moved, stretched and eaten away.

    Args:
        severity: how imperfect, (B,) or one number for all; 0: the true masks.
    """
    area = bank.known_truth.area[rows]
    count, side = len(rows), area.shape[-1]
    draw = torch.rand(count, 5, generator=generator).to(rows.device)
    severity = torch.as_tensor(severity, dtype=torch.float32, device=rows.device).expand(count)
    scale = torch.exp(0.35 * (2 * draw[:, :2] - 1) * severity[:, None])
    mass = area.sum((1, 2)).clamp(min=1e-3)
    shift = (draw[:, 2:4] - 0.5) * 0.3 * (mass.sqrt() * severity)[:, None]
    matrices = torch.zeros(count, 2, 3, device=rows.device)
    matrices[:, 0, 0], matrices[:, 1, 1] = scale.unbind(1)
    # Scaled about the object's centre of mass.
    places = torch.arange(side, device=rows.device) + 0.5
    middle = torch.stack([(area.sum(1) * places).sum(1), (area.sum(2) * places).sum(1)], 1) / mass[:, None]
    matrices[:, :, 2] = middle - scale * middle + shift
    moved = warp_maps(area[:, None], matrices, side)
    waves = torch.randn(count, 1, 8, 8, generator=generator).to(rows.device)
    waves = F.interpolate(waves, (side, side), mode="bicubic", align_corners=False)
    return mask_logits((moved + 0.35 * (draw[:, 4] * severity)[:, None, None, None] * waves)[:, 0])
