"""All kinds of label are drawn with the mouse, and the dataset holds exactly what was drawn."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from maskwright.data.check import check
from maskwright.data.dataset import Dataset
from maskwright.data.labels import Sample
from maskwright.data.mask_files import read_mask
from tests.serve.browser import raster
from tests.serve.browser.conftest import Start, Window
from tests.serve.browser.page import LabelPage, circle
from tests.serve.live import Live

pytestmark = pytest.mark.slow

SIDE = 256


def stored(folder: Path, image: str, ready: Any = lambda sample: True) -> Sample:
    """An image of the dataset on disk, which follows the page within a second."""
    end = time.monotonic() + 20
    while True:
        sample = next(sample for sample in Dataset.load(folder) if sample.id == image)
        if ready(sample):
            return sample
        assert time.monotonic() < end, sample
        time.sleep(0.1)


def mask_of(folder: Path, image: str) -> NDArray[Any]:
    sample = stored(folder, image, lambda sample: sample.labels.mask is not None)
    assert sample.labels.mask is not None
    return read_mask(folder / sample.labels.mask.path)


def finish(page: LabelPage) -> None:
    page.page.get_by_role("button", name="Done").click()
    page.saved()


@pytest.mark.parametrize(("image", "size"), [("0", 1), ("1", 2), ("2", 15), ("3", 24)])
def test_a_brush_stroke_is_exact(window: Window, live: Live, image: str, size: int) -> None:
    page = window(image)
    page.tool("Brush")
    page.brush_size(size)
    way = page.drag((40.3, 50.7), (90.1, 61.2), (120, 140), (120, 141), (60, 170))
    finish(page)
    expected = raster.brush(way, size, SIDE, SIDE)
    np.testing.assert_array_equal(mask_of(live.folder, image), expected)


def test_a_brush_at_the_edges_and_an_eraser(window: Window, live: Live) -> None:
    page = window("4")
    page.tool("Brush")
    page.brush_size(31)
    way = page.drag((1, 1), (254, 3), (255, 254), (2, 250))
    page.tool("Eraser")
    page.brush_size(12)
    away = page.drag((0.5, 100), (254, 100))
    finish(page)
    expected = raster.brush(way, 31, SIDE, SIDE) & ~raster.brush(away, 12, SIDE, SIDE)
    assert expected[0].any()
    assert expected[:, -1].any()
    np.testing.assert_array_equal(mask_of(live.folder, "4"), expected)


def test_a_polygon_is_exact(window: Window, live: Live) -> None:
    page = window("5")
    page.tool("Polygon")
    corners = page.click((30.2, 40.9), (200.4, 60.1), (120.6, 120.3), (220.1, 230.8), (40.7, 180.2))
    page.press("Enter")
    finish(page)
    expected = raster.polygon([(round(10 * x) / 10, round(10 * y) / 10) for x, y in corners], SIDE, SIDE)
    np.testing.assert_array_equal(mask_of(live.folder, "5"), expected)


def test_later_masks_lie_on_top(window: Window, live: Live) -> None:
    page = window("6")
    page.tool("Brush")
    page.brush_size(40)
    below = page.drag((60, 100), (180, 100))
    page.press("n")
    above = page.drag((120, 60), (120, 160))
    finish(page)
    expected = raster.brush(below, 40, SIDE, SIDE).astype(np.uint16)
    expected[raster.brush(above, 40, SIDE, SIDE)] = 2
    np.testing.assert_array_equal(mask_of(live.folder, "6"), expected)


def test_zoom_and_pan_move_no_label(window: Window, live: Live) -> None:
    """Drawn at several zooms: places are the image's, whatever the screen shows."""
    page = window("7")
    page.tool("Brush")
    page.brush_size(9)
    mouse = page.page.mouse
    expected = np.zeros((SIDE, SIDE), bool)
    for wheel, middle in ((-600, (700, 300)), (900, (500, 400)), (-2500, (640, 360))):
        mouse.move(*middle)
        mouse.wheel(0, wheel)
        page.settle()
        mouse.down(button="middle")
        mouse.move(middle[0] + 37, middle[1] - 21)
        mouse.up(button="middle")
        page.settle()
        (x, y), *_ = page.places((640, 360))
        x, y = min(230, max(20, x)), min(230, max(20, y))
        reach = 4 if wheel == -2500 else 15
        expected |= raster.brush(page.drag((x - reach, y), (x, y + reach), (x + reach, y)), 9, SIDE, SIDE)
    page.page.set_viewport_size({"width": 1000, "height": 640})
    page.press("f")
    page.settle()
    expected |= raster.brush(page.drag((10, 10), (30, 30)), 9, SIDE, SIDE)
    finish(page)
    np.testing.assert_array_equal(mask_of(live.folder, "7"), expected)


def test_a_pixel_of_a_mask_is_shown_over_the_pixel_of_the_image(window: Window) -> None:
    """At every zoom the colour on the screen changes where a mask is, and nowhere else."""
    page = window("8")
    page.tool("Brush")
    page.brush_size(1)
    view = page.view()
    for wheel in (0, -900, -900, -900):
        page.page.mouse.move(640, 360)
        if wheel:
            page.page.mouse.wheel(0, wheel)
            page.settle()
        (x, y), *_ = page.places((640, 360))
        centre = (int(x) + 0.5, int(y) + 0.5)
        around = [(centre[0] + dx, centre[1] + dy) for dx, dy in ((-2, 0), (2, 0), (0, -2), (0, 2))]
        page.page.wait_for_timeout(300)
        before = [page.pixel(place) for place in (centre, *around)]
        page.click(centre)
        page.page.mouse.move(5, 5)
        page.settle()
        after = [page.pixel(place) for place in (centre, *around)]
        assert after[0] != before[0], wheel
        assert after[1:] == before[1:], wheel
        page.press("Control+z")
    assert page.view()["zoom"] > view["zoom"]


def test_weak_labels_are_in_the_dataset_at_once(window: Window, live: Live) -> None:
    page = window("9")
    page.page.get_by_label("New category").fill("worm")
    page.page.get_by_role("button", name="Add").click()
    page.page.locator("#categories .category", has_text="worm").wait_for()
    page.page.locator("#categories .category", has_text="object").click()
    page.tool("Box")
    ((x0, y0), (x1, y1)) = page.drag((20, 30), (100, 90))
    page.press("n")
    page.tool("Scribble")
    line = page.drag((120, 40), (150, 60), (180, 50))
    page.press("2")
    page.tool("Point")
    (at,) = page.click((60.4, 200.6))
    (off,) = page.click((200, 200), button="right")
    page.page.locator("#tags button", has_text="worm").click()
    page.saved()
    labels = stored(live.folder, "9", lambda sample: sample.labels.tags and len(sample.labels.points) == 2).labels
    (box,) = labels.boxes
    assert box.category == 1
    np.testing.assert_allclose(box.xyxy, (x0, y0, x1, y1), atol=0.051)
    (scribble,) = labels.scribbles
    assert scribble.category == 1
    np.testing.assert_allclose(scribble.points, line, atol=0.051)
    assert [(p.x, p.y, p.category) for p in labels.points] == [
        (int(at[0]) + 0.5, int(at[1]) + 0.5, 2),
        (int(off[0]) + 0.5, int(off[1]) + 0.5, 0),
    ]
    assert [tag.category for tag in labels.tags] == [2]
    assert labels.mask is None
    assert check(Dataset.load(live.folder), training=False) == []


def test_nothing_to_see_is_a_label(window: Window, start: Start, no_sam: tuple[str, ...]) -> None:
    live = start(*no_sam, images=2)
    page = window("0", live)
    page.page.get_by_role("button", name="Nothing here").click()
    assert not mask_of(live.folder, "0").any()
    assert page.labels()["nothing"] is True
    # With an object in the image it cannot be said, and the page says why.
    page.show("1")
    page.tool("Box")
    page.drag((20, 30), (100, 90))
    page.press("Shift+E")
    assert "objects" in page.page.locator("#told").inner_text()
    assert page.labels()["nothing"] is False
    live.stop()
    assert check(Dataset.load(live.folder), training=False) == []


def test_the_rules_of_pixels_hold_for_anything(window: Window) -> None:
    """Two hundred strokes and polygons of all shapes, by the page's own functions and by the reference."""
    page, rng = window(), np.random.default_rng(5)
    width, height = 41, 37
    strokes = [
        {"size": int(rng.integers(1, 14)), "points": rng.uniform(-6, 46, (2, 2)).round(2).tolist()} for _ in range(200)
    ]
    shapes = [(rng.integers(-20, 430, (rng.integers(3, 9), 2)) / 10).tolist() for _ in range(200)]
    found = page.page.evaluate(
        """async ([strokes, shapes, width, height]) => {
            const { polygon, stroke, moved } = await import("/static/masks.js");
            const whole = (mask) => [...moved(mask, 0, 0, width, height).bytes];
            const empty = () => ({ x: 0, y: 0, w: width, h: height, bytes: new Uint8Array(width * height) });
            const lines = strokes.map(({ size, points: [from, to] }) => {
                const mask = empty();
                stroke(mask, from, to, size, 1);
                return whole(mask);
            });
            return [lines, shapes.map((points) => whole(polygon(points, width, height) ?? empty()))];
        }""",
        [strokes, shapes, width, height],
    )
    for given, got in zip(strokes, found[0]):
        expected = raster.brush(given["points"], given["size"], width, height)
        np.testing.assert_array_equal(np.reshape(got, (height, width)), expected, str(given))
    for given, got in zip(shapes, found[1]):
        expected = raster.polygon(given, width, height)
        np.testing.assert_array_equal(np.reshape(got, (height, width)), expected, json.dumps(given))


def test_what_was_there_is_opened_as_it_is(
    window: Window, start: Start, no_sam: tuple[str, ...], tmp_path: Path
) -> None:
    """A dataset with masks: they are shown as objects, and an image that nobody changes is not rewritten."""
    first = start(*no_sam, images=2)
    page = window("0", first)
    page.tool("Polygon")
    page.click(*circle(100, 120, 60))
    page.press("Enter")
    finish(page)
    mask_of(first.folder, "0")
    first.stop()
    before = {path: path.read_bytes() for path in (first.folder / "masks").iterdir()}
    # As if it came from elsewhere: what the page keeps for itself is not there.
    (first.folder / ".maskwright").rename(tmp_path / "away")
    again = start(*no_sam, folder=first.folder)
    other = window("0", again)
    assert [each["kind"] for each in other.objects()] == ["mask"]
    other.show("1")
    other.show("0")
    again.stop()
    assert {path: path.read_bytes() for path in (first.folder / "masks").iterdir()} == before
