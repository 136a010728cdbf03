"""Which device a network computes on."""

from __future__ import annotations

import torch

from maskwright.errors import MaskwrightError


def find_device(name: str | torch.device) -> torch.device:
    """The device of that name; ``"auto"`` is a GPU if there is one. Raises MaskwrightError where this machine cannot use it."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise MaskwrightError(f"--device {name}: not usable here ({reason}); give auto, cpu or cuda") from error
    return device
