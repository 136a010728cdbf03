"""Trainings: started, stopped, found again by another server, and what their models propose."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from maskwright.data.dataset import Dataset
from maskwright.serve.jobs import Jobs
from maskwright.serve.wire import WireError
from tests.serve.conftest import Open
from tests.serve.test_description import fake_program
from tests.serve.test_labels import mask_object, put, send
from tests.tiny_model import CATEGORIES, save_run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a shell script stands in for Python")

PATIENCE = 60.0


def states(jobs: Jobs, name: str, wanted: str) -> dict[str, Any]:
    """The description of a training once it is in a state."""
    end = time.monotonic() + PATIENCE
    while (job := jobs.describe(name))["state"] != wanted and time.monotonic() < end:
        time.sleep(0.05)
    assert job["state"] == wanted, job
    return job


def copied(target: Path) -> Path:
    target.mkdir(parents=True)
    return target


@pytest.fixture
def trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings last until they are stopped."""
    monkeypatch.setattr(sys, "executable", fake_program(tmp_path, 'echo "$@"; echo step 3 of 10; exec sleep 300'))


def test_a_training_is_found_again_after_the_server_has_ended(tmp_path: Path, trains: None) -> None:
    first = Jobs(tmp_path / "trainings", copied, "nano")
    name = first.start("samix", 2)["id"]
    end = time.monotonic() + PATIENCE
    while not first.describe(name)["steps"] and time.monotonic() < end:
        time.sleep(0.05)
    # Another server: it knows the process by its number and its birth alone.
    second = Jobs(tmp_path / "trainings", copied, "nano")
    job = second.describe(name)
    assert (job["state"], job["step"], job["steps"], job["run"], job["score"]) == ("running", 3, 10, None, None)
    assert 0 < job["left_seconds"] <= 120
    assert [each["id"] for each in second.all()] == [name]
    folder = tmp_path / "trainings" / name
    command = f"-m maskwright train samix {folder / 'data'} --out {folder / 'run'} --minutes 2 --sam nano"
    assert second.log(name, 0)["text"].splitlines()[0] == command
    with pytest.raises(WireError, match="under way"):
        second.start("samix", 1)
    second.stop(name)
    states(second, name, "stopped")
    assert states(first, name, "stopped")["left_seconds"] == 0
    # The log is read on from where it was.
    length = len((folder / "log.txt").read_bytes())
    assert second.log(name, length) == {"text": "", "next": length}
    assert second.log(name, length - 3)["text"] == "10\n"


def test_a_process_with_the_same_number_is_not_taken_for_the_training(tmp_path: Path, trains: None) -> None:
    jobs = Jobs(tmp_path / "trainings", copied, "nano")
    name = jobs.start("s4m", 1)["id"]
    record = tmp_path / "trainings" / name / "job.json"
    os.killpg(json.loads(record.read_text())["pid"], signal.SIGKILL)
    states(jobs, name, "failed")
    # This very process: alive, but born at another time.
    record.write_text(json.dumps(json.loads(record.read_text()) | {"pid": os.getpid()}))
    again = Jobs(tmp_path / "trainings", copied, "nano")
    assert again.describe(name)["state"] == "failed"
    again.stop(name)  # nothing to end: this test goes on


def test_a_training_that_ends_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = 'mkdir -p "$7/model"; touch "$7/report.html" "$7/model/model.safetensors"'
    monkeypatch.setattr(sys, "executable", fake_program(tmp_path, script))
    jobs = Jobs(tmp_path / "trainings", copied, "nano")
    name = jobs.start("samix", 1)["id"]
    assert states(jobs, name, "done")["run"] == name
    assert jobs.run(name) == tmp_path / "trainings" / name / "run"
    with pytest.raises(WireError, match="no such training"):
        jobs.run("20200101-000000")


def test_a_training_sees_the_labels_as_they_were(opened: Open, folder: Path, trains: None) -> None:
    client = opened(folder)
    square = np.zeros((64, 96), bool)
    square[5:30, 5:30] = True
    send(client, "0", [*put(mask_object("a", square)), {"id": "d", "op": "done", "value": True}], 0)
    job = client.post("/api/jobs", json={"recipe": "samix", "minutes": 1}).json()["id"]
    send(client, "0", [{"id": "x", "op": "delete", "object_id": "a"}, {"id": "e", "op": "done", "value": False}], 1)
    client.project.flush()  # type: ignore[attr-defined]
    snapshot = Dataset.load(client.project.work / "trainings" / job / "data")  # type: ignore[attr-defined]
    assert [str(sample.labels.kind) for sample in snapshot] == ["mask", "none", "none"]
    assert client.post(f"/api/jobs/{job}/stop", json={}).status_code == 200
    restarted = Jobs(client.labelling.jobs.folder, copied, "nano")  # type: ignore[attr-defined]
    assert states(restarted, job, "stopped")


def test_what_a_training_has_learnt_is_proposed(
    opened: Open, folder: Path, tiny_sam_folder: Path, tmp_path: Path, trains: None
) -> None:
    client = opened(folder, str(tiny_sam_folder), load=True)
    for name in CATEGORIES[1:]:
        client.post("/api/categories", json={"name": name})
    job = client.post("/api/jobs", json={"recipe": "samix", "minutes": 1}).json()["id"]
    asked = {"from": "run", "run": job}
    assert client.post("/api/images/0/propose", json=asked).status_code == 404
    save_run(client.labelling.jobs.folder / job / "run")  # type: ignore[attr-defined]
    assert [run["id"] for run in client.get("/api/project").json()["runs"]] == [job]
    objects = _proposed(client, asked)
    assert {each["source"] for each in objects} <= {"proposal"}
    assert all(each["category"] in (2, 3) for each in objects)
    client.post(f"/api/jobs/{job}/stop", json={})


def test_the_newest_model_is_the_last_of_the_runs(opened: Open, folder: Path, trains: None) -> None:
    """The page proposes with the last one unless another is chosen."""
    client = opened(folder)
    jobs = client.labelling.jobs  # type: ignore[attr-defined]
    begun = []
    for _ in range(2):
        while time.strftime("%Y%m%d-%H%M%S") in begun:
            time.sleep(0.1)
        begun.append(jobs.start("samix", 1)["id"])
        save_run(jobs.folder / begun[-1] / "run")
        jobs.stop(begun[-1])
        states(jobs, begun[-1], "stopped")
    assert [run["id"] for run in client.get("/api/project").json()["runs"]] == begun


def _proposed(client: TestClient, body: dict[str, Any]) -> list[dict[str, Any]]:
    answer = client.post("/api/images/0/propose", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["objects"]


@pytest.mark.slow
def test_a_real_training_from_the_page(opened: Open, folder: Path, tiny_sam_folder: Path) -> None:
    client = opened(folder, str(tiny_sam_folder), load=True)
    square = np.zeros((64, 96), bool)
    square[13:51, 29:67] = True
    for image in ("0", "1"):
        send(client, image, [*put(mask_object("a", square)), {"id": "d", "op": "done", "value": True}], 0)
    job = client.post("/api/jobs", json={"recipe": "samix", "minutes": 0.3}).json()["id"]
    jobs = client.labelling.jobs  # type: ignore[attr-defined]
    end = time.monotonic() + 300
    while jobs.describe(job)["state"] == "running" and time.monotonic() < end:
        time.sleep(1)
    described = jobs.describe(job)
    assert (described["state"], described["run"]) == ("done", job), jobs.log(job, 0)["text"]
    _proposed(client, {"from": "run", "run": job})
