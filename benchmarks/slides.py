"""Slides that the benchmarks of large images paint: known cells on tissue, strip by strip, at any size; and how commands are started."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy import ndimage


@dataclass(frozen=True)
class Slide:
    """A slide that is painted strip by strip: cells that are to be found, others of another colour that are not, on tissue."""

    side: int
    count: int
    seed: int

    @cached_property
    def cells(self) -> NDArray[np.float64]:
        """(n, 6): x, y, both radii, angle, and whether it is an object (the first ``count``); none touch each other."""
        rng = np.random.default_rng([self.seed, 1])
        total = round(self.count * 1.3)
        across = int(np.ceil(np.sqrt(total)))
        pitch = self.side / across
        grid = np.stack(np.meshgrid(np.arange(across), np.arange(across)), -1).reshape(-1, 2)
        grid = rng.permutation(grid)[:total]
        radii = rng.uniform(0.16, 0.34, (total, 2)) * min(pitch, 100)
        # A little space is left between neighbours.
        free = pitch / 2 - radii.max(1) - 3
        middle = (grid + 0.5) * pitch + rng.uniform(-1, 1, (total, 2)) * free[:, None]
        angle = rng.uniform(0, np.pi, total)
        return np.column_stack([middle, radii, angle, np.arange(total) < self.count])

    def ids(self, top: int, bottom: int, objects: bool = True) -> NDArray[np.int32]:
        """Ids from 1 of the objects, or of the other cells, in rows ``top`` to ``bottom``."""
        ids = np.zeros((bottom - top, self.side), np.int32)
        for number, (x, y, a, b, angle, is_object) in enumerate(self.cells):
            reach = max(a, b) + 1
            if bool(is_object) != objects or y + reach < top or y - reach >= bottom:
                continue
            x0, x1 = max(0, int(x - reach)), min(self.side, int(x + reach) + 2)
            y0, y1 = max(top, int(y - reach)), min(bottom, int(y + reach) + 2)
            dx, dy = np.meshgrid(np.arange(x0, x1) + 0.5 - x, np.arange(y0, y1) + 0.5 - y)
            along, beside = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
            ids[y0 - top : y1 - top, x0:x1][(along / a) ** 2 + (beside / b) ** 2 <= 1] = number + 1
        return ids

    def strip(self, top: int, bottom: int) -> NDArray[np.uint8]:
        """Pixels of rows ``top`` to ``bottom``, (h, side, 3)."""
        rng = np.random.default_rng([self.seed, 2])
        grain = rng.normal(0, 14, (512, 512)).astype(np.float32)
        grain = ndimage.gaussian_filter(grain, 1.2, mode="wrap") * 3
        rows, columns = np.arange(top, bottom) % 512, np.arange(self.side) % 512
        noise = grain[rows][:, columns]
        waves = 18 * np.sin(np.arange(top, bottom) / 371)[:, None] * np.cos(np.arange(self.side) / 523)
        light = (noise + waves.astype(np.float32))[..., None]
        image = np.array([226, 180, 200], np.float32) + light
        image[self.ids(top, bottom, False) > 0] += np.array([-70, -20, -80], np.float32)
        image[self.ids(top, bottom) > 0] += np.array([-90, -95, -45], np.float32)
        return image.clip(0, 255).astype(np.uint8)

    def write(self, path: Path) -> Path:
        """A tiled TIFF."""
        tile = 512

        def tiles() -> Any:
            for top in range(0, self.side, tile):
                strip = self.strip(top, min(top + tile, self.side))
                strip = np.pad(strip, ((0, tile - len(strip)), (0, -self.side % tile), (0, 0)))
                yield from (strip[:, x : x + tile] for x in range(0, strip.shape[1], tile))

        aside = path.with_suffix(".part.tif")
        tifffile.imwrite(
            aside,
            tiles(),
            shape=(self.side, self.side, 3),
            dtype=np.uint8,
            tile=(tile, tile),
            compression="jpeg",
            photometric="rgb",
            bigtiff=True,
            resolution=(20_000, 20_000),
            resolutionunit="CENTIMETER",
        )
        os.replace(aside, path)
        return path


def command(*arguments: object, processes: int = 1) -> list[str]:
    start = [sys.executable, "-m", "maskwright"]
    if processes > 1:
        start = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", "-m", "maskwright"]
    return [*start, *map(str, arguments)]
