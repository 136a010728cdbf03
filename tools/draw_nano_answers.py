"""Draw what ``nano`` answers to 24 boxes and clicks on photographs that everybody can have, for ``docs/nano.md``.

    pip install scikit-image scikit-learn
    python tools/draw_nano_answers.py --out docs/images/nano.jpg

The photographs come with scikit-image, scikit-learn and Matplotlib; none was learnt from. The prompts were written down before any
answer was looked at, so the page shows what goes well and what does not.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from PIL import Image

from maskwright.data.images import read_image
from maskwright.data.pictures import Pixels, draw_labels, overlay, palette, side_by_side, thumbnail
from maskwright.errors import MaskwrightError
from maskwright.sam.closer_look import look_closer
from maskwright.sam.prompts import Prompts
from maskwright.sam.sam import Sam

SKIMAGE, SKLEARN, MATPLOTLIB = "skimage/data", "sklearn/datasets/images", "matplotlib/mpl-data/sample_data"

PROMPTS: Sequence[tuple[str, str, tuple[float, ...]]] = (
    (SKIMAGE, "astronaut.png", (0.03, 0.02, 0.72, 1.0)),
    (SKIMAGE, "astronaut.png", (0.69, 0.0, 0.89, 0.55)),
    (SKIMAGE, "astronaut.png", (0.26, 0.67, 0.41, 0.83)),
    (SKIMAGE, "astronaut.png", (0.2, 0.5)),
    (SKIMAGE, "chelsea.png", (0.3, 0.28, 0.46, 0.5)),
    (SKIMAGE, "chelsea.png", (0.49, 0.74, 0.65, 0.9)),
    (SKIMAGE, "coffee.png", (0.28, 0.03, 0.71, 0.56)),
    (SKIMAGE, "coffee.png", (0.53, 0.5, 0.68, 0.83)),
    (SKIMAGE, "coffee.png", (0.45, 0.38)),
    (SKIMAGE, "rocket.jpg", (0.48, 0.31, 0.53, 0.95)),
    (SKIMAGE, "coins.png", (0.79, 0.05, 0.95, 0.24)),
    (SKIMAGE, "coins.png", (0.55, 0.63)),
    (SKIMAGE, "camera.png", (0.0, 0.12, 0.65, 1.0)),
    (SKIMAGE, "camera.png", (0.44, 0.37, 0.8, 1.0)),
    (SKIMAGE, "camera.png", (0.25, 0.5)),
    (SKIMAGE, "motorcycle_left.png", (0.12, 0.14, 0.93, 0.91)),
    (SKIMAGE, "motorcycle_left.png", (0.8, 0.73)),
    (SKIMAGE, "cell.png", (0.76, 0.56)),
    (SKIMAGE, "ihc.png", (0.5, 0.6, 0.75, 0.92)),
    (SKLEARN, "flower.jpg", (0.5, 0.5)),
    (SKLEARN, "china.jpg", (0.1, 0.06, 0.55, 0.98)),
    (SKLEARN, "china.jpg", (0.3, 0.5)),
    (MATPLOTLIB, "grace_hopper.jpg", (0.3, 0.03, 0.73, 0.27)),
    (MATPLOTLIB, "grace_hopper.jpg", (0.5, 0.45)),
)
"""Photograph, and a box x0 y0 x1 y1 or a click x y, as shares of its width and height."""

COLUMNS = 6


@dataclass
class Config:
    out: Path
    """The picture to write."""
    sam: str = "nano"
    side: int = 220
    """Pixels along the longer side of each answer."""


def photograph(folder: str, name: str) -> Pixels:
    """(H,W,3) uint8. Raises MaskwrightError with the package to install."""
    package, _, inside = folder.partition("/")
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise MaskwrightError(f"{name}: comes with the package {package}, which is not installed (see the tool's text)")
    return read_image(Path(found.origin).parent / inside / name)


def answer(sam: Sam, pixels: Pixels, prompt: tuple[float, ...]) -> Pixels:
    """The photograph with the answer, and the prompt drawn over it. Boxes are asked with a closer look."""
    height, width = pixels.shape[:2]
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    places = torch.tensor(prompt) * torch.tensor([width, height] * (len(prompt) // 2))
    if len(prompt) == 4:
        looks = look_closer(sam, image, torch.zeros(1, dtype=torch.long), places[None])
        mask = looks.on_image((width, height))[0] > 0
        labels = {"boxes": [places.tolist()]}
    else:
        small = torch.nn.functional.interpolate(image, (sam.size, sam.size), mode="bilinear", antialias=True)
        click = Prompts.of_points(
            (torch.tensor(prompt) * sam.size)[None, None, None], torch.ones(1, 1, 1, dtype=torch.long)
        )
        logits = sam.decode(sam.encode(small), click, multimask=True).best
        mask = torch.nn.functional.interpolate(logits, (height, width), mode="bilinear")[0, 0] > 0
        labels = {"points": [places.tolist()]}
    colours = palette(4)
    painted = overlay(pixels, mask.numpy().astype(np.uint8) * 3, colours)
    return draw_labels(painted, palette=colours, **labels)


@torch.inference_mode()
def main(config: Config) -> None:
    sam = Sam.load(config.sam)
    tiles = []
    for folder, name, prompt in PROMPTS:
        drawn = thumbnail(answer(sam, photograph(folder, name), prompt), config.side)
        tile = np.full((config.side, config.side, 3), 255, np.uint8)
        top, left = (config.side - drawn.shape[0]) // 2, (config.side - drawn.shape[1]) // 2
        tile[top : top + drawn.shape[0], left : left + drawn.shape[1]] = drawn
        tiles.append(tile)
    rows = [side_by_side(tiles[at : at + COLUMNS]) for at in range(0, len(tiles), COLUMNS)]
    config.out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows)).save(config.out, quality=85)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
