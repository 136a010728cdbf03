"""Every case of ``cases.py`` is read, refused, or refused with the command that mends it; quickly, and without a traceback."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from maskwright.data.check import Report, examine
from maskwright.data.dataset import Dataset
from maskwright.data.images import read_image
from maskwright.data.mask_files import read_mask
from maskwright.data.masks import semantic_of
from maskwright.errors import DataError
from maskwright.problems import Problem
from tests.data.cases import CASES, Case, disk, folder, picture

SECONDS = 10


def looked_at(root: Path) -> tuple[Report | None, list[Problem]]:
    """The check's report, None where the dataset cannot be read; and its problems."""
    try:
        report = examine(Dataset.load(root))
    except DataError as error:
        return None, error.problems
    return report, report.problems


@pytest.mark.parametrize("name", CASES)
def test_a_case_is_read_or_refused_as_is_right(name: str, tmp_path: Path) -> None:
    case, root = CASES[name], tmp_path / "data"
    root.mkdir()
    case.make(root)
    start = time.monotonic()
    report, problems = looked_at(root)
    assert time.monotonic() - start < SECONDS
    assert all(line.isprintable() for line in problems)
    if case.outcome == "read":
        assert report is not None, problems
        assert problems == []
        lines = report.warnings
        assert_facts(case, report)
    else:
        lines = problems
        assert lines
        mendable = {problem.fix is not None for problem in lines if problem.kind in case.kinds}
        assert mendable == {case.outcome == "fix"}, lines
        for problem in lines:
            if problem.fix is not None:
                assert "maskwright data fix " in problem.remedy
    assert {line.kind for line in lines} == set(case.kinds), lines
    for text in case.says:
        assert any(text in line for line in lines), lines


def assert_facts(case: Case, report: Report) -> None:
    """What was understood is what the case says: counts of masks and objects, pixels of the first mask, boxes, categories."""
    dataset, expected = report.dataset, case.facts
    masks = [s for s in dataset if s.labels.mask]
    if "categories" in expected:
        assert dataset.categories == expected["categories"]
    if "images" in expected:
        assert len(dataset) == expected["images"]
    if "semantic" in expected:
        assert sum(s.labels.mask.kind == "semantic" for s in masks if s.labels.mask) == expected["semantic"]
    values = [read_mask(path) for s in masks if (path := dataset.mask_path(s))]
    if "objects" in expected:
        assert all(s.labels.mask.kind == "instance" for s in masks if s.labels.mask)
        assert sum(len(np.unique(v[v > 0])) for v in values) == expected["objects"]
    if "area" in expected:
        assert masks[0].labels.mask is not None
        assert (semantic_of(values[0], masks[0].labels.mask) == 1).sum() == expected["area"]
    if "boxes" in expected:
        boxes = [box.xyxy for sample in dataset for box in sample.labels.boxes]
        np.testing.assert_allclose(boxes, expected["boxes"])


def test_named_pipes_and_folders_in_place_of_files_are_refused_at_once(tmp_path: Path) -> None:
    folder(tmp_path, {"a": disk()})
    os.mkfifo(tmp_path / "images" / "b.jpg")
    _, problems = looked_at(tmp_path)
    assert ["is no regular file" in line for line in problems] == [True]
    os.unlink(tmp_path / "images" / "b.jpg")
    os.unlink(tmp_path / "masks" / "a.png")
    os.mkfifo(tmp_path / "pipe")
    for read in (read_image, read_mask):
        with pytest.raises(DataError, match="no regular file"):
            read(tmp_path / "pipe")
    os.mkfifo(tmp_path / "splits.json")
    with pytest.raises(DataError, match="no regular file"):
        Dataset.load(tmp_path / "splits.json")


def test_a_linked_cache_is_not_written_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "outside").mkdir()
    CASES["t61 a flat polygon"].make(tmp_path / "data")
    os.symlink(tmp_path / "outside", tmp_path / "data" / ".maskwright")
    _, problems = looked_at(tmp_path / "data")
    assert problems == []
    assert list((tmp_path / "outside").iterdir()) == []


def test_mending_while_reading_says_what_it_did(tmp_path: Path) -> None:
    for name, case in CASES.items():
        if case.outcome != "fix" or case.kinds[0] in ("mixed-masks", "lossy-mask", "grey-mask", "mask-convention"):
            continue  # What is wrong with pixels is mended by maskwright.data.fix.
        root = tmp_path / str(abs(hash(name)))
        case.make(root)
        mended = Dataset.load(root, mend=True)
        assert {warning.kind for warning in mended.warnings} >= set(case.kinds), name
        assert not [p for p in examine(mended).problems if p.kind != "no-training"], name


def test_crowds_are_taken_or_left_out_as_asked(tmp_path: Path) -> None:
    CASES["t01b some are crowds"].make(tmp_path)
    objects = Dataset.load(tmp_path, crowd="objects")
    assert [len(s.labels.mask.categories) for s in objects if s.labels.mask] == [2, 1]
    ignored = Dataset.load(tmp_path, crowd="ignore")
    assert [len(s.labels.mask.categories) for s in ignored if s.labels.mask] == [1]
    assert ["--crowd" in w for w in (*objects.warnings, *ignored.warnings)] == [True, True]


def test_one_flipped_bit_in_a_mask_is_never_other_labels(tmp_path: Path) -> None:
    """For each kind of PNG: refused, or read with the same values."""
    from PIL import Image

    random = np.random.default_rng(0)
    kinds = {
        "L": Image.fromarray(disk(7)),
        "1": Image.fromarray(disk() > 0),
        "I;16": Image.fromarray(disk(700, np.uint16)),
    }
    kinds["P"] = kinds["L"].convert("P")
    kinds["RGB"] = kinds["L"].convert("RGB")
    for kind, image in kinds.items():
        path = tmp_path / f"{kind.replace(';', '')}.png"
        image.save(path)
        content, right = path.read_bytes(), read_mask(path)
        for bit in random.choice(8 * len(content), 60, replace=False):
            damaged = bytearray(content)
            damaged[bit // 8] ^= 1 << (bit % 8)
            path.write_bytes(damaged)
            try:
                values = read_mask(path)
            except DataError:
                continue
            np.testing.assert_array_equal(values, right)


def test_a_picture_helper_is_the_same_on_every_run(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "b" / "a.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b" / "a.png").read_bytes()
