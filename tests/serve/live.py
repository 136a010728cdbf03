"""`maskwright label` and `maskwright serve` as processes of their own, as a user starts them."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

PATIENCE = 60.0
"""Seconds that a busy machine may take to start the server, or to stop it."""


class Live:
    """A running server of a folder, or without one.

    Args:
        folder: what is labelled; None: the server for other programs.
        options: further options of the command.
        output: where its output goes.
        port: 0 for any that is free.

    Attributes:
        address: such as ``http://127.0.0.1:40123``.
        url: the address that opens the page, token and all.
    """

    def __init__(self, folder: Path | None, output: Path, options: Sequence[str] = (), port: int = 0) -> None:
        self.output, self.folder = output, folder or output.parent
        what = ["serve"] if folder is None else ["label", str(folder), "--no-browser"]
        command = [sys.executable, "-m", "maskwright", *what, "--port", str(port), *options]
        with output.open("wb") as file:
            environment = os.environ | {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
            self.process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
        self.url = self._wait_for_address()
        self.address, _, self.token = self.url.partition("/?token=")
        self.port = int(self.address.rpartition(":")[2])
        self.about = "/api/server" if folder is None else "/api/project"

    def __enter__(self) -> Live:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _wait_for_address(self) -> str:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if found := re.search(r"http://\S+", self.said()):
                return found[0]
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        self.kill()
        raise AssertionError(f"the server did not start: {self.said()}")

    def said(self) -> str:
        """What the process has written so far."""
        return self.output.read_text(errors="replace")

    @contextlib.contextmanager
    def client(self) -> Iterator[httpx.Client]:
        """A client that is logged in and comes from the page."""
        # A connection for each request: on a busy machine one that is kept may be closed by the server just when it is used again.
        fresh = httpx.Limits(max_keepalive_connections=0)
        headers = {"origin": self.address}
        with httpx.Client(base_url=self.address, headers=headers, timeout=PATIENCE, limits=fresh) as client:
            assert client.get("/", params={"token": self.token}).status_code == 303
            yield client

    def wait_for_sam(self) -> None:
        """Until clicks are answered."""
        with self.client() as client:
            end = time.monotonic() + PATIENCE
            while (sam := client.get(self.about).json()["sam"])["state"] == "loading":
                assert time.monotonic() < end, self.said()
                time.sleep(0.1)
        assert sam["state"] == "ready", sam

    def stop(self) -> None:
        """End it in order; what was drawn is in the dataset afterwards."""
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(PATIENCE)

    def kill(self) -> None:
        """End it as a power cut does."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(PATIENCE)


def objects(client: httpx.Client, image: str) -> list[dict[str, Any]]:
    """The objects of an image, as the server has them."""
    answer = client.get(f"/api/images/{image}/annotations")
    assert answer.status_code == 200, answer.text
    return answer.json()["objects"]


def change(
    client: httpx.Client, image: str, base: int, *operations: dict[str, Any], who: str = "test"
) -> httpx.Response:
    """Send operations for an image."""
    body = {"base_rev": base, "client_id": who, "operations": list(operations)}
    return client.post(f"/api/images/{image}/operations", json=body)
