"""Where things are kept that are made from other data, so that they are made once: masks (of COCO outlines, white masks), features, crops.

They can be made again at any time, so every folder named here may be deleted. In this order, each with folders ``masks``, ``features``
and ``crops`` in it:

1. the folder of ``MASKWRIGHT_CACHE``, which ``--cache DIR`` sets;
2. ``.maskwright`` in the dataset's folder, if it can be written and no link leads out of it;
3. ``maskwright`` in the user's cache: ``XDG_CACHE_HOME``, or what the system has in its place.

In 1 and 3 each dataset has a folder of its own, named after the dataset's.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

VARIABLE = "MASKWRIGHT_CACHE"
"""The environment variable that names the folder of the caches; processes started from here see it too."""

INSIDE = ".maskwright"
"""The folder of the caches in a dataset's own folder."""


def use(folder: str | Path) -> None:
    """Keep what is made in this folder from now on, in this process and those that it starts."""
    os.environ[VARIABLE] = os.path.abspath(folder)


def mask_folder(root: Path) -> Path:
    """The folder for the masks made of a dataset; it need not be there yet.

    Args:
        root: the dataset's folder.

    Returns:
        ``root/.maskwright/masks``, or an absolute path elsewhere.
    """
    return _folder(root, "masks")


def feature_folder(root: Path) -> Path:
    """The folder for what SAMs make of a dataset's images; otherwise as :func:`mask_folder`."""
    return _folder(root, "features")


def crop_folder(root: Path) -> Path:
    """The folder for crops of a dataset's large images; otherwise as :func:`mask_folder`."""
    return _folder(root, "crops")


def holds(path: str) -> bool:
    """Whether a mask's path is one that was made here, outside the dataset: no path of the user's."""
    if not os.path.isabs(path):
        return False
    bases = [user_folder(), *([Path(os.environ[VARIABLE])] if os.environ.get(VARIABLE) else [])]
    return any(Path(path).is_relative_to(Path(os.path.abspath(base)) / "masks") for base in bases)


def user_folder() -> Path:
    """The folder in which this user's programs keep what can be made again."""
    if folder := os.environ.get("XDG_CACHE_HOME"):
        return Path(folder) / "maskwright"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "maskwright" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "maskwright"
    return Path.home() / ".cache" / "maskwright"


def _folder(root: Path, what: str) -> Path:
    if chosen := os.environ.get(VARIABLE):
        return Path(os.path.abspath(chosen)) / what / _name(root)
    if _can_hold(root, what):
        return root / INSIDE / what
    return user_folder() / what / _name(root)


def _can_hold(root: Path, what: str) -> bool:
    """Whether files can be written into the dataset's folder, and would stay in it."""
    folder = root / INSIDE / what
    if folder.parent.is_symlink() or folder.is_symlink():
        return False
    existing = next(place for place in (folder, folder.parent, root) if place.exists() or place == root)
    return os.access(existing, os.W_OK | os.X_OK)


def _name(root: Path) -> str:
    """A name for a dataset's folder that no other one has: its own, and a hash of where it is."""
    place = os.path.realpath(root)
    return f"{os.path.basename(place)[:60] or 'data'}-{hashlib.sha256(os.fsencode(place)).hexdigest()[:12]}"
