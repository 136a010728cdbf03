"""Small datasets to label, and the server's application without a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from maskwright.serve.app import Server, make_app
from maskwright.serve.jobs import Jobs
from maskwright.serve.project import Project
from maskwright.serve.safety import hosts_of
from maskwright.serve.tiles import Pictures

TOKEN = "a-token-for-tests"
PORT = 8123


def draw(path: Path, seed: int, size: tuple[int, int] = (96, 64)) -> None:
    """A picture with a disc on a noisy ground."""
    width, height = size
    rng = np.random.default_rng(seed)
    pixels = rng.integers(90, 130, (height, width, 3))
    y, x = np.mgrid[:height, :width] + 0.5
    pixels[(x - 0.5 * width) ** 2 + (y - 0.5 * height) ** 2 < (0.3 * height) ** 2] = (220, 60, 40)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of three images, two of one size, and nothing else."""
    for number in range(2):
        draw(tmp_path / "photos" / f"{number}.png", number)
    draw(tmp_path / "photos" / "wide" / "2.jpg", 2, (700, 300))
    return tmp_path / "photos"


Open = Callable[..., TestClient]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Opens a folder: a client that has logged in, with the project as ``client.project``."""
    projects: list[Project] = []

    def open_folder(folder: Path, sam: str = "nano") -> TestClient:
        project = Project(folder)
        projects.append(project)
        jobs = Jobs(project.work / "trainings", project.snapshot, sam)
        server = Server(project, Pictures(), jobs, sam)
        app = make_app(server, TOKEN, PORT, hosts_of("127.0.0.1", PORT))
        client = TestClient(app, base_url=f"http://127.0.0.1:{PORT}", headers={"origin": f"http://127.0.0.1:{PORT}"})
        assert client.get(f"/?token={TOKEN}", follow_redirects=False).status_code == 303
        client.project, client.server = project, server  # type: ignore[attr-defined]
        return client

    yield open_folder
    for project in projects:
        project.close()
