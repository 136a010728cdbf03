"""The pages that are served, and where their files are."""

from __future__ import annotations

from pathlib import Path

from starlette.responses import FileResponse, Response

STATIC = Path(__file__).parent / "static"


def page(name: str) -> Response:
    """A page by the name of its file; browsers are told not to keep it."""
    return FileResponse(STATIC / name, headers={"cache-control": "no-store"})
