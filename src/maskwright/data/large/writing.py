"""Large masks written strip by strip: tiled TIFF, GeoTIFF, OME-Zarr. Each appears under its name when it is whole, or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskwright.data.files import write_by_rename
from maskwright.data.large import packages
from maskwright.data.large.image import Georeference

TILE = 512
"""Pixels along a tile of a TIFF, and along a chunk of a zarr array."""

_BIG = 2 << 30
# Bytes of pixels from which a TIFF is a BigTIFF: 4 GiB are the end of the others, and compression promises nothing.

Size = tuple[int, int]


def write_tiff(
    path: Path,
    strips: Iterable[NDArray[Any]],
    size: Size,
    dtype: np.dtype[Any],
    mpp: float | None = None,
    geo: Georeference | None = None,
) -> Path:
    """Write a mask as a TIFF of compressed tiles; a GeoTIFF where it lies on the earth, else an OME-TIFF with its micrometres.

    Args:
        path: is replaced where it is there already.
        strips: ``(h, W)`` from top to bottom, of any heights.
        size: (width, height).
        dtype: of the strips.
        mpp: micrometres along a pixel.
        geo: where the mask lies.

    Raises:
        DataError: the disk is full, or may not be written to.
        MissingPackageError: the extra ``large``, or ``geo``, is not installed.
    """
    if geo is not None:
        return write_by_rename(path, lambda aside: _write_geotiff(aside, strips, size, dtype, geo), path.suffix)
    return write_by_rename(path, lambda aside: _write_ome_tiff(aside, strips, size, dtype, mpp), path.suffix)


def _write_ome_tiff(
    path: Path, strips: Iterable[NDArray[Any]], size: Size, dtype: np.dtype[Any], mpp: float | None
) -> None:
    tifffile = packages.tifffile()
    width, height = size

    def tiles() -> Iterator[NDArray[Any]]:
        for strip in _of_height(strips, TILE):
            # The last row and column of tiles are as large as all others.
            whole = np.pad(strip, ((0, TILE - len(strip)), (0, -width % TILE)))
            yield from (whole[:, x : x + TILE] for x in range(0, whole.shape[1], TILE))

    about: dict[str, Any] = {"axes": "YX"}
    if mpp is not None:
        about |= {f"PhysicalSize{axis}": mpp for axis in "XY"} | {f"PhysicalSize{axis}Unit": "µm" for axis in "XY"}
    resolution = {} if mpp is None else {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
    big = width * height * dtype.itemsize > _BIG
    with tifffile.TiffWriter(path, bigtiff=big, ome=True) as writer:
        writer.write(
            tiles(),
            shape=(height, width),
            dtype=dtype,
            tile=(TILE, TILE),
            compression="zlib",
            photometric="minisblack",
            metadata=about,
            **resolution,
        )


def _write_geotiff(
    path: Path, strips: Iterable[NDArray[Any]], size: Size, dtype: np.dtype[Any], geo: Georeference
) -> None:
    rasterio = packages.rasterio()
    width, height = size
    profile = {
        "driver": "GTiff",
        "width": width,
        "height": height,
        "count": 1,
        "dtype": dtype.name,
        "crs": geo.crs or None,
        "transform": rasterio.Affine(*geo.transform),
        "tiled": True,
        "blockxsize": TILE,
        "blockysize": TILE,
        "compress": "deflate",
        "bigtiff": "yes" if width * height * dtype.itemsize > _BIG else "if_safer",
    }
    with rasterio.open(path, "w", **profile) as file:
        top = 0
        for strip in _of_height(strips, TILE):
            file.write(strip, 1, window=rasterio.windows.Window(0, top, width, len(strip)))
            top += len(strip)


def write_zarr(
    path: Path, strips: Iterable[NDArray[Any]], size: Size, dtype: np.dtype[Any], mpp: float | None = None
) -> Path:
    """Write a mask as OME-Zarr with one level; arguments and errors as of :func:`write_tiff`."""
    zarr = packages.zarr()

    def write(aside: Path) -> None:
        group = zarr.open_group(aside, mode="w", zarr_format=3)
        array = group.create_array("0", shape=size[::-1], chunks=(TILE, TILE), dtype=dtype, dimension_names=("y", "x"))
        top = 0
        for strip in _of_height(strips, TILE):
            array[top : top + len(strip)] = strip
            top += len(strip)
        unit = {"unit": "micrometer"} if mpp is not None else {}
        scale = [{"type": "scale", "scale": [mpp or 1.0, mpp or 1.0]}]
        group.attrs["ome"] = {
            "version": "0.5",
            "multiscales": [
                {
                    "axes": [{"name": name, "type": "space", **unit} for name in "yx"],
                    "datasets": [{"path": "0", "coordinateTransformations": scale}],
                }
            ],
        }

    return write_by_rename(path, write, path.suffix)


def _of_height(strips: Iterable[NDArray[Any]], height: int) -> Iterator[NDArray[Any]]:
    """The same rows in strips of one height, but for the last."""
    waiting: NDArray[Any] | None = None
    for strip in strips:
        waiting = strip if waiting is None else np.concatenate([waiting, strip])
        while len(waiting) >= height:
            yield waiting[:height]
            waiting = waiting[height:]
    if waiting is not None and len(waiting):
        yield waiting
