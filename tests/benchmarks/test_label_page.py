"""The benchmark of the labelling page, at its smallest, in a real browser."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("chromium") is None and os.environ.get("MASKWRIGHT_BROWSER") != "required", reason="needs Chromium"
)
def test_label_page(benchmark, figures_of, tiny_sam_folder: Path) -> None:
    bench = benchmark("label_page")
    settings = {"images": 2, "clicks": 2, "size": 64, "list": 30, "megapixels": 1, "masks": 5, "seconds": 0.5}
    figures, told = figures_of(bench, sam=str(tiny_sam_folder), **settings)
    assert (len(figures["clicks"]["first"]), len(figures["clicks"]["further"])) == (2, 2)
    assert 0 < figures["clicks"]["started"] < figures["clicks"]["ready"]
    assert all(figures[part]["frames"] for part in ("list", "panning"))
    assert "panning 1 megapixels with 5 masks" in told
