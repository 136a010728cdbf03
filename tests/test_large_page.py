"""The commands of docs/large.md, run on small images with short trainings; the one of two processes as a program of its own."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from maskwright import cli
from tests.data.large import files
from tests.recipes.frames import write_frames
from tests.recipes.training import environment, python
from tests.test_readme import ROOT, command_lines, snippets

PAGE = ROOT / "docs" / "large.md"
SHORT = ["--steps", "2", "--batch", "4", "--no-sam", "--workers", "0", "--device", "cpu", "--overwrite"]


def shortened(words: list[str], sam: Path) -> list[str]:
    """A command with a length that a test has time for."""
    if words[0] != "train":
        return words
    for option in ("--minutes", "--size"):
        if option in words:
            at = words.index(option)
            words = words[:at] + words[at + 2 :]
    return [*words, "--size", "64", "--sam", str(sam), *SHORT]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the files that the page speaks of."""
    monkeypatch.chdir(tmp_path)
    write_frames(tmp_path / "frames")
    (tmp_path / "new_images").mkdir()
    Image.fromarray(files.picture(90, 130)).save(tmp_path / "new_images/a.png")
    files.pyramid(tmp_path / "slide.tif", files.picture(700, 500))
    return tmp_path


def test_the_commands_and_the_snippet(here: Path, tiny_sam_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    lines = [line for line in command_lines(PAGE) if " label" not in line]
    assert len(lines) >= 8
    written = set()
    for line in lines:
        words = shortened(shlex.split(line.partition("#")[0])[1:], tiny_sam_folder)
        # Each on its own: predictions of another model or other settings are not mixed.
        words += ["--overwrite"] if words[0] == "predict" else []
        assert cli.main(words) == 0, f"{line}: {capfd.readouterr().err}"
        written |= {path.relative_to(here).as_posix() for path in (here / "predictions").rglob("*") if path.is_file()}
    assert {
        "predictions/masks/slide.tif",
        "predictions/vectors/slide.geojson",
        "predictions/large/slide.json",
    } <= written
    assert json.loads((here / "predictions/large/slide.json").read_text())["level"] == 1  # the last command's --mpp
    (text,) = snippets(PAGE)
    (here / "predictions/large/slide.json").unlink()
    exec(compile(text, str(PAGE), "exec"), {})
    assert (here / "predictions/vectors/slide.gpkg").is_file()


@pytest.mark.slow
def test_two_processes_share_an_image(here: Path, tiny_sam_folder: Path) -> None:
    """As the page says it; both read what the first has written, and the result is that of one process."""
    assert cli.main(shortened(["train", "samix", "frames", "--out", "runs/cells"], tiny_sam_folder)) == 0
    tifffile.imwrite(here / "slide.tif", files.picture(4500, 5000), tile=(256, 256), compression="zlib")
    (line,) = re.findall(r"^ {4}(torchrun .*)$", PAGE.read_text("utf-8"), re.MULTILINE)
    words = shlex.split(line)[1:]
    done = subprocess.run(
        python("torch.distributed.run", "--standalone", *words), env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 images predicted" in done.stdout
    assert cli.main(["predict", "runs/cells", "slide.tif", "--out", "alone", "--write", "tiff", "--device", "cpu"]) == 0
    one, two = (tifffile.imread(here / folder / "masks/slide.tif") for folder in ("alone", "predictions"))
    assert np.array_equal(one, two)
    assert not list((here / "predictions/large").glob("*.areas"))
