"""Segmentation models from whatever labels there are, on SAM 2.

>>> import maskwright
>>> run = maskwright.train("samix", data="polyps", out="runs/polyps", minutes=45)
>>> for prediction in maskwright.load(run).predict(["a.jpg", "b.jpg"]):
...     prediction.save("predictions")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from maskwright.version import __version__

if TYPE_CHECKING:
    from maskwright.api import Prediction, evaluate, load, train
    from maskwright.data.dataset import Dataset
    from maskwright.sam.sam import Sam

__all__ = ["Dataset", "Prediction", "Sam", "__version__", "evaluate", "load", "train"]

# PyTorch takes seconds to import, so names are fetched when they are first used.
_HOMES = {
    "Dataset": "maskwright.data.dataset",
    "Prediction": "maskwright.api",
    "Sam": "maskwright.sam.sam",
    "evaluate": "maskwright.api",
    "load": "maskwright.api",
    "train": "maskwright.api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
