"""Large images area by area: the answer of the whole, whatever kills it, however many share it; nothing is written of files that lie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import tifffile
import zarr
from numpy.typing import NDArray
from scipy import ndimage

from maskwright.engine import sliding
from maskwright.engine.large_prediction import LargeSettings, drawn, predict_large
from maskwright.engine.prediction_folder import Job, Summary, find_images
from maskwright.errors import MaskwrightError
from maskwright.methods.instances import large
from maskwright.methods.instances.coco import Detection, of_ids
from maskwright.methods.semantic.predictor import SegmenterPredictor
from tests.data.large import files
from tests.tiny_model import Colours, predictor

EVERYTHING = LargeSettings(("tiff", "zarr", "geojson", "gpkg"))


@pytest.fixture(autouse=True)
def small_areas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sliding, "LARGEST_AREA", 256)


def squares(height: int = 600, width: int = 900) -> NDArray[np.uint8]:
    rng = np.random.default_rng(0)
    image = np.zeros((height, width, 3), np.uint8)
    for _ in range(40):
        y, x, side = rng.integers(0, height - 50), rng.integers(0, width - 50), rng.integers(8, 50)
        image[y : y + side, x : x + side, rng.choice([0, 2])] = 255
    return image


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return files.pyramid(tmp_path_factory.mktemp("slides") / "a.tif", squares())


def model() -> SegmenterPredictor:
    return predictor(Colours()).with_crop(64)


def run(path: Path, out: Path, settings: LargeSettings = EVERYTHING, **options: Any) -> Summary:
    return predict_large(options.pop("model", model()), find_images([path], out, large=True), out, settings, **options)


def test_all_results_are_the_answer_in_memory(slide: Path, tmp_path: Path) -> None:
    shown: list[tuple[int, int]] = []
    summary = run(slide, tmp_path, progress=lambda done, total: shown.append((done, total)))
    assert (summary.predicted, summary.skipped, summary.problems, len(summary.written)) == (1, 0, [], 4)
    assert shown == [(number, 12) for number in range(1, 13)]
    expected, scores = model().slid(squares())
    mask = tifffile.imread(tmp_path / "masks/a.tif")
    assert np.array_equal(mask, expected)
    assert np.array_equal(zarr.open_group(tmp_path / "masks/a.zarr", mode="r")["0"][:], expected)  # type: ignore[index]
    record = json.loads((tmp_path / "large/a.json").read_text())
    assert record["score"] == {name: round(score, 4) for name, score in scores.items()}
    assert record["area"]["red"] == pytest.approx((expected == 1).mean(), abs=1e-6)
    parts = sum(ndimage.label(expected == value)[1] for value in (1, 2))
    assert record["features_gpkg"] == record["features_geojson"] == parts
    assert not list((tmp_path / "large").glob("*.areas"))
    again = run(slide, tmp_path)
    assert (again.predicted, again.skipped, again.written) == (0, 1, [])


def test_a_killed_call_goes_on_where_it_was(slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def dies(done: int, total: int) -> None:
        if done == 5:
            raise Killed

    with pytest.raises(Killed):
        run(slide, tmp_path, progress=dies)
    assert {path.name for path in tmp_path.iterdir()} - {".lock"} == {"large"}
    assert len(list((tmp_path / "large/a.areas").glob("*.npz"))) == 5
    counted: list[int] = []
    real = SegmenterPredictor.predict_area

    def counting(self: Any, read: Any, slide: Any, area: Any, **options: Any) -> Any:
        counted.append(area)
        return real(self, read, slide, area, **options)

    monkeypatch.setattr(SegmenterPredictor, "predict_area", counting)
    run(slide, tmp_path)
    assert len(counted) == 7
    assert np.array_equal(tifffile.imread(tmp_path / "masks/a.tif"), model().slid(squares())[0])


def test_areas_of_other_settings_are_not_taken_up(slide: Path, tmp_path: Path) -> None:
    run(slide, tmp_path, LargeSettings(("tiff",)))
    for settings, chosen in (
        (LargeSettings(("tiff",), overlap=0.5), model()),
        (LargeSettings(("tiff",)), model().with_crop(96)),
    ):
        with pytest.raises(MaskwrightError, match=r"a\.json: of another model, other settings .* or give --overwrite"):
            run(slide, tmp_path, settings, model=chosen)
        assert run(slide, tmp_path, settings, model=chosen, overwrite=True).predicted == 1


class Share:
    """One of two processes, at work before the other."""

    num_processes = 2

    def __init__(self, index: int) -> None:
        self.process_index, self.is_main_process = index, index == 0

    def wait_for_everyone(self) -> None:
        """The test calls them one after the other."""


def test_two_processes_share_the_areas_of_an_image(slide: Path, tmp_path: Path) -> None:
    jobs = find_images([slide], tmp_path, large=True)
    done: list[int] = []
    # The second alone does its half; then the first, which finds nothing but its own half left to do.
    predict_large(model(), jobs, tmp_path, EVERYTHING, processes=Share(1), progress=lambda _, total: done.append(total))
    assert done == [6] * 6
    assert not (tmp_path / "masks").exists()


def test_files_that_lie_leave_nothing_behind(slide: Path, tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    files.claiming(data / "claims.tif", 200_000)
    files.with_broken_tile(slide, data / "broken.tif")
    files.without_level(slide, data / "level.tif")
    files.geotiff(data / "placeless.tif", squares(), placed=False)
    files.pyramid(data / "good.tif", squares())
    summary = run(data, out)
    assert (summary.predicted, len(summary.problems)) == (1, 4)
    for name in ("claims", "broken", "level", "placeless"):
        assert sum(f"{name}.tif" in problem for problem in summary.problems) == 1
    written = sorted(
        path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file() and ".zarr" not in str(path)
    )
    assert [name for name in written if name != ".lock" and "broken.areas" not in name] == [
        "large/good.json",
        "masks/good.tif",
        "vectors/good.geojson",
        "vectors/good.gpkg",
    ]


def test_the_level_and_the_place_on_earth_are_kept(slide: Path, tmp_path: Path) -> None:
    run(slide, tmp_path, LargeSettings(("tiff",), mpp=0.5))
    record = json.loads((tmp_path / "large/a.json").read_text())
    assert (record["level"], record["mpp"], record["size"], record["windows"]["side"]) == (1, 0.5, [450, 300], 64)
    with tifffile.TiffFile(tmp_path / "masks/a.tif") as file:
        assert 'PhysicalSizeX="0.5"' in (file.ome_metadata or "")
    out = tmp_path / "geo"
    run(files.geotiff(tmp_path / "g.tif", squares()), out, LargeSettings(("tiff", "gpkg")))
    with rasterio.open(out / "masks/g.tif") as mask, rasterio.open(tmp_path / "g.tif") as image:
        assert (mask.crs, mask.transform, mask.shape) == (image.crs, image.transform, image.shape)


def test_what_cannot_slide_says_so(slide: Path, tmp_path: Path) -> None:
    with pytest.raises(MaskwrightError, match=r"learnt from whole images, squashed to 64 pixels, .* say with --crop"):
        run(slide, tmp_path, model=predictor(Colours()))
    assert not tmp_path.joinpath("large").exists()
    with pytest.raises(MaskwrightError, match=r"--mpp -1\.0: must be above 0; --simplify -2: must be 0 or more"):
        LargeSettings(mpp=-1.0, simplify=-2)


# -------------------------------------------------------------------------------------------------------------- objects


def blobs() -> NDArray[np.int32]:
    shade = ndimage.gaussian_filter(np.random.default_rng(3).random((700, 900)), 7)
    labelled: Any = ndimage.label(shade > 0.505)
    return labelled[0].astype(np.int32)


@pytest.mark.parametrize("side", [64, 400])
def test_objects_are_joined_across_seams(side: int) -> None:
    """Views that show the truth, cut at their borders: every object comes out whole and once, however many areas show it."""
    ids, size = blobs(), (900, 700)
    grid = sliding.Slide.of(size, side)
    parts = []
    for area in sliding.areas_of(size, 200):
        x0, y0, x1, y1 = view = large.view_of(area, grid)
        labelled: Any = ndimage.label(ids[y0:y1, x0:x1] > 0)
        found = of_ids(labelled[0], np.ones(labelled[1], int))
        parts.append(large.packed(found, view, area, size))
    joined = large.joined(parts)
    mask = np.concatenate(list(drawn(joined, size, np.dtype(np.uint16))))
    assert ((mask > 0) == (ids > 0)).all()
    # Objects far larger than what a view shows around its area (here 32 pixels) may be seen in parts that share nothing.
    assert ids.max() <= len(joined) <= ids.max() + (2 if side == 64 else 0)


def test_the_surer_object_is_drawn_in_front() -> None:
    square = np.ones((3000, 4), bool)
    objects = [Detection(1, 0.5, 0, 0, square), Detection(1, 0.9, 2, 1000, square)]
    mask = np.concatenate(list(drawn(objects, (8, 4500), np.dtype(np.uint16))))
    expected = np.zeros((4500, 8), np.uint16)
    expected[:3000, :4], expected[1000:4000, 2:6] = 1, 2
    assert np.array_equal(mask, expected)


def test_stores_and_slides_are_found_in_folders(tmp_path: Path) -> None:
    files.ome_zarr(tmp_path / "s" / "b.zarr", files.picture())
    (tmp_path / "s" / "c.svs").touch()
    found = find_images([tmp_path / "s"], tmp_path / "out", large=True)
    assert found == [Job("b", tmp_path / "s/b.zarr"), Job("c", tmp_path / "s/c.svs")]
    assert find_images([tmp_path / "s/b.zarr"], tmp_path / "out", large=True) == [Job("b", tmp_path / "s/b.zarr")]
