"""The report: one file, nothing loaded from elsewhere, all text escaped, every picture described."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskwright.engine.report import Picture, Report
from maskwright.errors import DataError

NASTY = "<script>alert('x')</script> & $x \"quotes\" $y"


class Page(HTMLParser):
    """Tags, text, attributes; and whether every tag that was opened is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def report() -> Report:
    generator = np.random.default_rng(0)
    photo = generator.integers(0, 256, (300, 500, 3), dtype=np.uint8)
    steps = np.arange(5000)
    return (
        Report(NASTY, NASTY)
        .text(f"First.\n\nSecond {NASTY}", "Words")
        .table("Scores", ["category", "Dice", "images"], [[NASTY, 0.123456, 7], ["none", None, 0]], note=NASTY)
        .curves("Loss", {NASTY: (steps, np.sqrt(steps)), "other": ([0, 10, 20], [1, float("nan"), 3])}, y="loss")
        .curves("Nothing", {"empty": ([], [])})
        .bars("Gap", {NASTY: 0.5, "b": float("nan"), "c": -0.2}, errors={NASTY: (0.4, 0.6)}, y="Dice")
        .pictures("Photos", NASTY, [Picture(photo, NASTY), Picture(Image.new("L", (40, 20), 9), "flat", alt="grey")])
    )


def test_the_page_is_whole_and_self_contained(report: Report):
    text = report.html()
    page = Page(text)
    assert page.open == []
    names = {name for name, _ in page.tags}
    assert "script" not in names
    assert "link" not in names
    assert [a["src"] for a in page.all("img") if not str(a["src"]).startswith("data:image/")] == []
    addresses = set(re.findall(r"https?://[^\s\"'<)]*", text))
    assert addresses <= {"http://www.w3.org/1999/xlink", "http://www.w3.org/2000/svg"}
    assert "url(http" not in text
    assert "prefers-color-scheme: dark" in text


def test_text_is_escaped_and_kept(report: Report):
    page = Page(report.html())
    assert "".join(page.words).count("<script>alert('x')</script>") >= 6
    assert [name for name, _ in page.tags if name == "p"]
    assert "<script" not in report.html()


def test_every_picture_and_chart_says_what_it_shows(report: Report):
    page = Page(report.html())
    charts = [a for a in page.all("svg") if a.get("role") == "img"]
    assert len(charts) == 2
    assert "last values" in str(charts[0]["aria-label"])
    assert "b –" in str(charts[1]["aria-label"])
    assert [a["alt"] for a in page.all("img")] == [NASTY, "grey"]
    ids = [a["id"] for _, a in page.tags if a.get("id")]
    assert len(ids) == len(set(ids))


def test_charts_take_the_colour_of_the_text(report: Report):
    assert "#010203" not in report.html()
    assert "currentColor" in report.html()


def test_pictures_are_small_and_decode(report: Report):
    sources = [str(a["src"]) for a in Page(report.html()).all("img")]
    sizes = [Image.open(BytesIO(base64.b64decode(source.partition(",")[2]))).size for source in sources]
    assert sizes == [(640, 384), (40, 20)] or sizes == [(500, 300), (40, 20)]
    assert len(report.html()) < 400_000


def test_numbers_and_gaps(report: Report):
    text = report.html()
    assert '<td class="number">0.1235</td><td class="number">7</td>' in text
    assert '<td class="number">–</td>' in text
    assert text.count("There are no values yet.") == 1


def test_the_same_content_is_the_same_page_and_saved_whole(tmp_path: Path):
    def make() -> Report:
        return Report("a").curves("b", {"c": ([1, 2], [3, 4])}).bars("d", {"e": 1})

    path = make().save(tmp_path / "deep" / "report.html")
    assert path.read_text("utf-8") == make().html()
    assert [child.name for child in path.parent.iterdir()] == ["report.html"]


def test_mistakes_are_named(tmp_path: Path):
    with pytest.raises(ValueError, match=r"rows \[1\] do not have 2 cells"):
        Report("a").table("t", ["x", "y"], [[1, 2], [1]])
    with pytest.raises(ValueError, match="equally long"):
        Report("a").curves("t", {"c": ([1, 2], [1])})
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"report\.html"):
        Report("a").save(tmp_path / "file" / "report.html")
