"""Models that are not there, are of the wrong kind, or fail to load: it is said, and labelling by hand goes on."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from maskwright.errors import MaskwrightError
from maskwright.sam.sam import Sam
from maskwright.serve.models import Models
from maskwright.serve.tiles import Pictures
from tests.serve.conftest import Open
from tests.serve.test_labels import mask_object, put
from tests.serve.test_labels import send as change
from tests.tiny_model import save_agent, save_run


def wait(models: Models) -> dict[str, str]:
    models.load()
    while models.is_loading:
        pass
    return models.describe()


def goes_on(client, message: str) -> None:
    """Manual labelling works, the page is told why SAM does not, and questions get a sentence."""
    sam = client.get("/api/project").json()["sam"]
    assert message in sam["message"]
    for path, body in (("embedding", {}), ("predict", {"points": [[5, 5, 1]]})):
        answer = client.post(f"/api/images/0/{path}", json=body)
        assert answer.status_code == 503
        assert message in answer.json()["error"]
    assert change(client, "0", put(mask_object("a", np.ones((3, 3), bool))), 0).status_code == 200


def test_a_sam_that_is_not_there(opened: Open, folder: Path, tmp_path: Path) -> None:
    client = opened(folder, str(tmp_path / "none"))
    assert client.get("/api/project").json()["sam"] == {"id": str(tmp_path / "none"), "state": "loading", "message": ""}
    assert client.post("/api/images/0/embedding", json={}).json() == {"state": "working"}
    assert wait(client.models)["state"] == "absent"  # type: ignore[attr-defined]
    goes_on(client, "none")


def test_a_sam_that_fails_in_an_unexpected_way(
    opened: Open, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> Sam:
        raise RuntimeError("no such device")

    monkeypatch.setattr(Sam, "load", fail)
    client = opened(folder)
    described = wait(client.models)  # type: ignore[attr-defined]
    assert (described["state"], described["message"]) == ("failed", "RuntimeError: no such device")
    assert "SAM cannot be loaded" in caplog.text
    goes_on(client, "no such device")


def test_networks_that_cannot_be_imported(opened: Open, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "maskwright.serve.assistant", None)
    client = opened(folder)
    described = wait(client.models)  # type: ignore[attr-defined]
    assert described["state"] == "failed"
    assert "ModuleNotFoundError" in described["message"] or "ImportError" in described["message"]
    goes_on(client, "maskwright.serve.assistant")


def test_a_model_of_the_other_kind_is_refused_at_once(tmp_path: Path, tiny_sam_folder: Path) -> None:
    run, agent = save_run(tmp_path / "run"), save_agent(tmp_path / "agent", tiny_sam_folder)
    Models("nano", Pictures(), run, agent)
    Models("nano", Pictures(), run / "model", agent / "model")
    with pytest.raises(MaskwrightError, match="give it with --agent"):
        Models("nano", Pictures(), run=agent)
    with pytest.raises(MaskwrightError, match="is no click agent"):
        Models("nano", Pictures(), agent=run)
    for wrong in ({"run": tmp_path / "none"}, {"agent": tmp_path}):
        with pytest.raises(MaskwrightError, match="holds no trained model"):
            Models("nano", Pictures(), **wrong)
    (run / "model" / "config.json").write_text('{"recipe": 3}')
    with pytest.raises(MaskwrightError, match="holds no trained model"):
        Models("nano", Pictures(), run)


def test_a_run_of_other_categories_says_which_to_add(
    opened: Open, folder: Path, tmp_path: Path, tiny_sam_folder: Path
) -> None:
    client = opened(folder, str(tiny_sam_folder), save_run(tmp_path / "run"), load=True)
    runs = client.get("/api/project").json()["runs"]
    assert runs == [{"id": "given", "recipe": "samix", "score": None}]
    answer = client.post("/api/images/0/propose", json={"from": "run", "run": "given"})
    assert (answer.status_code, "'red'" in answer.json()["error"]) == (422, True)


def test_an_image_that_cannot_be_read_is_said(opened: Open, folder: Path, tiny_sam_folder: Path) -> None:
    client = opened(folder, str(tiny_sam_folder), load=True)
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:500])
    for _ in range(1000):
        answer = client.post("/api/images/1/embedding", json={})
        if answer.status_code != 200:
            break
    assert (answer.status_code, "1.png" in answer.json()["error"]) == (422, True)
