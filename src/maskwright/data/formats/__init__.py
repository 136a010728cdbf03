"""Reading and writing datasets in the formats people have; one module per format.

A format's module has ``LAYOUT`` (what it looks like, for messages), ``detect`` and ``read``, and if it is written too,
``loss`` (what it cannot hold) and ``write``. It stands in ``READERS`` and ``WRITERS`` below.
"""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Protocol, get_args

from maskwright.data import manifest
from maskwright.data.fields import read_json
from maskwright.data.formats import coco, cvat, folders, label_studio, labelme, nnunet, others, predictions, samix
from maskwright.data.formats.objects import Scores
from maskwright.data.labels import Samples
from maskwright.data.reading import STRICT, Reading
from maskwright.errors import DataError
from maskwright.problems import Problem


class Reader(Protocol):
    """The part of a format's module that reads."""

    @property
    def LAYOUT(self) -> str:
        """What it looks like: the end of a message that begins with "read are:"."""
        ...

    def detect(self, path: Path, document: Any) -> bool:
        """Whether a folder, or a file with the parsed JSON ``document`` (None for a folder or XML), has this format."""
        ...

    def read(self, path: str | Path, reading: Reading = ...) -> Samples:
        """Read such a folder or file. Raises DataError with every structural problem at once."""
        ...


class Writer(Protocol):
    """The part of a format's module that writes."""

    def loss(self, dataset: Samples) -> list[str]:
        """What of a dataset the format cannot hold, one line each."""
        ...

    def write(self, dataset: Samples, folder: str | Path) -> Path:
        """Write into a folder that is new or empty. Returns what ``read`` takes to read it again."""
        ...


class ScoredWriter(Writer, Protocol):
    """A writer that also takes the scores of predictions."""

    def write(self, dataset: Samples, folder: str | Path, scores: Scores | None = None) -> Path:
        """As above, with the score 0..1 of ids in masks, where given."""
        ...


READERS: tuple[Reader, ...] = (manifest, predictions, samix, cvat, label_studio, nnunet, coco, labelme, folders)
"""The first that detects its layout reads."""

Format = Literal["manifest", "coco", "folders", "cvat", "label-studio", "labelme", "nnunet"]
WRITERS: MappingProxyType[str, Writer] = MappingProxyType(
    {"coco": coco, "folders": folders, "cvat": cvat, "label-studio": label_studio, "labelme": labelme, "nnunet": nnunet}
)
SCORED: MappingProxyType[str, ScoredWriter] = MappingProxyType({"coco": coco, "label-studio": label_studio})
"""Those of the writers that have a place for scores."""


def read(path: str | Path, reading: Reading = STRICT) -> Samples:
    """Read a dataset in any known layout, recognised by what is there.

    Args:
        path: a folder, or a JSON or XML file.
        reading: how, where the files leave a choice.

    Raises:
        DataError: no such path, a layout that is not recognised (the message lists those that are), or every structural
            problem of the recognised one.
    """
    path = Path(path)
    if not path.exists():
        raise DataError([f"{path}: there is no such file or folder; check the path"])
    reader = _reader_of(path)
    # The folders of some tools have images/ too, and their labels would be overlooked.
    bare = reader is None or (reader is folders and path.is_dir() and not folders.has_labels(path))
    if bare and path.is_dir() and (what := others.recognised(path)):
        raise DataError(
            [Problem(what.partition("; ")[0], kind="other-tool", file=path, remedy=what.partition("; ")[2])]
        )
    if reader is None:
        layouts = "; ".join(reader.LAYOUT for reader in READERS)
        raise DataError([f"{path}: not recognised as a dataset; read are: {layouts}"])
    return reader.read(path, reading)


def detect(path: Path) -> bool:
    """Whether :func:`read` is to read a path: a folder of a known layout, or a JSON or XML file."""
    if not path.is_dir():
        return path.suffix.lower() in (".json", ".xml")
    try:
        return _reader_of(path) is not None
    except DataError:  # some JSON beside images, which is not what was asked for
        return False


def convert(
    dataset: Samples,
    folder: str | Path,
    format: Format,
    *,
    allow_loss: bool = False,
    scores: Scores | None = None,
) -> Path:
    """Write a dataset into a new folder in another format; images are hard-linked or copied, masks stay bit-exact.

    Args:
        dataset: what to write; it stays as it is.
        folder: does not exist yet, or is empty.
        format: ``manifest`` holds everything; of the others ``loss`` of their module says what they cannot hold.
        allow_loss: write even if the format cannot hold all labels.
        scores: of predictions, for a format that has a place for them (``SCORED``).

    Returns:
        What :func:`read` takes to read it again: the folder.

    Raises:
        DataError: labels that the format cannot hold (all are named; nothing is written), a folder that is not empty,
            files that are missing or cannot be written.
    """
    folder = Path(folder)
    if format not in get_args(Format):
        raise DataError([f"{format!r} is no format that is written; choose one of {', '.join(get_args(Format))}"])
    if format == "manifest":
        manifest.write(manifest.copy_files(dataset, folder))
        return folder
    writer = WRITERS[format]
    lost = writer.loss(dataset)
    if lost and not allow_loss:
        remedy = "convert to manifest, which holds everything, or allow the loss"
        raise DataError([f"{folder}: {format} cannot hold {', '.join(lost)}; {remedy}"])
    if scores is not None:
        if format not in SCORED:
            raise ValueError(f"{format} has no place for scores")
        return SCORED[format].write(dataset, folder, scores)
    return writer.write(dataset, folder)


def _reader_of(path: Path) -> Reader | None:
    """What reads a folder or file, by what is in it."""
    if path.is_dir():
        document = None
    elif path.suffix.lower() == ".json":
        document = read_json(path)
    elif path.suffix.lower() == ".xml":
        document = None
    else:
        return None
    return next((reader for reader in READERS if reader.detect(path, document)), None)
