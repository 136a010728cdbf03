"""GeoTIFF through rasterio: the same pixels, and where they lie on the earth."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from maskwright.data.files import reason_of
from maskwright.data.image_reading import PLAIN, ImageReading
from maskwright.data.large import packages
from maskwright.data.large.image import Georeference, LargeImage, Rectangle, require_levels
from maskwright.errors import DataError


class GeoImage(LargeImage):
    """A georeferenced raster; see :class:`LargeImage`. Overviews are its levels; ``mpp`` is known where the CRS counts in metres.

    Raises:
        DataError: the file cannot be read, or names a CRS and not where its pixels lie in it.
        MissingPackageError: the extra ``geo`` is not installed.
    """

    def __init__(self, path: Path, reading: ImageReading = PLAIN) -> None:
        super().__init__(path, reading)
        rasterio = packages.rasterio()
        self._windows = rasterio.windows
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of no transform, which is looked at below
                self._file = rasterio.open(path)
        except rasterio.errors.RasterioError as error:
            raise DataError([f"{path}: cannot be read as a GeoTIFF ({reason_of(error)}); replace it"]) from error
        file = self._file
        try:
            if file.crs and file.transform.is_identity:
                by = "ground control points" if file.gcps[0] else "nothing"
                what = f"names a coordinate reference system and no transform: {by} says where its pixels lie"
                raise DataError([f"{path}: {what}; write one with gdal_translate -a_ullr, or warp it with gdalwarp"])
            factors = file.overviews(1) if file.count else []
            sizes = [(math.ceil(file.width / f), math.ceil(file.height / f)) for f in (1, *factors)]
            self.levels = require_levels(path, sizes)
            self._overviews = [rasterio.open(path, overview_level=i) for i in range(len(factors))]
        except BaseException:
            file.close()
            raise
        a, b, c, d, e, f = tuple(file.transform)[:6]
        self.geo = Georeference((a, b, c, d, e, f), file.crs.to_wkt() if file.crs else "")
        if file.crs and file.crs.is_projected:
            self.mpp = 1e6 * math.hypot(a, d) * file.crs.linear_units_factor[1]

    def _samples(self, window: Rectangle, level: int) -> NDArray[Any]:
        x0, y0, x1, y1 = window
        file = self._overviews[level - 1] if level else self._file
        try:
            bands = file.read(window=self._windows.Window(x0, y0, x1 - x0, y1 - y0))
        except Exception as error:  # GDAL's errors, and those of codecs below it
            raise self.damaged(window, level, reason_of(error)) from error
        return bands.transpose(1, 2, 0)

    def close(self) -> None:
        for file in (self._file, *self._overviews):
            file.close()
