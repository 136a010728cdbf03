"""The processes that share a piece of work: one, unless ``accelerate launch`` or ``torchrun`` started several."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch


class Processes(Protocol):
    """The part of ``accelerate.PartialState`` that is used here."""

    @property
    def is_main_process(self) -> bool: ...
    @property
    def num_processes(self) -> int: ...
    @property
    def process_index(self) -> int: ...
    def wait_for_everyone(self) -> None: ...


class Alone:
    """A single process."""

    is_main_process = True
    num_processes = 1
    process_index = 0

    def wait_for_everyone(self) -> None:
        """Nothing: there is no other process."""


def is_cpu(device: str | torch.device) -> bool:
    """Whether computing is going to be on the CPU. accelerate has to be told: without a GPU it takes several processes for single ones.

    Raises:
        MaskwrightError: this machine cannot use the device.
    """
    from maskwright.engine.devices import find_device

    return str(device) == "cpu" or (str(device) == "auto" and find_device("auto").type == "cpu")


def processes_for(device: str | torch.device = "auto") -> tuple[Processes, torch.device]:
    """The processes of this call, and the device of this one.

    Args:
        device: ``"auto"``: a GPU if there is one, of several processes each its own.

    Raises:
        MaskwrightError: this machine cannot use the device.
    """
    from maskwright.engine.devices import find_device  # brings PyTorch

    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Alone(), find_device(device)
    from accelerate import PartialState  # a second to import, and only several processes need it

    state = PartialState(cpu=is_cpu(device))
    this_device = state.device if str(device) in ("auto", "cuda") else find_device(device)
    assert this_device is not None
    return state, this_device
