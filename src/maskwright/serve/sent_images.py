"""Images that clients send: files of a temporary folder, named by what is in them, the least recently used ones dropped."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

from starlette.concurrency import run_in_threadpool

from maskwright.data.images import image_size
from maskwright.errors import DataError
from maskwright.serve.scratch import ScratchFolder
from maskwright.serve.tiles import Pictures
from maskwright.serve.wire import Size, WireError

KEPT_BYTES = 4 * 2**30
"""Bytes of images that are kept; one image at least."""

KEPT = 1_000
"""Images that are kept."""

AT_ONCE = 2**30
"""Bytes of images that may be on their way at the same time."""


class SentImages:
    """Images that were sent, by the hash of their file: what is sent twice is there once.

    Args:
        pictures: decodes them, with all its checks.
        kept, kept_bytes: how much is kept.
    """

    def __init__(self, pictures: Pictures, kept: int = KEPT, kept_bytes: int = KEPT_BYTES) -> None:
        self.pictures, self.kept, self.kept_bytes = pictures, kept, kept_bytes
        self._folder = ScratchFolder()
        self._mutex = threading.Lock()
        self._images: OrderedDict[str, tuple[Size, int]] = OrderedDict()
        self._on_their_way = 0

    def close(self) -> None:
        self._folder.close()

    def path(self, image: str) -> Path:
        """The file of an image, which becomes the most recently used. Raises WireError where it is not there (any more)."""
        self.size(image)
        return self._path(image)

    def size(self, image: str) -> Size:
        """(width, height). Raises WireError as ``path`` does."""
        with self._mutex:
            if image not in self._images:
                raise WireError("there is no such image, or it was dropped for newer ones; send it again", 404)
            self._images.move_to_end(image)
            return self._images[image][0]

    async def receive(self, pieces: AsyncIterator[bytes]) -> str:
        """Keep an image that comes in pieces; returns its id.

        Raises:
            WireError: no image that can be read, or too much is on its way at once.
        """
        digest, received = hashlib.sha256(), 0
        aside = Path(self._folder.path, f"{uuid4().hex}.part")
        try:
            with aside.open("wb") as file:
                async for piece in pieces:
                    received += len(piece)
                    self._on_their_way += len(piece)
                    if self._on_their_way > AT_ONCE:
                        raise WireError("too many images are being sent at once; try again", 503)
                    digest.update(piece)
                    await run_in_threadpool(file.write, piece)
            return await run_in_threadpool(self._take, aside, digest.hexdigest()[:32])
        finally:
            self._on_their_way -= received
            aside.unlink(missing_ok=True)

    def add(self, content: bytes) -> str:
        """Keep an image; returns its id. Raises WireError where it cannot be read."""
        aside = Path(self._folder.path, f"{uuid4().hex}.part")
        try:
            aside.write_bytes(content)
            return self._take(aside, hashlib.sha256(content).hexdigest()[:32])
        finally:
            aside.unlink(missing_ok=True)

    def _take(self, aside: Path, image: str) -> str:
        """Give a file that is complete its name. It is decoded now, so that what has an id can be read."""
        with self._mutex:
            if image in self._images:
                self._images.move_to_end(image)
                return image
        length, path = aside.stat().st_size, self._path(image)
        aside.replace(path)
        try:
            size = image_size(path)
            self.pictures.pixels(path)
        except DataError as error:
            path.unlink(missing_ok=True)
            # Where the file lies on this machine is no business of a client's.
            raise WireError("; ".join(error.problems).replace(str(path), "the image")) from error
        with self._mutex:
            self._images[image] = size, length
            while len(self._images) > 1 and (
                len(self._images) > self.kept or sum(length for _, length in self._images.values()) > self.kept_bytes
            ):
                dropped, _ = self._images.popitem(last=False)
                self._path(dropped).unlink(missing_ok=True)
        return image

    def _path(self, image: str) -> Path:
        return Path(self._folder.path, image)
