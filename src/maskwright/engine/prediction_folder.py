"""Predictions on disk: a folder of masks and overlays with one index, resumable and shared among processes.

::

    out/
      predictions.json        which model, which images, and what they show
      masks/<name>.png        category ids
      images/<name>.<suffix>  the image, a hard link where the disk allows it: with it the folder is a dataset
      overlays/<name>.jpg     the image with the mask painted over it

``<name>`` is the image's path without its suffix, relative to the folder that was given, so that equal names in
different sub-folders stay apart; for a dataset it is the sample's id. While the images are predicted, every process
appends its entries to a part file of its own; the main process joins them at the end, or at the next start after a kill.
A lock keeps other calls from writing there meanwhile.
"""

from __future__ import annotations

import filecmp
import json
import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from maskwright.data import formats
from maskwright.data.dataset import Dataset
from maskwright.data.fields import leaves_folder
from maskwright.data.files import place_file, require_there, write_atomic
from maskwright.data.formats.predictions import FORMAT, INDEX, VERSION
from maskwright.data.image_files import IMAGE_SUFFIXES
from maskwright.data.large.opening import SUFFIXES, is_zarr
from maskwright.data.lookahead import ahead
from maskwright.data.pictures import palette
from maskwright.engine.base_predictor import BasePredictor
from maskwright.engine.files import disk, stamp_of
from maskwright.engine.locks import FolderLock
from maskwright.engine.prediction import Prediction
from maskwright.engine.processes import Alone, Processes
from maskwright.engine.values import plain, strict_json
from maskwright.errors import DataError, MaskwrightError
from maskwright.version import __version__

_PART = ".predictions-{rank}.jsonl"
_REQUIRED = {"name", "file", "bytes", "modified", "mask", "overlay"}
_WRITERS = 2


@dataclass(frozen=True, slots=True)
class Job:
    """An image to predict.

    Attributes:
        name: the path of its mask below ``masks/``, without ``.png``.
        path: of the image.
        companion: a second file that the prediction is made from, see :meth:`BasePredictor.companion_of`.
    """

    name: str
    path: Path
    companion: Path | None = None


@dataclass(frozen=True, slots=True)
class _Beside:
    """What is written beside masks and index."""

    overlays: bool
    images: bool


@dataclass(frozen=True, slots=True)
class Summary:
    """The result of :func:`predict_folder`. Of several processes only the main one has it, those of the others are empty.

    Attributes:
        predicted: images that were predicted.
        skipped: images whose masks were there already.
        problems: one line for each image that cannot be read.
        written: files beside masks, overlays and the index, such as ``coco.json``.
        lost: what the format that was asked for cannot hold of the masks, one line each.
    """

    predicted: int
    skipped: int
    problems: list[str]
    written: list[Path] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


# ----------------------------------------------------------------------------------------------------------- inputs


def find_images(
    sources: Sequence[str | Path], out: str | Path, split: str | None = None, *, large: bool = False
) -> list[Job]:
    """The images that sources name, each once, sorted by name.

    Args:
        sources: image files and folders (searched recursively for the suffixes of images; names that start with a dot
            are passed over), or one dataset: a JSON file, or a folder with ``manifest.json`` or ``splits.json``.
        out: the folder for the results; what lies in it is never an input.
        split: of a dataset; None takes all.
        large: zarr stores (which are folders) and slides count as images, too.

    Raises:
        DataError: paths that do not exist (all at once), no image at all, or a split where there is no dataset.
    """
    if not sources:
        raise DataError(["there is nothing to predict; give image files, folders or a dataset"])
    paths = [Path(os.path.abspath(source)) for source in sources]
    require_there(*paths)
    stores = {path for path in paths if large and path.is_dir() and is_zarr(path)}
    datasets = [path for path in paths if path not in stores and formats.detect(path)]
    if datasets and len(paths) > 1:
        raise DataError([f"{datasets[0]}: is a dataset; give it alone, or its image folder together with the others"])
    if datasets:
        return _of_dataset(Dataset.load(datasets[0]), split)
    if split is not None:
        raise DataError([f"--split {split}: only a dataset has splits; give a manifest, or leave it out"])
    skipped = os.path.join(os.path.abspath(out), "")
    files = [file for path in paths for file in (_below(path, large) if path.is_dir() else [path])]
    if not files:
        raise DataError([f"{', '.join(map(str, paths))}: no images there (by suffix, such as .jpg); check the path"])
    files = [file for file in dict.fromkeys(files) if not str(file).startswith(skipped)]
    if not files:
        raise DataError([f"{out}: all images lie in the folder for the results; name another with --out"])
    base = os.path.commonpath([path if path.is_dir() and path not in stores else path.parent for path in paths])
    return _named(files, Path(base))


def _of_dataset(dataset: Dataset, split: str | None) -> list[Job]:
    part = dataset if split is None else dataset.split(split)
    if not len(part):
        splits = ", ".join(sorted({sample.split for sample in dataset})) or "none"
        where = "the dataset" if split is None else f"split {split!r}"
        raise DataError([f"{where} has no images (splits: {splits}); name another"], dataset.source)
    return jobs_of(part)


def jobs_of(dataset: Dataset) -> list[Job]:
    """The images of a dataset, named by their ids."""
    jobs = [Job(sample.id, Path(os.path.abspath(dataset.image_path(sample)))) for sample in dataset]
    return sorted(jobs, key=lambda job: job.name)


def _below(folder: Path, large: bool) -> Iterator[Path]:
    if large and is_zarr(folder):
        yield folder
        return
    suffixes = SUFFIXES if large else IMAGE_SUFFIXES
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        stores = [name for name in folders if large and is_zarr(Path(parent, name))]
        folders[:] = [name for name in folders if name not in stores]
        yield from (Path(parent, name) for name in stores)
        for name in sorted(files):
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in suffixes:
                yield Path(parent, name)


def _named(files: Sequence[Path], base: Path) -> list[Job]:
    """Names relative to ``base``; where two files of one folder differ in their suffix alone, all there keep it."""
    folders: dict[Path, list[Path]] = defaultdict(list)
    for file in files:
        folders[file.parent].append(file)
    jobs = []
    for folder, members in folders.items():
        # Some file systems do not tell A from a.
        clash = len({file.stem.casefold() for file in members}) < len(members)
        prefix = folder.relative_to(base)
        jobs += [Job((prefix / (file.name if clash else file.stem)).as_posix(), file) for file in members]
    return sorted(jobs, key=lambda job: job.name)


# ------------------------------------------------------------------------------------------------------------- work


def predict_folder(
    predictor: BasePredictor,
    jobs: Sequence[Job],
    out: str | Path,
    *,
    batch: int = 8,
    overlays: bool = True,
    images: bool = True,
    overwrite: bool = False,
    processes: Processes | None = None,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Summary:
    """Predict images into a folder. Predictions of an earlier call of the same model are kept, not made again.

    An image counts as predicted if its mask is there, was made by the same model with the same settings, and length and time of
    modification of the image, and of its companion, are what they were.

    Args:
        jobs: of :func:`find_images`.
        out: new, empty, or with predictions of the same model.
        batch, options: see :meth:`maskwright.engine.base_predictor.BasePredictor.predict`.
        overlays: also write overlays.
        images: also put the images there, which makes the folder a dataset.
        overwrite: replace predictions of another model, or of another image of the same name.
        processes: of a distributed call; each takes its part, and the main one writes the index.
        progress: called as ``progress(done, total)`` for this process' part.

    Returns:
        The summary; images that cannot be read are listed in it.

    Raises:
        MaskwrightError: the folder holds other files, or predictions of another model or other images (all named); another call
            is writing there; a prediction holds NaN.
        DataError: a file cannot be written.
    """
    state = processes or Alone()
    folder = Path(os.path.abspath(out))
    complete = predictor.with_defaults(options)
    head = _head(predictor, complete)
    with ExitStack() as stack:
        if state.is_main_process:
            _existing_entries(
                folder, head, jobs, overwrite, images
            )  # before the lock: a folder of other files is left as it is
            with disk(folder, "predictions cannot be written there"):
                stack.enter_context(FolderLock(folder, "name another folder with --out"))
        beside = _Beside(overlays, images)
        return _predict_locked(predictor, jobs, folder, batch, beside, overwrite, state, progress, complete, head)


def _predict_locked(
    predictor: BasePredictor,
    jobs: Sequence[Job],
    folder: Path,
    batch: int,
    beside: _Beside,
    overwrite: bool,
    state: Processes,
    progress: Callable[[int, int], None] | None,
    complete: Mapping[str, Any],
    head: dict[str, Any],
) -> Summary:
    """The rest of :func:`predict_folder`, in a folder that no other call writes to."""
    entries, stale = _existing_entries(folder, head, jobs, overwrite, beside.images)
    jobs = [replace(job, companion=predictor.companion_of(job.path)) for job in jobs]
    todo = jobs if overwrite else [job for job in jobs if not _is_predicted(folder, job, entries.get(job.name), beside)]
    # Every process has checked the folder before the main one changes anything in it.
    state.wait_for_everyone()
    if state.is_main_process:
        _remove(folder, stale)
        for job in todo:
            entries.pop(job.name, None)
        _write_index(folder, head, entries)
        for part in _parts(folder):
            part.unlink()
    state.wait_for_everyone()
    share = list(todo[state.process_index :: state.num_processes])
    with open(folder / _PART.format(rank=state.process_index), "a", encoding="utf-8") as part:
        for number, row in enumerate(_rows(predictor, share, folder, batch, complete, beside), start=1):
            part.write(strict_json(row, f"the prediction of {row.get('name')}") + "\n")
            part.flush()
            if progress:
                progress(number, len(share))
    state.wait_for_everyone()
    if not state.is_main_process:
        return Summary(0, 0, [])
    rows = [row for part in _parts(folder) for row in _read_part(part)]
    predicted = {row["name"]: row for row in rows if "problem" not in row}
    problems = sorted(row["problem"] for row in rows if "problem" in row)
    _write_index(folder, head, entries | predicted)
    written = predictor.conclude(folder, entries | predicted)
    for part in _parts(folder):
        part.unlink()
    return Summary(len(predicted), len(jobs) - len(todo), problems, written)


def _rows(
    predictor: BasePredictor, jobs: Sequence[Job], folder: Path, batch: int, options: Mapping[str, Any], beside: _Beside
) -> Iterator[dict[str, Any]]:
    """Predict, and write in threads: the entries of the index in the order of the jobs, then the unreadable images."""
    unreadable: list[str] = []

    def predictions() -> Iterator[tuple[Prediction, Job]]:
        remaining = iter(jobs)
        images = (job.path for job in jobs)
        for prediction in predictor.predict(images, batch=batch, unreadable=unreadable, **options):
            yield (
                prediction,
                next(job for job in remaining if job.path == prediction.image),
            )  # passes over unreadable ones

    yield from ahead(lambda pair: _write(*pair, folder, beside), predictions(), _WRITERS)
    yield from ({"problem": problem} for problem in unreadable)


def _write(prediction: Prediction, job: Job, folder: Path, beside: _Beside) -> dict[str, Any]:
    height, width = prediction.mask.shape
    stamp, companion = stamp_of(job.path), None if job.companion is None else stamp_of(job.companion)
    mask = prediction.save(folder, name=job.name, overlay=beside.overlays)
    image = _image_of(job) if beside.images else None
    if image:
        place_file(job.path, folder / image)
    return {
        "name": job.name,
        "file": str(job.path),
        **stamp,
        **({} if companion is None else {"given": companion}),
        "size": [width, height],
        "mask": mask.relative_to(folder).as_posix(),
        "overlay": f"overlays/{job.name}.jpg" if beside.overlays else None,
        "image": image,
        **prediction.record(),
    }


# ------------------------------------------------------------------------------------------------------------ index


def _head(predictor: BasePredictor, options: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "maskwright": __version__,
        "model": {
            "signature": predictor.signature,
            "folder": str(predictor.folder),
            "recipe": predictor.recipe,
            "size": predictor.size,
        },
        "options": plain({**options, **predictor.image_reading.as_dict()}, "options"),
        "categories": list(predictor.categories),
        "palette": np.asarray(palette(len(predictor.categories))).tolist(),
    }


def _existing_entries(
    folder: Path, head: dict[str, Any], jobs: Sequence[Job], overwrite: bool, images: bool
) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """The entries of this model in the folder, by name, and those of another model, which are to be removed.

    Reads only, so that every process may call it. Raises MaskwrightError where the folder may not be used.
    """
    remedy = "name another folder with --out, or give --overwrite to replace them"
    if folder.exists() and not folder.is_dir():
        raise MaskwrightError(f"{folder}: is a file; name a folder with --out")
    index = _read_index(folder / INDEX, damaged_is_empty=overwrite)
    if index is None:
        foreign = [job.name for job in jobs if (folder / "masks" / f"{job.name}.png").exists()]
        if foreign and not overwrite:
            raise MaskwrightError(f"{folder}: holds masks of unknown origin ({_some(foreign)}); {remedy}")
        _refuse_foreign_images(folder, jobs if images else [], ())
        return {}, []
    rows = [*index["images"], *(row for part in _parts(folder) for row in _read_part(part) if "problem" not in row)]
    entries = {row["name"]: row for row in rows}
    _refuse_foreign_images(folder, jobs if images else [], entries)
    then, now = index["model"]["signature"], head["model"]["signature"]
    if then != now or index["options"] != head["options"]:
        before, wanted = index["options"], head["options"]
        differing = [name for name in {**wanted, **before} if before.get(name) != wanted.get(name)]
        flags = " and ".join("--" + name.replace("_", "-") for name in differing)
        what = f"another model ({then}, this is {now})" if then != now else f"the same model with another {flags}"
        if not overwrite:
            raise MaskwrightError(f"{folder}: holds the predictions of {what}; {remedy}")
        return {}, list(entries.values())
    others = [job.name for job in jobs if job.name in entries and entries[job.name]["file"] != str(job.path)]
    if others and not overwrite:
        first = entries[others[0]]["file"]
        raise MaskwrightError(
            f"{folder}: holds predictions of other images of the same name ({_some(others)}; the first is of {first}); "
            f"{remedy}"
        )
    return entries, []


def _refuse_foreign_images(folder: Path, jobs: Sequence[Job], known: Collection[str]) -> None:
    """Raise MaskwrightError where an image of somebody else's would be replaced, which no option allows."""
    targets = [(job.path, _image_of(job)) for job in jobs if job.name not in known]
    foreign = [name for path, name in targets if (folder / name).exists() and not _is_same(path, folder / name)]
    if foreign:
        raise MaskwrightError(
            f"{folder}: holds other images of the same name ({_some(foreign)}); name another folder with --out"
        )


def _is_same(path: Path, other: Path) -> bool:
    """Whether two files are one, or copies, as a kill can leave them before the index knows of them."""
    return path.samefile(other) or (other.is_file() and filecmp.cmp(path, other, shallow=False))


def _image_of(job: Job) -> str:
    """Where the image of a job is put, relative to the folder."""
    return f"images/{job.name}{job.path.suffix}"


def _is_predicted(folder: Path, job: Job, row: dict[str, Any] | None, beside: _Beside) -> bool:
    if row is None or not (folder / row["mask"]).is_file():
        return False
    wanted = (beside.overlays, "overlay"), (beside.images, "image")
    if any(needed and not (row.get(key) and (folder / row[key]).is_file()) for needed, key in wanted):
        return False
    if row.get("given") != (None if job.companion is None else stamp_of(job.companion)):
        return False
    return job.path.exists() and {key: row[key] for key in ("bytes", "modified")} == stamp_of(job.path)


def _write_index(folder: Path, head: dict[str, Any], rows: dict[str, dict[str, Any]]) -> None:
    """One image per line, sorted by name."""
    lines = ",\n  ".join(strict_json(rows[name], f"the prediction of {name}") for name in sorted(rows))
    top = strict_json(head, INDEX)[:-1]
    write_atomic(folder / INDEX, f'{top},\n "images": [\n  {lines}\n ]}}\n')


def read_rows(folder: str | Path) -> list[dict[str, Any]]:
    """The entries of a folder that :func:`predict_folder` wrote, by name. Raises MaskwrightError where it is damaged."""
    index = _read_index(Path(folder) / INDEX, damaged_is_empty=False)
    return [] if index is None else index["images"]


def _read_index(path: Path, *, damaged_is_empty: bool) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        index = json.loads(path.read_text("utf-8"))
        whole = index["format"] == FORMAT and index["version"] == VERSION and {"signature"} <= index["model"].keys()
        whole = whole and isinstance(index["options"], dict) and all(row.keys() >= _REQUIRED for row in index["images"])
    except (ValueError, KeyError, TypeError, AttributeError):
        index, whole = None, False
    if not whole and not damaged_is_empty:
        raise MaskwrightError(
            f"{path}: damaged, or of another version of maskwright; name another folder with --out, or give --overwrite"
        )
    return index if whole else None


def _parts(folder: Path) -> list[Path]:
    return sorted(folder.glob(_PART.format(rank="*")))


def _read_part(path: Path) -> list[dict[str, Any]]:
    """The lines of a part file, without a last one that a kill cut off."""
    rows = []
    for line in path.read_text("utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def _remove(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    for row in rows:
        for path in (row["mask"], row["overlay"], row.get("image")):
            if path and leaves_folder(folder, path) is None:
                (folder / path).unlink(missing_ok=True)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
