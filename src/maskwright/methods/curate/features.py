"""Features of all images of a dataset in memory-mapped files: each image is encoded once, ever, and memory stays flat.

Whoever chooses among thousands of images goes through all of them again and again. An entry of ``sam.store.EmbeddingStore`` is
exact, and takes a file and a checksum for each image; here the levels of an embedding are averaged down to a bounded number of cells,
in half precision, one file a level, so that a pass over 10,000 images is a pass over a file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from maskwright.data import cache
from maskwright.data.dataset import Dataset
from maskwright.data.files import write_atomic
from maskwright.data.fingerprint import file_digest
from maskwright.data.labels import Sample
from maskwright.data.lookahead import ahead_readable
from maskwright.engine.locks import FolderLock
from maskwright.errors import DataError
from maskwright.sam.precompute import encode_canvases, read_canvas, signature
from maskwright.sam.sam import Embedding, Sam
from maskwright.sam.store import LEVELS

CELLS = {"high0": 64, "high1": 32, "low": 16}
"""Cells along a side of each level, at most; a SAM on a large canvas is averaged down to these."""

POOLING = 1
"""Version of how features are made of embeddings; to be raised whenever that changes."""

_KEYS, _SHAPES, _DIGESTS = "keys.txt", "shapes.json", "digests.json"


@dataclass(frozen=True)
class Features:
    """Features of N images, in the order of a dataset's samples.

    Attributes:
        folder: where they lie.
        rows: (N,) int64, the row of each image in the files; equal images share one.
        levels: by name, (M, C, h, w) float16, mapped into memory.
    """

    folder: Path
    rows: NDArray[np.int64]
    levels: dict[str, NDArray[np.float16]]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def channels(self) -> dict[str, int]:
        """Of each level."""
        return {name: level.shape[1] for name, level in self.levels.items()}

    @property
    def cells(self) -> int:
        """Cells along a side of the finest level."""
        return self.levels["high0"].shape[-1]

    def load(self, which: NDArray[np.integer] | slice | list[int]) -> dict[str, Tensor]:
        """Some images' features by level, (B, C, h, w) float32."""
        rows = self.rows[which]
        return {name: torch.from_numpy(np.asarray(level[rows])).float() for name, level in self.levels.items()}

    def load_low(self, which: NDArray[np.integer] | slice | list[int]) -> Tensor:
        """The coarsest level alone, (B, C, h, w) float32."""
        return torch.from_numpy(np.asarray(self.levels["low"][self.rows[which]])).float()

    def subset(self, which: NDArray[np.integer]) -> Features:
        """The features of some of the images."""
        return Features(self.folder, self.rows[which], self.levels)


def compute_features(
    sam: Sam,
    dataset: Dataset,
    *,
    folder: str | Path | None = None,
    batch: int = 16,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> Features:
    """The features of all images of a dataset; those that were computed before are not computed again.

    Args:
        sam: encodes the images, on its device.
        folder: where they are kept; left out, the dataset's cache (see ``data.cache``). Features of another SAM, or made otherwise,
            have a folder of their own in it.
        batch: images per pass of the encoder.
        workers: threads that decode images ahead.
        progress: called as ``progress(done, total)``.

    Raises:
        DataError: images that cannot be read, all of them at once, after all others are done.
        RunError: another process is computing them.
    """
    salt = json.dumps([asdict(signature(sam, "float16")), POOLING, CELLS], sort_keys=True)
    name = hashlib.sha256(salt.encode()).hexdigest()[:16]
    home = (Path(folder) if folder is not None else cache.feature_folder(dataset.root)) / name
    problems: list[str] = []
    with FolderLock(home, "let it finish"):
        names = _Digests(home / _DIGESTS).of(dataset, problems)
        files = _Files(home)
        fresh = {key: sample for key, sample in zip(names, dataset, strict=True) if key and key not in files.rows}
        files.extend(sam, dataset, fresh, batch, workers, problems, progress)
    if problems:
        raise DataError(problems, dataset.source or str(dataset.root))
    rows = np.array([files.rows[key] for key in names], dtype=np.int64)
    return Features(home, rows, files.mapped())


class _Digests:
    """What image files hold, as hashes; a file is read again only when its size or its time of modification changed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            known = json.loads(path.read_text())
        except (FileNotFoundError, ValueError):
            # It saves time and nothing else: where it is damaged, every file is read again.
            known = {}
        self.known: dict[str, list[Any]] = known if isinstance(known, dict) else {}

    def of(self, dataset: Dataset, problems: list[str]) -> list[str]:
        """A hash for each image, of its file and how it is read; "" and a problem where the file cannot be read."""
        said = json.dumps(dataset.image_reading.as_dict(), sort_keys=True).encode()
        before, names = dict(self.known), []
        for sample in dataset:
            path = dataset.image_path(sample)
            try:
                self._read(path)
            except DataError as error:
                problems += error.problems
                names.append("")
                continue
            names.append(hashlib.sha256(said + self.known[str(path)][-1].encode()).hexdigest())
        if self.known != before:
            write_atomic(self.path, json.dumps(self.known))
        return names

    def _read(self, path: Path) -> None:
        """Make sure that a file's hash is known. Raises DataError where it cannot be read."""
        now: list[int] | None = None
        with suppress(OSError):  # What keeps it from being looked at keeps it from being read, and is told then.
            stat = path.stat()
            now = [stat.st_size, stat.st_mtime_ns]
        if now is None or self.known.get(str(path), [None])[:-1] != now:
            self.known[str(path)] = [*(now or []), file_digest(path).hex()]


class _Files:
    """The files of a folder of features: one of numbers for each level, the keys of their rows, and the shapes.

    A row counts once its key is written, which happens last: what a killed process left behind it is overwritten.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        keys = folder / _KEYS
        text = keys.read_text() if keys.exists() else ""
        # A line that was cut off by a kill has no end.
        lines = text.split("\n")[:-1]
        self.shapes: dict[str, list[int]] = json.loads((folder / _SHAPES).read_text()) if lines else {}
        complete = min((self._held(name) for name in self.shapes), default=0)
        self.rows = {key: row for row, key in enumerate(lines[:complete])}
        if len(lines) > complete or (text and not text.endswith("\n")):
            write_atomic(keys, "".join(f"{key}\n" for key in lines[:complete]).encode())

    def extend(
        self,
        sam: Sam,
        dataset: Dataset,
        fresh: dict[str, Sample],
        batch: int,
        workers: int,
        problems: list[str],
        progress: Callable[[int, int], None] | None,
    ) -> None:
        """Encode what is not there yet, and write it batch by batch."""

        def canvas(item: tuple[str, Sample]) -> tuple[str, NDArray[np.uint8]]:
            return item[0], read_canvas(dataset.image_path(item[1]), dataset.image_reading, sam.size)

        done = 0
        if progress and fresh:
            progress(done, len(fresh))
        canvases = ahead_readable(canvas, list(fresh.items()), workers, 2 * batch, problems)
        while ready := list(islice(canvases, batch)):
            self._append([key for key, _ in ready], pooled(encode_canvases(sam, [pixels for _, pixels in ready])))
            done += len(ready)
            if progress:
                progress(done, len(fresh))

    def mapped(self) -> dict[str, NDArray[np.float16]]:
        """The levels, mapped into memory."""
        if not self.rows:
            return {name: np.zeros((0, 1, 1, 1), np.float16) for name in CELLS}
        shape = {name: (len(self.rows), *self.shapes[name]) for name in CELLS}
        return {name: np.memmap(self._path(name), np.float16, "r", shape=shape[name]) for name in CELLS}

    def _append(self, keys: Sequence[str], levels: dict[str, Tensor]) -> None:
        if not self.shapes:
            self.shapes = {name: list(level.shape[1:]) for name, level in levels.items()}
            write_atomic(self.folder / _SHAPES, json.dumps(self.shapes).encode())
        for name, level in levels.items():
            with open(self._path(name), "r+b" if self._path(name).exists() else "wb") as file:
                file.seek(len(self.rows) * self._row_bytes(name))
                file.write(level.half().cpu().numpy().tobytes())
        with open(self.folder / _KEYS, "a") as file:
            file.write("".join(f"{key}\n" for key in keys))
        for key in keys:
            self.rows[key] = len(self.rows)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.f16"

    def _row_bytes(self, name: str) -> int:
        return 2 * int(np.prod(self.shapes[name]))

    def _held(self, name: str) -> int:
        """Whole rows of a level's file."""
        path = self._path(name)
        return path.stat().st_size // self._row_bytes(name) if path.exists() else 0


def pooled(embedding: Embedding) -> dict[str, Tensor]:
    """The levels of an embedding, each averaged down to at most ``CELLS`` along a side."""
    levels: dict[str, Any] = {name: getattr(embedding, name) for name in LEVELS}
    return {
        name: F.adaptive_avg_pool2d(level, min(CELLS[name], level.shape[-1]))
        if level.shape[-1] > CELLS[name]
        else level
        for name, level in levels.items()
    }
