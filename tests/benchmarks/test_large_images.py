"""The benchmarks of large images at their smallest size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

LENGTH = {"steps": 2}


def test_a_slide_is_the_same_in_strips_and_holds_all_its_cells(script, tmp_path: Path) -> None:
    slide = script("benchmarks", "slides").Slide(700, 30, 0)
    ids = slide.ids(0, 700)
    assert np.array_equal(ids, np.concatenate([slide.ids(0, 300), slide.ids(300, 700)]))
    assert len(np.unique(ids)) == 31
    slide.write(tmp_path / "slide.tif")
    # JPEG, so nearly.
    assert abs(tifffile.imread(tmp_path / "slide.tif").astype(int) - slide.strip(0, 700)).mean() < 8


@pytest.mark.slow
def test_large_images(benchmark, figures_of, tmp_path: Path, tiny_sam_folder: Path) -> None:
    bench = benchmark("large_images")
    sizes = {"side": 700, "objects": 12, "crop": 64, "crops": 10}
    figures, told = figures_of(bench, out=tmp_path / "out", sam=str(tiny_sam_folder), **sizes, **LENGTH)
    assert figures["agreement"]["differing_pixels"] == 0
    assert figures["same"] is True
    assert figures["count"]["true"] == 12
    assert "A slide of 700 x 700 pixels with 12 objects" in told


@pytest.mark.slow
def test_small_objects(benchmark, figures_of, tmp_path: Path, tiny_sam_folder: Path) -> None:
    bench = benchmark("small_objects")
    sizes = {"side": 400, "objects": 20, "diameter": 12, "images": 5, "size": 64, "ways": tuple(bench.WAYS)[:2]}
    figures, told = figures_of(bench, out=tmp_path / "out", sam=str(tiny_sam_folder), **sizes, **LENGTH)
    assert [row["way"] for row in figures["rows"]] == list(bench.WAYS)[:2]
    assert "Objects of 12 pixels on images of 400" in told
