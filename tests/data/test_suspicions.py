"""What is legal but hardly meant is warned of, with a count and an example; contradictions between masks are refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from maskwright.data.check import Report, examine
from maskwright.data.dataset import Dataset
from maskwright.data.labels import Box, Labels, Mask, Sample
from maskwright.data.mask_files import write_mask
from maskwright.data.understood import findings_text, start_of_training, understood
from maskwright.problems import Problem


def scene(
    root: Path, masks: list[NDArray[Any] | None], splits: str = "", kind: Any = "semantic", names: int = 1
) -> Dataset:
    """An image for each mask, of 20 x 10 pixels; ``splits`` holds the first letters of their splits, ``train`` if empty."""
    splits = splits or "t" * len(masks)
    samples = []
    for i, (mask, letter) in enumerate(zip(masks, splits, strict=True)):
        picture = np.random.default_rng(i).integers(0, 256, (10, 20, 3), np.uint8)
        Image.fromarray(picture).save(root / f"{i}.png")
        labels = Labels()
        if mask is not None:
            write_mask(root / "masks" / f"{i}.png", mask)
            labels = Labels(Mask(f"masks/{i}.png", kind))
        split = {"t": "train", "v": "val", "e": "test"}[letter]
        samples.append(Sample(f"s{i}", f"{i}.png", split, labels))
    return Dataset(root, ("background", *(f"c{i}" for i in range(names))), tuple(samples), "here.json")


def filled(value: int, rows: int = 4, dtype: Any = np.uint8) -> NDArray[Any]:
    mask = np.zeros((10, 20), dtype)
    mask[:rows] = value
    return mask


def kinds(report: Report) -> tuple[list[str], list[str]]:
    return [p.kind for p in report.problems], [w.kind for w in report.warnings]


def test_nothing_is_said_of_ordinary_masks(tmp_path: Path) -> None:
    report = examine(scene(tmp_path, [filled(1), filled(0), filled(1), None], "ttve"))
    assert kinds(report) == ([], [])


def test_much_ignored(tmp_path: Path) -> None:
    masks = [filled(1), filled(1), filled(1)]
    masks[1][6:], masks[2][9:] = 255, 255  # 40 % and 10 %
    report = examine(scene(tmp_path, masks))
    assert kinds(report) == ([], ["much-ignored"])
    assert "masks that ignore more than 20% of their image: 1, most of all 's1' (40%)" in report.warnings[0]
    assert "ignored pixels (255): 17 % of all mask pixels" in understood(report)


@pytest.mark.parametrize(("splits", "told"), [("tte", "train: 2 of 0/1; test: 1 of 0/255"), ("ttt", "1 of 0/255")])
def test_the_object_as_1_and_as_255(tmp_path: Path, splits: str, told: str) -> None:
    (problem,) = examine(scene(tmp_path, [filled(1), filled(1), filled(255)], splits)).problems
    assert (problem.kind, problem.fix) == ("mixed-masks", "")
    assert told in problem
    assert "2.png" in problem


def test_255_beside_ids_is_ignored(tmp_path: Path) -> None:
    both = filled(1)
    both[9:] = 255
    assert kinds(examine(scene(tmp_path, [both, filled(255, 1), filled(1)]))) == ([], [])


def test_a_split_of_several_categories_with_nothing_but_255(tmp_path: Path) -> None:
    report = examine(scene(tmp_path, [filled(1), filled(2), filled(255)], "tte", names=2))
    (problem,) = report.problems
    assert problem.kind == "only-ignored"
    assert "no test mask marks any category" in problem
    assert problem.fix is None, "which category 255 stands for cannot be known"


def test_all_masks_empty(tmp_path: Path) -> None:
    dataset = scene(tmp_path, [filled(0), filled(0), filled(1)], "ttv")
    (problem,) = examine(dataset).problems
    assert "all 2 training masks are empty: no pixel of any category" in problem
    assert examine(dataset, training=False).problems == []
    boxed = replace(dataset[0], labels=Labels(boxes=(Box(1, 1, 3, 3, 1),)))
    assert examine(dataset.with_samples([boxed, *dataset.samples[1:]])).problems == []


def test_tiny_objects_and_nearly_empty_masks(tmp_path: Path) -> None:
    instances = filled(1, dtype=np.uint16)
    instances[9, :3], instances[8, 0] = 2, 3
    report = examine(scene(tmp_path, [instances, filled(1, dtype=np.uint16)], kind="instance"))
    assert "objects of fewer than 4 pixels: 2, such as in 0.png" in report.warnings[0]
    tiny = filled(0)
    tiny[0, 0] = 1
    report = examine(scene(tmp_path, [tiny, filled(1)]))
    assert kinds(report) == ([], ["near-empty-mask"])
    assert "nearly empty masks (fewer than 4 pixels): 1" in understood(report)


def test_objects_that_a_mask_names_and_does_not_show(tmp_path: Path) -> None:
    dataset = scene(tmp_path, [filled(1), filled(2)], kind="instance", names=2)
    named = replace(dataset[0], labels=Labels(Mask("masks/0.png", "instance", {1: 2, 7: 2})))
    report = examine(dataset.with_samples([named, dataset[1]]))
    assert kinds(report) == ([], ["lost-object"])
    assert "objects without a pixel in their mask: 1, such as in 0.png" in report.warnings[0]


def test_one_picture_in_two_splits_in_two_formats(tmp_path: Path) -> None:
    dataset = scene(tmp_path, [filled(1), filled(1)], "tv")
    Image.open(tmp_path / "0.png").save(tmp_path / "same.bmp")
    copied = dataset.with_samples([dataset[0], replace(dataset[1], image="same.bmp")])
    (problem,) = examine(copied).problems
    assert "0.png (sample 's0', split 'train'), same.bmp (sample 's1', split 'val')" in problem


def test_what_was_understood(tmp_path: Path) -> None:
    mask = filled(1)
    mask[9] = 255
    dataset = scene(tmp_path, [mask, filled(0), None, filled(1)], "ttev")
    Image.new("RGB", (20, 10)).save(tmp_path / "other.png")
    assert understood(examine(replace(dataset, format="COCO"))) == [
        "here.json: COCO, 4 images, 3 semantic masks (pixels are category ids)",
        "categories: c0",
        "train: 2 images (2 mask)",
        "test: 1 image (1 without label)",
        "val: 1 image (1 mask)",
        "without a mask: 1 image, such as 2.png",
        "left out: 1 image file that no list names, such as other.png",
        "empty masks (nothing but background): 1",
        "ignored pixels (255): 3.3 % of all mask pixels",
    ]


def test_a_training_says_it_with_its_warnings(tmp_path: Path) -> None:
    mask = filled(1)
    mask[5:] = 255
    told = start_of_training(examine(scene(tmp_path, [mask])))
    assert told.startswith("here.json: ")
    assert "\nwarning: here.json: masks that ignore more than 20%" in told


def test_findings_of_one_kind_come_together_with_one_command() -> None:
    grey = [Problem(f"grey {i}", kind="grey", file=f"{i}.png", fix="", data="my data") for i in range(5)]
    crowd = Problem("2 crowds", kind="crowd", file="a.json", fix="--crowd objects", data="my data")
    lost = Problem("missing", kind="missing", file="b.png", remedy="restore it")
    command = "    maskwright data fix 'my data' --out 'my data-fixed'"
    assert findings_text(grey, "my data") == [
        "  - 0.png: grey 0",
        "  - 1.png: grey 1",
        "  - 2.png: grey 2",
        "    ... and 2 more of this kind (--all lists them)",
        f"write a mended copy with:\n{command}",
    ]
    assert len(findings_text(grey, "my data", None)) == 6
    told = findings_text([*grey, crowd, lost], "my data")
    assert told[-2:] == [
        "  - b.png: missing; restore it",
        f"correct the 1 problem that it cannot mend, then write a mended copy with:\n{command} --crowd objects",
    ]
