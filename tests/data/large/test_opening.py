"""Windows of large images hold what an independent reader finds there; files that lie are refused in one line."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from maskwright.data.image_reading import ImageReading
from maskwright.data.large import packages
from maskwright.data.large.opening import needs_windows, open_large
from maskwright.errors import DataError, MissingPackageError
from tests.data.large import files

PIXELS = files.picture()


def plain_zarr(path: Path) -> Path:
    zarr.create_array(store=path, shape=PIXELS.shape, chunks=(128, 128, 3), dtype="u1")[:] = PIXELS
    return path


def png(path: Path) -> Path:
    Image.fromarray(PIXELS).save(path)
    return path


def strips(path: Path) -> Path:
    tifffile.imwrite(path, PIXELS, rowsperstrip=7)
    return path


KINDS: dict[str, tuple[Callable[[Path], Path], int, float | None]] = {
    "a.tif": (lambda path: files.pyramid(path, PIXELS), 3, 0.25),
    "a.ome.tif": (lambda path: files.pyramid(path, PIXELS, ome=True), 3, 0.25),
    "lzw.tif": (lambda path: files.pyramid(path, PIXELS, compression="lzw", predictor=True, levels=1), 2, 0.25),
    "strips.tif": (strips, 1, None),
    "plain.zarr": (plain_zarr, 1, None),
    "ome.zarr": (lambda path: files.ome_zarr(path, PIXELS), 2, 0.5),
    "geo.tif": (lambda path: files.geotiff(path, PIXELS), 2, 500_000.0),
    "a.png": (png, 1, None),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_window_holds_the_pixels_that_were_written(name: str, tmp_path: Path) -> None:
    make, levels, mpp = KINDS[name]
    with open_large(make(tmp_path / name)) as image:
        assert image.size == (900, 600)
        assert len(image.levels) == levels
        assert image.mpp == (None if mpp is None else pytest.approx(mpp))
        for x0, y0, x1, y1 in ((0, 0, 900, 600), (130, 250, 131, 251), (100, 120, 400, 300), (880, 580, 900, 600)):
            assert np.array_equal(image.read((x0, y0, x1, y1)), PIXELS[y0:y1, x0:x1])
        with pytest.raises(ValueError, match="does not lie in"):
            image.read((890, 0, 901, 10))


def test_the_level_that_fits_a_scale(tmp_path: Path) -> None:
    with open_large(files.pyramid(tmp_path / "a.tif", PIXELS)) as image:
        assert [image.level_for(mpp) for mpp in (None, 0.1, 0.25, 0.49, 0.5, 0.99, 1.0, 50)] == [0, 0, 0, 0, 1, 1, 2, 2]
        assert np.array_equal(image.read((10, 20, 40, 60), 1), PIXELS[::2, ::2][20:60, 10:40])
    with (
        open_large(plain_zarr(tmp_path / "a.zarr")) as image,
        pytest.raises(DataError, match="how many micrometres a pixel is; leave out --mpp"),
    ):
        image.level_for(0.5)


def test_georeference(tmp_path: Path) -> None:
    with open_large(files.geotiff(tmp_path / "a.tif", PIXELS)) as image:
        assert image.geo is not None
        assert image.geo.transform == (0.5, 0, 500_000, 0, -0.5, 5_000_000)
        assert "32633" in image.geo.crs
        assert image.geo.scaled(2).transform == (1, 0, 500_000, 0, -1, 5_000_000)


def test_numbers_of_many_bits_have_one_range_for_all_windows(tmp_path: Path) -> None:
    ramp = np.linspace(0, 3000, 600 * 900).reshape(600, 900).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", ramp, tile=(128, 128))
    expected = np.rint(ramp * (255 / 4095)).astype(np.uint8)
    with open_large(tmp_path / "a.tif") as image:
        for window in ((0, 0, 100, 100), (500, 400, 900, 600)):
            x0, y0, x1, y1 = window
            assert np.array_equal(image.read(window)[..., 1], expected[y0:y1, x0:x1])
    with open_large(tmp_path / "a.tif", ImageReading(intensity=(0, 3000))) as image:
        assert image.read((899, 599, 900, 600)).tolist() == [[[255, 255, 255]]]


def test_channels_and_pages_are_chosen(tmp_path: Path) -> None:
    planes = np.random.default_rng(1).integers(0, 255, (4, 300, 200), dtype=np.uint8)
    settings = {"tile": (128, 128), "photometric": "minisblack"}
    tifffile.imwrite(tmp_path / "c.ome.tif", planes, metadata={"axes": "CYX"}, **settings)
    tifffile.imwrite(tmp_path / "z.ome.tif", planes, metadata={"axes": "ZYX"}, **settings)
    with open_large(tmp_path / "c.ome.tif", ImageReading(channels=(3, 0, 1))) as image:
        assert np.array_equal(image.read((5, 6, 50, 60)), planes[[3, 0, 1], 6:60, 5:50].transpose(1, 2, 0))
    with pytest.raises(DataError, match="has 4 pages; say which to read, counted from 0, with --page 0"):
        open_large(tmp_path / "z.ome.tif")
    with open_large(tmp_path / "z.ome.tif", ImageReading(page=2)) as image:
        assert np.array_equal(image.read((0, 0, 200, 300))[..., 0], planes[2])
    with pytest.raises(DataError, match="has 4 pages, and no page 4"):
        open_large(tmp_path / "z.ome.tif", ImageReading(page=4))


def test_files_that_lie_are_refused_before_a_pixel_is_read(tmp_path: Path) -> None:
    good = files.pyramid(tmp_path / "good.tif", PIXELS)
    cut = tmp_path / "cut.tif"
    cut.write_bytes(good.read_bytes()[: good.stat().st_size // 3])
    store = files.ome_zarr(tmp_path / "a.zarr", PIXELS)
    shutil.rmtree(store / "1")
    one_strip = tmp_path / "strip.tif"
    tifffile.imwrite(one_strip, np.zeros((20_000, 14_000), np.uint8), rowsperstrip=20_000, compression="zlib")
    (tmp_path / "folder").mkdir()
    lies = {
        files.claiming(
            tmp_path / "a.tif", 200_000
        ): "claims 200,000 x 200,000 pixels and lists 1 of their 152,881 tiles",
        files.claiming(tmp_path / "b.tif", 200_000, 152_881): "claims 200,000 x 200,000 pixels, which cannot be in",
        cut: "is cut off: ",
        files.without_level(good, tmp_path / "l.tif"): "names 2 smaller pyramid levels, of which 1 are missing",
        store: "names 2 pyramid levels, of which 1 are missing; restore the store",
        files.geotiff(tmp_path / "g.tif", PIXELS, placed=False): "coordinate reference system and no transform",
        one_strip: "has strips or tiles of 280,000,000 bytes, of which no part can be read alone",
        tmp_path / "folder": "is a folder, and no zarr store",
        tmp_path / "absent.tif": "there is no such file",
    }
    for path, message in lies.items():
        with pytest.raises(DataError, match=message) as caught:
            open_large(path)
        assert len(str(caught.value).splitlines()) == 1
        assert str(path) in str(caught.value)


def test_a_damaged_tile_is_named_where_it_is_read(tmp_path: Path) -> None:
    good = files.pyramid(tmp_path / "good.tif", PIXELS)
    broken = files.with_broken_tile(good, tmp_path / "broken.tif", tile=9)  # of 8 tiles in a row
    store = plain_zarr(tmp_path / "a.zarr")
    (store / "c" / "1" / "1" / "0").write_bytes(b"no chunk")
    for path in (broken, store):
        with open_large(path) as image:
            assert np.array_equal(image.read((0, 0, 900, 128)), PIXELS[:128])
            with pytest.raises(
                DataError, match=r"the window x 100\.\.300, y 100\.\.200 is damaged \(.+\); restore the file"
            ):
                image.read((100, 100, 300, 200))
            with pytest.raises(DataError, match=r"the window x 0\.\.256, y 0\.\.256 is damaged"):
                image.read((0, 0, 900, 600))


def test_what_can_be_read_by_windows_alone(tmp_path: Path) -> None:
    assert needs_windows(plain_zarr(tmp_path / "a.zarr"))
    assert needs_windows(files.claiming(tmp_path / "a.tif", 20_000))
    assert not needs_windows(png(tmp_path / "a.png"))
    assert not needs_windows(strips(tmp_path / "b.tif"))


@pytest.mark.parametrize(("package", "extra"), [("tifffile", "large"), ("zarr", "large"), ("rasterio", "geo")])
def test_a_missing_package_is_named_with_its_extra(package: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(MissingPackageError, match=rf"pip install 'maskwright\[{extra}\]'"):
        getattr(packages, package)()
