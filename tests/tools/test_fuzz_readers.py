"""Damaged datasets are read or refused, and never anything else: a few hundred inputs; the tool itself tries tens of thousands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest


@pytest.fixture
def fuzz(script: Callable[[str, str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MASKWRIGHT_CACHE", str(tmp_path / "cache"))
    return script("tools", "fuzz_readers").Trials(tmp_path, seed=0)


KINDS = ["manifest", "coco", "samix", "folders", "cvat", "label-studio", "labelme", "nnunet", "predictions"]
KINDS += ["yolo-rows", "yolo-settings", "voc-boxes", "voc-colours", "voc-list", "voc-mask"]


@pytest.mark.parametrize("kind", KINDS)
def test_mutated_datasets_are_read_or_refused(fuzz, kind: str) -> None:
    assert [what for number in range(60) if (what := fuzz.trial(kind, number))] == []
    assert fuzz.outcomes["refused by the reader"] > 5  # The inputs are not all harmless.


def test_mutated_images_and_masks_are_read_or_refused(fuzz) -> None:
    assert [what for number in range(200) if (what := fuzz.trial("file", number))] == []
    assert fuzz.outcomes["refused"] > 50


def test_a_flipped_bit_of_a_png_is_never_another_value(fuzz) -> None:
    for name in fuzz.pngs:
        assert [what for number in range(30) if (what := fuzz.trial(f"bit-{name}", number))] == []


def test_the_inputs_are_the_same_on_every_run_and_the_unharmed_ones_are_fine(fuzz) -> None:
    first = fuzz.input("coco", 3).read_bytes()
    assert fuzz.input("coco", 3).read_bytes() == first != fuzz.input("coco", 4).read_bytes()
    for name, document in fuzz.documents.items():
        path = fuzz.root / document.file
        if not document.load:
            path.write_text(document.content if isinstance(document.content, str) else json.dumps(document.content))
        before = fuzz.outcomes["accepted"]
        assert fuzz._dataset(fuzz._loaded(name, path)) is None, name
        assert fuzz.outcomes["accepted"] > before or not document.load, name
    assert fuzz.outcomes["refused by the reader"] == 0
    assert all(np.ndim(values) >= 2 for values in fuzz.pixels.values())
