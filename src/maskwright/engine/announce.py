"""The first line of a training, printed before PyTorch is imported, which takes seconds."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any, Protocol

from maskwright.data.files import require_there


class Announced(Protocol):
    """What is said of a recipe's settings."""

    data: Path
    out: Path
    sam: str
    seed: int
    device: Any

    @property
    def length(self) -> Any: ...


def announce(recipe: str, config: Announced) -> float:
    """Say what is about to be trained, and return ``time.monotonic()``: the training's clock starts here.

    Raises:
        DataError: the dataset is not there; said at once, rather than when PyTorch is loaded.
    """
    require_there(config.data)
    started = time.monotonic()
    if os.environ.get("RANK", "0") == "0":
        print(
            f"training {recipe} on {config.data} for {config.length} in all; SAM {config.sam}, device {config.device}, "
            f"seed {config.seed}; run: {config.out}\nloading PyTorch ...",
            file=sys.stderr,
            flush=True,
        )
    return started
