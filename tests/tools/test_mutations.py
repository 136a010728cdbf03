"""What `tools/mutations.py` tries by the hundred, a few times: damage is refused or has no effect, and nothing of it goes unnoticed."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.tiny_model import save_run


@pytest.fixture
def mutations(script):
    module = script("tools", "mutations")
    module.heard.clear()
    logger, handler = logging.getLogger("maskwright"), module.Heard()
    logger.addHandler(handler)
    yield module
    logger.removeHandler(handler)


def test_runs(mutations, tmp_path: Path):
    tally = mutations.try_runs(tmp_path, 24, seed=5, seconds=60)
    assert tally.faults == []
    assert sum(sum(counts.values()) for counts in tally.outcomes.values()) == 24
    assert tally.outcomes["net.safetensors"].keys() == {"refused"}


def test_models(mutations, tmp_path: Path):
    save_run(tmp_path / "samix" / "run")
    (tmp_path / "data").mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "data" / "a.png")
    subject = mutations.Subject("samix", tmp_path / "samix", {})
    tally = mutations.try_models(tmp_path, 60, seed=5, seconds=60, subjects=[subject])
    assert tally.faults == []
    assert tally.outcomes["samix: model/model.safetensors"].keys() == {"refused"}


@pytest.mark.slow
def test_models_of_every_kind(mutations, tmp_path: Path):
    tally = mutations.try_models(tmp_path, 100, 6, 60, mutations.make_subjects(tmp_path))
    assert tally.faults == []
    assert sum(counts["refused"] for counts in tally.outcomes.values()) > 80
