"""`label --next`: what is to be labelled, and which masks are to be looked at, in their order and with their reasons."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from maskwright.data.mask_files import write_mask
from tests.serve.browser.conftest import Start, Window

pytestmark = pytest.mark.slow


def test_images_come_in_the_order_of_next(window: Window, start: Start, no_sam, tmp_path: Path) -> None:
    entries = [{"id": name, "kind": "box", "reason": f"Reason {name}."} for name in ("7", "3")]
    (tmp_path / "next.json").write_text(json.dumps({"format": "maskwright next 1", "suggestions": entries}))
    page = window("0", start("--next", str(tmp_path), *no_sam))
    rows = page.page.locator("#images [role=option]")
    assert "suggested 1: box" in rows.nth(7).inner_text()
    assert "suggested 2: box" in rows.nth(3).inner_text()
    assert rows.nth(7).locator("small").get_attribute("title") == "Reason 7."
    for wanted in ("7", "3"):
        page.press("Shift+E", "Control+Enter")
        page.wait_for_image(wanted)
    page.press("Shift+E", "Control+Enter")
    page.wait_for_image("4")


def test_suspects_are_looked_at_until_they_are_marked_done(
    window: Window, start: Start, no_sam, scenes: list[Path], tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    for number in range(4):
        shutil.copy(scenes[number], folder / "images" / f"{number}.png")
        mask = np.zeros((256, 256), np.uint8)
        mask[40:90, 50:120] = 1
        write_mask(folder / "masks" / f"{number}.png", mask)
    suspects = [{"id": name, "kind": "shifted", "wrong": 0.8} for name in ("2", "1")]
    (tmp_path / "audit.json").write_text(json.dumps({"format": "maskwright audit 1", "suspects": suspects}))
    page = window("0", start("--next", str(tmp_path / "audit.json"), *no_sam, folder=folder))
    row = page.page.locator("#images [role=option]").nth(2)
    assert "suspect 1: shifted" in row.inner_text()
    assert row.locator("small").get_attribute("title") == "looks shifted with a probability of 80%"
    for wanted in ("2", "1"):
        page.press("Control+Enter")
        page.wait_for_image(wanted)
