"""Regions of a large mask as vectors: GeoJSON (RFC 7946) and GeoPackage (OGC 12-128), one polygon for each region.

Coordinates are those of the image's coordinate reference system where it has one (in GeoJSON longitude and latitude, as its standard
wants), else pixels: x to the right, y down.
"""

from __future__ import annotations

import json
import os
import sqlite3
import struct
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from maskwright.data.files import reason_of
from maskwright.data.large import packages
from maskwright.data.large.image import Georeference
from maskwright.data.large.outlines import Region, Ring
from maskwright.errors import DataError

Corners = NDArray[np.float64]


@dataclass(frozen=True)
class Feature:
    """A polygon in pixels of the image, and what is said of it.

    Attributes:
        rings: ``(n, 2)`` each, the outer one first; see :class:`maskwright.data.large.outlines.Region`.
        category: its name.
        score: 0..1, of an object; None of a region of a semantic mask.
        area: in pixels of the image.
        object: its id in the mask; an object of several parts is several features.
    """

    rings: tuple[Ring, ...]
    category: str
    score: float | None
    area: int
    object: int | None = None


def feature_of(
    region: Region, category: str, score: float | None, left: int = 0, top: int = 0, object: int | None = None
) -> Feature:
    """A region as a feature; ``left`` and ``top`` are where its mask begins in the image."""
    rings = (region.outer, *region.holes)
    area = round(abs(sum(_signed_area(ring) for ring in rings)))
    return Feature(tuple(ring + np.array([left, top]) for ring in rings), category, score, area, object)


def write_geojson(
    path: Path, features: Iterable[Feature], geo: Georeference | None = None, simplify: float = 0.0
) -> int:
    """Write a FeatureCollection, one feature a line, by rename.

    Args:
        path: is replaced where it is there already.
        features: in any number; they are not kept.
        geo: where the image lies.
        simplify: how far in pixels an outline may leave its mask, so that it has fewer corners; 0: not at all.

    Returns:
        How many features there are.

    Raises:
        DataError: the file cannot be written.
        MissingPackageError: there is a coordinate reference system, and the extra ``geo`` is not installed.
    """
    place = _Place(geo, "EPSG:4326")
    count, aside = 0, path.with_name(f".{uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("w", encoding="utf-8") as file:
            file.write('{"type": "FeatureCollection", "features": [')
            for feature in features:
                rings = [place.of(ring).round(9 if place.has_crs else 3) for ring in _simplified(feature, simplify)]
                row = {
                    "type": "Feature",
                    "properties": _properties(feature),
                    "geometry": {"type": "Polygon", "coordinates": [[*r.tolist(), r[0].tolist()] for r in rings]},
                }
                file.write((",\n" if count else "\n") + json.dumps(row, ensure_ascii=False))
                count += 1
            file.write("\n]}\n")
        os.replace(aside, path)
    except OSError as error:
        raise _not_written(path, error) from error
    finally:
        aside.unlink(missing_ok=True)
    return count


def write_geopackage(
    path: Path, features: Iterable[Feature], geo: Georeference | None = None, simplify: float = 0.0
) -> int:
    """Write a GeoPackage with one table ``regions``; arguments and errors as of :func:`write_geojson`."""
    place = _Place(geo)
    aside = path.with_name(f".{uuid4().hex}.part")
    extent = np.array([np.inf, np.inf, -np.inf, -np.inf])
    count = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(aside)) as file:
            file.executescript(_TABLES)
            file.executemany(_ADD_SRS, [*_ALWAYS_THERE, *place.srs_row()])
            for feature in features:
                rings = [place.of(ring) for ring in _simplified(feature, simplify)]
                low, high = rings[0].min(0), rings[0].max(0)
                extent = np.array([*np.minimum(extent[:2], low), *np.maximum(extent[2:], high)])
                values = (_geometry(rings, place.srs), feature.category, feature.object, feature.score, feature.area)
                file.execute(
                    "INSERT INTO regions (geom, category, object, score, area_pixels) VALUES (?, ?, ?, ?, ?)", values
                )
                count += 1
            box = extent.tolist() if count else [None] * 4
            now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
            file.execute(_ADD_CONTENTS, ("regions", "features", "regions", now, *box, place.srs))
            file.execute(_ADD_GEOMETRY, ("regions", "geom", "POLYGON", place.srs, 0, 0))
            file.commit()
        os.replace(aside, path)
    except (OSError, sqlite3.Error) as error:
        raise _not_written(path, error) from error
    finally:
        aside.unlink(missing_ok=True)
    return count


class _Place:
    """From pixels to coordinates.

    Args:
        geo: where the image lies; None: nowhere.
        target: the coordinate reference system of the result; left out, the image's own.
    """

    def __init__(self, geo: Georeference | None, target: str = "") -> None:
        self.geo, self.has_crs = geo, bool(geo and geo.crs)
        self._warp, self._source, self._target = None, None, None
        self.srs, self._wkt = -1, ""
        if geo is None or not self.has_crs:
            return
        rasterio = packages.rasterio()
        self._source = rasterio.crs.CRS.from_wkt(geo.crs)
        self.srs, self._wkt = self._source.to_epsg() or _OWN, geo.crs
        if target:
            self._warp, self._target = rasterio.warp.transform, rasterio.crs.CRS.from_string(target)

    def of(self, ring: NDArray[Any]) -> Corners:
        """Corners ``(n, 2)`` in coordinates, counter-clockwise for an outer ring as its standards want."""
        corners = ring.astype(np.float64)
        if self.geo is None:
            return corners
        a, b, c, d, e, f = self.geo.transform
        x, y = corners[:, 0], corners[:, 1]
        moved = np.stack([a * x + b * y + c, d * x + e * y + f], 1)
        if self._warp is not None:
            moved = np.stack(self._warp(self._source, self._target, moved[:, 0].tolist(), moved[:, 1].tolist()), 1)
        return moved[::-1] if a * e - b * d < 0 else moved

    def srs_row(self) -> list[tuple[Any, ...]]:
        """For GeoPackage's table of reference systems, where it is not one that is always there."""
        if not self.has_crs or self.srs in (4326, -1, 0):
            return []
        known = self.srs != _OWN
        return [
            (
                f"EPSG {self.srs}" if known else "of the image",
                self.srs,
                "EPSG" if known else "NONE",
                self.srs,
                self._wkt,
            )
        ]


_OWN = 100_000
# Of a reference system without a number of the EPSG.


def _simplified(feature: Feature, tolerance: float) -> list[Corners]:
    rings = [ring.astype(np.float64) for ring in feature.rings]
    if tolerance <= 0:
        return rings
    fewer = [simplified(ring, tolerance) for ring in rings]
    # An outline that would vanish stays as it is; a hole that would is smaller than what was asked for.
    return [fewer[0] if len(fewer[0]) >= 3 else rings[0], *(ring for ring in fewer[1:] if len(ring) >= 3)]


def simplified(ring: Corners, tolerance: float) -> Corners:
    """A ring with fewer corners, none of those left out farther than ``tolerance`` from it (Douglas and Peucker, 1973)."""
    # From the corner that is farthest from the first: both stay.
    far = int(((ring - ring[0]) ** 2).sum(1).argmax())
    closed = np.concatenate([ring, ring[:1]])
    keep = np.zeros(len(closed), bool)
    keep[[0, far, len(ring)]] = True
    waiting = [(0, far), (far, len(ring))]
    while waiting:
        first, last = waiting.pop()
        if last - first < 2:
            continue
        start, way = closed[first], closed[last] - closed[first]
        offset = closed[first + 1 : last] - start
        length = np.hypot(*way)
        distance = abs(offset[:, 0] * way[1] - offset[:, 1] * way[0]) / length if length else np.hypot(*offset.T)
        place = int(distance.argmax())
        if distance[place] > tolerance:
            middle = first + 1 + place
            keep[middle] = True
            waiting += [(first, middle), (middle, last)]
    return closed[:-1][keep[:-1]]


def _properties(feature: Feature) -> dict[str, Any]:
    score = {} if feature.score is None else {"score": round(feature.score, 5)}
    number = {} if feature.object is None else {"object": feature.object}
    return {"category": feature.category, **number, **score, "area_pixels": feature.area}


def _signed_area(ring: Ring) -> float:
    x, y = ring[:, 0].astype(np.float64), ring[:, 1].astype(np.float64)
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


def _not_written(path: Path, error: Exception) -> DataError:
    remedy = "free space or choose a folder you may write to"
    return DataError([f"{path}: cannot be written ({reason_of(error)}); {remedy}"])


# ------------------------------------------------------------------------------------------------------- GeoPackage


def _geometry(rings: Sequence[Corners], srs: int) -> bytes:
    """A polygon as GeoPackage's binary (section 2.1.3): a head with the extent, then well-known binary, all little-endian."""
    (x0, y0), (x1, y1) = rings[0].min(0), rings[0].max(0)
    head = b"GP\0\x03" + struct.pack("<i4d", srs, x0, x1, y0, y1)
    parts = [head, struct.pack("<BII", 1, 3, len(rings))]
    for ring in rings:
        parts += [struct.pack("<I", len(ring) + 1), np.concatenate([ring, ring[:1]]).astype("<f8").tobytes()]
    return b"".join(parts)


_WGS84 = (
    'GEOGCS["WGS 84",DATUM["WGS_1984",SPHEROID["WGS 84",6378137,298.257223563,AUTHORITY["EPSG","7030"]],AUTHORITY["EPSG","6326"]],'
    'PRIMEM["Greenwich",0,AUTHORITY["EPSG","8901"]],UNIT["degree",0.0174532925199433,AUTHORITY["EPSG","9122"]],AUTHORITY["EPSG","4326"]]'
)
_ALWAYS_THERE = [
    ("WGS 84 geodetic", 4326, "EPSG", 4326, _WGS84),
    ("Undefined Cartesian", -1, "NONE", -1, "undefined"),
    ("Undefined geographic", 0, "NONE", 0, "undefined"),
]
_ADD_SRS = (
    "INSERT INTO gpkg_spatial_ref_sys (srs_name, srs_id, organization, organization_coordsys_id, definition)"
    " VALUES (?, ?, ?, ?, ?)"
)
_ADD_CONTENTS = (
    "INSERT INTO gpkg_contents (table_name, data_type, identifier, last_change, min_x, min_y, max_x, max_y, srs_id)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_ADD_GEOMETRY = "INSERT INTO gpkg_geometry_columns VALUES (?, ?, ?, ?, ?, ?)"
_TABLES = """
PRAGMA application_id = 1196444487;
PRAGMA user_version = 10300;
CREATE TABLE gpkg_spatial_ref_sys (srs_name TEXT NOT NULL, srs_id INTEGER PRIMARY KEY, organization TEXT NOT NULL,
  organization_coordsys_id INTEGER NOT NULL, definition TEXT NOT NULL, description TEXT);
CREATE TABLE gpkg_contents (table_name TEXT NOT NULL PRIMARY KEY, data_type TEXT NOT NULL, identifier TEXT UNIQUE,
  description TEXT DEFAULT '', last_change DATETIME NOT NULL, min_x DOUBLE, min_y DOUBLE, max_x DOUBLE, max_y DOUBLE,
  srs_id INTEGER, CONSTRAINT fk_gc_r_srs_id FOREIGN KEY (srs_id) REFERENCES gpkg_spatial_ref_sys(srs_id));
CREATE TABLE gpkg_geometry_columns (table_name TEXT NOT NULL, column_name TEXT NOT NULL, geometry_type_name TEXT NOT NULL,
  srs_id INTEGER NOT NULL, z TINYINT NOT NULL, m TINYINT NOT NULL,
  CONSTRAINT pk_geom_cols PRIMARY KEY (table_name, column_name), CONSTRAINT uk_gc_table_name UNIQUE (table_name),
  CONSTRAINT fk_gc_tn FOREIGN KEY (table_name) REFERENCES gpkg_contents(table_name),
  CONSTRAINT fk_gc_srs FOREIGN KEY (srs_id) REFERENCES gpkg_spatial_ref_sys (srs_id));
CREATE TABLE regions (fid INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, geom POLYGON, category TEXT, object INTEGER,
  score REAL, area_pixels INTEGER);
"""
