"""Strategies of labelling: the annotator's errors and seconds, and a small run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from maskwright.data.scene_dataset import write_scenes


@pytest.fixture
def module(script: Callable[[str, str], ModuleType]) -> ModuleType:
    return script("benchmarks", "next_labels")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_scenes(tmp_path / "data", train=30, val=0, test=8, size=64, categories=("disc",), difficulty=0.2)
    return tmp_path / "data"


def test_a_small_run_goes_on_where_it_was_stopped(
    module: ModuleType, data: Path, tmp_path: Path, tiny_sam_folder: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(module, "STEPS", 8)
    settings = {"data": data, "out": tmp_path / "out", "sam": str(tiny_sam_folder), "first": 70.0, "doublings": 1}
    module.main(module.Config(**settings, rows=("random, boxes",)))
    monkeypatch.setattr(module.Study, "make", _only(module.Study.make, "random, masks", "next", "doubts"))
    rows = ("random, masks", "random, boxes", "next", "doubts")
    module.main(module.Config(**settings, rows=rows, json=tmp_path / "figures.json"))
    assert "Labelling data" in capsys.readouterr().out
    figures = json.loads((tmp_path / "figures.json").read_text())["rows"]
    assert set(figures) == set(rows)
    for name, seeds in figures.items():
        for point in seeds["0"]:
            assert point["spent"] <= point["budget"]
            assert 0 <= point["dice"] <= 1
        assert seeds["0"][0]["labels"] < seeds["0"][1]["labels"], name
    assert figures["random, masks"]["0"][1]["labels"] < figures["random, boxes"]["0"][1]["labels"]


def _only(real: Callable, *wanted: str) -> Callable:
    def make(study, row: str, seed: int):
        assert row in wanted
        return real(study, row, seed)

    return make


def test_a_traced_border_is_off_by_little(module: ModuleType) -> None:
    region = np.zeros((128, 128), bool)
    region[30:90, 40:100] = True
    traced = module._traced(region, np.random.default_rng(0))
    union = (traced | region).sum()
    assert 0.9 < (traced & region).sum() / union < 1


def test_seconds_to_a_dice(module: ModuleType) -> None:
    curves = [{"points": [{"budget": b, "dice": [d, d]} for b, d in ((100, 0.4), (200, 0.6), (400, 0.5))]}]
    assert module.seconds_to(curves, 0.5) == pytest.approx(100 * 2**0.5)
    assert module.seconds_to(curves, 0.7) == float("inf")
    assert module.area(curves[0]).tolist() == pytest.approx([0.5, 0.5])
