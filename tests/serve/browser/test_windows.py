"""Reloads in the middle, two windows at work on one image, and a server that dies: nothing is lost, and nothing is done twice."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from playwright.sync_api import Route

from tests.serve.browser.conftest import Start, Window
from tests.serve.browser.page import LabelPage

pytestmark = pytest.mark.slow


def box(page: LabelPage, column: int, row: int = 0) -> None:
    page.tool("Box")
    page.drag((10 + 40 * column, 20 + 40 * row), (40 + 40 * column, 50 + 40 * row))


def test_a_reload_before_anything_is_sent(window: Window) -> None:
    page = window("0")
    box(page, 0)
    box(page, 1)
    page.reload()
    assert len(page.objects()) == 2
    assert page.shown() == 2


def test_a_reload_while_it_is_sent(window: Window) -> None:
    """The server has it, the page does not know: it is sent again, done once, and nobody is asked about a conflict."""
    page = window("1")

    def lose(route: Route) -> None:
        route.fetch()
        route.abort()

    page.page.route("**/operations", lose)
    box(page, 0)
    page.page.wait_for_function("() => document.body.dataset.save === 'offline'")
    # The same object again, after the answer was lost.
    page.tool("Select and move")
    page.drag((10, 35), (20, 70))
    page.page.unroute("**/operations")
    page.reload()
    (one,) = page.objects()
    assert one["xyxy"][1] > 40
    assert not page.page.locator("dialog[open]").count()


def test_changes_of_two_windows_are_merged(window: Window) -> None:
    first, second = window("2"), window("2")
    box(first, 0)
    first.saved()
    box(second, 1)
    second.saved()
    box(first, 2)
    assert len(first.objects()) == 3
    assert first.shown() == 3
    box(second, 3)
    assert len(second.objects()) == 4
    assert second.shown() == 4


@pytest.mark.parametrize(("image", "choice"), [("3", "mine"), ("4", "theirs"), ("5", "both")])
def test_a_conflict_is_asked_about(window: Window, image: str, choice: str) -> None:
    first = window(image)
    box(first, 0)
    (before,) = first.objects()
    second = window(image)
    for page, moved in ((first, (20.0, 0.0)), (second, (0.0, 40.0))):
        page.tool("Select and move")
        page.drag((10, 35), (10 + moved[0], 35 + moved[1]))
        if page is first:
            first.saved()
    second.page.locator("dialog[open]").wait_for()
    assert second.page.locator("#save").inner_text() == "Conflict"
    second.page.locator(f"[data-choice={choice}]").click()
    second.saved()
    places = sorted(each["xyxy"] for each in second.objects())
    x0, y0, x1, y1 = before["xyxy"]
    theirs, mine = [x0 + 20, y0, x1 + 20, y1], [x0, y0 + 40, x1, y1 + 40]
    expected = {"mine": [mine], "theirs": [theirs], "both": sorted([mine, theirs])}[choice]
    for place, wanted in zip(places, expected, strict=True):
        assert place == pytest.approx(wanted, abs=1.01)
    assert second.shown() == len(expected)
    first.reload()
    assert sorted(each["xyxy"] for each in first.objects()) == places


def test_two_tabs_of_one_browser(window: Window) -> None:
    """They share the browser's database of what is not yet sent, and do not send each other's changes under their own name."""
    first = window("6")
    first.page.route("**/operations", lambda route: route.abort())
    box(first, 0)
    first.page.wait_for_function("() => document.body.dataset.save === 'offline'")
    second = window("6", context=first.page.context)
    assert len(second.objects()) == 1
    first.page.unroute("**/operations")
    first.tool("Select and move")
    first.drag((10, 35), (20, 35))
    first.saved()
    assert not first.page.locator("dialog[open]").count()
    assert len(first.objects()) == 1


def test_the_server_dies_and_comes_back(window: Window, start: Start, no_sam: Sequence[str]) -> None:
    token = ("--token", "the-same-every-time")
    first = start(*no_sam, *token, images=2)
    page = window("0", first)
    box(page, 0)
    page.saved()
    first.kill()
    box(page, 1)
    box(page, 2)
    page.press("Control+z")
    page.page.wait_for_function("() => document.body.dataset.save === 'offline'")
    start(*no_sam, *token, folder=first.folder, port=first.port)
    assert len(page.objects()) == 2
    page.reload()
    assert page.shown() == 2


def test_leaving_an_image_saves_it(window: Window) -> None:
    page = window("7")
    box(page, 0)
    page.press("PageDown")
    page.wait_for_image("8")
    assert len(page.labels("7")["objects"]) == 1
    page.press("PageUp")
    page.wait_for_image("7")
    assert page.shown() == 1
    # Undo is of the image at hand: it does not reach back into another one.
    page.press("Control+z")
    assert len(page.objects()) == 1
