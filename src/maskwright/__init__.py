"""Segmentation models from whatever labels there are, on SAM 2.

>>> import maskwright
>>> maskwright.check("polyps").problems
[]
>>> run = maskwright.train("samix", data="polyps", out="runs/polyps", minutes=45)
>>> maskwright.evaluate(run, "polyps")["dice"]
0.842
>>> maskwright.predict(run, "new_images", "predictions")  # a folder of images: masks, overlays, an index
>>> for prediction in maskwright.load(run).predict(["a.jpg", "b.jpg"]):  # images one by one
...     prediction.save("predictions")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from maskwright.version import __version__

if TYPE_CHECKING:
    from maskwright.api import (
        audit,
        budget,
        check,
        convert,
        evaluate,
        export_model,
        find,
        fix,
        load,
        next_labels,
        precompute,
        predict,
        push,
        sam_info,
        stats,
        train,
    )
    from maskwright.data.dataset import Dataset
    from maskwright.data.image_reading import ImageReading
    from maskwright.engine.prediction import Prediction
    from maskwright.engine.predictor import Predictor
    from maskwright.sam.sam import Sam

__all__ = [
    "Dataset",
    "ImageReading",
    "Prediction",
    "Predictor",
    "Sam",
    "__version__",
    "audit",
    "budget",
    "check",
    "convert",
    "evaluate",
    "export_model",
    "find",
    "fix",
    "load",
    "next_labels",
    "precompute",
    "predict",
    "push",
    "sam_info",
    "stats",
    "train",
]

# PyTorch takes seconds to import, so names are fetched when they are first used.
_HOMES = {
    "Dataset": "maskwright.data.dataset",
    "ImageReading": "maskwright.data.image_reading",
    "Prediction": "maskwright.engine.prediction",
    "Predictor": "maskwright.engine.predictor",
    "Sam": "maskwright.sam.sam",
}
"""Of names that do not come from the API."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES.get(name, "maskwright.api")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
