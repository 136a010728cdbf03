"""Outlines fill exactly the pixels of their mask, whatever the strips, as shapely and GDAL see it; files are read by GDAL."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import rasterio.features
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from scipy import ndimage
from shapely import from_wkb
from shapely.geometry import Polygon, shape

from maskwright.data.large.image import Georeference
from maskwright.data.large.outlines import Outlines, Region
from maskwright.data.large.vectors import feature_of, simplified, write_geojson, write_geopackage

MASKS = arrays.arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 3))
UTM = Georeference((0.5, 0, 500_000, 0, -0.5, 5_000_000), rasterio.crs.CRS.from_epsg(32633).to_wkt())


def regions_of(mask: NDArray[np.uint8], rows: int = 100) -> list[Region]:
    outlines = Outlines(mask.shape[1])
    for top in range(0, len(mask), rows):
        outlines.add(mask[top : top + rows])
    return list(outlines.regions())


def polygons(mask: NDArray[np.uint8], rows: int = 100) -> list[tuple[int, Polygon]]:
    return [(region.value, Polygon(region.outer, region.holes)) for region in regions_of(mask, rows)]


@given(MASKS, st.integers(1, 5))
def test_regions_are_the_connected_parts(mask: NDArray[np.uint8], rows: int) -> None:
    found = polygons(mask, rows)
    assert all(polygon.is_valid for _, polygon in found)
    assert all(Polygon(ring.exterior).exterior.is_ccw for _, ring in found)
    assert len(found) == sum(ndimage.label(mask == value)[1] for value in (1, 2, 3))
    drawn = np.zeros_like(mask)
    if found:
        drawn = rasterio.features.rasterize([(p, v) for v, p in found], out_shape=mask.shape)
    assert np.array_equal(drawn, mask)
    assert sum(polygon.area for _, polygon in found) == (mask > 0).sum()


def test_holes_in_holes() -> None:
    mask = np.zeros((9, 9), np.uint8)
    for inset, value in enumerate((1, 0, 1, 0)):
        mask[inset : 9 - inset, inset : 9 - inset] = value
    outer, inner = sorted(polygons(mask, 2), key=lambda pair: -pair[1].area)
    assert (len(outer[1].interiors), len(inner[1].interiors)) == (1, 1)
    assert (outer[1].area, inner[1].area) == (81 - 49, 25 - 9)


@given(st.integers(0, 10_000), st.floats(0.2, 4))
def test_a_simplified_ring_stays_near(seed: int, tolerance: float) -> None:
    blob = ndimage.gaussian_filter(np.random.default_rng(seed).random((30, 30)), 3) > 0.5
    for region in regions_of(blob.astype(np.uint8)):
        ring = region.outer.astype(float)
        fewer = simplified(ring, tolerance)
        assert {tuple(corner) for corner in fewer} <= {tuple(corner) for corner in ring}
        line = Polygon(ring).exterior if len(fewer) < 3 else Polygon(fewer).exterior
        assert line.hausdorff_distance(Polygon(ring).exterior) <= tolerance + 1e-9


@pytest.mark.parametrize("geo", [None, UTM])
def test_files_are_read_by_gdal(geo: Georeference | None, tmp_path: Path) -> None:
    mask = np.zeros((40, 60), np.uint8)
    mask[5:20, 10:30], mask[8:12, 15:20], mask[25:35, 40:50] = 1, 0, 2
    features = [feature_of(region, "abc"[region.value], 0.5) for region in regions_of(mask)]
    assert write_geopackage(tmp_path / "a.gpkg", features, geo) == 2
    assert write_geojson(tmp_path / "a.geojson", features, geo) == 2
    about, _, shapes, values = pyogrio.raw.read(tmp_path / "a.gpkg")
    names = dict(zip(about["fields"], values))
    assert names["category"].tolist() == ["b", "c"]
    assert names["area_pixels"].tolist() == [280, 100]
    areas = [polygon.area for polygon in from_wkb(shapes)]
    # Half a metre a pixel: a quarter of a square metre.
    assert areas == ([280, 100] if geo is None else [70, 25])
    assert all(polygon.exterior.is_ccw for polygon in from_wkb(shapes))
    if geo is not None:
        assert about["crs"] == "EPSG:32633"
        x0, y0, x1, y1 = from_wkb(shapes)[0].bounds
        assert (x0, y0, x1, y1) == (500_005, 4_999_990, 500_015, 4_999_997.5)
    rows = json.loads((tmp_path / "a.geojson").read_text())["features"]
    first = shape(rows[0]["geometry"])
    assert rows[0]["properties"] == {"category": "b", "score": 0.5, "area_pixels": 280}
    if geo is None:
        assert first.bounds == (10, 5, 30, 20)
    else:
        lon, lat = first.centroid.coords[0]
        assert 15 < lon < 15.001  # the middle of the zone is its 500,000th metre
        assert 45 < lat < 46
    assert not list(tmp_path.glob(".*"))
