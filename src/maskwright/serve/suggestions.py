"""What `maskwright next` and `maskwright audit` wrote, for the list of images: which to label or to look at, in which order, and why."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from maskwright.errors import DataError
from maskwright.methods.curate.lists import AUDIT, AUDIT_FORMAT, NEXT, NEXT_FORMAT

FORMATS = {NEXT_FORMAT: "suggestions", AUDIT_FORMAT: "suspects"}
"""The formats that are read, and where each has its images, in order."""

FILES = (NEXT, AUDIT)


def read_suggestions(path: Path, images: Collection[str]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Suggestions by image, and what there is to say about them.

    Args:
        path: ``next.json``, ``audit.json``, or a folder with one of them.
        images: ids of the dataset's images; others are left out and counted.

    Returns:
        ``{"rank", "kind", "reason", "look"}`` by image: from 1; the kind of label to draw, or of error to look for; one sentence; whether
        the image has a mask that is to be looked at.

    Raises:
        DataError: the file cannot be read or is something else, or none of its images is in the dataset.
    """
    if path.is_dir():
        path = next((path / name for name in FILES if (path / name).is_file()), path / FILES[0])
    remedy = "give what `maskwright next --out` or `maskwright audit --out` wrote"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        entries = content[FORMATS[content["format"]]]
        found = [_suggestion(number, entry) for number, entry in enumerate(entries, 1)]
    except FileNotFoundError:
        raise DataError([f"{path}: is not there; {remedy}"]) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError([f"{path}: is no list of suggestions ({type(error).__name__}: {error}); {remedy}"]) from None
    known = {id: suggestion for id, suggestion in found if id in set(images)}
    if found and not known:
        raise DataError(
            [f"{path}: none of its {len(found)} images is in this dataset; give the list that was made of it"]
        )
    lost = len(found) - len(known)
    said = [f"{path}: {lost} of {len(found)} images are not in this dataset and are left out"] if lost else []
    return known, said


def _suggestion(number: int, entry: Any) -> tuple[str, dict[str, Any]]:
    look = "wrong" in entry
    reason = f"looks {entry['kind']} with a probability of {entry['wrong']:.0%}" if look else str(entry["reason"])
    return str(entry["id"]), {"rank": number, "kind": str(entry["kind"]), "reason": reason, "look": look}
