"""The page, the channels and the numbers of image files that count, on the labelling page as in every command."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskwright.data.image_reading import ImageReading
from maskwright.serve.jobs import Jobs
from maskwright.serve.project import Project
from maskwright.serve.tiles import Pictures
from tests.serve.conftest import Open
from tests.serve.test_description import fake_program


def test_pages_and_channels_of_images_are_those_that_were_asked_for(
    opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A TIFF of two pages: the page that was named is shown, sized and handed to trainings; without one it is refused in words."""
    pages = [Image.fromarray(np.full((40, 60, 3), 10, np.uint8)), Image.fromarray(np.full((30, 50, 3), 200, np.uint8))]
    (tmp_path / "two").mkdir()
    pages[0].save(tmp_path / "two/a.tif", save_all=True, append_images=pages[1:])
    reading = ImageReading(page=1, channels=(2, 1, 0))
    project = Project(tmp_path / "two", reading)
    assert project.size("a") == (50, 30)
    assert (Pictures(reading=reading).pixels(project.path("a")) == 200).all()
    jobs = Jobs(tmp_path / "trainings", project.snapshot, "nano", reading)
    said = tmp_path / "said.txt"
    monkeypatch.setattr(sys, "executable", fake_program(tmp_path, f'echo "$@" > {said}'))
    jobs.start("samix", 1)
    end = time.monotonic() + 60
    while not (said.is_file() and said.read_text().strip()) and time.monotonic() < end:
        time.sleep(0.05)
    assert said.read_text().strip().endswith("--page 1 --channels 2,1,0")
    project.close()
    answer = opened(tmp_path / "two").get("/api/images/a/tiles/0/0/0")
    assert answer.status_code == 422
    assert "--page" in answer.text
