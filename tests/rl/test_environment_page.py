"""The code of the page about click environments, run as a reader would: from top to bottom, in an empty folder."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

PAGE = Path(__file__).parents[2] / "docs" / "click-environment.md"


def test_the_page_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("stable_baselines3")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^( *)```python\n(.*?)^ *```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 6
    names: dict[str, object] = {}
    for indent, block in blocks:
        lines = [line.removeprefix(indent) for line in block.splitlines()]
        exec("\n".join(lines), names)
    assert Image.open("episode.gif").n_frames >= 2
    assert Path("agent.zip").is_file()
    assert 0 <= names["info"]["dice"] <= 1  # type: ignore[index]
