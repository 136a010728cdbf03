"""A file in ONNX that maskwright wrote: what it says of itself, and running it. Nothing here imports PyTorch."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskwright.data.image_reading import ImageReading
from maskwright.data.labels import IGNORE
from maskwright.data.schema import Anything, Fields, Items, Kind, Named, OneOf, Real, Text, Whole
from maskwright.errors import MaskwrightError, MissingPackageError, NotFiniteError, WeightsError

KEY = "maskwright"
"""Under this name a file's own metadata hold its facts, as JSON."""

FORMAT, VERSION = "maskwright-onnx", 1

_REMEDY = "export it again with `maskwright export`"

_FACTS: dict[str, Kind] = {
    "format": OneOf((FORMAT,)),
    "version": OneOf((VERSION,)),
    "maskwright": Text(100),
    "kind": OneOf(("semantic", "instances", "sam-encoder", "sam-decoder")),
    "size": Whole(32, 8192, step=32),
    "signature": Text(64),
    "opset": Whole(1, 1000),
    "differences": Named(Real(0, 1e9), 16),
}
_OF_MODELS: dict[str, Kind] = {
    "recipe": Text(100),
    "categories": Items(Text(), 2, IGNORE),
    "checksums": Named(Text(64), 64),
    "image_reading": Anything(),  # checked by ImageReading itself
}


@dataclass(frozen=True)
class OnnxFile:
    """A file whose facts were read and checked. Made by :meth:`open`.

    Attributes:
        path: of the file.
        facts: ``kind`` (``semantic``, ``instances``, ``sam-encoder``, ``sam-decoder``), ``size`` (side of the canvas in pixels),
            ``signature`` (changes with the weights that were exported), ``opset``, ``differences`` (how far its answers were from
            PyTorch's when it was exported), ``maskwright`` (the version that wrote it); of trained models also ``recipe``, ``categories``,
            ``checksums`` (of the model folder), ``image_reading``, and of instances ``zoom`` (pixels of the canvas along one of the image).
        session: of ``onnxruntime``, on the CPU.
    """

    path: Path
    facts: Mapping[str, Any]
    session: Any

    @classmethod
    def open(cls, path: str | Path, kinds: Sequence[str]) -> OnnxFile:
        """Read a file.

        Args:
            kinds: those that will do.

        Raises:
            MissingPackageError: ``onnxruntime`` is not installed.
            WeightsError: no such file, not ONNX, damaged, not written by maskwright, or of another kind.
        """
        path = Path(path)
        if not path.is_file():
            raise WeightsError(f"{path}: there is no such file; {_REMEDY}")
        session = _session(path)
        text = session.get_modelmeta().custom_metadata_map.get(KEY)
        if text is None:
            raise WeightsError(f"{path}: was not written by maskwright, or without its metadata; {_REMEDY}")
        facts = _checked(path, text)
        if facts["kind"] not in kinds:
            raise WeightsError(
                f"{path}: holds a model of kind {facts['kind']}, not {' or '.join(kinds)}; name another file"
            )
        return cls(path, facts, session)

    @cached_property
    def digest(self) -> str:
        """64 hexadecimal digits of the file's SHA-256."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @property
    def image_reading(self) -> ImageReading:
        """How the images that it learnt from were read. Raises WeightsError for values that cannot be."""
        try:
            return ImageReading.of(self.facts.get("image_reading", {}))
        except MaskwrightError as error:
            raise WeightsError(f"{self.path}: image_reading: {error}; {_REMEDY}") from error

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Its outputs for inputs by name.

        Raises:
            NotFiniteError: an output holds NaN or infinity.
        """
        outputs = self.session.run(None, dict(inputs))
        if not all(np.isfinite(one).all() for one in outputs if one.dtype.kind == "f"):
            raise NotFiniteError(str(self.path))
        return outputs


def _session(path: Path) -> Any:
    """A session of ``onnxruntime`` on the CPU, with as many threads as ``OMP_NUM_THREADS`` says, or all cores."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingPackageError(f"{path}: a model in ONNX needs onnxruntime", "onnx", error) from error

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors alone
    # In the order in which the graph was written: other orders hold the maps of all categories at once.
    options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    threads = os.environ.get("OMP_NUM_THREADS", "")
    options.intra_op_num_threads = int(threads) if threads.isdecimal() else 0
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        # onnxruntime's errors have no class in common but this one.
        if not type(error).__module__.startswith("onnxruntime"):
            raise
        reason = str(error).strip().splitlines()[0]
        raise WeightsError(f"{path}: is no model that onnxruntime reads, or damaged ({reason}); {_REMEDY}") from error


def _checked(path: Path, text: str) -> dict[str, Any]:
    try:
        facts = json.loads(text)
    except ValueError as error:
        raise WeightsError(f"{path}: its metadata are damaged ({error}); {_REMEDY}") from error
    kind = facts.get("kind") if isinstance(facts, dict) else None
    if kind == "instances":
        schema = Fields({**_FACTS, **_OF_MODELS, "zoom": Real(1 / 64, 64)}, frozenset(["image_reading"]))
    elif kind == "semantic":
        schema = Fields({**_FACTS, **_OF_MODELS}, frozenset(["image_reading"]))
    else:
        schema = Fields(_FACTS)
    if problems := list(schema.problems(facts, "")):
        raise WeightsError(f"{path}: its metadata are wrong: {'; '.join(problems[:5])}; {_REMEDY}")
    return facts
