"""A real browser on a real server: Debian's Chromium, driven by Playwright.

Without a browser these tests are skipped, unless ``MASKWRIGHT_BROWSER=required`` is set, as ``.ci/run`` does: then they fail.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, sync_playwright

from maskwright.data.scene_dataset import write_scenes
from tests.serve.browser.page import LabelPage
from tests.serve.live import Live

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium without a window, of this module alone: Playwright's event loop is none of other tests' business."""
    program = shutil.which("chromium")
    if program is None:
        reason = "Debian's chromium is not installed (apt-get install chromium)"
        if os.environ.get("MASKWRIGHT_BROWSER") == "required":
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Ten procedural pictures of 256 pixels. Leave them as they are; tests label copies."""
    folder = tmp_path_factory.mktemp("label-scenes")
    write_scenes(folder, train=10, val=0, test=0, size=256, seed=3)
    return sorted((folder / "images").iterdir())


@pytest.fixture(scope="session")
def no_sam(tmp_path_factory: pytest.TempPathFactory) -> Sequence[str]:
    """Options of a server whose SAM is not there: most of the page is of use without, and starts at once."""
    return "--sam", str(tmp_path_factory.getbasetemp() / "no-such-sam")


Start = Callable[..., Live]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory, scenes: list[Path]) -> Iterator[Start]:
    """Starts servers, each on its own folder of the pictures."""
    servers: list[Live] = []

    def start(*options: str, images: int = 10, folder: Path | None = None, port: int = 0) -> Live:
        if folder is None:
            folder = tmp_path_factory.mktemp("labelled") / "scenes"
            folder.mkdir()
            for number, path in enumerate(scenes[:images]):
                shutil.copy(path, folder / f"{number}.png")
        servers.append(Live(folder, folder.with_suffix(f".{len(servers)}.said"), options, port))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()
        assert "Traceback" not in server.said(), server.said()


@pytest.fixture(scope="module")
def live(start: Start, no_sam: Sequence[str]) -> Live:
    """The server of a module, without SAM. Its tests label images of their own: their names are in the tests."""
    return start(*no_sam)


Window = Callable[..., LabelPage]


@pytest.fixture
def window(browser: Browser, live: Live) -> Iterator[Window]:
    """Opens windows: each with storage of its own, unless it is given the context of another."""
    contexts: list[BrowserContext] = []
    pages: list[LabelPage] = []

    def open_window(
        image: str | None = None, server: Live = live, context: BrowserContext | None = None, **options: object
    ) -> LabelPage:
        if context is None:
            context = browser.new_context(**({"viewport": {"width": 1280, "height": 720}} | options))  # type: ignore[arg-type]
            contexts.append(context)
        pages.append(LabelPage(context.new_page(), server))
        return pages[-1].open(image)

    yield open_window
    errors = [error for page in pages for error in page.errors]
    for context in contexts:
        context.close()
    assert not errors
