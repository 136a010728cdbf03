"""SAM in the browser: clicks, boxes and refinements become exactly the masks that were shown; and the whole loop, from labels to a
training and its proposals."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskwright.data.check import check
from maskwright.data.dataset import Dataset
from maskwright.data.mask_files import read_mask
from maskwright.serve.wire import Runs
from tests.serve.browser import raster
from tests.serve.browser.conftest import Start, Window
from tests.serve.browser.page import LabelPage, circle
from tests.serve.live import Live

pytestmark = pytest.mark.slow

SIDE = 256
TRAINING = 240.0
"""Seconds that a training of half a minute may take on a busy machine, loading included."""


@pytest.fixture(scope="module")
def live(start: Start) -> Live:
    """A server with the bundled SAM."""
    server = start(images=4)
    server.wait_for_sam()
    return server


@pytest.fixture(scope="module")
def discs(scenes: list[Path]) -> list[tuple[tuple[float, float, float, float], np.ndarray]]:
    """Of each picture its largest object: its box, and its pixels."""
    found = []
    for path in scenes:
        ids = read_mask(path.parents[1] / "masks" / f"{path.stem}.png")
        largest = ids == np.bincount(ids[ids > 0]).argmax()
        (rows,), (columns,) = np.nonzero(largest.any(1)), np.nonzero(largest.any(0))
        found.append(((columns[0], rows[0], columns[-1] + 1.0, rows[-1] + 1.0), largest))
    return found


def asked(page: LabelPage, act: Any) -> list[dict[str, Any]]:
    """What the server answers to what the hand does."""
    with page.page.expect_response(lambda response: response.url.endswith(("/predict", "/propose"))) as waited:
        act()
    answer = waited.value.json()
    assert waited.value.ok, answer
    page.settle()
    return answer.get("candidates") or answer["objects"]


def told(page: LabelPage, words: str) -> None:
    page.page.locator("#told", has_text=words).wait_for()


def pixels(mask: dict[str, Any]) -> np.ndarray:
    return Runs.of_checked(mask).whole((SIDE, SIDE)) > 0


def overlap(mask: dict[str, Any], truth: np.ndarray) -> float:
    values = pixels(mask)
    return float((values & truth).sum() / (values | truth).sum())


def test_a_click_has_three_answers_and_enter_takes_the_one_that_is_shown(
    window: Window, live: Live, discs: list
) -> None:
    page, truth = window("0"), discs[0][1]
    rows, columns = np.nonzero(truth)
    middle = len(rows) // 2
    page.tool("Smart: SAM answers clicks and boxes")
    candidates = asked(page, lambda: page.click((columns[middle] + 0.5, rows[middle] + 0.5)))
    assert len(candidates) == 3
    told(page, "3 candidates")
    page.press(".")
    page.press("Enter")
    assert [each["mask"] for each in page.objects()] == [candidates[1]["mask"]]
    page.press("Control+z")
    assert page.objects() == []


def test_a_box_gives_a_mask_and_clicks_refine_it(window: Window, live: Live, discs: list) -> None:
    page, ((x0, y0, x1, y1), truth) = window("1"), discs[1]
    page.tool("Smart: SAM answers clicks and boxes")
    (candidate,) = asked(page, lambda: page.drag((x0, y0), (x1, y1)))
    assert overlap(candidate["mask"], truth) > 0.5
    told(page, "one candidate")
    page.press("Enter")
    (before,) = page.objects()
    assert before["mask"] == candidate["mask"]
    # The mask is selected still: a click changes it instead of making another.
    page.page.locator("#objects [role=option]").first.click()
    page.tool("Smart: SAM answers clicks and boxes")
    outside = np.argwhere(~truth & (np.indices(truth.shape).sum(0) > 0))[0]
    (refined,) = asked(page, lambda: page.click((outside[1] + 0.5, outside[0] + 0.5), button="right"))
    told(page, "one candidate")
    page.press("Enter")
    (after,) = page.objects()
    assert (after["id"], after["mask"]) == (before["id"], refined["mask"])
    page.press("Control+z")
    assert page.objects() == [before]


def test_a_draft_is_undone_step_by_step_and_leaves_finished_masks_alone(
    window: Window, live: Live, discs: list
) -> None:
    page, ((x0, y0, x1, y1), _) = window("2"), discs[2]
    page.tool("Brush")
    page.drag((10, 10), (40, 10))
    page.press("n")
    page.tool("Smart: SAM answers clicks and boxes")
    asked(page, lambda: page.drag((x0, y0), (x1, y1)))
    asked(page, lambda: page.click((x0 + 1, y0 + 1), button="right"))
    asked(page, lambda: page.press("Backspace"))
    told(page, "one candidate")
    page.press("Escape")
    assert len(page.objects()) == 1


def test_masks_are_carried_over_to_the_next_image(window: Window, live: Live, discs: list) -> None:
    page, ((x0, y0, x1, y1), _) = window("0"), discs[0]
    page.tool("Smart: SAM answers clicks and boxes")
    asked(page, lambda: page.drag((x0, y0), (x1, y1)))
    told(page, "one candidate")
    page.press("Enter")
    page.page.get_by_role("button", name="Done").click()
    page.show("3")
    proposed = asked(page, lambda: page.press("t"))
    if not proposed:  # Nothing like it is there; it is said.
        told(page, "Nothing found")
        return
    told(page, "proposed")
    page.press("Escape")
    assert page.objects() == []
    assert asked(page, lambda: page.press("t")) == proposed
    told(page, "proposed")
    page.press("Enter")
    assert [each["mask"] for each in page.objects()] == [each["mask"] for each in proposed]


def test_ten_images_are_labelled_trained_on_proposed_for_and_corrected(
    window: Window, start: Start, scenes: list[Path], discs: list
) -> None:
    """The whole loop, with all kinds of label, a reload, and a training that goes on while the page is closed."""
    live = start(images=10)
    live.wait_for_sam()
    page = window("0", live)
    expected: dict[str, np.ndarray] = {}
    for number, ((x0, y0, x1, y1), _) in enumerate(discs[:8]):
        page.show(str(number))
        middle = ((x0 + x1) / 2, (y0 + y1) / 2)
        if number < 3:
            page.tool("Smart: SAM answers clicks and boxes")
            (found,) = asked(page, lambda: page.drag((x0, y0), (x1, y1)))  # noqa: B023
            told(page, "one candidate")
            page.press("Enter")
            expected[str(number)] = pixels(found["mask"])
        elif number == 3:
            page.tool("Brush")
            page.brush_size(21)
            way = page.drag((x0 + 8, middle[1]), (x1 - 8, middle[1]))
            expected["3"] = raster.brush(way, 21, SIDE, SIDE)
            page.reload()
        elif number == 4:
            page.tool("Polygon")
            corners = page.click(*circle(*middle, min(x1 - x0, y1 - y0) / 2))
            page.press("Enter")
            expected["4"] = raster.polygon([(round(10 * x) / 10, round(10 * y) / 10) for x, y in corners], SIDE, SIDE)
        elif number == 5:
            page.tool("Box")
            page.drag((x0, y0), (x1, y1))
        elif number == 6:
            page.tool("Scribble")
            page.drag((x0 + 2, middle[1]), middle, (x1 - 2, middle[1]))
        else:
            page.tool("Point")
            page.click(middle)
        page.page.get_by_role("button", name="Done").click()
        page.saved()
    page.show("8")
    page.page.locator("#tags button").first.click()
    page.page.get_by_role("button", name="Done").click()
    page.saved()

    minutes = page.page.locator("#minutes")
    minutes.fill("0.5")
    minutes.dispatch_event("change")
    page.page.locator("#train").click()
    page.page.locator("#training", has_text="samix: running").wait_for()
    page.page.close()
    again = window("9", live)
    again.page.locator("#runs").wait_for(timeout=1000 * TRAINING)
    again.page.locator("#training", has_text="samix: done").wait_for(timeout=1000 * TRAINING)
    proposed = asked(again, lambda: again.press("m"))
    if proposed:
        told(again, "proposed")
        again.press("Enter")
        assert [each["mask"] for each in again.objects()] == [each["mask"] for each in proposed]
    again.tool("Brush")
    again.brush_size(9)
    again.drag((100, 100), (140, 100))
    again.page.get_by_role("button", name="Done").click()
    again.saved()
    live.stop()

    dataset = Dataset.load(live.folder)
    assert check(dataset) == []
    kinds = {sample.id: str(sample.labels.kind) for sample in dataset}
    masked = dict.fromkeys("0123", "mask") | {"4": "mask", "9": "mask"}
    assert kinds == masked | {"5": "box", "6": "scribble", "7": "point", "8": "tag"}
    for sample in dataset:
        if sample.id in expected:
            path = dataset.mask_path(sample)
            assert path is not None
            np.testing.assert_array_equal(read_mask(path) > 0, expected[sample.id], sample.id)
    shutil.rmtree(live.folder / ".maskwright")  # All labels are in the dataset itself.
    assert [sample.labels for sample in Dataset.load(live.folder)] == [sample.labels for sample in dataset]
