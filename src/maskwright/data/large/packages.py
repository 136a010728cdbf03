"""The packages of the extras ``large`` and ``geo``, imported where they are needed; each function names what to install."""

from __future__ import annotations

import logging
import os
from typing import Any

from maskwright.errors import MissingPackageError


def tifffile() -> Any:
    """The package ``tifffile``, which reads and writes TIFF by tiles. Raises MissingPackageError."""
    try:
        import imagecodecs  # noqa: F401 (without it tifffile cannot unpack most tiles)
        import tifffile
    except ImportError as error:
        raise MissingPackageError("large TIFF files need tifffile and imagecodecs", "large", error) from error
    # What it finds wrong in a file is checked where the file is opened, and said in one line.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)
    return tifffile


def zarr() -> Any:
    """The package ``zarr``. Raises MissingPackageError."""
    try:
        import zarr
    except ImportError as error:
        raise MissingPackageError("zarr stores need zarr", "large", error) from error
    return zarr


def rasterio() -> Any:
    """The package ``rasterio``, which knows coordinate reference systems. Raises MissingPackageError."""
    # Its library keeps a twentieth of all memory as a cache of blocks, which windows that are read once have no use for.
    os.environ.setdefault("GDAL_CACHEMAX", "128")  # megabytes
    try:
        import rasterio
        import rasterio.crs
        import rasterio.features
        import rasterio.warp
        import rasterio.windows
    except ImportError as error:
        raise MissingPackageError("georeferenced files need rasterio", "geo", error) from error
    return rasterio
