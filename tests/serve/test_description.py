"""The API's description is true: it names all addresses and no others, and real requests and answers are as it says."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.testclient import TestClient

from maskwright.serve.endpoints import Endpoint
from tests.serve.conftest import Open
from tests.serve.description import Described
from tests.serve.test_labels import mask_object, put
from tests.tiny_model import CATEGORIES, save_agent, save_run

CONFIG = (
    '<View><Image name="image" value="$image"/><BrushLabels name="brush" toName="image">'
    + "".join(f'<Label value="{name}"/>' for name in CATEGORIES[1:])
    + "</BrushLabels></View>"
)


def addresses(client: TestClient) -> set[tuple[str, str]]:
    """The routes of an application, but for its page and files."""
    app = client.app
    assert isinstance(app, Starlette)
    return {
        (method.lower(), route.path.replace(":int", ""))
        for route in app.routes
        if isinstance(route, Route) and route.path != "/"
        for method in (route.methods or set()) - {"HEAD"}
    }


def fake_program(folder: Path, text: str) -> str:
    """A program in place of Python, for trainings that take no time."""
    path = folder / "program"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_the_description_names_all_addresses_and_no_others(opened: Open, serving: Open, folder: Path) -> None:
    for client in (opened(folder), serving()):
        described = Described(client)
        assert described.operations() == addresses(client)
        assert described.document["openapi"] == "3.1.0"
        ids = [each["operationId"] for path in described.document["paths"].values() for each in path.values()]
        assert len(set(ids)) == len(ids)
        for schema in described.document["components"]["schemas"].values():
            Draft202012Validator.check_schema(schema)


def test_every_parameter_of_an_address_is_described(opened: Open, folder: Path) -> None:
    for path, methods in Described(opened(folder)).document["paths"].items():
        for operation in methods.values():
            named = [each["name"] for each in operation["parameters"] if each["in"] == "path"]
            assert named == [part[1:-1] for part in path.split("/") if part.startswith("{")]


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script stands in for Python")
def test_real_answers_of_the_labelling_page(
    opened: Open, folder: Path, tiny_sam_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, agent = save_run(tmp_path / "run"), save_agent(tmp_path / "agent", tiny_sam_folder)
    client = opened(folder, str(tiny_sam_folder), run, agent, load=True)
    api = Described(client)
    monkeypatch.setattr(sys, "executable", fake_program(tmp_path, "echo step 3 of 10; exec sleep 60"))
    for name in CATEGORIES[1:]:
        assert api.post("/api/categories", {"name": name}).status_code == 200
    assert api.post("/api/categories", {"name": "red"}).status_code == 422
    for path in ("/health", "/api/project", "/api/images", "/api/images?cursor=1&limit=1", "/api/docs"):
        assert api.get(path).status_code == 200
    assert api.get("/api/openapi.json").json() == api.document
    assert api.get("/api/images?cursor=x").status_code == 400
    for place in ("", "/tiles/0/0/0", "/thumbnail", "/annotations"):
        assert api.get(f"/api/images/0{place}").status_code == 200, place
        assert api.get(f"/api/images/none{place}").status_code == 404, place
    square = np.zeros((64, 96), bool)
    square[10:40, 20:60] = True
    objects = [
        mask_object("m", square),
        {"id": "b", "kind": "box", "category": 1, "source": "hand", "xyxy": [10, 5.5, 40, 30]},
        {"id": "s", "kind": "scribble", "category": 0, "source": "hand", "points": [[1.5, 2.5], [9, 9]]},
        {"id": "p", "kind": "point", "category": 2, "source": "hand", "xy": [50.5, 20.5]},
    ]
    operations = [
        *put(*objects),
        {"id": "1", "op": "tags", "tags": [1, 2]},
        {"id": "2", "op": "order", "ids": ["m", "b"]},
        {"id": "3", "op": "nothing", "value": False},
        {"id": "4", "op": "done", "value": True},
        {"id": "5", "op": "delete", "object_id": "b"},
    ]
    change, path = {"base_rev": 0, "client_id": "me", "operations": operations}, "/api/images/0/operations"
    assert api.post(path, change).status_code == 200
    assert len(api.get("/api/images/0/annotations").json()["objects"]) == 3
    clash = {"base_rev": 0, "client_id": "you", "operations": [{"id": "9", "op": "done", "value": False}]}
    assert api.post(path, clash).status_code == 409
    assert api.post(path, {"client_id": "you", "operations": []}, valid=False).status_code == 428
    assert api.post(path, clash | {"operations": [{}]}, valid=False).status_code == 422
    mask = mask_object("m", square)["mask"]
    while api.post("/api/images/0/embedding").json()["state"] != "ready":
        pass
    assert api.post("/api/images/0/predict", {"points": [[40, 20, 1]], "all": True, "seq": 4}).status_code == 200
    assert api.post("/api/images/0/predict", {"box": [10, 10, 50.5, 40], "mask": mask}).status_code == 200
    assert api.post("/api/images/0/predict", {}).status_code == 422
    assert api.post("/api/images/0/correct", {"mask": mask}).status_code == 200
    assert api.post("/api/images/0/propose", {"from": "run", "run": "given"}).status_code == 200
    assert api.post("/api/images/1/propose", {"from": "example", "image": "0"}).status_code == 200
    assert api.post("/api/images/1/propose", {"from": "example", "image": "1"}).status_code == 422
    assert api.post("/api/images/1/propose", {"from": "run", "run": "none"}).status_code == 404
    assert api.get("/api/jobs").json() == {"jobs": []}
    job = api.post("/api/jobs", {"recipe": "samix", "minutes": 0.5}).json()["id"]
    assert api.post("/api/jobs", {"recipe": "samix", "minutes": 0.5}).status_code == 409
    assert api.get(f"/api/jobs/{job}/log?from=0").status_code == 200
    assert api.get("/api/jobs/none/log").status_code == 404
    assert api.post(f"/api/jobs/{job}/stop").status_code == 200
    assert api.get("/api/jobs").json()["jobs"][0]["id"] == job
    _label_studio(api, "0.png")
    assert {(method, path) for method, path, status in api.seen if status < 300} == api.operations()


def test_real_answers_of_the_server_without_a_dataset(
    serving: Open, folder: Path, tiny_sam_folder: Path, tmp_path: Path
) -> None:
    run, agent = save_run(tmp_path / "run"), save_agent(tmp_path / "agent", tiny_sam_folder)
    api = Described(serving(str(tiny_sam_folder), run, agent, [folder], load=True))
    for path in ("/health", "/api/server", "/api/docs", "/api/openapi.json"):
        assert api.get(path).status_code == 200
    content = (folder / "0.png").read_bytes()
    image = api.upload("/api/images", content, "image/png").json()
    assert (image["width"], image["height"]) == (96, 64)
    path = f"/api/images/{image['id']}"
    assert api.get(path).json() == image
    assert api.get("/api/images/none").status_code == 404
    assert api.upload("/api/images", content[:90], "application/octet-stream").status_code == 422
    api.post(f"{path}/embedding")
    box = {"box": [0, 0, 4, 4], "counts": [0, 16]}
    assert api.post(f"{path}/predict", {"points": [[40, 20, 1], [3, 3, 0]]}).status_code == 200
    assert api.post(f"{path}/correct", {"mask": box | {"box": [9, 9, 4, 4]}}).status_code == 200
    assert api.post(f"{path}/propose").json()["categories"] == list(CATEGORIES)
    _label_studio(api, "0.png")
    assert {(method, path) for method, path, status in api.seen if status < 300} == api.operations()


def test_an_operation_id_is_its_handlers_name() -> None:
    async def ask(request: object) -> None: ...

    endpoint = Endpoint("GET", "/a/{b}/{c:int}", ask, "What", "Group", {})  # type: ignore[arg-type]
    described = endpoint.describe()
    assert described["operationId"] == "ask"
    kinds = {each["name"]: each["schema"]["type"] for each in described["parameters"]}
    assert kinds == {"b": "string", "c": "integer"}


def _label_studio(api: Described, name: str) -> None:
    assert api.post("/setup", {"schema": CONFIG}).status_code == 200
    assert api.post("/setup", {"schema": "<View/>"}).status_code == 422
    assert api.post("/webhook", {"action": "ANNOTATION_CREATED"}).status_code == 201
    assert api.get("/versions").status_code == 200
    tasks = {"tasks": [{"id": 1, "data": {"image": f"/data/local-files/?d={name}"}}], "label_config": CONFIG}
    assert api.post("/predict", tasks).status_code == 200
    point = {"type": "keypointlabels", "value": {"x": 50, "y": 40, "width": 1, "keypointlabels": ["red"]}}
    asked = tasks | {"params": {"context": {"result": [point]}}}
    assert api.post("/predict", asked).status_code == 200
    assert api.post("/predict", tasks | {"label_config": "<"}).status_code == 422
