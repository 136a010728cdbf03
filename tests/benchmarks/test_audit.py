"""Planted errors: what they are called, and how a ranking is scored."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from maskwright.data.dataset import Dataset
from maskwright.data.mask_files import read_mask
from maskwright.data.scene_dataset import write_scenes
from maskwright.methods.curate.audit import Suspect
from maskwright.methods.curate.planted_errors import ERROR_KINDS


@pytest.fixture
def audit(script: Callable[[str, str], ModuleType]) -> ModuleType:
    return script("benchmarks", "audit")


def labels() -> np.ndarray:
    there = np.zeros((120, 160), np.uint8)
    there[20:60, 30:80], there[70:110, 100:150] = 1, 2
    return there


@pytest.mark.parametrize("kind", ERROR_KINDS)
def test_an_error_changes_what_it_says(audit: ModuleType, kind: str) -> None:
    before, made = labels(), 0
    for seed in range(20):
        after = audit.plant(before, kind, 3, np.random.default_rng(seed))
        if after is None:
            continue
        made += 1
        assert (after != before).mean() > 0.005
        if kind == "missed":
            assert len(np.unique(after)) == 2
        if kind == "swapped":
            assert ((after > 0) == (before > 0)).all()
        if kind == "extra":
            assert (after[before > 0] > 0).all()
    assert made >= 15
    assert audit.plant(np.zeros_like(before), kind, 3, np.random.default_rng(0)) is None


def test_a_ranking_is_scored(audit: ModuleType) -> None:
    ids = [f"i{n}" for n in range(8)]
    ranking = [Suspect(n, 1 - n / 10, "missed", dict.fromkeys(ERROR_KINDS, 0.1), None) for n in range(8)]
    row = audit.scores(ranking, {"i0": "missed", "i2": "coarse"}, ids)
    assert row["ap"] == pytest.approx((1 + 2 / 3) / 2)
    assert row["recall_100"] == 1
    assert row["highest_unspoilt"][:2] == ["i1", "i3"]
    assert row["kinds"]["missed"]["named"] == 1
    assert row["kinds"]["coarse"]["named"] == 0


def test_a_small_run(audit: ModuleType, tmp_path: Path, tiny_sam_folder: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("maskwright.methods.curate.quick.steps_for", lambda count: 8)
    data = tmp_path / "data"
    write_scenes(data, train=30, val=0, test=0, size=64, categories=("disc",), difficulty=0.2)
    config = audit.Config(
        data=data, out=tmp_path / "out", sam=str(tiny_sam_folder), errors=6, json=tmp_path / "figures.json"
    )
    audit.main(config)
    assert "Planted errors in data" in capsys.readouterr().out
    row = json.loads((tmp_path / "figures.json").read_text())["rows"]["0"]
    assert 0 <= row["ap"] <= 1
    assert sum(kind["planted"] for kind in row["kinds"].values()) == 6
    spoiled = Dataset.load(tmp_path / "out/data-0")
    changed = sum(
        bool((read_mask(data / "masks" / f"{s.id}.png") != read_mask(spoiled.root / s.labels.mask.path)).any())
        for s in spoiled
        if s.labels.mask
    )
    assert changed == 6
    # A second call prints what is there.
    audit.main(config)
