"""Trained models in ONNX at work, with ``onnxruntime`` and without PyTorch: the same masks as :mod:`maskwright.engine.predictor` makes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from maskwright.data.fields import read_json
from maskwright.engine.base_predictor import BasePredictor, Canvas
from maskwright.engine.prediction import Prediction
from maskwright.errors import MaskwrightError, WeightsError
from maskwright.export.exported import NAME
from maskwright.export.onnx_file import OnnxFile
from maskwright.methods.instances.dense_views import objects_of
from maskwright.methods.instances.prediction import prediction_of, write_results


class OnnxPredictor(BasePredictor):
    """A trained model in ONNX, on the CPU. Made by :func:`open_predictor`."""

    def __init__(self, file: OnnxFile) -> None:
        facts = file.facts
        self.file = file
        self.categories, self.size = tuple(facts["categories"]), facts["size"]
        self.folder, self.recipe, self.signature = file.path, facts["recipe"], file.digest[:16]
        self.image_reading = file.image_reading

    @property
    def device(self) -> str:
        return "cpu"

    def to(self, device: Any) -> Self:
        """Nothing. Raises MaskwrightError for a device that is not the CPU."""
        if str(device) not in ("cpu", "auto"):
            raise MaskwrightError(
                f"--device {device}: a model in ONNX runs on the CPU here; leave it out, or give --engine torch"
            )
        return self

    def with_defaults(self, options: Mapping[str, Any]) -> dict[str, Any]:
        if foreign := sorted(options.keys() - self.options.keys()):
            names = ", ".join("--" + name.replace("_", "-") for name in foreign)
            raise MaskwrightError(
                f"{self.folder}: a model in ONNX has no {names}; leave it out, or give --engine torch"
            )
        return {**self.options, **options}

    def prepare(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The image as it is: the model itself brings it to its canvas."""
        return pixels


class OnnxSegmenter(OnnxPredictor):
    """A semantic segmenter: the best category wins in each of the image's own pixels."""

    def finish(self, canvases: Sequence[Canvas], **options: Any) -> Iterator[Prediction]:
        # One by one: images of different sizes make no batch, and on a CPU a batch gains nothing.
        for canvas in canvases:
            mask, probability = (output[0] for output in self.file.run({"image": canvas.pixels[None]}))
            flat, count = mask.reshape(-1), len(self.categories)
            area = np.bincount(flat, minlength=count)
            certainty = np.bincount(flat, probability.reshape(-1), minlength=count)
            rows = zip(self.categories, certainty.tolist(), area.tolist())
            scores = {name: total / pixels for name, total, pixels in rows if pixels}
            yield Prediction(canvas.id, canvas.image, mask, self.categories, scores)


class OnnxInstances(OnnxPredictor):
    """A dense instance segmenter; the option ``threshold`` is the score from which an object is drawn into masks and overlays."""

    options: ClassVar[Mapping[str, Any]] = {"threshold": 0.5}
    holds_instances = True

    def finish(self, canvases: Sequence[Canvas], *, threshold: float = 0.5) -> Iterator[Prediction]:
        for canvas in canvases:
            detections = objects_of(self._look, canvas.pixels, self.file.facts["zoom"])
            yield prediction_of(canvas, detections, threshold, self.categories)

    def _look(self, view: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self.file.run({"view": view[None]})[0][0]

    def conclude(self, folder: Path, rows: Mapping[str, Mapping[str, Any]]) -> list[Path]:
        return [write_results(folder, rows, self.categories)]


def open_predictor(path: str | Path) -> OnnxPredictor:
    """The predictor of a file, or of the one in a run directory.

    Raises:
        MissingPackageError: ``onnxruntime`` is not installed.
        WeightsError: nothing was exported there, the file is damaged or of another kind, or the run has another model by now.
    """
    path = Path(path)
    file = OnnxFile.open(_find(path), ("semantic", "instances"))
    _require_current(file)
    return OnnxInstances(file) if file.facts["kind"] == "instances" else OnnxSegmenter(file)


def _find(path: Path) -> Path:
    if not path.exists():
        raise WeightsError(
            f"{path}: there is no such file or folder; give a run directory, or a file that `maskwright export` wrote"
        )
    if path.is_dir() and not (path / NAME).is_file():
        raise WeightsError(f"{path}: there is no {NAME} yet; make it with `maskwright export {path} --to onnx`")
    return path / NAME if path.is_dir() else path


def _require_current(file: OnnxFile) -> None:
    """Raise WeightsError where a run's model was trained on since it was exported into the run's directory."""
    config = file.path.parent / "model" / "config.json"
    if file.path.name == NAME and config.is_file() and read_json(config).get("checksums") != file.facts["checksums"]:
        run = file.path.parent
        raise WeightsError(
            f"{file.path}: was exported from another model than {run} holds now; export it again with "
            f"`maskwright export {run} --to onnx`"
        )
