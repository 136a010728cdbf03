"""Masks written strip by strip are what another reader finds, with their scale; what fails leaves nothing behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
import zarr
from hypothesis import given
from hypothesis import strategies as st

from maskwright.data.large.image import Georeference
from maskwright.data.large.opening import open_large
from maskwright.data.large.writing import write_tiff, write_zarr
from maskwright.errors import DataError

MASK = np.random.default_rng(0).integers(0, 70_000, (1100, 700)).astype(np.uint32)


def strips(height: int) -> Iterator[np.ndarray]:
    yield from (MASK[top : top + height] for top in range(0, len(MASK), height))


@given(height=st.integers(1, 1200), dtype=st.sampled_from([np.uint8, np.uint16, np.uint32]))
def test_round_trip(height: int, dtype: type, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("round")
    parts = (strip.astype(dtype) for strip in strips(height))
    write_tiff(folder / "a.tif", parts, (700, 1100), np.dtype(dtype), mpp=0.5)
    assert np.array_equal(tifffile.imread(folder / "a.tif"), MASK.astype(dtype))
    with open_large(folder / "a.tif") as image:
        assert image.mpp == pytest.approx(0.5)


def test_zarr_and_georeference(tmp_path: Path) -> None:
    write_zarr(tmp_path / "a.zarr", strips(300), (700, 1100), MASK.dtype, mpp=0.5)
    assert np.array_equal(zarr.open_group(tmp_path / "a.zarr", mode="r")["0"][:], MASK)  # type: ignore[index]
    with open_large(tmp_path / "a.zarr") as image:
        assert image.mpp == 0.5
    geo = Georeference((2, 0, 100, 0, -2, 50), rasterio.crs.CRS.from_epsg(32633).to_wkt())
    write_tiff(tmp_path / "g.tif", strips(300), (700, 1100), MASK.dtype, geo=geo)
    with rasterio.open(tmp_path / "g.tif") as file:
        assert np.array_equal(file.read(1), MASK)
        assert (file.crs.to_epsg(), tuple(file.transform)[:6]) == (32633, geo.transform)


@pytest.mark.parametrize("name", ["a.tif", "a.zarr"])
def test_a_failure_leaves_what_was_there(name: str, tmp_path: Path) -> None:
    write = write_tiff if name.endswith("tif") else write_zarr
    write(tmp_path / name, strips(300), (700, 1100), MASK.dtype)

    def failing() -> Iterator[np.ndarray]:
        yield MASK[:600]
        raise DataError(["an area that cannot be read"])

    with pytest.raises(DataError):
        write(tmp_path / name, failing(), (700, 1100), MASK.dtype)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    with open_large(tmp_path / name) as image:
        assert np.array_equal(image.samples((0, 0, 700, 1100))[..., 0], MASK)
