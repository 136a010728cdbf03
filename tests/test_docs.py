"""What the pages refer to is there: files behind links, headings behind anchors, and every source file and function that is named."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "benchmarks/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
CARDS = sorted((ROOT / "src").rglob("README.md"))
"""Of bundled weights. They name programs as these were when the weights were made."""


def each(pages: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("page", pages, ids=lambda page: str(page.relative_to(ROOT)))


class Reference(NamedTuple):
    """A source file that a page names, and what in it."""

    file: str
    name: str


def links(page: Path) -> list[str]:
    """Where links and pictures point, but for other sites."""
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8"))
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def references(page: Path) -> list[Reference]:
    """Every ``path/file.py`` and ``path/file.py:name``; a file without a folder only between backticks."""
    text = page.read_text("utf-8")
    files = re.findall(r"(?<![\w/.-])((?:[\w.-]+/)+\w+\.py)(?::([A-Za-z_][\w.]*\w))?", text)
    files += re.findall(r"`(\w+\.py)(?::([A-Za-z_][\w.]*\w))?`", text)
    return [Reference(*found) for found in files]


def anchors(page: Path) -> set[str]:
    """As code hosts make them of headings: lower case, without punctuation, hyphens for spaces."""
    headings = re.findall(r"^#+ +(.+?) *$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def file_of(reference: str, page: Path) -> Path | None:
    """A source file by its path from the page, the repository, the package or, without a folder, from anywhere in the package."""
    places = [page.parent, ROOT, ROOT / "src" / "maskwright"]
    if "/" not in reference:
        places += [folder for folder in (ROOT / "src" / "maskwright").rglob("*") if folder.is_dir()]
    return next((place / reference for place in places if (place / reference).is_file()), None)


@cache
def names_in(file: Path) -> frozenset[str]:
    """Of functions, classes, methods (alone, and as ``Class.method``) and module constants."""
    names: set[str] = set()

    def add(body: list[ast.stmt], owner: str = "") -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names.update({node.name, owner + node.name})
                if isinstance(node, ast.ClassDef):
                    add(node.body, f"{node.name}.")
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names.update(target.id for target in targets if isinstance(target, ast.Name))

    add(ast.parse(file.read_text("utf-8")).body)
    return frozenset(names)


@each(PAGES + CARDS)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in links(page):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert not broken


@each(PAGES)
def test_source_files_that_are_named_are_there(page: Path) -> None:
    missing = []
    for reference in references(page):
        file = file_of(reference.file, page)
        if file is None or (reference.name and reference.name not in names_in(file)):
            missing.append(":".join(filter(None, reference)))
    assert not missing


def test_what_is_wrong_is_found(tmp_path: Path) -> None:
    """The reader of the pages itself, on a page with one of each."""
    page = tmp_path / "page.md"
    page.write_text(
        "# A `heading`, with punctuation\n"
        "[a](page.md#a-heading-with-punctuation) [b](gone.md) [c](https://example.org/x.md) ![d](gone.png)\n"
        "`sam/sam.py:Sam.decode` `sam/sam.py` [sam/gone.py](x) `errors.py:MaskwrightError`, tools/pretrain_nano.py. "
        "src/maskwright/recipes/samix/trainer.py:fit; errors.py\n"
    )
    assert links(page) == ["page.md#a-heading-with-punctuation", "gone.md", "gone.png", "x"]
    assert anchors(page) == {"a-heading-with-punctuation"}
    assert references(page) == [
        ("sam/sam.py", "Sam.decode"),
        ("sam/sam.py", ""),
        ("sam/gone.py", ""),
        ("tools/pretrain_nano.py", ""),
        ("src/maskwright/recipes/samix/trainer.py", "fit"),
        ("errors.py", "MaskwrightError"),
    ]
    assert file_of("sam/gone.py", page) is None
    assert file_of("sam/sam.py", page) == ROOT / "src/maskwright/sam/sam.py"
    assert {"Sam.decode", "decode", "Sam"} <= names_in(ROOT / "src/maskwright/sam/sam.py")
    assert "gone" not in names_in(ROOT / "src/maskwright/sam/sam.py")
