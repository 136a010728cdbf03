"""The order of `next` and `audit` in the list of images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskwright.errors import DataError
from maskwright.serve.project import Project
from maskwright.serve.suggestions import read_suggestions

NEXT = {
    "format": "maskwright next 1",
    "suggestions": [
        {"id": "c", "kind": "box", "seconds": 11.0, "reason": "stands for many images; nothing is labelled yet."},
        {"id": "a", "kind": "mask", "seconds": 24.0, "reason": "drawn at random."},
    ],
}
AUDIT = {"format": "maskwright audit 1", "suspects": [{"id": "b", "kind": "shifted", "wrong": 0.914}]}


def test_images_to_label_and_masks_to_look_at(tmp_path: Path) -> None:
    (tmp_path / "next.json").write_text(json.dumps(NEXT))
    found, said = read_suggestions(tmp_path, ["a", "b", "c"])
    assert found["c"] == {"rank": 1, "kind": "box", "reason": NEXT["suggestions"][0]["reason"], "look": False}
    assert found["a"]["rank"] == 2
    assert said == []
    path = tmp_path / "audit.json"
    path.write_text(json.dumps(AUDIT))
    found, _ = read_suggestions(path, ["a", "b"])
    assert found == {
        "b": {"rank": 1, "kind": "shifted", "reason": "looks shifted with a probability of 91%", "look": True}
    }


def test_images_that_are_not_there_are_counted(tmp_path: Path) -> None:
    (tmp_path / "next.json").write_text(json.dumps(NEXT))
    found, said = read_suggestions(tmp_path / "next.json", ["a"])
    assert list(found) == ["a"]
    assert "1 of 2 images" in said[0]
    with pytest.raises(DataError, match="none of its 2 images"):
        read_suggestions(tmp_path / "next.json", ["x"])


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"format": "maskwright next 1"}', '{"format": "maskwright next 1", "suggestions": [1]}'],
)
def test_anything_else_is_refused_in_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "next.json").write_text(content)
    with pytest.raises(DataError, match="is no list of suggestions") as error:
        read_suggestions(tmp_path / "next.json", ["a"])
    assert len(error.value.problems) == 1
    with pytest.raises(DataError, match="is not there"):
        read_suggestions(tmp_path / "none.json", ["a"])


def test_the_list_of_images_tells_them(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for name in "abc":
        Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(folder / f"{name}.png")
    (tmp_path / "next.json").write_text(json.dumps(NEXT))
    project = Project(folder, suggestions=tmp_path / "next.json")
    try:
        assert project.listed("c")["suggestion"]["rank"] == 1
        assert project.listed("b")["suggestion"] is None
    finally:
        project.close()
