"""The labelling page shows images that are read by windows: the same tiles as of an image in memory, with and without a pyramid."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from maskwright.errors import DataError
from maskwright.serve import large_tiles, tiles
from maskwright.serve.tiles import Pictures, level_sizes
from maskwright.serve.wire import WireError
from tests.data.large import files

# Smooth, so that what is left after a reduction does not depend on the order of its steps.
SMOOTH = np.stack([ndimage.zoom(np.random.default_rng(i).random((8, 12)) * 255, 175, order=1) for i in range(3)], -1)
PIXELS = SMOOTH.clip(0, 255).astype(np.uint8)


def decoded(file: tuple[bytes, str]) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(file[0]))).astype(int)


MAKERS: dict[str, Callable[[Path], Path]] = {
    "pyramid": lambda folder: files.pyramid(folder / "a.tif", PIXELS, levels=2),
    "plain": lambda folder: files.pyramid(folder / "b.tif", PIXELS, levels=0),
    "zarr": lambda folder: files.ome_zarr(folder / "c.zarr", PIXELS),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_tiles_are_those_of_the_image_in_memory(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = MAKERS[kind](tmp_path)
    ordinary = tmp_path / "ordinary.png"
    Image.fromarray(PIXELS).save(ordinary)
    expected = Pictures()
    monkeypatch.setattr(tiles, "needs_windows", lambda path: path != ordinary)
    # So small that the coarsest tiles of an image without a pyramid come from its overview.
    monkeypatch.setattr(large_tiles, "AT_ONCE", 700_000)
    large = Pictures()
    height, width = PIXELS.shape[:2]
    for level, size in enumerate(level_sizes((width, height))):
        for column, row in ((0, 0), ((size[0] - 1) // 512, (size[1] - 1) // 512)):
            mine, theirs = (
                decoded(which.tile(of, level, column, row)) for which, of in ((large, path), (expected, ordinary))
            )
            assert mine.shape == theirs.shape
            assert abs(mine - theirs).mean() < 4
    shapes = [np.array(decoded(which.thumbnail(of)).shape) for which, of in ((large, path), (expected, ordinary))]
    assert abs(shapes[0] - shapes[1]).max() <= 1
    for place in ((0, 9, 0), (9, 0, 0), (-1, 0, 0)):
        with pytest.raises(WireError, match="no such tile"):
            large.tile(path, *place)
    with pytest.raises(DataError, match=r"2,100 x 1,400 pixels are too many for SAM .*; label it by hand"):
        large.pixels(path)


def test_a_damaged_window_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = files.pyramid(tmp_path / "a.tif", PIXELS, levels=2)
    broken = files.with_broken_tile(good, tmp_path / "b.tif")
    monkeypatch.setattr(tiles, "needs_windows", lambda path: True)
    with pytest.raises(DataError, match="is damaged"):
        Pictures().tile(broken, 0, 1, 0)
