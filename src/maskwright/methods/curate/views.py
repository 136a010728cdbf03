"""Images as SAM is shown them for a closer look, and its answers on the grid of the label maps."""

from __future__ import annotations

import torch
from numpy.typing import NDArray

from maskwright.data.batch import collate
from maskwright.data.dataset import Dataset
from maskwright.data.geometry import resize_matrix
from maskwright.data.items import read_item
from maskwright.methods.curate.regions import Region
from maskwright.methods.curate.targets import GRID
from maskwright.sam.closer_look import Looks
from maskwright.sam.sam import Sam


def canvas_of(dataset: Dataset, place: int, sam: Sam) -> torch.Tensor:
    """(1, 3, S, S) at twice SAM's canvas, on its device."""
    side = 2 * sam.size
    item = read_item(dataset, dataset[place], limit=side)
    return collate([item], [resize_matrix(item.size, side)], side, len(dataset.categories)).images.to(sam.device)


def regions_of(looks: Looks, side: int) -> list[Region]:
    """What SAM answered to N looks at canvases of ``side`` pixels, each on the grid of the maps."""
    maps: NDArray = (looks.resized((side, side), GRID).on_image((GRID, GRID)) > 0).cpu().numpy()
    return list(maps)
