"""Zarr stores: a single array, or OME-Zarr (NGFF), whose multiscales name the levels of a pyramid with their units."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from maskwright.data.files import reason_of
from maskwright.data.image_reading import PLAIN, ImageReading
from maskwright.data.large import packages
from maskwright.data.large.image import LargeImage, Rectangle, require_levels
from maskwright.data.large.tiff_image import picked
from maskwright.errors import DataError

_MICROMETRES = {"micrometer": 1.0, "micron": 1.0, "nanometer": 1e-3, "millimeter": 1e3, "centimeter": 1e4, "meter": 1e6}


class ZarrImage(LargeImage):
    """A zarr store; see :class:`LargeImage`. Of axes beyond rows, columns and channels ``reading.page`` is read.

    Raises:
        DataError: no store that can be read, or one that names levels that are not there.
        MissingPackageError: the extra ``large`` is not installed.
    """

    def __init__(self, path: Path, reading: ImageReading = PLAIN) -> None:
        super().__init__(path, reading)
        zarr = packages.zarr()
        try:
            store = zarr.open(path, mode="r")
        except Exception as error:  # zarr raises whatever a damaged store makes of it
            raise DataError([f"{path}: no zarr store that can be read ({reason_of(error)}); replace it"]) from error
        if isinstance(store, zarr.Array):
            self._arrays, self._axes = [store], _guessed(store.shape, path)
        else:
            self._arrays, self._axes, self.mpp = _multiscales(store, path, zarr)
        y, x = self._axes.index("Y"), self._axes.index("X")
        sizes = [(array.shape[x], array.shape[y]) for array in self._arrays]
        self.levels = require_levels(path, sizes)
        self._index = {}
        for axis, count in zip(self._axes, self._arrays[0].shape):
            if axis in "YXC":
                continue
            if count > 1 and reading.page is None:
                raise DataError([f"{path}: has {count} planes; say which to read, counted from 0, with --page 0"])
            if (reading.page or 0) >= count and count > 1:
                raise DataError([f"{path}: has {count} planes, and no plane {reading.page}; name another with --page"])
            self._index[axis] = (reading.page or 0) if count > 1 else 0

    def _samples(self, window: Rectangle, level: int) -> NDArray[Any]:
        try:
            return picked(self._arrays[level], self._axes, self._index, window)
        except Exception as error:  # the codecs' errors have no common class
            raise self.damaged(window, level, reason_of(error)) from error


def _guessed(shape: tuple[int, ...], path: Path) -> str:
    """Axes of an array that does not name them: channels are the short one, first or last."""
    if len(shape) == 2:
        return "YX"
    if len(shape) == 3:
        return "YXC" if shape[2] <= min(16, shape[0]) else "CYX"
    raise DataError([f"{path}: an array of {len(shape)} axes is no image; save it as OME-Zarr, or with 2 or 3 axes"])


def _multiscales(group: Any, path: Path, zarr: Any) -> tuple[list[Any], str, float | None]:
    """Arrays of an OME-Zarr group from the finest on, their axes, and micrometres along a pixel of the finest."""
    attributes = dict(group.attrs)
    said: Any = dict(attributes.get("ome", attributes)).get("multiscales")
    try:
        first = said[0]
        datasets = [(entry["path"], entry.get("coordinateTransformations", [])) for entry in first["datasets"]]
        axes = [axis if isinstance(axis, dict) else {"name": axis} for axis in first.get("axes", [])]
        names = "".join(axis["name"].upper() for axis in axes) or "TCZYX"
    except (TypeError, KeyError, IndexError):
        remedy = "give the path of one array in it, or save it as OME-Zarr"
        raise DataError([f"{path}: a zarr group without the multiscales of OME-Zarr; {remedy}"]) from None
    missing = [name for name, _ in datasets if not isinstance(group.get(name), zarr.Array)]
    if missing:
        what = f"names {len(datasets)} pyramid levels, of which {', '.join(missing)} are missing"
        raise DataError([f"{path}: {what}; restore the store"])
    arrays = [group[name] for name, _ in datasets]
    wrong = [name for name, array in zip((name for name, _ in datasets), arrays) if len(array.shape) != len(names)]
    if wrong or not {"X", "Y"} <= set(names):
        raise DataError([f"{path}: the axes {names} are not those of its arrays; mend its metadata"])
    return arrays, names, _scale(datasets[0][1], names, axes)


def _scale(transforms: Any, names: str, axes: list[dict[str, Any]]) -> float | None:
    place = names.index("X")
    unit = axes[place].get("unit") if axes else None
    for one in transforms if isinstance(transforms, list) else []:
        if isinstance(one, dict) and one.get("type") == "scale" and unit in _MICROMETRES:
            value = float(one["scale"][place]) * _MICROMETRES[unit]
            return value if math.isfinite(value) and value > 0 else None
    return None
