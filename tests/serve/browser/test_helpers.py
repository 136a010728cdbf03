"""The click agent by its button, and the page that describes the API, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests.serve.browser.conftest import Start, Window
from tests.serve.live import Live
from tests.tiny_model import save_agent

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def live(start: Start, tiny_sam_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Live:
    agent = save_agent(tmp_path_factory.mktemp("agents") / "agent", tiny_sam_folder)
    server = start("--sam", str(tiny_sam_folder), "--agent", str(agent), images=2)
    server.wait_for_sam()
    return server


def test_the_agent_corrects_the_selected_mask(window: Window, live: Live) -> None:
    page = window("0")
    page.tool("Brush")
    page.drag((60, 60), (140, 60), (140, 120), (60, 120))
    page.saved()
    (before,) = page.objects()
    page.tool("Smart: SAM answers clicks and boxes")
    with page.page.expect_response("**/correct") as answered:
        page.page.get_by_role("button", name="Correct", exact=True).click()
    assert answered.value.status == 200
    page.settle()
    page.press("Enter")
    page.saved()
    (after,) = page.objects()
    with live.client() as client:
        wanted = client.post("/api/images/0/correct", json={"mask": before["mask"]}).json()
    assert wanted["clicks"]
    assert after["id"] == before["id"]
    assert after["mask"] == wanted["mask"]
    # It can be taken back.
    page.press("Control+z")
    page.saved()
    assert page.objects()[0]["mask"] == before["mask"]


def test_the_agent_answers_a_draft_and_the_clicks_that_follow(window: Window, live: Live) -> None:
    page = window("1")
    page.tool("Smart: SAM answers clicks and boxes")
    page.click((80, 80))
    page.settle()
    button = page.page.get_by_role("button", name="Correct", exact=True)
    with page.page.expect_response("**/correct"):
        button.click()
    page.settle()
    assert button.get_attribute("aria-pressed") == "true"
    with page.page.expect_response("**/correct") as answered:
        page.click((120, 100))
    points = answered.value.request.post_data_json["points"]
    assert [on for *_, on in points] == [1, 1]
    page.settle()
    # Pressed again it is SAM who answers, and pressed once more the agent.
    with page.page.expect_response("**/predict"):
        button.click()
    page.settle()
    assert button.get_attribute("aria-pressed") == "false"
    with page.page.expect_response("**/correct"):
        button.click()
    page.settle()
    page.press("Enter")
    page.saved()
    (made,) = page.objects()
    assert made["mask"] == answered.value.json()["mask"]
    # The next draft is SAM's again.
    page.press("n")
    with page.page.expect_response("**/predict"):
        page.click((40, 40))
    page.press("Escape")


@pytest.fixture
def described(browser: Browser, live: Live) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.goto(live.url)
    page.goto(f"{live.address}/api/docs")
    page.wait_for_selector("#operations:not([aria-busy]) article")
    yield page
    context.close()
    # A refusal by the content security policy is an error of the console.
    assert not errors


def test_the_page_of_the_api_shows_every_operation(described: Page, live: Live) -> None:
    with live.client() as client:
        document = client.get("/api/openapi.json").json()
    operations = {each["operationId"] for path in document["paths"].values() for each in path.values()}
    shown = described.locator("#operations article").evaluate_all("all => all.map(each => each.id)")
    assert sorted(shown) == sorted(operations)
    for name in document["components"]["schemas"]:
        assert described.locator(f"#shape-{name} pre").inner_text()
    text = described.locator("#predict_tasks").inner_text()
    assert "POST" in text
    assert "/predict" in text
    assert '"label_config": text' in text
    # No sideways scrolling of the page, whatever the window's width.
    described.set_viewport_size({"width": 420, "height": 800})
    assert described.evaluate("document.documentElement.scrollWidth <= innerWidth")
