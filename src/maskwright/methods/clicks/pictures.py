"""Pictures of a mask click by click: a filmstrip, or the frames of an animation."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from maskwright.data.files import write_atomic
from maskwright.data.geometry import on_canvas
from maskwright.data.pictures import overlay, palette
from maskwright.rl.bank import Bank
from maskwright.rl.clicks import ClickState
from maskwright.sam.prompts import BOTTOM_RIGHT, NEGATIVE, POSITIVE, TOP_LEFT

_ON, _OFF, _BOX = (30, 200, 90), (230, 40, 40), (255, 255, 255)


def frames(bank: Bank, states: Sequence[ClickState], place: int, *, truth: bool = True) -> list[NDArray[np.uint8]]:
    """Pictures ``(S, S, 3)`` of one target: the mask after each state with the prompts so far, the truth first if there is one.

    Args:
        states: of the same targets, one after the other.
        place: of the target in the states.
        truth: include the truth, if the bank has it.
    """
    row = int(states[0].rows[place])
    image = bank.pixels[bank.image[row]].permute(1, 2, 0).cpu().numpy()
    colours = palette(2)
    pictures = []
    if truth and bank.truth is not None:
        pictures.append(overlay(image, bank.truth.canvas[row].cpu().numpy().astype(np.uint8), colours))
    for state in states:
        mask = on_canvas(state.logits[place : place + 1], bank.size)[0].cpu().numpy().astype(np.uint8)
        pictures.append(_with_prompts(overlay(image, mask, colours), state.points[place], state.labels[place]))
    return pictures


def write_gif(path: str | Path, pictures: Sequence[NDArray[np.uint8]], seconds: float = 0.9) -> Path:
    """An endless animation, written by rename; the last frame stays twice as long."""
    if not pictures:
        raise ValueError("an animation needs a frame")
    images = [Image.fromarray(picture).quantize(128, Image.Quantize.MEDIANCUT) for picture in pictures]
    durations = [round(1000 * seconds)] * (len(images) - 1) + [round(2000 * seconds)]
    buffer = BytesIO()
    images[0].save(buffer, "GIF", save_all=True, append_images=images[1:], duration=durations, loop=0)
    return write_atomic(path, buffer.getvalue())


def _with_prompts(picture: NDArray[np.uint8], points: torch.Tensor, labels: torch.Tensor) -> NDArray[np.uint8]:
    """Clicks as discs, green on the object and red off it, the newest with the widest rim; the box as a rectangle."""
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    radius = max(2, round(len(picture) / 60))
    kinds, places = labels.tolist(), (points - 0.5).tolist()
    if TOP_LEFT in kinds:
        (x0, y0), (x1, y1) = places[kinds.index(TOP_LEFT)], places[kinds.index(BOTTOM_RIGHT)]
        draw.rectangle((x0, y0, max(x0, x1), max(y0, y1)), outline=_BOX, width=max(1, radius // 2))
    clicks = [(place, kind) for place, kind in zip(places, kinds) if kind in (POSITIVE, NEGATIVE)]
    for number, ((x, y), kind) in enumerate(clicks):
        rim = 2 if number == len(clicks) - 1 else 1
        draw.circle(
            (x, y), radius + rim - 1, fill=_ON if kind == POSITIVE else _OFF, outline=(255, 255, 255), width=rim
        )
    return np.asarray(image)
