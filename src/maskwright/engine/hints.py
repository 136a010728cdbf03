"""What the help of a command says in place of a default that is None."""

from __future__ import annotations

from typing import Any

import tyro


def default(rule: str) -> Any:
    """For an option that is None until a rule gives it a value: the help shows the rule.

    >>> minutes: Annotated[float | None, default("none: the length is given by --epochs")] = None
    """
    return tyro.conf.arg(help_behavior_hint=f"(default: {rule})")
