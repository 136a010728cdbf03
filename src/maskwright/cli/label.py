"""The labelling page, and the server for other programs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, UseAppendAction, arg

from maskwright.api import ImageReading
from maskwright.cli.shared import OPTIONAL, Data, Reading

if TYPE_CHECKING:
    from maskwright.serve.server import Address


@dataclass
class Listening:
    """Models and addresses that both servers have."""

    agent: Annotated[Path | None, OPTIONAL] = None
    """A run of `clicks`, which answers clicks and boxes, and corrects masks."""
    sam: str = "nano"
    """SAM that answers clicks and boxes: `nano`, a Hugging Face id, a folder, or an official .pt file."""
    images: Annotated[UseAppendAction[tuple[Path, ...]], OPTIONAL] = ()
    """A folder in which the images of Label Studio's tasks are looked for; may be given several times."""
    host: str = "127.0.0.1"
    """Address to listen on. One that other machines can reach, such as 0.0.0.0, needs --token."""
    port: Annotated[int | None, OPTIONAL] = None
    """Port to listen on; left out, the first free one from 8765 on."""
    token: Annotated[str | None, OPTIONAL] = None
    """What opens the server; left out, a new one every time."""
    known_as: Annotated[UseAppendAction[tuple[str, ...]], OPTIONAL] = ()
    """Another name that the server is reached by, such as host.docker.internal, or NAME:PORT; may be given several times."""

    def address(self) -> Address:
        from maskwright.serve.server import Address

        return Address(self.host, self.port, self.token, self.known_as)


@dataclass
class _LabelData:
    data: Data
    """A folder of images (a manifest is made), or a dataset."""
    run: Annotated[Path | None, OPTIONAL] = None
    """A trained run that proposes masks of whole images."""
    next: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(optional)")] = None
    """What `maskwright next --out` or `maskwright audit --out` wrote about this dataset: images are done in that order, each with its
    reason."""


@dataclass
class Label(Listening, _LabelData):
    """Label images in the browser: masks, boxes, scribbles, points, tags, with SAM at hand; train and correct from the same page.

    Everything is saved at once. Nothing leaves this machine. Label Studio can connect to the same server.
    """

    browser: bool = True
    """Open the page in the browser."""
    image_reading: Reading = field(default_factory=ImageReading)

    def __call__(self) -> None:
        from maskwright.api import busy

        with busy("starting"):
            from maskwright.serve.server import label
        label(
            self.data,
            run=self.run,
            agent=self.agent,
            suggestions=self.next,
            sam=self.sam,
            images=self.images,
            image_reading=self.image_reading,
            address=self.address(),
            browser=self.browser,
        )


@dataclass
class _ServeRun:
    run: Annotated[Positional[Path | None], arg(metavar="RUN", help_behavior_hint="(optional)")] = None
    """A trained run that proposes masks of whole images; left out, SAM alone answers."""


@dataclass
class Serve(Listening, _ServeRun):
    """Answer other programs: a JSON API for images that they send, described at /api/docs, and Label Studio's protocol.

    Nothing leaves this machine, and nothing is fetched from addresses.
    """

    def __call__(self) -> None:
        from maskwright.api import busy

        with busy("starting"):
            from maskwright.serve.server import serve
        serve(self.run, agent=self.agent, sam=self.sam, images=self.images, address=self.address())
