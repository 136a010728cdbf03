"""Procedural scenes as an ordinary dataset on disk: for trying things out, for demonstrations and for tests.

::

    folder/
      scenes.json      the settings it was made with
      manifest.json    the dataset; with ``shares`` its training images have labels of mixed kinds
      full.json        with ``shares`` only: the same images, all training images with their masks
      images/  masks/  PNG; ``masks/`` also holds those that only ``full.json`` names

Most images show at least one of the chosen shapes; one in twenty shows none. All other shapes count as background.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from PIL import Image

from maskwright.data import manifest
from maskwright.data.dataset import Dataset
from maskwright.data.fields import read_json
from maskwright.data.files import write_atomic
from maskwright.data.labels import Kind, Labels, Mask, Sample
from maskwright.data.mask_files import write_mask
from maskwright.data.scenes import CATEGORY_NAMES, render
from maskwright.data.weaken import weaken
from maskwright.errors import DataError

FULL = "full.json"
"""Name of the manifest with all training masks, beside ``manifest.json``."""

SETTINGS = "scenes.json"
"""Name of the file that records the settings; its presence says that the dataset is complete."""

_VERSION = 1  # goes up when the same settings give other images
_NEGATIVES = 0.05
_MIN_SHARE = 0.01  # of the image: a chosen shape must show this much to count as visible
_CHUNK = 16  # scenes rendered at once; they share textures
_PATIENCE = 4000  # scenes looked at per image that is wanted; the rarest shape is in about one of forty


def write_scenes(
    folder: Path,
    *,
    train: int,
    val: int,
    test: int,
    size: int = 128,
    seed: int = 0,
    categories: Sequence[str] = ("disc", "figure"),
    difficulty: float = 0.5,
    shares: Mapping[Kind, float] | None = None,
) -> Dataset:
    """Render a semantic segmentation dataset. Does nothing if the folder holds it already, with the same settings.

    The folder is written under another name and renamed when it is complete, so that it never exists in part. The same
    settings give the same pixels and labels.

    Args:
        folder: does not exist yet, is empty, or holds this very dataset.
        train: images of the split ``train``; likewise ``val`` and ``test``. About 5 % of each show none of the shapes.
        size: pixels along a side, at least 32.
        seed: 0 or more. Every split has scenes of its own.
        categories: shapes to segment, of ``scenes.CATEGORY_NAMES``; ids count from 1 in this order. Each is visible in
            at least its equal part of the images that show any; rare ones take longer to find.
        difficulty: 0..1, see ``scenes.render``.
        shares: the mix of kinds of label in ``train`` (see ``weaken.weaken``); all masks where not given.

    Returns:
        The dataset of ``manifest.json``. With ``shares``, ``Dataset.load(folder / FULL)`` is the same with all masks.

    Raises:
        DataError: settings out of range (all at once), shares that do not sum up to 1, a folder with other content or
            made with other settings (all that differ are named), or one that cannot be written.
    """
    settings = {
        "version": _VERSION,
        "train": train,
        "val": val,
        "test": test,
        "size": size,
        "seed": seed,
        "categories": list(categories),
        "difficulty": difficulty,
        "shares": None if shares is None else {str(Kind(kind)): float(share) for kind, share in shares.items()},
    }
    if problems := _setting_problems(settings):
        raise DataError(problems, str(folder))
    folder = Path(folder)
    if _is_complete(folder, settings):
        return Dataset.load(folder / manifest.NAME)
    aside = folder.absolute().with_name(f".{folder.absolute().name}.{uuid4().hex}.part")
    try:
        _render_into(aside, settings, shares)
        _put(aside, folder, settings)
    finally:
        for path in (aside, _weak_folder(aside)):
            shutil.rmtree(path, ignore_errors=True)  # gone after the rename; an error under way matters more
    return Dataset.load(folder / manifest.NAME)


def _setting_problems(settings: dict[str, Any]) -> list[str]:
    problems = []
    for split in ("train", "val", "test"):
        if settings[split] < 0:
            problems.append(f"{split}: {settings[split]} images; give 0 or more")
    if not settings["train"] + settings["val"] + settings["test"] > 0:
        problems.append("no image asked for; give train, val or test at least 1")
    if settings["size"] < 32:
        problems.append(f"size: {settings['size']} pixels; give at least 32")
    if settings["seed"] < 0:
        problems.append(f"seed: {settings['seed']}; give 0 or more")
    if not 0 <= settings["difficulty"] <= 1:
        problems.append(f"difficulty: {settings['difficulty']}; give a number in 0..1")
    all_names, names = CATEGORY_NAMES[1:], settings["categories"]
    problems += [
        f"category {name!r} is unknown; choose of {', '.join(all_names)}" for name in names if name not in all_names
    ]
    problems += [f"category {name!r} is named twice; name it once" for name, n in Counter(names).items() if n > 1]
    if not names:
        problems.append(f"no category; choose of {', '.join(all_names)}")
    if set(names) == set(all_names):
        problems.append("every category is chosen, so no image could show none of them; leave one out")
    if settings["shares"] is not None:
        if not settings["train"]:
            problems.append("shares: there are no training images to weaken; give train at least 1, or no shares")
        shares = settings["shares"].values()
        if min(shares, default=0) < 0 or abs(sum(shares) - 1) > 1e-6:
            problems.append(f"shares: {settings['shares']} must not be negative and sum up to 1; correct them")
    return problems


def _is_complete(folder: Path, settings: dict[str, Any]) -> bool:
    """Whether the dataset is there; False for a folder that is new or empty. Anything else is refused."""
    if (folder.is_dir() and not any(folder.iterdir())) or not folder.exists():
        return False
    if not (folder / SETTINGS).is_file():
        raise DataError([f"{folder}: holds something else than procedural scenes; name a new or empty folder"])
    old_settings = read_json(folder / SETTINGS)
    old_settings = old_settings if isinstance(old_settings, dict) else {}
    differing = [
        f"{name}: {old_settings.get(name)} there, {settings.get(name)} asked for"
        for name in sorted(old_settings.keys() | settings.keys())
        if old_settings.get(name) != settings.get(name)
    ]
    if differing:
        remedy = f"{folder}: was made with other settings; name another folder, or delete this one to make it anew"
        raise DataError([remedy, *differing])
    return True


def _render_into(folder: Path, settings: dict[str, Any], shares: Mapping[Kind, float] | None) -> None:
    names = ("background", *settings["categories"])
    samples = []
    for number, split in enumerate(("train", "val", "test")):
        scenes = _scenes(settings, stream=number, count=settings[split])
        for i, (image, mask) in enumerate(scenes):
            name = f"{split}-{i:04d}"
            write_atomic(folder / f"images/{name}.png", _png(image))
            write_mask(folder / f"masks/{name}.png", mask)
            labels = Labels(mask=Mask(f"masks/{name}.png"))
            samples.append(Sample(name, f"images/{name}.png", split, labels, (settings["size"], settings["size"])))
    full = Dataset(folder, names, tuple(samples))
    if shares is None:
        full.save()
    else:
        full.save(folder / FULL)
        weak = weaken(full, _weak_folder(folder), shares, settings["seed"])
        # Only the labels are taken over: the images, and the masks that are left, are here already.
        labels = {sample.id: sample.labels for sample in weak}
        masks = {sample.id: sample.labels.mask for sample in full}
        full.with_samples(
            [
                replace(s, labels=replace(labels[s.id], mask=masks[s.id] if labels[s.id].mask else None))
                for s in full.samples
            ]
        ).save()
    write_atomic(folder / SETTINGS, json.dumps(settings, indent=2) + "\n")


def _weak_folder(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}-weak")


def _put(aside: Path, folder: Path, settings: dict[str, Any]) -> None:
    try:
        if folder.is_dir():
            with suppress(FileNotFoundError):
                folder.rmdir()  # empty; a rename onto it does not work everywhere
        aside.rename(folder)
    except OSError as error:
        # Another process may have made the same dataset in the meantime, and then all is well.
        if not _is_complete(folder, settings):
            reason = error.strerror or type(error).__name__
            raise DataError([f"{folder}: cannot be written ({reason}); choose a folder you may write to"]) from None


def _scenes(settings: dict[str, Any], stream: int, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Image ``(S, S, 3)`` uint8 and mask ``(S, S)`` uint8 of the first scenes that show what is still wanted."""
    categories = settings["categories"]
    quota = _wanted(count, len(categories))
    ids = np.zeros(len(CATEGORY_NAMES), np.uint8)
    ids[[CATEGORY_NAMES.index(name) for name in categories]] = np.arange(1, len(categories) + 1)
    for chunk in range(_PATIENCE * count // _CHUNK + 1):
        if not quota.total():
            return
        # SeedSequence mixes the numbers, so that neighbouring seeds, splits and chunks give unrelated scenes.
        state = np.random.SeedSequence((settings["seed"], stream, chunk)).generate_state(1, np.uint64)
        scenes = render(_CHUNK, settings["size"], seed=int(state[0] >> 1), difficulty=settings["difficulty"])
        shapes = torch.nn.functional.pad(scenes.categories, (1, 0)).numpy()
        instances = scenes.instances.numpy()
        for image, instance, shape in zip(scenes.images, instances, shapes):
            mask = ids[shape[instance]]
            category = _shown(mask, quota)
            if category is not None:
                quota[category] -= 1
                yield (image.permute(1, 2, 0) * 255).round().byte().numpy(), mask
    missing = ", ".join(f"{n} with {('none of them', *categories)[k]}" for k, n in sorted(quota.items()) if n)
    raise DataError(
        [f"categories {', '.join(categories)}: too few scenes show them, missing are {missing}; choose others"]
    )


def _wanted(count: int, categories: int) -> Counter[int]:
    """How many images are to show each category; 0 counts the images without any."""
    negatives = round(_NEGATIVES * count)
    quota = Counter({0: negatives})
    for i in range(count - negatives):
        quota[1 + i % categories] += 1
    return quota


def _shown(mask: np.ndarray, wanted: Counter[int]) -> int | None:
    """The category, of those in the image, of which most images are still wanted; 0 for none; None: not wanted."""
    areas = np.bincount(mask.ravel())
    if len(areas) == 1:
        return 0 if wanted[0] else None
    visible = [k for k in range(1, len(areas)) if areas[k] >= _MIN_SHARE * mask.size and wanted[k]]
    return max(visible, key=lambda k: wanted[k], default=None)


def _png(image: np.ndarray) -> bytes:
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()
