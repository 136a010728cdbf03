"""What users of other tools complain of, each as a test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Route

from maskwright.data.dataset import Dataset
from tests.serve.browser import raster
from tests.serve.browser.conftest import Start, Window
from tests.serve.browser.page import LabelPage
from tests.serve.browser.test_drawing import SIDE, finish, mask_of
from tests.serve.live import Live

pytestmark = pytest.mark.slow


def boxes(page: LabelPage, count: int) -> None:
    """Draw some boxes, side by side."""
    page.tool("Box")
    for number in range(count):
        page.drag((10 + 40 * number, 20), (40 + 40 * number, 60))


def test_undo_in_a_draft_leaves_finished_objects_alone(window: Window) -> None:
    page = window("0")
    boxes(page, 1)
    page.tool("Polygon")
    page.click((50, 100), (100, 100), (100, 150))
    for left in (2, 1, 0):
        page.press("Control+z")
        assert len(page.page.evaluate("() => document.getElementById('canvas').dataset.draft ?? ''").split()) in (
            0,
            left,
        )
        assert page.shown() == 1
    page.press("Control+z")
    assert page.shown() == 0
    page.press("Control+Shift+z")
    assert page.shown() == 1


def test_undo_and_redo_are_saved(window: Window) -> None:
    page = window("1")
    boxes(page, 3)
    assert len(page.objects()) == 3
    page.press("Control+z", "Control+z")
    assert len(page.objects()) == 1
    page.press("Control+y")
    two = page.objects()
    assert len(two) == 2
    page.reload()
    assert page.objects() == two
    assert page.shown() == 2


def test_undo_has_no_end(window: Window) -> None:
    page = window("2")
    page.tool("Point")
    for number in range(60):
        page.click((10 + 3 * number, 100 + number))
    assert len(page.objects()) == 60
    page.press(*["Control+z"] * 60)
    assert page.objects() == []
    page.press(*["Control+Shift+z"] * 60)
    assert len(page.objects()) == 60


@pytest.mark.parametrize("status", [500, 503, 401, 403, 429])
def test_a_failed_save_is_not_called_saved(window: Window, status: int) -> None:
    """Nor is anything dropped: it is saved as soon as the server takes it again."""
    page = window("3")
    before = len(page.objects())

    def fail(route: Route) -> None:
        route.fulfill(status=status, json={"error": "the disk is full"})

    page.page.route("**/operations", fail)
    boxes(page, 1)
    page.page.wait_for_function("() => !['saved', 'saving'].includes(document.body.dataset.save)")
    page.page.wait_for_timeout(1000)
    assert page.page.evaluate("document.body.dataset.save") in ("failed", "expired")
    assert page.shown() == before + 1
    page.page.unroute("**/operations")
    assert len(page.objects()) == before + 1
    page.reload()
    assert page.shown() == before + 1


def test_offline_is_said_and_nothing_is_lost(window: Window) -> None:
    page = window("4")
    page.page.route("**/operations", lambda route: route.abort())
    boxes(page, 2)
    page.page.wait_for_function("() => document.body.dataset.save === 'offline'")
    assert "Offline" in page.page.locator("#save").inner_text()
    # Even when the window is closed meanwhile.
    other = window("4", context=page.page.context)
    page.page.close()
    assert len(other.objects()) == 2


def test_work_outlives_an_expired_session(window: Window, start: Start, no_sam: Sequence[str]) -> None:
    """The server is started anew, with another token: what was drawn meanwhile is kept, and saved after the next login."""
    first = start(*no_sam, images=2)
    page = window("0", first)
    boxes(page, 1)
    page.saved()
    first.kill()
    page.drag((100, 100), (150, 150))
    again = start(*no_sam, folder=first.folder, port=first.port)
    assert again.token != first.token
    page.page.wait_for_function("() => document.body.dataset.save === 'expired'")
    assert "address" in page.page.locator("#told").inner_text()
    assert page.shown() == 2
    fresh = window("0", again, context=page.page.context)
    assert len(fresh.objects()) == 2


def test_hidden_objects_are_saved(window: Window, live: Live) -> None:
    page = window("5")
    page.tool("Brush")
    page.brush_size(20)
    way = page.drag((50, 50), (100, 50))
    page.press("h", "n")
    page.tool("Box")
    page.drag((120, 120), (180, 180))
    page.press("Shift+h")
    finish(page)
    assert sorted(each["kind"] for each in page.labels("5")["objects"]) == ["box", "mask"]
    np.testing.assert_array_equal(mask_of(live.folder, "5"), raster.brush(way, 20, SIDE, SIDE))


def test_a_stroke_outlives_an_autosave(window: Window, live: Live) -> None:
    """What was drawn before is saved, and its answer taken, while the pointer is down."""
    page = window("6")
    page.tool("Brush")
    page.brush_size(10)
    first = page.drag((40, 40), (80, 40))
    pixels = page.screen((80, 80), (120, 80), (120, 140))
    page.page.mouse.move(*pixels[0])
    page.page.mouse.down()
    page.page.mouse.move(*pixels[1])
    page.saved()
    page.page.wait_for_timeout(1000)
    page.page.mouse.move(*pixels[2])
    page.page.mouse.up()
    finish(page)
    expected = raster.brush(first, 10, SIDE, SIDE) | raster.brush(page.places(*pixels), 10, SIDE, SIDE)
    page.show("6")
    np.testing.assert_array_equal(mask_of(live.folder, "6"), expected)


def test_pixels_at_the_corners(window: Window, live: Live) -> None:
    """One-pixel objects, each in a corner of the image."""
    page = window("7")
    page.tool("Brush")
    page.brush_size(1)
    corners = [(0, 0), (SIDE - 1, 0), (0, SIDE - 1), (SIDE - 1, SIDE - 1)]
    for x, y in corners:
        page.press("n")
        page.click((x + 0.5, y + 0.5))
    finish(page)
    expected = np.zeros((SIDE, SIDE), np.uint16)
    for number, (x, y) in enumerate(corners, 1):
        expected[y, x] = number
    np.testing.assert_array_equal(mask_of(live.folder, "7"), expected)
    assert [each["mask"] for each in page.labels("7")["objects"]] == [
        {"box": [x, y, 1, 1], "counts": [0, 1]} for x, y in corners
    ]


def test_a_whole_image_of_one_box(window: Window, live: Live) -> None:
    """A box that is dragged beyond the image ends at its edges."""
    page = window("8")
    page.press("-")
    page.settle()
    page.tool("Box")
    page.drag((-9, -6), (SIDE + 9, SIDE + 6))
    (box,) = page.objects()
    assert box["xyxy"] == [0, 0, SIDE, SIDE]


def test_keys_do_nothing_while_somebody_types(window: Window) -> None:
    page = window("9")
    boxes(page, 1)
    tool = page.page.evaluate("document.body.dataset.tool")
    page.page.get_by_label("New category").click()
    page.page.keyboard.type("bsver 123 [x]? nE")
    page.press("Delete", "Backspace", "Home", "Control+ArrowLeft")
    assert page.page.get_by_label("New category").input_value() == "bsver 123 [x]? n"
    assert page.page.evaluate("document.body.dataset.tool") == tool
    assert page.shown() == 1
    assert page.image == "9"
    assert not page.page.locator("dialog[open]").count()


def test_zoom_and_pan_leave_a_polygon_in_work_alone(window: Window, start: Start, no_sam: Sequence[str]) -> None:
    live = start(*no_sam, images=1)
    page = window("0", live)
    page.tool("Polygon")
    corners = page.click((60, 60), (200, 60))
    mouse = page.page.mouse
    mouse.move(640, 360)
    mouse.wheel(0, -400)
    page.settle()
    page.page.keyboard.down("Space")
    mouse.down()
    mouse.move(600, 330)
    mouse.up()
    page.page.keyboard.up("Space")
    mouse.down(button="middle")
    mouse.move(620, 350)
    mouse.up(button="middle")
    page.settle()
    corners += page.click((180, 180))
    page.press("f")
    page.settle()
    corners += page.click((70, 200))
    page.press("Enter")
    finish(page)
    expected = raster.polygon([(round(x, 1), round(y, 1)) for x, y in corners], SIDE, SIDE)
    np.testing.assert_array_equal(mask_of(live.folder, "0"), expected)


def test_a_large_image_on_a_dense_screen_is_shown(
    window: Window, start: Start, no_sam: Sequence[str], tmp_path: Path
) -> None:
    """Forty megapixels, and four device pixels to each of the screen's: no canvas is larger than the screen."""
    folder = tmp_path / "large"
    folder.mkdir()
    rows, columns = np.mgrid[:5000, :8000].astype(np.uint16)
    pixels = np.stack([columns // 32, rows // 20, (columns // 500 + rows // 500) % 2 * 200], -1).astype(np.uint8)
    Image.fromarray(pixels).save(folder / "0.jpg", quality=90)
    live = start(*no_sam, folder=folder)
    page = window("0", live, viewport={"width": 1280, "height": 720}, device_scale_factor=2)
    canvas = page.page.evaluate(
        "(() => { const c = document.getElementById('canvas'); return [c.width, c.height]; })()"
    )
    assert canvas[0] <= 2560
    assert canvas[1] <= 1440
    places = [(1000.0, 1000.0), (4250.0, 2250.0), (7900.0, 4900.0)]
    page.page.wait_for_load_state("networkidle")
    page.settle()
    for zoomed in (False, True):
        if zoomed:
            page.page.mouse.move(*page.screen(places[1])[0])
            page.page.mouse.wheel(0, -1500)
            page.page.wait_for_load_state("networkidle")
            page.page.wait_for_timeout(500)
        for x, y in places[1:2] if zoomed else places:
            wanted = pixels[int(y), int(x)].astype(int)
            np.testing.assert_allclose(page.pixel((x, y)), wanted, atol=25)
    # And a stroke across it is what it should be.
    page.press("f")
    page.settle()
    page.tool("Brush")
    page.brush_size(101)
    way = page.drag((1500, 1500), (6000, 4000))
    finish(page)
    np.testing.assert_array_equal(mask_of(folder, "0"), raster.brush(way, 101, 8000, 5000))
    assert Dataset.load(folder)[0].labels.mask is not None


def test_a_pen_draws(window: Window, start: Start, no_sam: Sequence[str]) -> None:
    live = start(*no_sam, images=1)
    page = window("0", live)
    page.tool("Brush")
    page.brush_size(8)
    pixels = page.screen((50, 50), (100, 60), (150, 120))
    session = page.page.context.new_cdp_session(page.page)
    for number, (x, y) in enumerate(pixels):
        kind = "mousePressed" if number == 0 else "mouseMoved"
        pen = {"button": "left", "buttons": 1, "pointerType": "pen", "force": 0.5, "clickCount": 1}
        session.send("Input.dispatchMouseEvent", {"type": kind, "x": x, "y": y, **pen})
        page.settle()
    x, y = pixels[-1]
    up = {"type": "mouseReleased", "x": x, "y": y, "button": "left", "pointerType": "pen", "clickCount": 1}
    session.send("Input.dispatchMouseEvent", up)
    finish(page)
    np.testing.assert_array_equal(mask_of(live.folder, "0"), raster.brush(page.places(*pixels), 8, SIDE, SIDE))
