"""The labelling page in a real browser: start-up, SAM's answers, memory, a long list, and panning a large image with many masks.

    python benchmarks/label_page.py --json label_page.json

Needs Playwright (`pip install -e '.[test]'`) and Chromium, which draws without a GPU here: on a screen frames come faster.

- start-up: from the command to the page's address, and until SAM answers.
- clicks: from the click to the answer in the page, over images that were never opened before: the first click comes while SAM looks
  at the image, further ones do not encode again.
- memory: the largest resident size of the server after these, and after the whole list was looked through.
- list: the time between frames while a list of images is scrolled from top to bottom.
- panning: the time between frames while a large image with many masks is dragged to and fro.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from frame import Options, Table, publish
from maskwright.data.scene_dataset import write_scenes
from maskwright.serve.wire import Runs
from measure import peak_bytes_of

MEGA = 1_000_000

RECORD = """() => {
    window.times = [];
    let last = performance.now();
    const next = (now) => {
        if (!window.times) return;
        window.times.push(now - last);
        last = now;
        requestAnimationFrame(next);
    };
    requestAnimationFrame(next);
}"""
"""Note the milliseconds between frames from now on."""

TAKE = "() => { const times = window.times.slice(1); window.times = undefined; return times; }"
"""What was noted."""

SCROLL = "share => { const list = document.getElementById('images'); list.scrollTop = share * (list.scrollHeight - list.clientHeight); }"


@dataclass(kw_only=True)
class Config(Options):
    """The labelling page."""

    sam: str = "nano"
    """What `Sam.load` takes."""
    images: int = 20
    """Images that are clicked on."""
    clicks: int = 8
    """Clicks on each."""
    size: int = 512
    """Pixels of their sides."""
    list: int = 10_000
    """Images of the long list."""
    megapixels: float = 20
    """Of the large image."""
    masks: int = 300
    """Masks on it."""
    seconds: float = 5
    """Time of scrolling and of panning."""


class Server:
    """`maskwright label` on a folder."""

    def __init__(self, folder: Path, sam: str) -> None:
        command = [
            sys.executable,
            "-m",
            "maskwright",
            "label",
            str(folder),
            "--no-browser",
            "--port",
            "0",
            "--sam",
            sam,
        ]
        self.begun = time.monotonic()
        self.output = folder.with_suffix(".log")
        with self.output.open("wb") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        while not (found := re.search(r"http://\S+", self.output.read_text())):
            if self.process.poll() is not None:
                raise SystemExit(f"the server did not start: {self.output.read_text()}")
            time.sleep(0.02)
        self.url, self.started = found[0], time.monotonic() - self.begun
        self.address = self.url.partition("/?")[0]

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


@contextmanager
def opened(browser: Browser, folder: Path, sam: str) -> Iterator[tuple[Server, Page]]:
    """A server, and a window of 1280 x 720 on it."""
    server = Server(folder, sam)
    page = browser.new_page(viewport={"width": 1280, "height": 720})
    page.set_default_timeout(120_000)
    page.goto(server.url)
    page.wait_for_function("() => document.body.dataset.image")
    try:
        yield server, page
    finally:
        page.close()
        server.stop()


def clicks(config: Config, browser: Browser, folder: Path) -> dict[str, Any]:
    """Start-up, the times of first and further clicks in milliseconds, memory in bytes."""
    write_scenes(folder / "made", train=config.images, val=0, test=0, size=config.size, seed=0)
    shutil.move(folder / "made" / "images", folder / "photos")
    with opened(browser, folder / "photos", config.sam) as (server, page):
        page.wait_for_function("() => document.body.dataset.sam === 'ready'")
        ready = time.monotonic() - server.begun
        first, further = [], []
        random = np.random.default_rng(0)
        box = page.locator("#canvas").bounding_box()
        assert box is not None
        page.keyboard.press("s")
        for number in range(config.images):
            if number:
                before = page.evaluate("document.body.dataset.image")
                page.keyboard.press("PageDown")
                is_next = "before => document.body.dataset.image && document.body.dataset.image !== before"
                page.wait_for_function(is_next, arg=before)
            # Apart from each other: a click on a prompt takes it away.
            places = random.permutation([(x, y) for x in np.linspace(0.3, 0.7, 6) for y in np.linspace(0.3, 0.7, 6)])
            for click in range(config.clicks):
                page.evaluate("delete document.body.dataset.answered")
                x, y = places[click]
                page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])
                page.wait_for_function("() => document.body.dataset.answered", polling=20)
                (further if click else first).append(float(page.evaluate("document.body.dataset.answered")))
            page.keyboard.press("Escape")
        return {
            "started": server.started,
            "ready": ready,
            "first": first,
            "further": further,
            "memory": peak_bytes_of(server.process.pid),
        }


def long_list(config: Config, browser: Browser, folder: Path) -> dict[str, Any]:
    """Time between frames while a long list is scrolled, in milliseconds; start-up and memory."""
    folder.mkdir()
    Image.new("RGB", (64, 64)).save(folder / "0.png")
    for number in range(1, config.list):
        (folder / f"{number}.png").hardlink_to(folder / "0.png")
    with opened(browser, folder, config.sam) as (server, page):
        page.evaluate(RECORD)
        for share in _moments(config.seconds):
            page.evaluate(SCROLL, share)
        return {"started": server.started, "frames": page.evaluate(TAKE), "memory": peak_bytes_of(server.process.pid)}


def panning(config: Config, browser: Browser, folder: Path) -> dict[str, Any]:
    """Time between frames while a large image with many masks is panned, in milliseconds."""
    folder.mkdir()
    width = round((config.megapixels * MEGA * 4 / 3) ** 0.5)
    height = round(config.megapixels * MEGA / width)
    noise = np.random.default_rng(0).integers(0, 256, (height // 16, width // 16, 3), np.uint8)
    Image.fromarray(noise).resize((width, height)).save(folder / "large.jpg", quality=85)
    with opened(browser, folder, config.sam) as (server, page):
        image = page.evaluate("document.body.dataset.image")
        operations = [_disc(number, width, height, config.masks) for number in range(config.masks)]
        body = {"base_rev": 0, "client_id": "benchmark", "operations": operations}
        answer = page.request.post(
            f"{server.address}/api/images/{image}/operations", data=body, headers={"origin": server.address}
        )
        if not answer.ok:
            raise SystemExit(f"the masks were not taken: {answer.text()}")
        page.reload()
        page.wait_for_function("count => document.body.dataset.objects === String(count)", arg=config.masks)
        page.wait_for_timeout(2000)
        view, box = "document.getElementById('canvas').dataset.view", page.locator("#canvas").bounding_box()
        assert box is not None
        before = page.evaluate(view)
        page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.8 * box["height"])
        page.mouse.down(button="middle")
        page.evaluate(RECORD)
        for share in _moments(config.seconds):
            x, y = 0.5 + 0.3 * np.sin(9 * share), 0.5 + 0.3 * np.cos(7 * share)
            page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
        frames = page.evaluate(TAKE)
        page.mouse.up(button="middle")
        if page.evaluate(view) == before:
            raise SystemExit("the image was not panned")
        return {"size": [width, height], "frames": frames}


def _moments(seconds: float) -> Iterator[float]:
    """Shares 0..1 of a time, as fast as they are taken."""
    begun = time.monotonic()
    while (passed := time.monotonic() - begun) < seconds:
        yield passed / seconds


def _disc(number: int, width: int, height: int, count: int) -> dict[str, Any]:
    """The operation that puts one of many discs on a grid."""
    columns = max(1, round((count * width / height) ** 0.5))
    side = max(8, int(0.8 * width / columns))
    x = min(width - side, number % columns * width // columns)
    y = min(height - side, number // columns * width // columns % max(1, height - side))
    rows, cols = np.indices((side, side)) + 0.5
    runs = Runs.of_mask((rows - side / 2) ** 2 + (cols - side / 2) ** 2 <= (side / 2) ** 2, (x, y))
    assert runs is not None
    thing = {"id": f"disc-{number}", "kind": "mask", "category": 1, "source": "brush", "mask": runs.as_json()}
    return {"id": f"op-{number}", "op": "put", "object": thing}


def main(config: Config) -> None:
    program = shutil.which("chromium")
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=["--headless", "--no-sandbox", "--disable-gpu"]
        )
        folder = Path(name)
        (folder / "clicks").mkdir()
        answered = clicks(config, browser, folder / "clicks")
        listed = long_list(config, browser, folder / "list")
        panned = panning(config, browser, folder / "large")
        browser.close()
    rows = [
        ["start-up until the page, s", f"{answered['started']:.1f}", ""],
        ["start-up until SAM answers, s", f"{answered['ready']:.1f}", ""],
        [f"first click on an image of {config.size} pixels, ms", *_quantiles(answered["first"])],
        ["further clicks, ms", *_quantiles(answered["further"])],
        ["memory of the server, MiB", f"{answered['memory'] / 2**20:.0f}", ""],
        [f"start-up with {config.list:,} images, s", f"{listed['started']:.1f}", ""],
        [f"memory with {config.list:,} images, MiB", f"{listed['memory'] / 2**20:.0f}", ""],
        ["between frames, scrolling these, ms", *_quantiles(listed["frames"])],
        [
            f"between frames, panning {config.megapixels:g} megapixels with {config.masks} masks, ms",
            *_quantiles(panned["frames"]),
        ],
    ]
    note = f"Chromium without a GPU; {len(answered['further']):,} further clicks."
    table = Table("The labelling page", ["", "median", "95 %"], rows, note)
    publish(config, table, config.settings(), clicks=answered, list=listed, panning=panned)


def _quantiles(values: list[float]) -> list[str]:
    return [f"{np.quantile(values, q):.0f}" for q in (0.5, 0.95)]


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
