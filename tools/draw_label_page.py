"""Take the pictures of the labelling page in ``docs/label.md``: a real server, a real browser, photographs that everybody can have.

    pip install -e '.[test]' scikit-image
    python tools/draw_label_page.py --out docs/images

Needs Chromium. Labels are drawn with the mouse, as a user draws them, and what SAM answers is what is shown.
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import tyro
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from draw_nano_answers import SKIMAGE, photograph

PHOTOGRAPHS = ("coffee.png", "chelsea.png", "coins.png", "rocket.jpg", "astronaut.png", "cell.png")
QUALITY = 88
"""Of the JPEGs: photographs are large as PNG."""

Place = tuple[float, float]


@dataclass
class Config:
    out: Path
    """Folder for the pictures."""
    sam: str = "nano"


class Window:
    """A window on the page. Places are shares of the image's width and height."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def show(self, name: str) -> None:
        self.page.locator("#images .row", has_text=name).click()
        self.page.wait_for_function(
            "() => document.body.dataset.image && document.body.dataset.embedded === document.body.dataset.image"
        )
        self.page.wait_for_timeout(400)

    def tool(self, key: str) -> None:
        self.page.locator("#canvas").focus()
        self.page.keyboard.press(key)

    def screen(self, *places: Place) -> list[Place]:
        left, top, width, height = self.page.evaluate(
            """async () => {
                const canvas = document.getElementById("canvas"), box = canvas.getBoundingClientRect(), ratio = devicePixelRatio;
                const [zoom, x, y] = canvas.dataset.view.split(" ").map(Number);
                const image = await (await fetch(`/api/images/${document.body.dataset.image}`)).json();
                return [box.left + x / ratio, box.top + y / ratio, image.width * zoom / ratio, image.height * zoom / ratio];
            }"""
        )
        return [(left + x * width, top + y * height) for x, y in places]

    def click(self, *places: Place) -> None:
        for x, y in self.screen(*places):
            self.page.mouse.click(x, y)

    def drag(self, *places: Place) -> None:
        pixels = self.screen(*places)
        self.page.mouse.move(*pixels[0])
        self.page.mouse.down()
        for x, y in pixels[1:]:
            self.page.mouse.move(x, y, steps=4)
        self.page.mouse.up()

    def answered(self) -> None:
        """Until SAM has answered."""
        self.page.locator("#told", has_text="candidate").wait_for()

    def accept(self) -> None:
        self.page.keyboard.press("Enter")
        self.page.wait_for_function("() => document.body.dataset.save === 'saved'")

    def category(self, name: str) -> None:
        self.page.get_by_label("New category").fill(name)
        self.page.get_by_role("button", name="Add").click()
        self.page.locator("#categories .category", has_text=name).wait_for()

    def choose(self, name: str) -> None:
        self.page.locator("#categories .category", has_text=name).click()

    def keep(self, path: Path) -> None:
        """A picture of the window."""
        self.page.wait_for_timeout(500)
        with Image.open(io.BytesIO(self.page.screenshot())) as image:
            image.convert("RGB").save(path, quality=QUALITY, optimize=True)
        print(f"written: {path}")


@contextmanager
def served(folder: Path, sam: str) -> Iterator[str]:
    """The address of a server on a folder."""
    log = folder.with_suffix(".log")
    command = [sys.executable, "-m", "maskwright", "label", str(folder), "--no-browser", "--port", "0", "--sam", sam]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    try:
        while not (found := re.search(r"http://\S+", log.read_text())):
            if process.poll() is not None:
                raise SystemExit(f"the server did not start: {log.read_text()}")
            time.sleep(0.1)
        yield found[0]
    finally:
        process.terminate()
        process.wait()


def opened(browser: Browser, url: str, theme: str, size: tuple[int, int]) -> Window:
    page = browser.new_page(viewport={"width": size[0], "height": size[1]}, color_scheme=theme)  # type: ignore[arg-type]
    page.set_default_timeout(120_000)
    page.goto(url)
    page.wait_for_function("() => document.body.dataset.sam === 'ready'")
    if (offer := page.locator("#offer button").first).is_visible():
        offer.click()
    return Window(page)


def draw(browser: Browser, url: str, out: Path) -> None:
    window = opened(browser, url, "dark", (1280, 720))
    for name in ("cup", "spoon", "cat", "coin"):
        window.category(name)
    window.show("coffee")
    window.choose("cup")
    window.tool("s")
    window.drag((0.28, 0.03), (0.71, 0.56))
    window.answered()
    window.accept()
    window.choose("spoon")
    window.tool("s")
    window.drag((0.53, 0.5), (0.68, 0.83))
    window.answered()
    window.keep(out / "label-smart.jpg")
    window.accept()
    window.page.get_by_role("button", name="Done").click()

    window.show("coins")
    window.choose("coin")
    coins: Sequence[tuple[Place, Place]] = (
        ((0.79, 0.05), (0.95, 0.24)),
        ((0.66, 0.1), (0.78, 0.24)),
        ((0.49, 0.09), (0.63, 0.25)),
    )
    for corners in coins:
        window.tool("s")
        window.drag(*corners)
        window.answered()
        window.accept()
    window.tool("r")
    window.drag((0.34, 0.09), (0.47, 0.25))
    window.tool("g")
    window.drag((0.085, 0.18), (0.115, 0.21), (0.15, 0.16))
    window.page.keyboard.press("Escape")
    window.page.emulate_media(color_scheme="light")
    window.keep(out / "label-kinds.jpg")
    window.page.keyboard.press("?")
    window.page.locator("#help[open]").wait_for()
    window.keep(out / "label-help.jpg")
    window.page.close()

    window = opened(browser, url, "light", (820, 1180))
    window.page.wait_for_function("() => document.body.dataset.image")
    window.keep(out / "label-small.jpg")
    window.page.close()


def main(config: Config) -> None:
    config.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name) / "photographs"
        folder.mkdir()
        for photo in PHOTOGRAPHS:
            Image.fromarray(photograph(SKIMAGE, photo)).save(folder / f"{Path(photo).stem}.png")
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--headless", "--no-sandbox"]
        )
        with served(folder, config.sam) as url:
            draw(browser, url, config.out)
        browser.close()


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
