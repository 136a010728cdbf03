"""The way back: what ``predict`` writes is a dataset, and annotation tools read it."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskwright import cli
from maskwright.data.check import examine
from maskwright.data.dataset import Dataset
from maskwright.data.formats import coco, cvat, label_studio, labelme, predictions
from maskwright.data.mask_files import read_mask, write_mask
from maskwright.data.masks import semantic_of
from maskwright.errors import DataError
from tests.tiny_model import save_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder, random = tmp_path / "photos", np.random.default_rng(0)
    for name, size in (("a.png", (30, 20)), ("b.b.jpg", (16, 40)), ("deep/a.png", (25, 25))):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / name)
    return folder


def call(*args: object) -> int:
    return cli.main([str(arg) for arg in args])


def test_a_folder_of_predictions_is_a_dataset_that_can_be_moved_corrected_and_checked(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("predict", run, photos, "--out", tmp_path / "out") == 0
    shutil.rmtree(photos)
    out = Path(shutil.move(tmp_path / "out", tmp_path / "elsewhere"))
    dataset = Dataset.load(out)
    assert dataset == Dataset.load(out / "predictions.json")
    assert (dataset.format, dataset.categories) == ("predictions", ("background", "red", "blue"))
    assert [(s.id, s.image) for s in dataset] == [
        ("a", "images/a.png"),
        ("b.b", "images/b.b.jpg"),
        ("deep_a", "images/deep/a.png"),
    ]
    write_mask(out / "masks" / "a.png", np.eye(30, 20, dtype=np.uint8))
    assert [p for p in examine(Dataset.load(out)).problems if "split" not in p] == []
    capsys.readouterr()
    assert call("data", "check", out) == 0
    assert "predictions" in capsys.readouterr().out
    assert call("data", "convert", out, "--to", "manifest", "--out", tmp_path / "again") == 0
    assert [s.labels.kind for s in Dataset.load(tmp_path / "again")] == [s.labels.kind for s in dataset]


@pytest.mark.parametrize(
    ("to", "module"), [("coco", coco), ("labelme", labelme), ("label-studio", label_studio), ("cvat", cvat)]
)
def test_every_tool_gets_the_masks_to_the_bit(run: Path, photos: Path, tmp_path: Path, capsys, to: str, module) -> None:
    out = tmp_path / "out"
    assert call("predict", run, photos, "--out", out, "--to", to) == 0
    told = capsys.readouterr().out
    assert f"{out / to}" in told
    assert f"not held by {to}: 3 semantic masks" in told
    assert sorted(entry.name for entry in out.iterdir()) == sorted(
        [*("images", "masks", "overlays", "predictions.json"), to]
    )
    again = {sample.id: sample for sample in module.read(out / to)}
    for sample in Dataset.load(out):
        mask, other = sample.labels.mask, again[sample.id].labels.mask
        assert mask is not None
        assert other is not None
        np.testing.assert_array_equal(semantic_of(read_mask(out / to / other.path), other), read_mask(out / mask.path))
    texts = [path.read_text() for path in (out / to).rglob("*") if path.suffix in (".json", ".xml")]
    assert not any(str(tmp_path) in text for text in texts)
    scores = {row["name"]: row["score"] for row in json.loads((out / "predictions.json").read_text())["images"]}
    assert ('"score"' in "".join(texts)) == (to in ("coco", "label-studio"))
    if to == "label-studio":
        (first, *_) = json.loads((out / to / "tasks.json").read_text())
        found = {row["value"]["brushlabels"][0]: row["score"] for row in first["predictions"][0]["result"]}
        assert found == {name: score for name, score in scores["a"].items() if name != "background"}
    assert call("predict", run, photos, "--out", out, "--to", to) == 1
    assert "is there already, perhaps with corrections of yours; move it away" in capsys.readouterr().err


def test_without_the_images_it_is_no_dataset(run: Path, photos: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    assert call("predict", run, photos, "--out", out, "--no-dataset", "--to", "coco") == 1
    assert "--to needs the images in the folder; leave out --no-dataset" in capsys.readouterr().err
    assert not out.exists()
    assert call("predict", run, photos, "--out", out, "--no-dataset") == 0
    assert not (out / "images").exists()
    with pytest.raises(DataError, match="3 images are not in the folder, as predict was told --no-dataset"):
        Dataset.load(out)
    assert call("predict", run, photos, "--out", out) == 0
    assert len(Dataset.load(out)) == 3


def index(**changes: object) -> dict:
    objects = [{"category_id": 2, "score": 0.9}, {"category_id": 1, "score": 0.2}]
    row = {"name": "a", "image": "images/a.png", "mask": "masks/a.png", "size": [4, 3], "ids": 1, "objects": objects}
    return {
        "format": "maskwright-predictions",
        "version": 2,
        "categories": ["background", "x", "y"],
        "images": [row | changes],
    }


def test_objects_keep_their_categories(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (4, 3)).save(tmp_path / "images" / "a.png")
    write_mask(tmp_path / "masks" / "a.png", np.eye(3, 4, dtype=np.uint16))
    (tmp_path / "predictions.json").write_text(json.dumps(index()))
    (sample,) = Dataset.load(tmp_path)
    assert sample.labels.mask is not None
    assert (sample.labels.mask.kind, sample.labels.mask.categories) == ("instance", {1: 2})
    assert predictions.scores_of(tmp_path) == {"a": {1: 0.9}}


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (index() | {"version": 1}, "read is maskwright-predictions 2; predict again"),
        (index() | {"categories": ["x"]}, "must be 'background'"),
        (index(image="../a.png"), "images[0].image: path '../a.png' leaves"),
        (index(mask="/etc/passwd"), "images[0].mask: path '/etc/passwd' is absolute"),
        (index(name="\x1b"), "cannot be an id"),
        (index(size=[0, 3]), "width and height [0, 3] are not those of an image"),
        (index(size=["a"]), "images[0].size: must be a list of 2 numbers"),
        (index(ids=3), "images[0].ids: must be a count of at most its 2 objects, found 3"),
        (index(objects=[{"category_id": 7}]), "images[0].objects[0].category_id: must be 1 to 2, found 7"),
        (index() | {"images": [3]}, "images[0]: must be an object, found 3"),
    ],
)
def test_an_index_that_is_wrong_is_refused(tmp_path: Path, document: dict, expected: str) -> None:
    (tmp_path / "predictions.json").write_text(json.dumps(document))
    with pytest.raises(DataError) as error:
        Dataset.load(tmp_path)
    assert expected in "\n".join(error.value.problems)
    assert all(line.isprintable() for line in error.value.problems)


def test_an_export_that_fails_leaves_nothing(run: Path, photos: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    def fail(*_: object) -> None:
        raise DataError(["the disk is full; free some"])

    monkeypatch.setattr(cvat, "write", fail)
    assert call("predict", run, photos, "--out", tmp_path / "out", "--to", "cvat") == 1
    assert "the disk is full" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path / "out")) == ["images", "masks", "overlays", "predictions.json"]
