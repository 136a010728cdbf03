"""What the command line and a notebook both call; each command of ``maskwright`` is one of these functions.

::

    models    train, load, evaluate, predict
    data      check, fix, stats, weaken, convert, split, merge, sample, use_cache
    find      find
    curate    next_labels, budget, audit, apply_repairs
    sam       sam_info, sam_evaluate, sam_convert, sam_export, precompute
    out       export_model, push

The most used ones are names of the package: ``maskwright.train`` and so on. Importing them imports nothing heavy; PyTorch
comes with the first call that needs it.

>>> import maskwright
>>> run = maskwright.train("samix", data="polyps", out="runs/polyps", minutes=45)
>>> maskwright.evaluate(run, "polyps")["dice"]
>>> maskwright.predict(run, "new_images", "predictions", progress=True).problems
"""

from maskwright.api.arrange import merge, sample, split
from maskwright.api.curate import apply_repairs, audit, budget, next_labels
from maskwright.api.data import CheckResult, check, convert, fix, require_data, stats, use_cache, weaken
from maskwright.api.export import Exported, Target, export_model, sam_export
from maskwright.api.finding import FindResult, find
from maskwright.api.hub import push
from maskwright.api.models import Engine, evaluate, load, load_onnx, predict, train
from maskwright.api.progress import busy
from maskwright.api.sam import precompute, sam_convert, sam_evaluate, sam_info, sam_score_table
from maskwright.data.choices import Crowd, KindName, Twins
from maskwright.data.image_reading import ImageReading
from maskwright.data.large.names import WriteName
from maskwright.data.registry import READ as FORMATS
from maskwright.data.registry import TOOLS, WRITTEN, ReadName, ToolName, WrittenName
from maskwright.recipes import RECIPES

__all__ = [
    "FORMATS",
    "RECIPES",
    "TOOLS",
    "WRITTEN",
    "CheckResult",
    "Crowd",
    "Engine",
    "Exported",
    "FindResult",
    "ImageReading",
    "KindName",
    "ReadName",
    "Target",
    "ToolName",
    "Twins",
    "WriteName",
    "WrittenName",
    "apply_repairs",
    "audit",
    "budget",
    "busy",
    "check",
    "convert",
    "evaluate",
    "export_model",
    "find",
    "fix",
    "load",
    "load_onnx",
    "merge",
    "next_labels",
    "precompute",
    "predict",
    "push",
    "require_data",
    "sam_convert",
    "sam_evaluate",
    "sam_export",
    "sam_info",
    "sam_score_table",
    "sample",
    "split",
    "stats",
    "train",
    "use_cache",
    "weaken",
]
