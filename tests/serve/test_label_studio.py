"""Label Studio's protocol: its requests as it sends them, its regions to the pixel, and images from named folders alone."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from maskwright.api import load
from maskwright.data.formats import brush
from maskwright.serve.label_studio import MAX_TASKS
from maskwright.serve.label_studio_tasks import read_drawn, read_interface, region_of
from maskwright.serve.wire import Runs, WireError
from tests.serve.conftest import PORT, TOKEN, Open, draw
from tests.tiny_model import CATEGORIES, save_run

CONFIG = """<View>
  <Image name="photo" value="$picture" zoom="true"/>
  <Header value="$title"/>
  <BrushLabels name="brush" toName="photo">
    <Label value="red" background="#f00"/><Label value="blue"/><Label value="a disc" alias="disc"/>
  </BrushLabels>
  <KeyPointLabels name="point" toName="photo" smart="true"><Label value="red"/><Label value="a disc"/></KeyPointLabels>
  <RectangleLabels name="box" toName="photo" smart="true"><Label value="red"/></RectangleLabels>
</View>"""
INTERFACE = read_interface(CONFIG)


def region(kind: str, value: dict[str, Any], label: str | None = "red", **more: Any) -> dict[str, Any]:
    """A region as the smart tools of Label Studio 1.23 send it."""
    named = {} if label is None else {"labels": [label], kind: [label]}
    size = {"original_width": 96, "original_height": 64, "image_rotation": 0}
    return (
        {"id": "x", "from_name": "point", "to_name": "photo", "type": kind, "value": value | named, "origin": "manual"}
        | size
        | more
    )


def point(x: float, y: float, positive: bool = True, **more: Any) -> dict[str, Any]:
    return region("keypointlabels", {"x": x, "y": y, "width": 0.5}, is_positive=positive, **more)


def rectangle(x: float, y: float, width: float, height: float, turn: float = 0, **more: Any) -> dict[str, Any]:
    value = {"x": x, "y": y, "width": width, "height": height, "rotation": turn}
    return region("rectanglelabels", value, **more)


def question(link: str, *regions: dict[str, Any], config: str = CONFIG) -> dict[str, Any]:
    """What Label Studio sends while a person draws."""
    return {
        "tasks": [{"id": 7, "data": {"picture": link, "title": "one"}, "annotations": [], "predictions": []}],
        "model_version": "maskwright-1",
        "project": "3.1732872000",
        "label_config": config,
        "params": {"login": None, "password": None, "context": {"result": list(regions), "draft_id": 0, "user_id": 1}},
    }


def preannotation(*links: str, config: str = CONFIG) -> dict[str, Any]:
    tasks = [{"id": number, "data": {"picture": link}} for number, link in enumerate(links)]
    params = {"login": None, "password": None, "context": None}
    return {"tasks": tasks, "project": "3.1732872000", "label_config": config, "params": params}


def answered(client: TestClient, body: dict[str, Any]) -> list[dict[str, Any]]:
    answer = client.post("/predict", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["results"]


def error(client: TestClient, body: dict[str, Any], path: str = "/predict") -> str:
    answer = client.post(path, json=body)
    assert answer.status_code == 422, answer.text
    return answer.json()["error"]


@pytest.fixture
def client(serving: Open, folder: Path, tiny_sam_folder: Path) -> TestClient:
    return serving(str(tiny_sam_folder), images=[folder], load=True)


LINK = "/data/local-files/?d=photos/0.png"


# ------------------------------------------------------------------------------------------------------- interactive


def test_clicks_are_answered_with_sams_mask_to_the_pixel(client: TestClient, folder: Path) -> None:
    sent = client.post("/api/images", content=(folder / "0.png").read_bytes(), headers={"content-type": "image/png"})
    direct = client.post(
        f"/api/images/{sent.json()['id']}/predict", json={"points": [[48, 32, 1], [4.8, 6.4, 0]]}
    ).json()["candidates"][0]
    (prediction,) = answered(client, question(LINK, point(50, 50), point(5, 10, False)))
    assert prediction["model_version"].startswith("maskwright-")
    assert prediction["score"] == direct["score"]
    (row,) = prediction["result"]
    value = row.pop("value")
    assert row | {"id": ""} == {
        "id": "",
        "from_name": "brush",
        "to_name": "photo",
        "type": "brushlabels",
        "original_width": 96,
        "original_height": 64,
        "image_rotation": 0,
        "score": direct["score"],
        "readonly": False,
    }
    assert (value["format"], value["brushlabels"]) == ("rle", ["red"])
    expected = Runs.of_json(direct["mask"], (96, 64)).whole((96, 64)) > 0
    np.testing.assert_array_equal(brush.decode(value["rle"], (64, 96)), expected)


def test_the_second_click_does_not_encode_again(client: TestClient) -> None:
    for x in (40, 50, 60):
        answered(client, question(LINK, point(x, 50)))
    answered(client, question(LINK, rectangle(20, 20, 50, 50)))
    assert client.models.assistant.encoded == 1  # type: ignore[attr-defined]
    answered(client, question("/data/upload/1/0a1b2c3d-1.png", point(50, 50)))
    assert client.models.assistant.encoded == 2  # type: ignore[attr-defined]


def test_boxes_and_brushes_are_prompts_too(client: TestClient) -> None:
    (boxed,) = answered(client, question(LINK, rectangle(10, 10, 80, 80), point(50, 50)))
    assert boxed["result"]
    drawn = np.zeros((64, 96), bool)
    drawn[20:40, 30:60] = True
    stroke = region("brushlabels", {"format": "rle", "rle": brush.encode(drawn)})
    (brushed,) = answered(client, question(LINK, stroke))
    assert isinstance(brushed["result"], list)


def test_prompts_in_pixels() -> None:
    size = (96, 64)
    drawn = read_drawn([point(50, 50), point(100, 0, False), rectangle(10, 10, 50, 50)], INTERFACE, size)
    assert drawn.points == [[48, 32, 1], [96, 0, 0]]
    assert drawn.box == pytest.approx([9.6, 6.4, 57.6, 38.4])
    assert drawn.label == "red"
    # Of several rectangles the newest counts; one that reaches over the border is cut off there.
    drawn = read_drawn([rectangle(1, 1, 5, 5), rectangle(50, 50, 70, 70)], INTERFACE, size)
    assert drawn.box == pytest.approx([48, 32, 96, 64])
    # Turned clockwise by a right angle about its corner, so that it reaches to the left.
    drawn = read_drawn([rectangle(50, 25, 25, 12.5, 90)], INTERFACE, size)
    assert drawn.box == pytest.approx([40, 16, 48, 40])
    # Several strokes are one mask, as painted.
    strokes = [np.zeros((64, 96), bool), np.zeros((64, 96), bool)]
    strokes[0][3:9, 5:7] = strokes[1][40:50, 60:90] = True
    rows = [region("brushlabels", {"format": "rle", "rle": brush.encode(each)}) for each in strokes]
    mask = read_drawn(rows, INTERFACE, size).mask
    assert mask is not None
    np.testing.assert_array_equal(mask.whole(size) > 0, strokes[0] | strokes[1])
    # Labels that stand apart, an alias, a region on another image.
    apart = point(50, 50, label=None) | {"value": {"x": 50, "y": 50, "labels": ["a disc"]}}
    assert read_drawn([apart, point(1, 1, to_name="other")], INTERFACE, size).label == "disc"


@pytest.mark.parametrize(
    ("regions", "told"),
    [
        ([point(50, 50, original_width=100)], "100 x 64 in Label Studio"),
        ([point(50, 50, image_rotation=90)], "turn it back"),
        ([region("polygonlabels", {"points": [[1, 2], [3, 4], [5, 6]]})], "no prompt"),
        ([region("keypointlabels", {"x": "50", "y": 1})], "value.x must be a number"),
        ([region("keypointlabels", {"x": True, "y": 1})], "value.x must be a number"),
        ([point(130, 50)], "outside"),
        ([point(50, -30)], "outside"),
        ([rectangle(10, 10, 0, 10)], "no area"),
        ([rectangle(110, 10, 5, 10)], "no area"),
        ([rectangle(10, 10, 5, 10, "x")], "rotation"),  # type: ignore[arg-type]
        ([point(50, 50, label=None)], "choose a label"),
        ([point(50, 50, label="green")], '<Label value="green"/>'),
        ([region("brushlabels", {"format": "rle", "rle": [1, 2]})], "cut short"),
        ([region("brushlabels", {"format": "rle", "rle": brush.encode(np.ones((3, 3)))})], "96 x 64 pixels"),
        ([region("brushlabels", {"format": "png"})], "format: rle"),
        ([7], "list of regions"),
        ("all", "list of regions"),
    ],
)
def test_prompts_that_make_no_sense(client: TestClient, regions: Any, told: str) -> None:
    body = question(LINK)
    body["params"]["context"]["result"] = regions
    said = error(client, body)
    assert told.replace(" x 64 in", " x 64 pixels in") in said


def test_nothing_drawn_is_no_region(client: TestClient) -> None:
    (prediction,) = answered(client, question(LINK))
    assert (prediction["result"], prediction["score"]) == ([], 0.0)


# ------------------------------------------------------------------------------------------------------- whole tasks


def test_a_run_answers_whole_tasks(serving: Open, folder: Path, tiny_sam_folder: Path, tmp_path: Path) -> None:
    run = save_run(tmp_path / "run")
    client = serving(str(tiny_sam_folder), run, images=[folder], load=True)
    predictions = answered(client, preannotation(LINK, "wide/2.jpg"))
    assert len(predictions) == 2
    model = load(run, device="cpu")
    assert {each["model_version"] for each in predictions} == {f"maskwright-{model.signature}"}
    for prediction, name in zip(predictions, ("0.png", "wide/2.jpg"), strict=True):
        wanted = next(iter(model.predict([folder / name]))).mask
        for row in prediction["result"]:
            category = CATEGORIES.index(row["value"]["brushlabels"][0])
            found = brush.decode(row["value"]["rle"], wanted.shape)
            assert (wanted[found] == category).all()
    # Labels that come from the tasks: the model's own names.
    dynamic = '<View><Image name="i" value="$picture"/><BrushLabels name="b" toName="i" value="$labels"/></View>'
    assert len(answered(client, preannotation(LINK, config=dynamic))) == 1
    lacking = CONFIG.replace('<Label value="blue"/>', "")
    assert "'blue'" in error(client, preannotation(LINK, config=lacking))


def test_a_task_whose_image_is_not_there_leaves_the_others(
    serving: Open, folder: Path, tiny_sam_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    client = serving(str(tiny_sam_folder), save_run(tmp_path / "run"), images=[folder], load=True)
    (folder / "broken.png").write_bytes(b"no image")
    predictions = answered(client, preannotation("gone.png", LINK, "broken.png"))
    assert ["result" in each for each in predictions] == [False, True, False]
    assert "--images" in predictions[0]["error"]
    # Label Studio shows the status alone: whoever started the server is told why.
    assert "Label Studio: image 'gone.png' is not in" in caplog.text
    error(client, question("gone.png", point(50, 50)))
    assert caplog.text.count("gone.png' is not in") == 2


def test_without_a_run_whole_tasks_are_refused(client: TestClient) -> None:
    assert "start the server with one" in error(client, preannotation(LINK))


def test_the_labelling_page_answers_label_studio_too(opened: Open, folder: Path, tiny_sam_folder: Path) -> None:
    page = opened(folder, str(tiny_sam_folder), load=True)
    (prediction,) = answered(page, question("/data/upload/3/0a1b2c3d-0.png", point(50, 50)))
    assert prediction["model_version"] == page.get("/versions").json()["versions"][0]


# ------------------------------------------------------------------------------------------------------- set-up


def test_a_project_connects(client: TestClient) -> None:
    assert client.get("/health").json() == {"status": "UP", "model_class": "maskwright"}
    body = {
        "project": "3.1",
        "schema": CONFIG,
        "hostname": "http://localhost:8080",
        "access_token": "x",
        "extra_params": None,
    }
    version = client.post("/setup", json=body).json()
    assert version == {"model_version": client.get("/versions").json()["versions"][0]}
    assert "BrushLabels" in error(client, body | {"schema": CONFIG.replace("BrushLabels", "PolygonLabels")}, "/setup")
    hook = {"action": "START_TRAINING", "project": {"id": 3}}
    assert client.post("/webhook", json=hook).status_code == 201


def test_the_version_is_that_of_the_weights(serving: Open, tiny_sam_folder: Path, tmp_path: Path) -> None:
    alone = serving(str(tiny_sam_folder), load=True).get("/versions").json()
    runs = [save_run(tmp_path / name, **more) for name, more in (("a", {}), ("b", {"data": "0"}))]
    of_runs = [serving(str(tiny_sam_folder), run, load=True).get("/versions").json() for run in runs]
    assert len({each["versions"][0] for each in (alone, *of_runs)}) == 3


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (None, "label_config is missing"),
        ("", "not valid XML"),
        ("<View", "not valid XML"),
        ("<View>\ud800</View>", "surrogates"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><View/>', "document type"),
        ("<View>" * 60 + "</View>" * 60, "nested deeper"),
        ("<View/>", "no BrushLabels"),
        ('<View><Image name="i" value="$x"/><BrushLabels name="b" toName="other"/></View>', "no BrushLabels"),
        ('<View><Image name="i" value="x.png"/><BrushLabels name="b" toName="i"/></View>', "no BrushLabels"),
    ],
)
def test_interfaces_that_make_no_sense(config: Any, told: str) -> None:
    with pytest.raises(WireError, match=told):
        read_interface(config)


def test_it_says_who_it_is_with_the_token_as_a_password(client: TestClient) -> None:
    stranger = TestClient(client.app, base_url=f"http://127.0.0.1:{PORT}")
    body = question(LINK, point(50, 50))
    assert stranger.get("/health").status_code == 200
    for auth in (None, ("any", "wrong"), ("", ""), (TOKEN, "")):
        assert stranger.post("/predict", json=body, auth=auth).status_code == 401, auth
        assert stranger.get("/versions", auth=auth).status_code == 401, auth
    assert stranger.post("/predict", json=body, auth=("any", TOKEN)).status_code == 200
    assert stranger.post("/predict", json=body, headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
    # A page of another site does not get in by a password that the browser keeps.
    headers = {"origin": "http://evil.example"}
    assert stranger.post("/predict", json=body, auth=("any", TOKEN), headers=headers).status_code == 403


# ------------------------------------------------------------------------------------------------------- images


@pytest.mark.parametrize(
    "link",
    [
        "/data/local-files/?d=photos/0.png",
        "/data/local-files/?d=0.png",
        "/data/local-files/?d=C%3A%5Cphotos%5C0.png",
        "/data/upload/12/0a1b2c3d-0.png",
        "http://localhost:8080/data/upload/12/0a1b2c3d-0.png?token=abc",
        "s3://bucket/deep/0.png",
        "0.png",
    ],
)
def test_links_mean_files_of_the_named_folders(client: TestClient, folder: Path, link: str) -> None:
    studio = client.app.routes  # type: ignore[attr-defined]
    found = next(r for r in studio if r.path == "/predict").endpoint.__self__.find(link)
    assert found == (folder / "0.png").resolve()


def test_the_longest_end_of_a_link_counts(serving: Open, tmp_path: Path) -> None:
    for number, name in enumerate(("a/0.png", "b/0.png", "c d/0.png", "0.png")):
        draw(tmp_path / "root" / name, number)
    client = serving(images=[tmp_path / "root"])
    find = next(r for r in client.app.routes if r.path == "/predict").endpoint.__self__.find  # type: ignore[attr-defined]
    for link, name in (
        ("x/b/0.png", "b/0.png"),
        ("a/0.png", "a/0.png"),
        ("c/0.png", "0.png"),
        ("c%20d/0.png", "c d/0.png"),
    ):
        assert find(f"/data/local-files/?d={link}") == (tmp_path / "root" / name).resolve()


def test_nothing_outside_of_the_folders_is_read(client: TestClient, folder: Path, tmp_path: Path) -> None:
    draw(tmp_path / "secret.png", 9)
    (folder / "notes.txt").write_text("secret")
    (folder / "fake.png").mkdir()
    if os.name == "posix":
        (folder / "link.png").symlink_to(tmp_path / "secret.png")
    tricks = ["../secret.png", "..%2fsecret.png", "photos/../../secret.png", str(tmp_path / "secret.png"), "link.png"]
    tricks += ["notes.txt", "manifest.json", "fake.png", "a\0.png", "%00.png", "", "/", "..", "file:///etc/passwd"]
    tricks += [f"/data/local-files/?d={each}" for each in tricks] + [
        "http://[",
        "x" * 3000,
        "/".join("a" * 900) + ".png",
    ]
    for link in tricks:
        said = error(client, question(link, point(50, 50)))
        assert "--images" in said or "no image in data" in said or "characters" in said, (link, said)
    assert "secret" not in error(client, question("file:///etc/passwd", point(50, 50)))


def test_images_may_be_part_of_the_task(client: TestClient, folder: Path) -> None:
    content = (folder / "1.png").read_bytes()
    link = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    inside, outside = (answered(client, question(each, point(50, 50)))[0] for each in (link, "1.png"))
    assert inside["score"] == outside["score"]
    for wrong in (
        "data:image/png,abc",
        "data:image/png;base64,***",
        "data:image/png;base64,",
        "data:text/html;base64,PGI+",
    ):
        assert error(client, question(wrong, point(50, 50)))


def test_questions_that_make_no_sense(client: TestClient) -> None:
    right = question(LINK, point(50, 50))
    many = preannotation(*[LINK] * (MAX_TASKS + 1))
    two = right | {"tasks": right["tasks"] * 2}
    for wrong in ({"tasks": {}}, {"tasks": [7]}, {"tasks": [{"data": []}]}, {"params": [1]}, {"label_config": 7}):
        assert error(client, right | wrong)
    for wrong in (many, two, right | {"params": {"context": [1]}}, right | {"tasks": [{"data": {}}]}):
        assert error(client, wrong)


def test_a_region_is_read_by_our_own_reader_as_it_was_written() -> None:
    mask = np.random.default_rng(0).random((31, 47)) < 0.4
    row = region_of(mask, "red", 0.5, INTERFACE)
    np.testing.assert_array_equal(brush.decode(row["value"]["rle"], (31, 47)), mask)
