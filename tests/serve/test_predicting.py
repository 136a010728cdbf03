"""The server without a dataset, and what both servers ask of the networks: the numbers are SAM's own, and an image is encoded once."""

from __future__ import annotations

import io
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from maskwright.api import load
from maskwright.data.geometry import resize_matrix, squash, unwarp_logits
from maskwright.data.images import read_image
from maskwright.sam.prompts import Prompts
from maskwright.sam.sam import Sam
from maskwright.serve import sent_images
from maskwright.serve.wire import Runs
from tests.serve.conftest import Open, draw
from tests.tiny_model import CATEGORIES, save_agent, save_run


def send(client: TestClient, path: Path) -> dict[str, Any]:
    answer = client.post("/api/images", content=path.read_bytes(), headers={"content-type": "image/png"})
    assert answer.status_code == 200, answer.text
    return answer.json()


def ask(client: TestClient, image: str, **question: Any) -> dict[str, Any]:
    answer = client.post(f"/api/images/{image}/predict", json=question)
    assert answer.status_code == 200, answer.text
    return answer.json()


def pixels_of(mask: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
    return Runs.of_json(mask, size).whole(size) > 0


# ------------------------------------------------------------------------------------------------------- SAM


@torch.no_grad()
def test_masks_are_those_of_sam_called_directly(serving: Open, tmp_path: Path, tiny_sam_folder: Path) -> None:
    client = serving(str(tiny_sam_folder), load=True)
    draw(tmp_path / "a.png", 3, (200, 120))
    image, size = send(client, tmp_path / "a.png")["id"], (200, 120)
    sam = Sam.load(str(tiny_sam_folder))
    pixels = squash(read_image(tmp_path / "a.png"), sam.size)
    embedding = sam.encode(torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255)
    scale = torch.tensor([sam.size / 200, sam.size / 120])

    def on_image(logits: torch.Tensor) -> np.ndarray:
        matrix = torch.from_numpy(resize_matrix(size, sam.size))[None].float()
        return (unwarp_logits(logits[None, None], matrix, [size], canvas=sam.size)[0][0] > 0).numpy()

    points = torch.tensor([[[[90.0, 50.0], [10.0, 110.0]]]])
    prompts = Prompts.of_points(points * scale, torch.tensor([[[1, 0]]]))
    expected = sam.decode(embedding, prompts, None, False)
    found = ask(client, image, points=[[90, 50, 1], [10, 110, 0]])["candidates"]
    assert len(found) == 1
    np.testing.assert_array_equal(pixels_of(found[0]["mask"], size), on_image(expected.logits[0, 0, 0]))
    assert found[0]["score"] == pytest.approx(float(expected.iou[0, 0, 0]), abs=1e-4)

    several = sam.decode(embedding, Prompts.of_points(points[..., :1, :] * scale, torch.tensor([[[1]]])), None, True)
    found = ask(client, image, points=[[90, 50, 1]], all=True)["candidates"]
    order = several.iou[0, 0].argsort(descending=True).tolist()
    wanted = [on_image(several.logits[0, 0, place]) for place in order]
    wanted = [mask for mask in wanted if mask.any()]
    assert len(found) == len(wanted)
    for each, mask in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(pixels_of(each["mask"], size), mask)
    assert ask(client, image, points=[[90, 50, 1]])["candidates"] == found[:1]

    box = torch.tensor([[[20.0, 10.0, 180.0, 110.0]]])
    boxed = sam.decode(embedding, Prompts.of_boxes(box * scale.repeat(2)), None, False)
    found = ask(client, image, box=[20, 10, 180, 110])["candidates"]
    np.testing.assert_array_equal(pixels_of(found[0]["mask"], size), on_image(boxed.logits[0, 0, 0]))


def test_an_image_is_encoded_once(serving: Open, opened: Open, folder: Path, tiny_sam_folder: Path) -> None:
    client = serving(str(tiny_sam_folder), load=True)
    image = send(client, folder / "0.png")
    assistant = client.models.assistant  # type: ignore[attr-defined]
    assert assistant.encoded == 0
    for x in (10, 20, 30):
        ask(client, image["id"], points=[[x, 30, 1]])
    assert assistant.encoded == 1
    # The same file again is the same image.
    assert send(client, folder / "0.png") == image
    ask(client, image["id"], box=[10, 10, 80, 50])
    assert assistant.encoded == 1
    page = opened(folder, str(tiny_sam_folder), load=True)
    while page.post("/api/images/1/embedding", json={}).json()["state"] != "ready":
        pass
    for x in (10, 20, 30):
        ask(page, "1", points=[[x, 30, 1]], seq=x)
    assert page.models.assistant.encoded == 1  # type: ignore[attr-defined]


def test_with_a_number_a_newer_question_makes_an_older_one_needless(
    serving: Open, folder: Path, tiny_sam_folder: Path
) -> None:
    client = serving(str(tiny_sam_folder), load=True)
    image = send(client, folder / "0.png")["id"]
    assistant, gate = client.models.assistant, threading.Event()  # type: ignore[attr-defined]
    assistant._worker.submit(gate.wait)
    path, size = client.sent.path(image), (96, 64)  # type: ignore[attr-defined]
    old, new = (assistant.predict(path, size, [[x, 9, 1]], None, None) for x in (5, 9))
    kept = [assistant.predict(path, size, [[x, 9, 1]], None, None, may_lapse=False) for x in (5, 9)]
    gate.set()
    assert old.result(60) is None
    assert new.result(60) is not None
    assert all(each.result(60) is not None for each in kept)


def test_the_questions_that_wait_are_bounded_and_leave_nothing_behind(
    serving: Open, folder: Path, tiny_sam_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = serving(str(tiny_sam_folder), load=True)
    image = send(client, folder / "0.png")["id"]
    assistant, gate = client.models.assistant, threading.Event()  # type: ignore[attr-defined]
    monkeypatch.setattr("maskwright.serve.assistant.MAX_WAITING", 3)
    assistant._worker.submit(gate.wait)
    path = client.sent.path(image)  # type: ignore[attr-defined]
    waiting = [assistant.predict(path, (96, 64), [[5, 5, 1]], None, None, may_lapse=bool(n)) for n in range(3)]
    answer = client.post(f"/api/images/{image}/predict", json={"points": [[5, 5, 1]]})
    assert (answer.status_code, "too many" in answer.json()["error"]) == (503, True)
    gate.set()
    assert [each.result(60) is None for each in waiting] == [False, True, False]
    assert ask(client, image, points=[[5, 5, 1]])["candidates"]
    while client.post(f"/api/images/{image}/embedding", json={}).json()["state"] != "ready":
        pass
    assert (assistant._waiting, assistant._newest, assistant._encoding) == (0, {}, {})


# ------------------------------------------------------------------------------------------------------- models


def test_a_run_proposes_in_its_own_categories(serving: Open, folder: Path, tiny_sam_folder: Path, tmp_path: Path):
    run = save_run(tmp_path / "run")
    client = serving(str(tiny_sam_folder), run, load=True)
    assert client.get("/api/server").json()["run"] == {"recipe": "samix", "categories": list(CATEGORIES)}
    image = send(client, folder / "0.png")
    answer = client.post(f"/api/images/{image['id']}/propose", json={}).json()
    assert answer["categories"] == list(CATEGORIES)
    prediction = next(iter(load(run, device="cpu").predict([folder / "0.png"])))
    painted = np.zeros((64, 96), np.uint8)
    for each in answer["objects"]:
        painted[pixels_of(each["mask"], (96, 64))] = each["category"]
    # All of the prediction but specks.
    assert ((painted == prediction.mask) | (painted == 0)).all()
    assert answer["objects"] or not prediction.mask.any()


def test_without_a_run_or_an_agent_the_answer_says_how_to_get_one(
    serving: Open, folder: Path, tiny_sam_folder: Path
) -> None:
    client = serving(str(tiny_sam_folder), load=True)
    path = f"/api/images/{send(client, folder / '0.png')['id']}"
    for what, option in (("propose", "maskwright serve RUN"), ("correct", "--agent RUN")):
        answer = client.post(f"{path}/{what}", json={"mask": {"box": [0, 0, 9, 9], "counts": [0, 81]}})
        assert answer.status_code == 404
        assert option in answer.json()["error"]
    assert client.get("/api/server").json()["agent"] is False


def test_an_agent_corrects_the_mask_in_hand(opened: Open, folder: Path, tiny_sam_folder: Path, tmp_path: Path) -> None:
    agent = save_agent(tmp_path / "agent", tiny_sam_folder)
    client = opened(folder, str(tiny_sam_folder), agent=agent, load=True)
    assert client.get("/api/project").json()["agent"] == {"id": "given", "recipe": "clicks", "score": None}
    square = np.zeros((64, 96), bool)
    square[20:50, 30:70] = True
    mask = Runs.of_mask(square)
    assert mask is not None
    answer = client.post("/api/images/0/correct", json={"mask": mask.as_json()}).json()
    expected = load(agent, device="cpu").correct(read_image(folder / "0.png"), square)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(pixels_of(answer["mask"], (96, 64)), expected.mask > 0)
    clicks = [[round(x, 1), round(y, 1), int(label == "fg")] for x, y, label in expected.clicks["thing"]]
    assert answer["clicks"] == clicks
    assert 1 <= len(clicks) <= 2
    assert all(0 <= x <= 96 and 0 <= y <= 64 for x, y, _ in clicks)
    # The agent stands on the server's own SAM: the image is not encoded for it again.
    ask(client, "0", points=[[5, 5, 1]])
    assert client.models.assistant.encoded == 1  # type: ignore[attr-defined]


def test_an_agent_answers_clicks_and_a_box(opened: Open, folder: Path, tiny_sam_folder: Path, tmp_path: Path) -> None:
    agent = save_agent(tmp_path / "agent", tiny_sam_folder)
    client = opened(folder, str(tiny_sam_folder), agent=agent, load=True)
    predictor = load(agent, device="cpu")
    image = folder / "0.png"
    for question, prompts in (
        ({"points": [[40, 30, 1], [80, 50, 0]]}, {"click": [(40, 30), (80, 50)], "label": ["fg", "bg"]}),
        ({"points": [], "box": [20, 10, 70, 50]}, {"box": (20, 10, 70, 50)}),
    ):
        answer = client.post("/api/images/0/correct", json=question).json()
        (expected,) = predictor.predict([image], **prompts)
        np.testing.assert_array_equal(pixels_of(answer["mask"], (96, 64)), expected.mask > 0)
        clicks = [[round(x, 1), round(y, 1), int(label == "fg")] for x, y, label in expected.clicks["thing"]]  # type: ignore[attr-defined]
        assert answer["clicks"] == clicks
    mask = {"box": [20, 20, 9, 9], "counts": [0, 81]}
    for wrong in ({"mask": mask, "points": [[5, 5, 1]]}, {"points": []}, {"points": [[500, 5, 1]]}):
        assert client.post("/api/images/0/correct", json=wrong).status_code == 422
    assert client.models.assistant.encoded == 1  # type: ignore[attr-defined]


def test_a_mask_that_no_click_improves_stays_to_the_pixel(
    serving: Open, folder: Path, tiny_sam_folder: Path, tmp_path: Path
) -> None:
    agent = save_agent(tmp_path / "agent", tiny_sam_folder, accept="iou", mask_margin=1000.0, margin=1000.0)
    client = serving(str(tiny_sam_folder), agent=agent, load=True)
    path = f"/api/images/{send(client, folder / '0.png')['id']}/correct"
    mask = Runs.of_mask(np.random.default_rng(0).random((64, 96)) < 0.3)
    assert mask is not None
    answer = client.post(path, json={"mask": mask.as_json()}).json()
    assert answer == {"mask": mask.as_json(), "clicks": [], "quality": None}
    speck = {"box": [3, 3, 1, 1], "counts": [0, 1]}
    answer = client.post(path, json={"mask": speck})
    assert (answer.status_code, "too small" in answer.json()["error"]) == (422, True)
    for wrong in ({}, {"mask": None}, {"mask": {"box": [0, 0, 999, 9], "counts": [0, 1]}}):
        assert client.post(path, json=wrong).status_code == 422


# ------------------------------------------------------------------------------------------------------- images


def test_images_are_kept_by_what_is_in_them_and_the_oldest_is_dropped(serving: Open, tmp_path: Path) -> None:
    client = serving(kept=2)
    ids = []
    for number in range(3):
        draw(tmp_path / f"{number}.png", number)
        ids.append(send(client, tmp_path / f"{number}.png")["id"])
        assert client.get(f"/api/images/{ids[0]}").status_code == 200
    # The first was asked for all along, so the second one is gone, its file too.
    assert [client.get(f"/api/images/{each}").status_code for each in ids] == [200, 404, 200]
    files = [path.name for path in Path(client.sent._folder.path).iterdir()]  # type: ignore[attr-defined]
    assert sorted(files) == sorted([ids[0], ids[2]])
    again = client.get(f"/api/images/{ids[1]}").json()["error"]
    assert "send it again" in again
    assert send(client, tmp_path / "1.png")["id"] == ids[1]


def test_the_bytes_of_images_are_bounded(serving: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(tmp_path / "a.png", 1)
    draw(tmp_path / "b.png", 2)
    length = (tmp_path / "a.png").stat().st_size
    client = serving(kept_bytes=length + 10)
    first, second = (send(client, tmp_path / f"{name}.png")["id"] for name in "ab")
    assert client.get(f"/api/images/{first}").status_code == 404
    assert client.get(f"/api/images/{second}").status_code == 200
    monkeypatch.setattr(sent_images, "AT_ONCE", length // 2)
    answer = client.post("/api/images", content=b"x" * length, headers={"content-type": "image/png"})
    assert answer.status_code == 503
    assert client.sent._on_their_way == 0  # type: ignore[attr-defined]


def _png(size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG")
    content = bytearray(buffer.getvalue())
    content[16:24] = size[0].to_bytes(4, "big") + size[1].to_bytes(4, "big")
    return bytes(content)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"GIF",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%PDF-1.4",
        b"\x89PNG\r\n\x1a\n",
        _png((60_000, 60_000)),
        _png((4, 5)),
    ],
)
def test_what_is_no_image_is_refused_and_not_kept(serving: Open, content: bytes) -> None:
    client = serving()
    answer = client.post("/api/images", content=content, headers={"content-type": "image/png"})
    assert answer.status_code == 422
    assert "the image" in answer.json()["error"]
    folder = Path(client.sent._folder.path)  # type: ignore[attr-defined]
    assert list(folder.iterdir()) == []
    assert str(folder) not in answer.text


def test_the_turn_that_a_camera_noted_counts(serving: Open, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / "turned.jpg", exif=exif)
    sent = send(serving(), tmp_path / "turned.jpg")
    assert (sent["width"], sent["height"]) == (20, 30)


def test_only_images_may_be_sent_as_they_are(serving: Open, opened: Open, folder: Path) -> None:
    content = (folder / "0.png").read_bytes()
    client = serving()
    for kind, status in (("text/plain", 415), ("multipart/form-data; boundary=x", 415), ("image/png", 200)):
        assert client.post("/api/images", content=content, headers={"content-type": kind}).status_code == status, kind
    # Elsewhere, and on the labelling page, they may not.
    for path in ("/api/images/x/predict", "/predict"):
        assert client.post(path, content=content, headers={"content-type": "image/png"}).status_code == 415
    page = opened(folder)
    assert page.post("/api/images", content=content, headers={"content-type": "image/png"}).status_code == 415


def test_its_page_is_the_description(serving: Open) -> None:
    client = serving()
    page = client.get("/")
    assert page.text == client.get("/api/docs").text
    assert "/static/docs.js" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for name in ("docs.js", "docs.css", "panels/dom.js", "icons.js", "icon.svg"):
        assert client.get(f"/static/{name}").status_code == 200
    assert json.loads(client.get("/api/openapi.json").text)["info"]["title"] == "maskwright serve"
