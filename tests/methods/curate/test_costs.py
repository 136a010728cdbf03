"""Seconds of labelling: defaults, the user's own, and what a file may not say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from maskwright.data.labels import Box, Labels, Mask, Point, Scribble, Tag
from maskwright.errors import DataError
from maskwright.methods.curate.costs import Costs


def test_an_image_takes_its_opening_and_its_objects() -> None:
    costs = Costs()
    assert costs.of("box", 2) == 4 + 2 * 7
    assert costs.of("tag", 0) == 4 + 1
    labels = Labels(Mask("a.png"), (Scribble(((1, 1),), 1),), (Box(0, 0, 2, 2, 1),), (Point(1, 1, 1),), (Tag(1),))
    assert costs.spent(labels, objects=3) == 4 + 3 * 20 + 11 + 7 + 2.5 + 1
    assert costs.spent(Labels()) == 0


def test_numbers_are_taken_and_medians_counted_beside_the_default(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    path.write_text(json.dumps({"box": 5.5, "mask": {"median": 40, "count": 30}, "opening": 2}))
    costs = Costs.load(path)
    assert costs.of("box") == 2 + 5.5
    assert costs.seconds["mask"] == (10 * 20 + 30 * 40) / 40
    assert costs.seconds["point"] == 2.5


def test_everything_wrong_is_said_at_once(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    path.write_text(json.dumps({"circle": 3, "box": -1, "mask": {"median": 4}, "point": True}))
    with pytest.raises(DataError) as error:
        Costs.load(path)
    assert [problem.split(": ")[1] for problem in error.value.problems] == ["'circle'", "box", "mask", "point"]


@pytest.mark.parametrize("content", ["[1]", "{", ""])
def test_what_is_no_object_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "costs.json").write_text(content)
    with pytest.raises(DataError, match=r"costs\.json"):
        Costs.load(tmp_path / "costs.json")
    with pytest.raises(DataError, match="is not there"):
        Costs.load(tmp_path / "none.json")
