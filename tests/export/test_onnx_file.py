"""Files in ONNX that are not what they should be: one clear error each. The files are made by hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from maskwright.errors import MissingPackageError, NotFiniteError, WeightsError
from maskwright.export.onnx_file import FORMAT, KEY, VERSION, OnnxFile
from maskwright.export.onnx_predictors import open_predictor

FACTS: dict[str, Any] = {
    "format": FORMAT,
    "version": VERSION,
    "maskwright": "0.1.0",
    "kind": "semantic",
    "size": 64,
    "signature": "0" * 16,
    "opset": 20,
    "differences": {"probability": 1e-6},
    "recipe": "samix",
    "categories": ["background", "red"],
    "checksums": {"config": "0" * 64},
}


def write(path: Path, facts: Any = FACTS, key: str = KEY) -> Path:
    """A graph that takes the logarithm."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Log", ["x"], ["y"])], "log", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(model, {key: facts if isinstance(facts, str) else json.dumps(facts)})
    onnx.save(model, path)
    return path


def test_a_file_says_what_it_is_and_runs(tmp_path: Path):
    file = OnnxFile.open(write(tmp_path / "a.onnx"), ("semantic",))
    assert file.facts["categories"] == ["background", "red"]
    (found,) = file.run({"x": np.array([1.0, np.e], np.float32)})
    np.testing.assert_allclose(found, [0, 1], atol=1e-6)


def test_what_is_not_finite_is_an_error(tmp_path: Path):
    file = OnnxFile.open(write(tmp_path / "a.onnx"), ("semantic",))
    with pytest.raises(NotFiniteError, match=r"a\.onnx"):
        file.run({"x": np.array([-1.0], np.float32)})


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"format": "other"}, "format"),
        ({"version": 99}, "version"),
        ({"kind": "sam-encoder"}, "is not known"),
        ({"kind": "instances"}, "zoom: is missing"),
        ({"categories": ["background"]}, "categories"),
        ({"size": 63}, "size: must be a multiple of 32"),
        ({"more": 1}, "more: is not known"),
        ({"image_reading": {"intensity": [2, 1]}}, "image_reading"),
    ],
)
def test_facts_are_checked(tmp_path: Path, changed: dict[str, Any], text: str):
    with pytest.raises(WeightsError, match=text) as caught:
        open_predictor(write(tmp_path / "a.onnx", {**FACTS, **changed}))
    assert "a.onnx" in str(caught.value)
    assert "export it again" in str(caught.value)


def test_files_that_are_none_of_ours(tmp_path: Path):
    for path, text in (
        (tmp_path / "none.onnx", "no such file"),
        (write(tmp_path / "foreign.onnx", key="other"), "not written by maskwright"),
        (write(tmp_path / "broken.onnx", "{"), "metadata are damaged"),
    ):
        with pytest.raises(WeightsError, match=text):
            open_predictor(path)
    sam = {
        name: FACTS[name] for name in ("format", "version", "maskwright", "size", "signature", "opset", "differences")
    }
    with pytest.raises(WeightsError, match="of kind sam-encoder, not semantic or instances"):
        open_predictor(write(tmp_path / "sam.onnx", {**sam, "kind": "sam-encoder"}))


@pytest.mark.parametrize("content", [b"", b"\x80\x04pickle", b"not a model at all"])
def test_a_file_that_is_not_onnx(tmp_path: Path, content: bytes):
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(WeightsError, match="no model that onnxruntime reads"):
        open_predictor(tmp_path / "a.onnx")


def test_without_onnxruntime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingPackageError, match=r"maskwright\[onnx\]"):
        open_predictor(write(tmp_path / "a.onnx"))
