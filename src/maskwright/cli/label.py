"""The labelling page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from maskwright.cli.shared import OPTIONAL, Data


@dataclass
class Label:
    """Label images in the browser: masks, boxes, scribbles, points, tags, with SAM at hand; train and correct from the same page.

    Everything is saved at once. Nothing leaves this machine.
    """

    data: Data
    """A folder of images (a manifest is made), or a dataset."""
    run: Annotated[Path | None, OPTIONAL] = None
    """A trained run that proposes masks of whole images."""
    sam: str = "nano"
    """SAM that answers clicks and boxes: `nano`, a Hugging Face id, a folder, or an official .pt file."""
    host: str = "127.0.0.1"
    """Address to listen on. One that other machines can reach, such as 0.0.0.0, needs --token."""
    port: Annotated[int | None, OPTIONAL] = None
    """Port to listen on; left out, the first free one from 8765 on."""
    token: Annotated[str | None, OPTIONAL] = None
    """What opens the page; left out, a new one every time."""
    browser: bool = True
    """Open the page in the browser."""

    def __call__(self) -> None:
        from maskwright.api import busy

        with busy("starting"):
            from maskwright.serve.server import label

        label(**vars(self))
