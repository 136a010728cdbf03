"""Labels by the API: what is sent is what the dataset holds, nothing is lost, and two clients do not undo each other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from maskwright.data.check import check
from maskwright.data.dataset import Dataset
from maskwright.data.labels import Box, Labels, Mask, Point, Sample, Scribble, Tag
from maskwright.data.mask_files import read_mask, write_mask
from maskwright.errors import DataError, RunError
from maskwright.serve.project import Project
from maskwright.serve.wire import Runs, WireError, checked_object
from tests.serve.conftest import Open, draw


def mask_object(name: str, mask: np.ndarray, category: int = 1, offset: tuple[int, int] = (0, 0)) -> dict[str, Any]:
    runs = Runs.of_mask(mask, offset)
    assert runs is not None
    return {"id": name, "kind": "mask", "category": category, "source": "brush", "mask": runs.as_json()}


def put(*objects: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"id": f"op-{each['id']}-{json.dumps(each)[:20]}-{n}", "op": "put", "object": each}
        for n, each in enumerate(objects)
    ]


def send(client: Any, image: str, operations: list[dict[str, Any]], base: int, who: str = "me") -> Any:
    body = {"base_rev": base, "client_id": who, "operations": operations}
    return client.post(f"/api/images/{image}/operations", json=body)


# ------------------------------------------------------------------------------------------------------- run lengths


@given(arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=12)), st.integers(0, 5), st.integers(0, 5))
def test_runs_and_masks(mask: np.ndarray, x: int, y: int) -> None:
    runs = Runs.of_mask(mask, (x, y))
    if runs is None:
        assert not mask.any()
        return
    size = x + mask.shape[1], y + mask.shape[0]
    again = Runs.of_json(json.loads(json.dumps(runs.as_json())), size)
    canvas = np.zeros((size[1], size[0]), np.uint8)
    again.paint(canvas, 3)
    np.testing.assert_array_equal(canvas[y:, x:] == 3, mask)
    assert canvas.sum() == 3 * mask.sum()


@pytest.mark.parametrize(
    "value",
    [
        None,
        {"box": [0, 0, 2, 2]},
        {"box": [0, 0, 2, 2], "counts": [5]},
        {"box": [0, 0, 2, 2], "counts": [2, -1, 3]},
        {"box": [0, 0, 2, 2], "counts": [2.0, 2]},
        {"box": [0, 0, 2, 2], "counts": [True, 3]},
        {"box": [9, 0, 2, 2], "counts": [4]},
        {"box": [-1, 0, 2, 2], "counts": [4]},
        {"box": [0, 0, 0, 2], "counts": []},
        {"box": [0, 0, 10**30, 2], "counts": [4]},
        {"box": [0, 0, 2, 2], "counts": "4"},
        {"box": [0, 0, 2, 2], "counts": [4], "more": 1},
    ],
)
def test_wrong_masks_are_refused(value: Any) -> None:
    with pytest.raises(WireError):
        Runs.of_json(value, (10, 10))


@pytest.mark.parametrize(
    "changed",
    [
        {"kind": "polygon"},
        {"category": 3},
        {"category": 0},
        {"category": "1"},
        {"category": True},
        {"id": ""},
        {"id": "x" * 65},
        {"id": "a\nb"},
        {"source": "elsewhere"},
        {"xyxy": [0, 0, 11, 5]},
        {"xyxy": [5, 0, 5, 5]},
        {"xyxy": [0, 0, float("nan"), 5]},
        {"xyxy": [0, 0, 5]},
        {"xyxy": None},
    ],
)
def test_wrong_objects_are_refused(changed: dict[str, Any]) -> None:
    right = {"id": "a", "kind": "box", "category": 1, "source": "hand", "xyxy": [0, 0, 5, 5]}
    assert checked_object(right | {"foreign": 1}, (10, 10), 3) == right
    with pytest.raises(WireError):
        checked_object(right | changed, (10, 10), 3)


# ------------------------------------------------------------------------------------------------------- into the dataset


def test_all_kinds_of_label_reach_the_dataset(opened: Open, folder: Path) -> None:
    client = opened(folder)
    assert client.post("/api/categories", json={"name": "hole"}).json()["id"] == 2
    names = [image["id"] for image in client.get("/api/images").json()["images"]]
    assert names == ["0", "1", "wide-2"]
    weak = [
        {"id": "b", "kind": "box", "category": 1, "source": "hand", "xyxy": [10, 5.5, 40, 30]},
        {"id": "s", "kind": "scribble", "category": 0, "source": "hand", "points": [[1.5, 2.5], [9, 9]]},
        {"id": "p", "kind": "point", "category": 2, "source": "hand", "xy": [50.5, 20.5]},
    ]
    tags = [{"id": "t", "op": "tags", "tags": [2, 1]}]
    assert send(client, "0", [*put(*weak), *tags], 0).json()["rev"] == 1
    assert send(client, "1", [{"id": "n", "op": "nothing", "value": True}], 0).status_code == 200
    client.project.flush()
    dataset = Dataset.load(folder)
    first, second, third = dataset
    assert first.labels == Labels(
        None,
        (Scribble(((1.5, 2.5), (9.0, 9.0)), 0),),
        (Box(10, 5.5, 40, 30, 1),),
        (Point(50.5, 20.5, 2),),
        (Tag(1), Tag(2)),
    )
    assert second.labels.mask is not None
    assert not read_mask(folder / second.labels.mask.path).any()
    assert third.labels == Labels()
    assert dataset.categories == ("background", "object", "hole")
    states = {image["id"]: image["state"] for image in client.get("/api/images").json()["images"]}
    assert states == {"0": "weak", "1": "mask", "wide-2": "unlabelled"}
    assert check(Dataset.load(folder)) == []


def test_masks_wait_until_the_image_is_done_and_the_last_object_lies_on_top(opened: Open, folder: Path) -> None:
    client = opened(folder)
    client.post("/api/categories", json={"name": "other"})
    rng = np.random.default_rng(0)
    first, second = rng.random((64, 96)) < 0.5, np.zeros((64, 96), bool)
    second[10:20, 30:50] = True
    objects = [mask_object("one", first), mask_object("two", second, 2)]
    assert send(client, "0", put(*objects), 0).status_code == 200
    client.project.flush()
    assert Dataset.load(folder)[0].labels == Labels()
    listed = client.get("/api/images").json()["images"][0]
    assert (listed["state"], listed["draft"]) == ("unlabelled", True)
    send(client, "0", [{"id": "d", "op": "done", "value": True}], 1)
    client.project.flush()
    labels = Dataset.load(folder)[0].labels
    assert labels.mask == Mask("masks/0.png", "instance", {1: 1, 2: 2})
    expected = np.where(second, 2, first.astype(int))
    np.testing.assert_array_equal(read_mask(folder / "masks" / "0.png"), expected)
    # The other one on top: the order is a change like any other.
    send(client, "0", [{"id": "o", "op": "order", "ids": ["two", "one"]}], 2)
    client.project.flush()
    np.testing.assert_array_equal(read_mask(folder / "masks" / "0.png"), np.where(first, 2, second.astype(int)))
    assert check(Dataset.load(folder)) == []


@settings(max_examples=15, deadline=None)
@given(st.lists(arrays(np.bool_, (9, 13)), min_size=1, max_size=4))
def test_masks_are_exact_to_the_pixel(tmp_path_factory: pytest.TempPathFactory, masks: list[np.ndarray]) -> None:
    folder = tmp_path_factory.mktemp("exact")
    draw(folder / "a.png", 0, (13, 9))
    project = Project(folder)
    objects = [mask_object(str(n), mask) for n, mask in enumerate(masks) if mask.any()]
    project.apply("a", [*put(*objects), {"id": "d", "op": "done", "value": True}], 0, "me")
    project.close()
    labels = Dataset.load(folder)[0].labels
    if not objects:
        assert labels == Labels()
        return
    expected = np.zeros((9, 13), int)
    for number, mask in enumerate((mask for mask in masks if mask.any()), 1):
        expected[mask] = number
    np.testing.assert_array_equal(read_mask(folder / "masks" / "a.png"), expected)


def test_a_dataset_with_masks_opens_as_objects_and_is_not_touched_by_looking(opened: Open, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    values = {"sem": np.zeros((64, 96), np.uint8), "ins": np.zeros((64, 96), np.uint16)}
    values["sem"][:5, :5] = values["sem"][20:30, 20:30] = 1
    values["sem"][40:, 40:], values["sem"][0, 90] = 2, 255
    for name in ("a", "b"):
        draw(folder / "images" / f"{name}.png", 0)
        write_mask(folder / "gt" / f"{name}.png", values["sem"])
    samples = tuple(Sample(n, f"images/{n}.png", "train", Labels(mask=Mask(f"gt/{n}.png"))) for n in ("a", "b"))
    Dataset(folder, ("background", "cat", "dog"), samples).save()
    before = {path: path.read_bytes() for path in folder.rglob("*.*") if ".maskwright" not in path.parts}
    client = opened(folder)
    found = client.get("/api/images/a/annotations").json()
    assert sorted(each["category"] for each in found["objects"]) == [1, 1, 2, 255]
    assert found["done"]
    client.project.flush()
    assert all(path.read_bytes() == content for path, content in before.items())
    # One object more: the other pixels, the unknown ones too, are what they were.
    square = np.zeros((64, 96), bool)
    square[22:50, 22:50] = True
    send(client, "a", put(mask_object("new", square, 2)), 0)
    client.project.flush()
    expected = np.where(square, 2, values["sem"])
    dataset = Dataset.load(folder)
    np.testing.assert_array_equal(read_mask(dataset.mask_path(dataset[0])), expected)  # type: ignore[arg-type]
    assert dataset[1].labels == samples[1].labels
    np.testing.assert_array_equal(read_mask(folder / "gt" / "a.png"), values["sem"])
    assert check(Dataset.load(folder)) == []


def test_a_mask_that_is_changed_is_kept_as_it_was(opened: Open, folder: Path) -> None:
    client = opened(folder)
    one, other = np.zeros((64, 96), bool), np.zeros((64, 96), bool)
    one[:9, :9], other[30:, 30:] = True, True
    send(client, "0", [*put(mask_object("x", one)), {"id": "d", "op": "done", "value": True}], 0)
    client.project.flush()
    drawn = (folder / "masks" / "0.png").read_bytes()
    send(client, "0", put(mask_object("y", other)), 1)
    client.project.flush()
    assert (folder / ".maskwright" / "originals" / "masks" / "0.png").read_bytes() == drawn
    assert (folder / "masks" / "0.png").read_bytes() != drawn


# ------------------------------------------------------------------------------------------------------- two clients


def test_operations_are_done_once_however_often_they_are_sent(opened: Open, folder: Path) -> None:
    client = opened(folder)
    operations = put(mask_object("a", np.ones((3, 3), bool)))
    assert send(client, "0", operations, 0).json()["applied"] == [operations[0]["id"]]
    again = send(client, "0", operations, 0).json()
    assert (again["rev"], again["applied"]) == (1, [])
    assert len(again["annotations"]["objects"]) == 1


def test_changes_of_different_objects_are_merged_and_of_the_same_refused(opened: Open, folder: Path) -> None:
    client = opened(folder)
    mask = np.ones((3, 3), bool)
    send(client, "0", put(mask_object("a", mask)), 0, "me")
    merged = send(client, "0", put(mask_object("b", mask)), 0, "you")
    assert [each["id"] for each in merged.json()["annotations"]["objects"]] == ["a", "b"]
    mine = mask_object("a", mask, offset=(5, 5))
    clash = send(client, "0", [{"id": "late", "op": "put", "object": mine}], 0, "you")
    assert clash.status_code == 409
    assert clash.json()["conflicts"] == ["a"]
    assert [each["id"] for each in clash.json()["theirs"]["objects"]] == ["a", "b"]
    assert send(client, "0", [{"id": "late", "op": "put", "object": mine}], 2, "you").status_code == 200
    # My own changes never clash with each other, whatever I have seen of them.
    assert send(client, "0", [{"id": "own", "op": "delete", "object_id": "b"}], 0, "you").status_code == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"client_id": "me", "operations": []}, 428),
        ({"base_rev": "0", "client_id": "me", "operations": []}, 422),
        ({"base_rev": 0, "client_id": "", "operations": []}, 422),
        ({"base_rev": 0, "client_id": "me", "operations": {}}, 422),
        ({"base_rev": 0, "client_id": "me", "operations": [7]}, 422),
        ({"base_rev": 0, "client_id": "me", "operations": [{"id": "1", "op": "paint"}]}, 422),
        ({"base_rev": 0, "client_id": "me", "operations": [{"id": "1", "op": "tags", "tags": [9]}]}, 422),
        ({"base_rev": 0, "client_id": "me", "operations": [{"id": "1", "op": "done", "value": 1}]}, 422),
        ({"base_rev": 0, "client_id": "me", "operations": [{"id": "1", "op": "order", "ids": [1]}]}, 422),
        ([], 400),
    ],
)
def test_what_makes_no_sense_changes_nothing(opened: Open, folder: Path, body: Any, status: int) -> None:
    client = opened(folder)
    answer = client.post("/api/images/0/operations", json=body)
    assert answer.status_code == status
    assert answer.json()["error"]
    assert client.get("/api/images/0/annotations").json()["rev"] == 0


def test_an_image_with_objects_does_not_show_nothing(opened: Open, folder: Path) -> None:
    client = opened(folder)
    send(client, "0", put(mask_object("a", np.ones((3, 3), bool))), 0)
    answer = send(client, "0", [{"id": "n", "op": "nothing", "value": True}], 1)
    assert (answer.status_code, "delete them first" in answer.json()["error"]) == (422, True)
    background = {"id": "p", "kind": "point", "category": 0, "source": "hand", "xy": [1, 1]}
    assert send(client, "1", [*put(background), {"id": "n", "op": "nothing", "value": True}], 0).status_code == 200


# ------------------------------------------------------------------------------------------------------- disk


def test_what_was_saved_is_there_after_a_kill(folder: Path, tmp_path: Path) -> None:
    project = Project(folder)
    project._closing.set()  # nothing reaches the dataset any more, as after a kill
    project._flusher.join()
    mask = np.zeros((64, 96), bool)
    mask[3:9, 4:8] = True
    project.apply("0", [*put(mask_object("a", mask)), {"id": "d", "op": "done", "value": True}], 0, "me")
    copy = tmp_path / "after"
    shutil.copytree(folder, copy)
    assert Dataset.load(copy)[0].labels == Labels()
    again = Project(copy)
    assert again.annotations("0").rev == 1
    np.testing.assert_array_equal(read_mask(copy / "masks" / "0.png"), mask.astype(int))
    again.close()
    project._folder.release()


def test_a_damaged_record_is_named_with_what_to_do(folder: Path) -> None:
    project = Project(folder)
    for base in range(2):
        project.apply("0", [{"id": f"{base}", "op": "done", "value": bool(base)}], base, "me")
    path = project._record_path("0")
    project.close()
    path.write_text("{")
    with pytest.raises(DataError, match=rf"rename {path.stem}.before.json to {path.name}"):
        Project(folder)
    path.with_suffix(".before.json").replace(path)
    again = Project(folder)
    assert again.annotations("0").rev == 1
    again.close()


def test_one_labelling_at_a_time(folder: Path) -> None:
    project = Project(folder)
    with pytest.raises(RunError, match="close the other labelling page"):
        Project(folder)
    project.close()
    Project(folder).close()


def test_what_can_be_opened(tmp_path: Path, folder: Path) -> None:
    project = Project(folder)
    assert project.said == [f"3 images, no labels yet: wrote {folder / 'manifest.json'} with one category, object"]
    project.close()
    again = Project(folder)
    assert again.said == []
    again.close()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError):
        Project(tmp_path / "empty")
    # Folders of images and masks get a manifest beside them.
    draw(tmp_path / "pairs" / "images" / "a.png", 0)
    write_mask(tmp_path / "pairs" / "masks" / "a.png", np.eye(64, 96, dtype=np.uint8))
    pairs = Project(tmp_path / "pairs")
    assert "labels are kept in" in pairs.said[0]
    assert pairs.state("a") == "mask"
    pairs.close()


def test_a_mask_that_could_not_be_read_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maskwright.serve.project.MAX_PIXELS", 100)
    project = Project(folder)
    try:
        image = project.ids[0]
        box = {"id": "b", "kind": "box", "category": 1, "source": "hand", "xyxy": [1, 1, 5, 5]}
        before, _ = project.apply(image, put(box), project.annotations(image).rev, "me")
        with pytest.raises(
            WireError, match="more than 100 pixels, too many for a mask; draw boxes, scribbles and points"
        ):
            project.apply(image, put(mask_object("m", np.ones((2, 2), bool))), before.rev, "me")
        assert project.annotations(image) == before
    finally:
        project.close()
