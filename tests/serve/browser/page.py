"""The labelling page as a user handles it: tools, places in the image, keys, and what the page says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from playwright.sync_api import Page

from tests.serve.live import PATIENCE, Live

Point = tuple[float, float]


class LabelPage:
    """A window with the labelling page.

    Args:
        page: a tab of the browser.
        live: the server.

    Attributes:
        errors: what the page itself has got wrong; a test ends with none.
    """

    def __init__(self, page: Page, live: Live) -> None:
        self.page, self.live = page, live
        self.errors: list[str] = []
        page.set_default_timeout(1000 * PATIENCE / 2)
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    # ------------------------------------------------------------------------------------------------ images

    def open(self, image: str | None = None) -> LabelPage:
        """Open the page as its address is printed, and an image of it."""
        self.page.goto(self.live.url)
        self.wait_for_image()
        if image is not None:
            self.show(image)
        return self

    def show(self, image: str) -> None:
        """Open an image by its row of the list."""
        self.page.locator("#images .row", has_text=f"{image}.").click()
        self.wait_for_image(image)

    def reload(self) -> None:
        image = self.image
        self.page.reload()
        self.wait_for_image(image)

    def wait_for_image(self, image: str | None = None) -> None:
        self.page.wait_for_function(
            "image => image ? document.body.dataset.image === image : document.body.dataset.image", arg=image
        )
        self.settle()

    def settle(self) -> None:
        """Until what was asked to be drawn is drawn."""
        self.page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    @property
    def image(self) -> str:
        return self.page.evaluate("document.body.dataset.image")

    # ------------------------------------------------------------------------------------------------ places

    def view(self) -> dict[str, float]:
        """Where the image lies: ``zoom`` (CSS pixels of the screen for one of the image's), ``left`` and ``top`` in CSS pixels."""
        return self.page.evaluate(
            """() => {
                const canvas = document.getElementById("canvas"), box = canvas.getBoundingClientRect(), ratio = devicePixelRatio;
                const [zoom, x, y] = canvas.dataset.view.split(" ").map(Number);
                return { zoom, x, y, ratio, left: box.left, top: box.top };
            }"""
        )

    def screen(self, *points: Point) -> list[tuple[int, int]]:
        """The whole pixels of the screen that are nearest to places of the image."""
        view = self.view()
        scale = view["zoom"] / view["ratio"]
        left, top = view["left"] + view["x"] / view["ratio"], view["top"] + view["y"] / view["ratio"]
        return [(round(left + x * scale), round(top + y * scale)) for x, y in points]

    def places(self, *pixels: tuple[int, int]) -> list[Point]:
        """The image's coordinates of pixels of the screen."""
        view = self.view()
        return [
            (
                ((x - view["left"]) * view["ratio"] - view["x"]) / view["zoom"],
                ((y - view["top"]) * view["ratio"] - view["y"]) / view["zoom"],
            )
            for x, y in pixels
        ]

    # ------------------------------------------------------------------------------------------------ hands

    def tool(self, name: str) -> None:
        """Take a tool by its button, such as ``Brush``."""
        self.page.locator("#tools").get_by_label(name, exact=True).click()

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def click(self, *points: Point, button: Any = "left") -> list[Point]:
        """Click places of the image; returns where the clicks truly went."""
        pixels = self.screen(*points)
        for x, y in pixels:
            self.page.mouse.click(x, y, button=button)
        return self.places(*pixels)

    def drag(self, *points: Point, button: Any = "left") -> list[Point]:
        """Press at the first place, move through the others, let go; returns where the pointer truly was."""
        pixels = self.screen(*points)
        mouse = self.page.mouse
        mouse.move(*pixels[0])
        mouse.down(button=button)
        for x, y in pixels[1:]:
            mouse.move(x, y)
            self.settle()
        mouse.up(button=button)
        return self.places(*pixels)

    def brush_size(self, size: int) -> None:
        """Set the brush in hand, by the slider's own rule: each of its steps is the same share of the size."""
        self.page.evaluate(
            """size => {
                const slider = document.getElementById("brush-size");
                slider.step = "any";
                slider.value = String(100 * Math.log(size) / Math.log(1000));
                slider.dispatchEvent(new Event("input"));
            }""",
            size,
        )
        assert self.page.locator("#options output").inner_text() == f"{size} px"
        self.page.locator("#canvas").focus()

    # ------------------------------------------------------------------------------------------------ what is there

    def saved(self) -> None:
        """Until the server has said that everything is saved."""
        self.page.wait_for_function("() => document.body.dataset.save === 'saved'")

    def labels(self, image: str | None = None) -> dict[str, Any]:
        """The labels of an image as the server has them, once everything is saved."""
        self.saved()
        address = f"{self.live.address}/api/images/{image or self.image}/annotations"
        return self.page.request.get(address).json()

    def objects(self) -> list[dict[str, Any]]:
        return self.labels()["objects"]

    def shown(self) -> int:
        """Objects that the page shows."""
        return int(self.page.evaluate("document.body.dataset.objects"))

    def pixel(self, point: Point) -> tuple[int, int, int]:
        """The colour on the screen at a place of the image."""
        ((x, y),) = self.screen(point)
        view = self.view()
        return tuple(
            self.page.evaluate(
                """([x, y]) => [...document.getElementById("canvas").getContext("2d").getImageData(x, y, 1, 1).data].slice(0, 3)""",
                [math.floor((x - view["left"]) * view["ratio"]), math.floor((y - view["top"]) * view["ratio"])],
            )
        )


def circle(x: float, y: float, radius: float, corners: int = 12) -> Sequence[Point]:
    """Places around a centre."""
    angles = [2 * math.pi * number / corners for number in range(corners)]
    return [(x + radius * math.cos(angle), y + radius * math.sin(angle)) for angle in angles]
