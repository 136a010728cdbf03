"""Reading and writing datasets in the formats people have; one module per format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

from maskwright.data import manifest
from maskwright.data.fields import read_json
from maskwright.data.formats import coco, folders, samix
from maskwright.data.labels import Dataset
from maskwright.errors import DataError

Format = Literal["manifest", "coco", "folders"]

LAYOUTS = (
    "a folder with manifest.json (maskwright's own)",
    'SAMIX: a folder with splits.json that has "images", or such a file',
    "a folder with images/ and masks/ (PNG of the same stem), also with splits.json, or train/, val/, test/ of these",
    "COCO: a JSON file with images, annotations and categories, a folder with one, annotations/*.json, or "
    "<split>/_annotations.coco.json",
)


def read(path: str | Path) -> Dataset:
    """Read a dataset in any known layout, recognised by what is there.

    Args:
        path: a folder, or a JSON file.

    Raises:
        DataError: no such path, a layout that is not recognised (the message lists those that are), or every structural
            problem of the recognised one.
    """
    path = Path(path)
    if path.is_dir():
        reader = _reader_of(path)
        if reader is None:
            raise _unknown(path)
        return reader(path)
    if not path.exists():
        raise DataError([f"{path}: there is no such file or folder; check the path"])
    if path.suffix.lower() != ".json":
        raise _unknown(path)
    document = read_json(path)
    if isinstance(document, dict) and "samples" in document:
        return manifest.read(path)
    if samix.detect(document):
        return samix.read(path)
    if coco.detect(document):
        return coco.read(path)
    if folders.detect_splits(document) and (path.parent / "images").is_dir():
        return folders.read(path)
    raise _unknown(path)


def detect(path: Path) -> bool:
    """Whether :func:`read` is to read a path: a folder of a known layout, or a JSON file."""
    if not path.is_dir():
        return path.suffix.lower() == ".json"
    try:
        return _reader_of(path) is not None
    except DataError:  # some JSON beside images, which is not what was asked for
        return False


def convert(dataset: Dataset, folder: str | Path, format: Format, *, allow_loss: bool = False) -> Path:
    """Write a dataset into a new folder in another format; images are hard-linked or copied, masks stay bit-exact.

    Args:
        dataset: what to write; it stays as it is.
        folder: does not exist yet, or is empty.
        format: ``manifest`` holds everything; ``coco`` instance masks and boxes; ``folders`` masks of one kind.
        allow_loss: write even if the format cannot hold all labels.

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
    module = coco if format == "coco" else folders
    lost = module.loss(dataset)
    if lost and not allow_loss:
        remedy = "convert to manifest, which holds everything, or allow the loss"
        raise DataError([f"{folder}: {format} cannot hold {', '.join(lost)}; {remedy}"])
    return module.write(dataset, folder)


def _reader_of(folder: Path) -> Callable[[Path], Dataset] | None:
    """What reads a folder, by what is in it."""
    if (folder / manifest.NAME).is_file():
        return manifest.read
    if (folder / "splits.json").is_file():
        return samix.read if samix.detect(read_json(folder / "splits.json")) else folders.read
    # The smallest first: one COCO file is enough to know, and they can be large.
    files = sorted(coco.find(folder), key=lambda file: file.stat().st_size)
    if not (folder / "masks").is_dir() and any(coco.detect(read_json(file)) for file in files):
        return coco.read
    return folders.read if folders.detect(folder) else None


def _unknown(path: Path) -> DataError:
    return DataError([f"{path}: not recognised as a dataset; read are: {'; '.join(LAYOUTS)}"])
