"""Python values as JSON and as numbers to log. Imports nothing heavy: the settings of recipes are read before PyTorch is."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from maskwright.errors import MaskwrightError


def plain(value: Any, where: str) -> Any:
    """``value`` as JSON gives it back.

    Raises:
        TypeError: JSON would refuse or change something; names its place.
        MaskwrightError: a number is NaN or infinite, which is no JSON and no result; names its place.
    """
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        raise MaskwrightError(f"{where}: {value} is no number to go on with")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return value.as_posix()
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value), where)
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: plain(entry, f"{where}.{key}") for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry, f"{where}[{i}]") for i, entry in enumerate(value)]
    raise TypeError(
        f"{where}: {type(value).__name__} has no place in JSON (keys must be str, tensors go with the tensors)"
    )


def strict_json(value: Any, where: str, indent: int | None = None) -> str:
    """``value`` as JSON that every reader takes: see :func:`plain` for what is refused."""
    return json.dumps(plain(value, where), indent=indent, allow_nan=False)


def number(name: str, value: Any) -> float:
    """A number, or a tensor or array of one element, as a Python number. Raises TypeError naming a value that is not a number."""
    if hasattr(value, "item"):  # named rather than by type, as PyTorch takes seconds to import
        value = value.item()
    if not isinstance(value, int | float):
        raise TypeError(f"{name}: a scalar to log must be a number, not {type(value).__name__}")
    return value


def settings_of(config: Any, *free: str) -> dict[str, Any]:
    """The fields of a dataclass as JSON, but for the ``free`` ones, which do not decide the result."""
    return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(config).items() if k not in free}
