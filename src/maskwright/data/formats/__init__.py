"""Reading and writing datasets in the formats people have; one module per format, see ``maskwright.data.registry``."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, cast

from maskwright.data import manifest
from maskwright.data.fields import read_json
from maskwright.data.files import require_there
from maskwright.data.formats.objects import Scores
from maskwright.data.labels import Samples
from maskwright.data.new_folder import new_folder
from maskwright.data.reading import STRICT, Reading
from maskwright.data.registry import FORMATS, READ, WRITTEN, ReadName, WrittenName
from maskwright.errors import DataError
from maskwright.problems import Problem


class Reader(Protocol):
    """The part of a format's module that reads."""

    @property
    def LAYOUT(self) -> str:
        """What it looks like: the end of a message that begins with "read are:"."""
        ...

    def detect(self, path: Path, document: Any) -> bool:
        """Whether a folder, or a file with the parsed JSON ``document`` (None for all else), has this format."""
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


SUFFIXES = (".json", ".xml", ".yaml", ".yml")
"""Of files that can be a dataset by themselves, with what lies beside them."""


def read(path: str | Path, reading: Reading = STRICT) -> Samples:
    """Read a dataset in any known layout, recognised by what is there, or in the one that ``reading.format`` names.

    Where several fit, the first of ``FORMATS`` is read (folders that have ``masks/`` or ``splits.json`` before all foreign
    ones), and a warning names the others.

    Args:
        path: a folder, or a JSON, XML or YAML file.
        reading: how, where the files leave a choice.

    Raises:
        DataError: no such path, a layout that is not recognised (the message lists those that are), or every structural
            problem of the recognised one.
    """
    path = Path(path)
    require_there(path)
    if reading.format is not None:
        return _reader(_known(reading.format, READ)).read(path, reading)
    names = fitting(path)
    if not names:
        layouts = "; ".join(_reader(name).LAYOUT for name in READ)
        raise DataError([f"{path}: not recognised as a dataset; read are: {layouts}"])
    dataset = _reader(names[0]).read(path, reading)
    if len(names) == 1:
        return dataset
    what = f"is read as {names[0]}, and could be {' or '.join(names[1:])} too"
    remedy = f"if that is meant, give --format {names[1]}"
    said = Problem(what, kind="several-formats", severity="warning", file=str(path), remedy=remedy)
    return dataset.with_warning(said)


def detect(path: Path) -> bool:
    """Whether :func:`read` is to read a path: a folder of a known layout, or a JSON, XML or YAML file."""
    if not path.is_dir():
        return path.suffix.lower() in SUFFIXES
    try:
        return bool(fitting(path))
    except DataError:  # some JSON beside images, which is not what was asked for
        return False


def fitting(path: Path) -> list[str]:
    """The names of the formats that a folder or file can be read as, the one that is taken first.

    Raises:
        DataError: a JSON file that cannot be read.
    """
    document = read_json(path) if path.suffix.lower() == ".json" and not path.is_dir() else None
    if not path.is_dir() and path.suffix.lower() not in SUFFIXES:
        return []
    order = list(READ)
    if (path / "masks").is_dir() or (path / "splits.json").is_file():
        order.remove("folders")
        order.insert(order.index("samix") + 1, "folders")
    found: list[str] = []
    for name in order:
        # Beside a format that fits, JSON that is damaged is no reason to refuse; it may be anything.
        with suppress(*([DataError] if found else [])):
            if _reader(name).detect(path, document):
                found.append(name)
                if FORMATS[name].alone:
                    return found
    from maskwright.data.formats import folders

    # images/ alone says little, as most tools call it so.
    unlabelled = path.is_dir() and "folders" in found and not folders.has_labels(path)
    return [name for name in found if name != "folders"] if unlabelled and len(found) > 1 else found


def convert(
    dataset: Samples,
    folder: str | Path,
    format: WrittenName,
    *,
    allow_loss: bool = False,
    scores: Scores | None = None,
) -> Path:
    """Write a dataset into a new folder in another format; images are hard-linked or copied, masks stay bit-exact.

    The folder is there when everything is in it, or not at all.

    Args:
        dataset: what to write; it stays as it is.
        folder: does not exist yet, or is empty.
        format: ``manifest`` holds everything; of the others :func:`loss` says what they cannot hold.
        allow_loss: write even if the format cannot hold all labels.
        scores: of predictions, for a format that has a place for them (``Format.scores``).

    Returns:
        What :func:`read` takes to read it again: the folder.

    Raises:
        DataError: labels that the format cannot hold (all are named; nothing is written), a folder that is not empty,
            files that are missing or cannot be written.
    """
    folder = Path(folder)
    if _known(format, WRITTEN) == "manifest":
        with new_folder(folder) as aside:
            manifest.write(manifest.copy_files(dataset, aside))
        return folder
    writer = _writer(format)
    lost = writer.loss(dataset)
    if lost and not allow_loss:
        remedy = "convert to manifest, which holds everything, or allow the loss"
        raise DataError([f"{folder}: {format} cannot hold {', '.join(lost)}; {remedy}"])
    if scores is not None and not FORMATS[format].scores:
        raise ValueError(f"{format} has no place for scores")
    with new_folder(folder) as aside:
        scored = () if scores is None else (scores,)
        written = cast(ScoredWriter, writer).write(dataset, aside, *scored)
    return folder / written.relative_to(aside)


def loss(dataset: Samples, format: WrittenName) -> list[str]:
    """What of a dataset a format cannot hold, one line each. Raises DataError for a format that is not written."""
    return [] if _known(format, WRITTEN) == "manifest" else _writer(format).loss(dataset)


def _known(name: ReadName, names: tuple[str, ...]) -> str:
    if name not in names:
        use = "written" if name in READ else "known"
        raise DataError([f"{name!r} is no format that is {use}; choose one of {', '.join(names)}"])
    return name


def _reader(name: str) -> Reader:
    return cast(Reader, FORMATS[name].module())


def _writer(name: str) -> Writer:
    return cast(Writer, FORMATS[name].module())
