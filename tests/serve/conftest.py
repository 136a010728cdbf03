"""Small datasets to label, and the server's application without a network."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.testclient import TestClient

from maskwright.serve.app import Access, labelling_app, predicting_app
from maskwright.serve.jobs import Jobs
from maskwright.serve.label_studio import LabelStudio
from maskwright.serve.labelling import Labelling
from maskwright.serve.models import Models
from maskwright.serve.predicting import Predicting
from maskwright.serve.project import Project
from maskwright.serve.safety import Hosts
from maskwright.serve.sent_images import SentImages
from maskwright.serve.tiles import Pictures

TOKEN = "a-token-for-tests"
PORT = 8123
PATIENCE = 60.0
"""Seconds that SAM may take to be loaded."""


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
ORIGIN = f"http://127.0.0.1:{PORT}"


def access() -> Access:
    return Access(TOKEN, PORT, Hosts("127.0.0.1", PORT))


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Opens a folder: a client that has logged in, with the project as ``client.project``, and its models as ``client.models``."""
    with contextlib.ExitStack() as stack:

        def open_folder(
            folder: Path, sam: str = "nano", run: Path | None = None, agent: Path | None = None, load: bool = False
        ) -> TestClient:
            project, pictures = Project(folder), Pictures()
            stack.callback(project.close)
            sent = stack.enter_context(contextlib.closing(SentImages(pictures)))
            models = stack.enter_context(contextlib.closing(Models(sam, pictures, run, agent)))
            labelling = Labelling(project, models, Jobs(project.work / "trainings", project.snapshot, sam))
            app = labelling_app(labelling, LabelStudio(models, [project.root], sent), access())
            client = logged_in(app)
            client.project, client.models, client.labelling = project, models, labelling  # type: ignore[attr-defined]
            return ready(client) if load else client

        yield open_folder


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Open]:
    """Starts a server without a dataset: a client that has logged in, with ``client.models`` and ``client.sent``."""
    with contextlib.ExitStack() as stack:

        def start(
            sam: str = "nano",
            run: Path | None = None,
            agent: Path | None = None,
            images: Sequence[Path] = (),
            load: bool = False,
            **kept: int,
        ) -> TestClient:
            pictures = Pictures()
            sent = stack.enter_context(contextlib.closing(SentImages(pictures, **kept)))
            models = stack.enter_context(contextlib.closing(Models(sam, pictures, run, agent)))
            client = logged_in(predicting_app(Predicting(sent, models), LabelStudio(models, images, sent), access()))
            client.models, client.sent = models, sent  # type: ignore[attr-defined]
            return ready(client) if load else client

        yield start


def logged_in(app: Starlette) -> TestClient:
    client = TestClient(app, base_url=ORIGIN, headers={"origin": ORIGIN})
    assert client.get(f"/?token={TOKEN}", follow_redirects=False).status_code == 303
    return client


def ready(client: TestClient) -> TestClient:
    """A client whose server has loaded SAM."""
    models: Models = client.models  # type: ignore[attr-defined]
    models.load()
    end = time.monotonic() + PATIENCE
    while models.is_loading and time.monotonic() < end:
        time.sleep(0.02)
    assert models.describe()["state"] == "ready", models.describe()
    return client
