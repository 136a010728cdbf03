"""Large images of every kind, small enough for tests, and files that lie."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import tifffile
import zarr
from numpy.typing import NDArray
from rasterio.transform import from_origin

ORIGIN, METRES = (500_000.0, 5_000_000.0), 0.5


def picture(height: int = 600, width: int = 900) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)


def pyramid(path: Path, pixels: NDArray[Any], *, ome: bool = False, levels: int = 2, **options: Any) -> Path:
    """A tiled TIFF with smaller levels; .25 micrometres a pixel."""
    settings: dict[str, Any] = {"tile": (128, 128), "compression": "zlib", "photometric": "rgb"} | options
    about = {"axes": "YXS", "PhysicalSizeX": 0.25, "PhysicalSizeXUnit": "µm"} if ome else None
    with tifffile.TiffWriter(path, ome=ome) as writer:
        size = {"resolution": (40_000, 40_000), "resolutionunit": "CENTIMETER"}
        writer.write(pixels, subifds=levels, metadata=about, **settings, **size)
        for level in range(1, levels + 1):
            writer.write(pixels[:: 2**level, :: 2**level], subfiletype=1, **settings)
    return path


def ome_zarr(path: Path, pixels: NDArray[Any], levels: int = 2) -> Path:
    """Channels first, half a micrometre a pixel."""
    group = zarr.open_group(path, mode="w", zarr_format=3)
    datasets = []
    for level in range(levels):
        part = pixels[:: 2**level, :: 2**level].transpose(2, 0, 1)
        group.create_array(str(level), shape=part.shape, chunks=(1, 128, 128), dtype=part.dtype)[:] = part
        scale = [1.0, 0.5 * 2**level, 0.5 * 2**level]
        datasets.append({"path": str(level), "coordinateTransformations": [{"type": "scale", "scale": scale}]})
    axes = [{"name": "c", "type": "channel"}]
    axes += [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
    return path


def geotiff(path: Path, pixels: NDArray[Any], *, placed: bool = True) -> Path:
    """UTM 33 N, half a metre a pixel; or with a CRS and no transform."""
    height, width, count = pixels.shape
    profile: dict[str, Any] = {"driver": "GTiff", "width": width, "height": height, "count": count, "tiled": True}
    profile |= {
        "dtype": pixels.dtype.name,
        "crs": "EPSG:32633",
        "blockxsize": 128,
        "blockysize": 128,
        "compress": "lzw",
    }
    if placed:
        profile["transform"] = from_origin(*ORIGIN, METRES, METRES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of no transform
        with rasterio.open(path, "w", **profile) as file:
            file.write(pixels.transpose(2, 0, 1))
            if placed:
                file.build_overviews([2])
    return path


def claiming(path: Path, side: int, listed: int = 1) -> Path:
    """A TIFF of a few hundred bytes that says it has ``side`` x ``side`` pixels, and lists so many tiles."""
    tags = [(256, 4, 1, side), (257, 4, 1, side), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1)]
    end = 8 + 2 + 10 * 12 + 4
    tags += [(322, 3, 1, 512), (323, 3, 1, 512), (324, 4, listed, end), (325, 4, listed, end + 4 * listed)]
    head = b"II*\0" + struct.pack("<IH", 8, len(tags))
    content = head + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    if listed == 1:
        content = content.replace(struct.pack("<HHII", 324, 4, 1, end), struct.pack("<HHII", 324, 4, 1, 200))
        content = content.replace(struct.pack("<HHII", 325, 4, 1, end + 4), struct.pack("<HHII", 325, 4, 1, 100))
        path.write_bytes(content + bytes(500))
    else:
        path.write_bytes(content + struct.pack("<I", 200) * listed + struct.pack("<I", 1) * listed)
    return path


def with_broken_tile(path: Path, out: Path, tile: int = 5) -> Path:
    """A copy of a TIFF in which the bytes of one tile are others."""
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        page: Any = file.pages[0]
        start, count = page.dataoffsets[tile], page.databytecounts[tile]
    content[start : start + count] = b"\xaa" * count
    out.write_bytes(content)
    return out


def without_level(path: Path, out: Path) -> Path:
    """A copy of a TIFF whose second smaller level is said to lie behind its end."""
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        page: Any = file.pages[0]
        place = page.tags[330].valueoffset
    content[place + 4 : place + 8] = struct.pack("<I", len(content) + 99_999)
    out.write_bytes(content)
    return out
