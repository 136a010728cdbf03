"""Masks that are given with images: each image gets its own, or it is said why not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from maskwright.errors import DataError
from maskwright.methods.clicks.mask_folder import MaskFolder


def masks(folder: Path, *names: str) -> MaskFolder:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return MaskFolder(folder)


def test_the_end_of_the_path_decides(tmp_path: Path):
    given = masks(tmp_path, "case1/001.png", "case2/001.png", "case2/007.png", "008.png")
    for image, mask in {
        "/data/case2/001.jpg": "case2/001.png",
        "/data/case1/001.tif": "case1/001.png",
        "elsewhere/007.jpg": "case2/007.png",
        "elsewhere/008.jpg": "008.png",
    }.items():
        assert given.find(Path(image)) == tmp_path / mask
        assert given.find(Path(image)) == tmp_path / mask  # asked again
    assert given.find(Path("/data/case3/009.jpg")) is None


def test_what_could_be_either_is_an_error(tmp_path: Path):
    given = masks(tmp_path, "case1/001.png", "case2/001.png", "002.png")
    with pytest.raises(DataError, match=r"2 are named 001\.png"):
        given.find(Path("/data/case3/001.jpg"))
    given.find(Path("/data/case1/002.jpg"))
    with pytest.raises(DataError, match=r"is it the mask of /data/case1/002\.jpg or of /data/case2/002\.jpg\?"):
        given.find(Path("/data/case2/002.jpg"))


def test_an_index_knows_better(tmp_path: Path):
    masks(tmp_path, "masks/a.png", "masks/b.png")
    rows = [{"file": "/images/one.jpg", "mask": "masks/b.png"}]
    (tmp_path / "predictions.json").write_text(json.dumps({"images": rows}))
    given = MaskFolder(tmp_path)
    assert given.find(Path("/images/one.jpg")) == tmp_path / "masks/b.png"
    assert given.find(Path("/images/a.jpg")) == tmp_path / "masks/a.png"
