"""What MkDocs is told besides ``mkdocs.yml``: pages from outside of ``docs/`` join the site, and links to source files become their names.

The README is the site's first page and the changelog its last. A page links to source files by their place in the repository, which a
site does not have.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]

PAGES = {
    "index.md": "README.md",
    "changelog.md": "CHANGELOG.md",
    "benchmarks.md": "benchmarks/README.md",
    "nano-card.md": "src/maskwright/sam/nano/README.md",
    "nano-clip-card.md": "src/maskwright/nets/nano_clip/README.md",
}
"""Pages of the site by their sources in the repository."""

_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s#]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages from outside of ``docs/``."""
    for name, source in PAGES.items():
        files.append(File.generated(config, name, content=(ROOT / source).read_text("utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point links of a page to places of the site."""
    source = PurePosixPath(PAGES.get(page.file.src_uri, f"docs/{page.file.src_uri}"))
    return _LINK.sub(lambda match: _moved(match, source.parent), markdown)


def _moved(match: re.Match[str], folder: PurePosixPath) -> str:
    """A link as the site has it; one to a file that the site does not have is the text alone."""
    picture, text, target, anchor = match.groups()
    if re.match(r"[a-z]+:", target):
        return match[0]
    place = _normal(folder / target)
    names = {source: name for name, source in PAGES.items()}
    if place in names:
        return f"{picture}[{text}]({names[place]}{anchor or ''})"
    if place.startswith("docs/"):
        return f"{picture}[{text}]({place.removeprefix('docs/')}{anchor or ''})"
    return text


def _normal(path: PurePosixPath) -> str:
    """A path without ``..``."""
    parts: list[str] = []
    for part in path.parts:
        if part == "..":
            parts.pop()
        else:
            parts.append(part)
    return "/".join(parts)
