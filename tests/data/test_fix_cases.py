"""Faults that tools and people leave in datasets: check refuses with a command, the command mends them, labels are right."""

import json
import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import maskwright
from maskwright.cli import main
from maskwright.data.dataset import Dataset
from maskwright.data.image_reading import ImageReading
from maskwright.data.labels import Mask
from maskwright.data.mask_files import read_mask, write_mask
from maskwright.errors import DataError

WIDTH, HEIGHT = 64, 48
SQUARE = [10, 10, 30, 10, 30, 30, 10, 30]


def box_mask(x0: int, y0: int, x1: int, y1: int) -> NDArray[np.uint8]:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[y0:y1, x0:x1] = 1
    return mask


def pictures(folder: Path, *names: str) -> None:
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        Image.fromarray(pixels).save(folder / name, "PNG")


def coco(folder: Path, annotations: list[dict[str, Any]], **changes: Any) -> Path:
    """Two images, ``a`` with the given annotations and ``b`` with a square, and one category ``cell``."""
    pictures(folder, "images/a.png", "images/b.png")
    entries: list[dict[str, Any]] = [
        {"id": i, "file_name": f"{name}.png", "width": WIDTH, "height": HEIGHT} for i, name in ((1, "a"), (2, "b"))
    ]
    entries[0] |= changes.pop("image", {})
    rows = [{"id": i, "image_id": 1, "category_id": 1, "iscrowd": 0, **row} for i, row in enumerate(annotations, 1)]
    rows.append({"id": 99, "image_id": 2, "category_id": 1, "segmentation": [SQUARE], "iscrowd": 0})
    document = {"images": entries, "annotations": rows, "categories": [{"id": 1, "name": "cell"}], **changes}
    (folder / "annotations").mkdir()
    (folder / "annotations" / "instances_default.json").write_text(json.dumps(document))
    return folder


def run_lengths(mask: NDArray[np.uint8]) -> dict[str, Any]:
    from maskwright.data.formats import rle

    return {"size": [HEIGHT, WIDTH], "counts": rle.encode(mask)}


Told = Callable[[Path, str], Dataset]


@pytest.fixture
def mended(capsys: pytest.CaptureFixture[str]) -> Told:
    """Check refuses (or warns), and names the command with these options; it is run; what it writes is clean."""

    def mend(data: Path, options: str = "") -> Dataset:
        main(["data", "check", str(data)])
        told = capsys.readouterr().out
        line = next(line for line in reversed(told.splitlines()) if "maskwright data fix" in line)
        command = shlex.split(line[line.index("maskwright data fix") :])
        assert command[3:6] == [str(data), "--out", f"{data}-fixed"]
        assert " ".join(command[6:]) == options
        before = sorted(path for path in data.rglob("*") if ".maskwright" not in path.parts)
        assert main(command[1:]) == 0
        assert sorted(path for path in data.rglob("*") if ".maskwright" not in path.parts) == before
        assert maskwright.check(f"{data}-fixed").problems == []
        return Dataset.load(f"{data}-fixed")

    return mend


def masks(dataset: Dataset) -> dict[str, NDArray[Any]]:
    return {s.id: read_mask(path) for s in dataset if (path := dataset.mask_path(s))}


def assert_square(mask: NDArray[Any]) -> None:
    np.testing.assert_array_equal(mask > 0, box_mask(10, 10, 30, 30))


# ------------------------------------------------------------------------------------------------------ COCO


def test_crowds_beside_plain_annotations(tmp_path: Path, mended: Told) -> None:
    brush = {"segmentation": run_lengths(box_mask(40, 5, 50, 15)), "iscrowd": 1}
    data = coco(tmp_path / "d", [{"segmentation": [SQUARE]}, brush])
    assert_square(masks(Dataset.load(data))["a"])  # Left out, with a warning.
    assert "left out" in " ".join(maskwright.check(data).warnings)
    dataset = mended(data, "--crowd objects")
    mask = masks(dataset)["a"]
    np.testing.assert_array_equal(mask > 0, box_mask(10, 10, 30, 30) | box_mask(40, 5, 50, 15))
    assert len(np.unique(mask)) == 3


def test_an_image_whose_only_label_is_a_crowd_is_named(tmp_path: Path, mended: Told) -> None:
    data = coco(tmp_path / "d", [{"segmentation": run_lengths(box_mask(40, 5, 50, 15)), "iscrowd": 1}])
    (warning,) = [w for w in maskwright.check(data).warnings if w.kind == "crowd"]
    assert "images/a.png" in warning
    np.testing.assert_array_equal(masks(mended(data, "--crowd objects"))["a"] > 0, box_mask(40, 5, 50, 15))


def test_crowds_of_a_whole_category_are_objects(tmp_path: Path) -> None:
    brush = {"segmentation": run_lengths(box_mask(40, 5, 50, 15)), "iscrowd": 1, "category_id": 2}
    categories = [{"id": 1, "name": "cell"}, {"id": 2, "name": "clump"}]
    data = coco(tmp_path / "d", [brush], categories=categories)
    np.testing.assert_array_equal(masks(Dataset.load(data))["a"] > 0, box_mask(40, 5, 50, 15))
    maskwright.fix(data, tmp_path / "out", crowd="ignore")
    assert masks(Dataset.load(tmp_path / "out")).keys() == {"b"}


@pytest.mark.parametrize("parts", [[[10, 10, 30, 30]], [[10, 10, 30, 10, 30]], [[1, 1]], [[]]])
def test_outlines_without_three_vertices(tmp_path: Path, mended: Told, parts: list[list[int]]) -> None:
    dataset = mended(coco(tmp_path / "d", [{"segmentation": parts}, {"segmentation": [SQUARE]}]), "")
    assert_square(masks(dataset)["a"])
    assert_square(masks(dataset)["b"])


def test_outlines_far_over_the_border_are_cut_off(tmp_path: Path, mended: Told) -> None:
    dataset = mended(coco(tmp_path / "d", [{"segmentation": [[-5, -5, 30, -5, 30, 60, -5, 60]]}]), "")
    np.testing.assert_array_equal(masks(dataset)["a"] > 0, box_mask(0, 0, 30, HEIGHT))


def test_boxes_far_over_the_border_are_cut_off(tmp_path: Path, mended: Told) -> None:
    dataset = mended(coco(tmp_path / "d", [{"bbox": [-12, 3, 30, 20]}, {"bbox": [50, 30, 40.5, 10]}]), "")
    (sample,) = [s for s in dataset if s.id == "a"]
    assert [box.xyxy for box in sample.labels.boxes] == [(0, 3, 18, 23), (50, 30, 64, 40)]


@pytest.mark.parametrize(
    "changes",
    [
        {"image": {"width": "64", "height": "48"}},
        {"image": {"id": "1"}},
        {"categories": [{"id": "1", "name": "cell"}]},
    ],
)
def test_numbers_written_as_text(tmp_path: Path, mended: Told, changes: dict[str, Any]) -> None:
    dataset = mended(coco(tmp_path / "d", [{"segmentation": [SQUARE]}], **changes), "")
    assert [s.size for s in dataset] == [(WIDTH, HEIGHT)] * 2
    assert_square(masks(dataset)["a"])


@pytest.mark.parametrize("path", ["../../label-studio/media/4/a.png", "/data/local-files/a.png", r"C:\Users\me\a.png"])
def test_paths_of_another_machine(tmp_path: Path, mended: Told, path: str) -> None:
    dataset = mended(coco(tmp_path / "d", [{"segmentation": [SQUARE]}], image={"file_name": path}), "--root images")
    assert_square(masks(dataset)["a"])


def test_the_folder_of_such_paths_may_be_named_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = coco(tmp_path / "d", [{"segmentation": [SQUARE]}], image={"file_name": "/elsewhere/a.png"})
    monkeypatch.chdir(tmp_path)
    maskwright.fix("d", "one", root="d/images")
    maskwright.fix(data, "two", root=data / "images")
    assert_square(masks(Dataset.load("one"))["a"])
    assert_square(masks(Dataset.load("two"))["a"])
    with pytest.raises(DataError, match="--root nowhere: is no folder"):
        maskwright.fix(data, "three", root="nowhere")


# ------------------------------------------------------------------------------------------------- folders


def layout(folder: Path, images: str, mask: str) -> Path:
    pictures(folder, f"images/{images}")
    write_mask(folder / "made.png", box_mask(10, 10, 30, 30))
    (folder / mask).parent.mkdir(exist_ok=True)
    shutil.move(folder / "made.png", folder / mask)
    return folder


@pytest.mark.parametrize(
    ("image", "mask"),
    [("a.png", "masks/a_mask.png"), ("a.png", "labels/a.png"), ("Scan_01.png", "masks/scan_01.png")],
)
def test_names_that_are_nearly_right(tmp_path: Path, mended: Told, image: str, mask: str) -> None:
    dataset = mended(layout(tmp_path / "d", image, mask), "")
    assert_square(masks(dataset)[Path(image).stem])


def test_two_unicode_forms_of_one_name_become_one(tmp_path: Path) -> None:
    data = layout(tmp_path / "d", "gro\u0308\u00dfe.png", "masks/gr\u00f6\u00dfe.png")
    if len(os.listdir(data / "images")) != 1:
        pytest.skip("the file system changes names")
    fixed = maskwright.fix(data, tmp_path / "out")
    assert fixed.counts.keys() == {"unicode-form"}
    dataset = Dataset.load(tmp_path / "out")
    assert [s.id for s in dataset] == ["gr\u00f6\u00dfe"]
    assert_square(masks(dataset)["gr\u00f6\u00dfe"])
    assert (tmp_path / "out" / "images" / "gr\u00f6\u00dfe.png").is_file()


def test_stems_with_a_suffix_in_the_lists(tmp_path: Path, mended: Told) -> None:
    data = layout(tmp_path / "d", "a.png", "masks/a.png")
    pictures(data, "images/b.png", "images/b2.png")
    pictures(data / "images", "x.png", "b.png")
    (data / "splits.json").write_text(json.dumps({"train": ["a.png"], "test": ["b.png"]}))
    (data / "images" / "b2.png").unlink()
    dataset = mended(data, "")
    assert {s.id: s.split for s in dataset} == {"a": "train", "b": "test"}
    assert_square(masks(dataset)["a"])


def test_tiff_masks_and_rgb_masks_become_plain_png(tmp_path: Path) -> None:
    data = layout(tmp_path / "d", "a.png", "masks/a.png")
    pictures(data / "images", "x.png", "b.png")
    (data / "images" / "x.png").unlink()
    Image.fromarray(box_mask(10, 10, 30, 30)).convert("RGB").save(data / "masks" / "a.png")
    Image.fromarray(box_mask(10, 10, 30, 30)).save(data / "masks" / "b.tif")
    assert maskwright.fix(data, tmp_path / "out").counts == {"mask-file": 2}
    dataset = Dataset.load(tmp_path / "out")
    for sample in dataset:
        path = dataset.mask_path(sample)
        assert path is not None
        with Image.open(path) as picture:
            assert (picture.format, picture.mode) == ("PNG", "L")
        assert_square(read_mask(path))


def test_another_page_of_an_image(tmp_path: Path) -> None:
    data = layout(tmp_path / "d", "a.png", "masks/a.png")
    (data / "images" / "a.png").unlink()
    pages = [Image.new("L", (WIDTH, HEIGHT), 40 * page) for page in range(3)]
    pages[0].save(data / "images" / "a.tif", save_all=True, append_images=pages[1:])
    (problem,) = maskwright.check(data).problems
    assert problem.kind == "pages"
    assert "has 3 pages" in problem
    with pytest.raises(DataError, match="has 3 pages"):
        maskwright.fix(data, tmp_path / "guess")
    maskwright.fix(data, tmp_path / "out", image_reading=ImageReading(page=2))
    dataset = Dataset.load(tmp_path / "out")
    assert np.asarray(Image.open(dataset.image_path(dataset[0]))).max() == 80
    with pytest.raises(DataError, match="no page 7"):
        maskwright.fix(data, tmp_path / "other", image_reading=ImageReading(page=7))


# ------------------------------------------------------------------------------------------------ manifests


def test_absolute_paths_in_a_manifest(tmp_path: Path, mended: Told) -> None:
    data = layout(tmp_path / "d", "a.png", "masks/a.png")
    row = {"id": "a", "image": "/somewhere/else/a.png", "labels": {"mask": {"path": "masks/a.png"}}}
    document = {"version": 1, "categories": ["background", "cell"], "samples": [row]}
    (data / "manifest.json").write_text(json.dumps(document))
    dataset = mended(data, "--root images")
    assert_square(masks(dataset)["a"])
    assert dataset[0].labels.mask == Mask("masks/a.png")


def test_a_folder_with_blanks_in_its_name(tmp_path: Path, mended: Told) -> None:
    assert_square(masks(mended(layout(tmp_path / "my data", "a.png", "masks/a_mask.png"), ""))["a"])
