"""The site of ``docs/`` is built without a warning, every link and anchor checked, and fetches nothing when it is opened."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


def test_every_page_is_in_it(site: Path) -> None:
    wanted = {path.stem for path in (ROOT / "docs").glob("*.md")} | {"index", "changelog", "benchmarks", "nano-card"}
    assert wanted <= {path.stem for path in site.glob("*.html")}
    assert "Segmentation models from whatever labels" in (site / "index.html").read_text("utf-8")


def test_links_to_files_that_a_site_does_not_have_are_their_names(site: Path) -> None:
    # The page for what is not there is served from anywhere: its links begin at the root.
    for page in set(site.glob("*.html")) - {site / "404.html"}:
        targets = re.findall(r'href="([^"#]+)', page.read_text("utf-8"))
        for target in targets:
            if not re.match(r"[a-z]+:|//", target):
                assert (site / target).exists(), f"{page.name}: {target}"
                assert not target.endswith((".py", ".md"))


def test_nothing_is_fetched_when_a_page_opens(site: Path) -> None:
    for page in site.glob("*.html"):
        text = page.read_text("utf-8")
        assert not re.findall(r'<(?:script|img)[^>]+src="https?:', text)
        assert not re.findall(r'<link[^>]+rel="(?:stylesheet|preconnect)"[^>]+href="https?:', text)
