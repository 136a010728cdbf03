"""A new dataset's folder: there when everything is in it, or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from maskwright.data.files import reason_of
from maskwright.errors import DataError


@contextmanager
def new_folder(out: str | Path, *sources: str | Path) -> Iterator[Path]:
    """Where to write what is to be in ``out``: a folder beside it, which gets its name at the end and is gone after an error.

    Args:
        out: does not exist yet, or is empty.
        sources: folders of the datasets that it is made of; it may lie in none of them.

    Raises:
        DataError: ``out`` is there already, lies in a dataset, or cannot be written.
    """
    require_new(out, *sources)
    out = Path(out)
    aside = out.with_name(f".{out.name}-{uuid4().hex[:12]}.part")
    try:
        yield aside
        _give_name(aside, out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)  # Gone already where all went well.


def require_new(out: str | Path, *sources: str | Path) -> None:
    """Raise DataError where :func:`new_folder` would refuse a folder, before long work is done for it."""
    out = Path(out)
    if os.path.lexists(out) and (not out.is_dir() or any(out.iterdir())):
        raise DataError([f"{out}: is there already; choose a new folder"])
    for source in sources:
        if Path(os.path.realpath(out)).is_relative_to(os.path.realpath(source)):
            raise DataError([f"{out}: lies in the dataset's folder, which stays as it is; choose a folder elsewhere"])


def _give_name(aside: Path, out: Path) -> None:
    try:
        if out.is_dir():
            out.rmdir()  # It is empty; not every system renames onto a folder.
        os.rename(aside, out)
    except OSError as error:
        raise DataError([f"{out}: cannot be written ({reason_of(error)}); choose another folder"]) from None
