"""Starts a server: the labelling page of a dataset, or the API alone. It listens, says where, and ends in order."""

from __future__ import annotations

import contextlib
import socket
import threading
import webbrowser
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from starlette.applications import Starlette

from maskwright.data.image_reading import PLAIN, ImageReading
from maskwright.errors import MaskwrightError
from maskwright.serve.app import Access, labelling_app, predicting_app
from maskwright.serve.jobs import Jobs
from maskwright.serve.label_studio import LabelStudio
from maskwright.serve.labelling import Labelling
from maskwright.serve.models import Models
from maskwright.serve.predicting import Predicting
from maskwright.serve.project import Project
from maskwright.serve.safety import EVERYWHERE, LOOPBACK, Hosts, new_token
from maskwright.serve.sent_images import SentImages
from maskwright.serve.tiles import Pictures

PORT = 8765
"""Where the server is looked for first; the next free port is taken where another process has it."""


@dataclass(frozen=True)
class Address:
    """Where to listen.

    Attributes:
        host: an address; one that others can reach needs ``token``.
        port: None: the first free one from ``PORT`` on.
        token: what opens the server; None: a new one.
        names: further names that it is reached by, see :class:`maskwright.serve.safety.Hosts`.

    Raises:
        MaskwrightError: an open host without a token, a token that is too short, or no port.
    """

    host: str = "127.0.0.1"
    port: int | None = None
    token: str | None = None
    names: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.is_open and not self.token:
            raise MaskwrightError(
                f"--host {self.host}: others can reach this address, so give a --token that they must know"
            )
        if self.port is not None and not 0 <= self.port < 65536:
            raise MaskwrightError(f"--port {self.port}: must be 0..65535")
        token = self.token
        if token is not None and (len(token) < 8 or not token.isascii() or not token.isprintable() or " " in token):
            raise MaskwrightError("--token: must be at least 8 characters of plain text, without spaces")

    @property
    def is_open(self) -> bool:
        """Whether other machines can reach it."""
        return self.host not in LOOPBACK


def label(
    data: str | Path,
    *,
    run: str | Path | None = None,
    agent: str | Path | None = None,
    suggestions: str | Path | None = None,
    sam: str = "nano",
    images: Sequence[Path] = (),
    image_reading: ImageReading = PLAIN,
    address: Address | None = None,
    browser: bool = True,
    tell: Callable[[str], None] = print,
) -> None:
    """Serve the labelling page of a dataset until the process is interrupted.

    Args:
        data: a folder of images, or a dataset whose labels can be written.
        run: a trained run that proposes masks.
        agent: a run of ``clicks``, which answers clicks and boxes, and corrects masks.
        suggestions: what `maskwright next` or `maskwright audit` wrote about the dataset: the images are done in that order.
        sam: answers clicks and boxes.
        images: further folders in which the images of Label Studio's tasks are looked for.
        image_reading: which page, channels and numbers of the dataset's image files are shown, and learnt from.
        address: where to listen.
        browser: open the page.
        tell: says where the page is.

    Raises:
        MaskwrightError: no such model or folder, or a port that cannot be had.
        DataError, RunError: see :class:`maskwright.serve.project.Project`.
    """
    pictures = Pictures(reading=image_reading)
    models = Models(sam, pictures, _path(run), _path(agent))
    folders = _folders(images)
    with contextlib.ExitStack() as stack:
        project = Project(data, image_reading, _path(suggestions))
        stack.callback(project.close)
        sent = SentImages(pictures)
        stack.callback(sent.close)
        for line in project.said:
            tell(line)
        jobs = Jobs(project.work / "trainings", project.snapshot, sam, image_reading)
        labelling = Labelling(project, models, jobs)
        label_studio = LabelStudio(models, [project.root, *folders], sent)
        told, hint = f"labelling {project.root}", "Ctrl-C ends it; what was drawn is saved at once"
        _run(lambda access: labelling_app(labelling, label_studio, access), models, address, told, hint, browser, tell)


def serve(
    run: str | Path | None = None,
    *,
    agent: str | Path | None = None,
    sam: str = "nano",
    images: Sequence[Path] = (),
    address: Address | None = None,
    tell: Callable[[str], None] = print,
) -> None:
    """Serve SAM and trained models to other programs until the process is interrupted: the JSON API and Label Studio's protocol.

    Args:
        run: a trained run that proposes masks; left out, SAM alone answers.
        agent, sam, images, address, tell: see :func:`label`.

    Raises:
        MaskwrightError: no such model or folder, or a port that cannot be had.
    """
    pictures = Pictures()
    models = Models(sam, pictures, _path(run), _path(agent))
    folders = _folders(images)
    with contextlib.closing(SentImages(pictures)) as sent:
        predicting, label_studio = Predicting(sent, models), LabelStudio(models, folders, sent)
        told = f"serving {run if run else sam}"
        hint = "programs send the token along (Authorization: Bearer TOKEN, or as a password); Ctrl-C ends it"
        _run(lambda access: predicting_app(predicting, label_studio, access), models, address, told, hint, False, tell)


def _run(
    make: Callable[[Access], Starlette],
    models: Models,
    address: Address | None,
    told: str,
    hint: str,
    browser: bool,
    tell: Callable[[str], None],
) -> None:
    address = address or Address()
    listener, port = _listen(address.host, address.port)
    with listener:
        secret = address.token or new_token()
        app = make(Access(secret, port, Hosts(address.host, port, address.names)))
        host = address.host
        shown = "[::1]" if host == "::1" else "127.0.0.1" if host in (*EVERYWHERE, "localhost") else host
        link = f"http://{f'[{shown}]' if ':' in shown and not shown.startswith('[') else shown}:{port}/?token={secret}"
        if address.is_open:
            tell(
                f"warning: everybody who can reach {host}:{port} and knows the token can use this server and change its data"
            )
        tell(f"{told}: {link}\n{hint}")
        config = uvicorn.Config(app, log_level="warning", timeout_keep_alive=30, h11_max_incomplete_event_size=65536)
        if browser:
            threading.Timer(0.5, webbrowser.open, [link]).start()
        threading.Thread(target=models.load, name="loading SAM", daemon=True).start()
        try:
            uvicorn.Server(config).run(sockets=[listener])
        finally:
            models.close()


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)


def _folders(paths: Sequence[Path]) -> list[Path]:
    """Raises MaskwrightError for what is no folder."""
    for path in paths:
        if not path.is_dir():
            raise MaskwrightError(f"--images {path}: there is no such folder")
    return list(paths)


def _listen(host: str, port: int | None) -> tuple[socket.socket, int]:
    """A bound socket. Raises MaskwrightError where the port is another's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for number in [port] if port is not None else [*range(PORT, PORT + 20), 0]:
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            listener.bind((host, number))
            # From here on connections wait instead of being refused: the address is printed before the server is up.
            listener.listen(128)
            return listener, listener.getsockname()[1]
        listener.close()
    raise MaskwrightError(f"--port {port}: cannot be listened on at {host}; name another, or leave it out")
