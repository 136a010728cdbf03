"""How a model on the Hugging Face hub is named where a run directory may be: ``hf://OWNER/NAME``, or ``hf://OWNER/NAME@REVISION``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from maskwright.errors import MaskwrightError

_PREFIX = re.compile(r"hf:/+")
# One slash may be gone: a path that was parsed as one.

_ID = r"[A-Za-z0-9](?:[\w.-]{0,94}[A-Za-z0-9])?"
_NAME = re.compile(rf"({_ID}/{_ID})(?:@([\w][\w./-]*))?", re.ASCII)


@dataclass(frozen=True)
class HubName:
    """A repository of a model, and which state of it.

    Attributes:
        repo: ``OWNER/NAME``.
        revision: a branch, a tag or a commit; None: the newest.
    """

    repo: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"hf://{self.repo}" + (f"@{self.revision}" if self.revision else "")


def is_hub_name(name: str | Path) -> bool:
    """Whether a text or path names a model on the hub."""
    return _PREFIX.match(str(name)) is not None


def hub_name(name: str | Path) -> HubName:
    """A model on the hub by its name, with or without ``hf://``. Raises MaskwrightError for one that cannot be."""
    found = _NAME.fullmatch(_PREFIX.sub("", str(name), count=1))
    if not found:
        raise MaskwrightError(
            f"{name}: is no name on the Hugging Face hub; these are OWNER/NAME, or OWNER/NAME@REVISION"
        )
    return HubName(found[1], found[2])
