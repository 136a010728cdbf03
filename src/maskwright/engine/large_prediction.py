"""Predictions of images too large for memory: area by area into a journal, then written in whole, resumable and shared among processes.

::

    out/
      masks/<name>.tif, .zarr            category ids, or ids of objects
      vectors/<name>.geojson, .gpkg      a polygon for each region, or for each object
      large/<name>.json                  which model, which image at which level, and what it shows; written last
      large/<name>.areas/                the journal: one file for each finished area; gone when the image is done

An area is a square of up to 4096 pixels of the image. Its file appears by rename, so a kill loses the areas under way alone, and
processes need not talk to each other. Masks and vectors are made of the journal by the main process, and appear when they are whole.
"""

from __future__ import annotations

import io
import json
import math
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskwright.data.files import reason_of, write_atomic
from maskwright.data.large import packages
from maskwright.data.large.image import Georeference, LargeImage, Rectangle
from maskwright.data.large.names import WriteName
from maskwright.data.large.opening import open_large
from maskwright.data.large.outlines import Outlines
from maskwright.data.large.vectors import Feature, feature_of, write_geojson, write_geopackage
from maskwright.data.large.writing import write_tiff, write_zarr
from maskwright.engine.base_predictor import BasePredictor, FoundObject
from maskwright.engine.files import disk, stamp_of
from maskwright.engine.locks import FolderLock
from maskwright.engine.prediction_folder import Job, Summary
from maskwright.engine.processes import Alone, Processes
from maskwright.engine.sliding import OVERLAP, Slide, areas_of
from maskwright.engine.values import plain, strict_json
from maskwright.errors import DataError, MaskwrightError, require
from maskwright.version import __version__

FORMAT, VERSION = "maskwright-large-prediction", 1

_PLACES: dict[WriteName, str] = {
    "tiff": "masks/{}.tif",
    "zarr": "masks/{}.zarr",
    "geojson": "vectors/{}.geojson",
    "gpkg": "vectors/{}.gpkg",
}
_STRIP = 2048
# Rows of a mask of objects that are drawn at once.


@dataclass(frozen=True)
class LargeSettings:
    """How large images are predicted, and what is written of them.

    Attributes:
        write: at least one.
        mpp: micrometres along a pixel of the images that the model learnt from; None: pixels of level 0 are alike.
        overlap: share of a window's side that neighbours have in common.
        simplify: how far in pixels an outline in vectors may leave its mask.
    """

    write: tuple[WriteName, ...] = ("tiff",)
    mpp: float | None = None
    overlap: float = OVERLAP
    simplify: float = 0.0

    def __post_init__(self) -> None:
        require(
            {
                f"--write {' '.join(self.write)}: choose of {', '.join(_PLACES)}": bool(self.write)
                and set(self.write) <= set(_PLACES),
                f"--mpp {self.mpp}: must be above 0": self.mpp is None or 0 < self.mpp < math.inf,
                f"--simplify {self.simplify:g}: must be 0 or more": 0 <= self.simplify < math.inf,
                f"--overlap {self.overlap:g}: must lie in 0..0.9": 0 <= self.overlap <= 0.9,
            }
        )


@dataclass(frozen=True)
class _Plan:
    """One image, at the level at which it is read.

    Attributes:
        head: what decides the result, as JSON; also the journal's.
        todo: numbers of the areas that are not finished.
    """

    job: Job
    level: int
    slide: Slide
    areas: list[Rectangle]
    head: dict[str, Any]
    journal: Path
    todo: list[int]


def predict_large(
    predictor: BasePredictor,
    jobs: Sequence[Job],
    out: str | Path,
    settings: LargeSettings,
    *,
    batch: int = 8,
    overwrite: bool = False,
    processes: Processes | None = None,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Summary:
    """Predict large images into a folder. What an earlier call of the same model finished is kept, images and areas.

    Args:
        jobs: of :func:`maskwright.engine.prediction_folder.find_images`.
        out: the folder.
        settings: how, and what is written.
        batch: windows per pass of the network.
        overwrite: replace what another model, or other settings, left there.
        processes: of a distributed call; they share the areas of each image.
        progress: called as ``progress(done, total)`` for this process' areas.
        options: of the kind of model.

    Returns:
        The summary; images that cannot be read, in whole or in part, are listed in it, and nothing is written of them.

    Raises:
        MaskwrightError: the model does not slide, or its scale is not known; another call is writing there; the folder holds
            areas or results of another model or other settings.
        DataError: a file cannot be written.
        MissingPackageError: what is written needs an extra that is not installed.
    """
    state, folder = processes or Alone(), Path(out).absolute()
    complete = predictor.with_defaults(options)
    _require_sliding(predictor, settings)
    head = _head(predictor, settings, complete)
    with ExitStack() as stack:
        if state.is_main_process:
            with disk(folder, "predictions cannot be written there"):
                stack.enter_context(FolderLock(folder, "name another folder with --out"))
        plans, skipped, problems = _plans(predictor, jobs, folder, settings, head, overwrite)
        # Every process has seen what there is before the main one changes anything.
        state.wait_for_everyone()
        if state.is_main_process:
            for plan in plans:
                _begin(plan)
        state.wait_for_everyone()
        shares = [plan.todo[state.process_index :: state.num_processes] for plan in plans]
        done, total, written, lost = 0, sum(map(len, shares)), [], []
        for plan, share in zip(plans, shares):

            def advance() -> None:
                nonlocal done
                done += 1
                if progress:
                    progress(done, total)

            _work(predictor, plan, share, state.process_index, batch, complete, advance)
            state.wait_for_everyone()
            found = sorted(path.read_text("utf-8") for path in plan.journal.glob("problem-*.txt"))
            if not found and state.is_main_process:
                written += _finish(predictor, plan, folder, settings, complete)
            state.wait_for_everyone()
            problems += found
            lost += [plan] if found else []
            if found and state.is_main_process:
                for path in plan.journal.glob("problem-*.txt"):
                    path.unlink()
    if not state.is_main_process:
        return Summary(0, 0, [])
    return Summary(len(plans) - len(lost), skipped, problems, written)


def _require_sliding(predictor: BasePredictor, settings: LargeSettings) -> None:
    """Raise where nothing can come of it, before anything is read."""
    if not predictor.slides:
        raise MaskwrightError(
            f"{predictor.folder}: a model of the recipe {predictor.recipe} does not slide over large images; leave out --write"
        )
    if predictor.slide_side is None:
        raise MaskwrightError(
            f"{predictor.folder}: learnt from whole images, squashed to {predictor.size} pixels, so nothing says at which scale it "
            "sees; say with --crop how many pixels of a large image such a square is to show, or train with --crop"
        )
    needed = {"tiff": packages.tifffile, "zarr": packages.zarr}
    for name in settings.write:
        needed.get(name, lambda: None)()


def _head(predictor: BasePredictor, settings: LargeSettings, options: Mapping[str, Any]) -> dict[str, Any]:
    model = {"signature": predictor.signature, "folder": str(predictor.folder), "recipe": predictor.recipe}
    return {
        "format": FORMAT,
        "version": VERSION,
        "maskwright": __version__,
        "model": {**model, "size": predictor.size, "crop": predictor.slide_side},
        "options": plain({**options, **predictor.image_reading.as_dict()}, "options"),
        "categories": list(predictor.categories),
        "overlap": settings.overlap,
        "mpp_of_model": settings.mpp,
    }


def _plans(
    predictor: BasePredictor,
    jobs: Sequence[Job],
    folder: Path,
    settings: LargeSettings,
    head: dict[str, Any],
    overwrite: bool,
) -> tuple[list[_Plan], int, list[str]]:
    """What is left to do, how many images are done, and the problems of those that cannot be. Reads only, but for ``overwrite``."""
    plans, skipped, problems, foreign = [], 0, [], []
    for job in jobs:
        try:
            plan = _plan(predictor, job, folder, settings, head)
        except DataError as error:
            problems += error.problems
            continue
        record = folder / "large" / f"{job.name}.json"
        if _same(record, plan.head) and all(
            (folder / _PLACES[name].format(job.name)).exists() for name in settings.write
        ):
            skipped += 1
            continue
        begun = plan.journal / "head.json"
        strange = [path for path in (record, begun) if path.exists() and not _same(path, plan.head)]
        if strange and not overwrite:
            foreign.append(str(strange[0]))
            continue
        plans.append(plan)
    if foreign:
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        what = f"{foreign[0]}{more}: of another model, other settings or another state of the image"
        raise MaskwrightError(f"{what}; name another folder with --out, or give --overwrite to replace it")
    return plans, skipped, problems


def _plan(predictor: BasePredictor, job: Job, folder: Path, settings: LargeSettings, head: dict[str, Any]) -> _Plan:
    crop = predictor.slide_side
    assert crop is not None
    with open_large(job.path, predictor.image_reading) as image:
        if settings.write and image.geo is not None:
            packages.rasterio()
        number = image.level_for(settings.mpp)
        level = image.levels[number]
        side = crop
        if settings.mpp is not None:
            assert image.mpp is not None
            side = crop * settings.mpp / (image.mpp * level.scale)
        size = (level.width, level.height)
        geo = image.geo.scaled(level.scale) if image.geo else None
        mine = {
            "file": str(job.path),
            **stamp_of(job.path),
            "size": list(size),
            "level": number,
            "scale": level.scale,
            "mpp": None if image.mpp is None else image.mpp * level.scale,
            "georeference": None if geo is None else {"transform": list(geo.transform), "crs": geo.crs},
            "intensity": None if predictor.image_reading.intensity else list(image.intensity),
        }
    slide = Slide.of(size, side, settings.overlap)
    areas = areas_of(size, predictor.area_side)
    mine["windows"] = {"side": slide.side, "step": slide.step, "areas": len(areas)}
    journal = folder / "large" / f"{job.name}.areas"
    whole = {**head, **mine}
    kept = _same(journal / "head.json", whole)
    todo = [i for i in range(len(areas)) if not (kept and (journal / f"{i}.npz").exists())]
    return _Plan(job, number, slide, areas, whole, journal, todo)


def _same(path: Path, head: Mapping[str, Any]) -> bool:
    """Whether a record or journal is of this model, these settings and this state of the image."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return False
    # Another version of the program and another place of the model change nothing.
    free = {"maskwright": None, "model": {**head["model"], "folder": None}}
    if not isinstance(found, dict) or not isinstance(found.get("model"), dict):
        return False
    mine = json.loads(strict_json({**head, **free}, "head"))
    theirs = {name: found.get(name) for name in mine}
    return mine == {**theirs, "maskwright": None, "model": {**found["model"], "folder": None}}


# ---------------------------------------------------------------------------------------------------------------- areas


def _begin(plan: _Plan) -> None:
    """Make the journal of an image, or take up the one that is there."""
    begun = plan.journal / "head.json"
    if not _same(begun, plan.head):
        shutil.rmtree(plan.journal, ignore_errors=True)
        write_atomic(begun, strict_json(plan.head, "head", indent=1) + "\n")
    for path in plan.journal.glob("problem-*.txt"):
        path.unlink()


def _work(
    predictor: BasePredictor,
    plan: _Plan,
    share: Sequence[int],
    rank: int,
    batch: int,
    options: Mapping[str, Any],
    advance: Callable[[], None],
) -> None:
    """Predict some areas of an image into its journal. What cannot be read becomes a problem in the journal, for all processes."""
    reading = predictor.image_reading
    try:
        with open_large(plan.job.path, reading) as image:
            for number in share:

                def read(window: Rectangle, image: LargeImage = image) -> NDArray[np.uint8]:
                    return image.read(window, plan.level)

                found = predictor.predict_area(read, plan.slide, plan.areas[number], batch=batch, **options)
                buffer = io.BytesIO()
                np.savez_compressed(buffer, allow_pickle=False, **found)
                write_atomic(plan.journal / f"{number}.npz", buffer.getvalue())
                advance()
    except DataError as error:
        write_atomic(plan.journal / f"problem-{rank}.txt", error.problems[0])


def _read_area(plan: _Plan, number: int) -> dict[str, NDArray[Any]]:
    path = plan.journal / f"{number}.npz"
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, zipfile.BadZipFile, KeyError) as error:
        remedy = "delete it and give the command again"
        raise DataError([f"{path}: a finished area that cannot be read ({reason_of(error)}); {remedy}"]) from error


# -------------------------------------------------------------------------------------------------------------- results


def _finish(
    predictor: BasePredictor, plan: _Plan, folder: Path, settings: LargeSettings, options: Mapping[str, Any]
) -> list[Path]:
    """Write the results of an image whose areas are all there, then its record; returns what was written."""
    size, name = plan.slide.size, plan.job.name
    objects: list[FoundObject] | None = None
    if predictor.holds_instances:
        objects = predictor.join_areas([_read_area(plan, i) for i in range(len(plan.areas))], **options)
        about: dict[str, Any] = {"objects": _counts(objects, predictor.categories)}
        dtype = np.dtype(np.uint16 if len(objects) < 1 << 16 else np.uint32)
    else:
        about, dtype = _shares(plan, predictor.categories), np.dtype(np.uint8)

    def strips() -> Iterator[NDArray[Any]]:
        return _mask_strips(plan) if objects is None else drawn(objects, size, dtype)

    said = plan.head["georeference"]
    geo = None if said is None else Georeference(tuple(said["transform"]), said["crs"])
    written = []
    for kind in settings.write:
        path = folder / _PLACES[kind].format(name)
        if kind == "tiff":
            write_tiff(path, strips(), size, dtype, plan.head["mpp"], geo)
        elif kind == "zarr":
            write_zarr(path, strips(), size, dtype, plan.head["mpp"])
        else:
            write = write_geojson if kind == "geojson" else write_geopackage
            categories = predictor.categories
            of_mask = _regions(strips(), size[0], categories)
            features = of_mask if objects is None else _outlined(objects, categories)
            about[f"features_{kind}"] = write(path, features, geo, settings.simplify)
        written.append(path)
    files = [path.relative_to(folder).as_posix() for path in written]
    record = {**plan.head, **about, "simplify": settings.simplify, "written": files}
    write_atomic(folder / "large" / f"{name}.json", strict_json(record, "record", indent=1) + "\n")
    shutil.rmtree(plan.journal)
    return written


def _counts(objects: Sequence[FoundObject], categories: Sequence[str]) -> dict[str, int]:
    counts = np.bincount([one.category for one in objects], minlength=len(categories))
    return {name: int(n) for name, n in zip(categories, counts) if n}


def _shares(plan: _Plan, categories: Sequence[str]) -> dict[str, Any]:
    """The share of the image that each category covers, and its mean probability there."""
    pixels, certainty = np.zeros(len(categories)), np.zeros(len(categories))
    for number in range(len(plan.areas)):
        area = _read_area(plan, number)
        pixels += area["pixels"]
        certainty += area["certainty"]
    rows = [(name, n, c) for name, n, c in zip(categories, pixels.tolist(), certainty.tolist()) if n]
    whole = math.prod(plan.slide.size)
    return {
        "area": {name: round(n / whole, 6) for name, n, _ in rows},
        "score": {name: round(c / n, 4) for name, n, c in rows},
    }


def _mask_strips(plan: _Plan) -> Iterator[NDArray[np.uint8]]:
    """The mask of a semantic model, one row of areas after the other."""
    rows: dict[int, list[int]] = {}
    for number, area in enumerate(plan.areas):
        rows.setdefault(area[1], []).append(number)
    for numbers in rows.values():
        yield np.concatenate([_read_area(plan, number)["mask"] for number in numbers], axis=1)


def drawn(objects: Sequence[FoundObject], size: tuple[int, int], dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
    """Ids of objects from 1, in their order, in strips ``(h, W)`` of an image of ``size``; the surer object lies in front."""
    order = sorted(range(len(objects)), key=lambda i: objects[i].score)
    tops = np.array([objects[i].top for i in order], np.int64)
    bottoms = np.array([objects[i].top + len(objects[i].mask) for i in order], np.int64)
    for top in range(0, size[1], _STRIP):
        strip = np.zeros((min(_STRIP, size[1] - top), size[0]), dtype)
        for place in np.flatnonzero((tops < top + len(strip)) & (bottoms > top)):
            one = objects[order[place]]
            mask = one.mask[max(0, top - one.top) : top + len(strip) - one.top]
            first = max(0, one.top - top)
            strip[first : first + len(mask), one.left : one.left + mask.shape[1]][mask] = order[place] + 1
        yield strip


def _regions(strips: Iterator[NDArray[Any]], width: int, categories: Sequence[str]) -> Iterator[Feature]:
    outlines = Outlines(width)
    for strip in strips:
        outlines.add(strip)
    yield from (feature_of(region, categories[region.value], None) for region in outlines.regions())


def _outlined(objects: Sequence[FoundObject], categories: Sequence[str]) -> Iterator[Feature]:
    for number, one in enumerate(objects, start=1):
        outlines = Outlines(one.mask.shape[1])
        outlines.add(one.mask.astype(np.uint8))
        for region in outlines.regions():
            yield feature_of(region, categories[one.category], one.score, one.left, one.top, number)
