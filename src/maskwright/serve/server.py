"""Starts the labelling page: opens the dataset, listens, says where, opens the browser, and ends in order."""

from __future__ import annotations

import contextlib
import socket
import threading
import webbrowser
from collections.abc import Callable
from pathlib import Path

import uvicorn

from maskwright.errors import MaskwrightError
from maskwright.serve.app import Server, make_app
from maskwright.serve.jobs import Jobs
from maskwright.serve.project import Project
from maskwright.serve.safety import hosts_of, new_token
from maskwright.serve.tiles import Pictures

LOOPBACK = ("127.0.0.1", "localhost", "::1")

PORT = 8765
"""Where the page is looked for first; the next free port is taken where another process has it."""


def label(
    data: str | Path,
    *,
    run: str | Path | None = None,
    sam: str = "nano",
    host: str = "127.0.0.1",
    port: int | None = None,
    token: str | None = None,
    browser: bool = True,
    tell: Callable[[str], None] = print,
) -> None:
    """Serve the labelling page of a dataset until the process is interrupted.

    Args:
        data: a folder of images, or a dataset whose labels can be written.
        run: a trained run that proposes masks.
        sam: answers clicks and boxes.
        host: an address to listen on; one that others can reach needs ``token``.
        port: left out, the first free one from ``PORT`` on.
        token: what opens the page; left out, a new one.
        browser: open the page.
        tell: says where the page is.

    Raises:
        MaskwrightError: an open host without a token, or a port that cannot be had.
        DataError, RunError: see :class:`maskwright.serve.project.Project`.
    """
    if host not in LOOPBACK and not token:
        raise MaskwrightError(f"--host {host}: others can reach this address, so give a --token that they must know")
    if token is not None and (len(token) < 8 or not token.isascii() or not token.isprintable() or " " in token):
        raise MaskwrightError("--token: must be at least 8 characters of plain text, without spaces")
    project = Project(data)
    try:
        listener, port = _listen(host, port)
        with listener:
            jobs = Jobs(project.work / "trainings", project.snapshot, sam)
            server = Server(project, Pictures(), jobs, sam, Path(run) if run else None)
            secret = token or new_token()
            hosts = hosts_of(host, port) if host in LOOPBACK else frozenset()
            app = make_app(server, secret, port, hosts)
            for line in project.said:
                tell(line)
            shown = "[::1]" if host == "::1" else "127.0.0.1" if host in ("0.0.0.0", "localhost") else host
            address = f"http://{shown}:{port}/?token={secret}"
            if host not in LOOPBACK:
                tell(
                    f"warning: everybody who can reach {host}:{port} and knows the token can read and change this dataset"
                )
            tell(f"labelling {project.root}: {address}\nCtrl-C ends it; what was drawn is saved at once")
            config = uvicorn.Config(
                app, log_level="warning", timeout_keep_alive=30, h11_max_incomplete_event_size=65536
            )
            if browser:
                threading.Timer(0.5, webbrowser.open, [address]).start()
            threading.Thread(target=server.load_assistant, name="loading SAM", daemon=True).start()
            try:
                uvicorn.Server(config).run(sockets=[listener])
            finally:
                server.close()
    finally:
        project.close()


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
